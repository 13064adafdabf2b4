"""Agents on the command line: what is printed where, exit codes, and that Ctrl-C keeps what there is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz.__main__ import main

ROOT = Path(attnviz.__file__).parent.parent


def test_an_agent_prints_steps_beside_and_json(capsys):
    assert main(["generate", "--agent", "--text", "What is 25 * 37?", "--tools", "calculator", "--no-plugins"]) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    assert (data["answer"], data["agent_ended"], data["question"]) == ("25 * 37 = 925", "answer", "What is 25 * 37?")
    assert data["trajectory"]["tools"] == ["calculator"]
    kinds = [step["kind"] for step in data["trajectory"]["steps"]]
    assert kinds == ["thought", "action", "observation", "thought", "answer"]
    observation = data["trajectory"]["steps"][2]
    inside = data["tokens"][observation["start"] : observation["stop"]]
    assert [token["generated"] for token in inside] == [False] * len(inside)
    assert all(token["generated"] for token in data["tokens"][observation["stop"] :])
    assert "attnviz: action      calculator[25 * 37]\nattnviz: observation 925\n" in printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agent", "--text", "x", "--tools", "abacus"], "Unknown tool 'abacus'"),
        (["--agent", "--text", "x", "--tools", " ,"], "expected at least one"),
        (["--agent", "--text", "x", "--max-steps", "0"], "max_steps"),
        (["--agent", "--text", "x", "--stop", "y"], "--stop"),
        (["--agent", "--messages", "none.json"], "answers one question"),
        (["--text", "x", "--tools", "calculator"], "--tools: expected together with --agent"),
        (["--text", "x", "--max-steps", "3"], "--max-steps: expected together with --agent"),
    ],
)
def test_bad_arguments_are_one_line(capsys, arguments, words):
    assert main(["generate", *arguments, "--no-plugins"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err
    assert printed.err.count("\n") == 1


def test_ctrl_c_keeps_what_there_is():
    """Stopped while a tool works that does not return."""
    arguments = [sys.executable, "-m", "attnviz", "generate", "--agent", "--no-plugins", "--text", "What is 25 * 37?"]
    code = (
        "import sys, runpy, time\n"
        "from attnviz.plugins.tools import calculator\n"
        "calculator.calculate.__code__ = (lambda expression: __import__('time').sleep(600)).__code__\n"
        f"sys.argv = {['attnviz', *arguments[3:]]!r}\n"
        "runpy.run_module('attnviz', run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "action" in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    data = json.loads(out)
    assert process.returncode == 130, err
    assert data["agent_ended"] == "cancelled"
    assert [step["kind"] for step in data["trajectory"]["steps"]] == ["thought", "action"]


def test_the_demo_answers_five_questions_of_a_category_both_ways(capsys, tmp_path, monkeypatch):
    from attnviz.store import RunStore

    monkeypatch.setenv("ATTNVIZ_HOME", str(tmp_path))
    assert main(["demo", "--category", "math", "--no-plugins"]) == 0
    printed = capsys.readouterr()
    runs = json.loads(printed.out)["runs"]
    assert [(run["category"], run["mode"]) for run in runs] == [("Math", "agent"), ("Math", "plain")] * 5
    answers = {(run["question"], run["mode"]): run["answer"] for run in runs}
    assert answers["What is 25 * 37?", "agent"] == "25 * 37 = 925"
    assert answers["What is 25 * 37?", "plain"] == "I can not answer this without the calculator tool."
    assert runs[0]["calls"] == ["calculator[25 * 37]"]
    assert printed.err.splitlines()[-2].startswith(f"[{'#' * 24}] 10/10 Math, plain: ")
    kept = RunStore(tmp_path / "runs").list()
    assert {record.id for record in kept} == {run["saved"] for run in runs}
    assert {record.category for record in kept} == {"Math"}
    saved = RunStore(tmp_path / "runs").read(runs[0]["saved"]).run
    assert saved.trajectory.answer == "25 * 37 = 925"


def test_one_way_only(capsys):
    assert main(["demo", "--category", "Code", "--category", "code", "--agent", "--no-plugins", "--no-save"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["mode"] for run in runs] == ["agent"] * 5
    assert runs[-1]["answer"] == "The result is GARDEN."


def test_the_demo_goes_on_where_a_question_cannot_be_answered(capsys, monkeypatch):
    from attnviz.demo import questions

    def refuse(model, text, **options):
        raise attnviz.errors.BadInput("out of\nwords")

    monkeypatch.setattr(questions, "run_agent", refuse)
    assert main(["demo", "--category", "Math", "--no-plugins", "--no-save"]) == 2
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run.get("error") for run in runs] == ["out of words", None] * 5
    assert runs[0]["ended"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--category", "Cooking"], "Unknown category 'Cooking'. Known: Code, Creative, Knowledge, Math, Reasoning."),
        (["--held-out", "1"], "at least 3"),
        (["--held-out", "9", "--agent"], "problems of its own"),
        (["--agent", "--plain"], "not allowed with"),
    ],
)
def test_bad_arguments_of_the_demo(capsys, arguments, words):
    assert main(["demo", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_every_question_is_one_of_the_prompts_to_try_and_there_are_five_of_each():
    from attnviz.demo.questions import QUESTIONS
    from attnviz.demo.text.examples import EXAMPLES

    known = {(example.category, example.text) for example in EXAMPLES}
    assert {len(texts) for texts in QUESTIONS.values()} == {5}
    assert {(category, text) for category, texts in QUESTIONS.items() for text in texts} <= known
