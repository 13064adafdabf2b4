"""Facts, readings, clocks and weather: what is in a table, what is not, and no number that nobody gave."""

import csv
import io
import urllib.error
import urllib.request
from datetime import datetime, timezone

import pytest

from attnviz.demo.text import world
from attnviz.hooks import BadInput, Unavailable
from attnviz.plugins.tools import clock, lookup, sensor, weather
from attnviz.testing import check_tool


def test_the_table_of_facts_is_the_one_the_model_was_trained_with():
    rows = list(csv.DictReader(lookup.FACTS.read_text("utf-8").splitlines()))
    expected = {r.topic.format(x=x): y for r in world.RELATIONS for x, y in r.facts.items()}
    assert {row["topic"]: row["answer"] for row in rows} == expected


def test_lookup_finds_a_topic_however_it_is_written():
    assert lookup.look_up("capital of France") == "Paris"
    assert lookup.look_up(" The Capital  of france? ") == "Paris"
    assert lookup.look_up("legs of a spider") == "8"
    assert lookup.look_up("capital of Atlantis") == "nothing found"


def test_a_table_of_facts_of_your_own(tmp_path, monkeypatch):
    (tmp_path / "own.csv").write_text("topic,answer\ncolour of the bridge,grey\n", "utf-8")
    monkeypatch.setenv("ATTNVIZ_FACTS", str(tmp_path / "own.csv"))
    assert lookup.look_up("colour of the bridge") == "grey"
    assert lookup.look_up("capital of France") == "nothing found"
    (tmp_path / "own.csv").write_text("a,b\n1,2\n", "utf-8")
    with pytest.raises(Unavailable, match="columns topic, answer"):
        lookup.look_up("x")


def test_readings_say_that_they_are_simulated_unless_they_are_yours(tmp_path, monkeypatch):
    rows = {(r["boiler"], r["quantity"]): r for r in csv.DictReader(sensor.READINGS.read_text("utf-8").splitlines())}
    assert len(rows) == 20 * len(world.QUANTITIES)
    row = rows["7", "burner temperature"]
    assert sensor.read_sensor("boiler 7 burner temperature") == f"{row['value']} C, simulated"
    (tmp_path / "own.csv").write_text("boiler,quantity,value,unit\nB1,Oxygen,3.5,%\nB1,oxygen,3.7,%\n", "utf-8")
    monkeypatch.setenv("ATTNVIZ_SENSORS", str(tmp_path / "own.csv"))
    assert sensor.read_sensor("boiler B1 oxygen") == "3.7 %"


@pytest.mark.parametrize(
    ("reading", "words"),
    [("boiler 21 oxygen", "no such boiler"), ("boiler 7 charm", "unknown sensor"), ("oxygen", "expected a boiler")],
)
def test_readings_that_are_not_there(reading, words):
    with pytest.raises(BadInput, match=words):
        sensor.read_sensor(reading)


NOON = datetime(2026, 1, 15, 12, 0, tzinfo=timezone.utc)
SUMMER = datetime(2026, 7, 15, 12, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("city", "now", "expected"),
    [
        ("Oslo", NOON, "13:00"),
        ("oslo", SUMMER, "14:00"),
        ("Tokyo", NOON, "21:00"),
        ("Delhi", NOON, "17:30"),
        ("Ottawa", NOON, "07:00"),
        ("New York", SUMMER, "08:00"),
        ("America/New_York", SUMMER, "08:00"),
        ("UTC", NOON, "12:00"),
    ],
)
def test_clocks(city, now, expected):
    assert clock.time_in(city, lambda: now) == expected


def test_every_city_of_the_training_text_has_a_clock():
    for city in world.CITIES:
        assert clock.time_in(city, lambda: NOON)


def test_a_city_without_a_clock():
    with pytest.raises(BadInput, match="unknown city"):
        clock.time_in("Atlantis")


# ---- weather

PLACE = {"results": [{"name": "Oslo", "country": "Norway", "latitude": 59.9, "longitude": 10.7}]}
CURRENT = {"current": {"time": "2026-11-21T06:00", "temperature_2m": -4.2, "wind_speed_10m": 11.5}}


def test_the_weather_is_what_the_service_says():
    asked = []

    def ask(address, query):
        asked.append((address, dict(query)))
        return PLACE if address == weather.PLACES else CURRENT

    assert weather.weather("Oslo", ask) == "Oslo, Norway: -4.2 C, wind 11.5 km/h at 2026-11-21T06:00 UTC, Open-Meteo"
    assert asked[1][1]["latitude"] == 59.9


@pytest.mark.parametrize("answer", [[], {"results": [{}]}, {"results": [{"latitude": "x", "longitude": 1}]}, None, 7])
def test_an_answer_in_another_form_is_an_error(answer):
    with pytest.raises((Unavailable, BadInput)):
        weather.weather("Oslo", lambda address, query: answer)


def test_an_unknown_place():
    with pytest.raises(BadInput, match="unknown place"):
        weather.weather("Nowhere at all", lambda address, query: {})


@pytest.mark.parametrize(
    "fails",
    [urllib.error.URLError("no route"), TimeoutError("timed out"), ConnectionResetError("reset")],
)
def test_without_a_network_it_says_so(monkeypatch, fails):
    def refuse(*args, **kwargs):
        raise fails

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(Unavailable, match="offline"):
        weather.weather("Oslo")


@pytest.mark.parametrize(("data", "words"), [(b"<html>", "offline"), (b"9" * (1 << 20), "too much")])
def test_a_service_that_sends_something_else(monkeypatch, data, words):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO(data))
    with pytest.raises(Unavailable, match=words):
        weather.weather("Oslo")


def test_junk_gives_words(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    check_tool(lookup.attnviz_tools()[0], topic="capital of France")
    check_tool(sensor.attnviz_tools()[0], reading="boiler 7 oxygen")
    check_tool(clock.attnviz_tools()[0], city="Oslo")
    with pytest.raises(Unavailable):
        check_tool(weather.attnviz_tools()[0], place="Oslo")
