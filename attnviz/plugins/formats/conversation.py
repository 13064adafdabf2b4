"""Conversations as JSON: [{"role": "user", "content": "…"}, …], as chat templates take them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnviz.hooks import BadInput, Format, Message, hookimpl
from attnviz.plugins.formats._files import encodable, kind, parse_json, read_bytes, write_whole

MAX_BYTES = 4_000_000
ROLES = ("system", "user", "assistant", "tool")
_EXPECTED = 'a list of {"role": …, "content": …}'


def read(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The messages of a file.

    Raises:
        BadInput: it cannot be read, is too large, or is not a conversation; says what was expected and what came.
    """
    name = Path(path).name
    data = parse_json(read_bytes(path, MAX_BYTES), name, _EXPECTED)
    return _messages(data, name)


def write(messages: Sequence[Message], path: str | os.PathLike[str]) -> None:
    """Write beside the target, flush to disk, rename: a reader sees the old file or the whole new one.

    Raises:
        BadInput: not a conversation, or the place cannot be written.
    """
    text = json.dumps(_messages([dict(m) for m in messages], "Conversation"), ensure_ascii=False, indent=2) + "\n"
    write_whole(path, text.encode())


def _messages(data: Any, name: str) -> list[dict[str, str]]:
    """The data, once it is a conversation."""
    if not isinstance(data, list):
        raise BadInput(f"{name}: expected {_EXPECTED}, got {kind(data)}.")
    if not data:
        raise BadInput(f"{name}: expected at least one message, got an empty list.")
    return [_message(item, f"{name}, message {number}") for number, item in enumerate(data)]


def _message(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise BadInput(f'{where}: expected {{"role": …, "content": …}}, got {kind(item)}.')
    if item.keys() != {"role", "content"}:
        raise BadInput(f"{where}: expected exactly the fields role and content, got {', '.join(item) or 'none'}.")
    for field in ("role", "content"):
        if not isinstance(item[field], str):
            raise BadInput(f"{where}: expected {field} to be text, got {kind(item[field])}.")
        if not encodable(item[field]):
            raise BadInput(f"{where}: {field} holds half of a surrogate pair, which no text can carry. Remove it.")
    if item["role"] not in ROLES:
        raise BadInput(f"{where}: expected role {', '.join(ROLES[:-1])} or {ROLES[-1]}, got {item['role']!r}.")
    return {"role": item["role"], "content": item["content"]}


@hookimpl
def attnviz_formats() -> list[Format]:
    """The conversation format."""
    return [
        Format(
            name="conversation",
            summary='Messages of a chat: [{"role", "content"}].',
            content="conversation",
            suffixes=(".json",),
            read=read,
            write=write,
        )
    ]
