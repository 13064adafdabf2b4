"""Any result as a still picture: .png and .svg, with units, mask, what was averaged and provenance printed on it.

Drawn by matplotlib without its global figure list. The same finding gives the same bytes: no date, fixed ids. Token
texts are never read as formulas of matplotlib; characters that no installed font has appear as boxes in a .png.
"""

from __future__ import annotations

import io
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    AttentionPattern,
    Attribution,
    BadInput,
    EvidenceLedger,
    Faithfulness,
    FeatureAttention,
    Finding,
    Floats,
    HeadScores,
    LensTable,
    Renderer,
    Result,
    SensorImportance,
    Table,
    TokenMatrix,
    TokenScores,
    View,
    hookimpl,
    to_jsonable,
)
from attnviz.plugins.renderers import evidence_picture, sensor_picture, summary_picture
from attnviz.plugins.renderers._assets import ALL_RESULTS, boundary, generated_from, need_tokens, token_spans
from attnviz.plugins.renderers._canvas import (
    ACCENT,
    DIVERGING,
    FAINT,
    INK,
    LABELLED,
    SEQUENTIAL,
    Drawing,
    arrange,
    colour_bar,
    colours_of,
    edge,
    name_axis,
    pooled,
)
from attnviz.plugins.renderers._labels import LEARNED_SINK, layer_names, layer_title, short, visible
from attnviz.plugins.renderers.attention_grid import starting_scale
from attnviz.plugins.renderers.attribution_text import checked as checked_attribution
from attnviz.plugins.renderers.attribution_text import tolerance
from attnviz.plugins.renderers.head_map import Head, heads_by_role, metric_title
from attnviz.plugins.renderers.token_matrix import checked as checked_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_TABLE_ROWS = 40
_LEVEL = 3  # of zlib; 6 takes half as long again, for a twentieth less
_STYLE = {
    "text.parse_math": False,
    "text.hinting": "no_hinting",  # a third of the time that texts take is hinting
    "svg.hashsalt": "attnviz",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": "#9aa3b2",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "Yu Gothic",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Symbola",
)
_drawing = threading.Lock()  # matplotlib's settings and Python's warning filters belong to the whole process


@contextmanager
def _settings() -> Iterator[None]:
    import matplotlib
    from matplotlib import font_manager

    with _drawing, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*[Mm]atplotlib currently does not support", category=UserWarning)
        installed = set(font_manager.get_font_names())
        family = [name for name in _FONTS if name in installed]
        with matplotlib.rc_context({**_STYLE, "font.family": family or ["sans-serif"]}):
            yield


def figure_bytes(finding: Finding, suffix: str) -> bytes:
    """The picture as the bytes of a .png or .svg file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.BytesIO()
    with _settings():
        figure = _figure(finding)
        if suffix == ".png":
            FigureCanvasAgg(figure).print_png(out, metadata={"Software": None}, pil_kwargs={"compress_level": _LEVEL})
        else:
            FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    return out.getvalue()


def _figure(finding: Finding) -> Figure:
    """Title, picture and the lines that say what is shown, one above the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = _drawing_of(finding)
    columns = int(drawing.width * 17)
    lines = [line for text in _notes(finding) for line in textwrap.wrap(text, columns)]
    title = textwrap.wrap(visible(finding.title), int(drawing.width * 10))
    head, foot = 0.15 + 0.22 * len(title), 0.2 + 0.145 * len(lines)
    figure = Figure(figsize=(drawing.width, head + drawing.height + foot), dpi=drawing.dpi)
    FigureCanvasAgg(figure)  # measures texts; the canvas of the file comes later
    parts: Any = figure.subfigures(3, 1, height_ratios=[head, drawing.height, foot])
    top, middle, bottom = parts
    top.text(0.15 / drawing.width, 0.5, "\n".join(title), va="center", size=12, weight="bold")
    drawing.fill(middle)
    bottom.text(0.15 / drawing.width, 0.96, "\n".join(lines), va="top", size=7, color=FAINT, linespacing=1.35)
    return figure


def _notes(finding: Finding) -> list[str]:
    params = ", ".join(f"{name} {visible(str(value))}" for name, value in to_jsonable(finding.params).items())
    given = f" ({params})" if params else ""
    about = f"{finding.analysis}{given}. Model {finding.model}, {len(finding.tokens)} tokens."
    lines = [about, *_gaps(finding), *finding.result.info, *(f"Note: {line}" for line in finding.result.warnings)]
    if finding.provenance:
        lines.append(f"Provenance {finding.provenance}")
    return [visible(line) for line in lines]


def _gaps(finding: Finding) -> list[str]:
    """The largest completeness gap of an attribution that has one, and how many are not within its tolerance."""
    result, accepted = finding.result, tolerance(finding)
    if not isinstance(result, Attribution) or result.delta is None or not len(result.delta):
        return []
    gaps = np.abs(result.delta)
    if not np.isfinite(gaps).all():
        return ["Completeness: the gap of some targets is no number."]
    largest = f"Completeness: largest |delta| {gaps.max():.3g} {result.unit}"
    if accepted is None:
        return [f"{largest}."]
    return [f"{largest}; {int((gaps > accepted).sum())} of {len(gaps)} targets are not within {accepted:g}."]


def _drawing_of(finding: Finding) -> Drawing:
    draw: dict[type[Result], Callable[[Finding, Any], Drawing]] = {
        AttentionPattern: _attention,
        HeadScores: _heads,
        TokenScores: _tokens,
        TokenMatrix: _matrix,
        Attribution: _attribution,
        LensTable: _lens,
        SensorImportance: sensor_picture.draw,
        FeatureAttention: summary_picture.draw,
        Table: _table,
        Faithfulness: _table,
        EvidenceLedger: evidence_picture.draw,
    }
    if type(finding.result) not in draw:
        raise BadInput(f"No picture for a result of kind {finding.result.kind!r}.")
    return draw[type(finding.result)](finding, finding.result)


# --------------------------------------------------------------------------------------------- one kind each


def _attention(finding: Finding, result: AttentionPattern) -> Drawing:
    from matplotlib.colors import LogNorm, PowerNorm

    queries, keys = token_spans(finding, result)
    labels = finding.tokens.labels
    logarithmic = starting_scale(finding, result) == "log10"
    norm = LogNorm(1e-4, 1, clip=True) if logarithmic else PowerNorm(0.5, 0, 1)
    scale = "log10 scale from 0.0001" if logarithmic else "√ scale"
    colours = colours_of("sequential", SEQUENTIAL)
    width, height = edge(len(keys)), edge(len(queries))

    def draw(axes: Axes, weights: NDArray[Any], columns: tuple[float, float]) -> Any:
        shown = pooled(weights.astype(np.float64))
        shown = np.maximum(shown, 1e-9) if logarithmic else shown
        extent = (*columns, queries.stop - 0.5, queries.start - 0.5)
        return axes.imshow(shown, cmap=colours, norm=norm, extent=extent, aspect="auto", interpolation="nearest")

    def fill(panel: SubFigure) -> None:
        left, right = panel.subplots(1, 2)
        image = draw(left, result.weights, (keys.start - 0.5, keys.stop - 0.5))
        left.set_box_aspect(height / width)
        left.set_title(f"{layer_title(finding, result.layer)} · head {result.head}")
        left.set_xlabel("key")
        left.set_ylabel("query")
        name_axis(left, "x", labels[keys.start : keys.stop], keys.start)
        name_axis(left, "y", labels[queries.start : queries.stop], queries.start)
        for span, line in ((keys, left.axvline), (queries, left.axhline)):
            start = boundary(finding, span)
            if start is not None:
                line(span.start + start - 0.5, color=ACCENT, linestyle="--", linewidth=1)
        beside = 1.02
        if result.sink_share is not None:
            column = left.inset_axes((1.03, 0.0, 0.2 / width, 1.0))
            draw(column, result.sink_share[:, None], (-0.5, 0.5))
            column.set_yticks([])
            column.set_xticks([0], [LEARNED_SINK], rotation=90, size=7.5)
            beside += 0.06 + 0.2 / width
        ticks = {1e-4: "≤ 0.0001", 1e-3: "0.001", 1e-2: "0.01", 0.1: "0.1", 1.0: "1"} if logarithmic else None
        colour_bar(panel, image, left, f"attention weight ({scale})", ticks, beside)
        _all_heads(finding, result, right)
        for axes in (left, right):
            axes.set_anchor("N")
        arrange(panel, [[left, right]], [width + 2.6, 4.4])

    return Drawing(width=width + 7.2, height=max(height + 1.3, 3.8), fill=fill)


def _all_heads(finding: Finding, result: AttentionPattern, axes: Axes) -> None:
    layers, heads, rows, columns = result.thumbnails.shape
    axes.imshow(_mosaic(result), cmap=colours_of("sequential", SEQUENTIAL), vmin=0, vmax=255, interpolation="nearest")
    axes.set_title("All heads (√ of the largest weight per block)")
    names = [short(name) for name in layer_names(finding, layers)]
    axes.set_xticks([columns / 2 + h * (columns + 2) for h in range(heads)], [str(h) for h in range(heads)])
    axes.set_yticks([rows / 2 + n * (rows + 2) for n in range(layers)], names)
    axes.tick_params(labelsize=7, length=0)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.spines[:].set_visible(False)


def _mosaic(result: AttentionPattern) -> NDArray[Any]:
    """[L, H, n, m] side by side with gaps of two cells, which are masked, as is what a layer does not use."""
    layers, heads, rows, columns = result.thumbnails.shape
    sizes = np.full((layers, 2), (rows, columns)) if result.thumbnail_sizes is None else result.thumbnail_sizes
    shape = (layers * (rows + 2) - 2, heads * (columns + 2) - 2)
    whole = np.ma.masked_array(np.zeros(shape), mask=np.ones(shape, bool))
    for layer, head in np.ndindex(layers, heads):
        top, left = layer * (rows + 2), head * (columns + 2)
        high, wide = sizes[layer]
        whole[top : top + high, left : left + wide] = result.thumbnails[layer, head, :high, :wide]
    return whole


def _heads(finding: Finding, result: HeadScores) -> Drawing:
    from matplotlib.ticker import MaxNLocator

    panels = len(result.metrics) + (result.layer_importance is not None)
    across = min(3, panels)
    down = -(-panels // across)
    layers, heads = next(iter(result.metrics.values())).shape
    names = layer_names(finding, layers)
    labelled = heads_by_role(result)

    def fill(panel: SubFigure) -> None:
        grid = panel.subplots(down, across, squeeze=False).ravel()
        for axes, (name, values) in zip(grid, result.metrics.items(), strict=False):
            _metric(panel, axes, name, values, result.units[name], names)
            _outline(axes, labelled.get(name, []))
        if result.layer_importance is not None:
            axes = grid[panels - 1]
            axes.plot(range(layers), result.layer_importance, marker="o", markersize=3, color=ACCENT, linewidth=1.5)
            axes.set_title("layer importance (mean focus)")
            axes.set_xlabel("layer")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
            _name_layers(axes, "x", names)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7.5)
        for axes in grid[panels:]:
            axes.remove()
        lines = [list(grid[at : min(at + across, panels)]) for at in range(0, panels, across)]
        arrange(panel, lines, [1.0] * across)

    height = float(np.clip(0.22 * layers + 1.0, 2.0, 4.5))
    width = float(np.clip(0.22 * heads + 1.6, 2.8, 4.2))
    return Drawing(width=max(across * width, 6.0), height=down * height, fill=fill)


def _metric(panel: SubFigure, axes: Axes, name: str, values: NDArray[Any], unit: str, layers: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    known = np.ma.masked_array(np.nan_to_num(values.astype(np.float64)), mask=~np.isfinite(values))
    low, high = (float(known.min()), float(known.max())) if known.count() else (0.0, 1.0)
    colours = colours_of("sequential", SEQUENTIAL)
    if low < 0:
        high = max(-low, high)
        low, colours = -high, colours_of("diverging", DIVERGING)
    image = axes.imshow(known, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for layer, head in np.argwhere(~np.isfinite(values)):
        corner = (float(head) - 0.5, float(layer) - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor="#e3e6eb", edgecolor=FAINT, hatch="////", linewidth=0.3))
    axes.set_title(metric_title(name))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    _name_layers(axes, "y", layers)
    axes.tick_params(labelsize=7.5)
    colour_bar(panel, image, axes, unit)


def _name_layers(axes: Axes, which: str, names: Sequence[str]) -> None:
    """Names where layers have other names than their numbers, as many as fit."""
    if list(names) == [str(layer) for layer in range(len(names))]:
        return
    axis = axes.xaxis if which == "x" else axes.yaxis
    shown = range(0, len(names), -(-len(names) // LABELLED))
    axis.set_ticks(shown, [short(names[layer]) for layer in shown])
    if which == "x":
        axes.tick_params(axis="x", labelrotation=90)


def _outline(axes: Axes, heads: list[Head]) -> None:
    """A frame around the heads that have the role this metric is named after."""
    from matplotlib.patches import Rectangle

    for layer, head in heads:
        for colour, width in (("white", 3.0), (ACCENT, 1.6)):  # seen on light and on dark cells
            corner = (head - 0.5, layer - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=colour, linewidth=width, zorder=3))
    if heads:
        axes.set_title(f"{axes.get_title()} (framed: labelled)")


def _tokens(finding: Finding, result: TokenScores) -> Drawing:
    need_tokens("TokenScores.scores", len(result.scores), finding)
    count = len(result.scores)
    colours = np.where(result.scores < 0, "#2a6fb0", "#c9600e")

    def fill(panel: SubFigure) -> None:
        axes = panel.subplots()
        axes.bar(range(count), result.scores, color=colours, width=0.85)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        axes.set_xlim(-0.6, count - 0.4)
        axes.set_ylabel(result.unit)
        axes.set_xlabel("token" if count <= LABELLED else "token position")
        name_axis(axes, "x", finding.tokens.labels)
        axes.spines[["top", "right"]].set_visible(False)
        start = generated_from(finding)
        if start is not None:
            axes.axvline(start - 0.5, color=ACCENT, linestyle="--", linewidth=1)
        arrange(panel, [[axes]], [1.0])

    return Drawing(width=float(np.clip(0.24 * count + 1.5, 6.0, 12.0)), height=3.4, fill=fill)


def _matrix(finding: Finding, result: TokenMatrix) -> Drawing:
    checked_matrix(finding)
    labels = finding.tokens.labels
    rows, columns = ([labels[t] for t in positions] for positions in (result.rows, result.columns))
    return _cells(result.scores, rows, columns, result.unit, signed=bool((result.scores < 0).any()))


def _attribution(finding: Finding, result: Attribution) -> Drawing:
    checked_attribution(finding)
    rows, columns = ([span.label for span in spans] for spans in (result.targets, result.sources))
    return _cells(result.scores, rows, columns, result.unit, signed=result.signed)


def _cells(values: Floats, row_names: list[str], column_names: list[str], unit: str, *, signed: bool) -> Drawing:
    """Targets (rows) and their sources (columns)."""
    scores = pooled(np.where(np.isfinite(values), values, 0.0).astype(np.float64))
    rows, columns = values.shape
    most = float(np.abs(scores).max(initial=0.0)) or 1.0

    def fill(panel: SubFigure) -> None:
        axes = panel.subplots()
        colours = colours_of("diverging", DIVERGING) if signed else colours_of("sequential", SEQUENTIAL)
        extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
        low = -most if signed else 0.0
        image = axes.imshow(
            scores, cmap=colours, vmin=low, vmax=most, extent=extent, aspect="auto", interpolation="nearest"
        )
        name_axis(axes, "x", column_names)
        name_axis(axes, "y", row_names)
        axes.set_xlabel("source" if columns <= LABELLED else "source (column number)")
        axes.set_ylabel("target" if rows <= LABELLED else "target (row number)")
        colour_bar(panel, image, axes, unit)
        arrange(panel, [[axes]], [1.0])

    return Drawing(width=max(edge(columns) + 2.4, 6.0), height=edge(rows) + 1.3, fill=fill)


def _lens(finding: Finding, lens: LensTable) -> Drawing:
    sites, positions = len(lens.sites), len(lens.positions)
    labels = finding.tokens.labels
    top = np.exp(lens.top_logprobs[::-1, :, 0].astype(np.float64))  # [N, P], the model first
    worded = positions <= 32
    width = float(np.clip((0.62 if worded else 0.12) * positions + 2.6, 6.5, 20.0))

    def fill(panel: SubFigure) -> None:
        axes = panel.subplots()
        colours = colours_of("sequential", SEQUENTIAL)
        image = axes.imshow(top, cmap=colours, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(sites), [visible(site) for site in reversed(lens.sites)])
        name_axis(axes, "x", [labels[p] for p in lens.positions])
        axes.tick_params(labelsize=7.5, length=2)
        axes.set_xlabel("last token read; the cell says what is expected next" if positions <= LABELLED else "column")
        if worded:
            for s, p in np.ndindex(sites, positions):
                text = short(lens.labels[int(lens.top_ids[sites - 1 - s, p, 0])], 9)
                axes.text(p, s, text, ha="center", va="center", size=6, color="white" if top[s, p] > 0.55 else INK)
        colour_bar(panel, image, axes, "probability of the top token")
        arrange(panel, [[axes]], [1.0])

    return Drawing(width=width, height=float(np.clip(0.26 * sites + 1.4, 2.4, 12.0)), fill=fill)


def _table(finding: Finding, result: Table) -> Drawing:
    rows = [[_cell(cell) for cell in row] for row in result.rows[:_TABLE_ROWS]]
    names, rest = [short(name, 28) for name in result.columns], len(result.rows) - len(rows)
    lengths = [2 + max(map(len, column)) for column in zip(names, *rows, strict=True)]

    def fill(panel: SubFigure) -> None:
        axes = panel.subplots()
        panel.subplots_adjust(left=0.02, right=0.98, top=0.99, bottom=0.01)
        axes.set_axis_off()
        if rows:
            drawn = axes.table(
                rows,
                colLabels=names,
                colWidths=[length / sum(lengths) for length in lengths],
                loc="upper center",
                cellLoc="left",
                colLoc="left",
                edges="horizontal",
            )
            for (line, _), cell in drawn.get_celld().items():
                cell.set_edgecolor("#c6ccd6")
                cell.set_linewidth(0.6)
                cell.set_text_props(weight="bold" if line == 0 else "normal")
            drawn.auto_set_font_size(False)
            drawn.set_fontsize(8)
            drawn.scale(1, 1.35)
        if rest or not rows:
            axes.text(0, 0, f"and {rest} more rows" if rest else "no rows", size=8, color=FAINT)

    height = 0.55 + 0.235 * (len(rows) + bool(rest))
    return Drawing(width=max(6.0, 0.085 * sum(lengths)), height=height, fill=fill)


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else short(str(value), 32)


# --------------------------------------------------------------------------------------------- views


def render_png(finding: Finding) -> View:
    """The bytes of a .png file."""
    return View(kind="image", payload=figure_bytes(finding, ".png"), media_type="image/png")


def render_svg(finding: Finding) -> View:
    """The bytes of an .svg file."""
    return View(kind="file", payload=figure_bytes(finding, ".svg"), media_type="image/svg+xml")


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The .png and .svg files."""
    return [
        Renderer(
            name="png",
            title="Picture",
            accepts=ALL_RESULTS,
            produces="image",
            suffixes=(".png",),
            render=render_png,
            order=82,
        ),
        Renderer(
            name="svg",
            title="Vector picture",
            accepts=ALL_RESULTS,
            produces="file",
            suffixes=(".svg",),
            render=render_svg,
            order=83,
        ),
    ]
