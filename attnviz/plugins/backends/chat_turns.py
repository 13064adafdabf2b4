"""Turns that follow a model's own: what a chat template writes about tools and around what they gave.

A template is asked, not read: it writes a conversation around marks of our own, and what stands between the marks is
what it writes there. What the model wrote stays as it is, the very ids; only what others say is tokenised, and control
tokens come from the template alone: their names in anything else are broken in two before they are tokenised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attnviz.hooks import BadInput, Reply, Segment, TokenLabels, Tokens, Tool, Unavailable, continue_tokens

QUESTION, CALL, REPLY = "attnvizquestion", "attnvizcall", "attnvizreply"
CALL_ID = "call00001"
"""Of calls that have none; nine letters and digits, since Mistral's templates take no other."""
_CALL_ID = re.compile(r"[A-Za-z0-9]{9}")
_ANY_TOOL = Tool("lookup", "Finds a fact.", {"type": "object", "properties": {"topic": {"type": "string"}}}, str)
_ANCHOR = "\n"
_ROLE_NAME = re.compile(r"\s*\w*:?\s*")  # "user" of <|im_start|>user

# What a template writes between the question and the argument of a call -> the format's name.
_FORMATS = (
    ("hermes", re.compile(r'<tool_call>.*"name"', re.DOTALL)),
    ("mistral", re.compile(r"\[TOOL_CALLS\]", re.DOTALL)),
    ("llama", re.compile(r'\{\s*"name".*"parameters"', re.DOTALL)),
)


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Tools in the form that chat templates expect; plain dicts, so that a template can write them as JSON."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.summary,
                "parameters": json.loads(json.dumps(_plain(tool.parameters))),
            },
        }
        for tool in tools
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def call_format(tokenizer: Any, model: str) -> str:
    """How the template has the model write a call: hermes | llama | mistral.

    Raises:
        Unavailable: no template, one that knows no tools, or one that writes calls in another way.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise Unavailable(f"{model} has no chat template, so it cannot be told of tools.")
    question = [{"role": "user", "content": QUESTION}]
    try:
        told = _render(tokenizer, question, [_ANY_TOOL], model)
        called = _after(_render(tokenizer, [*question, _calls([Reply("", _ANY_TOOL.name)])], [_ANY_TOOL], model))
    except BadInput as error:
        raise Unavailable(f"{model} cannot use tools. {error}") from error
    if _ANY_TOOL.name not in told:
        raise Unavailable(f"{model} cannot use tools: its chat template does not tell it of any.")
    call = called.partition(CALL)[0]
    found = next((name for name, pattern in _FORMATS if pattern.search(call)), None)
    if found is None or _ANY_TOOL.name not in call:
        raise Unavailable(
            f"{model} cannot be used as an agent: its chat template writes calls in a way that is not known here. "
            "Known are those of Hermes and Qwen, Llama 3.1, and Mistral."
        )
    return found


def one_system_segment(prompt: Tokens) -> Tokens:
    """`prompt` with all that stands before the question, apart from the question's role mark, as one segment."""
    user = next((segment for segment in prompt.segments if segment.role == "user"), None)
    if user is None:
        return prompt
    stop = user.start
    marked = next((i + 1 for i in reversed(range(user.start)) if prompt.special[i]), 0)
    if _ROLE_NAME.fullmatch("".join(prompt.labels[marked : user.start])):
        stop = marked
    while stop and (prompt.special[stop - 1] or not prompt.labels[stop - 1].strip()):
        stop -= 1
    start = next((index for index in range(stop) if not prompt.special[index]), stop)
    later = tuple(segment for segment in prompt.segments if segment.start >= user.start)
    return replace(prompt, segments=(*((Segment("system", start, stop),) if start < stop else ()), *later))


def say(tokenizer: Any, labels: TokenLabels, tokens: Tokens, text: str, role: str) -> Tokens:
    """See TakesTurns.say."""
    return continue_tokens(tokens, plain_ids(tokenizer, labels, text), labels, role=role)


def reply(
    tokenizer: Any, labels: TokenLabels, tokens: Tokens, replies: Sequence[Reply], ends: Sequence[int], model: str
) -> Tokens:
    """See TakesTurns.reply."""
    ended = int(tokens.ids[-1]) in ends
    between = _between(tokenizer, replies, [labels.label(end) for end in ends] if ended else None, model)
    for number, text in enumerate(between):
        if number:
            tokens = say(tokenizer, labels, tokens, _as_written(tokenizer, replies, number - 1, model), "observation")
        glue = continue_tokens(tokens, _ids(tokenizer, labels, text), labels)
        tokens = replace(glue, segments=tokens.segments)
    return tokens


# --------------------------------------------------------------------------------------------- the template


def _render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], model: str, *, ready: bool = False
) -> str:
    """The conversation as text. A template is a stranger's program, so whatever it raises becomes one line."""
    told = {"tools": template_tools(tools)} if tools else {}
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=ready, **told
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"The chat template of {model} cannot write this conversation: {reason[:300]}") from error
    return str(text)


def _after(rendered: str) -> str:
    return rendered.rpartition(QUESTION)[2]


def _calls(replies: Sequence[Reply]) -> dict[str, Any]:
    """The model's turn that these replies answer, with a mark in each call."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "id": _call_id(r), "function": {"name": r.tool, "arguments": {"topic": CALL}}}
            for r in replies
        ],
    }


def _call_id(reply: Reply) -> str:
    return reply.call_id if _CALL_ID.fullmatch(reply.call_id) else CALL_ID


def _conversation(replies: Sequence[Reply], texts: Sequence[str]) -> list[Mapping[str, Any]]:
    """A question, a turn of the model that fits the replies, and the replies with these texts."""
    question = {"role": "user", "content": QUESTION}
    if not replies[0].tool:
        turn: Mapping[str, Any] = {"role": "assistant", "content": CALL}
        return [question, turn, *({"role": "user", "content": text} for text in texts)]
    said = [
        {"role": "tool", "name": r.tool, "tool_call_id": _call_id(r), "content": text}
        for r, text in zip(replies, texts, strict=True)
    ]
    return [question, _calls(replies), *said]


def _written(tokenizer: Any, replies: Sequence[Reply], texts: Sequence[str], model: str) -> str:
    """What the template writes after the model's turn, if these are the replies."""
    return _after(_render(tokenizer, _conversation(replies, texts), (), model, ready=True)).rpartition(CALL)[2]


def _between(tokenizer: Any, replies: Sequence[Reply], ends: Sequence[str] | None, model: str) -> list[str]:
    """What the template writes before, between and after the replies; its end of the model's turn, by one of `ends`,
    is left out, since the model has written its own. None: the model's turn was cut off, so that end belongs to it."""
    marks = [f"{REPLY}{number}end" for number in range(len(replies))]
    text = _written(tokenizer, replies, marks, model)
    first = text.partition(marks[0])[0]
    places = [0] if ends is None else [first.index(end) + len(end) for end in ends if end in first]
    if not places:
        raise BadInput(f"The chat template of {model} ends no turn with a token that ends an answer of the model.")
    parts, rest = [], text[min(places) :]
    for mark in marks:
        if rest.count(mark) != 1:
            raise BadInput(f"The chat template of {model} does not show once what a tool has given.")
        before, _, rest = rest.partition(mark)
        parts.append(before)
    return [*parts, rest]


def _as_written(tokenizer: Any, replies: Sequence[Reply], number: int, model: str) -> str:
    """One reply as the template writes it: as it is, without spaces around it, or with the escapes of JSON.

    Raises:
        BadInput: the template changes it in another way.
    """
    marks = [f"{REPLY}{index}end" for index in range(len(replies))]
    text = replies[number].text
    shape = _written(tokenizer, replies, marks, model)
    given = _written(tokenizer, replies, [*marks[:number], text, *marks[number + 1 :]], model)
    for candidate in (text, text.strip(), json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(text)[1:-1]):
        if shape.replace(marks[number], candidate) == given:
            return candidate
    raise BadInput(f"The chat template of {model} changes what a tool has given.")


# --------------------------------------------------------------------------------------------- ids


def _ids(tokenizer: Any, labels: TokenLabels, text: str) -> list[int]:
    """Ids of a text in the middle of another: SentencePiece would put a space before it."""
    if labels.style == "spaces" and text:
        anchor, whole = _encode(tokenizer, _ANCHOR), _encode(tokenizer, _ANCHOR + text)
        if whole[: len(anchor)] == anchor:
            return whole[len(anchor) :]
    return _encode(tokenizer, text)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]


def plain_ids(tokenizer: Any, labels: TokenLabels, text: str) -> list[int]:
    """Ids of a text whose every character is a letter: the name of a control token in it is broken in two.

    Raises:
        BadInput: the tokenizer makes control tokens of single characters.
    """
    control = {i: name for i, name in labels.literal.items() if name.strip()}
    control |= {i: labels.label(i) for i in labels.special}
    names = sorted({name for name in control.values() if len(name) > 1}, key=len, reverse=True)
    cuts = [0]
    if names:
        for match in re.finditer("|".join(f"(?={re.escape(name)})" for name in names), text):
            cuts.append(match.start() + 1)
    ids = [
        token_id
        for start, stop in zip(cuts, [*cuts[1:], len(text)], strict=True)
        for token_id in _ids(tokenizer, labels, text[start:stop])
    ]
    if forged := next((i for i in ids if i in labels.special and i in control), None):
        raise BadInput(f"A text was given that this model reads as the control token {labels.label(forged)!r}.")
    return ids
