"""Simulated processes whose truth is known: each sensor follows others at exact lags, plus noise of its own.

The noise of its own is what makes the truth identifiable: no sensor can be computed from the others, so a model that
predicts well has to read the true drivers at the true lags. Inside, a sensor is a number around 0; on display it has a
unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Past = Callable[[str, int], Floats]
"""(sensor, lag) -> its values that many steps before the one that is computed; lag 1 is the step just before."""
LONGEST_LAG = 16
BURN_IN = 64  # steps that are left out, because the first ones start from 0


@dataclass(frozen=True)
class Sensor:
    """One measurement.

    parents   what drives it: (sensor, lag in steps)
    noise     standard deviation of its own noise, in steps around 0
    level, scale, digits  shown as level + scale · x, with that many decimals
    """

    name: str
    unit: str
    parents: tuple[tuple[str, int], ...]
    noise: float
    level: float
    scale: float
    digits: int = 2


@dataclass(frozen=True)
class Process:
    """Sensors and the law they follow.

    law       past -> the noise-free next value of each sensor, by name
    proxies   sensors that go with another one and drive nothing
    outputs   sensors that are driven by others, so that there is a driver to be found
    """

    name: str
    title: str
    sensors: tuple[Sensor, ...]
    law: Callable[[Past], Mapping[str, Floats]]
    proxies: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sensor.name for sensor in self.sensors)

    @property
    def driven(self) -> tuple[int, ...]:
        """Sensors with a parent other than themselves."""
        return tuple(
            index
            for index, sensor in enumerate(self.sensors)
            if any(parent != sensor.name for parent, _ in sensor.parents)
        )

    @property
    def noise(self) -> Floats:
        """[S]"""
        return np.array([sensor.noise for sensor in self.sensors], np.float32)

    def expected(self, history: Floats) -> Floats:
        """[..., time, S] -> [..., S] what comes next, without its noise."""
        places = {name: index for index, name in enumerate(self.names)}
        found = self.law(lambda name, lag: history[..., -lag, places[name]])
        return np.stack([found[name] for name in self.names], axis=-1).astype(np.float32)

    def simulate(self, chains: int, steps: int, seed: int) -> Floats:
        """[chain, time, S] independent runs of the process, around 0."""
        rng, count = np.random.default_rng(seed), len(self.sensors)
        values = np.zeros((chains, BURN_IN + steps, count), np.float32)
        for step in range(LONGEST_LAG, BURN_IN + steps):
            noise = self.noise * rng.standard_normal((chains, count), dtype=np.float32)
            values[:, step] = self.expected(values[:, step - LONGEST_LAG : step]) + noise
        return values[:, BURN_IN:]

    def measured(self, values: Floats) -> Floats:
        """[..., S] in the units of the sensors."""
        level = np.array([sensor.level for sensor in self.sensors], np.float32)
        return level + np.array([sensor.scale for sensor in self.sensors], np.float32) * values

    def parents(self) -> NDArray[np.bool_]:
        """[S, S] whether the row's sensor is driven by the column's, at any lag."""
        names, found = self.names, np.zeros((len(self.sensors),) * 2, np.bool_)
        for row, sensor in enumerate(self.sensors):
            for parent, _ in sensor.parents:
                found[row, names.index(parent)] = True
        return found

    def strength(self, windows: Floats, seed: int = 0) -> NDArray[np.float64]:
        """[S, S] how much each sensor (row) depends on each (column).

        Mean squared change of the row's noise-free next value when the column's past is that of another window.
        windows [N, time, S], around 0.
        """
        rng, before = np.random.default_rng(seed), self.expected(windows)
        found = np.zeros((len(self.sensors),) * 2)
        for column in range(len(self.sensors)):
            swapped = windows.copy()
            swapped[..., column] = windows[rng.permutation(len(windows))][..., column]
            found[:, column] = ((self.expected(swapped) - before).astype(np.float64) ** 2).mean(axis=0)
        return found


def cut_windows(runs: Floats, length: int, every: int) -> Floats:
    """[chain, time, S] -> [N, length + 1, S]: windows and the value behind each, `every` steps apart."""
    starts = range(0, runs.shape[1] - length, every)
    return np.concatenate([runs[:, start : start + length + 1] for start in starts])
