"""Convert: an amount in another unit, exactly, and money at dated rates (see currency).

Every factor is the defining one: inch, pound, gallon and the like are fixed numbers of metric units (NIST Handbook 44,
appendix C). Gallons are those of the United States, calories those of thermochemistry.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from attnviz.hooks import BadInput, Tool, hookimpl
from attnviz.plugins.tools._amounts import parse, written
from attnviz.plugins.tools.currency import change, code_of

# quantity -> unit names -> how many of the first unit's one of it is.
_UNITS: dict[str, dict[str, str]] = {
    "length": {
        "m meter meters metre metres": "1", "km kilometer kilometers kilometre kilometres": "1000",
        "cm centimeter centimeters centimetre centimetres": "0.01",
        "mm millimeter millimeters millimetre millimetres": "0.001",
        "mile miles mi": "1609.344", "yard yards yd": "0.9144", "foot feet ft": "0.3048", "inch inches in": "0.0254",
        "nautical_mile nautical_miles nmi": "1852",
    },
    "mass": {
        "kg kilogram kilograms": "1", "g gram grams": "0.001", "mg milligram milligrams": "0.000001",
        "t tonne tonnes": "1000", "pound pounds lb lbs": "0.45359237", "ounce ounces oz": "0.028349523125",
    },
    "volume": {
        "litre litres liter liters l": "1", "ml millilitre millilitres milliliter milliliters": "0.001",
        "cubic_metre cubic_metres cubic_meter cubic_meters m3": "1000", "gallon gallons": "3.785411784",
        "quart quarts": "0.946352946", "pint pints": "0.473176473", "cup cups": "0.2365882365",
    },
    "area": {
        "square_metre square_metres square_meter square_meters m2": "1", "hectare hectares ha": "10000",
        "square_kilometre square_kilometres square_kilometer square_kilometers km2": "1000000",
        "acre acres": "4046.8564224", "square_foot square_feet sqft": "0.09290304",
    },
    "time": {
        "second seconds s sec": "1", "minute minutes min": "60", "hour hours h": "3600", "day days": "86400",
        "week weeks": "604800", "ms millisecond milliseconds": "0.001",
    },
    "speed": {
        "m/s": "1", "km/h kmh kph": "5/18", "mph": "0.44704", "knot knots kn": "463/900",
    },
    "energy": {
        "J joule joules": "1", "kJ kilojoule kilojoules": "1000", "MJ megajoule megajoules": "1000000",
        "mJ millijoule millijoules": "0.001", "Wh": "3600", "kWh kilowatt_hour kilowatt_hours": "3600000",
        "kcal kilocalorie kilocalories": "4184", "cal calorie calories": "4.184",
    },
    "power": {
        "W watt watts": "1", "kW kilowatt kilowatts": "1000", "MW megawatt megawatts": "1000000",
        "mW milliwatt milliwatts": "0.001",
    },
    "pressure": {
        "Pa pascal pascals": "1", "kPa": "1000", "MPa": "1000000", "mPa": "0.001", "bar bars": "100000",
        "mbar millibar millibars hPa": "100",
        "atm": "101325", "psi": "44482216152605/6451600000",
    },
    "data": {
        "byte bytes": "1", "kB": "1000", "MB": "1000000", "GB": "1000000000", "TB": "1000000000000", "KiB": "1024",
        "MiB": "1048576", "GiB": "1073741824",
    },
}  # fmt: skip
_FACTORS = {
    name.replace("_", " "): (quantity, Fraction(factor))
    for quantity, units in _UNITS.items()
    for names, factor in units.items()
    for name in names.split()
}
_LOWER = Counter(name.casefold() for name in _FACTORS)
# Degrees: offset and factor that make kelvin of them.
_DEGREES = {
    names: (Fraction(offset), Fraction(factor))
    for alike, offset, factor in (
        ("c celsius °c degrees_celsius", "273.15", "1"),
        ("f fahrenheit °f degrees_fahrenheit", "459.67", "5/9"),
        ("k kelvin", "0", "1"),
    )
    for names in (name.replace("_", " ") for name in alike.split())
}


def _factor(name: str) -> tuple[str, Fraction] | None:
    """Quantity and factor of a unit. Capitals matter only where they tell two units apart, such as MW and mW."""
    if name in _FACTORS:
        return _FACTORS[name]
    lower = name.casefold()
    return next((f for known, f in _FACTORS.items() if known.casefold() == lower and _LOWER[lower] == 1), None)


def convert(request: str) -> str:
    """ "12 km to miles" -> "7.46 miles".

    Raises:
        BadInput: no amount and two units, an unknown unit, or units of different quantities.
    """
    amount, source, target = parse(request, "12 km to miles")
    degrees = [_DEGREES.get(name.casefold()) for name in (source, target)]
    if degrees[0] is not None and degrees[1] is not None:
        (offset, scale), (to_offset, to_scale) = degrees[0], degrees[1]
        return f"{written((amount + offset) * scale / to_scale - to_offset)} {target}"
    units = [_factor(name) for name in (source, target)]
    if units == [None, None] and code_of(source) and code_of(target):
        return change(request)
    for unit, name in zip(units, (source, target), strict=True):
        if unit is None:
            raise BadInput(f"unknown unit {name}")
    (quantity, factor), (other, to_factor) = (unit for unit in units if unit is not None)
    if quantity != other:
        raise BadInput(f"{source} is a unit of {quantity} and {target} of {other}")
    return f"{written(amount * factor / to_factor)} {target}"


@hookimpl
def attnviz_tools() -> list[Tool]:
    """Conversion of units."""
    return [
        Tool(
            name="convert",
            summary="Changes an amount into another unit: length, mass, volume, time, temperature, energy, money …",
            parameters={
                "type": "object",
                "properties": {"request": {"type": "string", "description": "Such as 12 km to miles."}},
                "required": ["request"],
                "additionalProperties": False,
            },
            run=convert,
        )
    ]
