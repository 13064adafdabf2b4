"""Tiny random models in float64, and what it takes to ask them."""

from __future__ import annotations

from collections.abc import Callable
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


def calm_module(family: str) -> Any:
    """Matrices of 0.7 times the size: at full size a path to this Llama takes more than 64 steps."""
    module = random_module(family)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(0.7)
    return module


@pytest.fixture(params=EXACT)
def exact(request: pytest.FixtureRequest, exact_norms: None) -> Any:
    """Models that compute in float64 throughout."""
    return load(request.param, calm_module(request.param).double(), byte_level_tokenizer())


@pytest.fixture(params=EXACT)
def single(request: pytest.FixtureRequest) -> Any:
    """The same in float32."""
    return load(request.param, calm_module(request.param), byte_level_tokenizer())
