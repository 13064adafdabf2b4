"""One question answered twice by one model, without tools and with them, and both runs compared by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from attnviz.agent.loop import NEW_TOKENS, AgentRun, run_agent
from attnviz.run_comparison import compare_runs
from attnviz.session import LoadedModel, SavableFinding, TracedRun

SHARED = ("temperature", "top_p", "repetition_penalty", "seed", "category")
"""Options of an agent that an answer without tools has as well."""


@dataclass(frozen=True)
class ToolComparison:
    """Both answers, and the table of A (without tools) and B (with tools)."""

    without_tools: TracedRun
    with_tools: AgentRun
    finding: SavableFinding


def compare_tools(
    model: LoadedModel,
    question: str,
    *,
    effect: bool = False,
    max_new_tokens: int = NEW_TOKENS,
    cancelled: Callable[[], bool] | None = None,
    **options: Any,
) -> ToolComparison:
    """Ask a question without tools and with them.

    Args:
        effect: also what taking each source away does to each step.
        max_new_tokens: of the answer without tools, and of each turn with them.
        options: those of `run_agent`; those of sampling hold for both.

    Raises:
        BadInput, Unavailable: see run_agent; nothing was written, so that there is nothing to compare.
    """
    agent = run_agent(model, question, max_new_tokens=max_new_tokens, cancelled=cancelled, **options)
    alike = {name: options[name] for name in SHARED if name in options}
    return compared(model, agent, effect=effect, max_new_tokens=max_new_tokens, cancelled=cancelled, **alike)


def compared(
    model: LoadedModel,
    agent: AgentRun,
    *,
    effect: bool = False,
    max_new_tokens: int = NEW_TOKENS,
    cancelled: Callable[[], bool] | None = None,
    **sampling: Any,
) -> ToolComparison:
    """The same question without tools, beside what an agent made of it.

    Raises:
        BadInput: nothing was written, so that there is nothing to compare.
    """
    messages = [{"role": "user", "content": agent.trajectory.question}]
    positions = model.card.positions
    room = max_new_tokens if positions is None else positions - len(model.tokenize(messages=messages))
    longest = max(1, min(room, max_new_tokens))
    plain = model.generate(messages=messages, max_new_tokens=longest, cancelled=cancelled, **sampling)
    return ToolComparison(plain, agent, compare_runs(plain, agent.run, effect=effect))
