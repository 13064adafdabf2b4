"""Names for drawings: layers, and token texts with invisible characters made visible as the interactive views do."""

from __future__ import annotations

import re

from attnviz.hooks import Finding

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


LEARNED_SINK = "learned sink, no token"
"""What a view calls the weight that no key gets, of a model with a learned sink beside the keys."""


def layer_names(finding: Finding, count: int) -> list[str]:
    """What people call each of `count` layers: "3", or "encoder 3" where there are several stacks."""
    return [finding.layer_name(index) for index in range(count)]


def layer_title(finding: Finding, layer: int | str) -> str:
    """A layer at the beginning of a line: "Layer 3", "Encoder 3", "Mean of all layers"."""
    if not isinstance(layer, int):
        return f"{layer.capitalize()} of all layers"
    name = finding.layer_name(layer)
    return f"Layer {name}" if name.isdecimal() else name[:1].upper() + name[1:]
