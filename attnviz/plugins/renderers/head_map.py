"""A number per head as a map of layers and heads, the importance of layers, and the tokens that are read most.

Shows HeadScores. A cell is hatched where the layer has no attention; each cell says its number on hover and on focus.
Layer importance is the mean focus of a layer's heads; received attention is 1.0 where a key gets what a uniform head
would give.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnviz.hooks import BadInput, Finding, HeadScores, Renderer, View, hookimpl, to_jsonable
from attnviz.plugins.renderers._assets import need_tokens, note_data, pack, script, style, token_data


def metric_title(name: str) -> str:
    """A metric's name in words."""
    return name.replace("_", " ")


def _metrics(result: HeadScores) -> list[dict[str, Any]]:
    return [
        {"name": name, "title": metric_title(name), "unit": result.units[name], "values": to_jsonable(values)}
        for name, values in result.metrics.items()
    ]


def render(finding: Finding) -> View:
    """The data of the page."""
    result = finding.result
    if not isinstance(result, HeadScores):
        raise BadInput(f"head_map: expected head_scores, got {result.kind}.")
    layers, heads = next(iter(result.metrics.values())).shape
    if result.received is not None:
        need_tokens("HeadScores.received", result.received.shape[1], finding)
    importance = None if result.layer_importance is None else to_jsonable(result.layer_importance)
    payload = {
        **token_data(finding),
        "layers": layers,
        "heads": heads,
        "metrics": _metrics(result),
        "received": None if result.received is None else pack(result.received.astype(np.float32)),
        "layer_importance": importance,
        "sinks": list(result.sinks),
        **note_data(result),
    }
    return View(kind="script", payload=payload)


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The map of heads."""
    return [
        Renderer(
            name="head_map",
            title="Map of heads",
            accepts=(HeadScores,),
            produces="script",
            render=render,
            script=script("head_map"),
            style=style("head_map"),
            order=10,
        )
    ]
