"""Which tokens the position that predicts each target looks at.

Three readings of attention, of the row that predicts the target (position t − 1):

    weight      A[l, h, t−1, j], mean over the heads and layers asked for
    rollout     the product of all layers (Abnar & Zuidema 2020, see rollout.py)
    value_norm  A[l, h, t−1, j] · ‖v_j · W_O‖, mean over the same (Kobayashi et al. 2020, see value_weighted.py)

Of a model with encoder and decoder the source is read in the cross layers and the target's own earlier tokens in the
decoder's, each averaged by itself.

Misleads when it is taken for a reason: a weight says what is read, not what is made of it (Jain & Wallace 2019). Beside
a method with gradients or an occlusion it says how far the two agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    Attribution,
    BadInput,
    Floats,
    LayerCapture,
    Param,
    Unavailable,
    Want,
    hookimpl,
)
from attnviz.plugins.analyses.attribution.answer import About, Rows, attribution
from attnviz.plugins.analyses.attribution.question import RANGE, Question, ask
from attnviz.plugins.analyses.attribution.target_functions import NOTHING
from attnviz.plugins.analyses.names import layer_name
from attnviz.plugins.analyses.rollout import roll
from attnviz.plugins.analyses.sinks import EXCLUDE_SINKS, Sinks, find_sinks, without_sinks

READINGS = ("weight", "rollout", "value_norm")
_UNITS = {"weight": "share", "rollout": "share", "value_norm": "length of the vector added"}


def run(request: AnalysisRequest) -> Attribution:
    """The rows that predict the targets.

    Raises:
        BadInput: no such layer or head, or a layer that has no row for the targets.
        Unavailable: the model does not predict the next token, or its values are not known.
    """
    reading, exclude = request.params["reading"], bool(request.params["exclude_sinks"])
    question = ask(request, NOTHING)
    sinks = find_sinks(request.trace, request.tokens)
    if reading == "rollout":
        rows: Floats = roll(request, len(request.trace.layers) - 1, sinks, exclude=exclude)[question.positions]
        read = "Rollout through all layers (Abnar & Zuidema 2020)"
    else:
        rows, read = _mean_rows(request, question, sinks if exclude else None)
    about = About("attention", _UNITS[reading], False, _info(request, read, sinks), _warnings(reading))
    by_token = question.by_source(rows[:, : question.count])  # [P, C]
    counts = np.array([[span.stop - span.index] for span in question.targets])
    scores = np.add.reduceat(by_token, [group.start for group in question.groups], axis=0) / counts
    return attribution(request, question, Rows(scores.astype(np.float32)), about)


# --------------------------------------------------------------------------------------------- rows


def _mean_rows(request: AnalysisRequest, question: Question, left_out: Sinks | None) -> tuple[Floats, str]:
    """[P, T] the mean of the rows that predict each target token, and what was averaged in words."""
    total = np.zeros((len(question.positions), len(request.tokens)))
    chosen = _layers(request, question)
    by_columns: dict[tuple[int, int], list[int]] = {}
    for index in chosen:
        by_columns.setdefault(request.trace.layer(index).column_span, []).append(index)
    for columns, layers in by_columns.items():
        for step, index in enumerate(layers):
            request.progress(step / len(layers), f"layer {step} of {len(layers)}")
            capture = request.trace.layer(index)
            rows = _rows_of(request, capture, question, () if left_out is None else left_out.columns(capture), index)
            total[:, slice(*columns)] += rows / len(layers)
    heads = "mean of their heads" if request.params["head"] == "mean" else f"head {request.params['head']}"
    names = ", ".join(layer_name(request, index) for index in chosen)
    apart = "; source and target averaged apart, each sums to 1" if len(by_columns) > 1 else ""
    return total, f"Attention of the layers {names}, {heads}{apart}"


def _layers(request: AnalysisRequest, question: Question) -> list[int]:
    """Layers whose rows predict the targets.

    Raises:
        BadInput: the layer asked for has no attention, or none of these rows.
    """
    first, last = question.positions[0], question.positions[-1]
    asked, trace = request.params["layer"], request.trace
    indices = range(len(trace.layers)) if asked == "mean" else [int(asked)]
    found = []
    for index in indices:
        capture = trace.layer(index) if asked != "mean" else trace.layers[index]
        if capture is not None and capture.row_span[0] <= first and last < capture.row_span[1]:
            found.append(index)
    if not found:
        where = "No layer with attention" if asked == "mean" else f"Layer {layer_name(request, int(asked))}"
        raise BadInput(f"{where}: expected rows for these targets, which are the decoder's, got none.")
    return found


def _rows_of(
    request: AnalysisRequest, capture: LayerCapture, question: Question, left_out: Sequence[int], index: int
) -> Floats:
    """[P, K] of one layer, mean over the heads asked for."""
    asked = request.params["head"]
    heads = range(capture.heads) if asked == "mean" else range(int(asked), int(asked) + 1)
    if heads.stop > capture.heads:
        raise BadInput(f"Unknown head {asked}. Layer {index} has heads 0 to {capture.heads - 1}.")
    start = capture.row_span[0]
    rows = slice(question.positions[0] - start, question.positions[-1] + 1 - start)
    total = np.zeros((len(question.positions), len(capture.seen_by)))
    for head in heads:
        pattern = request.attention(index, head, rows)
        if request.params["reading"] == "weight":
            total += without_sinks(pattern, tuple(left_out)) if left_out else pattern
        else:
            lengths = pattern * _norms(request, capture, head, index)
            lengths[:, list(left_out)] = 0
            total += lengths
    mean: Floats = total / len(heads)
    return mean


def _norms(request: AnalysisRequest, capture: LayerCapture, head: int, index: int) -> Floats:
    """[K] ‖v · W_O‖ of a head."""
    if capture.value_norm is None:
        reason = capture.absent.get("value_norm", "this backend does not give it.")
        raise Unavailable(
            f"Layer {layer_name(request, index)}: what its heads make of each value is not known. {reason}"
        )
    norms: Floats = capture.value_norm[head].astype(np.float64)
    return norms


# --------------------------------------------------------------------------------------------- words


def _info(request: AnalysisRequest, read: str, sinks: Sinks) -> tuple[str, ...]:
    treated = "Sinks are included."
    if request.params["exclude_sinks"]:
        rest = "stay as they are" if request.params["reading"] == "value_norm" else "are divided by what remains"
        treated = f"Left out: {sinks.left_out()}; the other numbers of a row {rest}."
    if any(capture is not None and capture.sinks is not None for capture in request.trace.layers):
        treated += " A learned sink, which is no token, takes a share of each row: included rows sum to less than 1."
    precision = f"Computed from what was captured in {request.trace.precision}."
    return (f"{read}, in the row that predicts each target.", sinks.describe(), treated, precision)


def _warnings(reading: str) -> tuple[str, ...]:
    lines = ["Attention shows what is read, not why the answer came out: compare it with a gradient or an occlusion."]
    if reading == "value_norm":
        lines.append("Lengths of different layers are on different scales; deep layers weigh more in their mean.")
    elif reading == "weight":
        lines.append("A mean over layers and heads hides those that disagree.")
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Attention as an attribution."""
    return [
        Analysis(
            name="attention",
            title="Attention",
            group="Attribution",
            summary="Which tokens the position that predicts each target looks at.",
            run=run,
            produces=Attribution,
            requires=frozenset({"attention", "generation"}),
            want=Want(values=True),
            params=(
                *RANGE,
                Param(
                    "reading",
                    "choice",
                    default="weight",
                    choices=READINGS,
                    help="The weights themselves, their product through all layers, or weight × length of the value.",
                ),
                Param("layer", "layer", default="mean", choices=("mean",), help="From 0, or mean. Not of a rollout."),
                Param("head", "head", default="mean", choices=("mean",), help="From 0, or mean. Not of a rollout."),
                EXCLUDE_SINKS,
            ),
        )
    ]
