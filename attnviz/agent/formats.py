"""The two ways to be an agent: in text, as a model was trained to, and through a chat template that knows tools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from attnviz.agent.arguments import text_argument
from attnviz.agent.writing import OBSERVATION, Part, Turn, read_hermes, read_llama, read_mistral, read_text
from attnviz.errors import Unavailable
from attnviz.hooks import Message, Model, ModelEntry, Reply, TakesTurns, Tokens, Tool


class CallFormat(Protocol):
    """How a model is told of its tools, how it calls them, and how it is told what they gave."""

    @property
    def name(self) -> str:
        """text | hermes | llama | mistral."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end a turn."""

    @property
    def control(self) -> bool:
        """Whether control tokens are part of how calls are written."""

    @property
    def one_line(self) -> bool:
        """Whether what a tool gave has to be one line, since the next begins a turn of the model."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Tokens:
        """The conversation, ready for the first turn."""

    def read(self, text: str) -> Turn:
        """What the model wrote."""

    def arguments(self, tool: Tool, part: Part) -> Mapping[str, object]:
        """Arguments of a call by name. Raises BadInput where the call does not give them."""

    def observe(self, tokens: Tokens, observed: Sequence[tuple[Part, str]]) -> Tokens:
        """`tokens` and what the tools gave, ready for the next turn."""

    def correct(self, tokens: Tokens, fault: str) -> Tokens:
        """`tokens` and what was wrong with the turn that they end with, ready for the next."""


@dataclass(frozen=True)
class AsText:
    """Thought, Action and Observation as lines of one long turn. `system`: with {tools} where their names stand."""

    model: TakesTurns
    tokenize: Callable[[Sequence[Message]], Tokens]
    ends: frozenset[int]
    system: str
    name: str = "text"
    stop: tuple[str, ...] = (OBSERVATION,)
    control: bool = False
    one_line: bool = True

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Tokens:
        system = self.system.format(tools=", ".join(tool.name for tool in tools))
        return self.tokenize([{"role": "system", "content": system}, *messages])

    def read(self, text: str) -> Turn:
        return read_text(text)

    def arguments(self, tool: Tool, part: Part) -> Mapping[str, object]:
        return text_argument(tool, str(part.arguments))

    def observe(self, tokens: Tokens, observed: Sequence[tuple[Part, str]]) -> Tokens:
        for _, text in observed:
            tokens = self._line(tokens, text)
        return tokens

    def correct(self, tokens: Tokens, fault: str) -> Tokens:
        if int(tokens.ids[-1]) in self.ends:
            return self.model.reply(tokens, [Reply(f"error: {fault}")])
        return self._line(tokens, f"error: {fault}")

    def _line(self, tokens: Tokens, text: str) -> Tokens:
        """The rest of a line that the model began with Observation: and its end, which is tokenised by itself, as in
        training."""
        observed = self.model.say(tokens, f" {text}", "observation")
        ended = self.model.say(observed, "\n", "observation")
        *others, observation, end = ended.segments
        return replace(ended, segments=(*others, replace(observation, stop=end.stop)))


@dataclass(frozen=True)
class ThroughTemplate:
    """Calls as the model's chat template writes them. `model.tool_format()` names them."""

    model: TakesTurns
    name: str
    stop: tuple[str, ...] = ()
    control: bool = True
    one_line: bool = False

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Tokens:
        return self.model.tool_prompt(messages, tools)

    def read(self, text: str) -> Turn:
        return {"hermes": read_hermes, "llama": read_llama, "mistral": read_mistral}[self.name](text)

    def arguments(self, tool: Tool, part: Part) -> Mapping[str, object]:
        return dict(part.arguments) if isinstance(part.arguments, Mapping) else text_argument(tool, part.arguments)

    def observe(self, tokens: Tokens, observed: Sequence[tuple[Part, str]]) -> Tokens:
        return self.model.reply(tokens, [Reply(text, part.tool, part.call_id) for part, text in observed])

    def correct(self, tokens: Tokens, fault: str) -> Tokens:
        return self.model.reply(tokens, [Reply(f"error: {fault}")])


def format_of(model: Model, name: str, entry: ModelEntry | None) -> CallFormat:
    """How this model is an agent.

    Raises:
        Unavailable: it cannot generate, or its chat template knows no tools.
    """
    if "generation" not in model.card.capabilities:
        raise Unavailable(f"{name} cannot generate. {model.card.missing.get('generation', '')}".strip())
    if not isinstance(model, TakesTurns):
        raise Unavailable(f"{name} cannot be used as an agent: its backend cannot continue a conversation by tokens.")
    if entry is not None and entry.agent:
        return AsText(model, model.tokenize, frozenset(model.card.ends), entry.agent)
    return ThroughTemplate(model, model.tool_format())
