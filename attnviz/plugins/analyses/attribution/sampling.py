"""Averages of gradients over random variants of a run.

What a token gets in a sample depends on the seed, the sample and its position, not on which targets are asked for:
every sample has generators of its own, and they are drawn from token after token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import AnalysisRequest, Floats, Param
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import SIGNED, aggregate

if TYPE_CHECKING:
    import torch

NOISE, PLACE = 0, 1
"""What a generator is for."""
SEED = Param("seed", "int", default=0, minimum=0, help="The same seed gives the same scores.")


def samples(default: int) -> Param:
    """The parameter, with the method's own default."""
    return Param("samples", "int", default=default, minimum=1, maximum=4096, help="More are steadier, and slower.")


def noise_scale(default: float) -> Param:
    """The parameter, with the method's own default."""
    return Param(
        "noise",
        "float",
        default=default,
        minimum=0,
        maximum=10,
        help="Standard deviation of the noise, as a share of that of all numbers of the run's embeddings.",
    )


def generator(seed: int, sample: int, purpose: int) -> np.random.Generator:
    """Of one sample, for one purpose."""
    return np.random.default_rng([seed, sample, purpose])


def batches(engine: Engine, request: AnalysisRequest) -> Iterator[range]:
    """Samples that are put through the model at once."""
    count = request.params["samples"]
    for start in range(0, count, engine.batch):
        yield range(start, min(start + engine.batch, count))


def deviation(engine: Engine, request: AnalysisRequest) -> float:
    """Standard deviation of the noise: the share asked for of that of all numbers of the whole run's embeddings."""
    share: float = request.params["noise"]
    return share * float(engine.embed(engine.question.tokens.ids).double().std(correction=0))


def noise_in_words(request: AnalysisRequest, scale: float) -> str:
    """What is said of noise of that standard deviation."""
    share = f"{request.params['noise']:g} of that of all numbers of the run's embeddings"
    return f"Noise: standard deviation {scale:.3g}, {share}." if scale else "Noise: none."


def noise(engine: Engine, request: AnalysisRequest, members: Iterable[int], scale: float) -> torch.Tensor:
    """[k, n, d] normal numbers of some samples; `scale`: their standard deviation."""
    import torch

    shape = tuple(engine.embeddings.shape)
    drawn = [generator(request.params["seed"], sample, NOISE).standard_normal(shape) for sample in members]
    return scale * torch.tensor(np.stack(drawn)).to(engine.embeddings)


def average(
    engine: Engine, request: AnalysisRequest, variants: Iterable[tuple[torch.Tensor, torch.Tensor | None]]
) -> tuple[Floats, Floats]:
    """Scores [R, C] of all targets, and their sums [R] over tokens and the hidden axis.

    variants   some samples at a time: embeddings [k, n, d], and what their gradients are multiplied by (None: nothing)

    Vectors are averaged over all samples, then aggregated.
    """
    import torch

    how, count, targets = request.params["aggregation"], request.params["samples"], len(engine.question.targets)
    totals: dict[int, torch.Tensor] = {}  # of signed aggregations [n], which may be averaged; of others [n, d]
    sums, done = np.zeros(targets), 0
    for embeddings, factors in variants:
        for target, gradients in enumerate(engine.gradients(embeddings)[1]):
            share = (done + len(embeddings) * target / targets) / count
            request.progress(share, f"sample {done + 1} of {count}")
            exact = gradients if gradients.dtype == torch.float64 else gradients.float()
            vector = (exact if factors is None else exact * factors).sum(0) / count
            sums[target] += float(vector.sum())
            part = aggregate(vector, how) if how in SIGNED else vector
            totals[target] = part if target not in totals else totals[target] + part
        done += len(embeddings)
    scores = np.stack([as_array(totals[t] if how in SIGNED else aggregate(totals[t], how)) for t in range(targets)])
    return engine.question.by_source(scores), sums
