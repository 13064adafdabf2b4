"""The held-out table: problems that training cannot have seen, judged by what the tools know and by arithmetic."""

import json
from fractions import Fraction

import pytest

from attnviz.__main__ import main
from attnviz.demo import held_out
from attnviz.demo.text.problem import Problem, Step
from attnviz.registry import load_registry

TOOLS = load_registry(safe=True).tools


def test_the_problems_are_held_out_and_of_each_kind():
    drawn = held_out.draw(60)
    assert [kind for kind, _ in drawn[:4]] == ["arithmetic", "conversion", "look-up", "arithmetic"]
    assert all(problem.held_out for _, problem in drawn)
    assert held_out.draw(9) == drawn[:9]


def test_sums_are_judged_by_their_value():
    for kind, problem in held_out.draw(300):
        if kind == "arithmetic" and problem.kind == "arithmetic":
            a, operation, b = problem.steps[0].argument.split()
            a, b = Fraction(a), Fraction(b)
            value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[operation]
            said = problem.final.partition(" = ")[2]
            assert abs(Fraction(said) - value) <= Fraction(1, 200), problem


def problem(tool, argument, final="?"):
    return Problem("", "", "", final, (Step("", tool, argument, "whatever the generator drew"),))


@pytest.mark.parametrize(
    ("kind", "argument", "expected"),
    [
        ("conversion", "12 km to miles", "12 km is 7.46 miles."),
        ("conversion", "250 euros to dollars", "250 euros is 279.3 dollars."),
        ("look-up", "capital of France", "The capital of France is Paris."),
        ("look-up", "legs of a spider", "A spider has 8 legs."),
        ("look-up", "capital of Cofupu", "I could not find the capital of Cofupu."),
    ],
)
def test_the_right_answer_is_what_the_tools_know(kind, argument, expected):
    tool = "convert" if kind == "conversion" else "lookup"
    assert held_out.expected_answer(kind, problem(tool, argument), TOOLS) == expected


def test_the_table(capsys):
    assert main(["demo", "--held-out", "12", "--no-plugins"]) == 0
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    assert [(row["kind"], row["n"]) for row in data["held_out"]] == [
        ("arithmetic", 4), ("conversion", 4), ("look-up", 4), ("all", 12),
    ]  # fmt: skip
    assert all(row["both"] == 1.0 for row in data["held_out"])
    assert data["wrong"] == []
    assert "| all | 12 | 1.000 | 1.000 | 1.000 | ≥ 0.95 |" in printed.err


def test_what_is_wrong_counts_and_is_listed(capsys, monkeypatch):
    monkeypatch.setattr(held_out, "_statement", lambda topic: "something else")
    assert main(["demo", "--held-out", "3", "--no-plugins"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [row["both"] for row in data["held_out"]] == [1.0, 1.0, 0.0, pytest.approx(2 / 3)]
    assert data["wrong"][0]["expected_answer"] == "something else"


def test_the_problems_are_those_of_the_embedded_model(capsys, tmp_path):
    from attnviz.demo import LANGUAGE

    (tmp_path / "copy").symlink_to(LANGUAGE)
    assert main(["demo", "--held-out", "3", "--model", str(tmp_path / "copy"), "--no-plugins"]) == 2
    assert "those of the embedded model" in capsys.readouterr().err
