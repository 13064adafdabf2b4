"""Weather: temperature and wind at a place now, from Open-Meteo (open-meteo.com; free for non-commercial use).

It asks two questions over the network, where the place is and how the weather is there. Without an answer it says so:
there is no number that was not measured or forecast by somebody.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from attnviz.hooks import BadInput, Tool, Unavailable, hookimpl

PLACES = "https://geocoding-api.open-meteo.com/v1/search"
FORECAST = "https://api.open-meteo.com/v1/forecast"
PATIENCE = 5.0
"""Seconds for each of the two questions."""
LONGEST = 256 << 10
"""Bytes of an answer."""


def fetch(address: str, query: Mapping[str, Any]) -> Any:
    """The JSON that an address answers with.

    Raises:
        Unavailable: no network, no answer in time, or one that is too long or no JSON.
    """
    url = f"{address}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            data = answer.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise Unavailable("the weather service sent too much")
        return json.loads(data)
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"offline: the weather service cannot be reached ({reason!s:.80})") from error


def weather(place: str, ask: Callable[[str, Mapping[str, Any]], Any] = fetch) -> str:
    """ "Oslo" -> "Oslo, Norway: 4.2 C, wind 11.5 km/h at 2026-11-21T14:00 UTC, Open-Meteo".

    Raises:
        BadInput: no place of this name.
        Unavailable: the service cannot be reached, or did not say what was asked.
    """
    if not isinstance(place, str) or not place.strip() or len(place) > 100:
        raise BadInput("expected a place of at most 100 characters, such as Oslo")
    try:
        found = ask(PLACES, {"name": place.strip(), "count": 1, "format": "json"}).get("results") or []
        if not found:
            raise BadInput(f"unknown place {place.strip()}")
        where = {"latitude": float(found[0]["latitude"]), "longitude": float(found[0]["longitude"])}
        now = ask(FORECAST, {**where, "current": "temperature_2m,wind_speed_10m", "timezone": "UTC"})["current"]
        heat, wind = float(now["temperature_2m"]), float(now["wind_speed_10m"])
        name = ", ".join(str(found[0][key]) for key in ("name", "country") if found[0].get(key))
        return f"{name}: {heat:g} C, wind {wind:g} km/h at {now['time']} UTC, Open-Meteo"
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, BadInput):
            raise
        raise Unavailable(f"the weather service answered in a form that is not known here ({error!r:.60})") from error


def _weather(place: str) -> str:
    """The weather now."""
    return weather(place)


@hookimpl
def attnviz_tools() -> list[Tool]:
    """The weather."""
    return [
        Tool(
            name="weather",
            summary="Says temperature and wind at a place now; needs the network.",
            parameters={
                "type": "object",
                "properties": {"place": {"type": "string", "description": "Such as Oslo."}},
                "required": ["place"],
                "additionalProperties": False,
            },
            run=_weather,
        )
    ]
