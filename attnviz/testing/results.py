"""Results survive being written as JSON and read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from attnviz.hooks import Result, from_jsonable
from attnviz.testing.require import as_json, require


def check_round_trip(result: Result) -> None:
    """`from_jsonable` of the JSON of a result gives the result again: float32 exactly, float64 as float32."""
    again = from_jsonable(result.kind, json.loads(as_json(result)))
    require(type(again) is type(result), f"Expected a {type(result).__name__} back, got {type(again).__name__}.")
    for field in dataclasses.fields(result):
        before, after = getattr(result, field.name), getattr(again, field.name)
        require(
            _same(before, after),
            f"{result.kind}.{field.name} does not survive JSON: expected {_short(before)}, got {_short(after)}.",
        )


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, np.ndarray):
        if not isinstance(after, np.ndarray) or before.shape != after.shape:
            return False
        if before.dtype.kind != "f":
            return bool(np.array_equal(before, after))
        rounding = 2e-7 if before.dtype == np.float64 else 0  # nine digits are written, and read as float32
        return bool(np.allclose(before.astype(np.float64), after, rtol=rounding, atol=0, equal_nan=True))
    if dataclasses.is_dataclass(before):
        fields = [field.name for field in dataclasses.fields(before)]
        return type(before) is type(after) and all(_same(getattr(before, n), getattr(after, n)) for n in fields)
    if isinstance(before, Mapping):
        return before.keys() == after.keys() and all(_same(before[k], after[k]) for k in before)
    if isinstance(before, float):
        return bool(before == after or (np.isnan(before) and np.isnan(after)))
    if isinstance(before, tuple):
        return len(before) == len(after) and all(_same(a, b) for a, b in zip(before, after, strict=True))
    return bool(before == after)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
