"""What still pictures share: colours, the size and filling of a drawing, axes of tokens, colour bars, arrangement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.plugins.renderers._labels import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import SubFigure

SEQUENTIAL = ("#ffffff", "#fee8b2", "#f9a14c", "#cb3e34", "#600e46")
DIVERGING = ("#08408c", "#5ca0d6", "#fafafa", "#f6a45a", "#9e3e06")
INK, FAINT, ACCENT = "#1c2430", "#566172", "#1f6feb"

DPI = 150
LABELLED = 40  # axes with more tokens get positions instead of texts
LONGEST_AXIS = 1200  # cells; longer axes are pooled so that thin lines survive


@dataclass(frozen=True)
class Drawing:
    """Size of the picture proper in inches, and what fills it."""

    width: float
    height: float
    fill: Callable[[SubFigure], None]
    dpi: int = DPI


def colours_of(name: str, stops: Sequence[str]) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, list(stops)).with_extremes(bad="#e3e6eb")


def pooled(values: NDArray[Any], longest: int = LONGEST_AXIS) -> NDArray[Any]:
    """Axes longer than the picture can show, reduced to the strongest value of each block."""
    for axis in (0, 1):
        if values.shape[axis] > longest:
            starts = np.linspace(0, values.shape[axis], longest + 1).astype(int)[:-1]
            high = np.maximum.reduceat(values, starts, axis=axis)
            low = np.minimum.reduceat(values, starts, axis=axis)
            values = np.where(-low > high, low, high)
    return values


def name_axis(axes: Axes, which: str, labels: Sequence[str], start: int = 0) -> None:
    """Token texts where there is room for them, else positions, from `start` on."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    if len(labels) <= LABELLED:
        axis.set_ticks(range(start, start + len(labels)), [short(label) for label in labels])
        axes.tick_params(axis=which, labelrotation=90 if which == "x" else 0, labelsize=7.5, length=2)  # type: ignore[arg-type]
    else:
        axes.tick_params(axis=which, labelsize=7.5, length=2)  # type: ignore[arg-type]


def edge(count: int) -> float:
    """Inches for an axis of `count` cells."""
    return float(np.clip(0.16 * count, 1.6, 6.0))


def colour_bar(
    panel: SubFigure, image: Any, axes: Axes, label: str, ticks: Mapping[float, str] | None = None, left: float = 1.02
) -> None:
    """A colour bar beside the axes, from `left` on in units of their width."""
    bar = panel.colorbar(image, cax=axes.inset_axes((left, 0.0, 0.025, 1.0)))
    bar.set_label(label)
    if ticks:
        bar.set_ticks(list(ticks), labels=list(ticks.values()), minor=False)
        bar.ax.minorticks_off()
    bar.outline.set_edgecolor("#9aa3b2")  # type: ignore[operator]
    bar.ax.tick_params(labelsize=7.5)


def arrange(panel: SubFigure, grid: Sequence[Sequence[Axes]], widths: Sequence[float]) -> None:
    """Put each Axes, with its labels and colour bar, into its cell of the grid.

    Measured and set directly: the layout solver of matplotlib gives positions that differ in the last digits each time.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = panel.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer, gap = canvas.get_renderer(), 0.1 * DPI
    lefts = np.concatenate([[0.0], np.cumsum(widths)]) / sum(widths) * panel.bbox.width
    height = panel.bbox.height / len(grid)
    for row, line in enumerate(grid):
        bottom = panel.bbox.height - (row + 1) * height
        for column, axes in enumerate(line):
            cell = (lefts[column] + gap, bottom + gap, lefts[column + 1] - gap, bottom + height - gap)
            over = (0.0, 0.0, 0.0, 0.0)
            for _ in range(3):  # labels and bars change a little with the size
                x0, y0, x1, y1 = (side + by for side, by in zip(cell, over, strict=True))
                axes.set_position(
                    (
                        x0 / panel.bbox.width,
                        y0 / panel.bbox.height,
                        max(x1 - x0, 1) / panel.bbox.width,
                        max(y1 - y0, 1) / panel.bbox.height,
                    )
                )
                whole, box = axes.get_tightbbox(renderer), axes.get_window_extent(renderer)
                assert whole is not None
                over = (box.x0 - whole.x0, box.y0 - whole.y0, box.x1 - whole.x1, box.y1 - whole.y1)
