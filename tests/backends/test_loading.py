"""What is refused, in which words, and that nothing is left behind or printed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from attnviz.hooks import AttnvizError, BadInput, Model, ModelError, ModelSpec, Sampling, Tokens, UnknownName, Want
from attnviz.plugins.backends import hf

TEXT = "The cat sat on the mat."


@pytest.fixture
def folder(model_folder, tmp_path) -> Path:
    """A copy of the Llama folder that a test may spoil."""
    return Path(shutil.copytree(model_folder("llama"), tmp_path / "model"))


def refusal(folder: Path, **options: str) -> str:
    with pytest.raises(ModelError) as caught:
        hf.load(ModelSpec(str(folder), **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_a_loaded_model_keeps_the_contract(loaded):
    model = loaded("llama")
    assert isinstance(model, Model)
    card = model.card
    assert card.architecture == "LlamaForCausalLM"
    assert (card.vocabulary, card.positions, card.dtype, card.device) == (320, 128, "float32", "cpu")
    assert card.capabilities == {
        "attention", "hidden_states", "logits", "gradients", "interventions", "generation",
    }  # fmt: skip
    assert set(card.missing) == {"sensors"}
    assert [(c.index, c.kind, c.heads, c.kv_heads) for c in card.layers] == [(i, "full", 4, 2) for i in range(3)]
    assert card.parameters == sum(p.numel() for p in model.module().parameters())
    assert "eager" in card.route_reason


def test_the_digest_is_that_of_the_weights(model_folder, loaded):
    import hashlib

    content = (model_folder("llama") / "model.safetensors").read_bytes()
    assert loaded("llama").card.weights_digest == hashlib.sha256(content).hexdigest()


def test_importing_the_plugin_loads_no_framework(model_folder):
    code = (
        "import sys\nfrom attnviz.hooks import ModelSpec\nfrom attnviz.plugins.backends import hf\n"
        f"hf.attnviz_backends()\nassert hf.handles(ModelSpec({str(model_folder('llama'))!r})) is None\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_printed_or_warned(model_folder):
    code = (
        "from attnviz.hooks import ModelSpec, Sampling, Want\nfrom attnviz.plugins.backends import hf\n"
        f"m = hf.load(ModelSpec({str(model_folder('llama'))!r}))\nt = m.tokenize('The cat')\nm.trace(t, Want())\n"
        "m.lens(t, positions=[1], top_k=2, targets=[-1], sites='sublayers')\nm.generate(t, Sampling(4, 0.9, seed=1))\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_handles_says_why_not(tmp_path, model_folder):
    assert hf.handles(ModelSpec(str(model_folder("gpt2")))) is None
    assert hf.handles(ModelSpec("some-org/some-model")) is None
    assert "no config.json" in str(hf.handles(ModelSpec(str(tmp_path))))
    assert "no folder" in str(hf.handles(ModelSpec("./not/there")))
    (tmp_path / "file").touch()
    assert "is a file" in str(hf.handles(ModelSpec(str(tmp_path / "file"))))
    for name in ("a" * 5000, "~nobody-of-this-name/x"):
        assert "is no name of a folder" in str(hf.handles(ModelSpec(name)))
    assert hf.handles(ModelSpec("a\0b")) is not None
    assert "no transformers model" in str(hf.handles(ModelSpec("pair", objects=(object(), object()))))


def test_folder_without_configuration(folder):
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)


def test_broken_configuration(folder):
    (folder / "config.json").write_text("{")
    assert "its configuration cannot be read" in refusal(folder)


def test_unknown_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "quux", "architectures": ["QuuxModel"]}))
    assert "quux" in refusal(folder)
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["QuuxForCausalLM"]}))
    assert "QuuxForCausalLM" in refusal(folder)


def test_code_in_the_folder_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "quux", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('code from the folder was run')")
    assert "which attnviz never runs" in refusal(folder)


def test_folder_without_weights(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "has no weights" in message
    assert "pytorch_model.bin" in message


def test_corrupted_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert "its weights cannot be read" in refusal(folder)


def test_missing_tensors_are_named_and_refused(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.self_attn.q_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.layers.1.self_attn.q_proj.weight" in refusal(folder)


def test_tensors_of_another_shape_are_named_and_refused(folder):
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"] = torch.ones(7)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert "model.norm.weight" in refusal(folder)


def test_tensors_the_model_does_not_have_are_noted(folder):
    import torch
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file({**state, "extra.weight": torch.ones(7)}, folder / "model.safetensors", metadata={"format": "pt"})
    assert "extra.weight" in hf.load(ModelSpec(str(folder))).card.notes[0]


def test_tied_embeddings_are_not_missing(model_folder):
    from safetensors import safe_open

    with safe_open(model_folder("gpt2") / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lm_head" in name]  # noqa: SIM118
    assert hf.load(ModelSpec(str(model_folder("gpt2")))).card.notes == ()


def test_folder_without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(folder)


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{]")
    assert "its tokenizer cannot be read" in refusal(folder)


@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_that_cannot_be_reached(offline, monkeypatch):
    """Switched off, and at an address where nobody listens."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    message = refusal(Path("nobody/no-such-model"))
    assert message.startswith("nobody/no-such-model is no folder and not in the local cache")


def test_devices_and_types(model_folder):
    source = str(model_folder("llama"))
    with pytest.raises(UnknownName, match="auto, cpu, cuda"):
        hf.load(ModelSpec(source, device="gpu"))
    with pytest.raises(BadInput, match="no device 'cuda:77'"):
        hf.load(ModelSpec(source, device="cuda:77"))
    with pytest.raises(UnknownName, match="bfloat16"):
        hf.load(ModelSpec(source, dtype="half"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_an_explicit_type_is_honoured_and_the_statistics_stay_finite(dtype, model_folder):
    model = hf.load(ModelSpec(str(model_folder("llama")), dtype=dtype))
    assert model.card.dtype == dtype
    assert model.card.route == "interface"
    tokens = model.tokenize(TEXT)
    trace = model.trace(tokens, Want())
    np.testing.assert_allclose(trace.attention(2, 3).sum(-1), 1, atol=1e-5)  # recomputed in float32
    maps = np.stack([trace.attention(2, head) for head in range(4)])
    np.testing.assert_allclose(trace.layer(2).column_sum, maps.sum(1), atol=1e-4)
    table = model.lens(tokens, positions=[2], top_k=3, targets=[-1], sites="blocks")
    assert table.self_check.ok


def test_half_precision_files_are_read_as_float32_on_a_cpu(folder, loaded):
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    half = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16)
    half.save_pretrained(folder)
    transformers.utils.logging.enable_progress_bar()
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert hf.load(ModelSpec(str(folder))).card.dtype == "float32"


# --------------------------------------------------------------------------------------------- pairs in memory


def fingerprint(module) -> tuple:
    return (
        module.training,
        module.config._attn_implementation,
        [p.requires_grad for p in module.parameters()],
        [m.training for m in module.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
        sorted(vars(module)),
    )


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_pair_in_memory_is_left_exactly_as_it_was(implementation, model_folder, tokenizers_by_kind):
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    module = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder("llama"), attn_implementation=implementation
    )
    transformers.utils.logging.enable_progress_bar()
    module.train()
    next(module.parameters()).requires_grad_(False)
    before = fingerprint(module)
    model = hf.load(ModelSpec("mine", objects=(module, tokenizers_by_kind["chat"])))
    tokens = model.tokenize(TEXT)
    trace = model.trace(tokens, Want())
    model.lens(tokens, positions=[1], top_k=2, targets=[-1], sites="sublayers")
    model.generate(tokens, Sampling(3))
    assert fingerprint(module) == before
    assert model.card.route == "interface"
    assert model.module() is not module
    shared = zip(module.parameters(), model.module().parameters(), strict=True)
    assert all(mine.data_ptr() == theirs.data_ptr() and not theirs.requires_grad for mine, theirs in shared)
    module.eval()
    ids = torch.tensor(tokens.ids[None].copy())
    with torch.no_grad():
        output = module(input_ids=ids, output_attentions=implementation == "eager")
        assert float((output.logits - model.module()(input_ids=ids).logits).abs().max()) <= 1e-5
    if implementation == "eager":
        np.testing.assert_allclose(trace.attention(0, 1), output.attentions[0][0, 1], atol=1e-5)
    with torch.no_grad():
        next(iter(module.model.layers)).self_attn.q_proj.weight.mul_(2)  # the weights are the same tensors
    assert np.abs(model.trace(tokens, Want()).attention(0, 1) - trace.attention(0, 1)).max() > 1e-3


def test_a_pair_that_does_not_fit_the_wishes_is_refused(model_folder, tokenizers_by_kind, eager):
    module, tokenizer = eager("llama"), tokenizers_by_kind["bytes"]
    with pytest.raises(BadInput, match="holds float32, not float16"):
        hf.load(ModelSpec("mine", dtype="float16", objects=(module, tokenizer)))
    with pytest.raises(BadInput, match="Expected a transformers tokenizer"):
        hf.load(ModelSpec("mine", objects=(module, "tokenizer")))


# --------------------------------------------------------------------------------------------- nothing left, threads


def test_nothing_is_left_behind_after_a_failure_in_the_middle(model_folder):
    model = hf.load(ModelSpec(str(model_folder("gpt2"))))
    tokens, module = model.tokenize(TEXT), model.module()
    before = fingerprint(module)
    whole = model.trace(tokens, Want())
    broken = module.transformer.h[1].mlp

    def fail(*args):
        raise RuntimeError("stop here")

    broken.forward = fail
    with pytest.raises(RuntimeError, match="stop here"):
        model.trace(tokens, Want())
    with pytest.raises(RuntimeError, match="stop here"):
        model.lens(tokens, positions=[1], top_k=2, targets=[-1], sites="sublayers")
    with pytest.raises(RuntimeError, match="stop here"):
        model.generate(tokens, Sampling(2))
    del broken.forward
    from attnviz.plugins.backends.attention_function import _collector

    assert _collector.get() is None
    assert fingerprint(module) == before
    np.testing.assert_array_equal(model.trace(tokens, Want()).attention(2, 1), whole.attention(2, 1))


def test_four_threads_at_once_get_what_each_gets_alone(loaded):
    model = loaded("llama")
    texts = ["The cat sat.", "Once upon a time there was", "What is 25 * 37?", "日本語 and 🙂"]

    def everything(text: str) -> list[np.ndarray]:
        tokens = model.tokenize(text)
        trace = model.trace(tokens, Want())
        table = model.lens(tokens, positions=range(len(tokens)), top_k=3, targets=[-1] * len(tokens), sites="sublayers")
        answer = model.generate(tokens, Sampling(5, 1.0, seed=3))
        maps = [trace.attention(layer, head) for layer in range(3) for head in range(4)]
        return [*maps, table.top_ids, table.entropy, table.kl_model_lens, answer.ids]

    alone = [everything(text) for text in texts]
    results: dict[int, list[list[np.ndarray]]] = {}
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()  # hooks put on per request used to fail here: torch looks each one up twice
        results[number] = [everything(texts[number]) for _ in range(8)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        for found in results[number]:
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------------------------- prompts


def test_what_another_thread_makes_the_default_type_changes_no_number(model_folder):
    import torch

    model = hf.load(ModelSpec(str(model_folder("llama"))))  # loading sets it, for the whole process
    tokens = model.tokenize("one two one two")
    want = Want(top_k=2, values=True)
    before, usual = model.trace(tokens, want), torch.get_default_dtype()
    try:
        for other in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(other)
            for layer, expected in zip(model.trace(tokens, want).layers, before.layers, strict=True):
                for name in ("entropy", "row_max", "distance", "column_sum", "thumbnail", "top_weights", "value_norm"):
                    found, wanted = getattr(layer, name), getattr(expected, name)
                    assert found.dtype == wanted.dtype
                    np.testing.assert_array_equal(found, wanted)
    finally:
        torch.set_default_dtype(usual)


def test_more_tokens_than_positions(loaded):
    model = loaded("llama")
    with pytest.raises(BadInput, match=r"has 200 tokens; .* has 128 positions. Shorten it by 72 tokens"):
        model.tokenize("x" * 199)


def test_tokens_of_another_model_are_refused(loaded):
    model = loaded("bert")
    other = loaded("llama").tokenize(TEXT)
    assert isinstance(other, Tokens)
    with pytest.raises(BadInput, match="outside the vocabulary"):
        model.trace(other, Want())
    assert issubclass(BadInput, AttnvizError)
