"""Our scores against those of Captum: its plain methods over embeddings, and what it makes of language models.

Sums over the hidden axis are compared at the scale of what is added up: float32 rounds each part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attnviz.hooks import Tokens
from tests.attribution.asking import answer, random_run
from tests.backends.conftest import byte_level_tokenizer
from tests.backends.families import load, random_module

attr = pytest.importorskip("captum.attr")
pytestmark = [pytest.mark.oracles, pytest.mark.filterwarnings("ignore")]  # warnings of Captum are its own affair

BASE, STEPS = 2, 20  # </s>
TEXT, ANSWER = "the cat sat on the mat, then it ran", 5
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "float64"])
FAMILIES = pytest.mark.parametrize("family", ["gpt2", "llama"])


def made(family: str, precision: str, **changes: Any) -> Any:
    import torch

    return random_module(family, **changes).to(getattr(torch, precision)).eval()


def embed(module: Any, ids: Any) -> Any:
    """[1, n, d]"""
    import torch

    return module.get_input_embeddings()(torch.tensor(np.array(ids))[None]).detach()


def explained(module: Any, target: int) -> Any:
    """[B, n, d] -> [B] log-probability of an id after all of it."""

    def forward(embeddings: Any) -> Any:
        return module(inputs_embeds=embeddings).logits[:, -1].log_softmax(-1)[:, target]

    return forward


def saliency(forward: Any, given: Any, other: Any) -> Any:
    return attr.Saliency(forward).attribute(given, abs=True)


def input_x_gradient(forward: Any, given: Any, other: Any) -> Any:
    return attr.InputXGradient(forward).attribute(given)


def integrated_gradients(forward: Any, given: Any, other: Any) -> Any:
    return attr.IntegratedGradients(forward).attribute(given, other, n_steps=STEPS, method="gausslegendre")


def occlusion(forward: Any, given: Any, other: Any) -> Any:
    width = given.shape[-1]  # of an embedding, every number of which gets the score of the token
    return attr.Occlusion(forward).attribute(given, (1, width), baselines=other)[..., :1]


METHODS = {
    saliency: {"aggregation": "abs_sum"},
    input_x_gradient: {},
    integrated_gradients: {"steps": STEPS, "baseline": "eos"},
    occlusion: {"removal": "eos"},
}
"""What Captum does -> what we are asked for."""


@PRECISIONS
@FAMILIES
@pytest.mark.parametrize("theirs", METHODS, ids=lambda theirs: theirs.__name__)
def test_scores_are_those_of_captum(theirs, family, precision):
    tokens = random_run()
    result = answer(theirs.__name__, load(family, made(family, precision), byte_level_tokenizer()), **METHODS[theirs])
    module = made(family, precision)
    for row, target in enumerate(result.targets):
        ids = tokens.ids[: target.index]
        given, other = embed(module, ids), embed(module, np.full(len(ids), BASE))
        found = theirs(explained(module, target.id), given, other)[0].detach()
        expected, size = found.sum(-1).numpy(), float(found.abs().sum(-1).max())
        if theirs is occlusion:
            size = np.abs(result.target_values).max()  # a score is a difference of two such numbers
        np.testing.assert_allclose(result.scores[row, : target.index], expected, rtol=0, atol=1e-5 * size)
        assert not result.scores[row, target.index :].any()


# --------------------------------------------------------------------------------------------- its language models


def asked(family: str, precision: str) -> tuple[Any, Any, Any, Tokens, int, Any]:
    """Our model, a module and a tokenizer for Captum, a run, its first target, and the targets for Captum."""
    import torch

    tokenizer = byte_level_tokenizer()
    changes = {"vocabulary": len(tokenizer)}
    model = load(family, made(family, precision, **changes), tokenizer)
    tokens = model.tokenize(TEXT)
    first = len(tokens) - ANSWER
    return model, made(family, precision, **changes), tokenizer, tokens, first, torch.tensor(tokens.ids[first:].copy())


def prompt(tokenizer: Any, tokens: Tokens, first: int) -> Any:
    given = attr.TextTokenInput(tokenizer.decode(tokens.ids[1:first].tolist()), tokenizer, baselines=BASE)
    assert given.to_model_input()[0].tolist() == tokens.ids[:first].tolist()
    return given


@PRECISIONS
@FAMILIES
def test_captums_gradients_of_a_language_model_are_ours(family, precision):
    model, module, tokenizer, tokens, first, targets = asked(family, precision)
    given, layer = prompt(tokenizer, tokens, first), module.get_input_embeddings()
    theirs = attr.LLMGradientAttribution(attr.LayerGradientXActivation(module, layer), tokenizer)
    found = theirs.attribute(given, target=targets).token_attr.numpy()
    expected = answer("input_x_gradient", model, tokens, first).scores[:, :first]
    size = answer("input_x_gradient", model, tokens, first, aggregation="abs_sum").scores.max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size)


@PRECISIONS
@FAMILIES
def test_captums_integrated_gradients_of_a_language_model_are_ours(family, precision):
    """Of the first target: there an answer that has begun stays as it is while the prompt comes from the baseline."""
    import torch

    model, module, tokenizer, tokens, first, targets = asked(family, precision)
    theirs = attr.LLMGradientAttribution(
        attr.LayerIntegratedGradients(module, module.get_input_embeddings()), tokenizer
    )
    options = {"n_steps": STEPS, "method": "gausslegendre", "baselines": torch.full((1, first), BASE)}
    found = theirs.attribute(prompt(tokenizer, tokens, first), target=targets[:1], **options).token_attr.numpy()
    ours = {"last": first, "steps": STEPS, "baseline": "eos"}
    expected = answer("integrated_gradients", model, tokens, first, **ours).scores
    size = answer("integrated_gradients", model, tokens, first, **ours, aggregation="abs_sum").scores.max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size)


@PRECISIONS
@FAMILIES
def test_captums_ablation_of_a_language_model_is_ours_but_not_by_default(family, precision):
    """By default it goes on from a cache, in a way that transformers 5 does not have any more, and says nothing."""
    model, module, tokenizer, tokens, first, targets = asked(family, precision)
    given, theirs = prompt(tokenizer, tokens, first), attr.LLMAttribution(attr.FeatureAblation(module), tokenizer)
    whole = theirs.attribute(given, target=targets, forward_in_tokens=False).token_attr.numpy()
    result = answer("occlusion", model, tokens, first, removal="eos")
    expected = result.scores[:, :first]
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-5 * np.abs(result.target_values).max())
    default = theirs.attribute(given, target=targets).token_attr.numpy()
    apart = np.abs(default - expected).max(axis=1) / np.abs(expected).max()
    assert apart[0] < 1e-3  # nothing is in the cache yet
    assert apart[1:].max() > 0.5
