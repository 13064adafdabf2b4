"""How much of the target each token's embedding accounts for, if the model were linear around the run.

Shrikumar et al. 2016, "Not Just a Black Box"; Denil et al. 2014. For source j the vector x_j ⊙ ∂f/∂x_j, summed over the
hidden axis: the first-order change of f if the embedding were taken away.

Misleads because a model is not linear, and because an embedding of zeros is no token: the sum of a row is not the
number that is explained.
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
        name="input_x_gradient",
        unit="{}",
        signed=how in SIGNED,
        info=(
            "Input × gradient (Shrikumar et al. 2016): the embedding of each token times the gradient of each target "
            f"with regard to it; {AGGREGATIONS[how]}. Sources of several tokens: the sum.",
        ),
        warnings=("The first-order effect of an embedding of zeros, which is no token. Rows do not add up to f.",),
    )
    return explain(request, partial(gradient_rows, score=lambda g, x: aggregate(g * x, how)), about)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Input times gradient."""
    return [
        Analysis(
            name="input_x_gradient",
            title="Input × gradient",
            group="Attribution",
            summary="How much of the target each token's embedding accounts for, to first order.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(*SHARED_AT_THE_RUN, aggregation("sum")),
            gpu=True,
        )
    ]
