"""Models with encoder and decoder: tokens, layers of three stacks, answers, limits, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from attnviz.__main__ import main
from attnviz.hooks import BadInput, ModelError, ModelSpec, Sampling, Segment, Unavailable, Want
from attnviz.plugins.backends import hf
from attnviz.registry import load_registry
from attnviz.runfile import read_run
from attnviz.session import Session
from attnviz.testing import check_backend
from tests.backends.families import inputs_of, patterns, random_module, random_tokens, run_eager

TEXT = "The cat sat on the mat."
FAMILIES = ["t5", "bart", "marian"]
START = {"t5": 0, "bart": 2, "marian": 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_contract_is_kept(family, model_folder):
    check_backend(hf.attnviz_backends()[0], ModelSpec(str(model_folder(family))), TEXT)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_the_source_and_the_start_token_follows(family, loaded):
    model = loaded(family)
    tokens = model.tokenize(TEXT)
    source = model.loaded.tokenizer(TEXT)["input_ids"]
    assert tokens.ids.tolist() == [*source, START[family]]
    assert tokens.decoder_from == len(source)
    assert tokens.segments == (Segment("source", 0, len(source)), Segment("target", len(source), len(tokens)))
    assert tokens.special[-1]
    assert tokens.labels[-1] == model.label(START[family])
    assert tokens.offsets[-1].tolist() == [-1, -1]
    assert tokens.text == f"{TEXT}\n"
    assert tokens.values is None


def test_what_the_files_put_first_is_a_token_of_the_target(tokenizers_by_kind):
    module = random_module("mbart", 320)
    module.generation_config.forced_bos_token_id = 7
    model = hf.load(ModelSpec("mbart", objects=(module, tokenizers_by_kind["bytes"])))
    tokens = model.tokenize(TEXT)
    assert tokens.ids[tokens.decoder_from :].tolist() == [2, 7]
    assert tokens.special[tokens.decoder_from :].all()
    answer = model.generate(tokens, Sampling(max_new_tokens=3))
    assert answer.ids[: len(tokens)].tolist() == tokens.ids.tolist()


def test_without_a_start_token_nothing_is_started(tokenizers_by_kind):
    module = random_module("bart", 320)
    for settings in (module.config, module.generation_config):
        settings.decoder_start_token_id = settings.bos_token_id = None
    model = hf.load(ModelSpec("bart", objects=(module, tokenizers_by_kind["bytes"])))
    with pytest.raises(ModelError, match="name no decoder_start_token_id"):
        model.tokenize(TEXT)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_those_of_three_stacks(family, loaded):
    card = loaded(family).card
    assert [layer.name for layer in card.layers] == [
        "encoder 0", "encoder 1", "decoder 0", "decoder 1", "decoder 2", "cross 0", "cross 1", "cross 2",
    ]  # fmt: skip
    assert [layer.index for layer in card.layers] == list(range(8))
    assert {layer.kind for layer in card.layers[:5]} == {"full"}
    assert {layer.kind for layer in card.layers[5:]} == {"cross"}
    assert card.causal
    limit = None if family == "t5" else 1024
    assert (card.source_positions, card.positions) == (limit, limit)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_columns_are_tokens_of_the_run(family, loaded):
    model = loaded(family)
    tokens = model.generate(model.tokenize(TEXT), Sampling(max_new_tokens=5, repetition_penalty=2.0))
    source, target = (0, tokens.decoder_from), (tokens.decoder_from, len(tokens))
    spans = [(source, source)] * 2 + [(target, target)] * 3 + [(target, source)] * 3
    trace = model.trace(tokens, Want())
    assert [(layer.queries, layer.keys) for layer in trace.layers] == spans
    for layer, (queries, keys) in zip(trace.layers, spans, strict=True):
        assert layer.pattern(0).shape == (queries[1] - queries[0], keys[1] - keys[0])
        assert layer.causal == ((queries, keys) == (target, target))
        assert np.isnan(layer.distance).all() == (queries != keys)
        assert ("distance" in layer.absent) == (queries != keys)
    assert "stand in no one order" in trace.layer(5).absent["distance"]


def test_a_bias_of_relative_positions_is_kept_once_for_the_layers_of_a_stack(loaded):
    model = loaded("t5")
    tokens = model.tokenize(TEXT)
    trace = model.trace(tokens, Want())
    assert [layer.bias is None for layer in trace.layers] == [False] * 5 + [True] * 3
    assert trace.layer(0).bias is trace.layer(1).bias
    assert trace.layer(2).bias is trace.layer(4).bias
    module = model.module()
    table = module.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.detach().numpy()
    assert trace.layer(0).bias[:, 3, 3].tolist() == table[0].tolist()  # a token and itself: the first bucket


def test_an_answer_is_more_of_the_target(loaded):
    model = loaded("bart")
    prompt = model.tokenize(TEXT)
    run = model.generate(prompt, Sampling(max_new_tokens=6, repetition_penalty=2.0))
    assert run.decoder_from == prompt.decoder_from
    assert run.segments == (prompt.segments[0], Segment("target", prompt.decoder_from, len(run)))
    assert run.text.startswith(f"{TEXT}\n")
    assert next(int(start) for start in run.offsets[len(prompt) :, 0] if start >= 0) == len(TEXT) + 1


def test_a_seed_repeats_an_answer(loaded):
    model = loaded("marian")
    prompt = model.tokenize(TEXT)
    answers = [model.generate(prompt, Sampling(12, 1.3, 0.9, seed=s)).ids.tolist() for s in (7, 7, 8)]
    assert answers[0] == answers[1] != answers[2]


FILES = {
    "forced_bos_token_id": 9, "forced_eos_token_id": 11, "min_length": 50, "suppress_tokens": None,
    "begin_suppress_tokens": None, "bad_words_ids": None, "no_repeat_ngram_size": 1, "num_beams": 3,
    "repetition_penalty": 5.0, "length_penalty": 3.0, "do_sample": True, "encoder_no_repeat_ngram_size": 1,
}  # fmt: skip


@pytest.mark.parametrize("family", ["bart", "t5", "gpt2"])
def test_nothing_of_the_files_changes_an_answer(family, loaded, monkeypatch):
    """Lists rule out the very tokens of the answer."""
    model = loaded(family)
    prompt = model.tokenize(TEXT)
    plain = model.generate(prompt, Sampling(max_new_tokens=6)).ids.tolist()
    said = plain[len(prompt) :]
    lists = {"suppress_tokens": said, "begin_suppress_tokens": said[:1], "bad_words_ids": [[i] for i in said]}
    for name, value in {**FILES, **lists}.items():
        monkeypatch.setattr(model.module().generation_config, name, value)
    assert model.generate(prompt, Sampling(max_new_tokens=6)).ids.tolist() == plain


def test_source_and_target_have_limits_of_their_own(tokenizers_by_kind):
    module = random_module("bart", 320, max_position_embeddings=12)
    model = hf.load(ModelSpec("short", objects=(module, tokenizers_by_kind["bytes"])))
    with pytest.raises(BadInput, match=r"12 positions\. Shorten it by \d+ tokens"):
        model.tokenize(TEXT * 3)
    prompt = model.tokenize("The cat sat")
    assert len(model.generate(prompt, Sampling(max_new_tokens=11, repetition_penalty=2.0))) > len(prompt)
    with pytest.raises(BadInput, match="12 positions and the prompt takes 1, which leaves 11"):
        model.generate(prompt, Sampling(max_new_tokens=12))
    long = random_tokens(module, 30, 10)
    with pytest.raises(BadInput, match="20 tokens are more than the 12 positions of the decoder of short"):
        model.trace(long, Want())
    with pytest.raises(BadInput, match="13 tokens are more than the 12 positions of the encoder of short"):
        model.trace(replace(long, decoder_from=13), Want())
    with pytest.raises(BadInput, match="no tokens for the encoder of short"):
        model.trace(replace(long, decoder_from=0), Want())
    with pytest.raises(BadInput, match="expected tokens of both"):
        model.trace(replace(long, decoder_from=None), Want())


def test_relative_positions_have_no_limit(loaded):
    model = loaded("t5")
    tokens = random_tokens(model.module(), 700, 600)
    trace = model.trace(tokens, Want(thumbnail=20))
    maps, _ = run_eager(model.module(), tokens)
    assert trace.layer(7).thumbnail.shape == (4, 4, 20)  # cells of 30 tokens
    np.testing.assert_allclose(patterns(trace.layer(7)).sum(-1), 1, atol=1e-5)
    assert maps == []  # the loaded module does not return any: it runs our attention function


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_reads_the_decoder(family, loaded, eager):
    """Each block's output through final norm and unembedding, written out; positions are those of the run."""
    import torch

    model, module = loaded(family), eager(family)
    tokens = random_tokens(module, 24, 14)
    blocks = module.decoder.block if family == "t5" else module.model.decoder.layers
    seen = [None] * 4

    def entered(m, args, kwargs):
        seen[0] = args[0] if args else kwargs["hidden_states"]

    def left(m, args, output, at):
        seen[at] = output[0] if isinstance(output, tuple) else output

    hooks = [blocks[0].register_forward_pre_hook(entered, with_kwargs=True)]
    hooks += [block.register_forward_hook(partial(left, at=i)) for i, block in enumerate(blocks, start=1)]
    with torch.no_grad():
        logits = module(**inputs_of(tokens)).logits[0]
        for hook in hooks:
            hook.remove()
        if family == "t5":
            rows = [module.lm_head(module.decoder.final_layer_norm(x[0]) * 64**-0.5) for x in seen]
        else:
            rows = [module.lm_head(x[0]) + module.final_logits_bias for x in seen]
    assert torch.allclose(rows[-1], logits, atol=1e-5)
    positions = [14, 17, 23]
    table = model.lens(tokens, positions=positions, top_k=3, targets=[5, int(tokens.ids[18]), -1], sites="blocks")
    assert table.sites == ("embedding", "block 0", "block 1", "model")
    assert table.positions.tolist() == positions
    assert table.self_check.ok
    for site, row in enumerate(rows):
        expected = row.log_softmax(-1)[[0, 3, 9]]
        np.testing.assert_allclose(table.top_logprobs[site], expected.topk(3).values, atol=1e-4)
        assert table.target_logprob[site, 1] == pytest.approx(float(expected[1, tokens.ids[18]]), abs=1e-4)


def test_a_token_of_the_source_predicts_nothing(loaded):
    model = loaded("bart")
    tokens = random_tokens(model.module(), 24, 14)
    with pytest.raises(BadInput, match=r"position 13 is a token that the encoder reads.*expected 14 to 23"):
        model.lens(tokens, positions=[13], top_k=3, targets=[-1], sites="blocks")


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_of_a_decoder_have_no_state_after_attention(family, loaded):
    model = loaded(family)
    with pytest.raises(Unavailable, match="do not add attention, attention to the encoder and MLP"):
        model.lens(random_tokens(model.module()), positions=[20], top_k=3, targets=[-1], sites="sublayers")


def test_large_runs_are_kept_in_half_precision(loaded, monkeypatch):
    from attnviz.plugins.backends import estimate

    model = loaded("marian")
    tokens = random_tokens(model.module())
    full = model.trace(tokens, Want())
    monkeypatch.setattr(estimate, "FLOAT32_BUDGET", 10)
    half = model.trace(tokens, Want())
    assert half.precision.startswith("float16. Queries and keys of 24 tokens would take")
    assert model.estimate(24, Want(), 14).bytes == half.nbytes
    np.testing.assert_allclose(half.attention(6, 2), full.attention(6, 2), atol=3e-3)
    monkeypatch.setattr(estimate, "FLOAT16_BUDGET", 10)
    bare = model.trace(tokens, Want())
    assert model.estimate(24, Want(), 14).bytes == bare.nbytes
    np.testing.assert_array_equal(bare.layer(6).entropy, full.layer(6).entropy)
    with pytest.raises(Unavailable, match="no maps of this run"):
        bare.attention(6, 2)


def test_nothing_is_left_of_a_run_that_fails(loaded):
    model = loaded("bart")
    tokens = random_tokens(model.module())
    before = {name: dict(vars(part)) for name, part in model.module().named_modules()}
    with pytest.raises(BadInput):
        model.trace(replace(tokens, ids=tokens.ids + 10_000), Want())
    with pytest.raises(ZeroDivisionError):
        model.generate(model.tokenize(TEXT), Sampling(max_new_tokens=3), lambda token: 1 / 0)
    model.trace(tokens, Want())
    after = {name: dict(vars(part)) for name, part in model.module().named_modules()}
    assert before.keys() == after.keys()
    for name, state in before.items():
        assert state.keys() == after[name].keys()
        assert state["_forward_hooks"] == after[name]["_forward_hooks"]
        assert state["training"] == after[name]["training"]


def test_a_length_in_the_files_says_nothing(loaded, monkeypatch, capfd):
    model = loaded("bart")
    monkeypatch.setattr(model.module().generation_config, "max_length", 3)
    assert len(model.generate(model.tokenize(TEXT), Sampling(6, repetition_penalty=2.0))) > 3
    assert capfd.readouterr().err == ""


def test_two_vocabularies_are_refused(tokenizers_by_kind):
    two = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": 320}
    with pytest.raises(ModelError, match="a vocabulary for its encoder and another one for its decoder"):
        load_pair(random_module("marian", 320, **two), tokenizers_by_kind)


def test_a_module_that_does_not_run_over_source_and_target_is_refused(tokenizers_by_kind):
    import transformers

    config = random_module("bart", 320).config
    with pytest.raises(ModelError, match="BartForSequenceClassification cannot be run over 13 tokens: The shape of"):
        load_pair(transformers.BartForSequenceClassification(config), tokenizers_by_kind)


def load_pair(module, tokenizers_by_kind):
    return hf.load(ModelSpec("pair", objects=(module, tokenizers_by_kind["bytes"])))


# --------------------------------------------------------------------------------------------- session, files, commands


@pytest.fixture(scope="module")
def answered(model_folder):
    session = Session(load_registry())
    return session.load(str(model_folder("t5"))).generate(TEXT, max_new_tokens=12, repetition_penalty=2.0, stop=["\n"])


def test_a_session_answers(answered):
    prompt = answered.model.tokenize(TEXT)
    assert answered.generated_from == len(prompt) == prompt.decoder_from + 1
    assert answered.text == f"{TEXT}\n{answered.answer}"
    assert answered.answer
    assert answered.run.ended in ("length", "end token")  # the end of the source is no stop text
    session = answered.model.session
    assert session.estimate(answered.run, Want()).bytes == answered.captured.nbytes


def test_every_analysis_of_a_session_has_a_result(answered):
    """But those of layers over every token, of which there is none here: they are refused in words."""
    session, done = answered.model.session, []
    for name in session.registry.analyses:
        if name in ("layer_gradient_x_activation", "gradient_x_attention", "evidence_ledger"):
            with pytest.raises(Unavailable, match="has an encoder and a decoder"):
                answered.analyze(name)
        elif session.check(session.analysis(name), answered.model.card) is None:
            done.append(answered.analyze(name))
    assert len(done) > 5
    assert {finding.layers for finding in done} == {tuple(layer.name for layer in answered.model.card.layers)}
    assert len({finding.provenance for finding in done}) == len(done)


def test_a_run_file_gives_the_run_back(answered, tmp_path):
    answered.write(tmp_path / "run")
    again = read_run(tmp_path / "run")
    assert again.run.tokens.decoder_from == answered.tokens.decoder_from
    assert again.run.tokens.segments == answered.tokens.segments
    assert again.card == answered.model.card
    for ours, theirs in zip(again.trace.layers, answered.captured.layers, strict=True):
        assert (ours.queries, ours.keys, dict(ours.absent)) == (theirs.queries, theirs.keys, dict(theirs.absent))
        np.testing.assert_array_equal(ours.pattern(1), theirs.pattern(1))


def test_where_the_decoder_begins_is_part_of_what_a_run_is(answered):
    session, tokens = answered.model.session, answered.tokens
    moved = session.start(answered.model, replace(tokens, decoder_from=tokens.decoder_from - 1))
    ours, theirs = moved.analyze("attention_stats"), answered.analyze("attention_stats")
    assert ours.provenance != theirs.provenance
    assert not np.allclose(ours.result.metrics["entropy"], theirs.result.metrics["entropy"], equal_nan=True)


def test_the_command_line_answers(model_folder, capsys):
    model = ["--model", str(model_folder("marian")), "--no-plugins", "--text", TEXT]
    assert main(["generate", *model, "--max-new-tokens", "4"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["text"] == f"{TEXT}\n{said['answer']}"
    assert [token["generated"] for token in said["tokens"]].index(True) == said["generated_from"]
    assert main(["run", "attention_stats", *model]) == 0
    assert len(json.loads(capsys.readouterr().out)["result"]["received"]) == 8


def test_the_app_makes_the_run_of_a_wish(model_folder):
    from attnviz.ui.background import Job
    from attnviz.ui.describe import prompt_of, run_value
    from attnviz.ui.python_code import reproduce
    from attnviz.ui.wish import OWN, Wish, make_run

    session = Session(load_registry())
    wish = Wish(OWN, str(model_folder("bart")), TEXT, True, 4, 0.0, None, "auto", "auto", "")
    run = make_run(session, wish, Job())
    assert prompt_of(run.run) == TEXT
    shown = run_value(run, {}, {})
    assert shown["segments"][:2] == [
        ["source", 0, run.tokens.decoder_from],
        ["target", run.tokens.decoder_from, len(run.tokens)],
    ]
    assert repr(TEXT) in reproduce(run, session.registry, "attention_stats", {})
