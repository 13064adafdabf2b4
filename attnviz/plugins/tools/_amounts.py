"""Amounts as the tools read and write them: "12 km to miles", at most two decimals, no thousands separators."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from attnviz.hooks import BadInput

_REQUEST = re.compile(r"\s*(-?\d{1,15}(?:\.\d{1,10})?)\s*([^\d\s].{0,40}?)\s+(?:to|in|into)\s+(\S.{0,40}?)\s*[.?]?\s*")
SMALL = Fraction(1, 10)
"""Below this two decimals would lose most of a number: it keeps three digits."""


def parse(request: str, example: str) -> tuple[Fraction, str, str]:
    """ "12 km to miles" -> 12, "km", "miles".

    Raises:
        BadInput: not of this form.
    """
    found = _REQUEST.fullmatch(request) if isinstance(request, str) and len(request) <= 200 else None
    if found is None:
        raise BadInput(f"expected an amount and two units, such as {example}")
    return Fraction(found[1]), found[2], found[3]


def written(value: Fraction) -> str:
    """7 -> "7", 7.456 -> "7.46", 0.00636 -> "0.00636"."""
    if value and abs(value) < SMALL:
        return f"{Decimal(f'{float(value):.3g}'):f}"
    whole, hundredths = divmod(round(abs(value) * 100), 100)
    text = f"{whole}.{hundredths:02d}".rstrip("0").rstrip(".")
    return f"-{text}" if value < 0 else text
