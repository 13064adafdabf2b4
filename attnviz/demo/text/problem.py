"""What a problem is: a question, the tool calls that solve it, and the answer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from attnviz.demo.text.split import any_held_out, call_key, is_held_out, question_key


@dataclass(frozen=True)
class Step:
    """One tool call of an agent, with the thought before it and what came back."""

    thought: str
    tool: str
    argument: str
    observation: str

    @property
    def call(self) -> str:
        return f"{self.tool}[{self.argument}]"


@dataclass(frozen=True)
class Problem:
    """A question with its solution."""

    category: str  # Math, Knowledge, Reasoning, Code, Creative, Other
    kind: str
    question: str
    final: str  # the answer as the model is to write it
    steps: tuple[Step, ...] = ()
    closing: str = ""  # the last thought of an agent run; empty means one of the usual two
    content_keys: tuple[str, ...] = ()  # sub-expressions that no tool call shows (a written chain, a deduction)
    exact_case: bool = False  # the question must keep its case because the answer repeats it

    @cached_property
    def sub_keys(self) -> frozenset[str]:
        """Keys of every sub-expression."""
        calls = (call_key(step.tool, step.argument) for step in self.steps)
        return frozenset(key for key in (*calls, *self.content_keys) if key)

    @property
    def keys(self) -> frozenset[str]:
        return self.sub_keys | {question_key(self.question)}

    @property
    def trainable(self) -> bool:
        return not any_held_out(self.keys)

    @property
    def held_out(self) -> bool:
        """Every sub-expression is held out; a problem without any is held out by its question."""
        return all(is_held_out(key) for key in self.sub_keys or self.keys)
