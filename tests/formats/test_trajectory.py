"""Trajectory files: both conventions of rows, ragged and wrong ones, what is written, the index of a folder."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.__main__ import main
from attnviz.errors import BadInput, Unavailable
from attnviz.model_card import summary
from attnviz.plugins.formats.trajectory import INDEX, LISTED, read, read_index, write, write_into
from attnviz.recordings import recording_of, runs_of, take_file
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.store import RunStore
from attnviz.testing.samples import sample_recording

ROOT = Path(attnviz.__file__).parent.parent
INPUTS, OUTPUTS = ["What ", "is ", "it", "?"], ["a", " b", " c"]


def rows(start, count):
    """Rows of start, start + 1, … numbers that sum to 1, each different."""
    made = []
    for i in range(count):
        weights = np.arange(1, start + i + 1, dtype=np.float64) + i
        made.append((weights / weights.sum()).tolist())
    return made


def attention(matrix, tokens=(*INPUTS, *OUTPUTS)):
    return {
        "tokens": list(tokens),
        "attention_matrix": matrix,
        "num_layers": 1,
        "num_heads": len(matrix[0]) if matrix else 0,  # as such files have it: the length of the first row
        "output_only": True,
        "context_length": len(INPUTS),
    }


def trajectory(matrix, **more):
    return {
        "id": "20250101_120000",
        "timestamp": "2025-01-01 12:00:01",
        "test_case": {"category": "Math", "query": "What is it?", "description": "a test"},
        "response": "a b c",
        "tokens": [*INPUTS, *OUTPUTS],
        "attention_data": attention(matrix),
        "metadata": {"model": "org/model", "temperature": 0.3, "device": "cpu"},
        **more,
    }


def call(matrix, number):
    data = {"step_num": number, "step_type": "action" if number == 1 else "reasoning", "prompt": "", "response": "abc"}
    parts = {"tokens": [*INPUTS, *OUTPUTS], "input_tokens": INPUTS, "output_tokens": OUTPUTS}
    return {**data, **parts, "attention_data": attention(matrix), "tool_info": {"tools_used": []}}


@pytest.fixture
def written(tmp_path):
    def save(data):
        path = tmp_path / "t.json"
        path.write_text(json.dumps(data))
        return path

    return save


@pytest.mark.parametrize(
    ("start", "count", "first", "said"),
    [
        (4, 3, 3, "predicted 3 tokens of the answer"),
        (4, 2, 3, "predicted 2 tokens of the answer"),  # without a row for the last token
        (5, 3, 4, "3 tokens of the answer themselves"),
    ],
)
def test_the_length_of_the_rows_says_which_convention_they_are_of(written, start, count, first, said):
    found = read(written(trajectory(rows(start, count))))
    (one,) = found.calls
    assert (one.first, one.context, one.labels) == (first, 4, (*INPUTS, *OUTPUTS))
    assert said in one.convention
    assert (found.layers, found.heads, found.layer) == (0, 0, -1)  # what the file says of them is not believed
    for index, row in enumerate(rows(start, count)):
        np.testing.assert_allclose(one.weights[index, : len(row)], row, rtol=1e-6)
        assert not one.weights[index, len(row) :].any()
    assert (found.query, found.category, found.response, found.model) == ("What is it?", "Math", "a b c", "org/model")
    assert found.settings == {"temperature": 0.3, "device": "cpu"}


def test_every_call_of_an_agent_is_read_and_a_copy_of_the_first_is_not(written):
    steps = [{"step_number": 1, "step_type": "thought", "content": "hm", "tool_call": None, "tool_result": None}]
    data = trajectory(rows(5, 3), llm_calls=[call(rows(5, 3), 1), call(rows(4, 3), 2)], reasoning_steps=steps)
    found = read(written(data))
    assert [(c.first, c.kind) for c in found.calls] == [(4, "action"), (3, "reasoning")]
    assert [dict(step) for step in found.steps] == steps


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[0.5, 0.5], [1.0]], "got 2, 1 in 2 rows"),
        (rows(3, 3), "got 3, 4, 5 in 3 rows"),
        (rows(6, 3), "got 6, 7, 8 in 3 rows"),
        (rows(5, 4), "got 5, 6, 7, 8 in 4 rows"),
        ([*rows(4, 2), []], "got 4, 5, 0 in 3 rows"),
        ([[0.5, 0.5, 0.5, float("nan")]], "finite"),
        ([[0.5, 0.5, 0.5, -1.0]], "weights from 0 to 1"),
        ([[0.5, 0.5, 0.5, "x"]], "a number"),
        ([[0.5, 0.5, 0.5, 10**400]], "larger"),
        ("rows", "a list"),
        ([], "at least one call"),
    ],
)
def test_rows_that_fit_neither_are_refused(written, matrix, said):
    with pytest.raises(BadInput, match=said) as refused:
        read(written(trajectory(matrix)))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_read_can_be_looked_at_and_says_what_it_is(written):
    for start, first in ((4, 3), (5, 4)):
        saved = runs_of(read(written(trajectory(rows(start, 3)))))[0]
        run = Session(load_registry(safe=True)).reopen(saved)
        assert run.answer == "a b c"
        np.testing.assert_allclose(run.attention(0, 0)[1, : start + 1], rows(start, 3)[1], rtol=1e-6)
        shown = run.analyze("attention_pattern", layer=0, head=0).result
        assert (shown.rows, shown.columns) == ((first, first + 3), (0, 7))
        assert "the mean over the heads of the last layer" in run.model.card.notes[1]
        assert "predicted" in " ".join(run.model.card.notes)
        assert "param" not in summary(run.model.name, run.model.card)
        with pytest.raises(Unavailable, match="no model"):
            run.analyze("saliency")


def test_statistics_of_a_recorded_map_are_those_done_by_hand(written):
    matrix = [[0.25, 0.25, 0.25, 0.25], [0.5, 0.0, 0.0, 0.0, 0.5]]
    layer = runs_of(read(written(trajectory(matrix))))[0].trace.layers[0]
    np.testing.assert_allclose(layer.entropy, [[2.0, 1.0]])
    np.testing.assert_allclose(layer.row_max, [[0.25, 0.5]])
    np.testing.assert_allclose(layer.distance, [[(3 + 2 + 1 + 0) / 4, 0.5 * 4]])  # queries 3 and 4
    np.testing.assert_allclose(layer.column_sum, [[0.75, 0.25, 0.25, 0.25, 0.5, 0, 0]])
    assert layer.allowed.tolist() == [4, 5]
    assert layer.seen_by.tolist() == [2, 2, 2, 2, 1, 0, 0]
    assert layer.thumbnail[0, 1, 0] == round(255 * 0.5**0.5)


def test_rows_that_do_not_sum_to_one_are_shown_and_said(written):
    matrix = [[0.9, 0.3, 0.4, 0.3]]
    saved = runs_of(read(written(trajectory(matrix))))[0]
    assert "largest difference is 0.9" in saved.card.notes[-1]


# --------------------------------------------------------------------------------------------- writing


@pytest.fixture(scope="module")
def run():
    return Session(load_registry(safe=True)).load("demo").generate("Once upon a time", max_new_tokens=6)


def test_what_is_written_is_the_model_s_attention_with_true_counts(run, tmp_path):
    write(recording_of(run.run, run.model.card, run.attention, title="A tale"), tmp_path / "t.json")
    data = json.loads((tmp_path / "t.json").read_text("utf-8"))["attention_data"]
    context = run.generated_from
    mean = np.mean([run.attention(5, head) for head in range(4)], axis=0)
    assert (data["num_layers"], data["num_heads"], data["layer"], data["context_length"]) == (6, 4, 5, context)
    assert len(data["attention_matrix"]) == len(data["own_attention_matrix"]) == len(run.tokens) - context
    for i, (predictor, own) in enumerate(zip(data["attention_matrix"], data["own_attention_matrix"], strict=True)):
        assert (len(predictor), len(own)) == (context + i, context + i + 1)
        np.testing.assert_allclose(predictor, mean[context + i - 1, : context + i], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(own, mean[context + i, : context + i + 1], rtol=1e-5, atol=1e-9)
    again = read(tmp_path / "t.json")
    assert (again.layers, again.heads, again.layer) == (6, 4, 5)
    assert "then that of its last token" in again.calls[0].convention


def test_a_run_without_answer_is_refused(run):
    read_only = run.model.trace("Once upon")
    with pytest.raises(BadInput, match="has none"):
        recording_of(read_only.run, read_only.model.card, read_only.attention)


def test_ids_are_of_microseconds(run):
    ids = {recording_of(run.run, run.model.card, run.attention).id for _ in range(3)}
    assert len(ids) == 3
    assert all(len(i) == len("20260131_120000_000001") for i in ids)


# --------------------------------------------------------------------------------------------- the index


def numbered(number):
    return dataclasses.replace(sample_recording(), id=f"run_{number:03}", query=f"question {number}")


def test_the_index_names_the_last_fifty_and_files_stay(tmp_path):
    for number in range(LISTED + 3):
        assert write_into(numbered(number), tmp_path / "out") == (
            tmp_path / "out" / f"trajectory_run_{number:03}.json",
            "",
        )
    listed = read_index(tmp_path / "out" / INDEX)
    assert [line["id"] for line in listed] == [f"run_{n:03}" for n in range(3, LISTED + 3)]
    assert listed[-1] == {
        "filename": "trajectory_run_052.json",
        "id": "run_052",
        "timestamp": "2026-01-31 12:00:00",
        "category": "Math",
        "query": "question 52",
    }
    assert len(list((tmp_path / "out").glob("trajectory_*.json"))) == LISTED + 3
    with pytest.raises(BadInput, match="nothing is overwritten"):
        write_into(numbered(0), tmp_path / "out")


@pytest.mark.parametrize("content", ["[{", "", '{"a": 1}', "[1, 2]", "\xff"])
def test_a_damaged_index_is_kept_aside_and_reported(tmp_path, content):
    (tmp_path / INDEX).write_bytes(content.encode("latin-1"))
    _, problem = write_into(numbered(1), tmp_path)
    (aside,) = tmp_path.glob(f"{INDEX}.damaged-*")
    assert aside.read_bytes() == content.encode("latin-1")
    assert aside.name in problem
    assert [line["id"] for line in read_index(tmp_path / INDEX)] == ["run_001"]


def test_two_processes_lose_no_line(tmp_path):
    code = """
import dataclasses, sys
from attnviz.plugins.formats.trajectory import write_into
from attnviz.testing.samples import sample_recording
for number in range(20):
    write_into(dataclasses.replace(sample_recording(), id=f"{sys.argv[1]}{number}"), sys.argv[2])
"""
    started = [subprocess.Popen([sys.executable, "-c", code, name, str(tmp_path)], cwd=ROOT) for name in "ab"]
    assert [process.wait() for process in started] == [0, 0]
    assert len(read_index(tmp_path / INDEX)) == 40


def test_hostile_ids_are_refused(tmp_path):
    for name in ("../x", "", "a/b", "a" * 81):
        with pytest.raises(BadInput, match="id of letters"):
            write_into(dataclasses.replace(sample_recording(), id=name), tmp_path)


# --------------------------------------------------------------------------------------------- saved runs


def test_a_trajectory_is_taken_in_and_an_answer_comes_out(written, run, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("ATTNVIZ_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ATTNVIZ_PLUGINS", "")
    store = RunStore()
    one, two = take_file(store, written(trajectory(rows(5, 3), llm_calls=[call(rows(5, 3), 1), call(rows(4, 3), 2)])))
    assert (one.kind, one.title, two.title) == ("trajectory", "What is it? (call 1 of 2)", "What is it? (call 2 of 2)")
    assert one.metadata["trajectory"]["id"] == "20250101_120000"
    reopened = Session(load_registry(safe=True)).reopen(store.read(two.id))
    np.testing.assert_allclose(reopened.attention(0, 0)[2, :6], rows(4, 3)[2], rtol=1e-6)

    kept = run.save(title="A tale", category="Creative")
    assert main(["runs", "export", kept.id, "--out", str(tmp_path / "out")]) == 0
    assert main(["runs", "export", kept.id, "--format", "trajectory", "--out", str(tmp_path / "one.json")]) == 0
    (line,) = read_index(tmp_path / "out" / INDEX)
    found = read(tmp_path / "out" / line["filename"])
    assert (found.category, found.description, found.query) == ("Creative", "A tale", "Once upon a time")
    assert main(["runs", "import", str(tmp_path / "one.json")]) == 0
    again = store.find(capfd.readouterr().out.strip())
    assert (again.title, again.response) == ("Once upon a time", run.answer)
    assert main(["runs", "import", str(tmp_path / "one.txt")]) == 2
