"""The one way a check fails. Not the assert statement: that one disappears under `python -O`."""

from __future__ import annotations

import json
from typing import Any

from attnviz.hooks import to_jsonable


def require(kept: bool, sentence: str) -> None:
    """Raise AssertionError with the sentence unless the promise is kept."""
    if not kept:
        raise AssertionError(sentence)


def as_json(value: Any) -> str:
    """Strict JSON text of a value; equal texts mean equal values.

    Raises:
        AssertionError: it holds something JSON cannot carry.
    """
    try:
        return json.dumps(to_jsonable(value), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"Expected data that JSON can carry, got {error}.") from error
