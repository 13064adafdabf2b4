"""What nnsight adds, and what it must not disturb: web requests, threads, the user's module, gradients."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from attnviz.hooks import BadInput, Model, ModelError, ModelSpec, Sampling, UnknownName, Want
from attnviz.plugins.backends import hf, nnsight
from attnviz.testing import check_backend
from tests.attribution.asking import answer

TEXT = "The cat sat on the mat."


@pytest.fixture(scope="module")
def traced(model_folder):
    """family -> the model behind the contract; loaded once."""
    models = {}

    def model(family):
        if family not in models:
            models[family] = nnsight.load(ModelSpec(str(model_folder(family))))
        return models[family]

    return model


def run_alone(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# --------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gpt_neo", "bert", "bert_base"])
def test_the_contract_is_kept_on_models_from_folders(family, model_folder):
    backend = nnsight.attnviz_backends()[0]
    model = check_backend(backend, ModelSpec(str(model_folder(family))), "the cat sat on the mat")
    assert isinstance(model, Model)
    assert "runs inside nnsight traces, one at a time" in model.card.notes


def test_auto_stays_with_hf():
    assert nnsight.attnviz_backends()[0].rank > hf.attnviz_backends()[0].rank


def test_refusals_are_those_of_hf(tmp_path, model_folder):
    for spec in (ModelSpec(str(tmp_path)), ModelSpec("./not/there"), ModelSpec("pair", objects=(object(), object()))):
        assert nnsight.handles(spec) == hf.handles(spec) is not None
        with pytest.raises(ModelError, match="Cannot load the model"):
            nnsight.load(spec)
    assert nnsight.handles(ModelSpec("some-org/some-model")) is None
    with pytest.raises(UnknownName, match="auto, cpu, cuda"):
        nnsight.load(ModelSpec(str(model_folder("gpt2")), device="gpu"))


def test_the_device_ndif_takes_hub_models_only(model_folder):
    assert nnsight.handles(ModelSpec("some-org/some-model", device="ndif")) is None
    spec = ModelSpec(str(model_folder("gpt2")), device="ndif")
    with pytest.raises(ModelError, match="Cannot load the model: NDIF runs models of the Hugging Face hub"):
        nnsight.load(spec)


def test_a_missing_nnsight_is_listed_with_what_to_install():
    code = (
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'nnsight' else find(name, package)\n"
        "from attnviz.registry import load_registry\nregistry = load_registry(safe=True)\n"
        "assert 'nnsight' not in registry.backends and 'hf' in registry.backends and not registry.failures\n"
        "print(*[f.reason for f in registry.unavailable if f.plugin == 'backends.nnsight'])"
    )
    said = run_alone(code).strip()
    assert said == "needs the package 'nnsight', which is not installed: pip install nnsight"


def test_a_pair_in_memory_and_its_tokenizer_are_left_exactly_as_they_were(model_folder, tokenizers_by_kind):
    import transformers

    transformers.utils.logging.disable_progress_bar()
    module = transformers.AutoModelForCausalLM.from_pretrained(model_folder("llama"), attn_implementation="sdpa")
    transformers.utils.logging.enable_progress_bar()
    tokenizer = tokenizers_by_kind["chat"]
    tokenizer.pad_token, before = None, tokenizer.padding_side
    try:
        model = nnsight.load(ModelSpec("mine", objects=(module, tokenizer)))
        tokens = model.tokenize(TEXT)
        model.trace(tokens, Want())
        model.generate(tokens, Sampling(3))
        assert (tokenizer.pad_token, tokenizer.padding_side) == (None, before)
    finally:
        tokenizer.pad_token = "<pad>"
    assert module.config._attn_implementation == "sdpa"
    assert not [name for name, part in module.named_modules() if "forward" in vars(part) or part._forward_hooks]
    assert model.module() is not module
    twins = zip(module.parameters(), model.module().parameters(), strict=True)
    assert all(mine.data_ptr() == theirs.data_ptr() for mine, theirs in twins)


# --------------------------------------------------------------------------------------------- the process


def test_web_requests_are_answered_after_a_model_was_loaded_and_nothing_is_printed(model_folder):
    code = (
        "from attnviz.hooks import ModelSpec, Sampling, Want\nfrom attnviz.plugins.backends import nnsight\n"
        f"m = nnsight.load(ModelSpec({str(model_folder('llama'))!r}))\nt = m.tokenize('The cat')\nm.trace(t, Want())\n"
        "m.lens(t, positions=[1], top_k=2, targets=[-1], sites='sublayers')\nm.generate(t, Sampling(4, 0.9, seed=1))\n"
        "import asyncio, warnings\nwarnings.simplefilter('ignore')\n"
        "from fastapi import FastAPI\nfrom fastapi.testclient import TestClient\n"
        "app = FastAPI()\n@app.get('/layers')\ndef layers(): return {'layers': len(m.card.layers)}\n"
        "with TestClient(app) as client: print(client.get('/layers').json())\n"
    )
    assert run_alone(code) == "{'layers': 3}\n"


def test_importing_the_plugin_loads_no_framework(model_folder):
    run_alone(
        "import sys\nfrom attnviz.hooks import ModelSpec\nfrom attnviz.plugins.backends import nnsight\n"
        f"nnsight.attnviz_backends()\nassert nnsight.handles(ModelSpec({str(model_folder('llama'))!r})) is None\n"
        "assert not {'torch', 'transformers', 'nnsight'} & set(sys.modules)\n"
    )


# --------------------------------------------------------------------------------------------- traces


def test_an_edit_shows_in_attention_lens_and_answer(model_folder):
    """The first block is made to pass on zeros: then every later score is the same for all keys."""
    model = nnsight.load(ModelSpec(str(model_folder("gpt2"))))
    tokens = model.tokenize(TEXT)
    before = model.trace(tokens, Want())
    answer = model.generate(tokens, Sampling(4)).ids
    with model.envoy.edit(inplace=True):
        model.envoy.transformer.h[0].output[:] = 0
    try:
        trace = model.trace(tokens, Want())
        uniform = np.tril(np.ones((len(tokens), len(tokens)))) / np.arange(1, len(tokens) + 1)[:, None]
        np.testing.assert_allclose(trace.attention(1, 2), uniform, atol=1e-5)
        np.testing.assert_array_equal(trace.attention(0, 2), before.attention(0, 2))
        table = model.lens(tokens, positions=[2, 3], top_k=3, targets=[-1, -1], sites="blocks")
        assert table.self_check.ok
        assert (table.top_logprobs[1, 0] == table.top_logprobs[1, 1]).all()  # block 0 says the same everywhere
        assert model.generate(tokens, Sampling(4)).ids.tolist() != answer.tolist()
    finally:
        model.envoy.clear_edits()
    np.testing.assert_array_equal(model.trace(tokens, Want()).attention(1, 2), before.attention(1, 2))


def test_a_gradient_through_a_trace_is_that_of_plain_torch(traced, eager):
    import torch

    model = traced("llama")
    tokens = model.tokenize(TEXT)
    assert "gradients" in model.card.capabilities
    ids = torch.tensor(tokens.ids[None].copy())
    with model.alone(), model.envoy.trace(input_ids=ids):
        embedded = model.envoy.model.embed_tokens.output
        logit = model.envoy.output.logits[0, -1, 7]
        found = torch.autograd.grad(logit, embedded)[0].save()
    plain = eager("llama")
    given = plain.get_input_embeddings()(ids).detach().requires_grad_()
    (expected,) = torch.autograd.grad(plain(inputs_embeds=given).logits[0, -1, 7], given)
    assert float(expected.abs().max()) > 1e-3
    assert float((found - expected).abs().max()) <= 1e-5
    direct = model.module().get_input_embeddings()(ids).detach().requires_grad_()
    (through,) = torch.autograd.grad(model.module()(inputs_embeds=direct).logits[0, -1, 7], direct)
    assert float((through - expected).abs().max()) <= 1e-5


def test_what_was_captured_is_a_copy(model_folder):
    import torch

    model = nnsight.load(ModelSpec(str(model_folder("llama"))))
    tokens = model.tokenize(TEXT)
    trace = model.trace(tokens, Want())
    maps = [trace.attention(layer, 1) for layer in range(3)]
    with torch.no_grad():
        for parameter in model.module().parameters():
            parameter.zero_()
    for layer, expected in enumerate(maps):
        np.testing.assert_array_equal(trace.attention(layer, 1), expected)
    assert np.abs(model.trace(tokens, Want()).attention(2, 1) - maps[2]).max() > 1e-3


# --------------------------------------------------------------------------------------------- generation


def test_tokens_are_streamed_and_cancelling_stops_soon(traced):
    model = traced("llama")
    prompt = model.tokenize("The cat")
    heard: list[int] = []
    run = model.generate(prompt, Sampling(max_new_tokens=60), heard.append, lambda: len(heard) >= 3)
    assert 3 <= len(heard) <= 4
    assert run.ids[len(prompt) :].tolist() == heard
    assert model.generate(prompt, Sampling(60), None, lambda: True).ids.tolist() == prompt.ids.tolist()
    with pytest.raises(BadInput, match="max_new_tokens must be at least 1"):
        model.generate(prompt, Sampling(0))


def test_a_run_from_inside_a_generation_is_refused_in_words(traced):
    model = traced("llama")
    prompt = model.tokenize("The cat")
    with pytest.raises(ModelError, match="in the middle of an nnsight trace"):
        model.generate(prompt, Sampling(3), lambda token: model.trace(prompt, Want()))
    assert len(model.generate(prompt, Sampling(3))) > len(prompt)


# --------------------------------------------------------------------------------------------- nothing left, threads


def state(model):
    module, interleaver = model.module(), model.envoy.interleaver
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()]
    held = (interleaver.interleaving, list(interleaver.mediators), interleaver.batcher)
    return hooks, held, module.training, module.config._attn_implementation


def test_nothing_is_left_behind_after_a_failure_in_the_middle(model_folder):
    model = nnsight.load(ModelSpec(str(model_folder("gpt2"))))
    tokens = model.tokenize(TEXT)
    whole, before = model.trace(tokens, Want()), state(model)
    assert before[1] == (False, [], None)

    def fail(module, args):
        raise RuntimeError("stop here")

    handle = model.module().transformer.h[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        model.trace(tokens, Want())
    with pytest.raises(RuntimeError, match="stop here"):
        model.lens(tokens, positions=[1], top_k=2, targets=[-1], sites="sublayers")
    with pytest.raises(RuntimeError, match="stop here"):
        model.generate(tokens, Sampling(2))
    handle.remove()
    from attnviz.plugins.backends.attention_function import _collector

    assert _collector.get() is None
    assert state(model) == before
    np.testing.assert_array_equal(model.trace(tokens, Want()).attention(2, 1), whole.attention(2, 1))


def test_four_threads_at_once_get_what_each_gets_alone(model_folder):
    """With an edit of the final norm, which both the traces and the lens call."""
    model = nnsight.load(ModelSpec(str(model_folder("llama"))))
    with model.envoy.edit(inplace=True):
        model.envoy.model.norm.output = model.envoy.model.norm.output * 1.5
    texts = ["The cat sat.", "Once upon a time there was", "What is 25 * 37?", "日本語 and 🙂"]

    def everything(text):
        tokens = model.tokenize(text)
        trace = model.trace(tokens, Want())
        table = model.lens(tokens, positions=range(len(tokens)), top_k=3, targets=[-1] * len(tokens), sites="sublayers")
        answer = model.generate(tokens, Sampling(4, 1.0, seed=3))
        maps = [trace.attention(layer, head) for layer in range(3) for head in range(4)]
        return [*maps, table.top_ids, table.entropy, answer.ids]

    alone = [everything(text) for text in texts]
    results = {}
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        results[number] = [everything(texts[number]) for _ in range(4)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        for found in results[number]:
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["cp_lrp", "gradient_x_attention"])
def test_attribution_through_a_trace_is_that_of_hf(traced, model_folder, family, name):
    """Here parameters take gradients; they are no tokens all the same."""
    found, plain = (answer(name, model) for model in (traced(family), hf.load(ModelSpec(str(model_folder(family))))))
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert found.scores.any()
    assert found.info == plain.info
