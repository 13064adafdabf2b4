"""Trajectories as JSON: a question, its answer, and for every token of that a row of attention; an index stands beside.

Such files exist with two meanings under one name. With c tokens read and n written, row i has either c + i numbers: the
query that *predicted* token i of the answer; or c + i + 1: the query at that token *itself*. Their count tells which.
Files written here hold both, say so, and give the true numbers of heads and layers; of others those are not believed. A
row is the mean over the heads of one layer.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.hooks import BadInput, Floats, Format, ShapeError, hookimpl
from attnviz.plugins.formats._files import Field, kind, parse_json, read_bytes, shown, write_whole

MAX_BYTES = 256 << 20
LISTED = 50
"""Trajectories that an index names; files of older ones stay."""
INDEX = "manifest.json"
PATIENCE = 30.0
"""Seconds to wait for another process that writes to the index."""
_EXPECTED = 'a trajectory, {"test_case", "response", "attention_data", …}'
_DERIVED = ("model", "attention_type", "row_convention", "total_llm_calls", "total_steps", "step_breakdown")
"""What is said under "metadata" of the rest of the file."""
_OFF = 0.05
"""How far the sum of a row of an attention map may be from 1: some were computed in half precision."""


@dataclass(frozen=True)
class RecordedCall:
    """One call of a model.

    labels   T texts of tokens: what was read, then what was written
    context  how many of them were read
    weights  [R, T] weight that the query at position first + r gives to key k; 0 for later keys
    first    position of the query of row 0: context − 1 (it predicted the first token), or context
    kind     "reasoning", "action", or "" where the file has one call only
    """

    labels: tuple[str, ...]
    context: int
    weights: Floats
    first: int
    kind: str = ""

    def __post_init__(self) -> None:
        rows, keys = self.weights.shape if self.weights.ndim == 2 else (0, -1)
        if keys != len(self.labels):
            raise ShapeError("RecordedCall.weights", f"[any, {len(self.labels)}]", list(self.weights.shape))
        if self.first < 0 or self.first + rows > len(self.labels):
            raise ShapeError("RecordedCall.first", f"rows within {len(self.labels)} tokens", (self.first, rows))
        if self.first not in (self.context - 1, self.context):
            raise BadInput(f"RecordedCall: expected rows from {self.context - 1} or {self.context}, got {self.first}.")

    @property
    def convention(self) -> str:
        """What its rows are, in words."""
        stop = self.first + self.weights.shape[0]
        predicting = min(stop, len(self.labels) - 1) - self.first
        if self.first == self.context:
            return (
                f"queries of {self.weights.shape[0]} tokens of the answer themselves, not of what predicted the first"
            )
        if stop == len(self.labels):
            return f"queries that predicted the {predicting} tokens of the answer, then that of its last token"
        return f"queries that predicted {predicting} tokens of the answer"


@dataclass(frozen=True)
class Recording:
    """What a trajectory file holds.

    layers, heads  of the model; 0 = not known, as in every file that is read and was not written here
    layer          the one that the rows are of; −1 = the last
    steps          of an agent: {"step_number", "step_type", "content", "tool_call", "tool_result"}
    """

    id: str
    timestamp: str
    category: str
    query: str
    response: str
    model: str
    calls: tuple[RecordedCall, ...]
    description: str = ""
    layers: int = 0
    heads: int = 0
    layer: int = -1
    steps: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.calls:
            raise BadInput("Recording: expected at least one call of a model with rows of attention, got none.")


# --------------------------------------------------------------------------------------------- reading


def handles(path: str | os.PathLike[str]) -> str | None:
    """None if the file has the fields of a trajectory, else what it lacks."""
    root = parse_json(read_bytes(path, MAX_BYTES), Path(path).name, _EXPECTED)
    found = isinstance(root, dict) and "test_case" in root and ("attention_data" in root or "llm_calls" in root)
    return None if found else "no fields test_case and attention_data."


def read(path: str | os.PathLike[str]) -> Recording:
    """The trajectory of a file.

    Raises:
        BadInput: it cannot be read, is larger than 256 MiB, or its rows fit neither convention.
    """
    name = Path(path).name
    root = Field(parse_json(read_bytes(path, MAX_BYTES), name, _EXPECTED), name)
    case, about = root["test_case"], root.optional("metadata")
    given = root.optional("llm_calls")
    found = [_call(call) for call in given] if given is not None and list(given) else [_call(root)]
    calls = tuple(call for call in found if call is not None)
    if not calls:
        raise BadInput(f"{name}: expected rows of attention for at least one call of the model, got none.")
    said = {} if about is None else {name: member.value for name, member in about.members().items()}
    layers, heads, layer = _true_counts(root["attention_data"]) if said.get("row_convention") == "both" else (0, 0, -1)
    model = said.get("model")
    steps = root.optional("reasoning_steps")
    return Recording(
        id=_text(root, "id"),
        timestamp=_text(root, "timestamp"),
        category=_text(case, "category"),
        query=_text(case, "query"),
        response=_text(root, "response"),
        model=model if isinstance(model, str) and model else "not stated",
        calls=calls,
        description=_text(case, "description"),
        layers=layers,
        heads=heads,
        layer=layer,
        steps=() if steps is None else tuple(_plain(step) for step in steps),
        settings={name: value for name, value in said.items() if name not in _DERIVED},
    )


def _plain(step: Field) -> Mapping[str, Any]:
    return {name: member.value for name, member in step.members().items()}


def _text(field: Field, name: str) -> str:
    found = field.optional(name)
    return "" if found is None else found.text()


def _true_counts(data: Field) -> tuple[int, int, int]:
    """Layers, heads and the layer of the rows."""
    layers, heads, layer = (data[name].whole(0, 1_000_000) for name in ("num_layers", "num_heads", "layer"))
    return layers, heads, layer


def _call(field: Field) -> RecordedCall | None:
    """One call of the model; None where the file has no rows of it."""
    data = field.optional("attention_data")
    if data is None or not list(data["attention_matrix"]):
        return None
    tokens = field.optional("tokens")
    labels = tuple(token.text() for token in (data["tokens"] if tokens is None else tokens))
    context = _context(field, data, len(labels))
    rows = [_row(row) for row in data["attention_matrix"]]
    where = data["attention_matrix"].where
    first = _first(rows, context, len(labels), where)
    own = data.optional("own_attention_matrix")
    if own is not None:
        after = [_row(row) for row in own]
        if first != context - 1 or _first(after, context, len(labels), own.where) != context or rows[1:] != after[:-1]:
            raise own.refuse("the rows of attention_matrix from the second on, then one more", "others")
        rows.append(after[-1])
    weights = np.zeros((len(rows), len(labels)), np.float32)
    for index, row in enumerate(rows):
        weights[index, : len(row)] = row
    kind = "" if field.optional("step_type") is None else field["step_type"].text()
    return RecordedCall(labels, context, weights, first, kind)


def _context(field: Field, data: Field, count: int) -> int:
    """How many tokens were read."""
    said = data.optional("context_length")
    if said is not None:
        return said.whole(1, count)
    inputs = field.optional("input_tokens")
    if inputs is None:
        raise data.refuse("context_length, the number of tokens read", "none")
    return len(list(inputs))


def _row(row: Field) -> list[float]:
    numbers = [number.finite() for number in row]
    if numbers and not (min(numbers) >= 0 and max(numbers) <= 1 + _OFF):
        raise row.refuse("weights from 0 to 1", f"{min(numbers):g} to {max(numbers):g}")
    return numbers


def _first(rows: Sequence[Sequence[float]], context: int, count: int, where: str) -> int:
    """Position of the query of the first row, from the lengths of the rows.

    Raises:
        BadInput: they are neither context + i nor context + i + 1.
    """
    lengths = [len(row) for row in rows]
    for more in (0, 1):
        if lengths == [context + more + i for i in range(len(rows))] and lengths[-1] <= count:
            return context - 1 + more
    said = f"{', '.join(map(str, lengths[:4]))}{', …' if len(lengths) > 4 else ''}"
    raise BadInput(
        f"{where}: expected rows of {context}, {context + 1}, … or {context + 1}, {context + 2}, … numbers for "
        f"{context} tokens read and {count} in all, got {said} in {len(rows)} rows."
    )


# --------------------------------------------------------------------------------------------- writing


def write(recording: Recording, path: str | os.PathLike[str]) -> None:
    """One file, whole or not at all.

    Raises:
        BadInput: rows that do not cover the answer in both ways, or a place that cannot be written.
    """
    calls = [_call_json(recording, call, number) for number, call in enumerate(recording.calls, 1)]
    several = len(calls) > 1 or bool(recording.calls[0].kind)
    metadata = {"model": recording.model, **recording.settings}
    metadata |= {"attention_type": "output_only", "row_convention": "both"}
    if several:
        kinds = [str(step.get("step_type", "")) for step in recording.steps]
        breakdown = {name: kinds.count(name) for name in dict.fromkeys(kinds)}
        metadata |= {"total_llm_calls": len(calls), "total_steps": len(kinds), "step_breakdown": breakdown}
    data = {
        "id": recording.id,
        "timestamp": recording.timestamp,
        "test_case": {
            "category": recording.category,
            "query": recording.query,
            "description": recording.description,
        },
        "response": recording.response,
        **({"llm_calls": calls, "reasoning_steps": list(recording.steps)} if several else {}),
        "tokens": calls[0]["tokens"],
        "attention_data": calls[0]["attention_data"],
        "metadata": metadata,
    }
    write_whole(path, (json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _call_json(recording: Recording, call: RecordedCall, number: int) -> dict[str, Any]:
    rows, labels = call.weights.shape[0], list(call.labels)
    written = len(labels) - call.context
    if call.first != call.context - 1 or rows != written + 1:
        raise BadInput(
            f"Trajectory files hold {written + 1} rows for {written} written tokens, from the one that predicted the "
            f"first; got {rows} from position {call.first}. They cannot be written without those."
        )
    matrix = [[float(f"{x:.9g}") for x in row[: call.first + r + 1].tolist()] for r, row in enumerate(call.weights)]
    attention = {
        "tokens": labels,
        "attention_matrix": matrix[:-1],
        "own_attention_matrix": matrix[1:],
        "num_layers": recording.layers,
        "num_heads": recording.heads,
        "layer": recording.layer,
        "averaged_over": "heads",
        "output_only": True,
        "context_length": call.context,
    }
    return {
        "step_num": number,
        "step_type": call.kind,
        "prompt": "".join(labels[: call.context]),
        "response": "".join(labels[call.context :]),
        "tokens": labels,
        "input_tokens": labels[: call.context],
        "output_tokens": labels[call.context :],
        "input_token_count": call.context,
        "output_token_count": written,
        "total_token_count": len(labels),
        "attention_data": attention,
    }


def write_into(recording: Recording, folder: str | os.PathLike[str]) -> tuple[Path, str]:
    """Write the file under its own id and enter it in the folder's index; several processes may do so at once.

    Returns:
        The file, and what was wrong with the index that was there; "" = nothing.

    Raises:
        BadInput: a place that cannot be written, or an id that is taken.
    """
    if not re.fullmatch(r"[0-9A-Za-z_-]{1,80}", recording.id):
        raise BadInput(f"Trajectory: expected an id of letters, digits, - and _, got {shown(recording.id)!r}.")
    place = Path(folder)
    target = place / f"trajectory_{recording.id}.json"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(place / f"{INDEX}.lock", timeout=PATIENCE, isolation_level=None)) as lock:
            lock.execute("BEGIN EXCLUSIVE")  # one writer at a time; a process that dies lets go
            if target.exists():
                raise BadInput(f"{target} is there already; nothing is overwritten.")
            write(recording, target)
            return target, _enter(recording, target.name, place / INDEX)
    except (OSError, sqlite3.Error) as error:
        raise BadInput(f"{place}: cannot be written to: {getattr(error, 'strerror', None) or error}.") from error


def _enter(recording: Recording, file: str, index: Path) -> str:
    """The index with one more line, the last LISTED; one that is none is kept aside, never written over."""
    listed: list[Any] = []
    problem = ""
    if index.exists():
        try:
            listed = read_index(index)
        except BadInput as error:
            aside = index.with_name(f"{INDEX}.damaged-{moment_id()}-{secrets.token_hex(2)}")
            os.replace(index, aside)
            problem = f"{error} It was kept as {aside.name}, and a new one begun."
    entry = {
        "filename": file,
        "id": recording.id,
        "timestamp": recording.timestamp,
        "category": recording.category,
        "query": recording.query,
    }
    lines = [*listed, entry][-LISTED:]
    write_whole(index, (json.dumps(lines, ensure_ascii=False, indent=2) + "\n").encode())
    return problem


def read_index(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of an index: {"filename", "id", "timestamp", "category", "query"}, oldest first.

    Raises:
        BadInput: not an index.
    """
    name = Path(path).name
    data = parse_json(read_bytes(path, MAX_BYTES), name, "a list of trajectories")
    if not isinstance(data, list) or not all(isinstance(line, dict) for line in data):
        raise BadInput(f"{name}: expected a list of trajectories, got {kind(data)}.")
    return data


def moment_id(moment: datetime | None = None) -> str:
    """A moment as an id, to the microsecond."""
    return (moment or datetime.now(timezone.utc)).strftime("%Y%m%d_%H%M%S_%f")


@hookimpl
def attnviz_formats() -> list[Format]:
    """Trajectories."""
    return [
        Format(
            name="trajectory",
            summary="Trajectories: an answer with a row of attention for each of its tokens.",
            content="trajectory",
            suffixes=(".trajectory.json",),
            read=read,
            write=write,
            handles=handles,
        )
    ]
