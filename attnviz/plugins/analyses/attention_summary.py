"""Which features attention goes to, on one page: tokens that are looked at, rows that are sharp, layers and heads.

    importance        received attention of each feature (received.py), mean over layers, as a share: they sum to 1
    attending         focus of the feature's own row, 1 − H(q) / log2 n(q), mean over heads and layers
    layer importance  mean focus of the layer's heads;  head importance = focus of the head

The numbers of layers, heads and received attention are those of attention_stats. None is a mean of weights, which would
be 1/n whatever the model does. Misleads like every picture of attention: what is looked at need not count.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, FeatureAttention, Floats, Param, hookimpl
from attnviz.plugins.analyses import attention_stats
from attnviz.plugins.analyses.names import layer_name
from attnviz.plugins.analyses.padding import padding_line
from attnviz.plugins.analyses.sensors.question import NOTICE

_MOST = 1024  # features of a mean map; of more it takes longer than all the rest
_WORDS = {"sensor": "sensors", "time": "time steps"}


def run(request: AnalysisRequest) -> FeatureAttention:
    """Summary of a run."""
    scores = attention_stats.run(replace(request, params={"exclude_sinks": False}))
    assert scores.received is not None
    assert scores.layer_importance is not None
    mean, why = _mean_map(request) if request.params["map"] else (None, "")
    return FeatureAttention(
        features=request.tokens.labels,
        importance=shares(scores.received).astype(np.float32),
        received=scores.received,
        attending=_attending(request).astype(np.float32),
        layer_importance=scores.layer_importance,
        head_importance=scores.metrics["focus"],
        weights=mean,
        axis=request.tokens.axis,
        info=(*_info(request), *((why,) if why else ())),
        warnings=_warnings(request),
    )


def shares(received: Floats) -> Floats:
    """[L, S] times uniform -> [S] shares that sum to 1; NaN for a feature that nothing sees in any layer."""
    mean = _mean_of_known(received.astype(np.float64))
    total = np.nansum(mean)
    return mean / total if total > 0 else mean


def _attending(request: AnalysisRequest) -> Floats:
    """[S] focus of each feature's row; NaN where a row has no choice, in any layer."""
    rows = np.full((len(request.trace.layers), len(request.tokens)), np.nan)  # [L, S]
    for index, layer in enumerate(request.trace.layers):
        if layer is None:
            continue
        chooses = layer.allowed >= 2
        focus = 1 - layer.entropy.mean(axis=0, dtype=np.float64) / np.log2(np.maximum(layer.allowed, 2))
        rows[index, slice(*layer.row_span)] = np.where(chooses, focus, np.nan)
    return _mean_of_known(rows)


def _mean_of_known(values: Floats) -> Floats:
    """[L, S] -> [S] mean over the layers that have a number; NaN where none has."""
    known = np.isfinite(values)
    found: Floats = np.full(values.shape[1], np.nan)
    np.divide(np.where(known, values, 0).sum(axis=0), known.sum(axis=0), out=found, where=known.any(axis=0))
    return found


def _mean_map(request: AnalysisRequest) -> tuple[Floats | None, str]:
    """[S, S] mean over heads, then layers, of those that attend from all tokens to all; and what was left out."""
    if len(request.tokens) > _MOST:
        return None, f"No mean map: it is made of up to {_MOST} features, here are {len(request.tokens)}."
    whole, total, used = (0, len(request.tokens)), np.zeros((len(request.tokens),) * 2), 0
    for index, layer in enumerate(request.trace.layers):
        if layer is None or layer.row_span != whole or layer.column_span != whole:
            continue
        request.progress(index / len(request.trace.layers), f"map of layer {index}")
        total += np.mean([request.attention(index, head) for head in range(layer.heads)], axis=0, dtype=np.float64)
        used += 1
    if not used:
        return None, "No mean map: no layer attends from all tokens to all tokens."
    left = sum(layer is not None for layer in request.trace.layers) - used
    said = (
        f"Mean map over {used} layers; {left} that do not attend from all tokens to all are left out." if left else ""
    )
    return (total / used).astype(np.float32), said


def _info(request: AnalysisRequest) -> tuple[str, ...]:
    what = _WORDS.get(request.tokens.axis, "tokens")
    return (
        f"Features are {what}. Importance: share of the attention received, mean over heads and layers, corrected for "
        "how many queries may see each; the shares sum to 1.",
        "Attending: how sharp the feature's own row is (focus, 1 = one key, 0 = uniform), mean over heads and layers; "
        "layer importance: mean focus of its heads.",
        *(
            f"Layer {layer_name(request, index)} has no attention: {reason}"
            for index, reason in sorted(request.trace.missing.items())
        ),
        f"Computed in {request.trace.precision}.",
        *padding_line(request.tokens),
    )


def _warnings(request: AnalysisRequest) -> tuple[str, ...]:
    lines = [NOTICE] if request.tokens.values is not None else []
    if request.tokens.axis == "time":
        lines.append("Tokens of this model are time steps: this says when it looks, and nothing of single sensors.")
    return (*lines, "Attention is what is read, not what counts: compare with a method that asks the prediction.")


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Summary of attention."""
    return [
        Analysis(
            name="attention_summary",
            title="Attention summary",
            group="Sensors",
            summary="Which features attention goes to, which rows are sharp, and which layers and heads.",
            run=run,
            produces=FeatureAttention,
            params=(
                Param(
                    "map", "bool", default=True, help="Also the mean map of all layers and heads, feature by feature."
                ),
            ),
        )
    ]
