"""Head statistics against hand-computed rows and against loops over every row."""

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import Trace
from attnviz.plugins.analyses import attention_stats
from attnviz.testing import FakeModel, brute_force, capture, capture_map, fake_request, random_trace, visibility

ANALYSIS = attention_stats.attnviz_analyses()[0]
TEXT = "abcdefghijklmnopqrstuvw"  # 24 tokens with <bos>


def statistics(trace, **params):
    """Result over a trace of our own, with the tokens of TEXT cut to its length."""
    queries = len(next(layer for layer in trace.layers if layer is not None).allowed)
    request = fake_request(ANALYSIS, text=TEXT[: queries - 1] or "a", **params)
    if queries == 1:
        request = dataclasses.replace(request, run=dataclasses.replace(request.run, tokens=first_token(request.tokens)))
    return ANALYSIS.run(dataclasses.replace(request, captured=trace))


def first_token(tokens):
    return dataclasses.replace(
        tokens,
        ids=tokens.ids[:1],
        labels=tokens.labels[:1],
        offsets=tokens.offsets[:1],
        special=tokens.special[:1],
        segments=(),
    )


THREE_ROWS = np.array([[[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]])  # [1, 3, 3]


def test_three_rows_by_hand():
    result = statistics(Trace(layers=(capture_map(THREE_ROWS),)))
    expected = {
        "entropy": (1 + 1.5) / 2,  # rows 1 and 2; row 0 has no choice
        "normalised_entropy": (1 / 1 + 1.5 / np.log2(3)) / 2,
        "focus": 1 - (1 / 1 + 1.5 / np.log2(3)) / 2,
        "max_weight": 0.5,  # not the 1 of row 0
        "mean_row_max": (1 + 0.5 + 0.5) / 3,
        "mean_distance": (0 + 0.5 + (0.25 * 2 + 0.25)) / 3,
        "sink_mass": (1 + 0.5 + 0.25) / 3,
    }
    assert set(result.metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(result.metrics[name], [[value]], rtol=1e-6, err_msg=name)
    uniform = [1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3]
    np.testing.assert_allclose(result.received, [[1.75 / uniform[0], 0.75 / uniform[1], 0.5 / uniform[2]]], rtol=1e-6)
    np.testing.assert_allclose(result.layer_importance, [expected["focus"]], rtol=1e-6)
    assert result.sinks == (0,)


def test_three_rows_by_hand_without_the_sink():
    result = statistics(Trace(layers=(capture_map(THREE_ROWS),)), exclude_sinks=True)
    # remaining rows: none, [_, 1], [_, 1/3, 2/3]
    entropy = -(1 / 3 * np.log2(1 / 3) + 2 / 3 * np.log2(2 / 3))
    expected = {
        "entropy": entropy,  # only row 2 still has a choice, of two keys
        "normalised_entropy": entropy,
        "focus": 1 - entropy,
        "max_weight": 2 / 3,
        "mean_row_max": (1 + 2 / 3) / 2,  # rows 1 and 2
        "mean_distance": (0 + 1 / 3) / 2,
        "sink_mass": (1 + 0.5 + 0.25) / 3,  # what was removed
    }
    for name, value in expected.items():
        np.testing.assert_allclose(result.metrics[name], [[value]], rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(result.received, [[np.nan, (1 + 1 / 3) / (1 + 1 / 2), (2 / 3) / (1 / 2)]], rtol=1e-6)
    assert any("Sinks left out: the columns 0" in line for line in result.info)


def slow_metrics(layer, sinks):
    """Every definition once more, with one loop over rows per head."""
    seen = visibility(len(layer.allowed), len(layer.seen_by), causal=layer.causal)
    if layer.visible is not None:
        seen &= layer.visible
    weights = np.stack([layer.pattern(head) for head in range(layer.heads)]).astype(np.float64)
    found = {name: [] for name in attention_stats.UNITS}
    for p in weights:
        rows = [q for q in range(len(p)) if seen[q].any()]
        chooses = [q for q in rows if seen[q].sum() >= 2]
        entropy = {q: -sum(x * np.log2(x) for x in p[q] if x > 0) for q in chooses}
        found["entropy"].append(np.mean(list(entropy.values())))
        found["normalised_entropy"].append(np.mean([h / np.log2(seen[q].sum()) for q, h in entropy.items()]))
        found["focus"].append(1 - found["normalised_entropy"][-1])
        found["max_weight"].append(max(p[q].max() for q in chooses))
        found["mean_row_max"].append(np.mean([p[q].max() for q in rows]))
        found["mean_distance"].append(np.mean([sum(p[q, k] * abs(q - k) for k in range(p.shape[1])) for q in rows]))
        found["sink_mass"].append(np.mean([sum(p[q, k] for k in sinks) for q in rows]))
    received = []
    for k in range(weights.shape[2]):
        who = [q for q in range(weights.shape[1]) if seen[q, k]]
        total = np.mean([sum(p[q, k] for q in who) / len(who) for p in weights])
        received.append(total / np.mean([1 / seen[q].sum() for q in who]))
    return found, received


TRACES = {
    "full": {},
    "sliding windows": {"windows": (None, 5)},
    "grouped queries": {"heads": (4, 4), "kv_heads": (2, 1)},
    "both ways": {"causal": False},
    "a layer without attention": {"heads": (4, 4, 4), "missing": (1,)},
    "layers with different numbers of heads": {"heads": (2, 4)},
}


@pytest.mark.parametrize("options", TRACES.values(), ids=TRACES.keys())
def test_random_traces_by_brute_force(options):
    trace = random_trace(12, seed=3, **options)
    result = statistics(trace)
    for index, layer in enumerate(trace.layers):
        if layer is None:
            assert all(np.isnan(values[index]).all() for values in result.metrics.values())
            assert np.isnan(result.received[index]).all()
            assert np.isnan(result.layer_importance[index])
            assert any("a linear layer" in line for line in result.info)
            continue
        metrics, received = slow_metrics(layer, result.sinks)
        for name, expected in metrics.items():
            np.testing.assert_allclose(result.metrics[name][index, : layer.heads], expected, atol=2e-5, err_msg=name)
            assert np.isnan(result.metrics[name][index, layer.heads :]).all()
        np.testing.assert_allclose(result.received[index], received, rtol=2e-5)
        np.testing.assert_allclose(result.layer_importance[index], np.mean(metrics["focus"]), atol=2e-5)


@pytest.mark.parametrize("options", TRACES.values(), ids=TRACES.keys())
def test_leaving_sinks_out_is_masking_them(options):
    """Removing a column and dividing by the rest is what softmax does when that key is hidden."""
    options = {**options, "causal": options.get("causal", True)}
    trace = random_trace(12, seed=5, **options)
    result = statistics(trace, exclude_sinks=True)
    for index, layer in enumerate(trace.layers):
        if layer is None:
            continue
        kept = np.ones((12, 12), dtype=bool)
        kept[:, list(result.sinks)] = False
        visible = kept if layer.visible is None else kept & layer.visible
        masked = capture(layer.q, layer.k, scale=layer.scale, causal=layer.causal, visible=visible)
        expected = statistics(Trace(layers=(masked,)))
        for name in set(result.metrics) - {"sink_mass"}:
            np.testing.assert_allclose(
                result.metrics[name][index, : layer.heads], expected.metrics[name][0], atol=2e-5, err_msg=name
            )
        others = [k for k in range(12) if k not in result.sinks]
        np.testing.assert_allclose(result.received[index, others], expected.received[0, others], rtol=2e-5)


def test_no_statistic_is_constant_over_heads_or_layers():
    result = statistics(random_trace(16, heads=(4, 4, 4), seed=1))
    for name, values in result.metrics.items():
        assert (np.ptp(values, axis=0) > 1e-3).all(), f"{name} is the same in all layers"
        assert (np.ptp(values, axis=1) > 1e-3).all(), f"{name} is the same in all heads"
    assert np.ptp(result.layer_importance) > 1e-3
    assert (np.ptp(result.received, axis=1) > 1e-3).all()


def test_a_uniform_head_receives_one_everywhere():
    uniform = np.tril(np.ones((9, 9))) / np.arange(1, 10)[:, None]
    result = statistics(Trace(layers=(capture_map(uniform[None]),)))
    np.testing.assert_allclose(result.received, np.ones((1, 9)), rtol=1e-6)
    np.testing.assert_allclose(result.metrics["focus"], 0, atol=1e-6)


def test_the_planted_heads_are_told_apart():
    """Previous token: distance 1 (0 at the first); first token: its whole weight is on the sink; uniform: no focus."""
    result = ANALYSIS.run(fake_request(ANALYSIS, FakeModel(), TEXT))
    count = len(TEXT) + 1
    np.testing.assert_allclose(result.metrics["mean_distance"][0, 0], (count - 1) / count, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["sink_mass"][0, 1], 1, rtol=1e-6)
    np.testing.assert_allclose(result.metrics["focus"][0, :3], [1, 1, 0], atol=1e-6)
    assert np.isnan(result.metrics["focus"][2]).all()


def test_one_token_has_no_entropy_and_says_so():
    result = statistics(Trace(layers=(capture_map(np.ones((2, 1, 1))),)))
    assert np.isnan(result.metrics["entropy"]).all()
    assert np.isnan(result.metrics["max_weight"]).all()
    np.testing.assert_allclose(result.metrics["mean_distance"], 0)
    assert any("One token only" in line for line in result.warnings)


def test_a_learned_sink_takes_what_the_rows_lack():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 6, 4))
    layer = capture(q, k, sinks=np.array([0.0, 2.0]))
    result = statistics(Trace(layers=(layer,)))
    rows = np.stack([layer.pattern(head).sum(axis=1) for head in range(2)])
    np.testing.assert_allclose(result.metrics["learned_sink_mass"], [1 - rows.mean(axis=1)], rtol=1e-5)
    assert any("learned sink" in line for line in result.warnings)


def test_queries_that_see_nothing_do_not_count():
    """Left padding: the first two positions are hidden from everyone, so their rows are empty."""
    visible = np.ones((6, 6), dtype=bool)
    visible[:, :2] = False
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(1, 6, 4)), rng.normal(size=(1, 6, 4))
    padded = statistics(Trace(layers=(capture(q, k, visible=visible),)))
    plain = statistics(Trace(layers=(capture(q[:, 2:], k[:, 2:]),)))
    for name in set(plain.metrics) - {"sink_mass"}:  # the sink is position 0, which is padding in one of them
        np.testing.assert_allclose(padded.metrics[name], plain.metrics[name], rtol=1e-5, err_msg=name)
    assert np.isnan(padded.received[0, :2]).all()
    np.testing.assert_allclose(padded.received[0, 2:], plain.received[0], rtol=1e-5)


def test_brute_force_agrees_with_rows_by_hand():
    found = brute_force(THREE_ROWS, visibility(3, 3, causal=True))
    np.testing.assert_allclose(found.entropy, [[0, 1, 1.5]])
    np.testing.assert_allclose(found.distance, [[0, 0.5, 0.75]])
    np.testing.assert_allclose(found.column_sum, [[1.75, 0.75, 0.5]])
    assert found.allowed.tolist() == [1, 2, 3]
    assert found.seen_by.tolist() == [3, 2, 1]
