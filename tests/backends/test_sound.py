"""Whisper: sound in, text out."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from attnviz.__main__ import main
from attnviz.hooks import (
    BadInput,
    ModelError,
    ModelSpec,
    ReadsNumbers,
    Sampling,
    Segment,
    ShapeError,
    Unavailable,
    Want,
)
from attnviz.plugins.backends import hf
from attnviz.registry import load_registry
from attnviz.runfile import read_run
from attnviz.session import Session
from attnviz.testing import check_backend
from tests.backends.families import MELS, SOURCE, inputs_of, random_module, random_tokens

SOUND = np.random.default_rng(3).normal(size=(MELS, 2 * SOURCE)).astype(np.float32)
PROMPT = {
    "lang_to_id": {"<|en|>": 30, "<|de|>": 31, "<|fr|>": 32},
    "task_to_id": {"transcribe": 40, "translate": 41},
    "no_timestamps_token_id": 50,
}


@pytest.fixture
def spoken(tokenizers_by_kind):
    """Settings of the files -> the model."""

    def build(**settings):
        module = random_module("whisper", 320)
        for name, value in settings.items():
            setattr(module.generation_config, name, value)
        return hf.load(ModelSpec("whisper", objects=(module, tokenizers_by_kind["bytes"])))

    return build


def test_the_contract_is_kept(model_folder):
    model = check_backend(hf.attnviz_backends()[0], ModelSpec(str(model_folder("whisper"))), SOUND)
    assert isinstance(model, ReadsNumbers)
    assert (model.card.source_positions, model.card.positions) == (SOURCE, 64)
    assert "reads numbers" in model.card.missing["gradients"]
    assert model.card.missing["sensors"] == "WhisperForConditionalGeneration reads sound, not sensor values."


def test_only_a_model_that_hears_takes_sound(loaded):
    assert not isinstance(loaded("bart"), ReadsNumbers)
    with pytest.raises(BadInput, match="reads text, not an array"):
        loaded("bart").trace(replace(random_tokens(loaded("bart").module()), values=SOUND), Want())


def test_tokens_are_pieces_of_time(loaded):
    model = loaded("whisper")
    tokens = model.tokenize_values(SOUND.astype(np.float64))
    assert tokens.labels[:3] == ("0.00 s", "0.02 s", "0.04 s")
    assert tokens.labels[SOURCE:] == ("</s>",)
    assert tokens.ids.tolist() == [-1] * SOURCE + [2]
    assert tokens.decoder_from == SOURCE
    assert tokens.segments == (Segment("source", 0, SOURCE), Segment("target", SOURCE, SOURCE + 1))
    assert tokens.text == ""
    np.testing.assert_array_equal(tokens.values, SOUND)


def test_what_is_no_sound_for_the_model_is_refused_in_words(loaded):
    model = loaded("whisper")
    expected = rf"\[mel, frame\] = \[{MELS}, 28\], the log-mel features of 0\.28 s"
    for wrong in (SOUND[:, :-1], SOUND[:-1], SOUND[0], SOUND[None]):
        with pytest.raises(ShapeError, match=expected):
            model.tokenize_values(wrong)
    with pytest.raises(BadInput, match="finite"):
        model.tokenize_values(np.full_like(SOUND, np.inf))
    with pytest.raises(BadInput, match=f"hears, it does not read: expected an array {expected}"):
        model.tokenize("The cat sat.")
    tokens = model.tokenize_values(SOUND)
    with pytest.raises(BadInput, match=f"hears: expected an array {expected}"):
        model.trace(replace(tokens, values=None), Want())
    with pytest.raises(BadInput, match="makes 14 tokens of the sound, got 13"):
        model.trace(replace(tokens, decoder_from=SOURCE - 1), Want())
    with pytest.raises(BadInput, match="Token id 400 is outside the vocabulary"):
        model.trace(replace(tokens, ids=np.where(tokens.ids < 0, -1, 400)), Want())


def test_the_decoder_starts_with_language_task_and_no_timestamps(spoken):
    assert spoken().tokenize_values(SOUND).ids[SOURCE:].tolist() == [2]
    assert spoken(**PROMPT, language="de", task="translate").tokenize_values(SOUND).ids[SOURCE:].tolist() == [
        2, 31, 41, 50,
    ]  # fmt: skip
    assert spoken(no_timestamps_token_id=50).tokenize_values(SOUND).ids[SOURCE:].tolist() == [2, 50]
    with pytest.raises(ModelError, match=r"ask for 'xx'; it has <\|en\|>, <\|de\|>"):
        spoken(**PROMPT, language="xx").tokenize_values(SOUND)


def test_a_language_that_is_not_named_is_the_one_the_model_finds_likeliest(spoken):
    import torch

    model = spoken(**PROMPT)
    tokens = model.tokenize_values(SOUND)
    with torch.no_grad():
        logits = random_module("whisper", 320)(**inputs_of(tokens, SOURCE + 1)).logits[0, -1]
    assert tokens.ids[SOURCE:].tolist() == [2, 30 + int(logits[30:33].argmax()), 40, 50]
    assert tokens.special[SOURCE:].all()


def test_an_answer_is_argmax_step_by_step_whatever_the_files_say(spoken):
    """Tokens that they rule out, timestamps that they ask for, pieces that they cut the sound into."""
    import torch

    files = {"suppress_tokens": list(range(100, 200)), "begin_suppress_tokens": list(range(3, 320)),
             "return_timestamps": True, "is_multilingual": True}  # fmt: skip
    model, module = spoken(**PROMPT, **files), random_module("whisper", 320)
    prompt = model.tokenize_values(SOUND)
    heard = []
    run = model.generate(prompt, Sampling(max_new_tokens=6), heard.append)
    ids = prompt.ids[SOURCE:].tolist()
    for _ in range(6):
        with torch.no_grad():
            given = {"input_features": torch.tensor(SOUND[None]), "decoder_input_ids": torch.tensor([ids])}
            ids.append(int(module(**given).logits[0, -1].argmax()))
        if ids[-1] == 2:
            break
    assert run.ids[SOURCE:].tolist() == ids
    assert heard == ids[len(prompt) - SOURCE :]
    np.testing.assert_array_equal(run.values, SOUND)


def test_an_estimate_is_of_the_whole_sound(loaded):
    model = loaded("whisper")
    with pytest.raises(Unavailable, match="always hears 14 tokens of sound"):
        model.estimate(20, Want(), 10)
    tokens = model.tokenize_values(SOUND)
    assert model.estimate(SOURCE + 1, Want(), SOURCE).bytes == model.trace(tokens, Want()).nbytes


@pytest.fixture(scope="module")
def heard(model_folder):
    session = Session(load_registry())
    model = session.load(str(model_folder("whisper")))
    return model.generate(array=SOUND, max_new_tokens=20, repetition_penalty=2.0)


def test_a_session_hears(heard):
    assert heard.generated_from == SOURCE + 1
    assert heard.answer == heard.text
    assert heard.model.session.estimate(heard.run, Want()).bytes == heard.captured.nbytes
    for name in heard.model.session.registry.analyses:
        if name == "evidence_ledger":
            with pytest.raises(Unavailable, match="has an encoder and a decoder"):
                heard.analyze(name)
        elif heard.model.session.check(heard.model.session.analysis(name), heard.model.card) is None:
            assert heard.analyze(name).result.info


def test_head_roles_on_random_tokens_say_that_there_are_none(heard):
    with pytest.raises(Unavailable, match=r"0 ordinary tokens were found\. Measure on this run"):
        heard.analyze("head_roles", ground="repeated random tokens")


def test_a_run_file_holds_the_sound(heard, tmp_path):
    heard.write(tmp_path / "run")
    again = read_run(tmp_path / "run")
    np.testing.assert_array_equal(again.run.tokens.values, SOUND)
    assert again.run.tokens.decoder_from == SOURCE
    assert again.card.layers == heard.model.card.layers
    for ours, theirs in zip(again.trace.layers, heard.captured.layers, strict=True):
        assert (ours.queries, ours.keys) == (theirs.queries, theirs.keys)
        np.testing.assert_array_equal(ours.pattern(0), theirs.pattern(0))


def test_the_command_line_hears(model_folder, tmp_path, capsys):
    np.save(tmp_path / "sound.npy", SOUND)
    given = ["--model", str(model_folder("whisper")), "--array", str(tmp_path / "sound.npy"), "--no-plugins"]
    assert main(["generate", *given, "--max-new-tokens", "3"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["generated_from"] == SOURCE + 1
    assert said["tokens"][0] == {"index": 0, "id": -1, "label": "0.00 s", "generated": False}
    assert main(["run", "attention_pattern", *given, "-p", "layer=5"]) == 0
    pattern = json.loads(capsys.readouterr().out)["result"]
    assert (pattern["rows"], pattern["columns"]) == ([SOURCE, SOURCE + 1], [0, SOURCE])
    assert main(["run", "attention_pattern", "--model", given[1], "--text", "hello", "--no-plugins"]) == 2
    assert "hears, it does not read" in capsys.readouterr().err


def test_other_models_that_hear_are_refused_by_name(tokenizers_by_kind):
    import transformers

    config = transformers.Speech2TextConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        input_feat_per_channel=8, conv_channels=8,
    )  # fmt: skip
    module = transformers.Speech2TextForConditionalGeneration(config)
    with pytest.raises(ModelError, match="reads input_features, not text"):
        hf.load(ModelSpec("speech", objects=(module, tokenizers_by_kind["bytes"])))
