"""What each position holds in a layer that counts for the target, to first order.

Input × gradient (Shrikumar et al. 2016, "Not Just a Black Box") at the output of a layer instead of the embeddings:
with h_j what the layer hands on at position j,

    A_j = Σ_d h_jd · ∂f/∂h_jd

Seen over the layers it shows where the position that predicts has taken in what it needs: from there on, all is in its
own state.

Misleads when a position is taken for its token: deep in a model a state is made of all that was read before.
"""

from __future__ import annotations

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Param, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregate, aggregation
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN
from attnviz.plugins.analyses.names import layer_name


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors; Unavailable where layers hold no state of every token."""
    how = request.params["aggregation"]
    about = About(
        name="layer_gradient_x_activation",
        unit="{}",
        signed=how in SIGNED,
        info=(
            f"Gradient × activation: what layer {layer_name(request, request.params['layer'])} hands on at each "
            f"position, times the gradient of each target with regard to it; {AGGREGATIONS[how]}. Sources of several "
            "tokens: the sum.",
        ),
        warnings=(
            "A state holds what its position has read, not its token alone.",
            "The first-order effect of a state of zeros. Rows do not add up to f.",
        ),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    question = engine.question
    values, activations, gradients = engine.inner_gradients(request.params["layer"])
    rows = []
    for index, gradient in enumerate(gradients):
        request.progress(index / len(question.targets), f"target {index + 1} of {len(question.targets)}")
        rows.append(as_array(aggregate(gradient * activations, request.params["aggregation"])))
    return Rows(question.by_source(np.stack(rows)), values=question.by_target(as_array(values)))


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Gradient × activation of a layer."""
    return [
        Analysis(
            name="layer_gradient_x_activation",
            title="Layer gradient × activation",
            group="Attribution",
            summary="What each position holds in a layer that counts for the target, to first order.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(*SHARED_AT_THE_RUN, aggregation("sum"), Param("layer", "layer", help="From 0.")),
            gpu=True,
        )
    ]
