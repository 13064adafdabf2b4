"""GL-018 Combustion: a burner with its air, flue gas and emissions, and four sensors that drive nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnviz.demo.sensors.process import Floats, Past, Process, Sensor

SENSORS = (
    Sensor("fuel_flow", "kg/h", (("fuel_flow", 1),), 0.35, 420.0, 18.0, 1),
    Sensor("air_flow", "kg/h", (("air_flow", 1),), 0.35, 7400.0, 310.0, 0),
    Sensor("oxygen_ppm", "ppm", (("excess_air", 3),), 0.45, 34000.0, 4200.0, 0),
    Sensor("co_ppm", "ppm", (("excess_air", 5),), 0.45, 62.0, 9.0, 1),
    Sensor("burner_temp", "°C", (("burner_temp", 1), ("fuel_flow", 6), ("excess_air", 3)), 0.4, 1180.0, 24.0, 1),
    Sensor("efficiency", "%", (("burner_temp", 2), ("excess_air", 4), ("co_ppm", 3)), 0.3, 89.0, 0.9, 2),
    Sensor("nox_emission", "mg/m³", (("burner_temp", 4), ("oxygen_ppm", 8)), 0.3, 142.0, 11.0, 1),
    Sensor("excess_air", "%", (("air_flow", 2), ("fuel_flow", 2)), 0.5, 18.0, 2.6, 2),
    Sensor("fan_current", "A", (("air_flow", 1),), 0.4, 46.0, 2.1, 2),
    Sensor("ambient_humidity", "%", (("ambient_humidity", 1),), 0.35, 55.0, 6.0, 1),
    Sensor("line_voltage", "V", (("line_voltage", 1),), 0.35, 400.0, 2.4, 2),
    Sensor("pump_vibration", "mm/s", (("pump_vibration", 1),), 0.35, 2.8, 0.4, 3),
)


def law(past: Past) -> Mapping[str, Floats]:
    """Air above what the fuel needs leaves oxygen and cools; heat and oxygen together make nitrogen oxides."""
    slow = ("fuel_flow", "air_flow", "ambient_humidity", "line_voltage", "pump_vibration")
    heat, oxygen = past("burner_temp", 4), past("oxygen_ppm", 8)
    return {name: 0.92 * past(name, 1) for name in slow} | {
        "excess_air": 0.8 * past("air_flow", 2) - 0.8 * past("fuel_flow", 2),
        "oxygen_ppm": 1.3 * np.tanh(0.9 * past("excess_air", 3)),
        "co_ppm": 1.2 * np.minimum(np.exp(-0.8 * past("excess_air", 5)), 4.0) - 1.2,
        "burner_temp": 0.5 * past("burner_temp", 1) + 0.6 * past("fuel_flow", 6) - 0.35 * past("excess_air", 3),
        "efficiency": 0.7 * past("burner_temp", 2) - 0.5 * past("excess_air", 4) - 0.35 * past("co_ppm", 3),
        "nox_emission": 0.8 * heat + 0.7 * oxygen + 0.3 * np.tanh(heat * oxygen),
        "fan_current": 0.9 * past("air_flow", 1),
    }


COMBUSTION = Process("combustion", "GL-018 Combustion", SENSORS, law, proxies=("fan_current",))
