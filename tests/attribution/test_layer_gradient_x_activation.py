"""Gradient × activation of a layer, against hooks on the module itself, finite differences, and a known rule."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.hooks import BadInput, Unavailable
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, aggregate
from attnviz.testing import FakeModel, check_analysis, fake_request
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, random_run
from tests.backends.families import SOURCE, random_tokens

NAME = "layer_gradient_x_activation"


def by_hooks(model, layer, target, change=None):
    """log p[target] of the module's own logits from ids, and what a block gives; `change` is added to that."""
    import torch

    held = []

    def hook(module, args, output):
        state = output[0] if isinstance(output, tuple) else output
        state = state.detach() if change is None else state.detach() + change
        held.append(state.requires_grad_())
        return (held[0], *output[1:]) if isinstance(output, tuple) else held[0]

    handle = model.readout.blocks[layer].register_forward_hook(hook)
    try:
        ids = torch.tensor(random_run().ids[:target][None].copy())
        logits = model.module()(input_ids=ids, use_cache=False).logits[0, -1]
    finally:
        handle.remove()
    return torch.log_softmax(logits, -1)[int(random_run().ids[target])], held[0]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("how", AGGREGATIONS)
def test_scores_are_those_of_the_module_itself(exact, layer, how):
    import torch

    result = answer(NAME, exact, layer=layer, aggregation=how)
    for place, target in enumerate(range(PROMPT, COUNT)):
        value, state = by_hooks(exact, layer, target)
        (gradient,) = torch.autograd.grad(value, state)
        expected = aggregate(gradient[0] * state[0].detach(), how)
        np.testing.assert_allclose(result.scores[place, :target], expected, rtol=1e-6, atol=1e-12)
        assert result.target_values[place] == pytest.approx(float(value.detach()), rel=1e-9)
        assert not result.scores[place, target:].any()


def test_a_score_is_a_finite_difference(exact):
    """Of the state made a little larger at one position."""
    import torch

    result, step = answer(NAME, exact, layer=1, last=PROMPT), 1e-5
    with torch.no_grad():
        _, state = by_hooks(exact, 1, PROMPT)
        for source in range(PROMPT):
            change = torch.zeros_like(state)
            change[0, source] = step * state[0, source]
            up, down = (float(by_hooks(exact, 1, PROMPT, sign * change)[0]) for sign in (1, -1))
            assert (up - down) / (2 * step) == pytest.approx(result.scores[0, source], rel=1e-5, abs=1e-8)


def test_in_the_last_layer_all_is_in_the_position_that_predicts(exact):
    for place, row in enumerate(answer(NAME, exact, layer=2, aggregation="l2").scores):
        assert np.flatnonzero(row).tolist() == [PROMPT + place - 1]


def test_all_targets_at_once_are_one_by_one(exact):
    together = answer(NAME, exact, layer=1)
    for place, target in enumerate(range(PROMPT, COUNT)):
        alone = answer(NAME, exact, layer=1, first=target, last=target)
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("family", ["mistral", "gpt_oss", "mamba", "qwen3_next", "gptj", "gemma2"])
def test_other_kinds_of_models(models, family):
    for layer in range(len(models(family).card.layers)):
        result = answer(NAME, models(family), layer=layer)
        assert result.scores.any(axis=1).all()
    plain = answer("saliency", models(family))
    np.testing.assert_allclose(result.target_values, plain.target_values, rtol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_models_with_encoder_and_decoder_are_refused(models, family):
    tokens = random_tokens(models(family).module())
    with pytest.raises(Unavailable, match="none of its layers holds a state of every token"):
        answer(NAME, models(family), tokens, None, layer=0, first=SOURCE + 1)


def test_layers_that_write_over_what_they_are_given_are_refused(models):
    """A norm that works in place."""
    model = models("llama")
    norm = model.module().model.norm
    handle = norm.register_forward_pre_hook(lambda module, args: (args[0].mul_(1.0),))
    try:
        with pytest.raises(Unavailable, match="write over the states"):
            answer(NAME, model, layer=0)
    finally:
        handle.remove()


def test_layers_that_hand_on_embeddings_are_input_times_gradient():
    found, plain = (
        analysis(name).run(fake_request(analysis(name), FakeModel(), "abcabcab", first=2, **params))
        for name, params in ((NAME, {"layer": 1}), ("input_x_gradient", {}))
    )
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_an_unknown_layer_is_refused(models):
    with pytest.raises(BadInput, match=r"Unknown layer 3\. This model has layers 0 to 2"):
        answer(NAME, models("llama"), layer=3)


def test_the_analysis_keeps_the_contract():
    check_analysis(analysis(NAME), fake_request(analysis(NAME), targets="word", layer=0))
