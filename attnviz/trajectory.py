"""What an agent did to answer a question: its steps, in tokens of one run, and the calls of the model that wrote them.

The run of a trajectory holds every token that the model read or wrote, once and in order: prompt, then by turns what it
wrote and what came back. What the model read in any of its calls is the beginning of that run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from attnviz.errors import BadInput, ShapeError, UnknownName

STEP_KINDS = ("thought", "action", "observation", "answer", "error")
"""What a step may be. An error is said by attnviz: what the model wrote could not be used, and why."""

AGENT_ENDED = ("answer", "steps", "length", "room", "errors", "cancelled")
"""Why an agent ended: it answered; it called tools as often as was allowed; one of its turns was longer than allowed;
the model's positions are full; what it wrote could not be used, twice; the asker gave up."""


@dataclass(frozen=True)
class AgentStep:
    """One step: tokens start..stop-1 of the run.

    kind       one of STEP_KINDS
    text       thought, answer: the words of the model; action: the call as it wrote it; observation, error: what was
               said to the model, or would have been
    start, stop  both where the run ends if the step has no tokens, such as an error that nobody was told
    call       the model's call that wrote it or that it follows, from 0
    tool       name, of an action and its observation
    arguments  of an action: what the tool was called with; empty where the model wrote none that can be used
    failed     of an observation: there is no such tool, its arguments do not fit, or it gave an error
    note       what was changed on the way to the model, such as "cut to 2000 of 10485760 characters"; "" = nothing
    seconds    that the model wrote, or that the tool worked
    """

    kind: str
    text: str
    start: int
    stop: int
    call: int
    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    note: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in STEP_KINDS:
            raise UnknownName("kind of step", self.kind, STEP_KINDS)
        if not 0 <= self.start <= self.stop:
            raise ShapeError(f"{self.kind} step", "a span of tokens", (self.start, self.stop))
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def __reduce__(self) -> Any:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _step, ({**values, "arguments": dict(self.arguments)},)


@dataclass(frozen=True)
class ModelCall:
    """One call of the model: it read tokens 0..start-1 of the run and wrote start..stop-1.

    ended   why it stopped, one of attnviz.types.ENDED
    """

    start: int
    stop: int
    seconds: float = 0.0
    ended: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ShapeError("ModelCall", "a span of tokens", (self.start, self.stop))

    @property
    def tokens(self) -> int:
        """How many it wrote."""
        return self.stop - self.start


@dataclass(frozen=True)
class Trajectory:
    """What an agent did.

    question   what it was asked
    tools      names it was given, in the order given
    format     how calls are written: text | hermes | llama | mistral
    max_steps  most calls of tools
    ended      one of AGENT_ENDED
    seconds    from the question to the end, tools included
    """

    question: str
    steps: tuple[AgentStep, ...]
    calls: tuple[ModelCall, ...]
    tools: tuple[str, ...]
    format: str
    max_steps: int
    ended: str
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.ended not in AGENT_ENDED:
            raise UnknownName("end of an agent", self.ended, AGENT_ENDED)
        for name, spans in (("steps", self.steps), ("calls", self.calls)):
            edges = [edge for span in spans for edge in (span.start, span.stop)]
            if edges != sorted(edges):
                raise ShapeError(f"Trajectory.{name}", "spans one after another", edges)
        for step in self.steps:
            if not 0 <= step.call < len(self.calls):
                raise BadInput(f"Trajectory: a step of call {step.call}, but there are {len(self.calls)} calls.")

    @property
    def answer(self) -> str:
        """Its answer; "" where there is none."""
        return next((step.text for step in reversed(self.steps) if step.kind == "answer"), "")

    @property
    def tokens_written(self) -> int:
        """By the model, in all its calls."""
        return sum(call.tokens for call in self.calls)

    @classmethod
    def from_jsonable(cls, data: Mapping[str, Any]) -> Trajectory:
        """The trajectory whose `to_jsonable` gave `data`.

        Raises:
            BadInput: fields that are missing, unknown or of the wrong kind.
        """
        given = _fields(cls, data)
        given["steps"] = tuple(AgentStep(**_fields(AgentStep, step)) for step in _list("steps", given["steps"]))
        given["calls"] = tuple(ModelCall(**_fields(ModelCall, call)) for call in _list("calls", given["calls"]))
        given["tools"] = tuple(str(name) for name in _list("tools", given["tools"]))
        return cls(**given)


def _step(values: dict[str, Any]) -> AgentStep:
    """A step from its fields; a read-only mapping cannot be pickled, so the step is made anew."""
    return AgentStep(**values)


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "Mapping[str, Any]": (Mapping,),
}


def _fields(cls: type, data: Any) -> dict[str, Any]:
    """The fields of a dataclass from a JSON object, each of its kind."""
    name = cls.__name__
    if not isinstance(data, Mapping):
        raise BadInput(f"{name}: expected an object, got {data!r:.60}.")
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            raise UnknownName(f"field of {name}", key, known)
    required = {k for k, f in known.items() if f.default is f.default_factory is dataclasses.MISSING}
    if absent := sorted(required - set(data)):
        raise BadInput(f"{name}: missing fields {', '.join(absent)}.")
    for key, value in data.items():
        kinds = _KINDS.get(str(known[key].type))
        if kinds is not None and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            raise BadInput(f"{name}.{key}: expected {known[key].type}, got {value!r:.60}.")
    return dict(data)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise BadInput(f"Trajectory.{name}: expected a list, got {value!r:.60}.")
    return list(value)
