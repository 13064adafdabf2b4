"""Analyses of runs with source and target: every stack by itself, in tokens of the run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import AnalysisRequest, BadInput, LayerCard, Segment, Tokens, Trace
from attnviz.plugins.analyses import (
    attention_pattern,
    attention_stats,
    head_roles,
    logit_lens,
    random_tokens,
    rollout,
    value_weighted,
)
from attnviz.plugins.analyses.sinks import find_sinks
from attnviz.testing import FakeModel, capture, capture_map, check_round_trip, fake_request

SOURCE, TARGET = 6, 4
COUNT = SOURCE + TARGET
NAMES = ["encoder 0", "decoder 0", "decoder 1", "cross 0", "cross 1"]


def spans_of(target):
    """Queries and keys of each stack with so many tokens of the target."""
    source, target = (0, SOURCE), (SOURCE, SOURCE + target)
    return {"encoder": (source, source), "decoder": (target, target), "cross": (target, source)}


def placed(layer, stack, target=TARGET):
    """A layer as a backend gives it: which tokens it is over, and no distance between two kinds of tokens."""
    rows, columns = spans_of(target)[stack]
    layer = dataclasses.replace(layer, queries=rows, keys=columns)
    if stack == "cross":
        absent = {"distance": "Of two texts."}
        layer = dataclasses.replace(layer, distance=np.full_like(layer.distance, np.nan), absent=absent)
    return layer


def layer(stack, seed, heads=3, edge=64, target=TARGET):
    rng = np.random.default_rng(seed)
    (start, stop), (first, last) = spans_of(target)[stack]
    q, k = rng.normal(0, 2, (heads, stop - start, 8)), rng.normal(size=(heads, last - first, 8))
    values = rng.uniform(1, 2, (heads, last - first)).astype(np.float32)
    found = placed(capture(q, k, causal=stack == "decoder", edge=edge), stack, target)
    return dataclasses.replace(found, value_norm=values)


def trace_of(edge=64, target=TARGET):
    """An encoder of 2 heads, a decoder of 3 and their cross layers."""
    stacks = [name.split()[0] for name in NAMES]
    return Trace(tuple(layer(s, i, 2 if s == "encoder" else 3, edge, target) for i, s in enumerate(stacks)))


def tokens_of(special=(6,)):
    """a b c d e f | s g h g"""
    labels = tuple("abcdefsghg")
    marks = np.isin(np.arange(COUNT), special)
    ids = np.array([ord(label) for label in labels])
    segments = (Segment("source", 0, SOURCE), Segment("target", SOURCE, COUNT))
    return Tokens(ids, labels, np.full((COUNT, 2), -1), marks, "abcdef\nghg", segments, decoder_from=SOURCE)


def asked(module, trace, tokens=None, **params):
    analysis = module.attnviz_analyses()[0]
    request = fake_request(analysis, **params)
    cards = [
        LayerCard(i, "cross" if "cross" in name else "full", 3, 3, stack=name.split()[0], number=int(name.split()[1]))
        for i, name in enumerate(NAMES)
    ]
    return AnalysisRequest(
        run=dataclasses.replace(request.run, tokens=tokens or tokens_of(), generated_from=7),
        card=dataclasses.replace(request.card, layers=tuple(cards)),
        model=request.model,
        params=request.params,
        captured=trace,
    )


def result_of(module, trace, tokens=None, **params):
    request = asked(module, trace, tokens, **params)
    found = module.attnviz_analyses()[0].run(request)
    check_round_trip(found)
    return found


def maps(found):
    return np.stack([found.pattern(head) for head in range(found.heads)]).astype(np.float64)


# --------------------------------------------------------------------------------------------- pattern


@pytest.mark.parametrize(("index", "stack"), [(0, "encoder"), (2, "decoder"), (4, "cross")])
def test_a_pattern_has_the_rows_and_columns_of_its_stack(index, stack):
    trace = trace_of()
    found = result_of(attention_pattern, trace, layer=index, head=1)
    assert (found.rows, found.columns) == spans_of(TARGET)[stack]
    assert found.causal == (stack == "decoder")
    np.testing.assert_array_equal(found.weights, trace.attention(index, 1))
    (start, stop), (first, last) = spans_of(TARGET)[stack]
    size = f"rows {start} to {stop - 1} of 10 tokens; columns {first} to {last - 1}"
    assert found.info[0] == f"Layer {NAMES[index]}, head 1: nothing was averaged, {size}."
    assert ("every token of the encoder" in found.info[2]) == (stack == "cross")


def test_rows_are_asked_for_as_tokens_of_the_run():
    trace = trace_of()
    for asked_for, rows in {"answer": (6, 9), "7:9": (7, 9), "-2:": (8, 10), "3:8": (6, 8)}.items():
        found = result_of(attention_pattern, trace, layer=3, head=1, rows=asked_for)  # the answer begins with token 7
        assert found.rows == rows
        np.testing.assert_array_equal(found.weights, trace.attention(3, 1)[rows[0] - 6 : rows[1] - 6])
    assert result_of(attention_pattern, trace, layer=0, rows="3:8").rows == (3, 6)
    with pytest.raises(BadInput, match="tokens 0 to 5, which the encoder reads"):
        result_of(attention_pattern, trace, layer=0, rows="answer")
    with pytest.raises(BadInput, match="within 6:10, got '2:5'"):
        result_of(attention_pattern, trace, layer=3, rows="2:5")


def test_small_pictures_of_other_shapes_are_padded_and_their_sizes_said():
    trace = trace_of(edge=3)  # cells of 2 tokens where a side has more than 3
    found = result_of(attention_pattern, trace)
    assert found.thumbnail_sizes.tolist() == [[3, 3], [2, 2], [2, 2], [2, 3], [2, 3]]
    assert found.thumbnails.shape == (5, 3, 3, 3)
    for index, (rows, columns) in enumerate(found.thumbnail_sizes):
        kept = trace.layer(index).thumbnail
        np.testing.assert_array_equal(found.thumbnails[index, : len(kept), :rows, :columns], kept)
        assert not found.thumbnails[index, :, rows:].any()
        assert not found.thumbnails[index, :, :, columns:].any()


def test_layers_of_several_stacks_have_no_mean_and_no_common_picture():
    trace = trace_of()
    for params in ({"layer": "mean"}, {"all_heads": True}):
        with pytest.raises(BadInput, match="different rows and columns"):
            result_of(attention_pattern, trace, **params)
    mean = result_of(attention_pattern, trace, layer=3, head="mean")
    np.testing.assert_allclose(mean.weights, maps(trace.layer(3)).mean(0), atol=1e-6)


# --------------------------------------------------------------------------------------------- sinks


def rests_on(stack, key):
    """A map whose every row looks at one key."""
    rows, columns = (stop - start for start, stop in spans_of(TARGET)[stack])
    weights = np.zeros((1, rows, columns))
    weights[0, :, key] = 1
    return placed(capture_map(weights, causal=False), stack)


def even(stack):
    rows, columns = (stop - start for start, stop in spans_of(TARGET)[stack])
    weights = np.ones((1, rows, columns)) if stack != "decoder" else np.tril(np.ones((1, rows, columns)))
    return placed(capture_map(weights / weights.sum(-1, keepdims=True), causal=stack == "decoder"), stack)


def test_a_sink_belongs_to_its_stack():
    """Key 2 of 6 gets all weight of the cross layers: 6 times the even share; the encoder is even."""
    trace = Trace((even("encoder"), even("decoder"), even("decoder"), rests_on("cross", 2), rests_on("cross", 2)))
    sinks = find_sinks(trace, tokens_of())
    assert [sinks.of(layer) for layer in trace.layers] == [(), (6,), (6,), (2,), (2,)]
    assert [sinks.columns(layer) for layer in trace.layers] == [(), (0,), (0,), (2,), (2,)]
    assert (sinks.detected, sinks.listed, sinks.positions) == ((2,), (6,), (2, 6))
    assert sinks.describe().endswith("encoder none; decoder 6; cross 2.")


def test_what_is_left_out_is_of_the_stack():
    trace = Trace((even("encoder"), even("decoder"), even("decoder"), even("cross"), rests_on("cross", 2)))
    decoder = result_of(attention_pattern, trace, layer=1, exclude_sinks=True)
    assert decoder.sinks == (6,)
    assert (decoder.weights[:, 0] == 0).all()
    np.testing.assert_allclose(decoder.weights[3], [0, 1 / 3, 1 / 3, 1 / 3])
    assert "Rows 6 see nothing else and are zero" in " ".join(decoder.info)
    encoder = result_of(attention_pattern, trace, layer=0, exclude_sinks=True)
    assert encoder.sinks == ()
    np.testing.assert_allclose(encoder.weights, 1 / 6)


def test_a_first_control_token_of_the_source_is_a_sink_of_encoder_and_cross():
    sinks = find_sinks(trace_of(), tokens_of(special=(0, 6)))
    assert sinks.listed == (0, 6)


# --------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("exclude", [False, True])
def test_statistics_are_those_of_each_layer_alone(exclude):
    """Against the same layer as the only one of a plain run over its own tokens."""
    trace = trace_of()
    found = result_of(attention_stats, trace, exclude_sinks=exclude)
    assert found.received.shape == (5, COUNT)
    for index, name in enumerate(NAMES):
        if "cross" in name:
            continue
        here = trace.layer(index)
        (start, stop), _ = spans_of(TARGET)[name.split()[0]]
        alone = dataclasses.replace(here, queries=None, keys=None)
        whole = tokens_of()
        part = Tokens(whole.ids[start:stop], whole.labels[start:stop], whole.offsets[start:stop],
                      whole.special[start:stop], "")  # fmt: skip
        expected = result_of(attention_stats, Trace((alone,)), part, exclude_sinks=exclude)
        for metric, values in expected.metrics.items():
            np.testing.assert_allclose(found.metrics[metric][index, : here.heads], values[0], err_msg=metric)
            assert np.isnan(found.metrics[metric][index, here.heads :]).all()
        np.testing.assert_allclose(found.received[index, start:stop], expected.received[0])
        assert np.isnan(np.delete(found.received[index], np.arange(start, stop))).all()


def test_statistics_of_a_cross_layer_by_hand():
    """Of 4 queries over 6 keys: H, focus, largest weights; a key received relative to 4/6; no distance."""
    trace = trace_of()
    found, weights = result_of(attention_stats, trace), maps(trace.layer(3))
    bits = -(weights * np.log2(weights)).sum(-1)
    np.testing.assert_allclose(found.metrics["entropy"][3], bits.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.metrics["focus"][3], 1 - (bits / np.log2(6)).mean(1), rtol=1e-4)
    np.testing.assert_allclose(found.metrics["max_weight"][3], weights.max((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.received[3, :6], weights.sum(1).mean(0) / (4 / 6), rtol=1e-5)
    assert np.isnan(found.received[3, 6:]).all()
    assert np.isnan(found.metrics["mean_distance"][3:]).all()
    assert not np.isnan(found.metrics["mean_distance"][:3, :2]).any()
    assert "No mean distance in layers cross 0, cross 1. Of two texts." in found.info


def test_a_cross_layer_without_its_sinks_has_no_distance_either():
    trace = Trace((even("encoder"), even("decoder"), even("decoder"), even("cross"), even("cross")))
    found = result_of(attention_stats, trace, tokens_of(special=(0, 6)), exclude_sinks=True)
    assert np.isnan(found.metrics["mean_distance"][3:]).all()
    np.testing.assert_allclose(found.metrics["entropy"][3, 0], np.log2(5))  # key 0 is left out
    assert np.isnan(found.received[3, 0])


# --------------------------------------------------------------------------------------------- values, rollout


@pytest.mark.parametrize(("index", "stack"), [(0, "encoder"), (1, "decoder"), (3, "cross")])
def test_value_weighted_attention_names_its_rows_and_columns(index, stack):
    trace = trace_of()
    found = result_of(value_weighted, trace, layer=index, head=0)
    rows, columns = spans_of(TARGET)[stack]
    assert found.rows.tolist() == list(range(*rows))
    assert found.columns.tolist() == list(range(*columns))
    expected = trace.attention(index, 0) * trace.layer(index).value_norm[0]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    assert found.info[0].startswith(f"Layer {NAMES[index]}, head 0")


def test_rollout_over_source_and_target_by_whole_matrices():
    """Every layer as one [T, T] matrix with the identity in the rows it leaves alone; cross n follows decoder n."""
    trace = trace_of()
    steps = {}
    for index, name in enumerate(NAMES):
        (start, stop), (first, last) = spans_of(TARGET)[name.split()[0]]
        step = np.eye(COUNT)
        step[start:stop, first:last] += maps(trace.layer(index)).mean(0)
        steps[name] = step / step.sum(1, keepdims=True)
    order = ["encoder 0", "decoder 0", "cross 0", "decoder 1", "cross 1"]
    for last in NAMES:
        expected = np.eye(COUNT)
        for name in order[: order.index(last) + 1]:
            expected = steps[name] @ expected
        found = result_of(rollout, trace, through_layer=NAMES.index(last))
        np.testing.assert_allclose(found.scores, expected, atol=1e-6)
        np.testing.assert_allclose(found.scores.sum(1), 1, atol=1e-6)
        assert f"through layer {last} of encoder 0 to cross 1" in found.info[0]
    np.testing.assert_array_equal(result_of(rollout, trace).scores, found.scores)
    assert not found.scores[:SOURCE, SOURCE:].any()  # the encoder never sees the target
    assert not np.triu(found.scores[SOURCE:, SOURCE:], 1).any()


# --------------------------------------------------------------------------------------------- roles


def test_roles_are_those_of_the_decoder_alone():
    """The same numbers as of a plain run over the target, and none in the other layers."""
    trace = Trace(trace_of(target=30).layers[:3])
    count = 36
    ids = np.random.default_rng(0).integers(0, 5, count)
    marks = np.arange(count) == SOURCE
    both = Tokens(ids, ("x",) * count, np.full((count, 2), -1), marks, "", decoder_from=SOURCE)
    target = Tokens(ids[6:], ("x",) * 30, np.full((30, 2), -1), marks[6:], "")
    alone = Trace(tuple(dataclasses.replace(found, queries=None, keys=None) for found in trace.layers[1:]))
    found = result_of(head_roles, trace, both)
    expected = result_of(head_roles, alone, target)
    for metric, values in expected.metrics.items():
        assert np.isnan(found.metrics[metric][0]).all()
        np.testing.assert_array_equal(found.metrics[metric][1:], values, err_msg=metric)
    assert "30 tokens of the decoder" in found.info[0]
    assert any("decoder 0 H" in line for line in found.info)


def test_a_target_of_one_token_has_no_roles():
    trace = trace_of(target=1)
    whole = tokens_of()
    short = Tokens(whole.ids[:7], whole.labels[:7], whole.offsets[:7], whole.special[:7], "", decoder_from=SOURCE)
    found = result_of(head_roles, trace, short)
    assert all(np.isnan(values).all() for values in found.metrics.values())
    assert "not active on this input" in found.info[1]
    stats = result_of(attention_stats, trace, short)
    assert np.isnan(stats.metrics["entropy"][1]).all()  # one key: nothing to choose


def test_random_tokens_come_after_the_source_and_what_the_decoder_starts_with():
    model, run = FakeModel(), tokens_of(special=(0, 6, 7))
    pairs = random_tokens.draw_pairs(model, model.card, run)
    for pair in pairs:
        assert pair.length == random_tokens.LENGTH
        for text in (pair.repeated, pair.unrepeated):
            assert text.decoder_from == SOURCE
            assert text.ids[:8].tolist() == run.ids[:8].tolist()
            assert text.special.tolist() == [*run.special[:8].tolist(), *[False] * 100]
        drawn = pair.repeated.ids[8:]
        assert drawn[:50].tolist() == drawn[50:].tolist()
        assert len(set(pair.unrepeated.ids[8:].tolist())) == 100
    short = dataclasses.replace(model.card, positions=42)  # of the decoder: 2 are taken
    assert random_tokens.draw_pairs(model, short, run)[0].length == 20


# --------------------------------------------------------------------------------------------- lens


def test_the_lens_looks_at_the_target():
    found = logit_lens._positions(None, None, COUNT, 7, SOURCE)
    assert found == range(6, 10)
    assert logit_lens._positions(8, None, COUNT, 7, SOURCE) == range(8, 10)
    assert logit_lens._positions(None, None, 200, 150, 90) == range(149, 200)
    assert logit_lens._positions(None, 99, 200, None, 90) == range(90, 100)
    with pytest.raises(BadInput, match=r"expected a position from 6 to 9 .*read by the encoder.*, got 5"):
        logit_lens._positions(5, None, COUNT, 7, SOURCE)
