"""What the cells of a model and a method have in common: counts, and means over the prompts that succeeded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from attnviz.bench.folder import Benchmark
from attnviz.bench.records import Cell


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (n − 1); None of fewer than two."""
    if len(values) < 2:
        return None
    centre = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


@dataclass(frozen=True)
class Pair:
    """A model and a method, and the cells there are of both."""

    model: str
    method: str
    cells: tuple[Cell, ...]

    @cached_property
    def succeeded(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.success)

    @property
    def failed(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if not cell.success)

    @property
    def success_rate(self) -> float | None:
        """In percent of what was tried."""
        return 100 * len(self.succeeded) / len(self.cells) if self.cells else None

    def values(self, name: str) -> list[float]:
        """A measure of every success that has it."""
        found = (getattr(cell, name) for cell in self.succeeded)
        return [float(value) for value in found if value is not None]

    def mean(self, name: str) -> float | None:
        return mean(self.values(name))

    def largest(self, name: str) -> float | None:
        return max(self.values(name), default=None)

    @property
    def spread(self) -> float | None:
        """Coefficient of variation of the attribution time: standard deviation by mean."""
        times = self.values("attribution_time")
        deviating, centre = deviation(times), mean(times)
        return None if deviating is None or not centre else deviating / centre


def pairs(benchmark: Benchmark) -> list[Pair]:
    """Every model with every method, in the order of the plan."""
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in benchmark.cells:
        cells.setdefault((cell.model, cell.method), []).append(cell)
    plan = benchmark.plan
    return [
        Pair(model.name, method.name, tuple(cells.get((model.name, method.name), ())))
        for model in plan.models
        for method in plan.methods
    ]


def stages(cells: Iterable[Cell]) -> dict[str, int]:
    """Stage -> how many failed at it, in the order of their first failure."""
    counts: dict[str, int] = {}
    for cell in cells:
        if not cell.success:
            counts[cell.error_stage] = counts.get(cell.error_stage, 0) + 1
    return counts
