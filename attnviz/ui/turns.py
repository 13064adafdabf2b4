"""What the model is asked to write: an answer, the next turn of a conversation, or the turns of an agent; watched while
it is written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnviz.agent import run_agent
from attnviz.conversation import next_turn, reply
from attnviz.errors import BadInput
from attnviz.hooks import AgentStep, Tokens
from attnviz.session import SEEDS, LoadedModel, TracedRun
from attnviz.ui.background import Job
from attnviz.ui.describe import ended_by, step_value
from attnviz.ui.live import GrowingAnswer

if TYPE_CHECKING:
    from attnviz.ui.wish import Wish

Listening = dict[str, Any]
"""on_token, on_row and cancelled, as whatever generates takes them."""
WRITING = "turn"
"""What an agent's turn is called in the strip while it is not yet clear what it will be."""


def answered(model: LoadedModel, wish: Wish, prompt: Mapping[str, Any], job: Job) -> TracedRun:
    """The answer to the prompt, and then to every further turn of the wish; the last run holds them all.

    Raises:
        AttnvizError: the model or a setting cannot be used so.
    """
    options = sampling_options(wish)
    run: TracedRun = model.generate(
        **prompt, **options, category=wish.category, **_listening(model, model.tokenize(**prompt), wish, job)
    )
    for number in range(len(wish.then)):
        if ended_by(run) == "cancelled":
            break
        run = _replied(run, wish, number, options, job)
    return run


def gone_on(before: TracedRun, wish: Wish, job: Job) -> TracedRun:
    """The conversation of `before` with the last turn of the wish, and the answer to it."""
    return _replied(before, wish, len(wish.then) - 1, sampling_options(wish), job)


def _replied(before: TracedRun, wish: Wish, number: int, options: Mapping[str, Any], job: Job) -> TracedRun:
    """The answer to turn `number` of those after the prompt; each turn has the seed after that of the one before."""
    model, text, seed = before.model, wish.then[number], options["seed"]
    seed = None if seed is None else (seed + number + 1) % SEEDS
    prompt = next_turn(model.session.model(model.spec), model.name, before.tokens, text)
    listening = _listening(model, prompt, wish, job)
    return reply(before, text, **{**options, "seed": seed}, category=wish.category, **listening)


def sampling_options(wish: Wish) -> dict[str, Any]:
    """How the wish has answers drawn, as `generate` takes it. A seed that is not given is drawn, so that the answer can
    be made again.

    Raises:
        BadInput: a length that is no whole number.
    """
    if wish.length is None or not float(wish.length).is_integer():
        got = "nothing" if wish.length is None else wish.length
        raise BadInput(f"New tokens: expected a whole number, got {got}.")
    temperature, seed = float(wish.temperature or 0.0), wish.seed
    if temperature > 0 and seed is None:
        seed = secrets.randbelow(2**31)
    return {
        "max_new_tokens": int(wish.length),
        "temperature": temperature,
        "top_p": float(wish.top_p),
        "repetition_penalty": float(wish.repetition_penalty),
        "seed": seed,
        "stop": wish.stop,
    }


def _listening(model: LoadedModel, prompt: Tokens, wish: Wish, job: Job) -> Listening:
    """Tells the page of an answer while it grows."""
    growing = GrowingAnswer(prompt, model.card, model.session.model(model.spec).label)
    length = int(wish.length or 0)

    def heard(token: int) -> None:
        growing.add(token)
        job.report(0.1 + 0.8 * len(growing.labels) / length, f"{len(growing.labels)} of {length} tokens")
        job.live, job.pause = growing.value, growing.pause

    job.report(0.1, f"Generating up to {length} tokens")
    on_row = growing.hear if _rows_at_once(wish) else None
    return {"on_token": heard, "on_row": on_row, "cancelled": job.cancelled.is_set}


def _rows_at_once(wish: Wish) -> bool:
    """Not on a remote service, where they would be a job of their own when the answer is complete."""
    return wish.device != "ndif"


# --------------------------------------------------------------------------------------------- agents


@dataclass
class _Agent:
    """An agent at work, as the page shows it: its steps so far, and the turn that it is writing."""

    model: LoadedModel
    job: Job
    most: int
    growing: GrowingAnswer | None = None
    turns: int = 0
    steps: list[AgentStep] = field(default_factory=list)

    def begin(self, tokens: Tokens) -> None:
        """The next turn follows these tokens."""
        self.growing = GrowingAnswer(tokens, self.model.card, self.model.session.model(self.model.spec).label)
        self.turns += 1
        self.job.live, self.job.pause = self.value, self.growing.pause
        self._report("is read")

    def hear_token(self, token: int) -> None:
        if self.growing is not None:
            self.growing.add(token)
            self._report(f"{len(self.growing.labels)} tokens")

    def hear_row(self, row: Any) -> None:
        if self.growing is not None:
            self.growing.hear(row)

    def hear_step(self, step: AgentStep) -> None:
        self.steps.append(step)
        if step.kind == "action":
            self._report(f"{step.tool or 'a tool'} is called")

    def value(self) -> dict[str, Any]:
        """What the page draws: see GrowingAnswer.value; with the steps so far."""
        assert self.growing is not None  # nothing asks before the first turn
        value = self.growing.value()
        if value["segments"] and value["segments"][-1][1] >= len(self.growing.prompt):
            value["segments"][-1][0] = WRITING
        return {**value, "agent": {"steps": [step_value(step) for step in list(self.steps)]}}

    def _report(self, what: str) -> None:
        self.job.report(0.1 + 0.8 * (self.turns - 1) / self.most, f"Turn {self.turns} of at most {self.most}: {what}")


def acted(model: LoadedModel, wish: Wish, job: Job) -> TracedRun:
    """The run of an agent that answers the prompt with the tools of the wish.

    Raises:
        AttnvizError: the model, a tool or a setting cannot be used so.
    """
    assert wish.agent is not None
    if wish.stop:
        raise BadInput("Stop texts: an agent's turns end as its format says. Leave them empty.")
    if wish.format == "text":
        raise BadInput("Prompt is: an agent reads its question as a message. Choose auto or chat.")
    options = sampling_options(wish)
    del options["stop"]
    agent = _Agent(model, job, max(1, wish.agent.max_steps))
    done = run_agent(
        model,
        wish.prompt,
        tools=wish.agent.tools,
        max_steps=wish.agent.max_steps,
        **options,
        category=wish.category,
        on_turn=agent.begin,
        on_token=agent.hear_token,
        on_row=agent.hear_row if _rows_at_once(wish) else None,
        on_step=agent.hear_step,
        cancelled=job.cancelled.is_set,
    )
    return done.run
