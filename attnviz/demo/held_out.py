"""The embedded model as an agent with its real tools, on problems it cannot have seen: right call, right answer.

Problems come from the generator of the training text, from the part that training never sees (one key in twelve; see
attnviz.demo.text.split). What is right is not taken from the generator where the tools know better: a conversion is
judged by the exact factor and a fact by the table that the tool reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attnviz.agent import AgentRun, run_agent
from attnviz.demo.text import agent, world
from attnviz.demo.text.problem import Problem
from attnviz.demo.text.stream import draw_held_out
from attnviz.session import LoadedModel

NOTHING = "nothing found"
KINDS: Mapping[str, tuple[Callable[[random.Random], Problem], ...]] = {
    "arithmetic": (agent.arithmetic, agent.word_problem, agent.two_steps),
    "conversion": (agent.conversion,),
    "look-up": (agent.lookup,),
}
ALL = "all"
REQUIRED = 0.95
"""Of all kinds together; each kind by itself is reported."""


@dataclass(frozen=True)
class Judged:
    """One problem and what became of it. `expected`: the right answer; `calls`: what was called, step by step."""

    kind: str
    problem: Problem
    expected: str
    done: AgentRun

    @property
    def calls(self) -> tuple[str, ...]:
        return tuple(step.text for step in self.done.steps if step.kind == "action")

    @property
    def calls_right(self) -> bool:
        return self.calls == tuple(step.call for step in self.problem.steps)

    @property
    def answer_right(self) -> bool:
        return self.done.answer == self.expected

    @property
    def right(self) -> bool:
        return self.calls_right and self.answer_right


def draw(n: int, seed: int = 21) -> list[tuple[str, Problem]]:
    """n held-out problems, the same number of each kind; one that is drawn twice counts twice."""
    rng = random.Random(seed)
    kinds = list(KINDS)
    drawn = []
    for number in range(n):
        kind = kinds[number % len(kinds)]
        makers = KINDS[kind]
        drawn.append((kind, draw_held_out(rng, makers[number // len(kinds) % len(makers)])))
    return drawn


def expected_answer(kind: str, problem: Problem, tools: Mapping[str, Any]) -> str:
    """What the model has to answer when its tools say what they say."""
    if kind == "look-up":
        return _statement(problem.steps[0].argument)
    if kind == "conversion":
        step = problem.steps[0]
        exact = tools["convert"].run(request=step.argument).partition(",")[0]
        return f"{step.argument.partition(' to ')[0]} is {exact}."
    return problem.final


def _statement(topic: str) -> str:
    """The sentence of the table's fact, or that there is none."""
    for relation in world.RELATIONS:
        for thing, truth in relation.facts.items():
            if relation.topic.format(x=thing) == topic:
                return relation.statement.format(x=thing, y=truth)
    return f"I could not find the {topic}."


def judge(model: LoadedModel, kind: str, problem: Problem) -> Judged:
    """Let the model solve a problem as an agent with all its tools."""
    expected = expected_answer(kind, problem, model.session.registry.tools)
    return Judged(kind, problem, expected, run_agent(model, problem.question))


@dataclass(frozen=True)
class Row:
    """A line of the table; shares of n."""

    kind: str
    n: int
    calls: float
    answers: float
    both: float

    @property
    def met(self) -> bool:
        return self.kind != ALL or self.both >= REQUIRED


def rows(judged: list[Judged]) -> list[Row]:
    """A line for each kind, and one for all."""
    groups = {kind: [one for one in judged if one.kind == kind] for kind in KINDS}
    return [_row(kind, group) for kind, group in groups.items() if group] + [_row(ALL, judged)]


def _row(kind: str, group: list[Judged]) -> Row:
    n = len(group)
    calls, answers = sum(one.calls_right for one in group), sum(one.answer_right for one in group)
    return Row(kind, n, calls / n, answers / n, sum(one.right for one in group) / n)


def table(lines: list[Row]) -> str:
    """The lines as Markdown."""
    head = ["| held out | n | right calls | right answer | both | required |", "|---|---|---|---|---|---|"]
    body = [
        f"| {row.kind} | {row.n} | {row.calls:.3f} | {row.answers:.3f} | {row.both:.3f} | "
        f"{f'≥ {REQUIRED:g}' if row.kind == ALL else ''} |"
        for row in lines
    ]
    return "\n".join([*head, *body])


def to_jsonable(judged: list[Judged]) -> dict[str, Any]:
    """Plain data for the command line: the table, and every problem that went wrong."""
    wrong = [
        {
            "kind": one.kind,
            "question": one.problem.question,
            "calls": list(one.calls),
            "expected_calls": [step.call for step in one.problem.steps],
            "answer": one.done.answer,
            "expected_answer": one.expected,
            "ended": one.done.trajectory.ended,
        }
        for one in judged
        if not one.right
    ]
    lines = [
        {"kind": r.kind, "n": r.n, "right_calls": r.calls, "right_answer": r.answers, "both": r.both, "met": r.met}
        for r in rows(judged)
    ]
    return {"held_out": lines, "required": REQUIRED, "wrong": wrong}
