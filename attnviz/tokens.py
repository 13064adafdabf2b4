"""Tokens as people may see them: character-safe labels, offsets, roles, and exact continuation by generated ids.

A tokenizer is anything with the interface of transformers' PreTrainedTokenizerBase. Nothing here decodes and tokenises
again: ids stay the ids that were given.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from attnviz.errors import BadInput, ShapeError, UnknownName
from attnviz.types import Floats, Ints, Segment, Span, Tokens

__all__ = [
    "UNITS",
    "StopTexts",
    "TokenLabels",
    "begin_target",
    "continue_tokens",
    "group_tokens",
    "pool_pattern",
    "show_bytes",
    "tokenize_messages",
    "tokenize_text",
]

UNITS = ("token", "word", "sentence", "turn")
"""What tokens can be put together to, smallest first."""

_ROLES = {"tool": "observation", "function": "observation", "developer": "system", "model": "assistant"}
_SPACE = "\u2581"  # SentencePiece's stand-in for a space


def show_bytes(data: bytes) -> str:
    """UTF-8 text; bytes that are no whole character are shown as ‹E6 BC›, never as a replacement character."""
    shown, rest = "", data
    while rest:
        try:
            return shown + rest.decode()
        except UnicodeDecodeError as error:
            broken = rest[error.start : error.end]
            shown += rest[: error.start].decode() + _hex(broken)
            rest = rest[error.end :]
    return shown.replace("›‹", " ")


def _hex(data: bytes) -> str:
    return "‹" + " ".join(f"{byte:02X}" for byte in data) + "›"


@lru_cache(maxsize=1)
def _byte_of_character() -> Mapping[str, int]:
    """Byte-level BPE's alphabet (Radford et al. 2019): printable Latin-1 stands for itself, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in plain]
    alphabet = {chr(byte): byte for byte in plain}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(moved)})
    return alphabet


def piece_labels(pieces: Sequence[str]) -> tuple[str, ...]:
    """Labels of vocabulary pieces ("Ġcat", "▁cat") where there is no tokenizer to ask, as files of other programs hold.

    Pieces are taken for byte-level BPE where one holds its stand-in for a space or a line end, and for SentencePiece
    where one begins with that one's space; else they are their own labels.
    """
    alphabet = _byte_of_character()
    if any("\u0120" in piece or "\u010a" in piece for piece in pieces):
        known = (all(character in alphabet for character in piece) for piece in pieces)
        return tuple(
            show_bytes(bytes(alphabet[character] for character in piece)) if fits else piece
            for piece, fits in zip(pieces, known, strict=True)
        )
    if any(piece.startswith(_SPACE) for piece in pieces):
        return tuple(piece.replace(_SPACE, " ") for piece in pieces)
    return tuple(pieces)


@dataclass(frozen=True)
class TokenLabels:
    """What each id of a tokenizer stands for.

    style    bytes (byte-level BPE) | spaces (SentencePiece) | words (WordPiece) | plain
    literal  ids whose token is its own text (added tokens), with that text
    special  ids of control tokens
    """

    tokenizer: Any
    style: str
    literal: Mapping[int, str]
    special: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> TokenLabels:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {int(i) for i in tokenizer.all_special_ids}
        special |= {int(i) for i, token in added.items() if getattr(token, "special", False)}
        literal = {int(i): str(getattr(token, "content", token)) for i, token in added.items()}
        return cls(tokenizer, _style(tokenizer), literal, frozenset(special))

    def label(self, token_id: int) -> str:
        """Text of one id, safe to show: spaces are spaces, part of a character is its bytes, control tokens by name."""
        data = self.data(token_id)
        if data is not None:
            return show_bytes(data)
        token = self._token(token_id)
        return f"‹id {token_id}›" if token is None else token

    def data(self, token_id: int) -> bytes | None:
        """UTF-8 bytes that this id adds to a text; None where the tokenizer does not say (unknown id, joined words)."""
        if token_id in self.literal:
            return self.literal[token_id].encode()
        token = self._token(token_id)
        if token is None:
            return None
        if token_id in self.special:
            return token.encode()
        if self.style == "bytes":
            alphabet = _byte_of_character()
            if all(character in alphabet for character in token):
                return bytes(alphabet[character] for character in token)
            return token.encode()
        if self.style == "spaces":
            byte = _fallback_byte(token)
            return token.replace(_SPACE, " ").encode() if byte is None else byte
        if self.style == "words" and token.startswith("##"):
            return token[2:].encode()
        return token.encode()

    def _token(self, token_id: int) -> str | None:
        try:
            token = self.tokenizer.convert_ids_to_tokens(int(token_id))
        except (IndexError, KeyError, OverflowError):
            return None
        return None if token is None else str(token)


def _fallback_byte(token: str) -> bytes | None:
    """SentencePiece writes a byte outside its vocabulary as <0xE6>."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return None
    return None


def _style(tokenizer: Any) -> str:
    """How tokens are written, from the decoder (fast tokenizers) or from the vocabulary."""
    names = _decoder_names(tokenizer)
    if "ByteLevel" in names:
        return "bytes"
    if "WordPiece" in names:
        return "words"
    if names & {"Metaspace", "ByteFallback", "Replace"}:
        return "spaces"
    if names:
        return "plain"
    vocabulary = tokenizer.get_vocab()
    if any(token.startswith("##") for token in vocabulary):
        return "words"
    if any(token.startswith(_SPACE) for token in vocabulary):
        return "spaces"
    if any(token.startswith("\u0120") for token in vocabulary):
        return "bytes"
    return "plain"


def _decoder_names(tokenizer: Any) -> set[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {part["type"] for part in [state, *state.get("decoders", [])]}


# --------------------------------------------------------------------------------------------- prompts


def tokenize_text(tokenizer: Any, labels: TokenLabels, text: str, *, positions: int | None, model: str) -> Tokens:
    """Tokens of a plain text, with the control tokens the tokenizer adds by itself (such as BOS).

    Raises:
        BadInput: nothing to run, text that is not valid Unicode, or more tokens than `positions`.
    """
    if not isinstance(text, str):
        raise BadInput(f"Prompt: expected text or a list of messages, got {type(text).__name__}.")
    _check_text(text)
    tokens = _encode(tokenizer, labels, text, add_special_tokens=True)
    _check_tokens(tokens, positions, model)
    return replace(tokens, segments=(Segment("text", 0, len(tokens)),))


def tokenize_messages(
    tokenizer: Any,
    labels: TokenLabels,
    messages: Sequence[Mapping[str, str]],
    *,
    positions: int | None,
    model: str,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Tokens:
    """Tokens of a conversation through the model's chat template, ready for the answer.

    tools: what the template tells the model of, as JSON objects in the form that templates expect.

    The template writes BOS and role marks itself, so none is added. Each segment holds the tokens of one message's
    content; role marks belong to no segment.

    Raises:
        BadInput: no chat template, messages it refuses, nothing to run, or more tokens than `positions`.
    """
    _check_messages(messages)
    if not getattr(tokenizer, "chat_template", None):
        raise BadInput(f"{model} has no chat template, so it cannot take a conversation. Give it plain text.")
    text = _render(tokenizer, messages, model, tools)
    _check_text(text)
    tokens = _encode(tokenizer, labels, text, add_special_tokens=False)
    _check_tokens(tokens, positions, model)
    return replace(tokens, segments=_segments(tokenizer, messages, text, tokens.offsets, tools))


def _check_text(text: str) -> None:
    if not text.strip():
        raise BadInput("The prompt is empty: expected some text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"The prompt holds half a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}, "
            "which is no valid text. Remove that character."
        ) from None


def _check_messages(messages: Sequence[Mapping[str, str]]) -> None:
    if isinstance(messages, Mapping) or not isinstance(messages, Sequence):
        raise BadInput(f"Messages: expected a list of messages, got {type(messages).__name__}.")
    if not messages:
        raise BadInput("The conversation is empty: expected at least one message.")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise BadInput(f'Message {number}: expected {{"role": …, "content": …}}, got {message!r}.')
        for name in ("role", "content"):
            if not isinstance(message[name], str):
                raise BadInput(f"Message {number}: {name} must be text, got {type(message[name]).__name__}.")
        _check_surrogates(number, message["content"])
    if not any(message["content"].strip() for message in messages):
        raise BadInput("The conversation is empty: no message has any text.")


def _check_surrogates(number: int, content: str) -> None:
    if content.strip():
        try:
            _check_text(content)
        except BadInput as error:
            raise BadInput(f"Message {number}: {error}") from None


def _render(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], model: str, tools: Sequence[Mapping[str, Any]]
) -> str:
    """The conversation as text. A template is a stranger's program, so whatever it raises becomes one line."""
    told = {"tools": [dict(tool) for tool in tools]} if tools else {}
    try:
        text = tokenizer.apply_chat_template(
            [dict(m) for m in messages], tokenize=False, add_generation_prompt=True, **told
        )
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"The chat template of {model} cannot write this conversation: {reason}") from error
    return str(text)


def _encode(tokenizer: Any, labels: TokenLabels, text: str, *, add_special_tokens: bool) -> Tokens:
    options: dict[str, Any] = {"add_special_tokens": add_special_tokens, "verbose": False}
    if not getattr(tokenizer, "is_fast", False):
        ids = tokenizer(text, **options)["input_ids"]
        return _tokens(labels, ids, np.full((len(ids), 2), -1), text)
    encoded = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, **options)
    ids = encoded["input_ids"]
    offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
    added = np.array(encoded["special_tokens_mask"], bool) & (offsets[:, 0] == offsets[:, 1])
    offsets[added] = -1  # stands for no characters of the text
    return _tokens(labels, ids, offsets, text)


def _tokens(labels: TokenLabels, ids: Sequence[int], offsets: Ints, text: str) -> Tokens:
    return Tokens(
        ids=np.array(ids, np.int64),
        labels=tuple(labels.label(int(i)) for i in ids),
        offsets=np.asarray(offsets, np.int64),
        special=np.array([int(i) in labels.special for i in ids], bool),
        text=text,
    )


def _check_tokens(tokens: Tokens, positions: int | None, model: str) -> None:
    count = len(tokens)
    if bool(tokens.special.all()):
        found = " ".join(tokens.labels) or "no token at all"
        raise BadInput(f"The prompt has no text for {model}, only control tokens ({found[:80]}). Add some words.")
    if positions is not None and count > positions:
        raise BadInput(
            f"The prompt has {count} tokens; {model} has {positions} positions. "
            f"Shorten it by {count - positions} tokens."
        )


# --------------------------------------------------------------------------------------------- roles


def _segments(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    text: str,
    offsets: Ints,
    tools: Sequence[Mapping[str, Any]],
) -> tuple[Segment, ...]:
    """Tokens that touch each message's content; one that touches two belongs to the first."""
    segments: list[Segment] = []
    for message, span in zip(messages, _content_spans(tokenizer, messages, text, tools), strict=True):
        if span is None:
            continue
        inside = np.flatnonzero((offsets[:, 1] > span[0]) & (offsets[:, 0] < span[1]) & (offsets[:, 0] >= 0))
        if segments:
            inside = inside[inside >= segments[-1].stop]
        if len(inside):
            role = _ROLES.get(message["role"], message["role"])
            segments.append(Segment(role, int(inside[0]), int(inside[-1]) + 1))
    return tuple(segments)


def _content_spans(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], text: str, tools: Sequence[Mapping[str, Any]]
) -> list[tuple[int, int] | None]:
    """Where each content stands in the rendered text.

    The template is rendered again around marks of our own; what stands between the marks then fixes every place. Where
    a template looks at the content itself, the contents are searched for one after another.
    """
    marks = [f"\u2060mark{number}\u2060" for number in range(len(messages))]
    try:
        written = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        marked = _render(tokenizer, written, "", tools)
    except BadInput:
        marked = ""
    found = _spans_between(marked, marks, [m["content"] for m in messages], text)
    return found if found is not None else _spans_in_order([m["content"] for m in messages], text)


def _spans_between(
    marked: str, marks: Sequence[str], contents: Sequence[str], text: str
) -> list[tuple[int, int] | None] | None:
    spans: list[tuple[int, int] | None] = []
    at = 0
    for mark, content in zip(marks, contents, strict=True):
        if marked.count(mark) != 1:
            return None
        before, marked = marked.split(mark)
        start = at + len(before)
        shown = next((c for c in (content, content.strip()) if text[at:].startswith(before + c)), None)
        if shown is None:
            return None
        at = start + len(shown)
        spans.append((start, at) if shown else None)
    return spans if text[at:] == marked else None


def _spans_in_order(contents: Sequence[str], text: str) -> list[tuple[int, int] | None]:
    spans: list[tuple[int, int] | None] = []
    at = 0
    for content in (c.strip() for c in contents):
        start = text.find(content, at) if content else -1
        spans.append(None if start < 0 else (start, start + len(content)))
        at = at if start < 0 else start + len(content)
    return spans


# --------------------------------------------------------------------------------------------- answers


def begin_target(source: Tokens, ids: Sequence[int], labels: TokenLabels) -> Tokens:
    """What the encoder reads, followed by the control tokens that the decoder starts with; see Tokens.decoder_from.

    The text of the target stands in a line of its own. A conversation keeps its roles beside the two segments.
    """
    count, start = len(source), len(source.ids) + len(ids)
    roles = tuple(segment for segment in source.segments if segment.role != "text")
    return Tokens(
        ids=np.concatenate([source.ids, np.asarray(ids, np.int64)]),
        labels=(*source.labels, *(labels.label(int(i)) for i in ids)),
        offsets=np.concatenate([source.offsets, np.full((len(ids), 2), -1, np.int64)]),
        special=np.concatenate([source.special, np.ones(len(ids), bool)]),
        text=f"{source.text}\n" if source.text else "",
        segments=(*roles, Segment("source", 0, count), Segment("target", count, start)),
        values=source.values,
        decoder_from=count,
    )


def continue_tokens(prompt: Tokens, ids: Sequence[int], labels: TokenLabels, *, role: str = "answer") -> Tokens:
    """`prompt` followed by exactly these ids, as one more segment (of a model with encoder and decoder: as more of its
    target); control tokens add no text.

    The text grows by what the ids stand for. A character whose bytes are not complete stays U+FFFD in the text, as a
    tokenizer would decode it, while its tokens' labels show the bytes.
    """
    added, offsets = _answer_text(prompt, [int(i) for i in ids], labels)
    answer = _tokens(labels, [int(i) for i in ids], offsets, added)
    return Tokens(
        ids=np.concatenate([prompt.ids, answer.ids]),
        labels=prompt.labels + answer.labels,
        offsets=np.concatenate([prompt.offsets, answer.offsets]),
        special=np.concatenate([prompt.special, answer.special]),
        text=prompt.text + added,
        segments=_continued(prompt, len(prompt) + len(answer), role),
        values=prompt.values,
        decoder_from=prompt.decoder_from,
    )


def _continued(prompt: Tokens, count: int, role: str) -> tuple[Segment, ...]:
    if prompt.decoder_from is None:
        return (*prompt.segments, Segment(role, len(prompt), count))
    return tuple(replace(s, stop=count) if s.role == "target" else s for s in prompt.segments)


def _answer_text(prompt: Tokens, ids: list[int], labels: TokenLabels) -> tuple[str, Ints]:
    if labels.style in ("bytes", "spaces"):
        pieces = [b"" if i in labels.special else labels.data(i) or b"" for i in ids]
        return _joined(pieces, len(prompt.text))
    return _decoded(prompt, ids, labels)


def _joined(pieces: list[bytes], start: int) -> tuple[str, Ints]:
    """Text of UTF-8 pieces, and for each piece the characters that it touches."""
    data = b"".join(pieces)
    text = data.decode(errors="replace")
    character_at = _character_of_byte(data)
    spans, at = [], 0
    for piece in pieces:
        stop = at + len(piece)
        whole = (start + character_at[at], start + character_at[stop - 1] + 1) if piece else (-1, -1)
        spans.append(whole)
        at = stop
    return text, np.array(spans, np.int64).reshape(-1, 2)


def _character_of_byte(data: bytes) -> list[int]:
    """For each byte the index of its character in data.decode(errors="replace")."""
    owners: list[int] = []
    count, rest = 0, data
    while rest:
        try:
            good, bad = rest.decode(), 0
            stop = len(rest)
        except UnicodeDecodeError as error:
            good, bad, stop = rest[: error.start].decode(), error.end - error.start, error.end
        for character in good:
            owners.extend([count] * len(character.encode()))
            count += 1
        if bad:
            owners.extend([count] * bad)  # one replacement character for a broken sequence
            count += 1
        rest = rest[stop:]
    return owners


def _decoded(prompt: Tokens, ids: list[int], labels: TokenLabels) -> tuple[str, Ints]:
    """For tokenizers whose tokens do not simply join: text of every prefix, by the tokenizer's own decoder."""
    decode = labels.tokenizer.decode
    context = [int(i) for i in prompt.ids[prompt.decoder_from or 0 :]]
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    before = decode(context, **options)
    added, spans = "", []
    for count, token_id in enumerate(ids, start=1):
        whole = decode(context + ids[:count], **options)
        if token_id in labels.special or not whole.startswith(before + added):
            spans.append((-1, -1))
            continue
        start = len(prompt.text) + len(added)
        added = whole[len(before) :]
        spans.append((start, len(prompt.text) + len(added)))
    return added, np.array(spans, np.int64).reshape(-1, 2)


class StopTexts:
    """Watches an answer grow until it contains one of some texts, which may begin and end anywhere in a token.

    What the answer contains is its text as `continue_tokens` gives it: control tokens add nothing to it, and the bytes
    of half a character are no character yet.
    """

    def __init__(self, texts: Sequence[str], prompt: Tokens, labels: TokenLabels) -> None:
        self._texts = [text.encode() for text in texts]
        self._longest = max(map(len, self._texts), default=0)
        self._labels = labels
        self._context = [int(i) for i in prompt.ids[prompt.decoder_from or 0 :]]
        self._before = ""
        self._answer = b""
        if self._texts and not self._joins:
            self._before = self._decode()

    @property
    def _joins(self) -> bool:
        return self._labels.style in ("bytes", "spaces")

    def add(self, token_id: int) -> bool:
        """Whether the answer contains one of the texts with this id, which comes next."""
        if not self._texts:
            return False
        if self._joins:
            tail = self._answer[max(0, len(self._answer) - self._longest + 1) :]
            self._answer = tail + (b"" if token_id in self._labels.special else self._labels.data(token_id) or b"")
        else:
            self._context.append(int(token_id))
            whole = self._decode()
            if token_id not in self._labels.special and whole.startswith(self._before + self._answer.decode()):
                self._answer = whole[len(self._before) :].encode()
        return any(text in self._answer for text in self._texts)

    def _decode(self) -> str:
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self._labels.tokenizer.decode(self._context, **options))


# --------------------------------------------------------------------------------------------- units

_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+[」』”）]*|\n+")  # "3.5" and "…" inside a line go on


def group_tokens(tokens: Tokens, unit: str, start: int = 0, stop: int | None = None) -> tuple[Span, ...]:
    """Tokens start..stop-1 (all of them) in groups, in order: every token belongs to exactly one, and no group crosses
    a segment's edge.

    token     each by itself
    word      a run of letters and digits (hyphens and apostrophes inside), or of other marks; a token that touches
              several belongs to the one it begins in, spaces to what follows them; scripts written without spaces
              are not taken apart
    sentence  up to . ! ? … before a space, 。！？, or the end of a line (so an abbreviation ends one)
    turn      a segment: one message, the answer

    A control token, and any token without a place in the text, is a group of its own in words and sentences. Tokens
    outside every segment (role marks) are one group each time they come.

    Raises:
        UnknownName: no such unit.
        BadInput: words or sentences of tokens that have no place in the text.
    """
    if unit not in UNITS:
        raise UnknownName("unit of text", unit, UNITS)
    asked = range(start, len(tokens) if stop is None else stop)
    if unit == "token":
        return tuple(_span(tokens, index, index + 1) for index in asked)
    within = [0] * len(tokens) if unit == "turn" else _unit_of(tokens, unit)
    keys = list(zip(_segment_of(tokens), within, strict=True))
    spans = []
    for _, run in groupby(asked, key=lambda index: keys[index]):
        members = list(run)
        spans.append(_span(tokens, members[0], members[-1] + 1, turn=unit == "turn"))
    return tuple(spans)


def _span(tokens: Tokens, start: int, stop: int, *, turn: bool = False) -> Span:
    role = next((s.role for s in tokens.segments if (s.start, s.stop) == (start, stop)), None) if turn else None
    return Span(start, stop, int(tokens.ids[start]) if stop - start == 1 else -1, role or _label(tokens, start, stop))


def _label(tokens: Tokens, start: int, stop: int) -> str:
    """Text of several tokens; their labels where some have no place in the text. One token keeps its label."""
    offsets = tokens.offsets[start:stop]
    if stop - start == 1 or (offsets < 0).any():
        return "".join(tokens.labels[start:stop])
    return tokens.text[int(offsets[:, 0].min()) : int(offsets[:, 1].max())]


def _segment_of(tokens: Tokens) -> list[int]:
    """[T] index of each token's segment; tokens between two segments get a negative number of their own."""
    found = [-1] * len(tokens)
    for index, segment in enumerate(tokens.segments):
        found[segment.start : segment.stop] = [index] * (segment.stop - segment.start)
        found[segment.stop :] = [-index - 2] * (len(tokens) - segment.stop)
    return found


def _unit_of(tokens: Tokens, unit: str) -> list[int]:
    """[T] where the word or sentence of each token begins in the text; a token without a place gets -1 - its index."""
    placed = tokens.offsets[:, 0] >= 0
    if not placed.any():
        raise BadInput(
            f"These tokens have no places in a text, so they cannot be put together to a {unit}. Choose token."
        )
    starts = np.array(_starts(tokens.text, unit))
    found = []
    for index, (start, stop) in enumerate(tokens.offsets.tolist()):
        if not placed[index] or tokens.special[index]:
            found.append(-1 - index)
            continue
        text = tokens.text[start:stop]
        first = start + len(text) - len(text.lstrip()) if text.strip() else start
        following = int(np.searchsorted(starts, first, side="right"))
        if not text.strip() and unit == "word":  # only spaces: they belong to the word that follows
            found.append(int(starts[following]) if following < len(starts) else len(tokens.text))
        else:
            found.append(int(starts[following - 1]))
    return found


def _starts(text: str, unit: str) -> list[int]:
    """Where words or sentences begin, the first at 0."""
    if unit == "sentence":
        return sorted({0, *(match.end() for match in _SENTENCE_END.finditer(text) if match.end() < len(text))})
    kinds = _character_kinds(text)
    return [i for i, kind in enumerate(kinds) if i == 0 or (kind != kinds[i - 1] and kind != "space")]


def _character_kinds(text: str) -> list[str]:
    """letter | mark | space for every character; what combines with a character before it is of its kind."""
    kinds: list[str] = []
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        inside = character in "'’-" and kinds[-1:] == ["letter"] and text[index + 1 : index + 2].isalnum()
        if kinds and (inside or category[0] == "M" or category == "Cf"):
            kinds.append(kinds[-1])
        elif character.isspace():
            kinds.append("space")
        else:
            kinds.append("letter" if character.isalnum() or character == "_" else "mark")
    return kinds


def pool_pattern(pattern: Floats, queries: Sequence[Span], keys: Sequence[Span]) -> Floats:
    """[Q, K] -> [groups of queries, groups of keys]: summed over the keys of a group, averaged over its queries.

    So rows that sum to 1 still do.

    Raises:
        ShapeError: the groups do not cover the pattern.
    """
    for what, groups, count in (("queries", queries, pattern.shape[0]), ("keys", keys, pattern.shape[1])):
        if not groups or groups[0].index != 0 or groups[-1].stop != count:
            raise ShapeError(f"Groups of {what}", f"tokens 0 to {count}", [(g.index, g.stop) for g in groups][-3:])
    summed = np.add.reduceat(pattern, [group.index for group in keys], axis=1)
    totals = np.add.reduceat(summed, [group.index for group in queries], axis=0)
    pooled: Floats = totals / np.array([group.stop - group.index for group in queries])[:, None]
    return pooled
