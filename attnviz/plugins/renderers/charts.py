"""Ordinary charts: importance and spread over layers, bars over tokens, a matrix of tokens, curves of faithfulness.

Drawn by plotly, with properties that plotly.js 3.3 and plotly.py 7.1 both know. Texts are escaped, because plotly reads
some HTML in titles and labels.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import (
    BadInput,
    Faithfulness,
    Finding,
    HeadScores,
    Renderer,
    TokenMatrix,
    TokenScores,
    View,
    hookimpl,
)
from attnviz.plugins.renderers._assets import generated_from, need_tokens
from attnviz.plugins.renderers._labels import layer_names, layer_title, short
from attnviz.plugins.renderers.head_map import metric_title, roles_of
from attnviz.plugins.renderers.token_matrix import checked as checked_matrix

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LARGEST = 50_000  # cells of a plotly heat map
_NAMED = 60  # tokens whose text fits along an axis
_SEQUENTIAL = ["#ffffff", "#fee8b2", "#f9a14c", "#cb3e34", "#600e46"]
_DIVERGING = ["#08408c", "#5ca0d6", "#fafafa", "#f6a45a", "#9e3e06"]
_TEXT, _LINE, _ACCENT = "#76808f", "rgba(128,140,155,0.35)", "#3b82f6"
_POSITIVE, _NEGATIVE = "#d97a2b", "#4a8fd0"


def _text(label: str, length: int = 60) -> str:
    return html.escape(short(label, length), quote=False)


def _axis(title: str, **more: Any) -> dict[str, Any]:
    grid = {"gridcolor": _LINE, "zerolinecolor": _LINE, "linecolor": _LINE}
    return {"title": {"text": _text(title) if title else ""}, "automargin": True, **grid, **more}


def _layout(finding: Finding, **more: Any) -> dict[str, Any]:
    return {
        "title": {"text": _text(finding.title), "x": 0.01, "xanchor": "left", "font": {"size": 15}},
        "font": {"color": _TEXT, "size": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 20, "t": 60, "b": 50},
        **more,
    }


def _token_axis(finding: Finding, positions: list[int], title: str, **more: Any) -> dict[str, Any]:
    if len(positions) > _NAMED:
        return _axis(f"{title} (number)", **more)
    named = [_text(finding.tokens.labels[t], 16) for t in positions]
    return _axis(title, tickmode="array", tickvals=list(range(len(positions))), ticktext=named, **more)


def _numbers(values: Any) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in np.asarray(values).ravel()]


def _figure(data: list[dict[str, Any]], layout: dict[str, Any]) -> go.Figure:
    import plotly.graph_objects as go

    figure = go.Figure(data=data, layout=layout)
    figure.layout.template = None
    return figure


def head_chart(finding: Finding) -> View:
    """Layer importance, and every head's value of a metric by layer; a menu chooses the metric."""
    result = finding.result
    if not isinstance(result, HeadScores):
        raise BadInput(f"head_chart: expected head_scores, got {result.kind}.")
    layers, heads = next(iter(result.metrics.values())).shape
    labelled = roles_of(result)
    titles = [_text(layer_title(finding, layer)) for layer in range(layers)]
    traces: list[dict[str, Any]] = []
    for name, values in result.metrics.items():
        unit = _text(result.units[name])
        traces.append(
            {
                "type": "box",
                "name": _text(metric_title(name)),
                "x": np.repeat(np.arange(layers), heads).tolist(),
                "y": _numbers(values),
                "boxpoints": "all",
                "jitter": 0.4,
                "pointpos": 0,
                "marker": {"size": 5, "color": _POSITIVE},
                "line": {"color": _TEXT, "width": 1},
                "text": [titles[layer] for layer in range(layers) for _ in range(heads)],
                "customdata": [_head_name(at[1], labelled.get((at[0], at[1]), ())) for at in np.ndindex(layers, heads)],
                "hovertemplate": f"%{{text}}, head %{{customdata}}<br>%{{y:.4f}} {unit}<extra></extra>",
                "visible": not traces,
                "yaxis": "y",
            }
        )
    count = len(traces)
    if result.layer_importance is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "layer importance",
                "x": list(range(layers)),
                "y": _numbers(result.layer_importance),
                "line": {"color": _ACCENT, "width": 2},
                "text": titles,
                "hovertemplate": "%{text}<br>mean focus %{y:.4f}<extra></extra>",
                "xaxis": "x2",
                "yaxis": "y2",
            }
        )
    return View(kind="plotly", payload=_figure(traces, _head_layout(finding, result, count)))


def _head_name(head: int, roles: tuple[str, ...]) -> int | str:
    return _text(f"{head} ({', '.join(map(metric_title, roles))})") if roles else head


def _head_layout(finding: Finding, result: HeadScores, count: int) -> dict[str, Any]:
    extra = result.layer_importance is not None
    buttons = [
        {
            "label": _text(metric_title(name)),
            "method": "update",
            "args": [
                {"visible": [i == chosen for i in range(count)] + [True] * extra},
                {"yaxis.title.text": _text(f"{metric_title(name)} ({result.units[name]})")},
            ],
        }
        for chosen, name in enumerate(result.metrics)
    ]
    first = next(iter(result.metrics))
    layers = len(result.metrics[first])
    across: dict[str, Any] = {"range": [-0.5, layers - 0.5], "dtick": 1 if layers <= 24 else None}
    names = layer_names(finding, layers)
    if names != [str(layer) for layer in range(layers)]:
        across |= {
            "tickmode": "array",
            "tickvals": list(range(layers)),
            "ticktext": [_text(name, 16) for name in names],
        }
    menu = {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "top", "bgcolor": "#ffffff"}
    layout: dict[str, Any] = {
        "showlegend": False,
        "height": 620 if extra else 400,
        "xaxis": _axis("" if extra else "layer", **across),
        "yaxis": _axis(f"{metric_title(first)} ({result.units[first]})", domain=[0.46, 1] if extra else [0, 1]),
        "updatemenus": [menu] if count > 1 else [],
    }
    if extra:
        layout["xaxis"]["anchor"] = "y"
        layout["xaxis2"] = _axis("layer", anchor="y2", **across)
        layout["yaxis2"] = _axis("layer importance (mean focus)", domain=[0, 0.32], anchor="x2", rangemode="tozero")
    return _layout(finding, **layout)


def token_chart(finding: Finding) -> View:
    """A bar per token."""
    result = finding.result
    if not isinstance(result, TokenScores):
        raise BadInput(f"token_chart: expected token_scores, got {result.kind}.")
    need_tokens("TokenScores.scores", len(result.scores), finding)
    count = len(result.scores)
    bars = {
        "type": "bar",
        "x": list(range(count)),
        "y": _numbers(result.scores),
        "marker": {"color": [_NEGATIVE if x < 0 else _POSITIVE for x in result.scores]},
        "customdata": [_text(label) for label in finding.tokens.labels],
        "hovertemplate": f"token %{{x}} “%{{customdata}}”<br>%{{y:.4f}} {_text(result.unit)}<extra></extra>",
    }
    start = generated_from(finding)
    lines = [] if start is None else [_boundary(start)]
    layout = _layout(
        finding,
        height=420,
        shapes=lines,
        xaxis=_token_axis(finding, list(range(count)), "token", tickangle=-60),
        yaxis=_axis(result.unit),
    )
    return View(kind="plotly", payload=_figure([bars], layout))


def _boundary(start: int) -> dict[str, Any]:
    line = {"color": _ACCENT, "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": start - 0.5, "x1": start - 0.5, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def matrix_chart(finding: Finding) -> View:
    """A heat map of targets and sources.

    Raises:
        BadInput: more than 50 000 cells, which plotly draws too slowly.
    """
    matrix = checked_matrix(finding)
    if matrix.scores.size > _LARGEST:
        raise BadInput(
            f"A chart of {matrix.scores.size} cells would be too slow (at most {_LARGEST}); use the token matrix."
        )
    rows, columns = matrix.rows.tolist(), matrix.columns.tolist()
    finite = matrix.scores[np.isfinite(matrix.scores)]
    signed, most = bool((finite < 0).any()), float(np.abs(finite).max(initial=0.0)) or 1.0
    labels = finding.tokens.labels
    cells = {
        "type": "heatmap",
        "z": [_numbers(row) for row in matrix.scores],
        "zmin": -most if signed else 0.0,
        "zmax": most,
        "colorscale": _scale(_DIVERGING if signed else _SEQUENTIAL),
        "colorbar": {"title": {"text": _text(matrix.unit)}},
        "customdata": [
            [f"target {t} “{_text(labels[t])}” ← source {s} “{_text(labels[s])}”" for s in columns] for t in rows
        ],
        "hovertemplate": "%{customdata}<br>%{z:.4f}<extra></extra>",
    }
    layout = _layout(
        finding,
        height=min(900, 220 + 22 * len(rows)),
        xaxis=_token_axis(finding, columns, "source", tickangle=-60),
        yaxis=_token_axis(finding, rows, "target", autorange="reversed"),
    )
    return View(kind="plotly", payload=_figure([cells], layout))


def faithfulness_chart(finding: Finding) -> View:
    """What is left of the targets while their best sources are taken away, and given back, beside random orders.

    The mean over targets, or one of them; the mean is over points of the curves, whose shares differ by what whole
    sources allow.
    """
    result = finding.result
    if not isinstance(result, Faithfulness):
        raise BadInput(f"faithfulness_chart: expected faithfulness, got {result.kind}.")
    curves = {
        "best sources taken away": (result.deletion, _NEGATIVE, "solid"),
        "taken away in random order": (result.random_deletion, _NEGATIVE, "dash"),
        "only best sources there": (result.insertion, _POSITIVE, "solid"),
        "given back in random order": (result.random_insertion, _POSITIVE, "dash"),
    }
    several = len(result.targets) > 1
    first: Any = slice(None) if several else slice(0, 1)
    lines: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines+markers" if dash == "solid" else "lines",
            "name": name,
            "x": _numbers(result.shares[first].mean(axis=0)),
            "y": _numbers(values[first].mean(axis=0)),
            "line": {"color": colour, "width": 2, "dash": dash},
            "hovertemplate": "%{x:.0%} of the sources<br>%{y:.4f}<extra></extra>",
        }
        for name, (values, colour, dash) in curves.items()
    ]
    choices = [("mean of all targets", slice(None))] * several
    choices += [(f"{span.index} {span.label}", slice(i, i + 1)) for i, span in enumerate(result.targets)]
    buttons = [
        {
            "label": _text(label, 24),
            "method": "restyle",
            "args": [
                {
                    "x": [_numbers(result.shares[rows].mean(axis=0))] * len(curves),
                    "y": [_numbers(values[rows].mean(axis=0)) for values, _, _ in curves.values()],
                }
            ],
        }
        for label, rows in choices
    ]
    menu = {"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "top", "bgcolor": "#ffffff"}
    layout = _layout(
        finding,
        height=440,
        legend={"orientation": "h", "y": -0.22},
        updatemenus=[menu] if several else [],
        xaxis=_axis(f"share of the sources of a target, {result.method}", tickformat=".0%", range=[0, 1]),
        yaxis=_axis(result.number.replace("_", "-") + " of the target"),
    )
    return View(kind="plotly", payload=_figure(lines, layout))


def _scale(colours: list[str]) -> list[list[Any]]:
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """Charts of head scores, token scores and token matrices."""
    return [
        Renderer(
            name="head_chart",
            title="Layers",
            accepts=(HeadScores,),
            produces="plotly",
            render=head_chart,
            order=30,
        ),
        Renderer(
            name="token_chart",
            title="Bars",
            accepts=(TokenScores,),
            produces="plotly",
            render=token_chart,
            order=30,
        ),
        Renderer(
            name="matrix_chart",
            title="Heat map",
            accepts=(TokenMatrix,),
            produces="plotly",
            render=matrix_chart,
            order=30,
        ),
        Renderer(
            name="faithfulness_chart",
            title="Curves",
            accepts=(Faithfulness,),
            produces="plotly",
            render=faithfulness_chart,
            order=30,
        ),
    ]
