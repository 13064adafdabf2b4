"""How strongly each token pulls on the target: the length of the gradient.

‖∂ log p[target] / ∂x_j‖₂, what TokenLense draws as token association. With another target function the same of that.

Misleads like saliency: a size without direction, and near 0 everywhere where the model is certain.
"""

from __future__ import annotations

from functools import partial

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, explain
from attnviz.plugins.analyses.attribution.gradient import gradient_rows
from attnviz.plugins.analyses.attribution.hidden_axis import aggregate
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN

_ABOUT = About(
    name="gradient_norm",
    unit="{} per unit of the embedding",
    signed=False,
    info=(
        "Gradient norm: Euclidean length of the gradient of each target with regard to the embedding of each token. "
        "Sources of several tokens: the sum of their lengths.",
    ),
    warnings=(
        "A gradient says what a small change would do. Where the model is certain it is near 0 for every token.",
    ),
)


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors."""
    return explain(request, partial(gradient_rows, score=lambda g, x: aggregate(g, "l2")), _ABOUT)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Gradient norm."""
    return [
        Analysis(
            name="gradient_norm",
            title="Gradient norm",
            group="Attribution",
            summary="How strongly each token pulls on the target: the length of its gradient.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=SHARED_AT_THE_RUN,
            gpu=True,
        )
    ]
