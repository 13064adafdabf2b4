"""Summaries of attention as .json: what was looked at, the layers and heads, the hash, and the limits of use.

    {"version", "timestamp", "model", "provenance_hash", "processing_time_ms", "notice",
     "top_attended_features": [{"name", "importance"}], "top_attending_features": [same],
     "feature_names": [S], "feature_importance": [S], "attending": [S], "received": [L][S],
     "layer_importance": [L], "head_importance": {"layer": [H]}, "layers": [L], "axis", "info", "warnings"}

There are no maps in it. Missing numbers are null.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.hooks import BadInput, FeatureAttention, Finding, Floats, Format, Tokens, hookimpl, to_jsonable
from attnviz.plugins.formats._files import Field, parse_json, read_bytes, shown, write_whole

VERSION = "1.0"
MAX_BYTES = 64 << 20
TOP = 10  # features that are listed by name at the top
NOTICE = (
    "For interpretation by people: not for regulatory figures, not for emission values, and not in place of "
    "engineering formulas."
)
_EXPECTED = 'the summary {"version", "feature_names", "feature_importance", …}'


def handles(path: str | os.PathLike[str]) -> str | None:
    """None if the file has the fields of a summary, else what it lacks."""
    root = parse_json(read_bytes(path, MAX_BYTES), Path(path).name, _EXPECTED)
    needed = {"version", "feature_names", "feature_importance", "provenance_hash"}
    if not isinstance(root, dict) or not needed <= root.keys():
        return f"no fields {', '.join(sorted(needed))}."
    return None


def write(finding: Finding, path: str | os.PathLike[str]) -> None:
    """Write a summary whole or not at all.

    Raises:
        BadInput: another kind of result, or a place that cannot be written.
    """
    result = finding.result
    if not isinstance(result, FeatureAttention):
        raise BadInput(f"Attention summary: expected a summary of attention, got a result of kind {result.kind!r}.")
    names = [finding.layer_name(index) for index in range(len(result.layer_importance))]
    content = {
        "version": VERSION,
        "timestamp": result.made,
        "model": finding.model,
        "provenance_hash": finding.provenance,
        "processing_time_ms": 1000 * finding.seconds,
        "notice": NOTICE,
        "top_attended_features": _listed(result.ranked("importance", TOP)),
        "top_attending_features": _listed(result.ranked("attending", TOP)),
        "feature_names": list(result.features),
        "feature_importance": result.importance,
        "attending": result.attending,
        "received": result.received,
        "layers": names,
        "layer_importance": result.layer_importance,
        "head_importance": {name: result.head_importance[index] for index, name in enumerate(names)},
        "axis": result.axis,
        "info": list(result.info),
        "warnings": list(result.warnings),
    }
    write_whole(path, (json.dumps(to_jsonable(content), allow_nan=False, indent=1) + "\n").encode())


def _listed(pairs: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"name": name, "importance": value} for name, value in pairs]


def read(path: str | os.PathLike[str]) -> Finding:
    """The summary of a file, without its map.

    Raises:
        BadInput: it cannot be read, is larger than 64 MiB, or is not the file of a summary.
    """
    name = Path(path).name
    root = Field(parse_json(read_bytes(path, MAX_BYTES), name, _EXPECTED), name)
    if root["version"].text() != VERSION:
        raise root["version"].refuse(repr(VERSION), repr(shown(root["version"].text())))
    features = tuple(field.text() for field in root["feature_names"])
    layers = tuple(field.text() for field in root["layers"])
    heads = [_numbers(root["head_importance"][layer]) for layer in layers]
    if len({len(row) for row in heads}) > 1:
        raise root["head_importance"].refuse("as many numbers for every layer", "others")
    result = FeatureAttention(
        features=features,
        importance=_numbers(root["feature_importance"]),
        received=_rows([_numbers(row) for row in root["received"]], root["received"], len(features)),
        attending=_numbers(root["attending"]),
        layer_importance=_numbers(root["layer_importance"]),
        head_importance=np.array(heads, np.float32).reshape(len(layers), -1),
        axis=root["axis"].text(),
        made=root["timestamp"].text(),
        info=tuple(line.text() for line in root["info"]),
        warnings=tuple(line.text() for line in root["warnings"]),
    )
    return Finding(
        analysis="attention_summary",
        title="Attention summary",
        params={},
        model=root["model"].text(),
        tokens=_tokens(features),
        result=result,
        provenance=root["provenance_hash"].text(),
        seconds=root["processing_time_ms"].finite() / 1000,
        layers=layers,
    )


def _tokens(features: tuple[str, ...]) -> Tokens:
    """Tokens that stand for the features; the file does not say what was read."""
    count = len(features)
    nowhere = np.full((count, 2), -1, np.int64)
    return Tokens(np.full(count, -1, np.int64), features, nowhere, np.zeros(count, np.bool_), "")


def _numbers(field: Field) -> Floats:
    """[n] null is missing."""
    values = [np.nan if cell.value is None else cell.finite() for cell in field]
    found: Floats = np.array(values, np.float64)
    if np.abs(found[np.isfinite(found)]).max(initial=0.0) > np.finfo(np.float32).max:
        raise field.refuse("numbers that float32 holds", "larger ones")
    return found.astype(np.float32)


def _rows(rows: list[Floats], field: Field, width: int) -> Floats:
    """[L, S]"""
    if any(len(row) != width for row in rows):
        raise field.refuse(f"rows of {width} numbers, one for each feature", "others")
    return np.array(rows, np.float32).reshape(len(rows), width)


@hookimpl
def attnviz_formats() -> list[Format]:
    """Summaries of attention."""
    return [
        Format(
            name="attention_summary",
            summary="Summaries of attention, such as of sensors: .json.",
            content="attention_summary",
            suffixes=(".json",),
            read=read,
            write=write,
            handles=handles,
        )
    ]
