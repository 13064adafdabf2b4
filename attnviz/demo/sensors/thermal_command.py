"""GL-001 Thermal Command: a heating loop that follows the weather and the load."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnviz.demo.sensors.process import Floats, Past, Process, Sensor

SENSORS = (
    Sensor("supply_temp", "°C", (("supply_temp", 1), ("ambient_temp", 4)), 0.35, 78.0, 3.2, 2),
    Sensor("return_temp", "°C", (("supply_temp", 6), ("load_demand", 3)), 0.4, 56.0, 2.6, 2),
    Sensor("flow_rate", "m³/h", (("pump_speed", 2),), 0.35, 118.0, 9.0, 2),
    Sensor("supply_pressure", "bar", (("pump_speed", 1), ("flow_rate", 3)), 0.3, 6.2, 0.28, 3),
    Sensor("return_pressure", "bar", (("supply_pressure", 2),), 0.35, 3.1, 0.16, 3),
    Sensor("load_demand", "kW", (("load_demand", 1), ("ambient_temp", 5)), 0.4, 2350.0, 190.0, 0),
    Sensor("ambient_temp", "°C", (("ambient_temp", 1),), 0.35, 6.0, 2.8, 2),
    Sensor("pump_speed", "1/min", (("pump_speed", 1), ("load_demand", 2)), 0.35, 1450.0, 85.0, 0),
)


def law(past: Past) -> Mapping[str, Floats]:
    """Cold weather raises the set point and the load; the pump follows the load, flow and pressures follow the pump."""
    return {
        "ambient_temp": 0.92 * past("ambient_temp", 1),
        "load_demand": 0.5 * past("load_demand", 1) - 0.6 * past("ambient_temp", 5),
        "supply_temp": 0.6 * past("supply_temp", 1) - 0.5 * past("ambient_temp", 4),
        "pump_speed": 0.5 * past("pump_speed", 1) + 0.5 * past("load_demand", 2),
        "flow_rate": 1.2 * np.tanh(0.9 * past("pump_speed", 2)),
        "supply_pressure": 0.8 * past("pump_speed", 1) - 0.4 * past("flow_rate", 3),
        "return_pressure": 0.8 * past("supply_pressure", 2),
        "return_temp": 0.8 * past("supply_temp", 6) - 0.5 * past("load_demand", 3),
    }


THERMAL_COMMAND = Process("thermal_command", "GL-001 Thermal Command", SENSORS, law)
