"""What a model wrote in a turn: its thought, its calls and its answer, found in the text, with the place of each.

Nothing here is tokenised: places are characters of the text of the very ids that were generated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

THOUGHT, ACTION, ANSWER = "thought", "action", "answer"


@dataclass(frozen=True)
class Part:
    """A part of a turn: characters from `start` to the next part. `text`: its words, without marks around them.

    tool, arguments  of an action: a mapping, or the one text between its brackets
    call_id          of an action, as the model wrote it
    """

    kind: str
    start: int
    text: str
    tool: str = ""
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    call_id: str = ""


@dataclass(frozen=True)
class Turn:
    """What a model wrote: parts in order, and why it cannot be used, if it cannot."""

    parts: tuple[Part, ...]
    fault: str = ""

    @property
    def actions(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.kind == ACTION)


def _turn(text: str, start: int, *parts: Part, fault: str = "", mark: str = "") -> Turn:
    """The parts, and before them as a thought whatever the model wrote before `start`."""
    thought = text[:start].strip().removeprefix(mark).strip()
    first = (Part(THOUGHT, 0, thought),) if thought else ()
    if parts and not first:
        parts = (_moved(parts[0]), *parts[1:])
    return Turn((*first, *parts), fault)


def _moved(part: Part) -> Part:
    """The first part of a turn begins with it."""
    return Part(part.kind, 0, part.text, part.tool, part.arguments, part.call_id)


# --------------------------------------------------------------------------------------------- as text

OBSERVATION = "Observation:"
"""Where a turn that is written as text ends: what follows is said by the tool."""
_LINE = re.compile(r"^(Action|Final Answer):", re.MULTILINE)
_TEXT_CALL = re.compile(r"\s*([A-Za-z_]\w*)\[(.*)\]\s*", re.DOTALL)
_TEXT_FAULT = 'expected "Action: tool[input]" or "Final Answer: ..."'


def read_text(text: str) -> Turn:
    """Thought: … Action: tool[input] Observation: — or Thought: … Final Answer: … (Yao et al. 2022, ReAct)."""
    found = _LINE.search(text)
    if found is None:
        return _turn(text, len(text), fault=_TEXT_FAULT, mark="Thought:")
    start, said = found.start(), text[found.end() :]
    if found[1] == "Final Answer":
        answer = said.partition(OBSERVATION)[0].strip()
        if not answer:
            return _turn(text, len(text), fault="the Final Answer is empty", mark="Thought:")
        return _turn(text, start, Part(ANSWER, start, answer), mark="Thought:")
    words = said.partition(OBSERVATION)[0].strip()
    call = _TEXT_CALL.fullmatch(words)
    if call is None:
        return _turn(text, start, Part(ACTION, start, words), fault=_TEXT_FAULT, mark="Thought:")
    return _turn(text, start, Part(ACTION, start, words, call[1], call[2]), mark="Thought:")


# --------------------------------------------------------------------------------------------- as JSON

_DECODER = json.JSONDecoder()
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_THINK = re.compile(r"\s*(?:<think>)?(.*?)</think>", re.DOTALL)
_LLAMA = re.compile(r"\s*(?:<\|python_tag\|>)?\s*(?=\{)")
_MISTRAL = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\](\w+))?(?:\[ARGS\])?\s*(?=\{)")


def read_hermes(text: str) -> Turn:
    """<tool_call>{"name": …, "arguments": {…}}</tool_call>, once or several times (Hermes, Qwen)."""
    thought = _THINK.match(text)
    said = thought.end() if thought else 0
    starts = [said + match.start() for match in re.finditer(re.escape(_OPEN), text[said:])]
    if not starts:
        return _spoken(text)
    parts: list[Part | str] = []
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        words = text[start + len(_OPEN) : stop].partition(_CLOSE)[0].strip()
        parts.append(_json_call(words, start))
    return _called(text, parts)


def read_llama(text: str) -> Turn:
    """{"name": …, "parameters": {…}} alone in a turn (Llama 3.1); anything else is an answer."""
    found = _LLAMA.match(text)
    if found is None or '"name"' not in text:
        return _spoken(text)
    return _called(text, [_json_call(text[found.end() :].strip(), 0)])


def read_mistral(text: str) -> Turn:
    """[TOOL_CALLS] [{"name": …, "arguments": {…}}, …], or since 2025 [TOOL_CALLS]name[ARGS]{…} (Mistral)."""
    starts = [match.start() for match in re.finditer(re.escape(_MISTRAL), text)]
    if not starts:
        return _spoken(text)
    parts: list[Part | str] = []
    for start, stop in zip(starts, [*starts[1:], len(text)], strict=True):
        words = text[start + len(_MISTRAL) : stop].strip()
        named = _NAMED.match(words)
        parts += [_json_call(words[named.end() :], start, named)] if named else _json_list(words, start)
    return _called(text, parts)


def _spoken(text: str) -> Turn:
    """A turn without calls: thoughts between <think> marks, then the answer."""
    thought = _THINK.match(text)
    start = thought.end() if thought else 0
    answer = text[start:].strip()
    if not answer or answer.startswith("<think>"):
        return _turn(text, len(text), fault="expected a call of a tool or an answer, got neither", mark="<think>")
    parts = (Part(THOUGHT, 0, thought[1].strip()),) if thought and thought[1].strip() else ()
    return Turn((*parts, Part(ANSWER, start if parts else 0, answer)))


def _called(text: str, found: list[Part | str]) -> Turn:
    """A turn with calls; a text among them says why one cannot be used."""
    parts = [part for part in found if isinstance(part, Part)]
    fault = next((part for part in found if isinstance(part, str)), "")
    start = parts[0].start if parts else len(text)
    before = text[:start].strip()
    thought = _THINK.match(before)
    words = f"{thought[1].strip()} {before[thought.end() :].strip()}".strip() if thought else before
    first = [Part(THOUGHT, 0, words)] if words else []
    if parts and not first:
        parts[0] = _moved(parts[0])
    return Turn((*first, *parts), fault)


def _json_call(words: str, start: int, named: re.Match[str] | None = None) -> Part | str:
    """The call that a JSON object describes, or what is wrong with it."""
    try:
        value, end = _DECODER.raw_decode(words)
    except ValueError as error:
        return f"the call is no JSON: {error}"
    if words[end:].strip():
        return f"expected one call, got more after it: {words[end:].strip()!r:.40}"
    if named is not None:
        value = {"name": named[1], "arguments": value, "id": named[2] or ""}
    return _described(value, words, start)


def _json_list(words: str, start: int) -> list[Part | str]:
    try:
        values, _ = _DECODER.raw_decode(words)
    except ValueError as error:
        return [f"the calls are no JSON: {error}"]
    if not isinstance(values, list) or not values:
        return ["expected a list of calls"]
    return [_described(value, json.dumps(value, ensure_ascii=False), start) for value in values]


def _described(value: Any, words: str, start: int) -> Part | str:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return 'expected a call such as {"name": …, "arguments": {…}}'
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            return f"the arguments are no JSON: {error}"
    if not isinstance(arguments, dict):
        return f"expected the arguments as an object, got {type(arguments).__name__}"
    call_id = value.get("id")
    return Part(ACTION, start, words, value["name"], arguments, call_id if isinstance(call_id, str) else "")
