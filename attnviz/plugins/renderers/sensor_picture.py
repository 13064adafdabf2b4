"""Which sensors a prediction rests on, as a still picture: the ranking, its check, the map over time, the values.

Bars are ranked by the method to believe (by occlusion where none is). Attention stands beside them with what the same
input gives after its time steps are shuffled: bars within that range say nothing about time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import Finding, Floats, Ints, SensorImportance, ShapeError
from attnviz.plugins.renderers._canvas import (
    ACCENT,
    FAINT,
    LABELLED,
    SEQUENTIAL,
    Drawing,
    arrange,
    colour_bar,
    colours_of,
    name_axis,
)
from attnviz.plugins.renderers._labels import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

SERIES = 5  # sensors whose values are drawn
_BAR = "#d97a2b"


def draw(finding: Finding, result: SensorImportance) -> Drawing:
    """Two rows of two panels."""
    order = ranking(result)
    shown = order[:LABELLED]
    values = series(finding, result)

    def fill(panel: SubFigure) -> None:
        grid = panel.subplots(2, 2)
        method = ranked_by(result)
        _bars(grid[0, 0], result, getattr(result, method), shown, method)
        _bars(grid[0, 1], result, result.attention, shown, "attention")
        _null(grid[0, 1], result, shown)
        _over_time(panel, grid[1, 0], result, shown)
        _values(grid[1, 1], result, values, order)
        arrange(panel, [list(line) for line in grid], [1.0, 1.0])

    height = float(np.clip(0.19 * len(shown) + 1.3, 2.6, 8.5))
    return Drawing(width=11.0, height=2 * height, fill=fill)


def ranked_by(result: SensorImportance) -> str:
    """The method to believe, or occlusion where none is; the first that has numbers."""
    wanted = (result.trusted or result.METHODS[0], *result.METHODS)
    return next(name for name in wanted if np.isfinite(getattr(result, name)).any())


def ranking(result: SensorImportance) -> Ints:
    """[S] sensors, the most important first; those without a number last."""
    found: Ints = np.argsort(-np.nan_to_num(getattr(result, ranked_by(result)), nan=-np.inf), kind="stable")
    return found


def series(finding: Finding, result: SensorImportance) -> Floats | None:
    """[T, S] the values of the input; None where the finding does not carry them.

    Raises:
        ShapeError: another number of sensors than the result has.
    """
    values = finding.tokens.values
    if values is None:
        return None
    if values.ndim != 2 or values.shape[1] < len(result.sensors):
        raise ShapeError("Tokens.values", f"[time, {len(result.sensors)}]", list(values.shape))
    return values


def _bars(axes: Axes, result: SensorImportance, values: Floats, shown: Ints, method: str) -> None:
    place = np.arange(len(shown))
    axes.barh(place, np.nan_to_num(values[shown]), color=ACCENT if method == result.trusted else _BAR, height=0.7)
    axes.set_yticks(place, [short(result.sensors[i], 24) for i in shown])
    axes.invert_yaxis()
    axes.tick_params(labelsize=7.5, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(result.units[method])
    title = method.replace("_", " ") + (" (to be believed)" if method == result.trusted else "")
    if method in result.absent:
        title = f"{title}: missing"
        axes.text(0.5, 0.5, "missing", transform=axes.transAxes, ha="center", color=FAINT)
    rest = len(result.sensors) - len(shown)
    axes.set_title(f"{title}, {len(shown)} of {len(result.sensors)} sensors" if rest else title)


def _null(axes: Axes, result: SensorImportance, shown: Ints) -> None:
    """What the statistic is of shuffled input, mean and standard deviation, and of a uniform head."""
    if "attention" in result.absent:
        return
    axes.axvline(1.0, color=FAINT, linestyle=":", linewidth=1)
    if np.isfinite(result.null).any():
        place = np.arange(len(shown))
        spread = np.nan_to_num(result.null_sd[shown])
        axes.errorbar(result.null[shown], place, xerr=spread, fmt="D", color="#1c2430", markersize=3, linewidth=1)
        axes.set_title("attention; ◆ = of shuffled input, dotted = uniform")


def _over_time(panel: SubFigure, axes: Axes, result: SensorImportance, shown: Ints) -> None:
    """Map of sensors and windows: occlusion, or what gradients say where there is none."""
    method = "occlusion" if np.isfinite(result.occlusion_windows).any() else "gradient_x_input"
    cells = result.occlusion_windows if method == "occlusion" else result.gradient_windows
    axes.set_title(f"{method.replace('_', ' ')} by window of time")
    if not len(result.windows) or not np.isfinite(cells).any():
        axes.text(0.5, 0.5, "missing", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_axis_off()
        return
    known = np.ma.masked_invalid(cells[:, shown].T.astype(np.float64))
    image = axes.imshow(
        known,
        cmap=colours_of("sequential", SEQUENTIAL),
        vmin=0,
        vmax=float(known.max()) or 1.0,
        aspect="auto",
        interpolation="nearest",
    )
    name_axis(axes, "y", [result.sensors[i] for i in shown])
    name_axis(axes, "x", [f"{start}–{stop - 1}" for start, stop in result.windows.tolist()])
    axes.set_xlabel("time steps")
    colour_bar(panel, image, axes, result.units[method])


def _values(axes: Axes, result: SensorImportance, values: Floats | None, order: Ints) -> None:
    """The most important sensors' values, each on a scale of its own."""
    top = order[:SERIES]
    axes.set_title(f"values of the first {len(top)} sensors, each from its lowest to its highest")
    if values is None:
        axes.text(0.5, 0.5, "the values are not in this file", transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_axis_off()
        return
    for place, sensor in enumerate(top):
        column = values[:, sensor].astype(np.float64)
        low, high = float(column.min()), float(column.max())
        scaled = (column - low) / (high - low) if high > low else np.full(len(column), 0.5)
        axes.plot(np.arange(len(column)), scaled * 0.85 - place, linewidth=1.2)
    axes.set_yticks(-np.arange(len(top)) + 0.42, [short(result.sensors[i], 24) for i in top])
    axes.tick_params(labelsize=7.5, length=2)
    axes.set_xlabel("time step")
    axes.spines[["top", "right"]].set_visible(False)
