"""Tiny random models in float64, and what it takes to ask them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.backends.conftest import byte_level_tokenizer, exact_norms, one_thread
from tests.backends.families import load, random_module

__all__ = ["exact_norms", "one_thread"]

EXACT = ("gpt2", "llama")


@pytest.fixture(scope="session")
def models() -> Callable[[str], Any]:
    """family -> the backend's model of random weights in float32; loaded once."""
    kept: dict[str, Any] = {}

    def model(family: str) -> Any:
        if family not in kept:
            kept[family] = load(family, random_module(family), byte_level_tokenizer())
        return kept[family]

    return model


@pytest.fixture(params=EXACT)
def exact(request: pytest.FixtureRequest, exact_norms: None) -> Iterator[Any]:
    """Models that compute in float64 throughout."""
    return load(request.param, random_module(request.param).double(), byte_level_tokenizer())
