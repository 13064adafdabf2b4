"""Conversations as JSON: [{"role": "user", "content": "…"}, …], as chat templates take them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnviz.hooks import BadInput, Format, Message, hookimpl

MAX_BYTES = 4_000_000
ROLES = ("system", "user", "assistant", "tool")
_EXPECTED = 'a list of {"role": …, "content": …}'


def read(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The messages of a file.

    Raises:
        BadInput: it cannot be read, is too large, or is not a conversation; says what was expected and what came.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror or error}.") from None
    if len(raw) > MAX_BYTES:
        raise BadInput(f"{name}: expected at most {MAX_BYTES:,} bytes, got more.")
    try:
        data = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: expected UTF-8 text, got other bytes at {error.start}.") from None
    except RecursionError:
        raise BadInput(f"{name}: expected {_EXPECTED}, got JSON nested too deeply.") from None
    except ValueError as error:
        raise BadInput(f"{name}: expected JSON, {_EXPECTED}: {error}.") from None
    return _messages(data, name)


def write(messages: Sequence[Message], path: str | os.PathLike[str]) -> None:
    """Write beside the target, flush to disk, rename: a reader sees the old file or the whole new one.

    Raises:
        BadInput: not a conversation, or the place cannot be written.
    """
    target = Path(path)
    text = json.dumps(_messages([dict(m) for m in messages], "Conversation"), ensure_ascii=False, indent=2) + "\n"
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _messages(data: Any, name: str) -> list[dict[str, str]]:
    """The data, once it is a conversation."""
    if not isinstance(data, list):
        raise BadInput(f"{name}: expected {_EXPECTED}, got {_kind(data)}.")
    if not data:
        raise BadInput(f"{name}: expected at least one message, got an empty list.")
    return [_message(item, f"{name}, message {number}") for number, item in enumerate(data)]


def _message(item: Any, where: str) -> dict[str, str]:
    if not isinstance(item, dict):
        raise BadInput(f'{where}: expected {{"role": …, "content": …}}, got {_kind(item)}.')
    if item.keys() != {"role", "content"}:
        raise BadInput(f"{where}: expected exactly the fields role and content, got {', '.join(item) or 'none'}.")
    for field in ("role", "content"):
        if not isinstance(item[field], str):
            raise BadInput(f"{where}: expected {field} to be text, got {_kind(item[field])}.")
        if not _encodable(item[field]):
            raise BadInput(f"{where}: {field} holds half of a surrogate pair, which no text can carry. Remove it.")
    if item["role"] not in ROLES:
        raise BadInput(f"{where}: expected role {', '.join(ROLES[:-1])} or {ROLES[-1]}, got {item['role']!r}.")
    return {"role": item["role"], "content": item["content"]}


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


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
