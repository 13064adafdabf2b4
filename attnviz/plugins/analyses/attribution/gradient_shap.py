"""How much each token contributes to the target, compared with runs of random tokens.

Lundberg & Lee 2017 ("A Unified Approach to Interpreting Model Predictions"), as expected gradients (Erion et al. 2021).
With x' the embeddings of as many tokens drawn evenly from the vocabulary, α even on 0..1, and ε normal noise:

    A_j = E[(x_j − x'_j) ⊙ ∂f/∂x_j (x' + α·(x + ε − x'))]        without noise Σ_j A_j = f(x) − E[f(x')]

The expectation is a mean over samples, so that the sum holds only as far as there are enough of them: delta.

Misleads with few samples, and because what lies between two runs is no text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregation
from attnviz.plugins.analyses.attribution.question import SHARED
from attnviz.plugins.analyses.attribution.sampling import (
    PLACE,
    SEED,
    average,
    batches,
    deviation,
    generator,
    noise,
    noise_in_words,
    noise_scale,
    samples,
)

if TYPE_CHECKING:
    import torch


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors."""
    params = request.params
    how = params["aggregation"]
    about = About(
        name="gradient_shap",
        unit="{}",
        signed=how in SIGNED,
        info=(
            f"GradientSHAP (Lundberg & Lee 2017; Erion et al. 2021): mean of {params['samples']} samples (seed "
            f"{params['seed']}), each at a random place between a run of random tokens and this one: the way from "
            f"there, times the gradient of each target; {AGGREGATIONS[how]}. Sources of several tokens: the sum.",
            "delta: the sum over all sources and the hidden axis, minus the difference between the run and the mean of "
            "the runs of random tokens.",
        ),
        warnings=("A mean over few samples: see delta, and compare another seed.",),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    scale, count = deviation(engine, request), request.params["samples"]
    before = np.zeros(len(engine.question.ids))  # [P] mean over the runs of random tokens

    def between() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for members in batches(engine, request):
            starts, places = _drawn(engine, request.params["seed"], members)
            before[:] += as_array(engine.values(starts)).sum(0) / count
            near = engine.embeddings + noise(engine, request, members, scale) if scale else engine.embeddings
            yield starts + places * (near - starts), engine.embeddings - starts

    scores, sums = average(engine, request, between())
    values = as_array(engine.values(engine.embeddings[None])[0])
    delta = sums - engine.question.by_target(values - before)
    return Rows(
        scores,
        values=engine.question.by_target(values),
        delta=delta.astype(values.dtype),
        info=(
            f"Compared with: random tokens, each drawn evenly from the {engine.vocabulary} of the vocabulary.",
            noise_in_words(request, scale),
        ),
    )


def _drawn(engine: Engine, seed: int, members: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Of some samples the embeddings of random tokens [k, n, d], and places on the way from there [k, 1, 1]."""
    import torch

    starts, places = [], []
    for sample in members:
        drawn = generator(seed, sample, PLACE)
        places.append(drawn.random())
        starts.append(engine.embed(drawn.integers(0, engine.vocabulary, engine.question.count)))
    return torch.stack(starts), torch.tensor(np.array(places)).to(engine.embeddings)[:, None, None]


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """GradientSHAP."""
    return [
        Analysis(
            name="gradient_shap",
            title="GradientSHAP",
            group="Attribution",
            summary="How much each token contributes, compared with runs of random tokens.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(*SHARED, aggregation("sum"), samples(64), noise_scale(0.0), SEED),
            gpu=True,
        )
    ]
