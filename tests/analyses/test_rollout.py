"""Attention rollout against hand-computed products and against loops over paths."""

import dataclasses
import itertools

import numpy as np
import pytest

from attnviz.hooks import BadInput, Trace
from attnviz.plugins.analyses import rollout
from attnviz.plugins.analyses.rollout import mean_of_heads, with_residual
from attnviz.testing import FakeModel, capture, capture_map, fake_request, random_trace

ANALYSIS = rollout.attnviz_analyses()[0]
TEXT = "abcdefghijklmnopqrstuvw"  # 24 tokens with <bos>


def rolled(trace, **params):
    """Result over a trace of our own, with the tokens of TEXT cut to its length."""
    queries = len(next(layer for layer in trace.layers if layer is not None).allowed)
    request = fake_request(ANALYSIS, text=TEXT[: queries - 1], **params)
    return ANALYSIS.run(dataclasses.replace(request, captured=trace))


FIRST = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0]])
SECOND = np.array([[1, 0, 0], [1, 0, 0], [0, 0.5, 0.5]])


def test_two_layers_by_hand():
    """Â_0 = [[1,0,0],[¼,¾,0],[0,½,½]] and Â_1 = [[1,0,0],[½,½,0],[0,¼,¾]]; R = Â_1·Â_0."""
    trace = Trace(layers=(capture_map(FIRST[None]), capture_map(SECOND[None])))
    result = rolled(trace)
    expected = [
        [1, 0, 0],
        [1 / 2 + 1 / 8, 3 / 8, 0],
        [1 / 16, 3 / 16 + 3 / 8, 3 / 8],
    ]
    np.testing.assert_array_equal(result.scores, np.array(expected, np.float32))  # all are sums of powers of two
    assert result.rows.tolist() == result.columns.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(rolled(trace, through_layer=0).scores, [[1, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]])


def test_heads_are_averaged():
    trace = Trace(layers=(capture_map(np.stack([FIRST, SECOND])),))
    np.testing.assert_array_equal(rolled(trace).scores[2], [0, 0.375, 0.625])  # ½·(mean of [0,1,0] and [0,½,½], + I)


def by_paths(trace, last):
    """R[q, k] as a sum over every way from position q after the last layer down to token k."""
    steps = []
    for layer in trace.layers[: last + 1]:
        if layer is None:
            continue
        mean = np.mean([layer.pattern(head) for head in range(layer.heads)], axis=0, dtype=np.float64)
        mixed = mean + np.eye(len(mean))
        steps.append(mixed / mixed.sum(axis=1, keepdims=True))
    count = len(steps[0])
    total = np.zeros((count, count))
    for path in itertools.product(range(count), repeat=len(steps) + 1):  # token, after each layer
        total[path[-1], path[0]] += np.prod([step[path[i + 1], path[i]] for i, step in enumerate(steps)])
    return total


TRACES = {
    "full": {"heads": (4, 4, 4)},
    "sliding windows": {"heads": (4, 4, 4), "windows": (None, 3, 2)},
    "grouped queries": {"heads": (4, 4), "kv_heads": (2, 1)},
    "both ways": {"causal": False},
    "a layer without attention": {"heads": (4, 4, 4), "missing": (1,)},
    "different numbers of heads": {"heads": (2, 4)},
}


@pytest.mark.parametrize("options", TRACES.values(), ids=TRACES.keys())
def test_random_traces_by_all_paths(options):
    trace = random_trace(6, seed=2, **options)
    for last in range(len(trace.layers)):
        result = rolled(trace, through_layer=last)
        np.testing.assert_allclose(result.scores, by_paths(trace, last), atol=1e-6)
        np.testing.assert_allclose(result.scores.sum(axis=1), 1, atol=1e-6)
        assert (result.scores >= 0).all()
        if options.get("causal", True):
            assert (result.scores[np.triu_indices(6, 1)] == 0).all()
    np.testing.assert_array_equal(rolled(trace).scores, result.scores)  # nothing asked: the last layer


def test_heads_that_look_at_themselves_move_nothing():
    trace = Trace(layers=(capture_map(np.stack([np.eye(5)] * 3)), capture_map(np.eye(5)[None])))
    np.testing.assert_array_equal(rolled(trace).scores, np.eye(5))


def test_a_layer_without_attention_is_the_identity_and_says_so():
    trace = random_trace(6, heads=(2, 2, 2), missing=(1,), seed=4)
    result = rolled(trace)
    without = Trace(layers=(trace.layers[0], trace.layers[2]))
    np.testing.assert_array_equal(result.scores, rolled(without).scores)
    assert any("layers 1" in line and "identity" in line for line in result.warnings)
    assert not any("identity" in line for line in rolled(trace, through_layer=0).warnings)


def test_a_learned_sink_is_divided_out_with_the_residual_stream():
    rng = np.random.default_rng(0)
    layer = capture(rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 6, 4)), sinks=np.array([0.0, 2.0]))
    result = rolled(Trace(layers=(layer,)))
    mean = (layer.pattern(0) + layer.pattern(1)).astype(np.float64) / 2
    assert mean.sum(axis=1).max() < 0.95
    expected = [[(mean[q, k] + (q == k)) / (mean[q].sum() + 1) for k in range(6)] for q in range(6)]
    np.testing.assert_allclose(result.scores, expected, atol=1e-6)
    assert any("learned sink" in line for line in result.warnings)


def test_leaving_sinks_out_is_masking_them():
    trace = random_trace(8, seed=5)
    result = rolled(trace, exclude_sinks=True)
    kept = np.ones((8, 8), dtype=bool)
    kept[:, 0] = False  # <bos>, the only sink of random heads this short
    masked = [capture(layer.q, layer.k, scale=layer.scale, visible=kept) for layer in trace.layers]
    expected = rolled(Trace(layers=tuple(masked)))
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(result.scores.sum(axis=1), 1, atol=1e-6)
    assert result.scores[0, 0] == 1  # it sees nothing else and keeps what it has
    assert (result.scores[1:, 0] == 0).all()
    assert any("the columns 0 are removed" in line for line in result.info)


def test_rows_that_see_nothing_keep_what_they_have():
    visible = np.ones((5, 5), dtype=bool)
    visible[:, :2] = False
    rng = np.random.default_rng(0)
    layer = capture(rng.normal(size=(1, 5, 4)), rng.normal(size=(1, 5, 4)), visible=visible)
    np.testing.assert_array_equal(rolled(Trace(layers=(layer,))).scores[:2], np.eye(5)[:2])


def test_long_contexts_in_blocks():
    """More rows than one block, against the whole mean at once."""
    weights = np.tril(np.random.default_rng(1).random((2, 300, 300)))
    weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    mean = weights.mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(mean_of_heads(capture_map(weights)), mean)
    np.testing.assert_allclose(with_residual(mean).sum(axis=1), 1, atol=1e-12)


def test_a_layer_that_is_not_there():
    with pytest.raises(BadInput, match="layers 0 to 2, got 3"):
        ANALYSIS.run(fake_request(ANALYSIS, FakeModel(), through_layer=3))
    trace = random_trace(6, heads=(2, 2), missing=(0,))
    with pytest.raises(BadInput, match="The first that has is layer 1"):
        rolled(trace, through_layer=0)
