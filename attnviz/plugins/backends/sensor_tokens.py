"""How a sensor transformer of this project reads: its configuration, its array, its names and units."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import Floats, ModelError, SensorSeries, ShapeError, Tokens
from attnviz.plugins.backends.number_models import SENSORS
from attnviz.plugins.backends.readings import Arguments, number_tokens

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SensorConfig:
    """A model that reads the last `window` values of each sensor and predicts the next one of each.

    means, deviations  of each sensor in the training data, in its unit; the model works on (x − mean) / deviation
    fit, attainable    R² of each prediction on held-out data, and of the true law without its noise; () = not known
    """

    sensors: tuple[str, ...]
    units: tuple[str, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    window: int = 32
    width: int = 64
    heads: int = 4
    layers: int = 2
    mlp: int = 128
    fit: tuple[float, ...] = ()
    attainable: tuple[float, ...] = ()
    model_type: str = SENSORS


def read_config(file: Path) -> SensorConfig:
    """The configuration in a config.json.

    Raises:
        ModelError: it cannot be read, or a field is missing or of another kind.
    """
    try:
        found: Any = json.loads(file.read_text("utf-8"))
        if unknown := sorted(set(found) - {field.name for field in fields(SensorConfig)}):
            raise ValueError(f"unknown fields {', '.join(unknown)}")
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
        config = SensorConfig(**given)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{file}: expected the configuration of a sensor transformer: {error}.") from error
    if fault := _fault(config):
        raise ModelError(f"{file}: {fault}.")
    return config


def _fault(config: SensorConfig) -> str | None:
    """What of a configuration cannot be, or None."""
    for name in ("window", "width", "heads", "layers", "mlp"):
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            return f"{name}: expected a whole number from 1, got {value!r:.40}"
    count = len(config.sensors)
    if not count or config.width % config.heads:
        return f"expected sensors, and a width that its {config.heads} heads divide, got {count} and {config.width}"
    for name, kind in (("sensors", str), ("units", str)):
        if len(getattr(config, name)) != count or not all(isinstance(x, kind) for x in getattr(config, name)):
            return f"{name}: expected {count} texts"
    for name in ("means", "deviations", "fit", "attainable"):
        values = getattr(config, name)
        allowed = (0, count) if name in ("fit", "attainable") else (count,)
        if len(values) not in allowed or not all(type(x) in (int, float) and math.isfinite(x) for x in values):
            return f"{name}: expected {count} finite numbers"
    if min(config.deviations) <= 0:
        return "deviations: expected numbers above 0"
    return None


@dataclass(frozen=True)
class SensorTokens:
    """[time, sensor]: the values of a sensor over the whole window are one token."""

    config: SensorConfig
    sensors: str | None = None
    axis: str = "sensor"
    sequences: int = 1
    decoder_from: int | None = None

    @property
    def axes(self) -> str:
        return f"[time, sensor] = [{self.config.window}, {len(self.config.sensors)}]"

    @property
    def positions(self) -> int | None:
        return len(self.config.sensors)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.config.sensors

    @property
    def steps(self) -> int | None:
        return self.config.window

    def check(self, values: Floats) -> None:
        if values.shape != (self.config.window, len(self.config.sensors)):
            raise ShapeError("Series", self.axes, list(values.shape))

    def arguments(self, values: torch.Tensor) -> Arguments:
        return (values,), {}

    def tokens(self, values: Floats, count: int) -> Tokens:
        return number_tokens(values, list(self.config.sensors), axis=self.axis, columns=self.config.sensors)

    def example(self) -> Floats:
        """Noise around the means of the training data: other numbers would be none that it reads."""
        shape = (self.config.window, len(self.config.sensors))
        noise = np.random.default_rng(0).standard_normal(shape)
        return (np.array(self.config.means) + np.array(self.config.deviations) * noise).astype(np.float32)

    def sensor_columns(self, values: Floats) -> int:
        return len(self.config.sensors)

    def series(self, tokens: Tokens) -> SensorSeries | None:
        config = self.config
        return SensorSeries(
            sensors=config.sensors,
            outputs=tuple(f"next {sensor}" for sensor in config.sensors),
            units=config.units,
            output_units=config.units,
            means=np.array(config.means),
            fit=np.array(config.fit) if config.fit else None,
            attainable=np.array(config.attainable) if config.attainable else None,
        )
