"""What the browser says about itself: open tab, selection, choices, address. All of it is untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnviz.errors import BadInput
from attnviz.hooks import Analysis

LONGEST = 100_000
"""Characters of the longest text taken from an address."""


@dataclass(frozen=True)
class Place:
    """Where the user is.

    selection  layer, head, token (None where there is none)
    words      analysis -> parameter -> word chosen instead of an index, such as {"attention": {"head": "mean"}}
    views      analysis -> renderer the user switched to
    shown      analysis -> signature of what its tab shows now
    url        the query of the address, on the first visit
    """

    tab: str = ""
    selection: Mapping[str, int | None] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)
    shown: Mapping[str, str] = field(default_factory=dict)
    url: Mapping[str, str] = field(default_factory=dict)

    def linked(self, analysis: Analysis) -> dict[str, Any]:
        """Values of the parameters that follow the selection; those that follow nothing yet are left out."""
        words = self.words.get(analysis.name, {})
        values = {p.name: words.get(p.name, self.selection.get(p.type)) for p in analysis.params if p.linked}
        return {name: value for name, value in values.items() if value is not None}


def parse_place(data: object) -> Place:
    """The place described by the browser; whatever has the wrong form counts as absent."""
    if not isinstance(data, Mapping):
        return Place()
    words = data.get("words")
    return Place(
        tab=data["tab"] if isinstance(data.get("tab"), str) else "",
        selection={k: _index(v) for k, v in _mapping(data.get("selection")).items()},
        words={k: _texts(v) for k, v in _mapping(words).items()},
        views=_texts(data.get("views")),
        shown=_texts(data.get("shown")),
        url=_texts(data.get("url")),
    )


def address_selection(url: Mapping[str, str], heads: list[int], tokens: int) -> dict[str, int]:
    """Layer, head and token that an address names.

    Args:
        heads: heads of each layer.
        tokens: tokens of the run.

    Raises:
        BadInput: an index that is no whole number, or that this run does not have.
    """
    chosen: dict[str, int] = {}
    for name in ("layer", "head", "token"):
        if name not in url:
            continue
        text = url[name]
        layer = chosen.get("layer")
        own = heads[layer] if layer is not None else 0
        counts = {"layer": len(heads), "head": own or max(heads, default=0)}  # no attention there: as the page does
        count = counts.get(name, tokens)
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) >= count:
            known = f"0 to {count - 1}" if count else "none"
            raise BadInput(f"The address asks for {name} {text[:40]!r}. Here there are {count}: {known}.")
        chosen[name] = int(text)
    return chosen


def _mapping(value: object) -> Mapping[str, Any]:
    return {k: v for k, v in value.items() if isinstance(k, str)} if isinstance(value, Mapping) else {}


def _texts(value: object) -> dict[str, str]:
    return {k: v for k, v in _mapping(value).items() if isinstance(v, str) and len(v) <= LONGEST}


def _index(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
