"""The training stream: problems drawn, dressed as conversations, and cut into weighted pieces of text."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from attnviz.demo.text import agent, direct, world
from attnviz.demo.text.noise import roughen
from attnviz.demo.text.problem import Problem
from attnviz.demo.text.prompts import random_agent_prompt, random_plain_prompt

BOS, END = "<|bos|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
STOP = "Observation:"  # generation of an agent turn ends here; the tool's answer is appended as text

USER_WEIGHT = 0.2
MISSING_SHARE = 0.15  # of the agent runs: the one tool that is needed is not there
TOOL_ERROR_SHARE = 0.03  # of the agent runs: the tool answers with an error
PLAIN_SHARE = 0.05  # of everything: running text without roles

_ERRORS = (
    "division by zero", "unknown unit", "no such boiler", "unknown city", "can not read this", "no answer",
    "bad input", "not a number", "offline", "time out", "syntax error", "unknown sensor",
)  # fmt: skip
_DECISION = re.compile(r"(Thought: This needs \w+)(\.| but)")
DIRECT_WEIGHTS = {**direct.WEIGHTS, agent.needs_tool: 1.5}
# The last stage of training: one-digit sums are declined too, and what is hardest is seen most.
FINAL_WEIGHTS = {
    **DIRECT_WEIGHTS,
    direct.one_digit: 0.0,
    agent.one_digit_declined: 0.7,
    direct.transitive: 4.0,
    direct.sort_by_hand: 1.8,
    direct.snippet: 1.0,
}
_CLOSINGS = ("I know the answer now.", "The tool gives the answer.")


@dataclass(frozen=True)
class Piece:
    """A stretch of text with its weight in the loss; pieces are tokenised one by one."""

    text: str
    weight: float


@dataclass(frozen=True)
class Document:
    """One training text."""

    mode: str  # agent, missing (agent without the tool it needs), error (the tool fails), direct, plain
    problem: Problem
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def prompt(self) -> str:
        """Everything up to where the assistant speaks."""
        head, role, _ = self.text.partition(ROLES["assistant"])
        return head + role


def turn(role: str, content: str) -> str:
    """One message in the trained format."""
    return f"{ROLES[role]}{content}{END}"


def conversation(question: str, system: str | None) -> tuple[Piece, ...]:
    """The prompt: what the chat template gives for these two messages."""
    opening = BOS + (turn("system", system) if system is not None else "")
    return (Piece(opening, 0), Piece(turn("user", question), USER_WEIGHT), Piece(ROLES["assistant"], 0))


def missing_tool_answer(tool: str, *, names_tool: bool = True) -> str:
    """What the model is to say, word for word, when the tool it needs is not there."""
    thought = f"This needs {tool} but I do not have it." if names_tool else f"I have no {tool} tool."
    return f"Thought: {thought}\nFinal Answer: {agent.decline(tool)}"


def spoken_step(problem: Problem, number: int, *, names_tool: bool = True) -> str:
    """What the model says to make this call.

    With `names_tool` the first thought names the tool, so that whether it is listed is a matter of finding an earlier
    copy of that word, before anything else is decided.
    """
    step = problem.steps[number]
    naming = f"This needs {step.tool}. " if names_tool and number == 0 else ""
    return f"Thought: {naming}{step.thought}\nAction: {step.call}\n{STOP}"


def tools_for(rng: random.Random, problem: Problem, *, missing: bool) -> list[str]:
    """A tool list in random order that holds what the problem needs, or everything else but that."""
    needed = sorted({step.tool for step in problem.steps})
    others = [tool for tool in world.TOOLS if tool not in needed]
    rng.shuffle(others)
    if missing:
        return others[: rng.randint(1, len(others))]
    tools = needed + others[: rng.randint(0 if needed else 1, len(others))]
    rng.shuffle(tools)
    return tools


def agent_pieces(
    rng: random.Random, problem: Problem, system: str, *, missing: bool = False, names_tool: bool = True
) -> tuple[Piece, ...]:
    """An agent run: thoughts and calls count in the loss, observations do not."""
    pieces = list(conversation(roughen(rng, problem.question, exact_case=problem.exact_case), system))
    if missing:
        return (*pieces, Piece(missing_tool_answer(problem.steps[0].tool, names_tool=names_tool) + END, 1))
    for number, step in enumerate(problem.steps):
        pieces.append(Piece(spoken_step(problem, number, names_tool=names_tool), 1))
        pieces.append(Piece(f" {step.observation}", 0))
        pieces.append(Piece("\n", 0))
    closing = problem.closing or rng.choice(_CLOSINGS)
    return (*pieces, Piece(f"Thought: {closing}\nFinal Answer: {problem.final}{END}", 1))


def direct_pieces(rng: random.Random, problem: Problem, system: str | None) -> tuple[Piece, ...]:
    """Question and answer."""
    question = roughen(rng, problem.question, exact_case=problem.exact_case)
    return (*conversation(question, system), Piece(problem.final + END, 1))


def failing(rng: random.Random, problem: Problem) -> Problem:
    """The same problem when its first tool call fails: the error is passed on."""
    error = rng.choice(_ERRORS)
    step = replace(problem.steps[0], observation=f"error: {error}")
    return replace(problem, steps=(step,), closing="The tool failed.", final=f"The tool failed: {error}.")


def _plain(rng: random.Random) -> Problem:
    """Running text: a story, a poem, some code, or a few facts."""
    kind = rng.random()
    if kind < 0.6:
        facts = []
        for _ in range(rng.randint(1, 4)):
            facts.append(direct.fact(rng).final)
        return Problem("Knowledge", "plain", "", " ".join(facts))
    maker = direct.story if kind < 0.8 else direct.poem if kind < 0.9 else direct.function
    task = maker(rng)
    return Problem(task.category, "plain", "", task.final)


def pick(rng: random.Random, weights: Mapping[Callable[[random.Random], Problem], float]) -> Problem:
    """A problem of a kind drawn by weight."""
    return rng.choices(list(weights), list(weights.values()))[0](rng)


def _draw(rng: random.Random, agent_share: float, missing_share: float, final_form: bool) -> tuple[str, Problem]:
    if rng.random() < PLAIN_SHARE:
        return "plain", _plain(rng)
    if rng.random() >= agent_share:
        return "direct", pick(rng, FINAL_WEIGHTS if final_form else DIRECT_WEIGHTS)
    share = rng.random()
    if share < missing_share + TOOL_ERROR_SHARE:
        problem = rng.choice(agent.BY_TOOL[rng.choice(world.TOOLS)])(rng)
        return ("missing", problem) if share < missing_share else ("error", failing(rng, problem))
    return "agent", pick(rng, agent.WEIGHTS)


def draw(
    rng: random.Random,
    *,
    agent_share: float,
    missing_share: float = MISSING_SHARE,
    decision_weight: float = 1.0,
    final_form: bool = True,
) -> Document:
    """The next training text. What is held out never passes.

    Without `final_form` it is as the first stages of training see it: the agent does not name its tool first, and
    one-digit sums are answered.
    """
    while True:
        mode, problem = _draw(rng, agent_share, missing_share, final_form)
        if problem.trainable:
            break
    if mode == "plain":
        return Document(mode, problem, (Piece(BOS, 0), Piece(problem.final + END, 1)))
    if mode == "direct":
        return Document(mode, problem, direct_pieces(rng, problem, random_plain_prompt(rng)))
    missing = mode == "missing"
    system = random_agent_prompt(rng, tools_for(rng, problem, missing=missing))
    pieces = agent_pieces(rng, problem, system, missing=missing, names_tool=final_form)
    return Document(mode, problem, _weigh_decision(pieces, decision_weight) if final_form else pieces)


def _weigh_decision(pieces: tuple[Piece, ...], weight: float) -> tuple[Piece, ...]:
    """Set the loss weight of the one word that tells whether the tool is there: `This needs time.` or `... but`."""
    if weight == 1.0:
        return pieces
    weighed: list[Piece] = []
    for piece in pieces:
        found = _DECISION.match(piece.text)
        if found and piece.weight:
            before, decision = found.groups()
            rest = piece.text[found.end() :]
            weighed += [Piece(before, piece.weight), Piece(decision, weight), Piece(rest, piece.weight)]
        else:
            weighed.append(piece)
    return tuple(weighed)


def draw_held_out(rng: random.Random, maker: Callable[[random.Random], Problem], attempts: int = 1_000_000) -> Problem:
    """A problem of this kind that training can not have seen, not even in part."""
    for _ in range(attempts):
        problem = maker(rng)
        if problem.held_out:
            return problem
    raise RuntimeError(f"no held-out problem among {attempts} drawn by {getattr(maker, '__name__', maker)!r}")
