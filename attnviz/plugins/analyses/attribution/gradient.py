"""What methods of one gradient per target share: the loop over targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import AnalysisRequest
from attnviz.plugins.analyses.attribution.answer import Rows
from attnviz.plugins.analyses.attribution.engine import Engine, as_array

if TYPE_CHECKING:
    import torch

Score = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def gradient_rows(engine: Engine, request: AnalysisRequest, score: Score) -> Rows:
    """`score` makes [n] numbers of the gradient [n, d] of a target and the embeddings [n, d]; sources are summed."""
    question = engine.question
    values, gradients = engine.gradients(engine.embeddings[None])
    rows = []
    for index, gradient in enumerate(gradients):
        request.progress(index / len(question.targets), f"target {index + 1} of {len(question.targets)}")
        rows.append(as_array(score(gradient[0], engine.embeddings)))
    return Rows(question.by_source(np.stack(rows)), values=question.by_target(as_array(values[0])))
