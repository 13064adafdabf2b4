"""The processes that example data are shipped of, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attnviz.demo.sensors import SHIPPED
from attnviz.demo.sensors.combustion import COMBUSTION
from attnviz.demo.sensors.predictive_maintenance import PREDICTIVE_MAINTENANCE
from attnviz.demo.sensors.process import Process
from attnviz.demo.sensors.thermal_command import THERMAL_COMMAND

PROCESSES = {process.name: process for process in (COMBUSTION, THERMAL_COMMAND, PREDICTIVE_MAINTENANCE)}
MODELS = {"combustion": "demo-sensors", "thermal_command": "demo-thermal", "predictive_maintenance": "demo-maintenance"}
"""Entries of the model menu that are trained on the data of a process."""


@dataclass(frozen=True)
class SensorPreset:
    """A set of sensors with simulated data to look at.

    example  CSV file: a column of the time in minutes, then one for each sensor
    model    name in the model menu of the model that reads it; "" = there are names and data only
    """

    name: str
    title: str
    sensors: tuple[str, ...]
    units: tuple[str, ...]
    example: Path
    model: str
    note: str


def sensor_presets() -> tuple[SensorPreset, ...]:
    """Every preset, the one with a model first."""
    return tuple(_preset(process) for process in PROCESSES.values())


def _preset(process: Process) -> SensorPreset:
    model = MODELS.get(process.name, "")
    about = f"read by the model {model}" if model else "names and data only, there is no model of it"
    return SensorPreset(
        name=process.name,
        title=process.title,
        sensors=process.names,
        units=tuple(sensor.unit for sensor in process.sensors),
        example=SHIPPED / process.name / "example.csv",
        model=model,
        note=f"simulated; {about}",
    )
