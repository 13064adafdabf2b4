"""Which tokens are read by attention that the target depends on: a weight counts as much as its gradient says.

With A the weights of a head and f the number that is explained, each layer gives

    Ā_l = mean over its heads of (A ⊙ ∂f/∂A)⁺

the positive part: weights that, were they larger, would raise f. The layers are combined in one of three ways, p being
the position that predicts the target:

    rollout   row p of ∏_l (I + Ā_l) − I, the latest layer on the left: Chefer, Gur & Wolf 2021, "Generic
              Attention-model Explainability …", equations 5 and 6
    mean      the mean over layers of Σ_q Ā_l[q, j], all queries that read j; after Grad-SAM, Barkan et al. 2021
    last      row p of the last layer's Ā: attention times its gradient as in Serrano & Smith 2019, "Is Attention
              Interpretable?", positive part

Misleads because the gradient of a weight moves that weight alone, while the weights of a row share a sum of 1; and a
token that speaks against the target is not told from one without effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Param, Unavailable, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.question import SHARED_AT_THE_RUN

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

COMBINE = {
    "rollout": "layers multiplied with the identity added to each, as in attention rollout, less the identity (Chefer, "
    "Gur & Wolf 2021)",
    "mean": "mean over layers of what all queries together read of a token (after Grad-SAM, Barkan et al. 2021)",
    "last": "the last layer alone (Serrano & Smith 2019)",
}


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors; Unavailable where the model gives no gradients of its attention weights."""
    how = request.params["combine"]
    about = About(
        name="gradient_x_attention",
        unit="{}",
        signed=False,
        info=(
            "Gradient × attention: each attention weight times the gradient of the target with regard to it, where "
            f"that is positive, mean over heads; {COMBINE[how]}. Sources of several tokens: the sum.",
        ),
        warnings=(
            "Only what speaks for a target: a token that speaks against it scores like one without effect.",
            "To first order, of each weight by itself; the weights of a row share a sum.",
        ),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    question = engine.question
    values, maps, gradients = engine.map_gradients()
    if not maps:
        raise Unavailable(f"{request.card.name}: none of its layers gives attention weights.")
    rows = []
    for index, (group, gradient) in enumerate(zip(question.groups, gradients, strict=True)):
        request.progress(index / len(question.targets), f"target {index + 1} of {len(question.targets)}")
        positions = [question.positions[place] for place in range(group.start, group.stop)]
        layers = [_positive(weights, slopes) for weights, slopes in zip(maps, gradient, strict=True)]
        rows.append(as_array(_combined(layers, positions, request.params["combine"])))
    return Rows(question.by_source(np.stack(rows)), values=question.by_target(as_array(values)))


def _positive(weights: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """[H, Q, K] -> [Q, K]"""
    return (weights * slopes).clamp_min(0).mean(dim=0)


def _combined(layers: Sequence[torch.Tensor], positions: Sequence[int], how: str) -> torch.Tensor:
    """[Q, K] of each layer -> [K]; of several positions the sum."""
    import torch

    if how == "mean":
        return torch.stack([layer.sum(dim=0) for layer in layers]).mean(dim=0)
    if how == "last":
        return layers[-1][list(positions)].sum(dim=0)
    start = torch.zeros_like(layers[-1][0])
    start[list(positions)] = 1
    row = start
    for layer in reversed(layers):
        row = row + row @ layer
    return row - start


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Gradient × attention."""
    return [
        Analysis(
            name="gradient_x_attention",
            title="Gradient × attention",
            group="Attribution",
            summary="Which tokens are read by attention that the target depends on.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),  # maps it takes itself, with their gradients
            params=(
                *SHARED_AT_THE_RUN,
                Param(
                    "combine",
                    "choice",
                    default="rollout",
                    choices=tuple(COMBINE),
                    help="How the layers become one: multiplied as in attention rollout, their mean, or the last one "
                    "alone.",
                ),
            ),
            gpu=True,
        )
    ]
