"""Gradient × attention, against maps and finite differences of one weight at a time, and a known rule."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.hooks import ModelError, Unavailable, Want
from attnviz.plugins.backends import map_gradients
from attnviz.plugins.backends.attention_function import AttentionCall, attention_weights, collecting, per_head
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import earlier_copy, taken_from
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, engine, random_run, value_of
from tests.backends.families import SOURCE, random_tokens

NAME = "gradient_x_attention"
FAMILIES = ("gpt2", "llama", "mistral", "gemma2", "gpt_oss", "qwen3_next", "gptj", "falcon_alibi")


def slopes(model, target):
    """Of one target by its definition: weights and their gradients, [L, H, n, n] each."""
    import torch

    tokens = random_run()
    embeddings = model.embed(tokens.ids[:target])[None].requires_grad_()
    states, maps = model.states_and_maps(embeddings, tokens, [target - 1])
    value = torch.log_softmax(model.unembed(states), -1)[0, 0, int(tokens.ids[target])]
    gradients = torch.autograd.grad(value, list(maps.values()))
    return (torch.stack([part[0].detach() for part in found]).numpy() for found in (list(maps.values()), gradients))


class OneWeightMoved:
    """Attends with one weight moved by `step`."""

    def __init__(self, layer, head, query, key, step):
        self.calls, self.layer, self.place, self.step = 0, layer, (0, head, query, key), step

    def attend(self, call: AttentionCall):
        weights = attention_weights(call, slice(0, call.query.shape[2]))
        if self.calls == self.layer:
            weights = weights.clone()
            weights[self.place] += self.step
        self.calls += 1
        return weights @ per_head(call.value, call)


def test_a_gradient_is_the_finite_difference_of_one_weight(exact):
    import torch

    target, step = PROMPT + 1, 1e-5
    weights, gradients = slopes(exact, target)
    embeddings = exact.embed(random_run().ids[:target])[None]
    size = np.abs(gradients).max()
    last = target - 1
    for layer, head, query, key in [(0, 1, 5, 2), (0, 3, last, 0), (1, 2, 3, 3), (1, 0, 6, 4), (2, 3, last, 2)]:
        ends = []
        for sign in (1, -1):
            with torch.no_grad(), collecting(OneWeightMoved(layer, head, query, key, sign * step)):
                ends.append(float(value_of(exact, embeddings, random_run(), target)))
        assert gradients[layer, head, query, key] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6 * size)
    assert weights.shape == (3, 4, target, target)


@pytest.mark.parametrize("combine", ["rollout", "mean", "last"])
def test_scores_are_their_formulas(exact, combine):
    result = answer(NAME, exact, combine=combine)
    for row, target in zip(result.scores, range(PROMPT, COUNT), strict=True):
        weights, gradients = slopes(exact, target)
        layers = np.maximum(weights * gradients, 0).mean(1)  # [L, n, n]
        one = np.eye(target)
        expected = {
            "rollout": ((one + layers[2]) @ (one + layers[1]) @ (one + layers[0]) - one)[target - 1],
            "mean": layers.sum(1).mean(0),
            "last": layers[2, target - 1],
        }[combine]
        np.testing.assert_allclose(row[:target], expected, rtol=1e-6, atol=1e-12)
        assert not row[target:].any()
    assert (result.scores >= 0).all()
    assert not result.signed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("combine", ["rollout", "mean", "last"])
def test_all_targets_at_once_are_one_by_one(family, combine, models):
    model = models(family)
    together = answer(NAME, model, combine=combine)
    assert together.scores.any(1).all()
    for place, target in enumerate(range(PROMPT, COUNT)):
        alone = answer(NAME, model, combine=combine, first=target, last=target)
        size = together.scores[place].max()
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], atol=1e-5 * size)


def test_a_target_of_several_tokens_is_the_sum_of_their_numbers(exact):
    import torch

    result = answer(NAME, exact, targets="word", combine="last")
    at = next(i for i, span in enumerate(result.targets) if span.stop - span.index > 1)
    span = result.targets[at]
    tokens, positions = random_run(), list(range(span.index - 1, span.stop - 1))
    embeddings = exact.embed(tokens.ids[: span.stop - 1])[None].requires_grad_()
    states, maps = exact.states_and_maps(embeddings, tokens, positions)
    found = torch.log_softmax(exact.unembed(states), -1)[0]
    value = found.gather(-1, torch.tensor(tokens.ids[span.index : span.stop].copy())[:, None]).sum()
    (gradient,) = torch.autograd.grad(value, maps[2])
    expected = (maps[2] * gradient).clamp_min(0)[0].mean(0)[positions].sum(0).detach()
    np.testing.assert_allclose(result.scores[at, : span.stop - 1], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_those_of_a_trace(family, models):
    model, tokens = models(family), random_run()
    _, maps = model.states_and_maps(model.embed(tokens.ids)[None], tokens, [COUNT - 1])
    captured = {i: layer for i, layer in enumerate(model.trace(tokens, Want()).layers) if layer is not None}
    assert maps.keys() == captured.keys()
    for index, layer in captured.items():
        expected = np.stack([layer.pattern(head) for head in range(layer.heads)])
        np.testing.assert_allclose(maps[index][0].detach(), expected, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_models_with_encoder_and_decoder_are_refused(models, family):
    tokens = random_tokens(models(family).module())
    with pytest.raises(Unavailable, match="has an encoder and a decoder"):
        answer(NAME, models(family), tokens, None, first=SOURCE + 1)


def test_too_little_memory_is_one_line(models, monkeypatch):
    monkeypatch.setattr(map_gradients, "free_on", lambda device: ("this machine", 10_000))
    with pytest.raises(ModelError, match=f"weights over {COUNT - 1} tokens need about .* use a shorter prompt"):
        engine(models("llama"), NAME).map_gradients()


def test_the_head_that_copies_is_found():
    """Head 3 of layer 0 reads what is copied; nothing else is read by any head. Two layers, four heads."""
    model, text = FakeModel(), "abcabcab"
    for combine, share in (("mean", 1 / 8), ("rollout", 1 / 4)):
        request = fake_request(analysis(NAME), model, text, first=5, combine=combine)
        result = analysis(NAME).run(request)
        plain = analysis("input_x_gradient").run(fake_request(analysis("input_x_gradient"), model, text, first=5))
        for row, whole, target in zip(result.scores, plain.scores, result.targets, strict=True):
            position = target.index - 1
            assert earlier_copy(request.tokens.ids, position) is not None
            assert np.flatnonzero(row > 1e-9).tolist() == [taken_from(request.tokens.ids, position)]
            np.testing.assert_allclose(row, whole * share, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("combine", ["rollout", "mean", "last"])
def test_the_analysis_keeps_the_contract(combine):
    check_analysis(analysis(NAME), fake_request(analysis(NAME), targets="word", combine=combine))
