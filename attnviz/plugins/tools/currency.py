"""Currency: an amount of money in another currency, at the euro reference rates of one day, which every answer names.

rates.csv holds the reference rates of the European Central Bank, units of a currency per euro; the newest date in it
counts. They are for information: no bank changes money at them, and they do not change until the file does.
"""

from __future__ import annotations

import csv
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from attnviz.hooks import BadInput, Tool, hookimpl
from attnviz.plugins.tools._amounts import parse, written

RATES = Path(__file__).with_name("rates.csv")
_NAMES = {
    "euro": "EUR", "euros": "EUR", "€": "EUR", "dollar": "USD", "dollars": "USD", "us dollars": "USD", "$": "USD",
    "yen": "JPY", "pound sterling": "GBP", "pounds sterling": "GBP", "£": "GBP", "swiss francs": "CHF", "yuan": "CNY",
    "rupees": "INR", "won": "KRW", "zloty": "PLN", "baht": "THB", "rand": "ZAR", "real": "BRL", "forint": "HUF",
}  # fmt: skip


@lru_cache(maxsize=1)
def rates() -> tuple[str, dict[str, Fraction]]:
    """The date of the newest rates, and units of each currency per euro."""
    with RATES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    date = max(row["date"] for row in rows)
    return date, {row["currency"]: Fraction(row["per_euro"]) for row in rows if row["date"] == date}


def code_of(name: str) -> str | None:
    """ "dollars" or "usd" -> "USD"; None where there is no rate."""
    code = _NAMES.get(name.casefold(), name.upper())
    return code if code in rates()[1] else None


def change(request: str) -> str:
    """ "250 euros to dollars" -> "279.3 dollars, ECB 2026-10-30".

    Raises:
        BadInput: no amount and two currencies, or one without a rate.
    """
    amount, source, target = parse(request, "250 EUR to USD")
    date, per_euro = rates()
    codes = [code_of(name) for name in (source, target)]
    for name, code in zip((source, target), codes, strict=True):
        if code is None:
            raise BadInput(f"unknown currency {name}. Known: {', '.join(sorted(per_euro))}")
    first, second = (per_euro[str(code)] for code in codes)
    return f"{written(amount / first * second)} {target}, ECB {date}"


@hookimpl
def attnviz_tools() -> list[Tool]:
    """Currency."""
    return [
        Tool(
            name="currency",
            summary="Changes an amount of money into another currency, at reference rates whose date it says.",
            parameters={
                "type": "object",
                "properties": {"request": {"type": "string", "description": "Such as 250 EUR to USD."}},
                "required": ["request"],
                "additionalProperties": False,
            },
            run=change,
        )
    ]
