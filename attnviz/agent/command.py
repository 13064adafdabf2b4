"""`attnviz generate --agent`: steps on standard error as they come; Ctrl-C keeps what there is."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attnviz.agent.loop import MAX_STEPS, NEW_TOKENS, AgentRun, run_agent
from attnviz.agent.with_and_without import ToolComparison, compared
from attnviz.errors import BadInput
from attnviz.hooks import AgentStep, to_jsonable
from attnviz.session import LoadedModel

_SAMPLING = ("temperature", "top_p", "repetition_penalty", "seed", "category")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of an agent, beside those of an answer."""
    parser.add_argument("--agent", action="store_true", help="let the model call tools, step by step")
    parser.add_argument("--tools", metavar="A,B", help="tools of the agent (those the model was trained with, or all)")
    parser.add_argument("--max-steps", type=int, metavar="N", help=f"most turns of the agent ({MAX_STEPS})")
    parser.add_argument(
        "--compare",
        action="store_const",
        const=True,
        help="with --agent: answer without tools too, and compare by step",
    )


def refuse_without_agent(options: argparse.Namespace) -> None:
    """Raises BadInput for options that say nothing without an agent."""
    for name in ("tools", "max_steps", "compare"):
        if getattr(options, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')}: expected together with --agent. Add --agent, or leave it out.")


def answer(model: LoadedModel, question: str, options: argparse.Namespace) -> tuple[AgentRun, ToolComparison | None]:
    """The question answered as the options say; also without tools if that was asked for.

    Raises:
        BadInput, Unavailable: see run_agent.
    """
    if options.stop:
        raise BadInput("--stop: an agent's turns end as its format says. Leave it out.")
    tools = None if options.tools is None else [name.strip() for name in options.tools.split(",") if name.strip()]
    sampling: dict[str, Any] = {name: getattr(options, name) for name in _SAMPLING}
    longest = NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens
    with interruptible() as given_up:
        done = run_agent(
            model,
            question,
            tools=tools,
            max_steps=MAX_STEPS if options.max_steps is None else options.max_steps,
            max_new_tokens=longest,
            on_step=say_step,
            cancelled=given_up.is_set,
            **sampling,
        )
        if not options.compare or given_up.is_set():
            return done, None
        return done, compared(model, done, max_new_tokens=longest, cancelled=given_up.is_set, **sampling)


def say_step(step: AgentStep) -> None:
    """One line on standard error."""
    text = " ".join(step.text.split())
    shown = text if len(text) <= 200 else text[:199] + "…"
    print(f"attnviz: {step.kind:<11} {shown}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second ends the program as usual."""
    given_up = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield given_up
        return

    def stop(number: int, frame: Any) -> None:
        if given_up.is_set():
            raise KeyboardInterrupt
        given_up.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield given_up
    finally:
        signal.signal(signal.SIGINT, before)


def described(done: AgentRun, beside: ToolComparison | None = None) -> dict[str, Any]:
    """What is printed of an agent beside what is printed of any answer."""
    compared = {}
    if beside is not None:
        compared["without_tools"] = {"answer": beside.without_tools.answer, "text": beside.without_tools.text}
        compared["comparison"] = to_jsonable(beside.finding.result)
    return {
        "question": done.trajectory.question,
        "answer": done.answer,
        "agent_ended": done.trajectory.ended,
        "segments": [to_jsonable(segment) for segment in done.run.tokens.segments],
        "trajectory": to_jsonable(done.trajectory),
        **compared,
    }


def written(done: AgentRun) -> set[int]:
    """Positions of the tokens that the model wrote."""
    return {position for call in done.trajectory.calls for position in range(call.start, call.stop)}
