"""The command line over the embedded model: JSON shapes, exit codes, one clear line for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.__main__ import main

ROOT = Path(attnviz.__file__).parent.parent
PROMPT = "What is 25 * 37?"


@pytest.fixture
def run(capfd, monkeypatch):
    """Runs a command in this process; returns exit code, standard output and standard error."""
    monkeypatch.setenv("ATTNVIZ_PLUGINS", "")

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


@pytest.fixture
def result(run):
    """The JSON of an analysis of PROMPT."""

    def call(analysis, *arguments):
        code, out, err = run("run", analysis, "--text", PROMPT, *arguments)
        assert code == 0, err
        return json.loads(out)

    return call


def one_line(err):
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("attnviz: ")
    return lines[0]


def test_the_envelope(result):
    found = result("attention_stats")
    assert set(found) >= {"analysis", "params", "model", "tokens", "result", "provenance"}
    assert found["analysis"] == "attention_stats"
    assert found["model"] == "demo"
    assert len(found["provenance"]) == 64


def test_statistics_have_the_shape_scripts_rely_on(result):
    found = result("attention_stats")
    layers, heads, tokens = 6, 4, len(found["tokens"])
    metrics = found["result"]["metrics"]
    for name in ("entropy", "focus", "max_weight", "mean_distance", "sink_mass"):
        assert np.shape(metrics[name]) == (layers, heads)
    assert np.shape(found["result"]["received"]) == (layers, tokens)
    assert np.shape(found["result"]["layer_importance"]) == (layers,)
    np.testing.assert_allclose(found["result"]["layer_importance"], np.mean(metrics["focus"], axis=1), atol=1e-6)
    assert isinstance(found["result"]["sinks"], list)


def test_the_lens_has_the_shape_scripts_rely_on(result):
    found = result("logit_lens", "-p", "top_k=3")["result"]
    sites, positions = len(found["sites"]), len(found["positions"])
    assert found["sites"][-1] == "model"
    assert np.shape(found["top_ids"]) == np.shape(found["top_logprobs"]) == (sites, positions, 3)
    for name in ("entropy", "kl_model_lens", "target_rank"):
        assert np.shape(found[name]) == (sites, positions)
    assert np.shape(found["settles_at"]) == (positions,)
    assert found["self_check"]["ok"] is True
    assert set(found["self_check"]) == {"ok", "max_abs_diff", "kl"}


def test_one_head_equals_the_library(result):
    found = result("attention_pattern", "-p", "layer=2", "-p", "head=3")
    expected = attnviz.load("demo").trace(PROMPT).attention(layer=2, head=3)
    np.testing.assert_array_equal(np.array(found["result"]["weights"], np.float32), expected)


@pytest.mark.parametrize(
    ("suffix", "magic"),
    [(".json", b"{"), (".csv", b""), (".html", b"<!doctype html>"), (".png", b"\x89PNG\r\n"), (".svg", b"<?xml")],
)
@pytest.mark.parametrize("analysis", ["attention_pattern", "attention_stats", "logit_lens"])
def test_out_writes_a_file_and_prints_nothing(run, tmp_path, analysis, suffix, magic):
    target = tmp_path / f"result{suffix}"
    code, out, err = run("run", analysis, "--text", PROMPT, "--out", target)
    assert (code, out) == (0, ""), err
    assert target.read_bytes()[:20].lower().startswith(magic.lower())
    assert list(tmp_path.iterdir()) == [target]


def test_json_on_screen_and_in_a_file_is_the_same(run, tmp_path):
    _, out, _ = run("run", "attention_stats", "--text", PROMPT)
    run("run", "attention_stats", "--text", PROMPT, "--out", tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text("utf-8").strip() == out.strip()


def test_generate(run):
    code, out, err = run("generate", "--text", "Once upon a time", "--max-new-tokens", 8, "--category", "Creative")
    assert code == 0, err
    found = json.loads(out)
    assert found["category"] == "Creative"
    assert 0 < sum(token["generated"] for token in found["tokens"]) <= 8
    assert found["text"].endswith(found["answer"])


def test_stop_texts_end_the_answer(run):
    arguments = ("generate", "--text", "Once upon a time", "--max-new-tokens", 12)
    free = json.loads(run(*arguments)[1])
    assert (free["ended"], free["sampling"]["stop"]) == ("length", [])
    piece = free["answer"][5:9]
    found = json.loads(run(*arguments, "--stop", "never said", "--stop", piece)[1])
    assert (found["ended"], found["sampling"]["stop"]) == ("stop text", ["never said", piece])
    assert piece in found["answer"]
    assert found["tokens"] == free["tokens"][: len(found["tokens"])]
    assert len(found["tokens"]) < len(free["tokens"])


def test_a_sampled_answer_is_repeatable_by_its_seed(run):
    arguments = ("generate", "--text", "Once upon a time", "--max-new-tokens", 12, "--temperature", 2.5, "--seed")
    first, again, other = (run(*arguments, seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_conversation_file(run, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps([{"role": "user", "content": "What is the capital of France?"}]))
    code, out, err = run("run", "attention_stats", "--messages", tmp_path / "c.json")
    assert code == 0, err
    said = "".join(token["label"] for token in json.loads(out)["tokens"] if token["role"] == "user")
    assert said == "What is the capital of France?"


def test_plugins_and_models_as_json(run):
    found = json.loads(run("plugins", "--json")[1])
    analyses = [item for p in found["plugins"] for item in p["provides"] if item["kind"] == "analyses"]
    assert {a["name"] for a in analyses} >= {"attention_pattern", "attention_stats", "logit_lens"}
    assert all(parameter["type"] for a in analyses for parameter in a["params"])
    assert found["failures"] == []
    menu = json.loads(run("models", "--json")[1])["models"]
    assert [entry["name"] for entry in menu if entry["default"]] == ["demo"]


def test_the_card_of_a_model(run):
    code, out, err = run("card", "--json", "--tokens", 64, 5000)
    assert code == 0, err
    found = json.loads(out)
    assert found["model"] == "demo"
    assert [layer["heads"] for layer in found["card"]["layers"]] == [4] * 6
    assert [(e["tokens"], e["bytes"] is None) for e in found["estimates"]] == [(64, False), (5000, True)]
    refused = {name: reason for name, reason in found["analyses"].items() if reason is not None}
    assert refused == {"sensor_importance": "Needs sensors: LlamaForCausalLM reads text, not sensor values."}
    assert "attention_stats" in found["analyses"]
    code, text, _ = run("card", "demo")
    assert code == 0
    assert "0–5     full       4      4         6" in text.splitlines()
    assert "128     " in text


def test_only_one_kind_is_listed(run):
    found = json.loads(run("plugins", "--json", "--kind", "tools")[1])
    assert {item["kind"] for p in found["plugins"] for item in p["provides"]} == {"tools"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "attention_stats", "--text", ""), ""),
        (("run", "attention_stats", "--text", "   "), ""),
        (("run", "attention_stats", "--text", "a \udcff b"), ""),
        (("run", "attention_stats", "--text", "a" * 100_000), "512"),
        (("run", "attention_stats", "--text", "<|bos|>"), ""),
        (("run", "attention_statz", "--text", "a"), "Did you mean 'attention_stats'?"),
        (("run", "attention_stats", "--text", "a", "-p", "nothing=1"), "Unknown parameter"),
        (("run", "attention_stats", "--text", "a", "-p", "exclude_sinks"), "NAME=VALUE"),
        (("run", "attention_stats", "--text", "a", "-p", "exclude_sinks=perhaps"), "true or false"),
        (("run", "attention_pattern", "--text", "a", "-p", "layer=0", "-p", "layer=1"), "layer is given twice"),
        (("run", "logit_lens", "--text", "a b", "-p", "target= = x"), "got ' = x'"),
        (("run", "attention_pattern", "--text", "a b", "-p", "layer=99"), "0 to 5"),
        (("run", "attention_pattern", "--text", "a b", "-p", "head=-1"), "head"),
        (("run", "logit_lens", "--text", "a b", "-p", "top_k=0"), "top_k"),
        (("run", "attention_stats", "--text", "a", "--model", "no/such-model"), "no/such-model"),
        (("run", "attention_stats", "--text", "a", "--backend", "nope"), "Unknown backend"),
        (("run", "attention_stats", "--text", "a", "--dtype", "int3"), "int3"),
        (("run", "attention_stats", "--text", "a", "--device", "toaster"), "toaster"),
        (("run", "attention_stats", "--text", "a", "--out", "x.docx"), ".html"),
        (("run", "attention_stats", "--text", "a", "--out", "no/such/folder/x.json"), "no/such/folder"),
        (("run", "attention_stats"), "--text"),
        (("run", "attention_stats", "--text", "a", "--file", "b"), "not allowed"),
        (("run", "attention_stats", "--file", "no-such-file"), "No such file"),
        (("run", "attention_stats", "--messages", "no-such-file"), "no-such-file"),
        (("generate", "--text", "a", "--max-new-tokens", 0), "max_new_tokens"),
        (("generate", "--text", "a", "--temperature", -1), "temperature"),
        (("generate", "--text", "a", "--temperature", 1, "--seed", 1 << 64), "seed"),
        (("generate", "--text", "a", "--max-new-tokens", "many"), "many"),
        (("generate", "--text", "a", "--stop", ""), "stop: expected texts, got an empty one"),
        (("card", "no/such-model"), "no/such-model"),
        (("card", "--tokens", "0"), "expected a whole number from 1"),
        (("card", "--tokens", "many"), "many"),
        (("card", "--backend", "nope"), "Unknown backend"),
        (("plugins", "--kind", "nope"), "Unknown kind"),
        (("serve", "--port", "99999"), "port"),
        ((), "COMMAND"),
        (("nope",), "nope"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, says):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in one_line(err)


def test_a_folder_without_weights_and_a_broken_file(run, tmp_path):
    source = ROOT / "attnviz" / "demo" / "language"
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    code, _, err = run("run", "attention_stats", "--text", "a", "--model", tmp_path)
    assert code == 2
    one_line(err)
    (tmp_path / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:5000])
    code, _, err = run("run", "attention_stats", "--text", "a", "--model", tmp_path)
    assert code == 2
    one_line(err)


def test_unreadable_text_files(run, tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    code, _, err = run("run", "attention_stats", "--file", tmp_path / "latin")
    assert code == 2
    assert "byte 3" in one_line(err)


def test_a_real_process_keeps_standard_output_clean():
    command = [sys.executable, "-m", "attnviz", "run", "attention_stats", "--text", PROMPT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    json.loads(done.stdout)
    assert done.stderr == b""


def test_a_closed_pipe_is_no_error():
    line = f"{sys.executable} -m attnviz run attention_pattern --text '{PROMPT}' | head -c 10"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "says"), [(">/dev/full", "No space left"), (">&-", "Standard output is closed")]
)
def test_a_result_that_cannot_be_written_is_an_error(redirection, says):
    line = f"{sys.executable} -m attnviz models {redirection}"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert says in one_line(done.stderr)


def test_json_is_utf_8_whatever_the_locale():
    command = [sys.executable, "-m", "attnviz", "generate", "--text", "h\u00e9", "--max-new-tokens", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout.decode())["text"].startswith("h\u00e9")


def test_check_says_what_a_plugin_breaks(run, tmp_path):
    good = ROOT / "plugins" / "head_distance.py"
    assert run("check", good)[:2] == (0, f"{good}: keeps the plugin contract\n")
    (tmp_path / "bad.py").write_text(good.read_text("utf-8").replace("@hookimpl", ""), "utf-8")
    code, out, err = run("check", tmp_path / "bad.py")
    assert code == 2
    assert "1 problems" in out
    assert "has no @hookimpl" in err
    (tmp_path / "needs.py").write_text("import surely_not_installed", "utf-8")
    assert "pip install surely_not_installed" in one_line(run("check", tmp_path / "needs.py")[2])
    assert "Unknown plugin" in one_line(run("check", "nope")[2])
