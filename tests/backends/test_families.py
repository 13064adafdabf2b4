"""Every family against transformers itself: maps, statistics, logits, lens and generation."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from attnviz.hooks import BadInput, Sampling, Unavailable, Want
from tests.backends.families import (
    ANSWER,
    DECODERS,
    ENCODER_DECODERS,
    FAMILIES,
    PROMPT,
    WANT,
    compare,
    patterns,
    random_tokens,
    run_eager,
)

ROOT = Path(__file__).parent.parent.parent
ATTENDING = [name for name, family in FAMILIES.items() if family.attending]
WINDOWED = [name for name, family in FAMILIES.items() if family.window]

CONTINUING = [*DECODERS, *(name for name in ENCODER_DECODERS if name != "bart_base")]

WITHOUT_LENS = {
    "albert": "its transformer blocks were not found",
    "bert_base": "has no output over a vocabulary",
    "bart_base": "has no output over a vocabulary",
}
READABLE = [name for name in FAMILIES if name not in WITHOUT_LENS]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_names_route_and_layers(family, built):
    expected, card = FAMILIES[family], built(family)[0].card
    assert card.route == expected.route
    assert tuple(layer.kind for layer in card.layers) == expected.layers
    assert [layer.index for layer in card.layers if layer.heads] == expected.attending
    assert {layer.window for layer in card.layers if layer.kind == "sliding"} <= {expected.window}
    assert {layer.window for layer in card.layers if layer.kind != "sliding"} <= {None}
    assert card.causal == (family in DECODERS or family in ENCODER_DECODERS)


@pytest.mark.parametrize(
    ("family", "experts"),
    [
        ("mixtral", [4, 4, 4]),
        ("qwen3_moe", [4, 4, 4]),
        ("gpt_oss", [4, 4]),
        ("deepseek_v3", [None, 4, 4]),  # its configuration replaces the first block by a dense one
        ("qwen3_next", [4, 4, 4, 4]),  # those of linear attention have them, too
        ("llama", [None, None, None]),
    ],
)
def test_the_card_counts_experts_where_they_are(family, experts, built):
    assert [layer.experts for layer in built(family)[0].card.layers] == experts


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_eager_attention(family, built):
    model, module = built(family)
    found = compare(model, module)
    assert found.logits <= 1e-5
    if FAMILIES[family].attending:
        assert found.maps <= 1e-5
        assert found.statistics <= 2e-5
    assert (found.lens is None) == (family in WITHOUT_LENS)
    assert found.lens is None or found.lens <= 1e-5
    if family in CONTINUING:
        assert found.generated == ANSWER
        assert (found.rows is None) == (not FAMILIES[family].attending)
        assert found.rows is None or found.rows <= 1e-5


@pytest.mark.parametrize("family", ATTENDING)
def test_counts_and_pictures_are_those_of_eager_attention(family, built):
    """Keys with weight in any head; largest weight of each block of tokens."""
    model, module = built(family)
    tokens = random_tokens(module)
    trace = model.trace(tokens, WANT)
    assert [index for index, layer in enumerate(trace.layers) if layer is not None] == FAMILIES[family].attending
    for index, weights in zip(FAMILIES[family].attending, run_eager(module, tokens)[0], strict=True):
        layer = trace.layer(index)
        assert layer.allowed.tolist() == (weights > 0).any(0).sum(1).tolist()
        assert layer.seen_by.tolist() == (weights > 0).any(0).sum(0).tolist()
        cell = -(-max(weights.shape[1:]) // 10)  # at most 10 cells an edge
        rows, columns = (-(-length // cell) for length in weights.shape[1:])
        padded = np.pad(weights, [(0, 0), *((0, -length % cell) for length in weights.shape[1:])])
        pooled = padded.reshape(-1, rows, cell, columns, cell).max((2, 4))
        assert layer.thumbnail.shape == pooled.shape
        assert np.abs(layer.thumbnail.astype(int) - np.round(255 * np.sqrt(pooled))).max() <= 1


@pytest.mark.parametrize("want", [Want(), Want(thumbnail=10, top_k=4, values=True)], ids=["usual", "all"])
@pytest.mark.parametrize("family", ATTENDING)
def test_bytes_are_those_estimated(family, want, built):
    model, module = built(family)
    tokens = random_tokens(module)
    trace = model.trace(tokens, want)
    captures = [layer for layer in trace.layers if layer is not None]
    unseen = [c.visible.nbytes for c in captures if c.weights is not None and c.visible is not None]
    assert bool(unseen) == (family == "gpt_neo")  # a window that shows in eager maps only
    assert model.estimate(len(tokens), want, tokens.decoder_from).bytes == trace.nbytes - sum(unseen)


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_is_a_band(family, built):
    expected, (model, module) = FAMILIES[family], built(family)
    trace = model.trace(random_tokens(module), Want())
    for index, kind in enumerate(expected.layers):
        rows, columns = trace.layer(index).row_span, trace.layer(index).column_span
        back = np.arange(*rows)[:, None] - np.arange(*columns)[None]  # tokens from the query back to the key
        causal = model.card.causal and model.card.layers[index].stack in ("", "decoder")
        seen = back >= 0 if causal else np.ones_like(back, bool)
        nearer = expected.window + (model.card.layers[index].stack == "encoder")  # T5Gemma's counts the edge as well
        band = seen & (np.abs(back) < nearer) if kind == "sliding" else seen
        assert model.card.layers[index].window == (expected.window if kind == "sliding" else None)
        assert ((patterns(trace.layer(index)) > 0).any(0) == band).all()
        hidden = trace.layer(index).hidden()
        assert ((~band if hidden is None else hidden) == ~band).all()


@pytest.mark.parametrize("family", CONTINUING)
def test_rows_while_generating_are_those_of_the_whole(family, built):
    """Every layer and head of every new token, against eager attention over the tokens before it, without a cache.

    The answer goes past the windows, so that keys have been dropped from the cache.
    """
    model, module = built(family)
    attending, prompt, rows = FAMILIES[family].attending, random_tokens(module, PROMPT, PROMPT - 2), []
    sampling = Sampling(max_new_tokens=ANSWER, repetition_penalty=2.0)
    answer = model.generate(prompt, sampling, on_row=rows.append)
    assert answer.ids.tolist() == model.generate(prompt, sampling).ids.tolist()
    expected = [(at, int(answer.ids[at])) for at in range(len(prompt), len(answer))] if attending else []
    assert [(row.position, row.id) for row in rows] == expected
    for row in rows:
        maps, _ = run_eager(module, answer, row.position)
        missing = [index for index in range(len(FAMILIES[family].layers)) if index not in attending]
        assert np.isnan(row.weights[missing]).all()
        for index, weights in zip(attending, maps, strict=True):
            expected = np.full((len(weights), row.position), np.nan)
            if model.card.layers[index].stack != "encoder":
                keys = {"decoder": slice(prompt.decoder_from, None), "cross": slice(prompt.decoder_from)}
                expected[:, keys.get(model.card.layers[index].stack, slice(None))] = weights[:, -1]
            np.testing.assert_allclose(row.weights[index], expected, atol=1e-5, rtol=0)


def test_rows_leave_to_a_learned_sink_what_its_logit_takes(built):
    """Share of the sink: exp(sink) / (exp(sink) + Σ exp(score)), stated beside rows that sum to the rest."""
    model, module = built("gpt_oss")
    trace = model.trace(random_tokens(), Want())
    for index, block in enumerate(module.model.layers):
        layer = trace.layer(index)
        np.testing.assert_array_equal(layer.sinks, block.self_attn.sinks.detach())
        keys = layer.k.astype(np.float64).repeat(layer.heads // len(layer.k), 0)
        powers = np.where(layer.hidden(), 0, np.exp(layer.scale * layer.q @ keys.transpose(0, 2, 1)))
        taken = np.exp(layer.sinks.astype(np.float64))[:, None]
        share = taken / (taken + powers.sum(-1))
        rows = patterns(layer).sum(-1)
        assert (rows < 1).all()
        np.testing.assert_allclose(rows, 1 - share, atol=1e-5)
        given = [layer.pattern_and_share(head)[1] for head in range(layer.heads)]
        np.testing.assert_allclose(given, share, atol=1e-5)
    for family in set(ATTENDING) - {"gpt_oss"}:
        model, module = built(family)
        layer = model.trace(random_tokens(module), Want()).layer(FAMILIES[family].attending[0])
        assert layer.sinks is None
        np.testing.assert_allclose(patterns(layer).sum(-1), 1, atol=1e-5)


def test_a_hybrid_model_keeps_its_own_layer_numbers(built):
    import torch

    model, module = built("qwen3_next")
    seen = []
    hook = module.model.layers[3].self_attn.register_forward_hook(lambda part, given, output: seen.append(output[1]))
    with torch.no_grad():
        module(input_ids=torch.tensor(random_tokens().ids[None].copy()))
    hook.remove()
    trace = model.trace(random_tokens(), Want())
    np.testing.assert_allclose(patterns(trace.layer(3)), seen[0][0], atol=1e-5)
    assert set(trace.missing) == {0, 1, 2}
    with pytest.raises(BadInput, match="Layer 0 has no attention: its kind is linear attention"):
        trace.attention(0, 0)


@pytest.mark.parametrize("family", READABLE)
def test_the_last_row_of_the_lens_is_the_output(family, built):
    import torch

    model, module = built(family)
    tokens = random_tokens(module)
    first = tokens.decoder_from or 0
    table = model.lens(tokens, positions=[first + 3, 20], top_k=4, targets=[5, -1], sites="blocks")
    assert table.self_check.ok
    expected = torch.tensor(run_eager(module, tokens)[1]).log_softmax(-1)
    np.testing.assert_allclose(table.top_logprobs[-1], expected[[3, 20 - first]].topk(4).values, atol=1e-5, rtol=0)
    assert table.target_logprob[-1, 0] == pytest.approx(float(expected[3, 5]), abs=1e-5)


@pytest.mark.parametrize(("family", "why"), WITHOUT_LENS.items())
def test_without_a_lens_the_card_says_why(family, why, built):
    model, module = built(family)
    assert why in model.card.missing["logits"]
    with pytest.raises(Unavailable, match=why):
        model.lens(random_tokens(module), positions=[3], top_k=4, targets=[5], sites="blocks")


@pytest.mark.parametrize(
    ("family", "why"),
    {
        "mamba": "MambaForCausalLM gives no attention: .* it returns no attention maps",
        "rwkv": r"RwkvForCausalLM gives no attention: .* shape \[8, 64\] for 8 tokens, not \[heads, 8, 8\]",
        "longformer": r"LongformerForMaskedLM gives no attention: .* shape \[4, 8, 9\] for 8 tokens",
    }.items(),
)
def test_without_attention_the_architecture_is_named(family, why, built):
    model, module = built(family)
    with pytest.raises(Unavailable, match=why):
        model.trace(random_tokens(module), Want())


def test_the_page_of_families_lists_what_is_tested():
    """Names, layers and routes; the figures are those of the machine that wrote it."""
    lines = (ROOT / "docs" / "families.md").read_text("utf-8").partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert rows[0][:4] == ["family", "class", "layers", "route"]
    expected = [[name, family.layers_in_words(), family.route] for name, family in FAMILIES.items()]
    assert [[row[0], *row[2:4]] for row in rows[2:]] == expected


@pytest.mark.parametrize("family", ["gpt_oss", "albert", "mamba", "t5"])
def test_the_page_of_families_is_what_its_program_writes(family):
    program = runpy.run_path(str(ROOT / "docs" / "families.py"))
    row = program["measure"](family)
    text = (ROOT / "docs" / "families.md").read_text("utf-8")
    written = next(line for line in program["page"]([row]).splitlines() if line.startswith(f"| {family} |"))
    assert without_figures(written) in map(without_figures, text.splitlines())
    assert f"* {row.cells[3]}: {row.reason} (" in text


def without_figures(line):
    return re.sub(r"\b\d(e-\d\d)?\b", "", line)
