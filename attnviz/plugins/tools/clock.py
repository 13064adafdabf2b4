"""Time: what the clocks in a city show now (IANA time zones)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from attnviz.hooks import BadInput, Tool, Unavailable, hookimpl

# Capitals whose time is that of a zone named after another city.
_ZONES = {
    "abu dhabi": "Asia/Dubai", "ankara": "Europe/Istanbul", "beijing": "Asia/Shanghai", "bern": "Europe/Zurich",
    "brasilia": "America/Sao_Paulo", "canberra": "Australia/Sydney", "cape town": "Africa/Johannesburg",
    "delhi": "Asia/Kolkata", "hanoi": "Asia/Bangkok", "islamabad": "Asia/Karachi", "new delhi": "Asia/Kolkata",
    "ottawa": "America/Toronto", "pretoria": "Africa/Johannesburg", "rabat": "Africa/Casablanca",
    "wellington": "Pacific/Auckland", "washington": "America/New_York", "munich": "Europe/Berlin",
    "san francisco": "America/Los_Angeles",
}  # fmt: skip


@lru_cache(maxsize=1)
def _zones() -> dict[str, str]:
    """City in lower case -> zone; of two zones of one city the one in the shorter name."""
    named = {zone.casefold(): zone for zone in available_timezones()}
    cities = {name.rpartition("/")[2].replace("_", " "): zone for name, zone in sorted(named.items(), reverse=True)}
    return {**cities, **named, **_ZONES}


def time_in(city: str, now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> str:
    """ "Oslo" -> "14:05". `now`: a time that knows its zone.

    Raises:
        BadInput: no zone is named after it.
        Unavailable: this machine has no time zones.
    """
    if not isinstance(city, str) or not city.strip():
        raise BadInput("expected a city, such as Oslo")
    zones = _zones()
    if len(zones) == len(_ZONES):
        raise Unavailable("this machine has no time zones; pip install tzdata")
    zone = zones.get(" ".join(city.casefold().replace("_", " ").split()), zones.get(city.strip().casefold()))
    if zone is None:
        raise BadInput("unknown city")
    try:
        return now().astimezone(ZoneInfo(zone)).strftime("%H:%M")
    except ZoneInfoNotFoundError as error:
        raise Unavailable(f"this machine has no time zone {zone}; pip install tzdata") from error


def _time(city: str) -> str:
    """The time now."""
    return time_in(city)


@hookimpl
def attnviz_tools() -> list[Tool]:
    """The clock."""
    return [
        Tool(
            name="time",
            summary="Tells the time in a city now.",
            parameters={
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Such as Oslo, or America/New_York."}},
                "required": ["city"],
                "additionalProperties": False,
            },
            run=_time,
        )
    ]
