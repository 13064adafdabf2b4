"""Streamed statistics against maps written out, for every kind of mask, one head at a time and all at once."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.plugins.backends.attention_function import AttentionCall, explicit_attention
from attnviz.plugins.backends.capture import AttentionCollector, capture_map
from attnviz.plugins.backends.statistics import Scores, map_statistics, stream_statistics

HEADS, KV, COUNT, SIZE = 4, 2, 21, 8


def tensors(seed=0, keys=COUNT):
    import torch

    generator = torch.Generator().manual_seed(seed)
    shapes = ((HEADS, COUNT, SIZE), (KV, keys, SIZE), (KV, keys, SIZE + 3))
    return [2 * torch.randn(shape, generator=generator) for shape in shapes]


def softmax_rows(scores):
    """float64, rows without any finite score stay zero."""
    top = scores.max(-1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def by_hand(scores: Scores):
    """Map [H, Q, K] and output [H, Q, D_v] in float64."""
    q, k, v = (t.double().numpy() for t in (scores.query, scores.key, scores.value))
    k, v = np.repeat(k, HEADS // KV, 0), np.repeat(v, HEADS // KV, 0)
    s = scores.scale * q @ k.transpose(0, 2, 1)
    if scores.softcap:
        s = scores.softcap * np.tanh(s / scores.softcap)
    if scores.bias is not None:
        s = s + scores.bias.double().numpy()
    if scores.causal:
        s = np.where(np.tril(np.ones(s.shape[1:], bool)), s, -np.inf)
    if scores.visible is not None:
        s = np.where(scores.visible.numpy(), s, -np.inf)
    if scores.sinks is not None:
        sink = np.broadcast_to(scores.sinks.double().numpy()[:, None, None], (*s.shape[:2], 1))
        a = softmax_rows(np.concatenate([s, sink], -1))[..., :-1]
    else:
        a = softmax_rows(s)
    return a, a @ v


def cases():
    import torch

    generator = torch.Generator().manual_seed(3)
    window = torch.ones(COUNT, COUNT, dtype=torch.bool).tril().triu(-4)
    padded = torch.ones(COUNT, COUNT, dtype=torch.bool).tril()
    padded[:, :3] = False  # left padding: the first three queries see nothing
    bias = torch.randn(HEADS, COUNT, COUNT, generator=generator)
    hiding = bias.masked_fill(torch.rand(bias.shape, generator=generator) < 0.3, float("-inf"))
    hiding[1, 5] = float("-inf")  # one row of one head sees nothing
    return {
        "causal": {"causal": True},
        "both ways": {"causal": False},
        "window": {"causal": True, "visible": window},
        "window without causal": {"causal": False, "visible": window},
        "left padding": {"causal": True, "visible": padded},
        "soft-cap": {"causal": True, "softcap": 2.0},
        "bias": {"causal": True, "bias": bias},
        "one bias for all heads": {"causal": False, "bias": bias[:1]},
        "bias that hides": {"causal": False, "bias": hiding},
        "sinks": {"causal": True, "sinks": torch.tensor([0.5, -1.0, 2.0, 5.0])},
    }


CASES = ["causal", "both ways", "window", "window without causal", "left padding", "soft-cap", "bias",
         "one bias for all heads", "bias that hides", "sinks"]  # fmt: skip


@pytest.mark.parametrize("together", [1, HEADS])
@pytest.mark.parametrize("block", [4, 128])
@pytest.mark.parametrize("name", CASES)
def test_streamed_statistics(name, block, together, monkeypatch):
    from attnviz.plugins.backends import statistics

    monkeypatch.setattr(statistics, "_QUERY_BLOCK", block)
    monkeypatch.setattr(statistics, "_ACCELERATOR_BLOCK", block * HEADS * COUNT)
    q, k, v = tensors()
    scores = Scores(q, k, v, scale=0.4, **cases()[name])
    found = stream_statistics(scores, 10, together=together, top_k=5)
    weights, output = by_hand(scores)
    check(found, weights, output)
    check_ranked(found, weights, 5)


def check_ranked(found, weights, count, atol=1e-5):
    """The weights are those torch.topk gives; the keys have these weights, and none is listed twice."""
    import torch

    expected = torch.tensor(weights).topk(min(count, weights.shape[2]), dim=-1).values
    np.testing.assert_allclose(found.top_weights, expected, atol=atol)
    keys = np.asarray(found.top_keys)
    assert keys.dtype == np.int32
    listed = keys >= 0
    assert (listed == (np.asarray(found.top_weights) > 0)).all()
    taken = np.take_along_axis(weights, np.maximum(keys, 0), axis=-1)
    np.testing.assert_allclose(taken[listed], np.asarray(found.top_weights)[listed], atol=atol)
    for row, given in zip(keys.reshape(-1, keys.shape[-1]), listed.reshape(-1, keys.shape[-1]), strict=True):
        assert len(set(row[given])) == given.sum()


@pytest.mark.parametrize("count", [1, 8, 40])
@pytest.mark.parametrize("keys", [1, 7, 64, 333, 1024, 2000])
@pytest.mark.parametrize("ties", [False, True])
def test_largest_keys_are_those_of_a_sort(keys, count, ties):
    import torch

    from attnviz.plugins.backends.statistics import RowStatistics, largest_keys

    weights = torch.rand(2, 9, keys, generator=torch.Generator().manual_seed(keys)) + 1e-3
    if ties:
        weights = (weights * 6).ceil() / 6
    values, found = largest_keys(weights, min(count, keys))
    blank = [torch.zeros(0)] * 5
    ranked = RowStatistics(*blank, top_weights=values, top_keys=found.to(torch.int32))
    check_ranked(ranked, weights.numpy(), count, atol=0)


@pytest.mark.parametrize("mask", ["causal", "both ways", "window", "a bias for each head"])
def test_largest_keys_of_a_long_run(mask):
    import torch

    count, generator = 600, torch.Generator().manual_seed(1)
    query, key, value = (3 * torch.randn(shape, generator=generator) for shape in ((HEADS, count, 4),) * 3)
    options = {"causal": mask in ("causal", "window")}
    if mask == "window":
        options["visible"] = torch.ones(count, count, dtype=torch.bool).tril().triu(-40)
    if mask == "a bias for each head":
        options["bias"] = torch.randn(HEADS, count, count, generator=generator)
    found = stream_statistics(Scores(query, key, value, 0.5, **options), 64, top_k=8)
    hidden = None
    s = 0.5 * query.double() @ key.double().transpose(1, 2)
    if "bias" in options:
        s = s + options["bias"].double()
    if options["causal"]:
        hidden = ~torch.ones(count, count, dtype=torch.bool).tril()
    if "visible" in options:
        hidden = hidden | ~options["visible"]
    s = s if hidden is None else s.masked_fill(hidden, float("-inf"))
    check_ranked(found, torch.softmax(s, dim=-1).numpy(), 8)


def check(found, weights, output=None):
    logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
    apart = np.abs(np.arange(COUNT)[:, None] - np.arange(weights.shape[2])[None])
    np.testing.assert_allclose(found.entropy, -(weights * logs).sum(-1), atol=2e-5)
    np.testing.assert_allclose(found.row_max, weights.max(-1), atol=1e-5)
    np.testing.assert_allclose(found.distance, (weights * apart).sum(-1), atol=2e-5)
    np.testing.assert_allclose(found.column_sum, weights.sum(1), atol=2e-5)
    if output is not None:
        np.testing.assert_allclose(found.output, output, atol=1e-5)
    cells = -(-COUNT // 3)
    padded = np.zeros((HEADS, cells * 3, cells * 3))
    padded[:, :COUNT, : weights.shape[2]] = weights
    pooled = padded.reshape(HEADS, cells, 3, cells, 3).max((2, 4))
    assert np.abs(found.thumbnail.numpy().astype(int) - np.round(255 * np.sqrt(pooled))).max() <= 1


@pytest.mark.parametrize("name", ["causal", "both ways", "left padding"])
def test_statistics_of_a_given_map(name):
    import torch

    q, k, v = tensors()
    scores = Scores(q, k, v, scale=0.4, **cases()[name])
    weights, _ = by_hand(scores)
    found = map_statistics(torch.tensor(weights), 10, scores.causal, top_k=30)
    check(found, weights)
    assert found.top_keys.shape == (HEADS, COUNT, COUNT)  # there are no 30 keys
    check_ranked(found, weights, 30)
    assert map_statistics(torch.tensor(weights), 10, scores.causal).top_keys is None


def call_of(case, mask):
    q, k, v = (t[None] for t in tensors())
    causal = mask is None and case.get("causal", False)
    bias, sinks, softcap = case.get("bias"), case.get("sinks"), case.get("softcap")
    return AttentionCall(None, q, k, v, mask, causal, 0.4, None if bias is None else bias[None], softcap, sinks, None)


@pytest.mark.parametrize("float_mask", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_capture_gives_the_map_back(name, float_mask):
    """Masks as transformers hands them over: boolean, or with the lowest number of the type added."""
    import torch

    case = cases()[name]
    mask = None
    if "visible" in case or float_mask:
        mask = case.get("visible", torch.ones(COUNT, COUNT, dtype=torch.bool)).clone()
        mask = mask.tril() if case.get("causal") else mask
        if float_mask:
            mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        mask = mask[None, None]
    call = call_of(case, mask)
    collector = AttentionCollector(layers=None, thumbnail=10)
    output = collector.attend(call)
    layer = collector.captured[0]
    q, k, v = tensors()
    weights, mixed = by_hand(Scores(q, k, v, 0.4, **case))
    np.testing.assert_allclose(np.stack([layer.pattern(h) for h in range(HEADS)]), weights, atol=1e-5)
    np.testing.assert_allclose(output[0], mixed, atol=1e-5)
    if name != "bias that hides":  # there each head has a mask of its own, inside the bias
        assert layer.allowed.tolist() == (weights[0] > 0).sum(1).tolist()
        assert layer.seen_by.tolist() == (weights[0] > 0).sum(0).tolist()
        plain = name not in ("window", "window without causal", "left padding")
        assert (layer.visible is None) == plain
    if name not in ("left padding", "bias that hides"):  # rows that see nothing are zero in captures only
        np.testing.assert_allclose(explicit_attention(call)[0], mixed, atol=1e-5)


def test_a_mask_of_its_own_for_each_head():
    import torch

    q, k, v = tensors()
    mask = torch.rand(HEADS, COUNT, COUNT, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[:, :, 0] = True
    collector = AttentionCollector(layers=None, thumbnail=10)
    collector.attend(call_of({}, mask[None]))
    hidden = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    weights, _ = by_hand(Scores(q, k, v, 0.4, False, bias=hidden))
    layer = collector.captured[0]
    np.testing.assert_allclose(np.stack([layer.pattern(h) for h in range(HEADS)]), weights, atol=1e-5)


def test_a_capture_of_a_given_map():
    import torch

    q, k, v = tensors()
    weights, _ = by_hand(Scores(q, k, v, 0.4, **cases()["window"]))
    layer = capture_map(torch.tensor(weights), 10, True)
    np.testing.assert_allclose(layer.pattern(2), weights[2], atol=1e-6)
    assert layer.allowed.tolist() == [min(q + 1, 5) for q in range(COUNT)]
    assert layer.heads == HEADS


def test_one_head_by_hand():
    """Scores 0, ln 3 in the second row: weights 1/4, 3/4; entropy 2 − 3/4·log2 3 bits; distance 1/4."""
    import torch

    query, key = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [float(np.log(3))]]])
    found = stream_statistics(Scores(query, key, torch.tensor([[[1.0], [5.0]]]), 1.0, True), 64)
    np.testing.assert_allclose(found.entropy, [[0, 2 - 0.75 * np.log2(3)]], atol=1e-6)
    np.testing.assert_allclose(found.row_max, [[1, 0.75]], atol=1e-6)
    np.testing.assert_allclose(found.distance, [[0, 0.25]], atol=1e-6)
    np.testing.assert_allclose(found.column_sum, [[1.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(found.output, [[[1], [4]]], atol=1e-6)
    assert found.thumbnail[0].tolist() == [[255, 0], [round(255 * 0.5), round(255 * np.sqrt(0.75))]]
