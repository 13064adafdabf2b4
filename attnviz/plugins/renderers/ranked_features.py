"""Features or sensors ranked by one number, with the others beside it, and maps: over time, and who attends to whom.

Of sensors also the measured values, and of attention a flow, a network and the distribution of its weights.

Shows SensorImportance and FeatureAttention. A method that says nothing of a model is listed with the reason. Of a map
of more than CELLS numbers the page gets the largest of each block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnviz.hooks import BadInput, FeatureAttention, Finding, Floats, Renderer, SensorImportance, View, hookimpl
from attnviz.plugins.renderers._assets import note_data, pack, script, style
from attnviz.plugins.renderers._relations import relations
from attnviz.plugins.renderers.attention_grid import block_of
from attnviz.plugins.renderers.sensor_picture import series
from attnviz.plugins.renderers.token_matrix import strongest_of_blocks

CELLS = 300_000


def render(finding: Finding) -> View:
    """The data of the page.

    Raises:
        BadInput: another kind of result.
    """
    result = finding.result
    if isinstance(result, SensorImportance):
        return View(kind="script", payload=_sensors(finding, result))
    if isinstance(result, FeatureAttention):
        return View(kind="script", payload=_features(finding, result))
    raise BadInput(f"ranked_features: expected sensor_importance or attention_summary, got {result.kind}.")


def _sensors(finding: Finding, result: SensorImportance) -> dict[str, Any]:
    methods = [
        {
            "title": name.replace("_", " "),
            "unit": result.units[name],
            "values": _numbers(getattr(result, name)),
            "null": _numbers(result.null) if name == "attention" and np.isfinite(result.null).any() else None,
            "trusted": name == result.trusted,
            "why": result.absent.get(name, ""),
        }
        for name in result.METHODS
    ]
    first = next((i for i, m in enumerate(methods) if m["trusted"]), 0)
    windows = [f"steps {start} to {stop - 1}" for start, stop in result.windows.tolist()]
    names, maps = list(result.sensors), []
    if windows:
        for title, cells in (
            ("occlusion over time", result.occlusion_windows),
            ("gradient × input over time", result.gradient_windows),
        ):
            words = {"row_word": "sensors", "column_word": "windows of time", "feature_rows": True}
            unit = result.units["occlusion"]
            maps.append({"title": title, "rows": names, "columns": windows, "unit": unit, **words, **_cells(cells.T)})
    maps.append({"title": "occlusion by output", "rows": names, "columns": list(result.outputs),
                 "unit": result.units["occlusion"], "row_word": "sensors", "column_word": "outputs",
                 "feature_rows": True, **_cells(result.occlusion_outputs.T)})  # fmt: skip
    if result.weights is not None:
        maps.append(_attention(names, result.weights))
    correlations = [(name.replace("_", " "), number) for name, number in result.rank_correlation.items()]
    return {
        "features": names,
        "methods": methods,
        "first": first,
        "maps": maps,
        "verdict": result.verdict,
        "relations": None if result.weights is None else relations(result.weights),
        "input": _measured(finding, result),
        "correlations": [[name, rho if np.isfinite(rho) else None] for name, rho in correlations],
        **note_data(result),
    }


def _features(finding: Finding, result: FeatureAttention) -> dict[str, Any]:
    names, layers = list(result.features), len(result.layer_importance)
    methods = [
        {"title": "attention received", "unit": "share of all, corrected for who may see it",
         "values": _numbers(result.importance)},
        {"title": "focus of its own row", "unit": "0 = uniform, 1 = one key", "values": _numbers(result.attending)},
    ]  # fmt: skip
    maps = [] if result.weights is None else [_attention(names, result.weights)]
    rows = [f"layer {finding.layer_name(index)}" for index in range(layers)]
    heads = [f"head {head}" for head in range(result.head_importance.shape[1])]
    maps.append({"title": "focus of every head", "rows": rows, "columns": heads, "unit": "0 to 1",
                 "row_word": "layers", "column_word": "heads", **_cells(result.head_importance)})  # fmt: skip
    return {
        "features": names,
        "methods": [{"null": None, "trusted": False, "why": "", **method} for method in methods],
        "first": 0,
        "maps": maps,
        "verdict": "",
        "relations": None if result.weights is None else relations(result.weights),
        "input": None,
        "correlations": [],
        **note_data(result),
    }


def _measured(finding: Finding, result: SensorImportance) -> dict[str, Any] | None:
    """The values of the input in their own units, sensor by sensor; None where they are not there or too many."""
    values = series(finding, result)
    count = len(result.sensors)
    if values is None or values.shape[0] * count > CELLS:
        return None
    usual = None if result.usual is None else [float(x) for x in result.usual]
    return {"units": list(result.sensor_units), "usual": usual, **_cells(values[:, :count].T)}


def _attention(names: list[str], weights: Floats) -> dict[str, Any]:
    """Who attends to whom; of a large map blocks, named by their first."""
    block = block_of(weights.shape, CELLS)
    cells = weights if block == 1 else strongest_of_blocks(weights, block)
    named = names[::block]
    whole = block == 1
    words = {"row_word": "attending", "column_word": "attended", "feature_rows": whole, "feature_columns": whole}
    title = "attention, mean over layers and heads" + ("" if block == 1 else f"; largest of {block} × {block}")
    return {"title": title, "rows": named, "columns": named, "unit": "weight", **words, **_cells(cells)}


def _cells(values: Any) -> dict[str, Any]:
    return {"cells": pack(np.ascontiguousarray(values, np.float32))}


def _numbers(values: Floats) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in values]


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The ranking."""
    return [
        Renderer(
            name="ranked_features",
            title="Ranking and map",
            accepts=(SensorImportance, FeatureAttention),
            produces="script",
            render=render,
            script=script("relations", "readings", "ranked_methods", "ranked_features"),
            style=style("ranked_features"),
            order=10,
        )
    ]
