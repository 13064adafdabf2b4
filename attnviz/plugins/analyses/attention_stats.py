"""Which heads are sharp, which are diffuse, how far they look, and which tokens are looked at.

With n(q) keys visible to query q and p = A[l, h, q, :], over the rows that see at least one key:

    entropy             mean of H(q) = −Σ p log2 p          bits; rows with n(q) ≥ 2
    normalised_entropy  mean of H(q) / log2 n(q)            0 = one key, 1 = uniform; rows with n(q) ≥ 2
    focus               1 − normalised entropy
    max_weight          largest weight                      rows with n(q) ≥ 2: of a single key it is always 1
    mean_row_max        mean of the largest weight of a row
    mean_distance       mean of Σ_k p(k)·|q − k|            tokens
    sink_mass           mean weight on sink positions
    received            attention that a key receives, 1.0 = as much as a uniform head would give
    layer importance    mean focus of the layer's heads

None is constant by construction, as a mean of weights (always 1/n) would be. Misleads when read as "important for the
answer": a focused head may be focused on a resting place, and a uniform one may carry the answer in its values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Bools, Floats, HeadScores, LayerCapture, hookimpl
from attnviz.plugins.analyses.names import layer_name, of_channels
from attnviz.plugins.analyses.padding import padding_line
from attnviz.plugins.analyses.received import expected_column_sum
from attnviz.plugins.analyses.sinks import EXCLUDE_SINKS, Sinks, find_sinks, sink_columns, without_sinks

UNITS = {
    "entropy": "bits",
    "normalised_entropy": "0 to 1",
    "focus": "0 to 1",
    "max_weight": "weight",
    "mean_row_max": "weight",
    "mean_distance": "tokens",
    "sink_mass": "share of weight",
}
_LEARNED = "learned_sink_mass"
_ROWS = 128  # query rows recomputed in one go


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of every row of one layer; `allowed` is what n(q) counts after sinks were removed, if they were.

    entropy, row_max, distance  [H, Q];  column_sum [H, K];  allowed [Q];  counted [H, Q] rows that have any weight
    expected [K] column sums of a uniform head;  sink_mass [H]
    """

    entropy: Floats
    row_max: Floats
    distance: Floats
    column_sum: Floats
    allowed: Floats
    counted: Bools
    expected: Floats
    sink_mass: Floats


def run(request: AnalysisRequest) -> HeadScores:
    """Statistics of every head of the run."""
    exclude = bool(request.params["exclude_sinks"])
    trace = request.trace
    sinks = find_sinks(trace, request.tokens)
    layers, heads = len(trace.layers), trace.heads
    learned = any(layer is not None and layer.sinks is not None for layer in trace.layers)
    units = {**UNITS, _LEARNED: "share of weight"} if learned else UNITS
    metrics = {name: np.full((layers, heads), np.nan) for name in units}  # [L, H]
    looked_at = np.full((layers, len(request.tokens)), np.nan)  # [L, K]
    for index, capture in enumerate(trace.layers):
        if capture is None:
            continue
        request.progress(index / layers, f"layer {index} of {layers}")
        columns = sinks.columns(capture)
        rows = _remaining(capture, columns) if exclude else _captured(capture, columns)
        for name, values in _metrics(rows).items():
            metrics[name][index, : capture.heads] = values
        if learned:
            metrics[_LEARNED][index, : capture.heads] = _learned_sink_mass(capture)
        looked_at[index, slice(*capture.column_span)] = _received(rows)
    return HeadScores(
        metrics={name: values.astype(np.float32) for name, values in metrics.items()},
        units=units,
        received=looked_at.astype(np.float32),
        layer_importance=_mean_of_known(metrics["focus"]).astype(np.float32),
        sinks=sinks.positions,
        info=(*_info(request, sinks, exclude), *padding_line(request.tokens)),
        warnings=_warnings(request, sinks, exclude, learned),
    )


# --------------------------------------------------------------------------------------------- rows of one layer


def _captured(capture: LayerCapture, sinks: tuple[int, ...]) -> RowStatistics:
    """Row statistics as they were streamed during the forward pass."""
    rows = max(int((capture.allowed > 0).sum()), 1)
    return RowStatistics(
        entropy=capture.entropy,
        row_max=capture.row_max,
        distance=capture.distance,
        column_sum=capture.column_sum,
        allowed=capture.allowed.astype(np.float64),
        counted=np.broadcast_to(capture.allowed > 0, capture.entropy.shape),
        expected=expected_column_sum(capture),
        sink_mass=capture.column_sum[:, list(sinks)].sum(axis=1, dtype=np.float64) / rows,
    )


def _remaining(capture: LayerCapture, sinks: tuple[int, ...]) -> RowStatistics:
    """Row statistics after the sink columns are removed and each row is divided by its remainder."""
    heads, queries, keys = capture.heads, len(capture.allowed), len(capture.seen_by)
    is_sink = sink_columns(sinks, keys)
    positions = np.arange(keys)
    allowed = np.zeros(queries)
    expected = np.zeros(keys)
    entropy, row_max, distance = (np.zeros((heads, queries)) for _ in range(3))
    counted = np.zeros((heads, queries), dtype=np.bool_)
    column_sum = np.zeros((heads, keys))
    for start in range(0, queries, _ROWS):
        rows = slice(start, min(start + _ROWS, queries))
        hidden = capture.hidden(rows)
        visible = ~is_sink if hidden is None else ~hidden & ~is_sink  # [q, K] or [K]
        visible = np.broadcast_to(visible, (rows.stop - start, keys))
        allowed[rows] = visible.sum(axis=1)
        share = np.divide(1.0, allowed[rows], out=np.zeros(rows.stop - start), where=allowed[rows] > 0)
        expected += share @ visible
        gap = np.abs(np.arange(start, rows.stop)[:, None] - positions)  # [q, K] tokens
        for head in range(heads):
            p = without_sinks(capture.pattern(head, rows), sinks).astype(np.float64)
            counted[head, rows] = p.any(axis=1)
            entropy[head, rows] = -(p * np.log2(p, out=np.zeros_like(p), where=p > 0)).sum(axis=1)
            row_max[head, rows] = p.max(axis=1)
            distance[head, rows] = np.nan if "distance" in capture.absent else (p * gap).sum(axis=1)
            column_sum[head] += p.sum(axis=0)
    mass = _captured(capture, sinks).sink_mass  # what was removed
    return RowStatistics(entropy, row_max, distance, column_sum, allowed, counted, expected, mass)


def _metrics(rows: RowStatistics) -> dict[str, Floats]:
    """Metric -> [H]."""
    chooses = rows.counted & (rows.allowed >= 2)  # [H, Q] rows with more than one key to choose from
    log_keys = np.log2(np.maximum(rows.allowed, 2))  # [Q]
    normalised = _mean(rows.entropy / log_keys, chooses)
    return {
        "entropy": _mean(rows.entropy, chooses),
        "normalised_entropy": normalised,
        "focus": 1.0 - normalised,
        "max_weight": _largest(rows.row_max, chooses),
        "mean_row_max": _mean(rows.row_max, rows.counted),
        "mean_distance": _mean(rows.distance, rows.counted),
        "sink_mass": rows.sink_mass,
    }


def _received(rows: RowStatistics) -> Floats:
    """[K] corrected received attention, mean over heads; NaN for a key no query sees (or that was left out)."""
    total = rows.column_sum.mean(axis=0, dtype=np.float64)
    corrected: Floats = np.full(total.shape, np.nan)
    np.divide(total, rows.expected, out=corrected, where=rows.expected > 0)
    return corrected


def _learned_sink_mass(capture: LayerCapture) -> Floats:
    """[H] mean weight that rows give to a learned sink beside the keys; 0 where there is none."""
    if capture.sinks is None:
        return np.zeros(capture.heads)
    rows = max(int((capture.allowed > 0).sum()), 1)
    rest: Floats = 1.0 - capture.column_sum.sum(axis=1, dtype=np.float64) / rows
    return rest


def _mean(values: Floats, where: Bools) -> Floats:
    """[H] mean over the rows marked; NaN for a head without any."""
    count = where.sum(axis=1)
    total = np.where(where, values, 0).sum(axis=1, dtype=np.float64)
    mean: Floats = np.full(len(count), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _largest(values: Floats, where: Bools) -> Floats:
    """[H] maximum over the rows marked; NaN for a head without any."""
    top = np.where(where, values, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(where.any(axis=1), top, np.nan)


def _mean_of_known(values: Floats) -> Floats:
    """[L] mean over the heads that have a number; NaN for a layer without any."""
    return _mean(values, ~np.isnan(values))


# --------------------------------------------------------------------------------------------- words


def _info(request: AnalysisRequest, sinks: Sinks, exclude: bool) -> tuple[str, ...]:
    trace = request.trace
    lines = [
        f"{len(request.tokens)} tokens, one number per layer and head; every number is a mean over query rows, except "
        "max_weight, the largest weight.",
        "Entropy, focus and max_weight leave out rows that see a single key: there is nothing to choose.",
        f"Received attention is a mean over the heads of a layer{of_channels(request)}; 1.0 = as much as a uniform "
        "head would give.",
        f"Layer importance is the mean focus of the layer's heads{of_channels(request)}.",
        *_stack_lines(request),
        sinks.describe(),
        _treatment(sinks, exclude),
        f"Computed in {trace.precision}.",
    ]
    lines += [
        f"Layer {layer_name(request, index)} has no attention: {reason}"
        for index, reason in sorted(trace.missing.items())
    ]
    return tuple(lines)


def _stack_lines(request: AnalysisRequest) -> list[str]:
    """What is special about layers whose rows or columns are not all tokens."""
    captures = [(index, layer) for index, layer in enumerate(request.trace.layers) if layer is not None]
    lines = []
    if any(layer.column_span != (0, len(request.tokens)) for _, layer in captures):
        lines.append(
            "Received attention exists for the tokens that are keys of a layer, and sinks are those of its stack."
        )
    reasons: dict[str, list[str]] = {}
    for index, layer in captures:
        if "distance" in layer.absent:
            reasons.setdefault(layer.absent["distance"], []).append(layer_name(request, index))
    return lines + [f"No mean distance in layers {', '.join(names)}. {reason}" for reason, names in reasons.items()]


def _treatment(sinks: Sinks, exclude: bool) -> str:
    if not exclude:
        return "Sinks are included in every figure."
    if not sinks.positions:
        return "Sinks were to be left out; there are none, so nothing was."
    return (
        f"Sinks left out: {sinks.left_out()} are removed and each row is divided by its remainder, in every figure "
        "but sink_mass, the share that was removed. Rows that see only sinks are not counted."
    )


def _warnings(request: AnalysisRequest, sinks: Sinks, exclude: bool, learned: bool) -> tuple[str, ...]:
    lines = ["A focused head is not an important one: these numbers say how a head looks, not what it changes."]
    if len(request.tokens) < 2:
        lines.append("One token only: no row has a choice, so entropy and focus do not exist.")
    if sinks.detected and not exclude:
        lines.append("Sinks raise focus and lower entropy: compare with sinks left out.")
    if learned:
        lines.append(
            f"Some layers have a learned sink beside the keys; their rows sum to less than 1 and {_LEARNED} is the "
            "rest. Entropy covers the weight on tokens only."
        )
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Statistics of heads and layers."""
    return [
        Analysis(
            name="attention_stats",
            title="Head statistics",
            group="Heads",
            summary="How sharp each head is, how far it looks, and which tokens are looked at.",
            run=run,
            produces=HeadScores,
            params=(EXCLUDE_SINKS,),
        )
    ]
