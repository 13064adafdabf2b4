"""A padded row of a batch gives the numbers of its text: padding is seen by nothing and counted nowhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attnviz.hooks import BadInput, Tokens
from tests.backends.families import (
    DECODERS,
    ENCODER_DECODERS,
    FAMILIES,
    WANT,
    brute_force,
    load,
    patterns,
    random_module,
    random_tokens,
    run_eager,
)

BLANK = 4
NUMBERS = {name for name in ENCODER_DECODERS if name.startswith("whisper")}  # read sound, which is not padded here
ATTENDING = [name for name, family in FAMILIES.items() if family.attending and name not in NUMBERS]
COUNTING = [
    "bart",
    "bart_base",
    "mbart",
    "marian",
    "pegasus",
    "blenderbot",
    "led",
    "pegasus_x",
]  # padding takes positions
CASES = [(name, side) for name in ATTENDING for side in ("left", "right") if side == "right" or name not in COUNTING]


def padded(tokens: Tokens, side: str) -> tuple[Tokens, np.ndarray]:
    """With padding before or after what is read (of encoder and decoder: the source), and where the text is now."""
    stop = len(tokens) if tokens.decoder_from is None else tokens.decoder_from
    at = 0 if side == "left" else stop
    ids = np.insert(tokens.ids, at, [0] * BLANK)
    padding = np.zeros(len(ids), bool)
    padding[at : at + BLANK] = True
    split = None if tokens.decoder_from is None else tokens.decoder_from + BLANK
    blank = ("x",) * len(ids)
    found = Tokens(
        ids, blank, np.full((len(ids), 2), -1), np.zeros(len(ids), bool), "", decoder_from=split, padding=padding
    )
    return found, np.flatnonzero(~padding)


@pytest.fixture(scope="module")
def in_float64(tokenizers_by_kind):
    """family -> (the backend's model, its module), so that only a wrong number differs: linear layers work through a
    text in blocks, which padding shifts, and rounding in float32 then depends on the processor."""
    made = {}

    def make(family):
        if family not in made:
            module = random_module(family)
            if family != "bloom":  # which masks with a number that its softmax in float32 cannot hold
                module = module.double()
                module.set_experts_implementation("eager")  # the library's fused experts know no float64
            made[family] = (load(family, module, tokenizers_by_kind["bytes"]), module)
        return made[family]

    return make


@pytest.mark.parametrize(("family", "side"), CASES)
def test_maps_and_statistics_are_those_of_the_text(family, side, built):
    model, module = built(family)
    tokens = random_tokens(module)
    row, text = padded(tokens, side)
    trace = model.trace(row, WANT)
    layers = [layer for layer in trace.layers if layer is not None]
    expected = run_eager(module, tokens)[0]
    assert len(layers) == len(expected)
    for layer, weights in zip(layers, expected, strict=True):
        rows, columns = (np.flatnonzero(~row.padding[slice(*span)]) for span in (layer.row_span, layer.column_span))
        maps = patterns(layer)
        np.testing.assert_allclose(maps[:, rows][:, :, columns], weights, atol=1e-5)
        blank = np.ones(maps.shape[1:], bool)
        blank[np.ix_(rows, columns)] = False
        assert not maps[:, blank].any()  # exactly 0
        truth = brute_force(weights)
        for name in ("entropy", "row_max"):
            np.testing.assert_allclose(getattr(layer, name)[:, rows], truth[name], atol=2e-5)
        np.testing.assert_allclose(layer.column_sum[:, columns], truth["column_sum"], atol=2e-5)
        assert layer.allowed[rows].tolist() == (weights > 0).any(0).sum(1).tolist()
        assert not layer.allowed[row.padding[slice(*layer.row_span)]].any()
        assert not layer.seen_by[row.padding[slice(*layer.column_span)]].any()
    assert len(text) == len(tokens)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", [name for name in DECODERS if name not in ("mamba", "rwkv")])
def test_predictions_are_those_of_the_text(family, side, in_float64):
    import torch

    model, module = in_float64(family)
    tokens = random_tokens()
    row, text = padded(tokens, side)
    expected = torch.tensor(run_eager(module, tokens)[1]).log_softmax(-1)
    table = model.lens(row, positions=[int(text[3]), int(text[20])], top_k=4, targets=[-1, -1], sites="blocks")
    assert table.self_check.ok
    np.testing.assert_allclose(table.top_logprobs[-1], expected[[3, 20]].topk(4).values, atol=1e-5, rtol=0)


def test_a_model_without_numbers_behind_padding_says_so(tokenizers_by_kind):
    model = load("bloom", random_module("bloom").double(), tokenizers_by_kind["bytes"])
    with pytest.raises(BadInput, match="gives no number for a text behind padding in float64"):
        model.trace(padded(random_tokens(), "left")[0], WANT)


@pytest.mark.parametrize("family", COUNTING)
def test_a_family_that_counts_padding_refuses_it_before_a_text(family, built):
    model, module = built(family)
    with pytest.raises(BadInput, match=f"{type(module).__name__} counts padding before a text as positions"):
        model.trace(padded(random_tokens(module), "left")[0], WANT)


def test_ids_of_a_batch_row_are_a_run(built):
    from attnviz.registry import load_registry
    from attnviz.session import Session

    _, module = built("llama")
    from tests.backends.conftest import byte_level_tokenizer

    model = Session(load_registry()).load((module, byte_level_tokenizer()))
    ids = [1, 50, 60, 70, 80]
    plain = model.trace(ids=ids)
    row = model.trace(ids=[0, 0, *ids], attention_mask=[0, 0, 1, 1, 1, 1, 1])
    assert row.tokens.ids.tolist() == [0, 0, *ids]
    np.testing.assert_allclose(row.attention(1, 2)[2:, 2:], plain.attention(1, 2), atol=1e-5)
    ours, theirs = (run.analyze("attention_stats").result for run in (row, plain))
    for name, values in theirs.metrics.items():
        np.testing.assert_allclose(ours.metrics[name], values, atol=2e-5)
    np.testing.assert_allclose(ours.received[:, 2:], theirs.received, atol=2e-5)
    assert [p - 2 for p in ours.sinks] == list(theirs.sinks)
    assert any("Padding at 0, 1: left out" in line for line in ours.info)
    assert (
        row.analyze("attention_pattern", layer=0, head=0).provenance
        != plain.analyze("attention_pattern", layer=0, head=0).provenance
    )


def test_what_cannot_be_done_with_padding_is_said(built):
    model = built("llama")[0]
    row = padded(random_tokens(), "left")[0]
    with pytest.raises(BadInput, match="Position 1 is padding and predicts nothing"):
        model.lens(row, positions=[1], top_k=1, targets=[-1], sites="blocks")
    from attnviz.hooks import Sampling

    with pytest.raises(BadInput, match="give the text without padding"):
        model.generate(row, Sampling())
    with pytest.raises(BadInput, match="none"):
        replace(row, padding=np.ones(len(row), bool))
    with pytest.raises(BadInput, match="outside the vocabulary"):
        model.tokens_of([1, 100_000])
    with pytest.raises(BadInput, match="no ids"):
        model.tokens_of([])
