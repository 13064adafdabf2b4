"""Token texts for drawings: invisible characters made visible, as the interactive views show them."""

from __future__ import annotations

import re

_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_SHOWN = str.maketrans({"\n": "⏎", "\r": "␍", "\t": "⇥"})


def visible(label: str) -> str:
    """A label in which nothing is hidden, reordered, or broken over lines."""
    if label == "":
        return "∅"
    shown = _INVISIBLE.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", label.translate(_SHOWN))
    inner = shown.strip(" ")
    before = len(shown) - len(shown.lstrip(" "))
    return "·" * before + inner + "·" * (len(shown) - before - len(inner))


def short(label: str, length: int = 14) -> str:
    """The visible label, cut to a length."""
    text = visible(label)
    return text if len(text) <= length else text[: length - 1] + "…"
