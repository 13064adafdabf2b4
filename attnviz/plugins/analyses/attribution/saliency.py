"""Where a small change of a token's embedding would change the target most.

Simonyan et al. 2013, "Deep Inside Convolutional Networks"; for text Li et al. 2016, "Visualizing and Understanding
Neural Models in NLP". For source j the vector ∂f/∂x_j, over the hidden axis its largest absolute value, or another
aggregation.

Misleads where a function is flat: a model that is certain has no gradient left, whatever made it certain. A size has no
direction: whether the token speaks for or against the target is not in it.
"""

from __future__ import annotations

from functools import partial

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, explain
from attnviz.plugins.analyses.attribution.gradient import gradient_rows
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregate, aggregation
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors."""
    how = request.params["aggregation"]
    about = About(
        name="saliency",
        unit="{} per unit of the embedding",
        signed=how in SIGNED,
        info=(
            f"Saliency (Simonyan et al. 2013): the gradient of each target with regard to the embedding of each "
            f"token; {AGGREGATIONS[how]}. Sources of several tokens: the sum.",
        ),
        warnings=(
            "A gradient says what a small change would do. Where the model is certain it is near 0 for every token.",
        ),
    )
    return explain(request, partial(gradient_rows, score=lambda g, x: aggregate(g, how)), about)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Saliency."""
    return [
        Analysis(
            name="saliency",
            title="Saliency",
            group="Attribution",
            summary="Where a small change of a token would change the target most.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(*SHARED_AT_THE_RUN, aggregation("max_abs")),
            gpu=True,
        )
    ]
