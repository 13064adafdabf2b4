"""The summary of attention: numbers of attention_stats, shares and focus by brute force."""

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import BadInput, LayerCapture, Trace
from attnviz.plugins.analyses import attention_stats, attention_summary
from attnviz.testing import FakeModel, FakeSensors, capture_map, fake_request

(ANALYSIS,) = attention_summary.attnviz_analyses()
(STATS,) = attention_stats.attnviz_analyses()
VALUES = np.random.default_rng(3).normal(size=(6, 4))


def test_layers_heads_and_received_are_those_of_the_head_statistics():
    found, scores = (a.run(fake_request(a, text="abc abc abc")) for a in (ANALYSIS, STATS))
    np.testing.assert_array_equal(found.received, scores.received)
    np.testing.assert_array_equal(found.layer_importance, scores.layer_importance)
    np.testing.assert_array_equal(found.head_importance, scores.metrics["focus"])
    assert len(set(np.round(found.layer_importance[:2], 6))) == 2  # not the same for every layer
    assert len(set(np.round(found.head_importance[0], 6))) > 1


def test_importance_is_the_share_of_the_mean_column_of_sensors_that_all_see():
    request = fake_request(ANALYSIS, FakeSensors(), VALUES)
    found = ANALYSIS.run(request)
    maps = np.array([[layer.pattern(h) for h in range(2)] for layer in request.trace.layers], np.float64)
    np.testing.assert_allclose(found.importance, maps.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.weights, maps.mean(axis=(0, 1)), rtol=1e-6)
    entropy = -(maps * np.log2(maps)).sum(axis=-1)
    np.testing.assert_allclose(found.attending, (1 - entropy / 2).mean(axis=(0, 1)), rtol=1e-4)
    assert (found.features, found.axis) == (("a", "b", "c", "d"), "sensor")
    assert any("not for regulatory figures" in line for line in found.warnings)


def test_early_tokens_of_a_causal_model_win_nothing_by_being_early():
    """Uniform head: every key receives what a uniform head gives, so all shares are the same."""
    request = fake_request(ANALYSIS, FakeModel(), "abcdefgh")
    uniform = np.tril(np.ones((9, 9)) / np.arange(1, 10)[:, None])

    trace = Trace(layers=(capture_map(uniform[None]),))
    found = ANALYSIS.run(dataclasses.replace(request, captured=trace))
    np.testing.assert_allclose(found.importance, 1 / 9, rtol=1e-5)
    np.testing.assert_allclose(found.attending[1:], 0, atol=1e-6)
    assert np.isnan(found.attending[0])  # the first row sees one key: it has no choice


def test_features_are_ranked_and_those_nobody_sees_left_out():
    found = ANALYSIS.run(fake_request(ANALYSIS, FakeSensors(), VALUES, map=False))
    assert found.weights is None
    found = dataclasses.replace(found, importance=np.array([0.25, np.nan, 0.5, 0.25]))
    assert found.ranked("importance", 2) == (("c", 0.5), ("a", 0.25))
    assert [name for name, _ in found.ranked("importance")] == ["c", "a", "d"]
    with pytest.raises(BadInput, match="expected importance or attending, got 'weights'"):
        found.ranked("weights")


def test_a_mean_map_of_very_many_features_is_not_made():
    rng = np.random.default_rng(0)
    request = fake_request(ANALYSIS, FakeSensors(), VALUES)
    count = 1025
    tokens = dataclasses.replace(
        request.tokens,
        ids=np.full(count, -1),
        labels=("x",) * count,
        offsets=np.full((count, 2), -1),
        special=np.zeros(count, bool),
        values=None,
        columns=(),
        axis="",
    )
    weights = np.full((1, count, count), 1 / count, np.float32)
    layer = LayerCapture(
        q=None,
        k=None,
        scale=1.0,
        causal=False,
        entropy=rng.random((1, count)),
        row_max=weights.max(axis=2),
        distance=np.zeros((1, count)),
        column_sum=weights.sum(axis=1),
        allowed=np.full(count, count),
        seen_by=np.full(count, count),
        thumbnail=np.zeros((1, 1, 1), np.uint8),
        weights=weights,
    )
    run = dataclasses.replace(request.run, tokens=tokens)
    found = ANALYSIS.run(dataclasses.replace(request, run=run, captured=Trace(layers=(layer,))))
    assert found.weights is None
    assert any("up to 1024 features, here are 1025" in line for line in found.info)
