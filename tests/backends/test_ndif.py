"""Models on NDIF, against a stand-in that speaks its HTTP interface in a process of its own, without attnviz."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from attnviz.hooks import BadInput, ModelError, ModelSpec, Sampling, Unavailable, Want
from attnviz.plugins.backends import hf, loading, ndif_model, ndif_service, nnsight, remote_code
from attnviz.testing import check_backend
from tests.backends.ndif_stand_in import KEY

FAMILIES = ("gpt2", "llama", "mistral", "gpt_oss")
TEXT = "The cat sat on the mat and the dog sat on the log."
WANT = Want(thumbnail=6, top_k=3, values=True)
STATISTICS = ("entropy", "row_max", "distance", "column_sum", "allowed", "seen_by")


class Server:
    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def behave(self, how: str) -> None:
        """The next job goes wrong in this way."""
        data = json.dumps({"next": how}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/behave", data)).close()

    def last(self) -> dict:
        """What the last job carried."""
        with urllib.request.urlopen(f"{self.address}/seen") as answer:
            return json.loads(answer.read())[-1]


def cached(name: str, folder: Path, cache: Path) -> None:
    """Configuration and tokenizer as the hub's client keeps them, and no weights."""
    home = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, home / "snapshots" / "abc", ignore=shutil.ignore_patterns("*.safetensors"))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory):
    """The stand-in, and a machine that has the configurations of its models and a key."""
    import huggingface_hub

    from attnviz.plugins.backends.nnsight_model import import_nnsight

    folders = {f"org/{family}": str(model_folder(family)) for family in FAMILIES}
    folders["org/llama-bf16"] = folders["org/llama"]
    script = Path(__file__).with_name("ndif_stand_in.py")
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([sys.executable, str(script), json.dumps(folders)], **options)
    cache = tmp_path_factory.mktemp("cache")
    for name, folder in folders.items():
        cached(name, Path(folder), cache)
    cached("org/bert", model_folder("bert"), cache)
    import_nnsight()
    from nnsight.schema.config import CONFIG

    assert process.stdout is not None
    found = Server(int(process.stdout.readline()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CONFIG.API, "HOST", found.address)
        patch.setattr(CONFIG.API, "APIKEY", None)
        patch.setenv("NDIF_API_KEY", KEY)
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **_: Named(name))
        patch.setattr(loading, "_hub_answers", lambda: False)
        patch.setattr(ndif_service, "_FIRST", 0.01)
        yield found
    process.kill()
    process.wait()
    process.stdout.close()


class Named:
    def __init__(self, name: str) -> None:
        self.id = name


@pytest.fixture(scope="module")
def remote(server):
    """family -> the model on the stand-in."""
    models = {}

    def model(family):
        if family not in models:
            models[family] = nnsight.load(ModelSpec(f"org/{family}", device="ndif"))
        return models[family]

    return model


# --------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_that_of_backend_hf(family, remote, loaded):
    away, here = remote(family), loaded(family)
    assert (away.card.layers, away.card.vocabulary, away.card.positions) == (
        here.card.layers,
        here.card.vocabulary,
        here.card.positions,
    )
    assert away.card.ends == here.card.ends
    tokens = here.tokenize(TEXT)
    np.testing.assert_array_equal(away.tokenize(TEXT).ids, tokens.ids)
    found, expected = away.trace(tokens, WANT), here.trace(tokens, WANT)
    assert found.precision == "float32"
    for a, b in zip(found.layers, expected.layers, strict=True):
        for name in STATISTICS:
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=2e-5, rtol=0)
        assert np.abs(a.thumbnail.astype(int) - b.thumbnail).max() <= 1
        np.testing.assert_allclose(a.top_weights, b.top_weights, atol=1e-5)
        for head in range(b.heads):
            np.testing.assert_allclose(a.pattern(head), b.pattern(head), atol=1e-5)
        assert (a.visible is None) == (b.visible is None)
        assert (a.sinks is None) == (b.sinks is None)
        if a.sinks is not None:
            np.testing.assert_allclose(a.sinks, b.sinks)
        assert "does not ask it for the values" in a.absent["value_norm"]
    np.testing.assert_allclose(away.attention_map(tokens, 1, 2), expected.attention(1, 2), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sites", ["blocks", "sublayers"])
def test_the_lens_is_that_of_backend_hf(family, sites, remote, loaded):
    tokens = loaded(family).tokenize(TEXT)
    question = {"positions": [0, 4, len(tokens) - 1], "top_k": 7, "targets": [5, -1, 9], "sites": sites}
    found, expected = remote(family).lens(tokens, **question), loaded(family).lens(tokens, **question)
    assert (found.sites, found.labels, found.self_check.ok) == (expected.sites, expected.labels, True)
    np.testing.assert_array_equal(found.top_ids, expected.top_ids)
    np.testing.assert_array_equal(found.target_rank, expected.target_rank)
    np.testing.assert_array_equal(found.settles_at, expected.settles_at)
    names = ("top_logprobs", "entropy", "target_logprob", "total_variation")
    for name in (*names, "kl_model_lens", "kl_lens_model", "jensen_shannon"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_backend_hf(family, remote, loaded):
    tokens = loaded(family).tokenize("The cat")
    for sampling in (Sampling(8), Sampling(8, temperature=1.2, top_p=0.9, repetition_penalty=1.3, seed=4)):
        expected = loaded(family).generate(tokens, sampling)
        heard: list[int] = []
        found = remote(family).generate(tokens, sampling, heard.append)
        np.testing.assert_array_equal(found.ids, expected.ids)
        assert heard == expected.ids[len(tokens) :].tolist()
    stop = expected.text[len(tokens.text) :][:1] or "never said"
    sampling = Sampling(8, temperature=1.2, top_p=0.9, repetition_penalty=1.3, seed=4, stop=(stop,))
    ended = loaded(family).generate(tokens, sampling)
    np.testing.assert_array_equal(remote(family).generate(tokens, sampling).ids, ended.ids)


def test_the_contract_is_kept(server):
    model = check_backend(nnsight.attnviz_backends()[0], ModelSpec("org/mistral", device="ndif"), "The cat sat on it.")
    assert {"gradients", "interventions", "sensors", "norms of values"} == set(model.card.missing)
    with pytest.raises(Unavailable, match="weights are on NDIF"):
        model.module()


def test_a_model_in_half_precision(remote, loaded):
    """Its own maps, in its own type; which keys are visible is read off the mask and not off the weights."""
    tokens = loaded("llama").tokenize(TEXT)
    found, expected = remote("llama-bf16").trace(tokens, Want()), loaded("llama").trace(tokens, Want())
    assert found.precision == "bfloat16"
    for a, b in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_array_equal(a.allowed, b.allowed)
        np.testing.assert_allclose(a.row_max, b.row_max, atol=4e-2)
    table = remote("llama-bf16").lens(tokens, positions=[3], top_k=2, targets=[-1], sites="blocks")
    assert table.self_check.ok


def test_a_readout_that_misses_the_logits_is_refused(remote, loaded):
    """Without the final norm the last block does not give the model's logits."""
    import dataclasses

    model = remote("llama")
    wrong = dataclasses.replace(model, outline=dataclasses.replace(model.outline, chain=model.outline.chain[1:]))
    with pytest.raises(Unavailable, match="do not give the model's logits"):
        wrong.lens(model.tokenize(TEXT), positions=[3], top_k=2, targets=[-1], sites="blocks")


def test_reductions_are_those_of_the_local_code():
    """Sizes that fill neither a block of queries nor a cell of the small picture; one row sees nothing."""
    import torch

    from attnviz.plugins.backends.statistics import map_statistics

    torch.manual_seed(1)
    pattern = torch.softmax(torch.randn(3, 301, 301).masked_fill(torch.ones(301, 301).triu(1).bool(), -1e9), -1)
    pattern[:, 7] = 0
    found, expected = remote_code.map_numbers(pattern, 64, 5), map_statistics(pattern, 64, True, top_k=5)
    for name in ("entropy", "row_max", "distance", "column_sum", "top_weights"):
        np.testing.assert_allclose(found[name], getattr(expected, name), atol=2e-5, rtol=1e-6)
    np.testing.assert_array_equal(found["thumbnail"], expected.thumbnail)
    listed = found["top_keys"] >= 0
    np.testing.assert_array_equal(listed, expected.top_keys >= 0)


def test_visibility_is_what_the_mask_says_even_where_a_weight_is_nothing():
    import torch

    pattern = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1.0]]])  # 0 for keys that row 2 may see
    mask = torch.zeros(1, 1, 3, 3).masked_fill(torch.ones(3, 3).triu(1).bool(), torch.finfo(torch.float32).min)
    shown, causal = remote_code.visibility(pattern, mask, None)
    assert causal
    assert shown.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert remote_code.visibility(pattern, mask, 2)[0].tolist()[2] == [False, True, True]
    assert remote_code.visibility(pattern, None, None)[0].tolist()[2] == [False, False, True]


# --------------------------------------------------------------------------------------------- what travels


def test_beyond_the_budget_statistics_travel_and_maps_only_one_by_one(remote, loaded, server, monkeypatch):
    model, tokens = remote("llama"), loaded("llama").tokenize(TEXT * 4)
    count = len(tokens)
    model.trace(tokens, Want())
    whole = server.last()["returned"]
    monkeypatch.setattr(ndif_model, "MAPS_BUDGET", 4 * count**2)  # one map
    trace = model.trace(tokens, Want(thumbnail=8))
    assert server.last()["returned"] < whole / 4
    assert model.estimate(count, Want(thumbnail=8)).bytes < 3 * 4 * 4 * count**2 / 4
    assert trace.layers[0].weights is None
    with pytest.raises(Unavailable, match=f"Maps of {count} tokens would be .* look at single heads"):
        trace.attention(0, 1)
    np.testing.assert_allclose(
        model.attention_map(tokens, 0, 1), loaded("llama").trace(tokens, Want()).attention(0, 1), atol=1e-5
    )
    monkeypatch.setattr(ndif_model, "MAPS_BUDGET", 4 * count**2 - 1)
    with pytest.raises(Unavailable, match="one head over"):
        model.attention_map(tokens, 0, 1)
    for layer, head in ((0, 4), (3, 0), (-1, 0)):
        with pytest.raises(BadInput):
            model.attention_map(tokens, layer, head)


def test_a_head_is_fetched_when_it_is_looked_at(server, loaded, monkeypatch):
    import attnviz

    monkeypatch.setattr(ndif_model, "MAPS_BUDGET", 4 * 30**2)
    run = attnviz.load("org/llama", device="ndif").trace(TEXT)
    finding = run.analyze("attention_pattern", layer=1, head=3)
    here = loaded("llama")
    expected = here.trace(here.tokenize(TEXT), Want()).attention(1, 3)
    np.testing.assert_allclose(finding.result.weights, expected, atol=1e-5)
    with pytest.raises(Unavailable, match="There are no maps of this run"):
        run.analyze("attention_pattern", layer=1, head="mean")
    assert run.analyze("attention_stats").result.metrics["entropy"].shape == (3, 4)


def test_a_job_names_the_model_and_carries_no_weights(remote, loaded, server):
    tokens = loaded("gpt2").tokenize(TEXT)
    remote("gpt2").trace(tokens, Want())
    job = server.last()
    assert job["model_key"].startswith("nnsight.modeling.transformers.TransformersModel:{")
    assert '"repo_id": "org/gpt2"' in job["model_key"]
    assert job["env"] == {"attn_implementation": "eager"}
    assert job["sent"] < 20_000
    remote("gpt2").generate(tokens, Sampling(2))
    assert server.last()["env"] == {"attn_implementation": "sdpa"}
    assert {p.device.type for p in remote("gpt2").loaded.module.parameters()} == {"meta"}


def test_four_threads_at_once_get_what_each_gets_alone(remote):
    model = remote("llama")
    texts = ["The cat sat.", "Once upon a time there was", "What is 25 * 37?", "日本語 and 🙂"]
    alone = [model.trace(model.tokenize(text), Want()).attention(1, 1) for text in texts]
    found = {}

    def work(number):
        found[number] = model.trace(model.tokenize(texts[number]), Want()).attention(1, 1)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        np.testing.assert_array_equal(found[number], expected)


# --------------------------------------------------------------------------------------------- words


def test_the_card_says_where_it_runs_and_that_it_was_not_tried_there(remote):
    card = remote("llama").card
    assert card.device == "ndif"
    assert "stand-in for NDIF" in card.notes[0]
    assert card.capabilities == {"attention", "hidden_states", "logits", "generation"}
    assert KEY not in repr(remote("llama").service)


def test_the_command_line_says_so_too_and_prints_nothing_else(server, capsys, monkeypatch):
    from attnviz.__main__ import main

    given = ["--text", "The cat", "--model", "org/gpt2", "--backend", "nnsight", "--device", "ndif"]
    assert main(["generate", *given, "--max-new-tokens", "3"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == "org/gpt2"
    assert said.err.startswith("attnviz: org/gpt2 runs on NDIF")
    monkeypatch.delenv("NDIF_API_KEY")
    assert main(["generate", *given]) == 2
    assert "NDIF_API_KEY" in capsys.readouterr().err


def test_what_is_missing_is_said_in_one_line(server, model_folder, monkeypatch):
    folder = ModelSpec(str(model_folder("gpt2")), device="ndif")
    assert (
        nnsight.handles(folder)
        == f"NDIF runs models of the Hugging Face hub: expected a hub id, got the folder {folder.source}"
    )
    pair = ModelSpec("mine", objects=(object(), object()), device="ndif")
    assert "got a model in memory" in nnsight.handles(pair)
    assert nnsight.handles(ModelSpec("org/gpt2", device="ndif")) is None
    assert hf.handles(ModelSpec("org/gpt2", device="ndif")) == "the device ndif belongs to backend nnsight"
    with pytest.raises(BadInput, match="NDIF decides the data type"):
        nnsight.load(ModelSpec("org/gpt2", device="ndif", dtype="float16"))
    with pytest.raises(ModelError, match="causal language models, and this is BertForMaskedLM"):
        nnsight.load(ModelSpec("org/bert", device="ndif"))
    with pytest.raises(ModelError, match="not in the local cache, and the Hugging Face hub cannot be reached"):
        nnsight.load(ModelSpec("org/unknown", device="ndif"))
    monkeypatch.delenv("NDIF_API_KEY")
    with pytest.raises(ModelError, match="NDIF needs a key, and there is none"):
        nnsight.load(ModelSpec("org/gpt2", device="ndif"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("away", r"NDIF did not take the job: .*NDIF is being updated"),
        ("fail", r"Job job-[0-9]+ failed at NDIF: OSError: full$"),
        ("garble", "what came back cannot be read"),
        ("code", "what came back cannot be read"),
        ("empty", "returned nothing that was asked for"),
        ("queue", r"was not finished by NDIF within 0 s .QUEUED"),
    ],
)
def test_failures_of_the_service_are_one_line(how, words, remote, server, monkeypatch):
    model = remote("gpt2")
    tokens = model.tokenize(TEXT)
    if how == "queue":
        monkeypatch.setattr(ndif_service, "_LONGEST", 0.2)
    server.behave(how)
    with pytest.raises(ModelError, match=words) as refused:
        model.trace(tokens, Want())
    assert "\n" not in str(refused.value)
    model.trace(tokens, Want())  # and the next one runs


def test_a_wrong_key_is_not_repeated(server, monkeypatch):
    monkeypatch.setenv("NDIF_API_KEY", "not-the-key")
    model = nnsight.load(ModelSpec("org/gpt2", device="ndif"))
    with pytest.raises(ModelError, match=r"NDIF did not take the job: .*Unknown API key …") as refused:
        model.trace(model.tokenize(TEXT), Want())
    assert "not-the-key" not in str(refused.value)


def test_nobody_answers(remote, monkeypatch):
    from nnsight.schema.config import CONFIG

    model = remote("gpt2")
    monkeypatch.setattr(CONFIG.API, "HOST", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="NDIF did not take the job: "):
        model.trace(model.tokenize(TEXT), Want())


def test_a_wait_can_be_given_up(remote, server):
    model = remote("gpt2")
    tokens = model.tokenize(TEXT)
    assert model.generate(tokens, Sampling(4), None, lambda: True) is tokens
    server.behave("queue")
    asked = []
    answer = model.generate(tokens, Sampling(4), None, lambda: asked.append(1) or len(asked) > 3)
    np.testing.assert_array_equal(answer.ids, tokens.ids)
    assert len(model.generate(tokens, Sampling(4))) > len(tokens)


def test_edges_of_questions_are_those_of_backend_hf(remote, loaded):
    model = remote("gpt2")
    tokens = model.tokenize("The cat")
    assert model.trace(tokens, Want(attention=False)).layers == (None,) * 3
    assert [layer is None for layer in model.trace(tokens, Want(layers=(1,))).layers] == [True, False, True]
    for wrong in (Want(layers=(3,)), Want(top_k=-1)):
        with pytest.raises(BadInput):
            model.trace(tokens, wrong)
    with pytest.raises(BadInput, match="max_new_tokens must be at least 1"):
        model.generate(tokens, Sampling(0))
