"""Where a small change of a token would change the target most, averaged over runs near this one.

Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise". With ε normal, of standard deviation σ in every
number of every embedding:

    A_j = 1/S · Σ_s ∂f/∂x_j (x + ε_s)

σ is given as a share of the standard deviation of all numbers of the run's embeddings; 0 is saliency itself.

Misleads because the runs near by are no text: noise that is larger than the distance between embeddings asks the model
about something it never read.
"""

from __future__ import annotations

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregation
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN
from attnviz.plugins.analyses.attribution.sampling import (
    SEED,
    average,
    batches,
    deviation,
    noise,
    noise_in_words,
    noise_scale,
    samples,
)


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors."""
    params = request.params
    how = params["aggregation"]
    about = About(
        name="smooth_grad",
        unit="{} per unit of the embedding",
        signed=how in SIGNED,
        info=(
            f"SmoothGrad (Smilkov et al. 2017): the gradient of each target, mean of {params['samples']} runs with "
            f"noise in every embedding (seed {params['seed']}); {AGGREGATIONS[how]}. Sources of several tokens: the "
            "sum.",
        ),
        warnings=("A mean over embeddings with noise, which are no tokens: another noise gives other scores.",),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    scale = deviation(engine, request)
    near = ((engine.embeddings + noise(engine, request, members, scale), None) for members in batches(engine, request))
    scores, _ = average(engine, request, near)
    return Rows(
        scores,
        values=engine.question.by_target(as_array(engine.values(engine.embeddings[None])[0])),
        info=(noise_in_words(request, scale),),
    )


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """SmoothGrad."""
    return [
        Analysis(
            name="smooth_grad",
            title="SmoothGrad",
            group="Attribution",
            summary="Saliency, averaged over runs with noise in their embeddings.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(*SHARED_AT_THE_RUN, aggregation("max_abs"), samples(16), noise_scale(0.1), SEED),
            gpu=True,
        )
    ]
