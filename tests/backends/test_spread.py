"""Models that accelerate spreads over memory and disk: the same numbers, one run at a time, nothing left behind."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest

from attnviz.hooks import BadInput, ModelError, ModelSpec, Sampling, Unavailable, Want
from attnviz.plugins.backends import hf, nnsight, placement
from attnviz.plugins.backends.loading import digest_state
from attnviz.plugins.backends.spread import SpreadModel
from attnviz.testing import check_model
from tests.backends.families import load, patterns, random_module, random_tokens

TEXT = "The cat sat on the mat."
WANT = Want(top_k=3, values=True)


@pytest.fixture
def folders(monkeypatch):
    """Folders for offloaded weights, as they are made."""
    made = []
    real = placement.tempfile.mkdtemp

    def folder(**options):
        made.append(Path(real(**options)))
        return str(made[-1])

    monkeypatch.setattr(placement.tempfile, "mkdtemp", folder)
    return made


@pytest.fixture
def spread(model_folder, monkeypatch, folders):
    """family -> the model with room in memory for a part of its weights; the rest stays on the disk."""

    def load_spread(family, share=0.7):
        folder = model_folder(family)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        monkeypatch.setattr(placement, "room", lambda: {"cpu": int(share * size)})
        return hf.load(ModelSpec(str(folder), device="spread"))

    return load_spread


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral", "gpt_neo"])
def test_the_numbers_are_those_of_the_model_in_one_place(family, spread, loaded):
    model, plain = spread(family), loaded(family)
    assert isinstance(model, SpreadModel)
    assert set(model.card.device.split(", ")) == {"cpu", "disk"}
    assert any("on disk" in note and "one run at a time" in note for note in model.card.notes)
    assert model.card.weights_digest == plain.card.weights_digest
    assert (model.card.route, model.card.parameters) == (plain.card.route, plain.card.parameters)
    tokens = model.tokenize(TEXT)
    for ours, theirs in zip(model.trace(tokens, WANT).layers, plain.trace(tokens, WANT).layers, strict=True):
        np.testing.assert_allclose(patterns(ours), patterns(theirs), atol=1e-5, rtol=0)
        assert (ours.value_norm is None) == (theirs.value_norm is None)
        if ours.value_norm is not None:
            np.testing.assert_allclose(ours.value_norm, theirs.value_norm, rtol=1e-5)
    asked = {"positions": [2, 5], "top_k": 4, "targets": [7, -1], "sites": "sublayers"}
    ours, theirs = model.lens(tokens, **asked), plain.lens(tokens, **asked)
    assert ours.self_check.ok
    np.testing.assert_allclose(ours.top_logprobs, theirs.top_logprobs, atol=1e-5, rtol=0)
    sampling, rows, expected = Sampling(8, repetition_penalty=2.0), [], []
    answer = model.generate(tokens, sampling, on_row=rows.append)
    assert answer.ids.tolist() == plain.generate(tokens, sampling, on_row=expected.append).ids.tolist()
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row.weights, other.weights, atol=1e-5, rtol=0)


def test_the_contract_is_kept(spread):
    check_model(spread("llama"), TEXT)


def test_what_fits_in_one_place_is_an_ordinary_model(model_folder):
    model = hf.load(ModelSpec(str(model_folder("llama")), device="spread"))
    assert not isinstance(model, SpreadModel)
    assert model.card.device in ("cpu", "cuda:0", "mps:0")
    assert not any("spread" in note for note in model.card.notes)


def test_runs_wait_for_one_another(spread, loaded):
    """Without that one run would find placeholders in the middle of its pass."""
    model, plain = spread("llama"), loaded("llama")
    texts, found = [TEXT, "Once upon a time"] * 3, {}

    def run(number):
        found[number] = model.trace(model.tokenize(texts[number]), Want())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, text in enumerate(texts):
        expected = plain.trace(plain.tokenize(text), Want())
        np.testing.assert_allclose(patterns(found[number].layer(2)), patterns(expected.layer(2)), atol=1e-5)


def test_a_listener_may_start_a_run(spread):
    model = spread("llama")
    prompt, seen = model.tokenize(TEXT), []
    model.generate(prompt, Sampling(2), lambda token: seen.append(model.trace(prompt, Want())))
    np.testing.assert_array_equal(patterns(seen[0].layer(1)), patterns(model.trace(prompt, Want()).layer(1)))


def test_the_folder_goes_with_the_model(spread, folders):
    model = spread("mixtral")
    assert list(folders[0].iterdir())  # experts are put together when they are loaded, so they are written anew
    model.trace(model.tokenize(TEXT), Want())
    del model
    gc.collect()
    assert not folders[0].exists()


def test_the_folder_goes_when_loading_fails(spread, folders, model_folder, tmp_path):
    for file in model_folder("llama").iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:-100] if file.suffix == ".safetensors" else content)
    with pytest.raises(ModelError, match="its weights cannot be read"):
        hf.load(ModelSpec(str(tmp_path), device="spread"))
    assert len(folders) == 1
    assert not folders[0].exists()


def test_without_gradients_the_card_says_why(spread):
    model = spread("llama")
    assert "its weights are spread over devices" in model.card.missing["gradients"]
    with pytest.raises(Unavailable, match="gradients need them all at once"):
        model.embed([1, 2])


# --------------------------------------------------------------------------------------------- a module of the user's


@pytest.fixture
def dispatched(tmp_path):
    """(module that accelerate has spread, the same weights in one place)."""
    from accelerate import dispatch_model

    plain, module = random_module("llama"), random_module("llama")
    places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    places |= {f"model.layers.{index}": "disk" if index else "cpu" for index in range(3)}
    dispatch_model(module, places, offload_dir=str(tmp_path / "offload"))
    return module, plain


def test_a_module_that_is_spread_is_taken_as_it_is(dispatched, tokenizers_by_kind):
    import torch

    module, plain = dispatched
    model = load("llama", module, tokenizers_by_kind["bytes"])
    expected = load("llama", plain, tokenizers_by_kind["bytes"])
    assert isinstance(model, SpreadModel)
    assert set(model.card.device.split(", ")) == {"cpu", "disk"}
    assert model.card.weights_digest == expected.card.weights_digest == digest_state(plain)
    tokens = random_tokens()
    for ours, theirs in zip(model.trace(tokens, WANT).layers, expected.trace(tokens, WANT).layers, strict=True):
        np.testing.assert_allclose(patterns(ours), patterns(theirs), atol=1e-5, rtol=0)
        np.testing.assert_allclose(ours.value_norm, theirs.value_norm, rtol=1e-5)
    assert model.generate(tokens, Sampling(6)).ids.tolist() == expected.generate(tokens, Sampling(6)).ids.tolist()
    twin = model.module()
    assert twin is not module
    assert twin.forward.args[0] is twin
    ids = torch.tensor(tokens.ids[None].copy())
    with torch.no_grad():
        np.testing.assert_allclose(module(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)
    assert module.model.layers[1].mlp.up_proj.weight.device.type == "meta"  # still as the user left it


def test_another_device_than_its_own_is_refused(dispatched, tokenizers_by_kind):
    module, plain = dispatched
    tokenizer = tokenizers_by_kind["bytes"]
    with pytest.raises(BadInput, match="spread over cpu and disk by accelerate, not on cpu"):
        hf.load(ModelSpec("pair", device="cpu", objects=(module, tokenizer)))
    with pytest.raises(BadInput, match="is on cpu: dispatch it with accelerate before"):
        hf.load(ModelSpec("pair", device="spread", objects=(plain, tokenizer)))
    with pytest.raises(ModelError, match="nnsight cannot trace a model that accelerate has spread"):
        nnsight.load(ModelSpec("pair", objects=(module, tokenizer)))


def test_nnsight_leaves_it_to_hf(model_folder):
    reason = nnsight.handles(ModelSpec(str(model_folder("llama")), device="spread"))
    assert reason is not None
    assert "cannot be traced by nnsight" in reason
