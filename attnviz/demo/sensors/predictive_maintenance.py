"""GL-013 Predictive Maintenance: a rotating machine whose load shows in heat, vibration and sound."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnviz.demo.sensors.process import Floats, Past, Process, Sensor

SENSORS = (
    Sensor("vibration_x", "mm/s", (("vibration_x", 1), ("electrical_current", 2)), 0.35, 3.1, 0.35, 3),
    Sensor("vibration_y", "mm/s", (("vibration_x", 2),), 0.4, 2.7, 0.3, 3),
    Sensor("vibration_z", "mm/s", (("vibration_z", 1),), 0.35, 1.4, 0.15, 3),
    Sensor("temperature", "°C", (("temperature", 1), ("electrical_current", 4)), 0.35, 71.0, 3.0, 2),
    Sensor("pressure", "bar", (("pressure", 1),), 0.35, 8.4, 0.3, 3),
    Sensor("acoustic_emission", "dB", (("vibration_x", 3), ("pressure", 5)), 0.35, 64.0, 2.2, 2),
    Sensor("electrical_current", "A", (("electrical_current", 1),), 0.35, 88.0, 5.5, 2),
    Sensor("efficiency_ratio", "%", (("temperature", 3), ("pressure", 2)), 0.35, 91.0, 0.8, 3),
)


def law(past: Past) -> Mapping[str, Floats]:
    """Current heats and shakes the machine, shaking is heard, heat and pressure cost efficiency."""
    return {
        "electrical_current": 0.92 * past("electrical_current", 1),
        "pressure": 0.92 * past("pressure", 1),
        "vibration_z": 0.92 * past("vibration_z", 1),
        "vibration_x": 0.5 * past("vibration_x", 1) + 0.6 * past("electrical_current", 2),
        "vibration_y": 1.2 * np.tanh(0.8 * past("vibration_x", 2)),
        "temperature": 0.6 * past("temperature", 1) + 0.5 * past("electrical_current", 4),
        "acoustic_emission": 0.8 * past("vibration_x", 3) + 0.5 * past("pressure", 5),
        "efficiency_ratio": -0.8 * past("temperature", 3) + 0.6 * past("pressure", 2),
    }


PREDICTIVE_MAINTENANCE = Process("predictive_maintenance", "GL-013 Predictive Maintenance", SENSORS, law)
