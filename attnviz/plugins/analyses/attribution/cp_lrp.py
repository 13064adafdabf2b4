"""How much of a target's logit comes from each token: relevance that is passed back through the model and conserved.

CP-LRP: Ali et al. 2022, "XAI for Transformers: Better Explanations through Conservative Propagation", with the rules
for gates and activations of Achtibat et al. 2024, "AttnLRP". Attention weights and the scales of norms count as
constants, an activation as its ratio of output to input, and a product of two signals gives half of its relevance to
each. What is left is linear, so that relevance is an embedding times a gradient:

    R_j = Σ_d x_jd · ∂̃f/∂x_jd            Σ_j R_j + (what biases and position embeddings add) = f

f is a logit, or the difference of two, because relevance is conserved of what is linear in the logits only. That the
sum holds is checked for every target: where a model does something that the rules do not know, there is no answer.

Misleads about attention: what made a head look where it looked gets no relevance, only what it found there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Unavailable, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import aggregate
from attnviz.plugins.analyses.attribution.question import CONTRAST, RANGE, TARGET_FUNCTION

LINEAR = replace(
    TARGET_FUNCTION,
    default="logit",
    choices=("contrast", "logit"),
    help="What is explained of each target: its logit, or its logit against another token's (contrast). Relevance is "
    "conserved of these alone.",
)
_LOST = {"float64": 1e-6, "float32": 1e-4}  # of all that is added up; a coarser type has rounded more
_LOST_OTHERWISE = 5e-2

_ABOUT = About(
    name="cp_lrp",
    unit="{}",
    signed=True,
    info=(
        "CP-LRP (Ali et al. 2022; gates and activations as in AttnLRP, Achtibat et al. 2024): relevance of each token, "
        "passed back from the target with attention weights and norms' scales held constant; sum over the hidden axis, "
        "sign kept. Sources of several tokens: the sum.",
        "delta: the sum over all sources, minus what is explained: minus what biases and position embeddings add, "
        "which belongs to no token.",
    ),
    warnings=("What made a head look where it looked gets no relevance: only what it found there does.",),
)


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors; Unavailable where relevance gets lost on its way back."""
    return explain(request, _rows, _ABOUT)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    question = engine.question
    found, relevances = engine.relevance()
    values = question.by_target(as_array(found))
    rows, added, sums = [], [], []
    for index, relevance in enumerate(relevances):
        request.progress(index / len(question.targets), f"target {index + 1} of {len(question.targets)}")
        parts = relevance.gradient * engine.embeddings
        total, size = float(parts.double().sum()), float(parts.double().abs().sum()) + abs(relevance.added)
        _check_conserved(request, total + relevance.added, float(values[index]), size, str(parts.dtype))
        rows.append(as_array(aggregate(parts, "sum")))
        added.append(relevance.added)
        sums.append(total)
    return Rows(
        question.by_source(np.stack(rows)),
        values=values,
        delta=(np.array(sums) - values).astype(values.dtype),
        info=(_added_in_words(np.array(added)),),
    )


def _check_conserved(request: AnalysisRequest, total: float, value: float, size: float, dtype: str) -> None:
    """Raises Unavailable where embeddings and constants do not add up to the value.

    size   of what was added up, without signs
    """
    limit = _LOST.get(dtype.removeprefix("torch."), _LOST_OTHERWISE) * max(size, abs(value))
    if not abs(total - value) <= limit:
        raise Unavailable(
            f"{request.card.name}: of {value:.4g} that is explained, relevance adds up to {total:.4g}. "
            f"{request.card.architecture} has an operation that no rule of CP-LRP is known for; choose another method."
        )


def _added_in_words(added: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    if not added.any():
        return "Biases and position embeddings: this model adds none, so the sources add up to what is explained."
    few, many = added.min(), added.max()
    return f"Biases and position embeddings add {few:.3g} to {many:.3g} to the targets."


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """CP-LRP."""
    return [
        Analysis(
            name="cp_lrp",
            title="CP-LRP",
            group="Attribution",
            summary="How much of the target's logit comes from each token; passed back through the model, conserved.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(LINEAR, CONTRAST, *RANGE),
            gpu=True,
        )
    ]
