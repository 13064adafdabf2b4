"""What stands in for a token when it is taken away: a token of the model that says nothing, or the mean embedding.

Never zeros. No token has an embedding of zeros, and a norm at the beginning of a block makes everything near it look
alike: a path from there has no end of steps that would be enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import AnalysisRequest, BadInput, Param
from attnviz.plugins.analyses.attribution.engine import Engine

if TYPE_CHECKING:
    import torch

_ORDER = ("eos", "pad", "unk", "mask", "bos")
_ROWS = 4096  # of the vocabulary, embedded at once

BASELINE = Param(
    "baseline",
    "choice",
    default="auto",
    choices=("auto", *_ORDER, "mean"),
    help="What a token is compared with: a control token of the model, or the mean embedding of the vocabulary. auto: "
    f"the first of {', '.join(_ORDER)} that the model has.",
)


def baseline(engine: Engine, request: AnalysisRequest, name: str) -> tuple[torch.Tensor, str]:
    """[n, d] the embedding that stands in for each token, and its name in words.

    Raises:
        BadInput: the model has no such token, or its embedding is all zeros.
    """
    if name == "mean":
        return _mean(engine), "the mean embedding of the vocabulary"
    found, words = stand_in(engine, request, name)
    return engine.embed(np.full(engine.question.count, found)), words


def stand_in(engine: Engine, request: AnalysisRequest, name: str) -> tuple[int, str]:
    """Id of the token that BASELINE calls so, and its name in words.

    Raises:
        BadInput: the model has no such token, or its embedding is all zeros.
    """
    known = engine.model.stand_ins
    for kind in _ORDER if name == "auto" else (name,):
        if kind not in known:
            continue
        if bool(engine.embed(np.full(engine.question.count, known[kind])).any(dim=-1).all()):
            return known[kind], f"{request.model.label(known[kind])!r} (the {kind} token)"
        if name != "auto":
            raise BadInput(f"Parameter baseline: the embedding of the {kind} token is all zeros. Choose another.")
    listed = ", ".join([*known, "mean"])
    raise BadInput(f"Parameter baseline: this model has no {name} token to compare with. It has: {listed}.")


def _mean(engine: Engine) -> torch.Tensor:
    """[n, d]; of a model with encoder and decoder the mean of each."""
    import torch

    split, count = engine.question.tokens.decoder_from, engine.question.count
    parts = [(False, count)] if split is None else [(False, split), (True, count - split)]
    means = []
    for decoder, places in parts:
        total = torch.zeros(engine.embeddings.shape[-1], dtype=torch.float64)
        for start in range(0, engine.vocabulary, _ROWS):
            ids = np.arange(start, min(start + _ROWS, engine.vocabulary))
            total = total + engine.model.embed(ids, decoder=decoder).cpu().double().sum(dim=0)
        means.append((total / engine.vocabulary).to(engine.embeddings).expand(places, -1))
    return torch.cat(means)
