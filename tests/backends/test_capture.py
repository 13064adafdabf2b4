"""Maps and statistics against transformers' eager attention and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.hooks import BadInput, Unavailable, Want

FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "bert", "bert_base"]
TEXT = "The cat sat on the mat and what is 25 * 37? Once upon a time."


def eager_maps(module, ids) -> np.ndarray:
    """[L, H, Q, K] from transformers."""
    import torch

    with torch.no_grad():
        output = module(input_ids=torch.tensor(ids[None].copy()), output_attentions=True)
    return np.stack([a[0].numpy() for a in output.attentions])


@pytest.mark.parametrize("family", [*FAMILIES, "gpt_neo"])
def test_maps_are_those_of_eager_attention(family, loaded, eager):
    model = loaded(family)
    tokens = model.tokenize(TEXT)
    trace = model.trace(tokens, Want())
    expected = eager_maps(eager(family), tokens.ids)
    assert model.card.route == ("eager" if family == "gpt_neo" else "interface")
    assert trace.precision == "float32"
    for layer, head in np.ndindex(expected.shape[:2]):
        found = trace.attention(layer, head)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected[layer, head], atol=1e-5)
        np.testing.assert_allclose(trace.attention(layer, head, slice(3, 5)), expected[layer, head, 3:5], atol=1e-5)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, "gpt_neo"])
def test_statistics_are_those_of_brute_force(family, loaded, eager):
    model = loaded(family)
    tokens = model.tokenize(TEXT)
    maps = eager_maps(eager(family), tokens.ids).astype(np.float64)
    count = len(tokens)
    apart = np.abs(np.arange(count)[:, None] - np.arange(count)[None, :])
    for layer, weights in zip(model.trace(tokens, Want(thumbnail=10)).layers, maps, strict=True):
        logs = np.log2(weights, out=np.zeros_like(weights), where=weights > 0)
        np.testing.assert_allclose(layer.entropy, -(weights * logs).sum(-1), atol=2e-5)
        np.testing.assert_allclose(layer.row_max, weights.max(-1), atol=2e-5)
        np.testing.assert_allclose(layer.distance, (weights * apart).sum(-1), atol=2e-5)
        np.testing.assert_allclose(layer.column_sum, weights.sum(1), atol=2e-5)
        assert (layer.allowed == (weights > 0).any(0).sum(1)).all()
        assert (layer.seen_by == (weights > 0).any(0).sum(0)).all()
        cell = -(-count // 10)
        cells = -(-count // cell)
        padded = np.zeros((len(weights), cells * cell, cells * cell))
        padded[:, :count, :count] = weights
        pooled = padded.reshape(len(weights), cells, cell, cells, cell).max((2, 4))
        assert layer.thumbnail.dtype == np.uint8
        assert np.abs(layer.thumbnail.astype(int) - np.round(255 * np.sqrt(pooled))).max() <= 1


@pytest.mark.parametrize("family", [*FAMILIES, "gpt_neo"])
def test_largest_weights_are_those_of_eager_attention(family, loaded, eager):
    import torch

    model = loaded(family)
    tokens = model.tokenize(TEXT)
    maps = eager_maps(eager(family), tokens.ids)
    for layer, weights in zip(model.trace(tokens, Want(top_k=4)).layers, maps, strict=True):
        assert layer.top_weights.dtype == np.float32
        assert layer.top_keys.dtype == np.int32
        np.testing.assert_allclose(layer.top_weights, torch.tensor(weights).topk(4, dim=-1).values, atol=1e-5)
        listed = layer.top_keys >= 0
        taken = np.take_along_axis(weights, np.maximum(layer.top_keys, 0), axis=-1)
        np.testing.assert_allclose(taken[listed], layer.top_weights[listed], atol=1e-5)
    assert model.trace(tokens, Want()).layer(0).top_weights is None
    with pytest.raises(BadInput, match="top_k must be 0"):
        model.trace(tokens, Want(top_k=-1))


def test_statistics_over_several_query_blocks_and_an_uneven_end(loaded, eager):
    """127 tokens, blocks of 128 queries cut to whole cells of 2: the last block and the last cell are not full."""
    model = loaded("llama")
    tokens = _long(model, 127)
    expected = eager_maps(eager("llama"), tokens.ids)
    from attnviz.plugins.backends import statistics

    before = statistics._QUERY_BLOCK
    statistics._QUERY_BLOCK = 32
    try:
        trace = model.trace(tokens, Want())
    finally:
        statistics._QUERY_BLOCK = before
    for layer, weights in zip(trace.layers, expected, strict=True):
        np.testing.assert_allclose(layer.column_sum, weights.sum(1), atol=1e-4)
        np.testing.assert_allclose(layer.row_max, weights.max(-1), atol=2e-5)
        assert layer.thumbnail.shape == (4, 64, 64)


def _long(model, count):
    from dataclasses import replace

    tokens = model.tokenize(TEXT)
    ids = np.resize(tokens.ids, count)
    return replace(
        tokens,
        ids=ids,
        labels=tuple(model.label(int(i)) for i in ids),
        offsets=np.full((count, 2), -1),
        special=np.zeros(count, bool),
        segments=(),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_capture_does_not_change_the_output(family, loaded, eager):
    import torch

    from attnviz.plugins.backends.attention_function import collecting
    from attnviz.plugins.backends.capture import AttentionCollector

    model = loaded(family)
    ids = torch.tensor(model.tokenize(TEXT).ids[None].copy())
    with torch.no_grad():
        plain = model.module()(input_ids=ids)[0]
        with collecting(AttentionCollector(model.route.calls, 64)):
            captured = model.module()(input_ids=ids)[0]
        reference = eager(family)(input_ids=ids)[0]
    assert float((captured - reference).abs().max()) <= 1e-5
    assert float((plain - reference).abs().max()) <= 1e-5


def test_grouped_query_heads_are_not_expanded(loaded):
    model = loaded("llama")
    layer = model.trace(model.tokenize(TEXT), Want()).layer(0)
    assert (layer.q.shape[0], layer.k.shape[0]) == (4, 2)
    assert layer.visible is None
    assert layer.causal


def test_a_sliding_window_is_kept_as_a_mask(loaded):
    model = loaded("mistral")
    tokens = model.tokenize(TEXT)
    layer = model.trace(tokens, Want()).layer(1)
    assert layer.allowed.tolist() == [min(q + 1, 6) for q in range(len(tokens))]
    assert layer.seen_by.tolist() == [min(len(tokens) - k, 6) for k in range(len(tokens))]
    assert [(c.kind, c.window) for c in model.card.layers] == [("sliding", 6)] * 3
    assert [c.kind for c in loaded("gemma2").card.layers] == ["sliding", "full", "sliding"]


def test_only_the_layers_asked_for(loaded):
    model = loaded("gpt2")
    trace = model.trace(model.tokenize(TEXT), Want(layers=(1,)))
    assert [layer is not None for layer in trace.layers] == [False, True, False]
    assert set(trace.missing) == {0, 2}
    with pytest.raises(BadInput, match="layers 0 to 2"):
        model.trace(model.tokenize(TEXT), Want(layers=(3,)))


def test_large_runs_are_kept_in_half_precision_except_where_it_overflows(loaded, monkeypatch):
    from attnviz.plugins.backends import capture, estimate

    model = loaded("llama")
    tokens = model.tokenize(TEXT)
    full = model.trace(tokens, Want())
    monkeypatch.setattr(estimate, "FLOAT32_BUDGET", 10)
    half = model.trace(tokens, Want())
    why = f"Queries and keys of {len(tokens)} tokens would take 1 MB in float32, and at most 1 MB are kept so"
    assert half.precision == f"float16. {why}"
    assert half.layer(0).q.dtype == np.float16
    np.testing.assert_allclose(half.attention(1, 2), full.attention(1, 2), atol=3e-3)
    largest = max(float(np.abs(full.layer(0).q).max()), float(np.abs(full.layer(0).k).max()))
    monkeypatch.setattr(capture, "_FLOAT16_MAX", largest)  # as if float16 could hold no more than layer 0 has
    wide = [i for i, x in enumerate(full.layers) if max(np.abs(x.q).max(), np.abs(x.k).max()) > largest]
    guarded = model.trace(tokens, Want())
    for index, layer in enumerate(guarded.layers):
        assert (layer.q.dtype == np.float32) == (index in wide)
    assert wide
    assert guarded.precision == f"float16 (float32 in layers {', '.join(map(str, wide))}). {why}"


def test_a_model_without_attention_says_so(loaded):
    model = loaded("mamba")
    assert model.card.route == "none"
    assert "attention" not in model.card.capabilities
    assert "MambaForCausalLM" in model.card.missing["attention"]
    with pytest.raises(Unavailable, match="MambaForCausalLM gives no attention"):
        model.trace(model.tokenize(TEXT), Want())
