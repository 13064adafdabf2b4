"""Sensor: one reading of one boiler, from a table.

The table that is shipped is simulated: twenty boilers that do not exist, one reading of each quantity, drawn once at
random within plausible bounds. Every answer from it says so. `ATTNVIZ_SENSORS` names a table of your own: CSV of
boiler, quantity, value, unit; of several readings of a quantity the last counts.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

from attnviz.hooks import BadInput, Tool, Unavailable, hookimpl

READINGS = Path(__file__).with_name("boilers.csv")
LONGEST = 64 << 20
_ASKED = re.compile(r"\s*boiler\s+(\S+)\s+(\S.*?)\s*", re.IGNORECASE)


def read_sensor(reading: str) -> str:
    """ "boiler 7 burner temperature" -> "812 C, simulated".

    Raises:
        BadInput: no boiler and quantity, or one that is not in the table.
        Unavailable: a table of your own that cannot be read.
    """
    found = _ASKED.fullmatch(reading) if isinstance(reading, str) and len(reading) <= 200 else None
    if found is None:
        raise BadInput("expected a boiler and a quantity, such as boiler 7 burner temperature")
    own = os.environ.get("ATTNVIZ_SENSORS")
    readings = _readings(Path(own or READINGS))
    boiler, quantity = found[1], " ".join(found[2].casefold().split())
    if boiler not in {name for name, _ in readings}:
        raise BadInput("no such boiler")
    if (boiler, quantity) not in readings:
        raise BadInput("unknown sensor")
    return readings[boiler, quantity] + ("" if own else ", simulated")


def _readings(path: Path) -> dict[tuple[str, str], str]:
    try:
        if path.stat().st_size > LONGEST:
            raise Unavailable(f"{path.name}: expected at most {LONGEST >> 20} MiB of readings")
        with path.open(encoding="utf-8", newline="") as file:
            return {
                (row["boiler"].strip(), " ".join(row["quantity"].casefold().split())): _amount(row)
                for row in csv.DictReader(file)
            }
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        names = "boiler, quantity, value, unit"
        raise Unavailable(f"{path.name}: expected a table with the columns {names}: {error!r:.100}") from error


def _amount(row: dict[str, str]) -> str:
    return f"{row['value'].strip()} {row['unit'].strip()}".strip()


@hookimpl
def attnviz_tools() -> list[Tool]:
    """Readings of boilers."""
    return [
        Tool(
            name="sensor",
            summary="Reads one quantity of one boiler from a table; the shipped table is simulated.",
            parameters={
                "type": "object",
                "properties": {"reading": {"type": "string", "description": "Such as boiler 7 burner temperature."}},
                "required": ["reading"],
                "additionalProperties": False,
            },
            run=read_sensor,
        )
    ]
