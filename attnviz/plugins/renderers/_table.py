"""One table per kind of result: what the .csv file holds. Header names carry their units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from attnviz.hooks import (
    AttentionPattern,
    Attribution,
    BadInput,
    FeatureAttention,
    Finding,
    HeadScores,
    LensTable,
    SensorImportance,
    Table,
    TokenMatrix,
    TokenScores,
)
from attnviz.plugins.renderers._assets import generated_from, need_tokens, token_spans
from attnviz.plugins.renderers._labels import LEARNED_SINK
from attnviz.plugins.renderers.attribution_text import checked as checked_attribution
from attnviz.plugins.renderers.head_map import roles_of

Cell = str | float | int | None
Rows = Iterator[tuple[Cell, ...]]


def table(finding: Finding) -> tuple[tuple[str, ...], Rows]:
    """(columns, rows) of any result. Missing numbers are None.

    Raises:
        BadInput: a result of an unknown kind.
        ShapeError: a result that does not have one entry per token where it should.
    """
    result = finding.result
    if isinstance(result, AttentionPattern):
        token_spans(finding, result)
        return ("query", "query token", "key", "key token", "weight"), _pattern_rows(finding, result)
    if isinstance(result, HeadScores):
        names = [f"{name} [{result.units[name]}]" for name in result.metrics]
        roles = ("roles",) if result.roles else ()
        return ("layer", "head", *roles, *names), _head_rows(finding, result)
    if isinstance(result, TokenScores):
        need_tokens("TokenScores.scores", len(result.scores), finding)
        return ("position", "id", "token", "role", f"score [{result.unit}]"), _token_rows(finding, result)
    if isinstance(result, TokenMatrix):
        columns = ("target", "target token", "source", "source token", f"score [{result.unit}]")
        return columns, _matrix_rows(finding, result)
    if isinstance(result, Attribution):
        return _attribution_columns(result), _attribution_rows(checked_attribution(finding))
    if isinstance(result, LensTable):
        return _LENS_COLUMNS, _lens_rows(finding, result)
    if isinstance(result, SensorImportance):
        return _sensor_columns(result), _sensor_rows(result)
    if isinstance(result, FeatureAttention):
        return ("Feature", "Attention Score", "Rank", "Times uniform", "Focus of its row"), _feature_rows(result)
    if isinstance(result, Table):
        return result.columns, iter(result.rows)
    raise BadInput(f"No table for a result of kind {result.kind!r}.")


def number(value: Any) -> float | None:
    """A float with the nine digits that tell any two float32 apart; None for NaN."""
    plain = float(value)
    return float(f"{plain:.9g}") if math.isfinite(plain) else None


def role_of(finding: Finding, position: int) -> str:
    """Role of the segment a token lies in; prompt or answer where there are no segments."""
    for segment in finding.tokens.segments:
        if segment.start <= position < segment.stop:
            return segment.role
    answer = generated_from(finding)
    if finding.tokens.segments or answer is None:
        return ""
    return "prompt" if position < answer else "answer"


def _pattern_rows(finding: Finding, result: AttentionPattern) -> Rows:
    """Every key a query may see; behind them what a learned sink takes, which has no key."""
    labels, (queries, keys) = finding.tokens.labels, token_spans(finding, result)
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            if (key <= query or not result.causal) and (result.visible is None or result.visible[i, j]):
                yield query, labels[query], key, labels[key], number(result.weights[i, j])
        if result.sink_share is not None:
            yield query, labels[query], None, LEARNED_SINK, number(result.sink_share[i])


def _head_rows(finding: Finding, result: HeadScores) -> Rows:
    labelled = roles_of(result)
    for layer, head in np.ndindex(next(iter(result.metrics.values())).shape):
        roles = ("; ".join(labelled.get((layer, head), ())),) if result.roles else ()
        name = finding.layer_name(layer)
        metrics = (number(values[layer, head]) for values in result.metrics.values())
        yield int(name) if name.isdecimal() else name, head, *roles, *metrics


def _token_rows(finding: Finding, result: TokenScores) -> Rows:
    for position, label in enumerate(finding.tokens.labels):
        token_id = int(finding.tokens.ids[position])
        yield position, token_id, label, role_of(finding, position), number(result.scores[position])


def _matrix_rows(finding: Finding, result: TokenMatrix) -> Rows:
    labels = finding.tokens.labels
    for i, target in enumerate(result.rows.tolist()):
        for j, source in enumerate(result.columns.tolist()):
            yield target, labels[target], source, labels[source], number(result.scores[i, j])


def _attribution_columns(result: Attribution) -> tuple[str, ...]:
    value = () if result.target_values is None else (f"{result.target_function} of target",)
    delta = () if result.delta is None else (f"delta [{result.unit}]",)
    ends = ("target", "target stop", "target token", "source", "source stop", "source token")
    return (*ends, f"score [{result.unit}]", "share of row", *value, *delta)


def _attribution_rows(result: Attribution) -> Rows:
    for i, target in enumerate(result.targets):
        of_target = [number(values[i]) for values in (result.target_values, result.delta) if values is not None]
        for j, source in enumerate(result.sources):
            ends = (target.index, target.stop, target.label, source.index, source.stop, source.label)
            yield *ends, number(result.scores[i, j]), number(result.normalized[i, j]), *of_target


_LENS_COLUMNS = (
    "site",
    "position",
    "token",
    "rank",
    "predicted id",
    "predicted token",
    "probability",
    "log-probability [nats]",
    "entropy [bits]",
    "KL(model‖lens) [bits]",
    "target id",
    "target token",
    "target log-probability [nats]",
    "target rank",
)


def _lens_rows(finding: Finding, lens: LensTable) -> Rows:
    labels = finding.tokens.labels
    for s, p in np.ndindex(len(lens.sites), len(lens.positions)):
        position, target = int(lens.positions[p]), int(lens.target_ids[p])
        wanted: tuple[Cell, ...] = (None, None, None, None)
        if target >= 0:
            rank = int(lens.target_rank[s, p])
            wanted = (target, lens.labels[target], number(lens.target_logprob[s, p]), rank if rank >= 0 else None)
        for k, (found, log) in enumerate(zip(lens.top_ids[s, p].tolist(), lens.top_logprobs[s, p], strict=True)):
            yield (
                *(lens.sites[s], position, labels[position], k, found, lens.labels[found]),
                *(number(np.exp(np.float64(log))), number(log)),
                *(number(lens.entropy[s, p]), number(lens.kl_model_lens[s, p])),
                *wanted,
            )


def _sensor_columns(result: SensorImportance) -> tuple[str, ...]:
    methods = (f"{name.replace('_', ' ')} [{result.units[name]}]" for name in result.METHODS)
    return ("sensor", "from step", "to step", *methods, "attention of shuffled input", "its standard deviation")


def _sensor_rows(result: SensorImportance) -> Rows:
    """Every sensor over the whole input, then every sensor in each window of time."""
    null = (result.null, result.null_sd)
    for i, sensor in enumerate(result.sensors):
        whole = (getattr(result, name) for name in result.METHODS)
        yield sensor, None, None, *(number(values[i]) for values in (*whole, *null))
    for w, (start, stop) in enumerate(result.windows.tolist()):
        for i, sensor in enumerate(result.sensors):
            within = {"occlusion": result.occlusion_windows, "gradient_x_input": result.gradient_windows}
            numbers = (number(within[name][w, i]) if name in within else None for name in result.METHODS)
            yield sensor, start, stop - 1, *numbers, None, None


def _feature_rows(result: FeatureAttention) -> Rows:
    """From the most attended feature down; those that nothing can see last, without a rank."""
    order = np.argsort(-np.nan_to_num(result.importance, nan=-np.inf), kind="stable")
    known = int(np.isfinite(result.importance).sum())
    for place, i in enumerate(order.tolist(), 1):
        share, attending = number(result.importance[i]), number(result.attending[i])
        times = None if share is None else number(np.float64(share) * known)
        yield result.features[i], share, place if share is not None else None, times, attending
