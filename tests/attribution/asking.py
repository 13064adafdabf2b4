"""How the tests put a question to an analysis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, ModelSpec, Run, Segment, Tokens
from attnviz.plugins.analyses.attribution.engine import Engine
from attnviz.plugins.analyses.attribution.question import ask
from attnviz.registry import load_registry
from attnviz.testing import with_analyses

REGISTRY = load_registry()
PROMPT, COUNT = 8, 12


def analysis(name: str) -> Analysis:
    return REGISTRY.analyses[name]


def random_run(prompt: int = PROMPT, count: int = COUNT, vocabulary: int = 200) -> Tokens:
    """Ids with places in a text: letters, a space after every third; prompt and answer."""
    ids = np.random.default_rng(1).integers(3, vocabulary, count)
    labels = tuple(("x", "y", "z ")[i % 3] for i in range(count))
    stops = np.cumsum([len(label) for label in labels])
    offsets = np.stack([stops - [len(label) for label in labels], stops], axis=1)
    segments = (Segment("text", 0, prompt), Segment("answer", prompt, count))
    return Tokens(ids, labels, offsets, np.zeros(count, bool), "".join(labels), segments)


def request(
    name: str, model: Any, tokens: Tokens | None = None, prompt: int | None = PROMPT, **params: Any
) -> AnalysisRequest:
    tokens = random_run() if tokens is None else tokens
    run = Run("run", ModelSpec("m"), model.card.name, tokens, prompt)
    found = analysis(name)
    captured = model.trace(tokens, found.want) if "attention" in found.requires else None
    return with_analyses(AnalysisRequest(run, model.card, model, found.resolve(params), captured), REGISTRY.analyses)


def answer(
    name: str, model: Any, tokens: Tokens | None = None, prompt: int | None = PROMPT, **params: Any
) -> Attribution:
    result = analysis(name).run(request(name, model, tokens, prompt, **params))
    assert isinstance(result, Attribution)
    return result


def engine(model: Any, name: str = "saliency", **params: Any) -> Engine:
    return Engine(model, ask(request(name, model, **params)), model.card.vocabulary)


def value_of(model: Any, embeddings: Any, tokens: Tokens, target: int, function: str = "log_probability") -> Any:
    """[B] of one target by its definition, from whole logits; `embeddings` [B, n, d]."""
    import torch

    logits = model.unembed(model.states(embeddings, tokens, [target - 1]))[:, 0]
    chosen = int(tokens.ids[target])
    if function == "logit":
        return logits[:, chosen]
    found = torch.log_softmax(logits, -1)
    if function == "entropy":
        return -(found.exp() * found).sum(-1) / np.log(2)
    return found[:, chosen] if function == "log_probability" else found[:, chosen].exp()


def without_answer(tokens: Tokens) -> Tokens:
    return replace(tokens, segments=(Segment("text", 0, len(tokens)),))
