"""How much each token really adds: the attention weight times the length of what the head passes on from it.

Kobayashi et al. 2020, "Attention is Not Only a Weight: Analyzing Transformers with Vector Norms": a head adds to
query q the vector A[q, k] · (v_k · W_O) for every key k, and shown is its length, A[q, k] · ‖v_k · W_O‖. A sink draws
much weight and passes on a short vector: it fades here.

The lengths are shown as they are. Rows divided by their sum would look like attention again, and would hide that a head
may add next to nothing to a whole row.

Misleads when lengths are added up: vectors of different keys, and of different heads, may cancel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    BadInput,
    LayerCapture,
    Param,
    TokenMatrix,
    Trace,
    Unavailable,
    Want,
    hookimpl,
)
from attnviz.plugins.analyses.names import head_name, layer_name, of_channels
from attnviz.plugins.analyses.padding import padding_line
from attnviz.plugins.analyses.sinks import find_sinks


def run(request: AnalysisRequest) -> TokenMatrix:
    """The matrix of one head, or the mean over the heads of a layer.

    Raises:
        BadInput: no such layer or head, or a layer without attention.
        Unavailable: the values of this layer are not known, with the reason.
    """
    trace = request.trace
    index = int(request.params["layer"])
    capture = trace.layer(index)
    norms = _norms(capture, layer_name(request, index))
    heads = _heads(capture, index, request.params["head"])
    return TokenMatrix(
        scores=_mean(capture, norms, heads),
        rows=np.arange(*capture.row_span),
        columns=np.arange(*capture.column_span),
        unit="length of the vector added, in the model's own units",
        info=(*_info(request, trace, index, heads, norms), *padding_line(request.tokens)),
        warnings=_warnings(heads),
    )


def _norms(capture: LayerCapture, layer: str) -> NDArray[np.float32]:
    """[H, K] ‖v_k · W_O,h‖."""
    if capture.value_norm is None:
        reason = capture.absent.get("value_norm", "this backend does not give it.")
        raise Unavailable(f"Layer {layer}: what its heads make of each value is not known. {reason}")
    return capture.value_norm.astype(np.float32)


def _heads(capture: LayerCapture, layer: int, head: int | str) -> range:
    if head == "mean":
        return range(capture.heads)
    if not 0 <= int(head) < capture.heads:
        raise BadInput(f"Unknown head {head}. Layer {layer} has heads 0 to {capture.heads - 1}.")
    return range(int(head), int(head) + 1)


def _mean(capture: LayerCapture, norms: NDArray[np.float32], heads: range) -> NDArray[np.float32]:
    """[Q, K] mean over `heads` of A · ‖v · W_O‖."""
    total = np.zeros((len(capture.allowed), len(capture.seen_by)), np.float32)
    for head in heads:
        total += capture.pattern(head) * norms[head]
    mean: NDArray[np.float32] = total / np.float32(len(heads))
    return mean


# --------------------------------------------------------------------------------------------- words


def _info(
    request: AnalysisRequest, trace: Trace, layer: int, heads: range, norms: NDArray[np.float32]
) -> tuple[str, ...]:
    subject = f"mean over its {len(heads)} heads{of_channels(request)}"
    if len(heads) == 1:
        subject = f"head {head_name(request, layer, heads[0])}: nothing was averaged"
    capture = trace.layer(layer)
    mask = "a query sees itself and earlier tokens" if capture.causal else "queries see later tokens as well"
    if capture.row_span != capture.column_span:
        mask = "queries are tokens of the decoder, and see every token of the encoder"
    mask += "; only those within its window" if capture.visible is not None else ""
    return (
        f"Layer {layer_name(request, layer)}, {subject}; {len(request.tokens)} tokens. Rows are queries, columns keys.",
        "Number: attention weight × length of the key's value behind the output projection, ‖A·v·W_O‖ (Kobayashi et "
        "al. 2020): how long a vector this key adds to the query. Rows do not sum to 1.",
        "Taken right behind the output projection: its bias, and a norm or factor after it, are not in it.",
        f"Mask: {mask}.",
        _sink_line(request, trace, layer, heads, norms),
        f"Computed from what was captured in {trace.precision}.",
    )


def _sink_line(request: AnalysisRequest, trace: Trace, layer: int, heads: range, norms: NDArray[np.float32]) -> str:
    """What sinks hold of the weight, and of the lengths."""
    sinks = find_sinks(trace, request.tokens)
    columns = list(sinks.columns(trace.layer(layer)))
    weight = trace.layer(layer).column_sum[list(heads)].astype(np.float64)  # [h, K]
    length = weight * norms[list(heads)]
    if not columns or not length.sum():
        return sinks.describe()
    shares = [float(x[:, columns].sum() / x.sum()) for x in (weight, length)]
    return f"{sinks.describe()} They hold {shares[0]:.0%} of the weight and {shares[1]:.0%} of the length shown here."


def _warnings(heads: range) -> tuple[str, ...]:
    lines = ["A long vector is not yet an effect: what different keys add may cancel, and later layers may ignore it."]
    if len(heads) > 1:
        lines.append("The mean of the heads' lengths is not the length of their sum: heads may cancel one another.")
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Attention weighted by what is passed on."""
    return [
        Analysis(
            name="value_weighted_attention",
            title="Value-weighted attention",
            group="Attention",
            summary="How long a vector each token adds to each query: weight times what the head passes on.",
            run=run,
            produces=TokenMatrix,
            params=(
                Param("layer", "layer", help="Layer from 0. Lengths of different layers are on different scales."),
                Param("head", "head", choices=("mean",), help="Head from 0, or mean: over the heads of the layer."),
            ),
            want=Want(values=True),
        )
    ]
