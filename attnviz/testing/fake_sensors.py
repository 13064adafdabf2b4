"""A model of four sensors in numpy, without weights, whose answers and their reasons are known.

It reads [time, sensor] of the sensors a, b, c, d, any number of steps from 2 on, and predicts two numbers:

    level = 2·b(t) − 3·c(t−1)          t = the last step
    alarm = tanh(a(t)) + b(t)²

so d counts for nothing, and each of the others at one step only. Tokens are sensors. Two layers of two heads attend
over them without a mask, by queries and keys made of each sensor's first and last value and its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    CAPABILITIES,
    BadInput,
    Floats,
    LayerCard,
    LensTable,
    LiveRow,
    Message,
    ModelCard,
    Sampling,
    SensorSeries,
    ShapeError,
    Tokens,
    Trace,
    Unavailable,
    Want,
)
from attnviz.testing.captures import capture

SENSORS = ("a", "b", "c", "d")
OUTPUTS = ("level", "alarm")
LAYERS, HEADS, WIDTH = 2, 2, 3


class FakeSensors:
    """Implements the Model, ReadsNumbers and PredictsNumbers protocols."""

    def __init__(self, name: str = "fake-sensors", fit: Sequence[float] | None = None) -> None:
        can = {"attention", "sensors"}
        self.fit = None if fit is None else np.asarray(fit, np.float64)
        self.card = ModelCard(
            name=name,
            architecture="FakeSensors",
            layers=tuple(LayerCard(index, "full", HEADS, HEADS) for index in range(LAYERS)),
            vocabulary=0,
            positions=None,
            dtype="float64",
            device="cpu",
            parameters=0,
            causal=False,
            route="interface",
            route_reason="it computes its maps from rules",
            capabilities=frozenset(can),
            missing={c: f"This model of rules has no {c.replace('_', ' ')}." for c in CAPABILITIES - can},
            weights_digest="rules",
        )

    # ---- numbers

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        """Refuses."""
        raise BadInput(f"{self.card.name} reads numbers, not text: expected an array [time, sensor] = [any, 4].")

    def tokenize_values(self, values: NDArray[Any]) -> Tokens:
        """A token for each sensor."""
        numbers = np.asarray(values)
        if numbers.ndim != 2 or numbers.shape[1] != len(SENSORS) or len(numbers) < 2:
            raise ShapeError("Input", "[time, sensor] = [2 or more, 4]", list(numbers.shape))
        if numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
            raise BadInput("Input: expected finite numbers.")
        count = len(SENSORS)
        return Tokens(
            ids=np.full(count, -1),
            labels=SENSORS,
            offsets=np.full((count, 2), -1),
            special=np.zeros(count, np.bool_),
            text="",
            values=numbers.astype(np.float64),
            axis="sensor",
            columns=SENSORS,
        )

    def series(self, tokens: Tokens) -> SensorSeries:
        return SensorSeries(SENSORS, OUTPUTS, ("bar",) * 4, ("m", "m"), fit=self.fit)

    def predict(self, values: NDArray[Any]) -> NDArray[np.floating[Any]]:
        a, b, c = (values[:, :, column].astype(np.float64) for column in range(3))
        return np.stack([2 * b[:, -1] - 3 * c[:, -2], np.tanh(a[:, -1]) + b[:, -1] ** 2], axis=1)

    def prediction_gradients(self, values: NDArray[Any], outputs: Sequence[int]) -> NDArray[np.floating[Any]]:
        found = np.zeros((len(values), len(OUTPUTS), *values.shape[1:]))
        found[:, 0, -1, 1], found[:, 0, -2, 2] = 2, -3
        found[:, 1, -1, 0] = 1 / np.cosh(values[:, -1, 0]) ** 2
        found[:, 1, -1, 1] = 2 * values[:, -1, 1]
        return found[:, list(outputs)]

    # ---- attention

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        if tokens.values is None:
            raise BadInput(f"{self.card.name} reads numbers, not text: expected an array [time, sensor].")
        seen = np.stack([tokens.values[0], tokens.values[-1], tokens.values.mean(axis=0)], axis=1)  # [S, 3]
        layers = tuple(self._layer(seen, index, want.thumbnail) for index in range(LAYERS))
        return Trace(layers).narrowed(want)

    def _layer(self, seen: Floats, index: int, edge: int) -> Any:
        rng = np.random.default_rng(index)
        q, k = (seen @ rng.normal(size=(HEADS, WIDTH, WIDTH)) for _ in range(2))
        return capture(q, k, causal=False, edge=edge)

    # ---- what it cannot do

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        self._cannot("logits")

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        self._cannot("generation")

    def _cannot(self, what: str) -> NoReturn:
        raise Unavailable(self.card.missing[what])

    def label(self, token_id: int) -> str:
        return ""

    def module(self) -> Any:
        self._cannot("interventions")
