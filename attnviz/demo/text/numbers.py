"""Numbers as the model reads and writes them: at most two decimals, no thousands separators."""

from __future__ import annotations

import random


def written(value: float) -> str:
    """25 -> '25', 2.5 -> '2.5', 7.4286 -> '7.43'."""
    if isinstance(value, int):
        return str(value)
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def calculate(a: float, operation: str, b: float) -> str:
    """What the calculator tool returns."""
    value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[operation]()
    return written(value)


def random_number(rng: random.Random) -> int:
    """One to four digits; one in four has a repeated digit, which copying by induction finds hardest."""
    size = rng.random()
    digits = 1 if size < 0.12 else 2 if size < 0.55 else 3 if size < 0.87 else 4
    if digits > 1 and rng.random() < 0.25:
        few = rng.sample("0123456789", 2)
        text = "".join(rng.choice(few) for _ in range(digits))
        return int(text) if text[0] != "0" else int(rng.choice("123456789") + text[1:])
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def random_list(rng: random.Random, low: int = 3, high: int = 5) -> list[int]:
    """A few numbers of one or two digits."""
    return [rng.randint(1, 99) for _ in range(rng.randint(low, high))]


def random_word(rng: random.Random) -> str:
    """A pronounceable word that means nothing."""
    return "".join(rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))
