"""What each step of an answer rests on, as a still picture: a bar split by source for each step, flags above.

The thin bar is what a head would give that looks everywhere alike. Where effects were computed they stand beside, on
one scale for all steps: how much less likely the step is without each source.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import EvidenceLedger, Finding
from attnviz.plugins.renderers._canvas import FAINT, INK, Drawing
from attnviz.plugins.renderers._labels import short, visible
from attnviz.plugins.renderers.evidence_bars import Entry, Look, checked, entries, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_LEFT, _BARS, _BETWEEN, _EFFECTS, _RIGHT = 2.3, 4.6, 0.25, 2.7, 0.6  # inches, from left to right
_ROW, _LINE, _FOOT = 0.62, 0.21, 0.5
_ACROSS = 5  # sources on a line of the legend
_WORDED = 0.05  # share from which a part of a bar holds its number
_ALONG = 110  # characters of a flag on a line


def draw(finding: Finding, result: EvidenceLedger) -> Drawing:
    """Steps from top to bottom; observations stand between them, without a bar."""
    checked(finding)
    story, faces = entries(finding, result), looks(result.sources)
    flags = [line for flag in result.flags for line in textwrap.wrap(f"⚑ {visible(flag)}", _ALONG)]
    head = 0.35 + _LINE * len(flags)
    row = max(_ROW, 0.16 * len(faces)) if result.effect is not None else _ROW
    beside = _BETWEEN + _EFFECTS if result.effect is not None else 0.0
    width, rows = _LEFT + _BARS + beside + _RIGHT, row * len(story)
    foot = _FOOT + 0.17 * -(-len(faces) // _ACROSS)
    height = head + rows + foot

    def fill(panel: SubFigure) -> None:
        for n, line in enumerate(flags):
            panel.text(0.15 / width, 1 - (0.1 + _LINE * n) / height, line, va="top", size=9, weight="bold")
        place = (foot / height, rows / height)
        bars = panel.add_axes((_LEFT / width, place[0], _BARS / width, place[1]))
        _shares(bars, result, story, faces)
        _legend(bars, result, faces, rows)
        if result.effect is not None:
            left = (_LEFT + _BARS + _BETWEEN) / width
            _effects(panel.add_axes((left, place[0], _EFFECTS / width, place[1])), result, story, faces)

    return Drawing(width=width, height=height, fill=fill)


def _plain(axes: Axes, count: int) -> None:
    axes.set_ylim(count - 0.5, -0.5)
    axes.tick_params(labelsize=7.5, length=2)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _shares(axes: Axes, result: EvidenceLedger, story: Sequence[Entry], faces: Sequence[Look]) -> None:
    for y, entry in enumerate(story):
        if entry.step is None:
            assert entry.source is not None
            axes.barh(y, 0.014, height=0.2, color=faces[entry.source].colour)
            axes.text(0.025, y, f"“{short(entry.text, 60)}”", va="center", size=8, color=FAINT)
            continue
        _split(axes, y - 0.08, 0.46, result.share[entry.step], faces, worded=True)
        _split(axes, y + 0.25, 0.12, result.uniform[entry.step], faces, worded=False)
    names = [
        short(entry.label, 34) + (f"\n{short(entry.text, 34)}" if entry.step is not None and entry.text else "")
        for entry in story
    ]
    axes.set_yticks(range(len(story)), names)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 5), ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_title("share of attention; thin: a head that looks everywhere alike", loc="left")
    _plain(axes, len(story))


def _split(
    axes: Axes, y: float, height: float, shares: Sequence[float], faces: Sequence[Look], *, worded: bool
) -> None:
    """One bar, from left to right; shares that are no numbers leave it empty."""
    begin = 0.0
    for share, face in zip(np.nan_to_num(shares).tolist(), faces, strict=True):
        hatch = "////" if face.hatched else None
        axes.barh(y, share, left=begin, height=height, color=face.colour, edgecolor="white", linewidth=0.6, hatch=hatch)
        if worded and share >= _WORDED:
            text = f"{100 * share:.0f} %"
            axes.text(begin + share / 2, y, text, ha="center", va="center", size=7.5, color=_ink(face.colour))
        begin += share


def _ink(colour: str) -> str:
    """Black or white, whichever contrasts more (relative luminance of WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return "#111111" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else "#ffffff"


def _legend(axes: Axes, result: EvidenceLedger, faces: Sequence[Look], rows: float) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(
            facecolor=face.colour,
            edgecolor="white",
            hatch="////" if face.hatched else None,
            label=short(source.label, 34),
        )
        for source, face in zip(result.sources, faces, strict=True)
    ]
    below = (-_LEFT / _BARS + 0.03, -0.3 / rows)
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=below, ncols=_ACROSS, fontsize=7.5, frameon=False)


def _effects(axes: Axes, result: EvidenceLedger, story: Sequence[Entry], faces: Sequence[Look]) -> None:
    """A bar for each source, nats; "–" where there is no number."""
    assert result.effect is not None
    thick = 0.84 / len(faces)
    finite = result.effect[np.isfinite(result.effect)]
    low, high = min(0.0, float(finite.min(initial=0.0))), float(finite.max(initial=0.0)) or 1.0
    for y, entry in enumerate(story):
        if entry.step is None:
            continue
        for c, (nats, face) in enumerate(zip(result.effect[entry.step].tolist(), faces, strict=True)):
            at = y - 0.42 + thick * (c + 0.5)
            known = bool(np.isfinite(nats))
            if known:
                hatch = "////" if face.hatched else None
                axes.barh(at, nats, height=0.85 * thick, color=face.colour, edgecolor="white", linewidth=0, hatch=hatch)
            text = f"{nats:.1f}".replace("-0.0", "0.0") if known else "–"
            axes.text(max(nats, 0.0) + 0.02 * high if known else 0.0, at, text, va="center", size=6.5, color=INK)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.set_xlim(1.05 * low, 1.18 * high)
    axes.set_title("effect of taking it away (nats)", loc="left")
    axes.set_yticks([])
    _plain(axes, len(story))
