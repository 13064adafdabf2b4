"""Five pictures of one attention map, as figures of matplotlib that can be shown, changed and saved.

    heatmap       every weight: dark = low, bright = high
    flow          left = attends, right = attended; thicker = stronger
    network       features on a circle, arrows from who attends to what is attended
    distribution  histogram of the weights on a logarithmic axis
    timeseries    what each position receives, and how sharp its own row is, along the positions

Flow and network draw the strongest weights only, and print which share of all attention these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import BadInput, ShapeError, UnknownName
from attnviz.plugins.renderers._canvas import ACCENT, FAINT, LABELLED, pooled
from attnviz.plugins.renderers._labels import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES = 40
"""Strongest weights that flow and network draw."""
_BINS = 50
_LINE = "#d97a2b"


@dataclass(frozen=True)
class MapFigure:
    """figure: of matplotlib; share: of all attention, that the picture shows."""

    figure: Figure
    share: float


def map_figure(
    kind: str, matrix: NDArray[Any], names: Sequence[str], title: str, figsize: tuple[float, float]
) -> MapFigure:
    """One of the five pictures of a map [Q, K] with as many names.

    Raises:
        UnknownName: another kind.
        BadInput, ShapeError: a map that is not square, has another number of names, or holds no weights.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if kind not in _KINDS:
        raise UnknownName("picture of a map", kind, _KINDS)
    count = len(names)
    if matrix.shape != (count, count) or not count:
        raise ShapeError("Map", f"[{count}, {count}], one row and column for each name", list(matrix.shape))
    if not np.isfinite(matrix).all() or matrix.min() < 0 or not matrix.any():
        raise BadInput("Map: expected weights from 0 on that are not all 0, got others.")
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    share = _KINDS[kind](axes, matrix.astype(np.float64), [_plain(name) for name in names])
    axes.set_title(_plain(title, 120))
    return MapFigure(figure, share)


def _plain(name: str, length: int = 20) -> str:
    """A name that matplotlib does not read as a formula."""
    return short(name, length).replace("$", r"\$")


def strongest(matrix: NDArray[np.float64]) -> tuple[NDArray[np.intp], float]:
    """[E, 2] rows and columns of the strongest weights, weakest first, and their share of the whole."""
    flat = np.argsort(matrix, axis=None, kind="stable")[::-1][:EDGES][::-1]
    places = np.stack(np.unravel_index(flat, matrix.shape), axis=1)
    places = places[matrix[places[:, 0], places[:, 1]] > 0]
    return places, float(matrix[places[:, 0], places[:, 1]].sum() / matrix.sum())


def _heatmap(axes: Axes, matrix: NDArray[np.float64], names: list[str]) -> float:
    count = len(names)
    extent = (-0.5, count - 0.5, count - 0.5, -0.5)
    image = axes.imshow(pooled(matrix), cmap="inferno", vmin=0, extent=extent, interpolation="nearest", aspect="auto")
    _name(axes, names)
    axes.set_xlabel("attended")
    axes.set_ylabel("attending")
    axes.figure.colorbar(image, ax=axes, label="weight")
    return 1.0


def _name(axes: Axes, names: list[str]) -> None:
    if len(names) <= LABELLED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)


def _flow(axes: Axes, matrix: NDArray[np.float64], names: list[str]) -> float:
    places, share = strongest(matrix)
    top = matrix.max()
    height = -np.arange(len(names), dtype=np.float64)
    for query, key in places:
        weight = matrix[query, key] / top
        axes.plot([0, 1], [height[query], height[key]], color=_LINE, linewidth=5 * weight, alpha=0.15 + 0.7 * weight)
    for side, place in (("right", -0.02), ("left", 1.02)):
        for y, name in zip(height, names, strict=True):
            if len(names) <= LABELLED:
                axes.text(place, y, name, ha=side, va="center", size=8)
    axes.plot(np.zeros(len(names)), height, "o", color=FAINT, markersize=3)
    axes.plot(np.ones(len(names)), height, "o", color=FAINT, markersize=3)
    axes.set_xticks([0, 1], ["attending", "attended"])
    axes.set_xlim(-0.35, 1.35)
    return _bare(axes, len(places), share)


def _network(axes: Axes, matrix: NDArray[np.float64], names: list[str]) -> float:
    places, share = strongest(matrix)
    top = matrix.max()
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    x, y = np.cos(angle), np.sin(angle)
    for query, key in places:
        weight = matrix[query, key] / top
        if query == key:
            axes.plot(x[query] * 1.06, y[query] * 1.06, "o", markersize=4 + 14 * weight, color=_LINE, alpha=0.35)
            continue
        arrow = {"arrowstyle": "-|>", "color": _LINE, "linewidth": 4 * weight, "alpha": 0.2 + 0.7 * weight,
                 "connectionstyle": "arc3,rad=0.12", "shrinkA": 6, "shrinkB": 6}  # fmt: skip
        axes.annotate("", (x[key], y[key]), (x[query], y[query]), arrowprops=arrow)
    received = matrix.sum(axis=0)
    axes.scatter(x, y, s=30 + 220 * received / received.max(), color=ACCENT, zorder=3)
    if len(names) <= LABELLED:
        for at, name in enumerate(names):
            side = "left" if x[at] > 0.1 else "right" if x[at] < -0.1 else "center"
            axes.text(1.14 * x[at], 1.14 * y[at], name, ha=side, va="center", size=8)
    axes.set_aspect("equal")
    axes.set_xlim(-1.6, 1.6)
    axes.set_ylim(-1.3, 1.3)
    axes.set_xticks([])
    return _bare(axes, len(places), share)


def _bare(axes: Axes, drawn: int, share: float) -> float:
    """No frame, and what is shown below."""
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"the {drawn} strongest weights: {share:.0%} of all attention")
    return share


def _distribution(axes: Axes, matrix: NDArray[np.float64], names: list[str]) -> float:
    weights = np.log10(matrix[matrix > 0])
    axes.hist(weights, bins=_BINS, color=_LINE)
    axes.axvline(-np.log10(len(names)), color=FAINT, linestyle=":", label=f"uniform: 1 / {len(names)}")
    zeros = int((matrix == 0).sum())
    axes.set_xlabel(f"log10 of the weight; {zeros} of {matrix.size} pairs are 0 and not drawn")
    axes.set_ylabel("pairs")
    axes.legend(frameon=False)
    return 1.0


def _timeseries(axes: Axes, matrix: NDArray[np.float64], names: list[str]) -> float:
    count = len(names)
    seen = np.tril(np.ones((count, count))) if not np.triu(matrix, 1).any() and count > 1 else np.ones((count, count))
    allowed = seen.sum(axis=1)  # n(q)
    received = matrix.sum(axis=0) / (seen / allowed[:, None]).sum(axis=0)
    entropy = -(matrix * np.log2(matrix, out=np.zeros_like(matrix), where=matrix > 0)).sum(axis=1)
    focus = np.full(count, np.nan)
    np.divide(entropy, np.log2(np.maximum(allowed, 2)), out=focus, where=allowed > 1)
    places = np.arange(count)
    axes.plot(places, received, color=_LINE, marker="o", markersize=3, label="attention received, times uniform")
    axes.axhline(1, color=FAINT, linestyle=":")
    axes.plot(places, 1 - focus, color=ACCENT, marker="s", markersize=3, label="focus of its own row, 0 to 1")
    axes.set_ylim(bottom=0)
    if count <= LABELLED:
        axes.set_xticks(places, names, rotation=90)
    axes.set_xlabel("position")
    axes.legend(frameon=False)
    return 1.0


_KINDS: dict[str, Callable[[Axes, NDArray[np.float64], list[str]], float]] = {
    "heatmap": _heatmap,
    "flow": _flow,
    "network": _network,
    "distribution": _distribution,
    "timeseries": _timeseries,
}
