"""The pattern shown is the pattern of the head that was asked for."""

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import BadInput, ShapeError, Trace
from attnviz.plugins.analyses import attention_pattern
from attnviz.testing import FakeModel, capture, capture_map, fake_request, random_trace

ANALYSIS = attention_pattern.attnviz_analyses()[0]
TEXT = "abcdefg"  # 8 tokens with <bos>


def pattern(trace=None, **params):
    request = fake_request(ANALYSIS, FakeModel(), TEXT, **params)
    return ANALYSIS.run(request if trace is None else dataclasses.replace(request, captured=trace))


def test_the_previous_token_head_by_hand():
    result = pattern(layer=0, head=0)
    expected = np.eye(8, k=-1)
    expected[0, 0] = 1
    np.testing.assert_allclose(result.weights, expected, atol=1e-6)
    assert (result.layer, result.head, result.causal) == (0, 0, True)
    assert result.weights.dtype == np.float32


def test_a_mean_over_heads_by_hand():
    """Last row: previous token 6, first token 0, uniform 1/8 each, induction (no copy) 0; a quarter each."""
    result = pattern(layer=0, head="mean")
    expected = np.full(8, 1 / 8 / 4)
    expected[0] += 2 / 4
    expected[6] += 1 / 4
    np.testing.assert_allclose(result.weights[7], expected, atol=1e-6)
    assert any("mean of its 4 heads" in line for line in result.info)
    assert any("disagree" in line for line in result.warnings)


def test_a_mean_over_layers_skips_those_without_attention():
    trace = random_trace(8, heads=(3, 3, 3), missing=(1,))
    result = pattern(trace, layer="mean", head=2)
    np.testing.assert_allclose(result.weights, (trace.attention(0, 2) + trace.attention(2, 2)) / 2, atol=1e-6)
    every = pattern(trace, layer="mean", head="mean").weights
    heads = [trace.attention(layer, head) for layer in (0, 2) for head in range(3)]
    np.testing.assert_allclose(every, np.mean(heads, axis=0), atol=1e-6)
    assert any("1 layers without attention left out" in line for line in result.info)


def test_sinks_are_removed_before_the_mean():
    weights = np.array([[[1, 0, 0], [0.8, 0.2, 0], [0.6, 0.1, 0.3]], [[1, 0, 0], [0, 1, 0], [0.5, 0.25, 0.25]]])
    trace = Trace(layers=(capture_map(weights),))
    request = fake_request(ANALYSIS, FakeModel(), "ab", head="mean", exclude_sinks=True)
    result = ANALYSIS.run(dataclasses.replace(request, captured=trace))
    # head 0: [0,1,0], [0,1/4,3/4];  head 1: [0,1,0], [0,1/2,1/2]
    np.testing.assert_allclose(result.weights, [[0, 0, 0], [0, 1, 0], [0, 3 / 8, 5 / 8]], atol=1e-6)
    assert result.sinks == (0,)
    assert any("Rows 0 see nothing else and are zero" in line for line in result.info)


def test_every_row_sums_to_one():
    for params in ({}, {"head": "mean"}, {"layer": "mean", "head": "mean"}):
        np.testing.assert_allclose(pattern(**params).weights.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(pattern(exclude_sinks=True, head="mean").weights[1:].sum(axis=1), 1, atol=1e-5)


def test_thumbnails_are_those_of_every_head():
    trace = random_trace(8, heads=(2, 4, 3), missing=(1,))
    result = pattern(trace)
    assert result.thumbnails.shape == (3, 3, 8, 8)
    for layer, head in ((0, 1), (2, 2)):
        expected = np.round(255 * np.sqrt(trace.attention(layer, head).astype(np.float64)))
        assert np.abs(result.thumbnails[layer, head] - expected).max() <= 1
    assert not result.thumbnails[1].any()  # no attention
    assert not result.thumbnails[0, 2].any()  # layer 0 has two heads
    assert result.missing == {1: "a linear layer: it has no map"}


def learned_sinks(logits=(0.5, -1.0)):
    """Two layers of two heads over 8 tokens; the second layer has a learned sink beside the keys."""
    rng = np.random.default_rng(4)
    plain, second = rng.normal(0, 2, (2, 2, 2, 8, 4))
    return Trace(layers=(capture(*plain), capture(*second, sinks=np.array(logits, np.float32))))


def test_a_row_and_the_share_of_a_learned_sink_sum_to_one():
    """exp(sink) / (exp(sink) + Σ exp(score)), straight from the definition."""
    trace = learned_sinks()
    result = pattern(trace, layer=1, head=1)
    layer = trace.layer(1)
    scores = layer.q[1].astype(np.float64) @ layer.k[1].astype(np.float64).T * layer.scale
    powers = np.where(np.tri(8, dtype=bool), np.exp(scores), 0).sum(axis=1)
    np.testing.assert_allclose(result.sink_share, np.exp(-1.0) / (np.exp(-1.0) + powers), atol=1e-6)
    np.testing.assert_allclose(result.weights.sum(axis=1) + result.sink_share, 1, atol=1e-6)
    assert pattern(trace, layer=0, head=1).sink_share is None
    assert any(f"takes {result.sink_share.mean():.0%} of a row" in line for line in result.info)


def test_a_mean_with_layers_without_a_learned_sink_still_sums_to_one():
    result = pattern(learned_sinks(), layer="mean", head="mean")
    np.testing.assert_allclose(result.weights.sum(axis=1) + result.sink_share, 1, atol=1e-6)
    own = [pattern(learned_sinks(), layer=1, head=head).sink_share for head in (0, 1)]
    np.testing.assert_allclose(result.sink_share, (own[0] + own[1]) / 4, atol=1e-6)


def test_a_row_that_sees_nothing_leaves_all_to_the_learned_sink():
    rng = np.random.default_rng(4)
    seen = np.tri(8, dtype=bool)
    seen[3] = False
    layer = capture(*rng.normal(size=(2, 2, 8, 4)), visible=seen, sinks=np.array([-50.0, 3.0], np.float32))
    result = pattern(Trace(layers=(layer,)))
    assert not result.weights[3].any()
    assert result.sink_share[3] == 1


def test_with_sinks_left_out_the_learned_one_goes_as_well():
    result = pattern(learned_sinks(), layer=1, exclude_sinks=True)
    np.testing.assert_allclose(result.weights[1:].sum(axis=1), 1, atol=1e-6)
    assert result.sink_share is None
    assert any("it is left out as well" in line for line in result.info)


def test_all_heads_bring_the_shares_of_their_learned_sinks():
    trace = learned_sinks()
    result = pattern(trace, layer=1, all_heads=True)
    assert np.isnan(result.every_sink_share[0]).all()
    np.testing.assert_array_equal(result.every_sink_share[1, 0], result.sink_share)
    rows = result.every[1].astype(np.float64).sum(axis=-1)
    np.testing.assert_allclose(rows + result.every_sink_share[1], 1, atol=2e-3)  # half precision
    assert pattern(trace, layer=1, all_heads=True, exclude_sinks=True).every_sink_share is None
    assert pattern(all_heads=True).every_sink_share is None


@pytest.mark.parametrize(
    ("asked", "expected"), [("2:5", (2, 5)), ("-3:", (5, 8)), (":2", (0, 2)), (" 7:99 ", (7, 8)), ("0:8", None)]
)
def test_some_rows_are_those_of_the_whole_map(asked, expected):
    trace = learned_sinks()
    whole, part = pattern(trace, layer=1, head="mean"), pattern(trace, layer=1, head="mean", rows=asked)
    rows = slice(*expected) if expected else slice(None)
    assert part.rows == expected
    np.testing.assert_allclose(part.weights, whole.weights[rows], atol=1e-6)
    np.testing.assert_allclose(part.sink_share, whole.sink_share[rows], atol=1e-6)
    if expected:
        assert f"rows {expected[0]} to {expected[1] - 1} of 8 tokens" in part.info[0]


def test_rows_of_the_answer_are_those_that_predict_it():
    """The answer begins at token 5 of 8: tokens 5, 6, 7 are predicted by rows 4, 5, 6."""
    request = fake_request(ANALYSIS, FakeModel(), TEXT, rows="answer")
    answered = dataclasses.replace(request, run=dataclasses.replace(request.run, generated_from=5))
    result = ANALYSIS.run(answered)
    assert result.rows == (4, 7)
    np.testing.assert_allclose(result.weights, pattern().weights[4:7], atol=1e-6)
    assert "which predict the answer" in result.info[0]
    with pytest.raises(BadInput, match="this run has no answer"):
        ANALYSIS.run(request)


def test_windows_and_sinks_of_some_rows():
    trace = random_trace(8, windows=(3, None))
    whole, part = (
        pattern(trace, exclude_sinks=True, all_heads=True),
        pattern(trace, exclude_sinks=True, all_heads=True, rows="3:6"),
    )
    np.testing.assert_array_equal(part.visible, whole.visible[3:6])
    np.testing.assert_array_equal(part.every_visible, whole.every_visible[:, 3:6])
    np.testing.assert_allclose(part.every, whole.every[:, :, 3:6], atol=5e-4)
    np.testing.assert_allclose(part.weights, whole.weights[3:6], atol=1e-6)


@pytest.mark.parametrize("asked", ["", "some", "5:5", "9:12", "3", "1:2:3", "a:b", ":" * 9, "5:2"])
def test_rows_that_are_none_are_refused(asked):
    with pytest.raises(BadInput, match=r"rows: expected all, answer, or positions such as .* within 0:8, got"):
        pattern(rows=asked)


def test_all_heads_are_in_the_result_when_asked_for():
    trace = random_trace(8, heads=(2, 3, 3), missing=(2,))
    every = pattern(trace, all_heads=True).every
    assert every.shape == (3, 3, 8, 8)
    assert every.dtype == np.float16
    np.testing.assert_allclose(every[1, 2], trace.attention(1, 2), atol=5e-4)
    assert not every[2].any()
    assert pattern(trace).every is None
    left = pattern(trace, all_heads=True, exclude_sinks=True)
    assert not left.every[..., list(left.sinks)].any()


def test_too_many_heads_are_refused_with_the_size(monkeypatch):
    monkeypatch.setattr(attention_pattern, "EVERY_BYTES", 1000)
    with pytest.raises(BadInput, match=r"0 MB \(3 layers × 4 heads × 8 × 8 × 2 bytes\)"):
        pattern(all_heads=True)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"layer": 3}, "Unknown layer 3. This model has layers 0 to 2"),
        ({"layer": 2}, "Layer 2 has no attention: it is linear"),
        ({"layer": 0, "head": 4}, "Unknown head 4. Layer 0 has heads 0 to 3"),
        ({"layer": "mean", "head": 9}, "Unknown head 9"),
    ],
)
def test_what_does_not_exist_is_refused(params, message):
    with pytest.raises(BadInput, match=message):
        pattern(**params)


def test_attention_over_something_else_than_the_tokens_is_refused():
    cross = Trace(layers=(capture_map(np.full((1, 8, 4), 1 / 4), causal=False),))
    with pytest.raises(ShapeError, match=r"layer 0: expected shape \[8, 8\].*got \[8, 4\]"):
        pattern(cross)


def test_mask_window_and_sink_share_are_said():
    result = pattern(layer=1, head=1)
    assert any("at most the last 8" in line for line in result.info)
    assert any("Row q is the row that predicts token q + 1" in line for line in result.info)
    assert any("sink positions 0" in line for line in pattern(layer=0, head=1).warnings)
    assert not any("sink positions" in line for line in pattern(layer=0, head=0).warnings)


def test_the_mask_of_a_window_comes_with_the_pattern():
    """Window 3: query q sees keys q-2 to q. A layer without a window has no mask of its own."""
    trace = random_trace(8, heads=(2, 2), windows=(None, 3))
    band = np.tri(8, dtype=bool) & ~np.tri(8, k=-3, dtype=bool)
    assert pattern(trace, layer=0).visible is None
    np.testing.assert_array_equal(pattern(trace, layer=1).visible, band)
    assert pattern(trace, layer="mean").visible is None  # layer 0 sees everything up to the query
    every = pattern(trace, layer=1, all_heads=True).every_visible
    np.testing.assert_array_equal(every, np.stack([np.tri(8, dtype=bool), band]))
    assert pattern(random_trace(8), all_heads=True).every_visible is None
