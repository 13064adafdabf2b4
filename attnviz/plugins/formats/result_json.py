"""Attributions in attnviz's own .json files, as the command line prints and `save("x.json")` writes them; read only.

What is read draws and saves as what was written. Of a conversation that a model with an encoder reads, such files do
not say where the decoder begins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.hooks import Attribution, Finding, Floats, Format, Segment, Span, Tokens, hookimpl
from attnviz.plugins.formats._attribution import HIGHEST_ID, MAX_BYTES
from attnviz.plugins.formats._files import Field, parse_json, read_bytes, shown

_EXPECTED = 'attnviz\'s {"analysis", "kind", "tokens", "result", …}'
_STACKS = {"source", "target"}
_PLAIN = {"prompt", "answer"}


def handles(path: str | os.PathLike[str]) -> str | None:
    """None if the file has the fields of a saved attribution, else what it lacks."""
    root = parse_json(read_bytes(path, MAX_BYTES), Path(path).name, _EXPECTED)
    if not isinstance(root, dict) or not {"kind", "tokens", "result"} <= root.keys():
        return "no fields kind, tokens and result."
    return None if root["kind"] == Attribution.kind else f"a result of kind {shown(str(root['kind']))!r}."


def read(path: str | os.PathLike[str]) -> Finding:
    """The finding of a file.

    Raises:
        BadInput: it cannot be read, is larger than 64 MiB, or is not the file of an attribution.
    """
    name = Path(path).name
    root = Field(parse_json(read_bytes(path, MAX_BYTES), name, _EXPECTED), name)
    if root["kind"].text() != Attribution.kind:
        raise root["kind"].refuse(repr(Attribution.kind), repr(shown(root["kind"].text())))
    tokens = _tokens(root)
    begin = root.optional("generated_from")
    return Finding(
        analysis=root["analysis"].text(),
        title=root["title"].text(),
        params={key: _scalar(value) for key, value in root["params"].members().items()},
        model=root["model"].text(),
        tokens=tokens,
        result=_result(root["result"], len(tokens)),
        provenance=root["provenance"].text(),
        generated_from=None if begin is None else begin.whole(0, len(tokens)),
    )


def _scalar(field: Field) -> Any:
    """A value of a parameter."""
    if field.value is None or isinstance(field.value, bool):
        return field.value
    if isinstance(field.value, str):
        return field.text()
    field.finite()
    return field.value


def _tokens(root: Field) -> Tokens:
    text, items = root["text"].text(), list(root["tokens"])
    roles = [None if (role := item.optional("role")) is None else role.text() for item in items]
    both = {role for role in roles if role} == _STACKS
    return Tokens(
        ids=np.array([item["id"].whole(-1, HIGHEST_ID) for item in items], np.int64),
        labels=tuple(item["label"].text() for item in items),
        offsets=np.array([_place(item, len(text)) for item in items], np.int64).reshape(-1, 2),
        special=np.array([item["special"].yes_or_no() for item in items], np.bool_),
        text=text,
        segments=_segments(roles),
        decoder_from=roles.index("target") if both else None,
    )


def _segments(roles: Sequence[str | None]) -> tuple[Segment, ...]:
    """Runs of tokens of one role. Prompt and answer are what tokens of a run without segments are called."""
    if set(roles) <= _PLAIN:
        return ()
    found, start = [], 0
    for role, run in groupby(roles):
        stop = start + len(list(run))
        if role:
            found.append(Segment(role, start, stop))
        start = stop
    return tuple(found)


def _place(item: Field, length: int) -> tuple[int, int]:
    """Where a token stands in the text; (-1, -1) where it does not."""
    start, stop = item.optional("start"), item.optional("stop")
    if start is None or stop is None:
        return -1, -1
    begin = start.whole(0, length)
    return begin, stop.whole(begin, length)


def _result(field: Field, count: int) -> Attribution:
    targets, sources = _spans(field["targets"], count + 1), _spans(field["sources"], count)
    shape = (len(targets), len(sources))
    values = {name: field.optional(name) for name in ("target_values", "delta")}
    return Attribution(
        method=field["method"].text(),
        target_function=field["target_function"].text(),
        targets=targets,
        sources=sources,
        scores=_floats(field["scores"], shape),
        normalized=_floats(field["normalized"], shape),
        unit=field["unit"].text(),
        signed=field["signed"].yes_or_no(),
        info=tuple(line.text() for line in field["info"]),
        warnings=tuple(line.text() for line in field["warnings"]),
        **{name: None if value is None else _floats(value, shape[:1]) for name, value in values.items()},
    )


def _spans(field: Field, count: int) -> tuple[Span, ...]:
    found = []
    for item in field:
        index = item["index"].whole(0, count - 1)
        stop = item["stop"].whole(index + 1, count)
        found.append(Span(index, stop, item["id"].whole(-1, HIGHEST_ID), item["label"].text()))
    return tuple(found)


def _floats(field: Field, shape: Sequence[int]) -> Floats:
    """Numbers of one or two axes; null is missing."""
    rows = [list(row) for row in field] if len(shape) == 2 else [list(field)]
    lengths = {len(row) for row in rows}
    if len(shape) == 2 and (len(rows) != shape[0] or lengths - {shape[1]}):
        raise field.refuse(f"{shape[0]} rows of {shape[1]} numbers", f"{len(rows)} of {sorted(lengths)}")
    if len(shape) == 1 and lengths != {shape[0]}:
        raise field.refuse(f"{shape[0]} numbers", str(len(rows[0])))
    limit = float(np.finfo(np.float32).max)
    numbers = [[np.nan if cell.value is None else cell.finite() for cell in row] for row in rows]
    found: Floats = np.array(numbers, np.float64).reshape(shape)
    if np.nanmax(np.abs(found), initial=0) > limit:
        raise field.refuse("numbers that float32 holds", "larger ones")
    return found.astype(np.float32)


@hookimpl
def attnviz_formats() -> list[Format]:
    """The project's own files."""
    return [
        Format(
            name="attnviz",
            summary="Attributions in attnviz's own .json files.",
            content="attribution",
            suffixes=(".json",),
            read=read,
            handles=handles,
        )
    ]
