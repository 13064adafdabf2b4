"""A series of sensor values on its way to a model: which rows of it are read, and the names that go with them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput
from attnviz.types import Reference, SensorData, Tokens

WINDOWS = 64
"""About how many windows of a reference an input is compared with."""
_ROWS = re.compile(r"(\d+):(\d+)")
_STEPS = re.compile(r"t (\d+)(?:–(\d+))?")


def choose_rows(array: NDArray[Any], window: str | None, steps: int | None) -> slice:
    """The rows of a series [time, sensor] that are to be read.

    Args:
        window: "first" or "last" of as many rows as the model reads, START:STOP, or None for all.
        steps: how many rows the model reads; None = any number.

    Raises:
        BadInput: a batch, a window that is none of these, or one that the series or the model does not have.
    """
    if array.ndim == 3:
        raise BadInput(
            f"Expected one series [time, sensor], got a batch of {len(array)}: give them one by one, array[0] and so "
            "on (--item N). A batch is never averaged."
        )
    count = len(array)
    rows = _rows(window, count, steps)
    read = rows.stop - rows.start
    if steps is not None and (read > steps or (window is not None and read < steps)):
        got = f"{count}" if window is None else f"{read} by window {window}"
        advice = 'choose them with window="last", "first" or "START:STOP" (--window)'
        raise BadInput(f"The model reads {steps} rows (time steps), got {got}: {advice}.")
    return rows


def _rows(window: str | None, count: int, steps: int | None) -> slice:
    if window is None:
        return slice(0, count)
    if window in ("first", "last"):
        if steps is None:
            raise BadInput(f"Window {window}: the model reads any number of rows, so say which: START:STOP.")
        if count < steps:
            raise BadInput(f"The model reads {steps} rows (time steps), got {count}: give more.")
        return slice(0, steps) if window == "first" else slice(count - steps, count)
    match = _ROWS.fullmatch(window) if isinstance(window, str) else None
    if match is None:
        raise BadInput(f"Window: expected first, last or START:STOP, such as 0:32, got {window!r:.40}.")
    start, stop = int(match[1]), int(match[2])
    if not start < stop <= count:
        raise BadInput(f"Window {window}: expected rows within 0:{count}, the first before the last.")
    return slice(start, stop)


def reference_windows(data: SensorData, steps: int, next_rows: bool) -> Reference:
    """Windows over all of the data, of every series of a batch, as evenly spread as about WINDOWS of them can be.

    steps       rows of a window, those of the input it is compared with
    next_rows   for a model that predicts the next values: the row after each window is its outcome, where no series
                ends before; else no outcomes

    Raises:
        BadInput: a series with fewer rows than a window.
    """
    every = data.array[None] if data.array.ndim == 2 else data.array
    rows = every.shape[1]
    if rows < steps:
        raise BadInput(f"Reference: expected {steps} rows (time steps) or more, as the input has, got {rows}.")
    next_rows = next_rows and rows > steps
    places = (rows - steps + (not next_rows)) * len(every)
    found = [Reference.windows(one, steps, stride=max(1, places // WINDOWS), next_rows=next_rows) for one in every]
    outcomes = [one.outcomes for one in found if one.outcomes is not None]
    inputs = np.concatenate([one.inputs for one in found])
    return Reference(inputs, np.concatenate(outcomes) if outcomes else None)


def check_names(names: Sequence[str], columns: int, known: Sequence[str]) -> None:
    """Refuse names that are not those of the columns. known: what the model reads, in its order; () = anything.

    Raises:
        BadInput: what was expected, what came.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise BadInput(f"Names: expected a list of texts, got {names!r:.80}.")
    if len(names) != columns:
        raise BadInput(f"Names: expected one for each of the {columns} columns of the array, got {len(names)}.")
    if not known or tuple(names) == tuple(known):
        return
    lacking = [name for name in known if name not in names]
    unknown = [name for name in names if name not in known]
    said = [f"the data have no {', '.join(lacking)}"] if lacking else []
    said += [f"the model has no {', '.join(unknown)}"] if unknown else []
    got = "; ".join(said) or f"they came as {', '.join(names)}"
    raise BadInput(f"Columns: this model reads {', '.join(known)}, in this order; {got}.")


def with_names(tokens: Tokens, names: Sequence[str], times: Sequence[str] | None, rows: slice, count: int) -> Tokens:
    """Names of columns and times on the tokens that stand for them, and as the text of the run.

    rows: those of `count` that are read; times: of all of them, or None.

    Raises:
        BadInput: not a time for each row.
    """
    columns = () if tokens.values is None else tokens.values.shape[-1:]
    labels = tokens.labels
    if names and tokens.axis == "sensor":
        labels = (*names, *labels[columns[0] :])
    if times is not None:
        if isinstance(times, str) or len(times) != count or not all(isinstance(time, str) for time in times):
            raise BadInput(f"Times: expected a text for each of the {count} rows of the series, got {times!r:.80}.")
        own = times[rows]
        if tokens.axis == "time":
            labels = tuple(_at_times(label, own) for label in labels)
    said = [f"Columns: {', '.join(names)}"] if names else []
    if rows != slice(0, count) or times is not None:
        named = "" if times is None else f" ({times[rows.start]} to {times[rows.stop - 1]})"
        said.append(f"Rows: {rows.start} to {rows.stop - 1} of {count}{named}")
    if not said:
        return tokens
    return dataclasses.replace(tokens, labels=labels, columns=tuple(names), text=". ".join(said))


def _at_times(label: str, times: Sequence[str]) -> str:
    """The times of the rows that a token stands for, "t 3" or "t 0–7"; any other label as it is."""
    match = _STEPS.fullmatch(label)
    if match is None:
        return label
    first = times[int(match[1])]
    return first if match[2] is None else f"{first}–{times[int(match[2])]}"
