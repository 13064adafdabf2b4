"""Where a head looks: the pattern of one head, or a mean, with a small picture of every head of the model.

Row q is the query at position q, column k the key it gives the weight A[l, h, q, k] to (Vaswani et al. 2017: softmax of
q·k/√d over the keys q may see). In a causal model row q is the row that predicts token q + 1.

Misleads when read as an explanation: weight says what is read, not whether it changes the answer (Jain & Wallace 2019);
a mean of heads hides heads that disagree; a sink draws weight without giving anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    AttentionPattern,
    BadInput,
    Bools,
    Ints,
    LayerCapture,
    Param,
    Trace,
    hookimpl,
)
from attnviz.plugins.analyses.names import head_name, layer_name, of_channels
from attnviz.plugins.analyses.padding import padding_line
from attnviz.plugins.analyses.sinks import EXCLUDE_SINKS, Sinks, find_sinks, without_sinks

EVERY_BYTES = 64_000_000
"""Largest float16 array of all heads that is put into one result; an offline page of more would not open."""
SINK_SHARE = 0.3
"""A view that gives sinks more than this share of its weight says so."""

Head = tuple[int, int]  # layer, head


def run(request: AnalysisRequest) -> AttentionPattern:
    """The pattern asked for, and thumbnails of all heads."""
    trace = request.trace
    sinks = find_sinks(trace, request.tokens)
    layer, head = _selection(trace, request.params["layer"], request.params["head"])
    chosen = _chosen(trace, layer, head)
    capture = _one_stack([trace.layer(index) for index, _ in chosen], "mean over them")
    excluded = sinks.of(capture) if request.params["exclude_sinks"] else ()
    left_out = sinks.columns(capture) if excluded else ()
    rows = _rows(request, capture)
    every, shares = _every(request, rows, left_out) if request.params["all_heads"] else (None, None)
    if len(chosen) == 1:
        raw, share = _one_pattern(request, *chosen[0], rows)
        weights = without_sinks(raw, left_out) if left_out else raw
    else:
        raw, share = _mean_pattern(trace, chosen, rows, ())
        weights = _mean_pattern(trace, chosen, rows, left_out)[0] if left_out else raw
    return AttentionPattern(
        weights=weights,
        layer=layer,
        head=head,
        thumbnails=_thumbnails(trace),
        thumbnail_sizes=_thumbnail_sizes(trace),
        causal=capture.causal,
        generated_from=request.run.generated_from,
        sinks=excluded,
        columns=capture.keys,
        missing=dict(trace.missing),
        visible=_visible(trace, sorted({index for index, _ in chosen}), rows),
        every=every,
        every_visible=_every_visible(trace, rows) if request.params["all_heads"] else None,
        rows=_row_span(capture, rows),
        sink_share=None if left_out else share,
        every_sink_share=None if left_out else shares,
        info=(*_info(request, chosen, rows, weights, share, sinks, excluded), *padding_line(request.tokens)),
        warnings=_warnings(request, chosen, raw, sinks, excluded),
    )


def _selection(trace: Trace, layer: int | str | None, head: int | str | None) -> tuple[int | str, int | str]:
    """Layer and head, where nothing was chosen the first."""
    first = next(index for index, capture in enumerate(trace.layers) if capture is not None)
    return first if layer is None else layer, 0 if head is None else head


def _chosen(trace: Trace, layer: int | str, head: int | str) -> list[Head]:
    """Every (layer, head) that the view is a mean of, usually one.

    Raises:
        BadInput: no such layer or head, or a layer without attention.
    """
    layers = [i for i, capture in enumerate(trace.layers) if capture is not None] if layer == "mean" else [int(layer)]
    chosen = []
    for index in layers:
        count = trace.layer(index).heads
        if head != "mean" and not 0 <= int(head) < count:
            raise BadInput(f"Unknown head {head}. Layer {index} has heads 0 to {count - 1}.")
        chosen += [(index, h) for h in (range(count) if head == "mean" else [int(head)])]
    return chosen


def _one_stack(captures: Sequence[LayerCapture], what: str) -> LayerCapture:
    """The first of them, if all have the same rows and columns.

    Raises:
        BadInput: they are of several stacks (encoder, decoder, cross).
    """
    if len({(capture.row_span, capture.column_span) for capture in captures}) > 1:
        raise BadInput(
            f"The layers of this run have different rows and columns (encoder, decoder and cross), so there is no "
            f"{what}. Choose one layer."
        )
    return captures[0]


def _rows(request: AnalysisRequest, capture: LayerCapture) -> slice:
    """The rows of this layer that are asked for, first to last; positions are tokens of the run.

    Raises:
        BadInput: not all, answer, or positions of this run; there is no answer, or the layer has no rows of it.
    """
    asked, (first, stop) = request.params["rows"].strip(), capture.row_span
    if asked == "all":
        return slice(0, stop - first)
    if asked == "answer":
        begin = request.run.generated_from
        if begin is None or begin >= len(request.tokens):
            raise BadInput("Parameter rows: this run has no answer. Expected all, or positions such as 0:10.")
        if begin > stop:
            raise BadInput(
                f"Parameter rows: the rows of this layer are tokens {first} to {stop - 1}, which the encoder reads; "
                "the answer has its rows in layers of the decoder and in cross layers."
            )
        return slice(max(begin - 1, first) - first, max(stop - 1 - first, 1))  # row q predicts token q + 1
    positions = re.fullmatch(r"(-?\d{0,9}):(-?\d{0,9})", asked)
    given = slice(*(_position(text) for text in positions.groups())) if positions else slice(0, 0)
    start, end, _ = given.indices(len(request.tokens))
    start, end = max(start, first), min(end, stop)
    if start >= end:
        raise BadInput(
            f"Parameter rows: expected all, answer, or positions such as 10:20 or -5: within {first}:{stop}, "
            f"got {asked!r}."
        )
    return slice(start - first, end - first)


def _row_span(capture: LayerCapture, rows: slice) -> tuple[int, int] | None:
    """Tokens of the run that have a row; None = all of them."""
    if capture.queries is None and rows.stop - rows.start == len(capture.allowed):
        return None
    first = capture.row_span[0]
    return first + rows.start, first + rows.stop


def _position(text: str) -> int | None:
    return int(text) if text.lstrip("-") else None


def _one_pattern(
    request: AnalysisRequest, layer: int, head: int, rows: slice
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """[Q, K] pattern and [Q] share of its learned sink; asked of the model where the trace keeps no maps."""
    capture = request.trace.layer(layer)
    if "q" not in capture.absent:
        return capture.pattern_and_share(head, rows)
    pattern = request.attention(layer, head, rows)
    rest = 1 - pattern.sum(axis=-1, dtype=np.float64)
    return pattern, None if capture.sinks is None else rest.astype(np.float32)


def _mean_pattern(
    trace: Trace, chosen: Sequence[Head], rows: slice, left_out: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """[Q, K] mean of the patterns, sinks removed from each before it enters the mean.

    Also [Q] the mean share of learned sinks, 0 for a layer without one; None where no layer has one.
    """
    total: NDArray[np.float32] | None = None
    shares: list[NDArray[np.float32]] = []
    for layer, head in chosen:
        pattern, share = trace.layer(layer).pattern_and_share(head, rows)
        if left_out:
            pattern = without_sinks(pattern, left_out)
        if share is not None:
            shares.append(share)
        total = pattern if total is None else total + pattern
    assert total is not None  # every view has at least one head
    count = np.float32(len(chosen))
    return total / count, np.sum(shares, axis=0, dtype=np.float32) / count if shares else None


def _thumbnails(trace: Trace) -> NDArray[np.uint8]:
    """[L, H, n, m]; zeros for a layer without attention, beyond the heads of a layer that has fewer, and beyond the
    picture of a layer with fewer rows or columns.
    """
    shapes = [capture.thumbnail.shape[1:] for capture in trace.layers if capture is not None]
    stacked = np.zeros((len(trace.layers), trace.heads, *np.max(shapes, axis=0)), dtype=np.uint8)
    for index, capture in enumerate(trace.layers):
        if capture is not None:
            heads, rows, columns = capture.thumbnail.shape
            stacked[index, :heads, :rows, :columns] = capture.thumbnail
    return stacked


def _thumbnail_sizes(trace: Trace) -> Ints | None:
    """[L, 2] rows and columns of the small pictures where layers differ in them; 0 for a layer without attention."""
    sizes = [(0, 0) if capture is None else capture.thumbnail.shape[1:] for capture in trace.layers]
    different = len(set(sizes) - {(0, 0)}) > 1
    return np.array(sizes, np.int64) if different else None


def _every(
    request: AnalysisRequest, rows: slice, left_out: tuple[int, ...]
) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
    """[L, H, Q, K] float16 pattern of every head.

    Also [L, H, Q] the share of learned sinks, NaN in a layer without one; None where no layer has one.

    Raises:
        BadInput: it would be larger than EVERY_BYTES, or layers have different rows and columns.
    """
    trace = request.trace
    captures = [capture for capture in trace.layers if capture is not None]
    _one_stack(captures, "picture of all heads together")
    shape = (len(trace.layers), trace.heads, rows.stop - rows.start, len(captures[0].seen_by))
    size = 2 * int(np.prod(shape, dtype=np.int64))
    if size > EVERY_BYTES:
        layers, heads, queries, keys = shape
        raise BadInput(
            f"All heads of this run take {size / 1e6:.0f} MB ({layers} layers × {heads} heads × {queries} × {keys} × 2 "
            f"bytes); at most {EVERY_BYTES / 1e6:.0f} MB go into one file. Use a shorter prompt, fewer rows (such as "
            "rows=answer), or save the heads you need one by one."
        )
    every = np.zeros(shape, dtype=np.float16)
    shares = np.full(shape[:3], np.nan, dtype=np.float32)
    for layer, capture in enumerate(trace.layers):
        request.progress(layer / shape[0], f"layer {layer} of {shape[0]}")
        for head in range(0 if capture is None else capture.heads):
            pattern, share = trace.layer(layer).pattern_and_share(head, rows)
            every[layer, head] = without_sinks(pattern, left_out) if left_out else pattern
            if share is not None:
                shares[layer, head] = share
    return every, None if all(capture.sinks is None for capture in captures) else shares


def _visible(trace: Trace, layers: Sequence[int], rows: slice) -> Bools | None:
    """[Q, K] what may be seen in any of the layers; None when one of them has no mask but the causal one."""
    captures = [trace.layer(index) for index in layers]
    if any(capture.visible is None for capture in captures):
        return None
    hidden = [capture.hidden(rows) for capture in captures]
    visible: Bools = np.logical_or.reduce([~blocked for blocked in hidden if blocked is not None])
    return visible


def _every_visible(trace: Trace, rows: slice) -> Bools | None:
    """[L, Q, K] what may be seen in each layer; None when no layer has a mask but the causal one."""
    captures = [capture for capture in trace.layers if capture is not None]
    if all(capture.visible is None for capture in captures):
        return None
    shape = (rows.stop - rows.start, len(captures[0].seen_by))
    visible = np.ones((len(trace.layers), *shape), dtype=np.bool_)
    for index, capture in enumerate(trace.layers):
        blocked = None if capture is None else capture.hidden(rows)
        if blocked is not None:
            visible[index] = ~blocked
    return visible


# --------------------------------------------------------------------------------------------- words


def _info(
    request: AnalysisRequest,
    chosen: Sequence[Head],
    rows: slice,
    weights: NDArray[np.float32],
    share: NDArray[np.float32] | None,
    sinks: Sinks,
    left_out: tuple[int, ...],
) -> tuple[str, ...]:
    trace = request.trace
    lines = [
        f"{_subject(request, chosen)}, {_extent(request, chosen, rows)}.",
        _row_sums(share, left_out),
        _mask(request, chosen),
        sinks.describe(),
        _treatment(weights, request.trace.layer(chosen[0][0]).row_span[0] + rows.start, left_out),
        "Small pictures: largest weight of each block, brightness = √weight in 256 steps, sinks always included.",
        f"Computed from what was captured in {trace.precision}.",
    ]
    lines += [
        f"Layer {layer_name(request, index)} has no attention: {reason}"
        for index, reason in sorted(trace.missing.items())
    ]
    return tuple(lines)


def _extent(request: AnalysisRequest, chosen: Sequence[Head], rows: slice) -> str:
    """How many tokens, and which of them have a row or a column here."""
    capture, count = request.trace.layer(chosen[0][0]), len(request.tokens)
    why = ", which predict the answer" if request.params["rows"].strip() == "answer" else ""
    first = capture.row_span[0]
    shown = f"rows {first + rows.start} to {first + rows.stop - 1} of {count} tokens{why}"
    if capture.queries is not None:
        start, stop = capture.column_span
        return f"{shown}; columns {start} to {stop - 1}"
    return f"{count} tokens" if rows.stop - rows.start == count else shown


def _subject(request: AnalysisRequest, chosen: Sequence[Head]) -> str:
    trace = request.trace
    layers = sorted({layer for layer, _ in chosen})
    heads = sorted({head for _, head in chosen})
    name = layer_name(request, layers[0])
    if len(chosen) == 1:
        return f"Layer {name}, head {head_name(request, layers[0], heads[0])}: nothing was averaged"
    if len(layers) == 1:
        return f"Layer {name}, mean of its {len(heads)} heads{of_channels(request)}"
    which = f"head {heads[0]} of" if len(chosen) == len(layers) and len(heads) == 1 else f"{len(chosen)} heads in"
    left = f" ({len(trace.missing)} layers without attention left out)" if trace.missing else ""
    return f"Mean of {which} {len(layers)} layers{left}{of_channels(request)}"


def _row_sums(share: NDArray[np.float32] | None, left_out: tuple[int, ...]) -> str:
    """What the rows sum to. share [Q] of a learned sink, or None."""
    if share is None:
        return "Weights are shares from 0 to 1; each row sums to 1 over the keys it may see."
    taken = f"A learned sink, which is no token, takes {share.mean(dtype=np.float64):.0%} of a row on average"
    if left_out:
        return (
            f"Weights are shares from 0 to 1; each row sums to 1 over the keys left. {taken}; it is left out as well."
        )
    return f"Weights are shares from 0 to 1; each row and the share of the learned sink sum to 1. {taken}."


def _mask(request: AnalysisRequest, chosen: Sequence[Head]) -> str:
    """Which keys a query may see."""
    layers = {layer for layer, _ in chosen}
    windows = {card.window for card in request.card.layers if card.index in layers and card.window}
    causal = {request.trace.layer(layer).causal for layer in layers}
    base = "causal: a query sees itself and earlier tokens" if causal == {True} else "every query sees every key"
    if len(causal) == 2:
        base = "some layers are causal, others are not"
    if any(request.trace.layer(layer).row_span != request.trace.layer(layer).column_span for layer in layers):
        base = "every token of the decoder sees every token of the encoder. Row q is the row that predicts token q + 1"
    window = f"; at most the last {', '.join(map(str, sorted(windows)))} in layers with a window" if windows else ""
    predicts = " Row q is the row that predicts token q + 1." if causal == {True} else ""
    return f"Mask: {base}{window}.{predicts}"


def _treatment(weights: NDArray[np.float32], first: int, left_out: tuple[int, ...]) -> str:
    if not left_out:
        return "Sinks are included."
    empty = np.flatnonzero(~weights.any(axis=1)) + first
    rows = f" Rows {', '.join(map(str, empty))} see nothing else and are zero." if len(empty) else ""
    listed = ", ".join(map(str, left_out))
    return f"Sinks left out: the columns {listed} are removed and each row is divided by its remainder.{rows}"


def _warnings(
    request: AnalysisRequest,
    chosen: Sequence[Head],
    raw: NDArray[np.float32],
    sinks: Sinks,
    left_out: tuple[int, ...],
) -> tuple[str, ...]:
    lines = ["Attention shows what is read, not why the answer came out: it is not an explanation by itself."]
    if len(chosen) > 1:
        lines.append("A mean hides heads that disagree; look at single heads before drawing a conclusion.")
    capture = request.trace.layer(chosen[0][0])
    share = float(raw[:, list(sinks.columns(capture))].sum() / max(raw.sum(), np.finfo(np.float32).tiny))
    if share > SINK_SHARE:
        where = ", ".join(map(str, sinks.of(capture)))
        verb = "went" if left_out else "goes"
        lines.append(
            f"{share:.0%} of the weight of this view {verb} to sink positions {where}: a resting place, not an "
            "interest."
        )
    if left_out:
        lines.append("With sinks left out, what remains of a row is stretched to 1: small weights look large.")
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """The pattern of a head."""
    return [
        Analysis(
            name="attention_pattern",
            title="Attention pattern",
            group="Attention",
            summary="Where a head looks, with a small picture of every head.",
            run=run,
            produces=AttentionPattern,
            version="2",
            params=(
                Param("layer", "layer", choices=("mean",), help="Layer from 0, or mean: over layers with attention."),
                Param("head", "head", choices=("mean",), help="Head from 0, or mean: over the heads."),
                EXCLUDE_SINKS,
                Param(
                    "rows",
                    "text",
                    default="all",
                    choices=("all", "answer"),
                    help="all; answer: the rows that predict it; or positions such as 100:140 or -20:",
                ),
                Param(
                    "all_heads",
                    "bool",
                    default=False,
                    label="All heads",
                    help=f"Put every head into the result, for an offline page; up to {EVERY_BYTES / 1e6:.0f} MB.",
                ),
            ),
        )
    ]
