"""`attnviz demo`: five questions of each category, answered with tools, without, or both ways."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnviz.agent import AgentRun, run_agent
from attnviz.errors import AttnvizError, UnknownName
from attnviz.session import LoadedModel, TracedRun

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "Math": (
        "What is 25 * 37?",
        "Compute 12 + 8, then multiply by 5.",
        "Convert 12 km to miles.",
        "How many dollars are 250 euros?",
        "Tom has 48 apples and gives away 19. How many apples are left?",
    ),
    "Knowledge": (
        "What is the capital of France?",
        "How many legs does a spider have?",
        "What is the chemical symbol of iron?",
        "What time is it in Oslo?",
        "What is the burner temperature of boiler 7?",
    ),
    "Reasoning": (
        "Omar is older than Rosa. Rosa is older than Bob. Who is the oldest?",
        "All wugs are blue. All daxs are loud. Tom is a wug. What is Tom?",
        "Sort 30, 12, 5.",
        "Which is the largest of 12, 88, 45, 61?",
        "Eva has 62 coins. Sam has 35 coins. How many more does Eva have?",
    ),
    "Code": (
        "Write a Python function that adds two numbers.",
        "Write a Python function that checks if a number is even.",
        "Set x to 42 and print it.",
        "What does sum([3, 14, 15]) return?",
        "Run 'garden'.upper().",
    ),
    "Creative": (
        "Write a short story about a fox.",
        "Write a story about a brave mouse.",
        "Tell me a short story with a cat and a red lantern.",
        "Write a poem about the moon.",
        "Write a short poem about the sea.",
    ),
}
MODES = ("agent", "plain")
PLAIN_TOKENS = 120


@dataclass(frozen=True)
class Answer:
    """What became of one question. `fault`: why there is no run, if there is none."""

    category: str
    mode: str
    question: str
    seconds: float
    run: TracedRun | None = None
    done: AgentRun | None = None
    fault: str = ""

    @property
    def text(self) -> str:
        """What was answered."""
        return self.done.answer if self.done else self.run.answer if self.run else ""

    def to_jsonable(self) -> dict[str, Any]:
        """Plain data for the command line."""
        calls = [step.text for step in self.done.steps if step.kind == "action"] if self.done else []
        ended = self.done.trajectory.ended if self.done else self.run.run.ended if self.run else "failed"
        return {
            "category": self.category,
            "mode": self.mode,
            "question": self.question,
            "answer": self.text,
            "calls": calls,
            "ended": ended,
            "tokens": len(self.run.tokens) if self.run else 0,
            "seconds": round(self.seconds, 3),
            **({"error": self.fault} if self.fault else {}),
        }


def chosen(categories: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The questions of these categories, whatever their case; of all for none.

    Raises:
        UnknownName: no such category.
    """
    known = {name.casefold(): name for name in QUESTIONS}
    for name in categories:
        if name.casefold() not in known:
            raise UnknownName("category", name, QUESTIONS)
    names = [known[name.casefold()] for name in dict.fromkeys(categories)] or list(QUESTIONS)
    return {name: QUESTIONS[name] for name in names}


def answers(
    model: LoadedModel,
    questions: Mapping[str, Sequence[str]],
    modes: Sequence[str] = MODES,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Answer]:
    """Every question in every mode, one after another; a question that fails does not keep the others."""
    for category, texts in questions.items():
        for text in texts:
            for mode in modes:
                if cancelled():
                    return
                yield _answer(model, category, mode, text, cancelled)


def _answer(model: LoadedModel, category: str, mode: str, text: str, cancelled: Callable[[], bool]) -> Answer:
    started = time.perf_counter()
    try:
        if mode == "agent":
            done = run_agent(model, text, category=category, cancelled=cancelled)
            return Answer(category, mode, text, time.perf_counter() - started, done.run, done)
        run = model.generate(
            messages=[{"role": "user", "content": text}],
            max_new_tokens=PLAIN_TOKENS,
            category=category,
            cancelled=cancelled,
        )
        return Answer(category, mode, text, time.perf_counter() - started, run)
    except AttnvizError as error:
        fault = " ".join(str(error).split())
        return Answer(category, mode, text, time.perf_counter() - started, fault=fault)


class Bar:
    """A bar on standard error; a line for each thing that is done where that is no terminal."""

    WIDTH = 24

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.live = sys.stderr is not None and sys.stderr.isatty()

    def step(self, what: str) -> None:
        """One more is done."""
        self.done += 1
        full = self.WIDTH * self.done // max(1, self.total)
        shown = "".join(c if c.isprintable() else " " for c in what)
        line = f"[{'#' * full}{'.' * (self.WIDTH - full)}] {self.done}/{self.total} {shown[:80]}"
        if self.live:
            end = "\n" if self.done == self.total else ""
            print(f"\r\x1b[2K{line}", end=end, file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
