"""The loop of an agent: thought → action → observation → … → answer (Yao et al. 2022, ReAct).

Every token that the model reads or writes is kept, once and in order, as the ids that were generated or appended;
nothing is decoded and tokenised again. So the run of an agent is what the model really read, and every analysis of it
is an analysis of that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attnviz.agent.calling import LONGEST, PATIENCE, Observation, call_tool, observed
from attnviz.agent.choosing import chosen_tools
from attnviz.agent.formats import CallFormat, format_of
from attnviz.agent.words import Words
from attnviz.agent.writing import ACTION, Part, Turn
from attnviz.errors import AttnvizError, BadInput, UnknownName
from attnviz.hooks import AgentStep, LiveRow, ModelCall, Sampling, Segment, Tokens, Tool, Trajectory
from attnviz.session import SEEDS, LoadedModel, TracedRun, check_sampling

MAX_STEPS = 10
NEW_TOKENS = 256
"""Of one turn of the model."""
ROOM = 16
"""Tokens below which a turn is not worth beginning."""
SHORTEST = 32
"""Characters below which no observation is cut to make room."""


@dataclass(frozen=True)
class AgentRun:
    """What an agent did, and the run of all it read and wrote."""

    run: TracedRun
    trajectory: Trajectory

    @property
    def answer(self) -> str:
        """ "" where there is none."""
        return self.trajectory.answer

    @property
    def steps(self) -> tuple[AgentStep, ...]:
        return self.trajectory.steps


@dataclass(frozen=True)
class Listener:
    """Who is told what as it comes: on_turn all tokens that a turn begins after, on_token every id that the model
    writes, on_row what it was chosen from, on_step every finished step. `cancelled` is asked at every token and while a
    tool works."""

    on_token: Callable[[int], None] | None = None
    on_row: Callable[[LiveRow], None] | None = None
    on_step: Callable[[AgentStep], None] | None = None
    on_turn: Callable[[Tokens], None] | None = None
    cancelled: Callable[[], bool] = lambda: False


def run_agent(
    model: LoadedModel,
    question: str,
    *,
    tools: Sequence[str | Tool] | None = None,
    max_steps: int = MAX_STEPS,
    max_new_tokens: int = NEW_TOKENS,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    tool_seconds: float = PATIENCE,
    observation_characters: int = LONGEST,
    category: str = "",
    on_token: Callable[[int], None] | None = None,
    on_row: Callable[[LiveRow], None] | None = None,
    on_step: Callable[[AgentStep], None] | None = None,
    on_turn: Callable[[Tokens], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> AgentRun:
    """Let a model answer a question with tools.

    Args:
        tools: names of tool plugins, or tools; None = all that the model was trained with, or else all there are.
        max_steps: most turns of the model; each thinks and then calls tools or answers.
        max_new_tokens: most tokens of one turn.
        seed: of the first turn; each later turn has the next.
        tool_seconds: that a tool may take.
        observation_characters: that the model gets to read of what a tool gave.
        on_token: gets each id that the model writes as it comes; on_row what it was chosen from.
        on_step: gets each step when it is finished.
        on_turn: gets all tokens so far when a turn of the model begins.
        cancelled: asked at every token and while a tool works; once it says yes, what there is is kept.

    Raises:
        BadInput: an unusable question or setting; a tool that does not exist.
        Unavailable: the model cannot generate or knows no tools; a tool that is not offered here.
    """
    if not isinstance(question, str) or not question.strip():
        got = "an empty one" if isinstance(question, str) else type(question).__name__
        raise BadInput(f"The question of an agent: expected a text, got {got}.")
    for name, value, low in (("max_steps", max_steps, 1), ("observation_characters", observation_characters, 1)):
        if type(value) is not int or value < low:
            raise BadInput(f"{name}: expected a whole number from {low}, got {value!r:.40}.")
    if isinstance(tool_seconds, bool) or not isinstance(tool_seconds, (int, float)) or not 0 < tool_seconds < 1e6:
        raise BadInput(f"tool_seconds: expected a number above 0, got {tool_seconds!r:.40}.")
    sampling = Sampling(max_new_tokens, temperature, top_p, repetition_penalty, seed)
    check_sampling(sampling)
    entry = next((e for e in model.session.registry.models.values() if e.source == model.spec.source), None)
    chosen = chosen_tools(model.session.registry, tools, entry)
    call_format = format_of(model.session.model(model.spec), model.name, entry)
    listener = Listener(on_token, on_row, on_step, on_turn, cancelled or (lambda: False))
    limits = _Limits(max_steps, tool_seconds, observation_characters)
    prompt = call_format.prompt([{"role": "user", "content": question}], chosen)
    work = _Work(model, call_format, chosen, replace(sampling, stop=call_format.stop), limits, listener, prompt)
    return work.run(question, category)


@dataclass(frozen=True)
class _Limits:
    steps: int
    tool_seconds: float
    characters: int


@dataclass
class _Work:
    """One agent at work: `tokens` grows by what is written and said."""

    model: LoadedModel
    format: CallFormat
    tools: Sequence[Tool]
    sampling: Sampling
    limits: _Limits
    listener: Listener
    tokens: Tokens
    steps: list[AgentStep] = field(default_factory=list)
    calls: list[ModelCall] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When the turn began, and when each of its tokens came."""

    def run(self, question: str, category: str) -> AgentRun:
        started, prompt = time.perf_counter(), len(self.tokens)
        ended = self._turns()
        names = tuple(tool.name for tool in self.tools)
        trajectory = Trajectory(
            question=question,
            steps=tuple(self.steps),
            calls=tuple(self.calls),
            tools=names,
            format=self.format.name,
            max_steps=self.limits.steps,
            ended=ended,
            seconds=time.perf_counter() - started,
        )
        run = self.model.session.start(
            self.model,
            self.tokens,
            generated_from=prompt,
            sampling=self.sampling,
            category=category,
            ended=self.calls[-1].ended if self.calls else "",
            trajectory=trajectory,
        )
        return AgentRun(run, trajectory)

    def _turns(self) -> str:
        """All turns; returns why there are no more, one of AGENT_ENDED."""
        faults = 0
        for _ in range(self.limits.steps):
            if self._room() < ROOM and self.calls:
                return "room"
            first = len(self.tokens)
            ended = self._write()
            words = self._words(first)
            turn = self.format.read(words.text)
            self._add_parts(turn, words)
            if ended in ("cancelled", "length", "room"):
                return ended
            if not turn.fault and not turn.actions:
                return "answer"
            faults = faults + 1 if turn.fault else 0
            stop = self._correct(turn.fault, last=faults > 1) if turn.fault else self._act(turn.actions)
            if stop:
                return stop
        return "steps"

    def _room(self) -> int:
        """Tokens that the model can still write in one turn."""
        positions = self.model.card.positions
        return self.sampling.max_new_tokens if positions is None else positions - len(self.tokens)

    def _write(self) -> str:
        """One turn of the model; returns why it ended. A turn that is cut by the model's positions ended by "room"."""
        room, number = self._room(), len(self.calls)
        seed = self.sampling.seed
        sampling = replace(
            self.sampling,
            max_new_tokens=max(1, min(room, self.sampling.max_new_tokens)),
            seed=None if seed is None else (seed + number) % SEEDS,
        )
        if self.listener.on_turn is not None:
            self.listener.on_turn(self.tokens)
        before, began = self.tokens, time.perf_counter()
        self.times = [began]
        after, ended = self.model.go_on(before, sampling, self._hear, self.listener.cancelled, self.listener.on_row)
        done = time.perf_counter()
        self.tokens = replace(after, segments=before.segments)  # each of its parts will be one
        self.times += [done] * (len(after) - len(before) + 1 - len(self.times))  # of a model that tells of none
        self.calls.append(ModelCall(len(before), len(after), done - began, ended))
        return "room" if ended == "length" and sampling.max_new_tokens < self.sampling.max_new_tokens else ended

    def _hear(self, token_id: int) -> None:
        self.times.append(time.perf_counter())
        if self.listener.on_token is not None:
            self.listener.on_token(token_id)

    def _words(self, first: int) -> Words:
        ends = frozenset(self.model.card.ends)
        return Words.of(self.tokens, first, control=self.format.control, ends=ends)

    def _add_parts(self, turn: Turn, words: Words) -> None:
        """The parts of a turn as steps: each reaches to where the next begins, the last to the end of the turn."""
        stop = len(self.tokens)
        edges = [words.start, *(words.token_of(part.start) for part in turn.parts[1:]), stop]
        if not turn.parts and stop > words.start:
            self._add(AgentStep("thought", words.text.strip(), words.start, stop, len(self.calls) - 1))
        for part, start, end in zip(turn.parts, edges, edges[1:], strict=False):
            times = self.times[end - words.start] - self.times[start - words.start]
            step = AgentStep(part.kind, part.text, start, end, len(self.calls) - 1, part.tool, seconds=times)
            self._add(replace(step, arguments=self._arguments(part)) if part.kind == ACTION else step)

    def _arguments(self, part: Part) -> Mapping[str, object]:
        """What a call gives its tool; nothing where that cannot be told, which the observation then says."""
        tool = self._tool(part)
        try:
            return {} if tool is None else self.format.arguments(tool, part)
        except BadInput:
            return {}

    def _tool(self, part: Part) -> Tool | None:
        return next((tool for tool in self.tools if tool.name == part.tool), None)

    def _add(self, step: AgentStep, *, segment: bool = True) -> None:
        """Keep a step and tell of it. What the model wrote becomes a segment; the rest has one already."""
        self.steps.append(step)
        if segment and step.start < step.stop:
            self.tokens = replace(
                self.tokens, segments=(*self.tokens.segments, Segment(step.kind, step.start, step.stop))
            )
        if self.listener.on_step is not None:
            self.listener.on_step(step)

    def _act(self, actions: Sequence[Part]) -> str:
        """Call the tools and tell the model what they gave; returns why there are no more turns, or ""."""
        found = []
        for part in actions:
            observation = self._observation(part)
            if observation is None:
                return "cancelled"
            found.append((part, observation))
        return self._tell(found)

    def _observation(self, part: Part) -> Observation | None:
        tool = self._tool(part)
        try:
            if tool is None:
                raise UnknownName("tool", part.tool, [tool.name for tool in self.tools])
            arguments = self.format.arguments(tool, part)
        except BadInput as error:
            refused = observed(str(error), failed=True, longest=self.limits.characters)
            return refused.one_line() if self.format.one_line else refused
        found = call_tool(
            tool,
            arguments,
            seconds=self.limits.tool_seconds,
            longest=self.limits.characters,
            cancelled=self.listener.cancelled,
        )
        return found.one_line() if found is not None and self.format.one_line else found

    def _tell(self, found: Sequence[tuple[Part, Observation]]) -> str:
        """Append what the tools gave, cut to what leaves the model room for a turn; see `_act`."""
        begun, end = len(self.tokens.segments), len(self.tokens)
        try:
            found, told = self._fitting(found)
        except AttnvizError as error:
            return self._give_up(str(error))
        fits = self.model.card.positions is None or len(told) <= self.model.card.positions
        self.tokens = told if fits else self.tokens
        places = told.segments[begun:] if fits else [Segment("observation", end, end)] * len(found)
        for (part, observation), place in zip(found, places, strict=True):
            step = AgentStep(
                "observation", observation.text, place.start, place.stop, len(self.calls) - 1, part.tool,
                failed=observation.failed, note=observation.note, seconds=observation.seconds,
            )  # fmt: skip
            self._add(step, segment=False)
        return "" if fits else "room"

    def _fitting(self, found: Sequence[tuple[Part, Observation]]) -> tuple[Sequence[tuple[Part, Observation]], Tokens]:
        """What the tools gave, so short that half of what is free is left to the model; and the tokens with it."""
        begun, positions = len(self.tokens), self.model.card.positions
        while True:
            told = self.format.observe(self.tokens, [(part, observation.text) for part, observation in found])
            taken, longest = len(told) - begun, max(len(observation.words) for _, observation in found)
            if positions is None or taken <= (positions - begun) // 2 or longest <= SHORTEST:
                return found, told
            fits = longest * (positions - begun) // 2 // taken
            longest = max(SHORTEST, min(fits, longest * 9 // 10))
            found = [(part, observation.shortened(longest)) for part, observation in found]

    def _correct(self, fault: str, *, last: bool) -> str:
        """Hand back to the model what was wrong with its turn, once; returns why there are no more turns, or ""."""
        if last:
            return self._give_up(fault)
        try:
            told = self.format.correct(self.tokens, fault)
        except AttnvizError as error:
            return self._give_up(f"{fault}; it could not be told so: {error}")
        if self.model.card.positions is not None and len(told) > self.model.card.positions:
            self._give_up(fault)
            return "room"
        self.tokens, place = told, told.segments[-1]
        self._add(AgentStep("error", fault, place.start, place.stop, len(self.calls) - 1), segment=False)
        return ""

    def _give_up(self, fault: str) -> str:
        """An error that the model is not told, since it is the last thing that happens."""
        count = len(self.tokens)
        self._add(AgentStep("error", fault, count, count, len(self.calls) - 1), segment=False)
        return "errors"
