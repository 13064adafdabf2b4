"""Attention as an attribution: the rows that predict the targets, against the maps themselves."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.hooks import BadInput, Want
from attnviz.plugins.analyses.rollout import mean_of_heads, with_residual
from tests.attribution.asking import COUNT, PROMPT, answer, random_run
from tests.backends.families import random_tokens

ROWS = slice(PROMPT - 1, COUNT - 1)


@pytest.fixture(params=["gpt2", "llama", "qwen3_next"])
def model(request, models):
    return models(request.param)


def maps(model, want=None):
    """[layers with attention, H, T, T]"""
    trace = model.trace(random_run(), want or Want())
    captures = [layer for layer in trace.layers if layer is not None]
    return captures, np.stack([[c.pattern(h) for h in range(c.heads)] for c in captures])


def test_scores_are_the_mean_rows_that_predict_the_targets(model):
    _, every = maps(model)
    result = answer("attention", model)
    np.testing.assert_allclose(result.scores, every.mean((0, 1))[ROWS, : COUNT - 1], atol=1e-6)
    np.testing.assert_allclose(result.scores.sum(1), 1, atol=1e-5)
    assert not result.signed
    assert result.target_function == "none"
    for row, target in enumerate(range(PROMPT, COUNT)):
        assert not result.scores[row, target:].any()


def test_one_head_of_one_layer(models):
    _, every = maps(models("llama"))
    result = answer("attention", models("llama"), layer=2, head=3)
    np.testing.assert_allclose(result.scores, every[2, 3, ROWS, : COUNT - 1], atol=1e-6)
    with pytest.raises(BadInput, match="Unknown head 4"):
        answer("attention", models("llama"), layer=2, head=4)


def test_words_sum_over_sources_and_average_over_targets(models):
    _, every = maps(models("gpt2"))
    result = answer("attention", models("gpt2"), sources="word", targets="word")
    expected = np.array(
        [
            [
                every.mean((0, 1))[t.index - 1 : t.stop - 1, s.index : s.stop].sum() / (t.stop - t.index)
                for s in result.sources
            ]
            for t in result.targets
        ]
    )
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    assert any(span.stop - span.index > 1 for span in result.targets)


def test_sinks_are_left_out_of_every_head(models):
    _, every = maps(models("gpt2"))
    result = answer("attention", models("gpt2"), exclude_sinks=True)
    sinks = [0]  # the first position, which every query sees
    kept = np.delete(every[:, :, ROWS], sinks, axis=-1)
    kept = (kept / kept.sum(-1, keepdims=True)).mean((0, 1))[:, : COUNT - 2]
    np.testing.assert_allclose(result.scores[:, 1:], kept, atol=1e-5)
    assert not result.scores[:, 0].any()
    assert any("Left out" in line for line in result.info)


def test_rollout_is_the_product_of_the_layers(models):
    captures, _ = maps(models("llama"))
    rolled = np.eye(COUNT)
    for capture in captures:
        rolled = with_residual(mean_of_heads(capture)) @ rolled
    result = answer("attention", models("llama"), reading="rollout")
    np.testing.assert_allclose(result.scores, rolled[ROWS, : COUNT - 1], atol=1e-6)


def test_value_norms_weigh_the_weights(models):
    captures, every = maps(models("llama"), Want(values=True))
    norms = np.stack([c.value_norm for c in captures])
    expected = (every * norms[:, :, None]).mean((0, 1))[ROWS, : COUNT - 1]
    result = answer("attention", models("llama"), reading="value_norm")
    np.testing.assert_allclose(result.scores, expected, rtol=1e-5)
    kept = answer("attention", models("llama"), reading="value_norm", exclude_sinks=True)
    np.testing.assert_array_equal(kept.scores[:, 1:], result.scores[:, 1:])
    assert not kept.scores[:, 0].any()
    assert any("stay as they are" in line for line in kept.info)


def test_what_a_learned_sink_takes_is_said(models):
    result = answer("attention", models("gpt_oss"))
    assert (result.scores.sum(1) < 0.999).all()
    assert any("learned sink, which is no token" in line for line in result.info)
    assert not any("learned sink" in line for line in answer("attention", models("llama")).info)


def test_a_layer_of_the_encoder_has_no_rows_for_a_target(models):
    tokens = random_tokens(models("bart").module())
    start = tokens.decoder_from + 1
    with pytest.raises(BadInput, match="Layer encoder 0: expected rows for these targets"):
        answer("attention", models("bart"), tokens, start, layer=0)
    result = answer("attention", models("bart"), tokens, start)
    np.testing.assert_allclose(result.scores[:, : start - 1].sum(1), 1, atol=1e-5)  # the source
    np.testing.assert_allclose(result.scores[:, start - 1 :].sum(1), 1, atol=1e-5)  # the target so far
