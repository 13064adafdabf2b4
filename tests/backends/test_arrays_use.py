"""Models that read numbers where people meet them: sessions, files, the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from attnviz.__main__ import main
from attnviz.errors import BadInput
from attnviz.registry import load_registry
from attnviz.runfile import read_run
from attnviz.session import Session
from tests.backends.arrays import example, numbers, random_module


@pytest.fixture(scope="module")
def session():
    return Session(load_registry(entry_points=False))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for family in ("vit", "patchtst", "time_series"):
        found[family] = tmp_path_factory.mktemp(family)
        random_module(family).save_pretrained(found[family])
    return found


@pytest.fixture(scope="module")
def model(session, folders):
    return session.load(folders["patchtst"])


def test_names_stand_where_a_text_would(model):
    run = model.trace(array=numbers(36, 3), names=["pressure", "flow", "<b>temp</b>"])
    assert run.text == "Columns: pressure, flow, <b>temp</b>"
    assert json.loads(run.analyze("attention_stats").to_json())["text"] == run.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "expected one for each of the 3 columns of the array, got 2"),
        ("abc", "expected a list of texts, got 'abc'"),
        ([1, 2, 3], "expected a list of texts"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, message, model):
    with pytest.raises(BadInput, match=message):
        model.trace(array=numbers(36, 3), names=names)


def test_findings_are_kept_by_the_numbers_and_their_names(model):
    first = model.trace(array=numbers(36, 3)).analyze("attention_stats")
    again = model.trace(array=numbers(36, 3)).analyze("attention_stats")
    other = model.trace(array=numbers(36, 3, seed=1)).analyze("attention_stats")
    named = model.trace(array=numbers(36, 3), names=["a", "b", "c"]).analyze("attention_stats")
    assert (first.cached, again.cached, other.cached, named.cached) == (False, True, False, False)
    assert again.provenance == first.provenance != other.provenance
    assert named.tokens.text == "Columns: a, b, c"


def test_the_array_belongs_to_the_run(model):
    values = numbers(36, 3)
    run = model.trace(array=values)
    before = run.attention(0, 0)
    values[:] = 0
    assert run.tokens.values.any()
    with pytest.raises(ValueError, match="read-only"):
        run.tokens.values[0] = 1
    np.testing.assert_array_equal(run.attention(0, 0), before)


@pytest.mark.parametrize("family", ["vit", "patchtst", "time_series"])
def test_a_run_is_written_and_read_back(family, session, folders, tmp_path):
    run = session.load(folders[family]).trace(array=example(family))
    run.write(tmp_path / "run.safetensors")
    saved = read_run(tmp_path / "run.safetensors")
    np.testing.assert_array_equal(saved.run.tokens.values, run.tokens.values)
    assert saved.run.tokens.labels == run.tokens.labels
    assert saved.run.tokens.decoder_from == run.tokens.decoder_from
    for ours, theirs in zip(saved.trace.layers, run.captured.layers, strict=True):
        np.testing.assert_array_equal(ours.pattern(1), theirs.pattern(1))


@pytest.mark.parametrize("family", ["vit", "patchtst", "time_series"])
@pytest.mark.parametrize(
    "analysis", ["attention_pattern", "attention_stats", "value_weighted_attention", "attention_rollout", "head_roles"]
)
def test_every_analysis_of_attention_is_drawn_and_saved(analysis, family, session, folders, tmp_path):
    finding = session.load(folders[family]).trace(array=example(family)).analyze(analysis)
    for renderer in session.renderers(type(finding.result)):
        session.render(finding, renderer.name)
    for suffix in (".html", ".png", ".svg", ".csv", ".json"):
        assert finding.save(tmp_path / f"finding{suffix}").stat().st_size > 0


def test_rollout_of_a_past_and_a_future(session, folders):
    """Each stack by itself, written out in float64."""
    run = session.load(folders["time_series"]).trace(array=example("time_series"))
    scores = run.analyze("attention_rollout", through_layer=1).result.scores
    rolled = np.eye(24)
    for layer in (0, 1):
        mean = np.mean([run.attention(layer, head) for head in range(4)], axis=0, dtype=np.float64)
        rolled = (mean + np.eye(24)) / (mean + np.eye(24)).sum(1, keepdims=True) @ rolled
    np.testing.assert_allclose(scores[:24, :24], rolled, atol=1e-5)


def test_channels_are_named_wherever_heads_are(model):
    """PatchTST of 3 channels and 4 heads: head 7 is head 3 of channel 1."""
    run = model.trace(array=numbers(36, 3))
    assert "head 7 (channel 1, head 3)" in run.analyze("attention_pattern", layer=1, head=7).result.info[0]
    assert "head 7 (channel 1, head 3)" in run.analyze("value_weighted_attention", layer=1, head=7).result.info[0]
    mean = run.analyze("attention_pattern", layer=1, head="mean").result
    assert "mean of its 12 heads (3 channels of 4 heads each)" in mean.info[0]
    assert any("(3 channels of 4 heads each)" in line for line in run.analyze("attention_stats").result.info)


def test_channels_are_rolled_out_one_by_one(model):
    run = model.trace(array=numbers(36, 3))
    channels = []
    for channel in range(3):
        rolled = np.eye(8)
        for layer in range(3):
            heads = [run.attention(layer, 4 * channel + head) for head in range(4)]
            mixed = np.mean(heads, axis=0, dtype=np.float64) + np.eye(8)
            rolled = mixed / mixed.sum(1, keepdims=True) @ rolled
        channels.append(rolled)
    result = run.analyze("attention_rollout").result
    np.testing.assert_allclose(result.scores, np.mean(channels, axis=0), atol=1e-5)
    assert any("Each of the 3 channels attends on its own" in line for line in result.info)


def test_a_module_of_the_users_can_be_given_alone_or_beside_an_example(session):
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    for source in (layer, (layer, None), (layer, np.zeros((4, 16)))):
        run = session.load(source).trace(array=numbers(7, 16))
        assert run.attention(0, 3).shape == (7, 7)
    with pytest.raises(BadInput, match="Expected an array of numbers"):
        session.load((layer, ["text"]))


# --------------------------------------------------------------------------------------------- command line


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "series.npy", numbers(36, 3))
    rows = "\n".join(",".join(map(repr, row)) for row in numbers(36, 3).tolist())
    (tmp_path / "series.csv").write_text(f"pressure,flow,temperature\n{rows}\n")
    (tmp_path / "bad.csv").write_text(f"pressure,flow,temperature\n{rows}\n1,2,?\n")
    return tmp_path


def run(capsys, *arguments):
    code = main(["run", *map(str, arguments), "--no-plugins"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_an_array_on_the_command_line(files, folders, capsys):
    arguments = ["attention_stats", "--model", folders["patchtst"], "--array"]
    code, out, _ = run(capsys, *arguments, files / "series.npy")
    assert code == 0
    plain = json.loads(out)
    assert [token["label"] for token in plain["tokens"]][:2] == ["t 0–7", "t 4–11"]
    code, out, _ = run(capsys, *arguments, files / "series.csv")
    named = json.loads(out)
    assert named["text"] == "Columns: pressure, flow, temperature"
    found, expected = (np.array(result["result"]["metrics"]["entropy"], float) for result in (named, plain))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("analysis", "source", "message"),
    [
        (
            "attention_stats",
            ["--array", "bad.csv"],
            "bad.csv, row 38, column 3 (temperature): expected a finite number",
        ),
        ("attention_stats", ["--array", "none.npy"], "none.npy: cannot be read"),
        (
            "attention_stats",
            ["--text", "hello"],
            "reads numbers, not text: expected an array [time, channel] = [36, 3]",
        ),
        ("logit_lens", ["--array", "series.npy"], "Logit lens is not available"),
        ("attention_stats", ["--array", "series.npy", "--text", "hello"], "not allowed with argument"),
    ],
)
def test_bad_input_on_the_command_line_is_one_line(analysis, source, message, files, folders, capsys, monkeypatch):
    monkeypatch.chdir(files)
    code, out, error = run(capsys, analysis, "--model", folders["patchtst"], *source)
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_an_array_for_a_model_of_text_is_refused(files, capsys):
    code, _, error = run(capsys, "attention_stats", "--array", files / "series.npy")
    assert code == 2
    assert "demo reads text, not an array of numbers" in error
