"""Which features attention goes to, as a still picture: ranked bars, mean map, layers, distribution, values over time.

Axes are placed by hand: measuring labels costs more than drawing them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import FeatureAttention, Finding, Floats
from attnviz.plugins.renderers._canvas import ACCENT, FAINT, SEQUENTIAL, Drawing, colours_of
from attnviz.plugins.renderers._labels import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

TOP = 15  # features in the bars
SERIES = 4  # sensors whose values are drawn
_BAR = "#d97a2b"
_CELLS = 256  # of the map; a longer axis shows the largest weight of each block
_BINS = 40


def draw(finding: Finding, result: FeatureAttention) -> Drawing:
    """Four panels: bars, map, distribution, and values over time (focus by layer where there are none)."""

    def fill(panel: SubFigure) -> None:
        _bars(panel.add_axes((0.17, 0.575, 0.31, 0.36)), result)
        _map(panel, panel.add_axes((0.585, 0.575, 0.31, 0.36)), result)
        _distribution(panel.add_axes((0.07, 0.09, 0.41, 0.34)), result)
        last = panel.add_axes((0.6, 0.09, 0.37, 0.34))
        if result.axis == "sensor" and finding.tokens.values is not None and finding.tokens.values.ndim == 2:
            _series(last, finding.tokens.values, result)
        else:
            _layers(last, result)

    return Drawing(width=10.0, height=6.0, fill=fill, dpi=110)


def _plain(axes: Axes) -> None:
    """Few lines; labels where there is room for them, because finding it out costs more than drawing them."""
    axes.tick_params(labelsize=7.5, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_label_coords(0.5, -0.115)
    axes.yaxis.set_label_coords(-0.13, 0.5)


def _bars(axes: Axes, result: FeatureAttention) -> None:
    shown = result.ranked("importance", TOP)
    place = np.arange(len(shown))
    axes.hlines(place, 0, [share for _, share in shown], colors=_BAR, linewidth=7)
    axes.set_xlim(0, 1.05 * max([share for _, share in shown], default=0.0) or 1.0)
    axes.set_yticks([])  # a label of a tick costs twice what a text does
    beside: dict[str, Any] = {
        "transform": axes.get_yaxis_transform(),
        "ha": "right",
        "va": "center_baseline",
        "size": 7.5,
    }
    for line, (name, _) in enumerate(shown):
        axes.text(-0.015, line, short(name, 20), **beside)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    known = int(np.isfinite(result.importance).sum())
    axes.axvline(1 / max(known, 1), color=FAINT, linestyle=":", linewidth=1)
    axes.set_xlabel("share of attention received (dotted = uniform)")
    axes.set_title(f"top {len(shown)} of {len(result.features)} features", y=1.02)
    _plain(axes)


def _map(panel: SubFigure, axes: Axes, result: FeatureAttention) -> None:
    axes.set_title("weights, mean over layers and heads (√ scale)", y=1.02)
    if result.weights is None:
        _say(axes, "the map is not in this file")
        return
    count = len(result.features)
    shown = _largest_of_blocks(result.weights, _CELLS)
    top = float(shown.max()) or 1.0
    end = -(-count // len(shown)) * len(shown) - 0.5  # of the last block, which may be partly empty
    extent = (-0.5, end, end, -0.5)
    image = axes.imshow(
        np.sqrt(shown), cmap=colours_of("sequential", SEQUENTIAL), vmin=0, vmax=top**0.5, extent=extent,
        aspect="auto", interpolation="nearest",
    )  # fmt: skip
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    if count <= TOP:
        names = [short(name, 12) for name in result.features]
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    axes.set_xlabel("" if count <= TOP else "attended feature (position)")
    axes.set_ylabel("" if count <= TOP else "attending feature (position)")
    _plain(axes)
    bar = panel.colorbar(image, cax=panel.add_axes((0.905, 0.575, 0.012, 0.36)))
    bar.set_ticks([0, (top / 4) ** 0.5, top**0.5], labels=["0", f"{top / 4:.2g}", f"{top:.2g}"])
    bar.ax.tick_params(labelsize=7.5)


def _largest_of_blocks(weights: Floats, longest: int) -> Floats:
    """[n, n] of at most `longest` cells a side, each the largest weight of its block."""
    block = -(-len(weights) // longest)
    cells = -(-len(weights) // block)
    if block == 1:
        return weights
    whole = np.zeros((cells * block, cells * block), weights.dtype)
    whole[: len(weights), : len(weights)] = weights
    found: Floats = whole.reshape(cells, block, cells * block).max(axis=1).reshape(cells, cells, block).max(axis=2)
    return found


def _distribution(axes: Axes, result: FeatureAttention) -> None:
    """Histogram of the weights of the mean map, on a logarithmic axis."""
    axes.set_title("distribution of weights (mean map)", y=1.02)
    weights = np.empty(0) if result.weights is None else result.weights[result.weights > 0].astype(np.float64)
    if not len(weights):
        _say(axes, "the map is not in this file")
        return
    edges = np.linspace(np.log10(weights.min()), np.log10(weights.max()) + 1e-9, _BINS + 1)
    counts, _ = np.histogram(np.log10(weights), edges)
    axes.fill_between(edges, np.append(counts, 0), step="post", color=_BAR, linewidth=0)
    axes.axvline(-np.log10(len(result.features)), color=FAINT, linestyle=":", linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("log10 of the weight (dotted = 1 / number of features)")
    axes.set_ylabel("pairs")
    _plain(axes)


def _series(axes: Axes, values: Any, result: FeatureAttention) -> None:
    """Values of the most attended sensors, each from its lowest to its highest."""
    place = {name: index for index, name in enumerate(result.features)}
    top = [place[name] for name, _ in result.ranked("importance", SERIES) if place[name] < values.shape[1]]
    for line, sensor in enumerate(top):
        column = values[:, sensor].astype(np.float64)
        low, high = float(column.min()), float(column.max())
        scaled = (column - low) / (high - low) if high > low else np.full(len(column), 0.5)
        axes.plot(np.arange(len(column)), scaled * 0.85 - line, linewidth=1.2)
    axes.set_yticks(-np.arange(len(top)) + 0.42, [short(result.features[i], 16) for i in top])
    axes.set_xlabel("time step")
    axes.set_title(f"values of the {len(top)} most attended", y=1.02)
    _plain(axes)


def _layers(axes: Axes, result: FeatureAttention) -> None:
    """Focus of every head, and their mean by layer."""
    layers, heads = result.head_importance.shape
    across = np.repeat(np.arange(layers), heads)
    axes.plot(across, result.head_importance.ravel(), "o", color=_BAR, markersize=3, alpha=0.6, linewidth=0)
    axes.plot(range(layers), result.layer_importance, color=ACCENT, linewidth=1.5)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("layer")
    axes.set_ylabel("focus")
    axes.set_title("heads (dots) and their mean by layer", y=1.02)
    _plain(axes)


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=FAINT)
    axes.set_axis_off()
