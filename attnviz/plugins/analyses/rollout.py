"""How much of each token is left in each position after several layers, if attention were all that moves information.

Attention rollout (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers"). With M_l the mean of layer l's
heads and I the identity, which stands for the residual stream:

    Â_l = ½·(M_l + I), each row divided by its sum        R = Â_n · … · Â_1 · Â_0

R[q, k] is the share of position q after layer n that came from the token at k; rows sum to 1, and a causal model never
takes anything from later tokens. A layer without attention moves nothing between positions: its Â is I.

Of a model with encoder and decoder R covers source and target together. A layer of the encoder or of the decoder
changes the rows of its own tokens as above; cross layer n, which works right after layer n of the decoder, adds the
rows of the source to those of the target in the same way, R[target] ← (M·R[source] + R[target]) / (row sum of M + 1).

Misleads because values, MLPs and norms are left out, heads are averaged whether or not they matter, and the residual
stream is given exactly one half in every layer. With depth the product drifts towards the tokens every layer can see.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Analysis, AnalysisRequest, BadInput, LayerCapture, Param, TokenMatrix, Trace, hookimpl
from attnviz.plugins.analyses.names import layer_name
from attnviz.plugins.analyses.padding import padding_line
from attnviz.plugins.analyses.sinks import EXCLUDE_SINKS, Sinks, find_sinks, without_sinks

_ROWS = 256  # query rows of a head recomputed in one go

Square = NDArray[np.float64]  # [S, S]


def run(request: AnalysisRequest) -> TokenMatrix:
    """Rollout up to the layer asked for.

    Raises:
        BadInput: no such layer, or no layer with attention up to it.
    """
    trace, count = request.trace, len(request.tokens)
    sinks = find_sinks(trace, request.tokens)
    exclude = bool(request.params["exclude_sinks"])
    last = _last_layer(trace, request.params["through_layer"])
    rolled = roll(request, last, sinks, exclude=exclude)
    left_out = sinks.positions if exclude else ()
    positions = np.arange(count)
    return TokenMatrix(
        scores=rolled.astype(np.float32),
        rows=positions,
        columns=positions,
        unit="share",
        info=(*_info(request, last, sinks), *padding_line(request.tokens)),
        warnings=_warnings(trace, last, left_out),
    )


def roll(request: AnalysisRequest, last: int, sinks: Sinks, *, exclude: bool) -> Square:
    """R [T, T] from the embedding through layer `last`; the mean over channels, each rolled out on its own."""
    channels = [_roll(request, last, sinks, channel, exclude=exclude) for channel in range(_channels(request))]
    mean: Square = np.mean(channels, axis=0)
    return mean


def _channels(request: AnalysisRequest) -> int:
    """Sequences that attend side by side."""
    return max((card.channels for card in request.card.layers), default=1)


def _roll(request: AnalysisRequest, last: int, sinks: Sinks, channel: int, *, exclude: bool) -> Square:
    rolled = np.eye(len(request.tokens))
    order = _order(request, last)
    for step, index in enumerate(order):
        request.progress(step / len(order), f"layer {step} of {len(order)}")
        capture = request.trace.layers[index]
        if capture is not None:
            own = capture.heads // _channels(request)
            heads = range(channel * own, (channel + 1) * own)
            mean = mean_of_heads(capture, sinks.columns(capture) if exclude else (), heads)
            pass_on(rolled, mean, slice(*capture.row_span), slice(*capture.column_span))
    return rolled


def _order(request: AnalysisRequest, last: int) -> list[int]:
    """Layers in the order in which they work, up to `last`: a cross layer comes right after that of the decoder."""
    cards = request.card.layers[: len(request.trace.layers)]
    turns = {card.index: (card.stack in ("decoder", "cross"), card.number or 0, card.index) for card in cards}
    single = all(not card.stack for card in cards)
    order = list(range(len(request.trace.layers))) if single else sorted(turns, key=lambda index: turns[index])
    return order[: order.index(last) + 1]


def _last_layer(trace: Trace, asked: int | None) -> int:
    """The layer up to which the product goes.

    Raises:
        BadInput: no such layer, or none up to it has attention.
    """
    last = len(trace.layers) - 1 if asked is None else asked
    if last >= len(trace.layers):
        raise BadInput(f"Parameter through_layer: this model has layers 0 to {len(trace.layers) - 1}, got {last}.")
    with_attention = [index for index, capture in enumerate(trace.layers) if capture is not None]
    if last < with_attention[0]:
        raise BadInput(
            f"Parameter through_layer: no layer up to {last} has attention, so nothing moves between tokens. "
            f"The first that has is layer {with_attention[0]}."
        )
    return last


def mean_of_heads(capture: LayerCapture, left_out: tuple[int, ...] = (), heads: range | None = None) -> Square:
    """[Q, K] mean pattern of these heads (None = all) of a layer, sinks removed from each before it enters the mean."""
    queries, heads = len(capture.allowed), heads or range(capture.heads)
    mean = np.zeros((queries, len(capture.seen_by)))
    for start in range(0, queries, _ROWS):
        rows = slice(start, min(start + _ROWS, queries))
        for head in heads:
            pattern = capture.pattern(head, rows)
            mean[rows] += without_sinks(pattern, left_out) if left_out else pattern
    mean /= len(heads)
    return mean


def pass_on(rolled: Square, mean: Square, rows: slice, columns: slice) -> None:
    """One layer: `rolled` [T, T] changes in place in the rows that are the layer's queries. mean [Q, K]"""
    if rows == columns:
        rolled[rows] = with_residual(mean) @ rolled[rows]
    else:
        rolled[rows] = (mean @ rolled[columns] + rolled[rows]) / (1 + mean.sum(axis=1, keepdims=True))


def with_residual(mean: Square) -> Square:
    """Â [S, S]: the mean pattern and the residual stream in equal parts, each row divided by its sum.

    A row without any weight (it sees nothing, or nothing but what was left out) becomes a row of the identity.
    """
    mixed = (mean + np.eye(len(mean))) / 2
    mixed /= mixed.sum(axis=1, keepdims=True)
    return mixed


# --------------------------------------------------------------------------------------------- words


def _info(request: AnalysisRequest, last: int, sinks: Sinks) -> tuple[str, ...]:
    trace = request.trace
    captures = [layer for layer in trace.layers[: last + 1] if layer is not None]
    causal = all(layer.causal for layer in captures)
    mask = "causal: later tokens are exactly 0" if causal else "every query may see later tokens in some layer"
    if any(layer.row_span != (0, len(request.tokens)) for layer in captures):
        mask = "the encoder sees its whole text; the decoder is causal: later tokens of the target are exactly 0"
    lines = [
        f"Attention rollout from the embedding through layer {layer_name(request, last)} of {layer_name(request, 0)} "
        f"to {layer_name(request, len(trace.layers) - 1)} (Abnar & Zuidema 2020).",
        *_stack_lines(request),
        *_channel_lines(request),
        "Row: a position after that layer; column: the token its content came from. Shares from 0 to 1; each row "
        "sums to 1.",
        "Each layer is the mean of its heads and the residual stream in equal parts, rows divided by their sum; layers "
        "are multiplied in float64.",
        f"Mask: {mask}.",
        sinks.describe(),
        _treatment(sinks, exclude=bool(request.params["exclude_sinks"])),
        f"Computed from what was captured in {trace.precision}.",
    ]
    lines += [
        f"Layer {layer_name(request, index)} has no attention: {reason}"
        for index, reason in sorted(trace.missing.items())
    ]
    return tuple(lines)


def _stack_lines(request: AnalysisRequest) -> list[str]:
    if not any(card.stack for card in request.card.layers):
        return []
    return [
        "Source and target together: rows of the source are positions of the encoder, rows of the target positions of "
        "the decoder, whose cross layers take from the source in equal parts with what is there. Layers are taken in "
        "the order in which they work: the encoder's, then decoder 0, cross 0, decoder 1, cross 1 and so on."
    ]


def _channel_lines(request: AnalysisRequest) -> list[str]:
    channels = _channels(request)
    if channels == 1:
        return []
    return [
        f"Each of the {channels} channels attends on its own and was rolled out on its own: shown is the mean of all."
    ]


def _treatment(sinks: Sinks, *, exclude: bool) -> str:
    if not exclude:
        return "Sinks are included."
    if not sinks.positions:
        return "Sinks were to be left out; there are none, so nothing was."
    return (
        f"Sinks left out: in every head {sinks.left_out()} are removed and each row is divided by its remainder; a "
        "position that sees nothing else keeps what it has. What a sink keeps of itself is the residual stream."
    )


def _warnings(trace: Trace, last: int, left_out: tuple[int, ...]) -> tuple[str, ...]:
    lines = [
        "Rollout follows attention weights only: values, MLPs and norms are left out, and the residual stream is given "
        "one half in every layer. A large share is not a cause; compare with an attribution method.",
        "Heads are averaged, and with every layer shares drift towards the tokens that all layers can see, the first "
        "ones above all in a causal model.",
    ]
    missing = [index for index in sorted(trace.missing) if index <= last]
    if missing:
        listed = ", ".join(map(str, missing))
        lines.append(
            f"No attention in layers {listed}: they are taken as the identity, as if nothing moved between tokens "
            "there. If they mix tokens by other means, that is missing here."
        )
    if any(layer is not None and layer.sinks is not None for layer in trace.layers[: last + 1]):
        lines.append(
            "Some layers have a learned sink beside the keys; what it takes has no token, so their rows are divided by "
            "what is left together with the residual stream."
        )
    if left_out:
        lines.append("With sinks left out, what remains of a row is stretched to 1: small weights look large.")
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Attention rollout."""
    return [
        Analysis(
            name="attention_rollout",
            title="Attention rollout",
            group="Attention",
            summary="Which tokens each position is made of after several layers, by attention alone.",
            run=run,
            produces=TokenMatrix,
            params=(
                Param(
                    "through_layer",
                    "int",
                    minimum=0,
                    label="Through layer",
                    help="Last layer of the product, from 0. Empty: the last layer of the model.",
                ),
                EXCLUDE_SINKS,
            ),
        )
    ]
