"""Measurements in place of a prompt: which file of them, which rows of it, and the run they become."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from attnviz.array_option import read_array
from attnviz.errors import BadInput, Unavailable
from attnviz.hooks import (
    Analysis,
    ModelEntry,
    PredictsNumbers,
    ReadsNumbers,
    ReadsSeries,
    Reference,
    SensorSeries,
    Tokens,
)
from attnviz.registry import Registry
from attnviz.series import choose_rows
from attnviz.session import LoadedModel, Session, TracedRun

WINDOWS = 64
"""About how many windows of the same series an input is compared with."""
ALL_ROWS = "all"
LONGEST_FILE = 64 << 20
READ_KEPT = 256
_UNLINKED = "A link cannot carry an uploaded file: save the run to keep it."
_NAMED = 60  # characters of the names of columns that are said


@dataclass(frozen=True)
class Measured:
    """What is asked for.

    example  which example of the model's menu entry, from 0; None = the uploaded file
    file     path of the uploaded file
    window   rows of it that are read: first, last, START:STOP, or all
    item     which series of a batch; None = it is none
    """

    example: int | None
    file: str = ""
    window: str = "last"
    item: int | None = None
    keep_constant: bool = False

    def path(self, entry: ModelEntry | None) -> Path:
        """Where the numbers lie.

        Raises:
            BadInput: no file was uploaded, or the model has no such example.
        """
        if self.example is None:
            if not self.file:
                raise BadInput("Measurements: expected a .csv or .npy file, got none. Upload one.")
            return Path(self.file)
        known = entry.data if entry else ()
        if self.example >= len(known):
            raise BadInput(f"Measurements: expected one of {len(known)} examples, from 0, got {self.example}.")
        return Path(known[self.example][1])


@dataclass(frozen=True)
class Windows:
    """How `Reference.windows` was called."""

    steps: int
    stride: int
    next_rows: bool


@dataclass(frozen=True)
class Reading:
    """A file as a model reads it: what `trace` takes, what came of it, and what it is compared with."""

    given: Mapping[str, Any]
    tokens: Tokens
    windows: Windows | None


def asked(
    entry: ModelEntry | None, data: str | None, file: str | None, window: str | None, item: str | None, keep: bool
) -> Measured | None:
    """What the left column asks for; None where it asks for a prompt.

    Raises:
        BadInput: a number of the series that is none.
    """
    if not data:
        return None
    text = (item or "").strip()
    if text and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInput(f"Item of a batch: expected a whole number from 0, or nothing, got {text[:40]!r}.")
    example = int(data) if data.isdigit() else None
    rows = (window or "").strip() or ALL_ROWS
    return Measured(example, (file or "") if example is None else "", rows, int(text) if text else None, bool(keep))


# --------------------------------------------------------------------------------------------- reading


def read(model: LoadedModel, measured: Measured, entry: ModelEntry | None) -> Reading:
    """The rows a model is to read.

    Raises:
        AttnvizError: a file, rows or columns that it cannot use, with what was expected.
    """
    series = "sensors" in model.card.capabilities
    if not series and not _reads_numbers(model):
        raise BadInput(f"{model.name} reads text, no measurements. Choose a model of sensors, or “A prompt” instead.")
    window = None if measured.window == ALL_ROWS or not series else measured.window
    choices = {"window": window, "item": measured.item, "keep_constant": measured.keep_constant}
    given = read_array(model, measured.path(entry), **choices)  # type: ignore[arg-type]
    tokens = model.tokenize(**given)
    windows = _windows(model, given, tokens) if series else None
    return Reading(given, tokens, windows)


def _reads_numbers(model: LoadedModel) -> bool:
    return isinstance(model.session.model(model.spec), ReadsNumbers)


def refuse_text(model: LoadedModel) -> None:
    """Raises BadInput for a model that reads measurements, where a prompt is to be read."""
    if "sensors" in model.card.capabilities:
        raise BadInput(
            f"{model.name} reads measurements, no text. Choose some under “Measurements” in the left column: an "
            "example, or a .csv or .npy file."
        )


def _windows(model: LoadedModel, given: Mapping[str, Any], tokens: Tokens) -> Windows | None:
    """Windows of the whole series, so that what is usual and how well the model predicts can be said; None where the
    series is hardly longer than what is read."""
    values, array = tokens.values, given["array"]
    if values is None or values.ndim != 2 or values.shape[1:] != array.shape[1:]:
        return None
    next_rows = _predicts_next(model, tokens)
    places = len(array) - len(values) + (not next_rows)
    if places < 2:
        return None
    return Windows(len(values), max(1, places // WINDOWS), next_rows)


def _predicts_next(model: LoadedModel, tokens: Tokens) -> bool:
    """Whether the model says of itself that it predicts the next value of every sensor."""
    series = _series(model, tokens)
    return series is not None and series.outputs == tuple(f"next {sensor}" for sensor in series.sensors)


def _series(model: LoadedModel, tokens: Tokens) -> SensorSeries | None:
    """What is predicted of a series; None where nothing is, or the model is not in memory."""
    loaded = model.session.loaded(model.spec)
    if not isinstance(loaded, PredictsNumbers):
        return None
    try:
        return loaded.series(tokens)
    except Unavailable:
        return None


def predicted(run: TracedRun) -> tuple[str, ...]:
    """Names of what is predicted from the measurements of a run; () where nothing is."""
    if run.tokens.values is None or "sensors" not in run.model.card.capabilities:
        return ()
    series = _series(run.model, run.tokens)
    return series.outputs if series is not None else ()


def trace(model: LoadedModel, measured: Measured, entry: ModelEntry | None, category: str) -> TracedRun:
    """The run of these rows, compared with windows of the same series.

    Raises:
        AttnvizError: see `read`.
    """
    found = read(model, measured, entry)
    how = found.windows
    usual = None
    if how is not None:
        usual = Reference.windows(found.given["array"], how.steps, stride=how.stride, next_rows=how.next_rows)
    run = model.trace(**found.given, reference=usual, category=category)
    with _LOCK:
        _READ[run.id] = (measured, how)
    return run


def in_words(model: LoadedModel, measured: Measured, entry: ModelEntry | None) -> str:
    """One line on what is read: rows, columns, window, what it is compared with.

    Raises:
        AttnvizError: see `read`.
    """
    found = read(model, measured, entry)
    array, times = found.given["array"], found.given.get("times")
    if "sensors" not in model.card.capabilities:
        return f"Read: an array of {' × '.join(map(str, array.shape))}."
    loaded = model.session.model(model.spec)
    steps = loaded.steps if isinstance(loaded, ReadsSeries) else None
    rows = choose_rows(array, found.given["window"], steps)
    named = f", times {times[rows.start]} to {times[rows.stop - 1]}" if times else ""
    said = f"Read: rows {rows.start} to {rows.stop - 1} of {len(array)}{named}; {_columns(found)}."
    if found.windows is not None:
        count = (len(array) - found.windows.steps - found.windows.next_rows) // found.windows.stride + 1
        said += f" Compared with {count} windows of the same series."
    return said if measured.example is not None else f"{said} {_UNLINKED}"


def described(session: Session, measured: Measured, entry: ModelEntry | None) -> str:
    """One line on a file whose model is not loaded yet.

    Raises:
        BadInput: the file cannot be used, or names no series of a batch.
    """
    data = session.read_sensors(measured.path(entry), keep_constant=measured.keep_constant)
    given = data.of(measured.item)
    names = _shortened(given["names"]) if given["names"] else "not named"
    return f"{len(given['array'])} rows of {given['array'].shape[1]} columns: {names}. {_UNLINKED}"


def _columns(found: Reading) -> str:
    count = found.given["array"].shape[-1]
    names = found.given.get("names") or found.tokens.columns
    return f"{count} columns: {_shortened(names)}" if names else f"{count} columns"


def _shortened(names: Any) -> str:
    """Names as long as there is room, then how many more."""
    shown: list[str] = []
    for name in names:
        if shown and len(", ".join([*shown, name])) > _NAMED:
            return f"{', '.join(shown)} and {len(names) - len(shown)} more"
        shown.append(name[:_NAMED])
    return ", ".join(shown)


# --------------------------------------------------------------------------------------------- links and Python


def address(measured: Measured) -> dict[str, str]:
    """What the address must say; of an uploaded file only its name, because a link cannot carry it."""
    where = {"file": Path(measured.file).name[:200]} if measured.example is None else {"data": str(measured.example)}
    item = {} if measured.item is None else {"item": str(measured.item)}
    keep = {"constant": "keep"} if measured.keep_constant else {}
    return {**where, "window": measured.window, **item, **keep}


def of_address(url: Mapping[str, str], entry: ModelEntry | None) -> Measured | None:
    """What an address asks for; None where it is of a prompt.

    Raises:
        BadInput: it is of an uploaded file, or its numbers are none.
    """
    if "file" in url:
        raise BadInput(
            f"This link is of the uploaded file {url['file'][:80]!r}, which a link cannot carry. Choose the model, "
            "upload the file again and press Run; a saved run keeps its data."
        )
    if entry is None or not entry.data:
        return None
    which = url.get("data", "0")
    if not (which.isascii() and which.isdigit() and len(which) < 10):
        raise BadInput(f"The address gives data as {which[:40]!r}; expected the number of an example, from 0.")
    return asked(entry, which, None, url.get("window", "last"), url.get("item"), url.get("constant") == "keep")


_LOCK = threading.Lock()
_READ: LRUCache[str, tuple[Measured, Windows | None]] = LRUCache(READ_KEPT)  # id of a run -> what it was made of


def python_lines(run: TracedRun, loading: str) -> list[str] | None:
    """Code that makes the run of measurements again; None where it is of something else.

    loading   what `attnviz.load` takes
    """
    if run.tokens.values is None:
        return None
    with _LOCK:
        found = _READ.get(run.id)
    if found is None:
        return ["import attnviz", "", f"run = attnviz.open_run({run.id!r})  # once it is saved"]
    measured, how = found
    entry = run.model.session.registry.models.get(run.run.model)
    keep = ", keep_constant=True" if measured.keep_constant else ""
    lines = ["import attnviz", *(["from attnviz.types import Reference"] if how else []), ""]
    lines += [f"model = attnviz.load({loading})", f"data = attnviz.read_sensors({_file(measured, entry)}{keep})"]
    array = "data.array" if measured.item is None else f"data.array[{measured.item}]"
    if how is not None:
        lines.append(
            f"usual = Reference.windows({array}, steps={how.steps}, stride={how.stride}, next_rows={how.next_rows})"
        )
    window = "" if measured.window == ALL_ROWS else f", window={measured.window!r}"
    lines.append(f"run = model.trace(**data.of({measured.item}){window}{', reference=usual' if how else ''})")
    return lines


def _file(measured: Measured, entry: ModelEntry | None) -> str:
    """Where the file is found: an example by its model, an uploaded one by its name."""
    if measured.example is None or entry is None:
        return repr(Path(measured.file).name)
    return f"model.session.registry.models[{entry.name!r}].data[{measured.example}][1]"


def which_model(registry: Registry, analysis: Analysis) -> str:
    """What to choose for an analysis of measurements; "" for any other."""
    titles = [entry.title for entry in registry.models.values() if entry.data]
    if "sensors" not in analysis.requires or not titles:
        return ""
    return f" Choose {' or '.join(titles)} under Model, or a sensor model of your own, and press Run."
