"""What a capture will take, against what it took."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from attnviz.hooks import Estimate, Estimating, ModelError, ModelSpec, Tokens, Unavailable, Want
from attnviz.plugins.backends import estimate, hf
from attnviz.plugins.backends.estimate import LayerShape, Level, bias_bytes, choose_level, kept_bytes, mask_bytes
from attnviz.plugins.backends.stacks import Lengths

TEXT = "The cat sat on the mat and what is 25 * 37? Once upon a time."
FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "bert", "gpt_neo", "t5", "bart", "marian"]
WANTS = [Want(), Want(top_k=3), Want(top_k=500, values=True), Want(layers=(1,), thumbnail=5)]


def random_tokens(count, vocabulary):
    ids = np.random.default_rng(0).integers(1, vocabulary, count)
    return Tokens(ids, ("x",) * count, np.full((count, 2), -1), np.zeros(count, bool), "")


@pytest.mark.parametrize("want", WANTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_bytes_are_exact(family, want, loaded):
    model = loaded(family)
    assert isinstance(model, Estimating)
    tokens = model.tokenize(TEXT)
    found, trace = model.estimate(len(tokens), want, tokens.decoder_from), model.trace(tokens, want)
    unseen = [
        x.visible.nbytes for x in trace.layers if x is not None and x.weights is not None and x.visible is not None
    ]
    assert found.bytes == trace.nbytes - sum(unseen)
    assert bool(unseen) == (family == "gpt_neo")
    assert found.precision == trace.precision
    assert found.peak > found.bytes
    assert found.seconds > 0


def test_bytes_are_exact_in_half_precision(loaded, monkeypatch):
    model = loaded("mistral")
    tokens = model.tokenize(TEXT)
    monkeypatch.setattr(estimate, "FLOAT32_BUDGET", 10)
    found, trace = model.estimate(len(tokens), Want()), model.trace(tokens, Want())
    assert found.precision == trace.precision
    assert trace.precision.startswith("float16. Queries and keys of")
    assert found.bytes == trace.nbytes


def test_bytes_by_hand():
    """Two layers of 2 heads over 1, width 3, 4 tokens, cells of 2: q and k 144, streamed 192, pictures 8 bytes each."""
    shapes = [LayerShape(2, 1, 3), LayerShape(2, 1, 3, window=2)]
    four = Lengths(4)
    assert kept_bytes(shapes, four, Want(thumbnail=2), Level(4)) == 2 * (
        3 * 4 * 3 * 4 + 16 * 2 * 4 + 16 * 4 + 2 * 2 * 2
    )
    assert mask_bytes(shapes, four) == 16
    assert mask_bytes(shapes, Lengths(2)) == 0  # the window is no shorter than the text


def test_bytes_of_a_cross_layer_by_hand():
    """One layer of 2 heads, width 3, 2 queries and 5 keys, cells of 3: q 48 and k 120, streamed 88 + 56, pictures 4;
    the largest 4 weights of 2 rows 128; norms of 5 values 40. The bias of the encoder is shared by its two layers.
    """
    cross = LayerShape(2, 2, 3, values=True, stack="cross")
    want = Want(thumbnail=2, top_k=4, values=True)
    assert kept_bytes([cross], Lengths(7, 5), want, Level(4)) == 48 + 120 + 88 + 56 + 4 + 128 + 40
    encoder = LayerShape(2, 2, 3, stack="encoder", biases=2)
    assert bias_bytes([encoder, encoder, cross], Lengths(7, 5), Level(4)) == 4 * 2 * 5 * 5
    own = LayerShape(2, 2, 3, stack="encoder", biases=2, bias_layer=1)
    assert bias_bytes([encoder, own, cross], Lengths(7, 5), Level(4)) == 2 * 4 * 2 * 5 * 5
    assert bias_bytes([encoder, encoder, cross], Lengths(7, 5), Level(0)) == 0


def test_levels():
    """A layer of (1 + 1)·8 numbers a token takes 64 bytes a token in float32."""
    shape = [LayerShape(1, 1, 8)]
    assert choose_level(shape, Lengths((64 << 20) // 64)).name == "float32"
    assert choose_level(shape, Lengths((64 << 20) // 64 + 1)).name.startswith(
        "float16. Queries and keys of 1048577 tokens would take 67 MB in float32"
    )
    assert choose_level(shape, Lengths((2 << 30) // 32)).number == 2
    beyond = choose_level(shape, Lengths((2 << 30) // 32 + 1))
    assert beyond.number == 0
    assert "would take 2.1 GB in float16" in beyond.name


def test_without_queries_and_keys_the_statistics_stay_and_maps_are_refused_in_words(loaded, monkeypatch):
    model = loaded("llama")
    tokens = model.tokenize(TEXT)
    full = model.trace(tokens, Want())
    monkeypatch.setattr(estimate, "FLOAT32_BUDGET", 10)
    monkeypatch.setattr(estimate, "FLOAT16_BUDGET", 10)
    found, trace = model.estimate(len(tokens), Want()), model.trace(tokens, Want())
    assert found.bytes == trace.nbytes
    assert found.precision == trace.precision
    assert trace.precision.startswith("float32 without queries and keys. Queries and keys of")
    for ours, theirs in zip(trace.layers, full.layers, strict=True):
        np.testing.assert_array_equal(ours.entropy, theirs.entropy)
        assert ours.heads == theirs.heads
    with pytest.raises(Unavailable, match=r"no maps of this run\. Queries and keys of \d+ tokens would take 1 MB"):
        trace.attention(0, 0)


def test_what_does_not_fit_is_refused_with_both_numbers(loaded, monkeypatch):
    model = loaded("gpt2")
    tokens = model.tokenize(TEXT)
    monkeypatch.setattr(estimate, "free_bytes", lambda: 1000)
    with pytest.raises(ModelError, match=r"tokens needs about \d+ MB of memory, and 1 MB are free on this machine"):
        model.trace(tokens, Want())
    monkeypatch.setattr(estimate, "free_bytes", lambda: None)  # where the system does not tell, nothing is refused
    model.trace(tokens, Want())


def test_a_model_without_attention_has_no_estimate(loaded):
    with pytest.raises(Unavailable, match="MambaForCausalLM gives no attention"):
        loaded("mamba").estimate(10, Want())


def test_a_session_says_how_long_it_will_take(loaded, model_folder, monkeypatch):
    from attnviz.registry import load_registry
    from attnviz.session import Session

    run = Session(load_registry()).load(str(model_folder("gpt2"))).trace(TEXT)
    session, model = run.model.session, type(loaded("gpt2"))
    assert session.estimate(run.run, Want()).bytes == run.captured.nbytes
    said = []
    monkeypatch.setattr(model, "estimate", lambda self, *asked: Estimate(1, 2, 3.4, "float32"))
    session.analyze(run, "value_weighted_attention", {}, progress=lambda share, what: said.append(what))
    assert said[0] == "Reading the model (about 3 s)"


@pytest.mark.parametrize("family", ["llama", "gptj", "bert", "deberta_v2"])
def test_the_piece_that_is_timed_is_as_causal_as_the_model(family, loaded, monkeypatch):
    import torch

    shapes = loaded(family).route.shapes
    causal = family in ("llama", "gptj")
    assert {shape.causal for shape in shapes.values()} == {causal}
    seen = []
    monkeypatch.setattr(estimate, "stream_statistics", lambda scores, *given, **named: seen.append(scores.causal))
    monkeypatch.setattr(estimate, "map_statistics", lambda maps, edge, causal, **named: seen.append(causal))
    estimate._piece(shapes[0], torch.device("cpu"), False, 0, 4)()
    assert seen == [causal]


MODELS = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_layer": 4, "n_embd": 512, "n_head": 8, "n_positions": 2048}),
    "bert": ("BertConfig", "BertForMaskedLM", {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8,
                                               "intermediate_size": 1024, "max_position_embeddings": 2048}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("want", [Want(), Want(top_k=8, values=True)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_seconds_are_within_a_factor_of_two(name, want, tokenizers_by_kind, monkeypatch):
    """Up to 2048 tokens, the best of three; in CPU seconds, so that other work matters less."""
    import torch
    import transformers

    monkeypatch.setattr(estimate, "_clock", time.process_time)
    torch.manual_seed(0)
    config, model_class, options = MODELS[name]
    module = getattr(transformers, model_class)(getattr(transformers, config)(**options)).eval()
    model = hf.load(ModelSpec("timed", objects=(module, tokenizers_by_kind["bytes"])))
    for count in (128, 512, 1024, 2048):
        tokens = random_tokens(count, 1000)
        taken = []
        for _ in range(3):
            started = time.process_time()
            model.trace(tokens, want)
            taken.append(time.process_time() - started)
        said = model.estimate(count, want).seconds
        assert min(taken) / 2 <= said <= 2 * min(taken), f"{count} tokens: said {said:.3f}, took {taken}"


def test_a_pace_without_a_measure_is_not_a_number(loaded):
    model = replace(loaded("gpt2"), pace=None)
    assert np.isnan(model.estimate(10, Want()).seconds)
