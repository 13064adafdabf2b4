"""Files of strangers: read up to a size, taken apart with a word for everything that does not fit; written whole.

Nothing that a file names is imported, and nothing in it is executed.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnviz.hooks import BadInput

_GZIP = b"\x1f\x8b"
_SHOWN = 80  # characters of a file that a refusal quotes


# --------------------------------------------------------------------------------------------- bytes


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file, unpacked if it is gzip; never more than `limit` bytes are held.

    Raises:
        BadInput: it cannot be read, is too large, or is broken gzip.
    """
    name = Path(path).name
    try:
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
            packed = raw.startswith(_GZIP)
            if packed:
                file.seek(0)
                with gzip.GzipFile(fileobj=file) as unpacked:
                    raw = unpacked.read(limit + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"{name}: expected a whole gzip file, got a broken one ({error}). Copy it again.") from None
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror or error}.") from None
    if len(raw) > limit:
        what = " unpacked" if packed else ""
        raise BadInput(f"{name}: expected at most {limit:,} bytes{what}, got more. Cut it into several files.")
    return raw


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write beside the target, flush to disk, rename: a reader sees the old file or the whole new one.

    Raises:
        BadInput: the place cannot be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise BadInput(f"{target}: cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- JSON


def parse_json(raw: bytes, name: str, expected: str) -> Any:
    """The JSON data of a file. A name that stands twice in one object is refused: readers disagree on which one counts.

    Raises:
        BadInput: not UTF-8, not JSON, nested too deeply, a name twice.
    """
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: expected UTF-8 text, got other bytes at {error.start}.") from None
    except RecursionError:
        raise BadInput(f"{name}: expected {expected}, got JSON nested too deeply.") from None
    except ValueError as error:
        raise BadInput(f"{name}: expected JSON, {expected}: {error}.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the name {shown(twice)!r} stands twice in one object")
    return found


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def shown(text: str) -> str:
    """The beginning of a stranger's text, in one line of characters that can be printed."""
    return "".join(character if character.isprintable() else " " for character in text[:_SHOWN])


def encodable(text: str) -> bool:
    """Whether a text can be written at all: JSON can name half of a surrogate pair, which no text can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Field:
    """A JSON value and the way to it in its file, for words about what does not fit."""

    value: Any
    where: str

    def refuse(self, expected: str, got: str = "") -> BadInput:
        """The error that says what was expected here and what came."""
        return BadInput(f"{self.where}: expected {expected}, got {got or kind(self.value)}.")

    def __getitem__(self, name: str) -> Field:
        """A member that must be there."""
        found = self.members().get(name)
        if found is None:
            raise self.refuse(f"the field {name!r}", "none of that name")
        return found

    def members(self) -> dict[str, Field]:
        """All members of an object, by name."""
        if not isinstance(self.value, dict):
            raise self.refuse("an object")
        return {name: Field(value, f"{self.where}, {shown(name)}") for name, value in self.value.items()}

    def optional(self, name: str) -> Field | None:
        """A member; None where it is absent or null."""
        found = self.members().get(name)
        return None if found is None or found.value is None else found

    def __iter__(self) -> Iterator[Field]:
        """The items of a list."""
        if not isinstance(self.value, list):
            raise self.refuse("a list")
        return (Field(value, f"{self.where} {number}") for number, value in enumerate(self.value))

    def text(self) -> str:
        if not isinstance(self.value, str):
            raise self.refuse("text")
        if not encodable(self.value):
            raise self.refuse("text", "half of a surrogate pair, which no text can carry. Remove it")
        return self.value

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high."""
        if type(self.value) is not int:
            raise self.refuse("a whole number", f"{self.value}" if isinstance(self.value, float) else "")
        if not low <= self.value <= high:
            short = repr(self.value) if abs(self.value) < 1 << 64 else "a number of many digits"
            raise self.refuse(f"a whole number from {low} to {high}", short)
        return self.value

    def yes_or_no(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.refuse("true or false")
        return self.value

    def finite(self) -> float:
        """A number that is neither NaN nor infinite."""
        if type(self.value) not in (int, float):
            raise self.refuse("a number")
        try:
            number = float(self.value)
        except OverflowError:
            raise self.refuse("a number that float32 holds", "a larger one") from None
        if not math.isfinite(number):
            raise self.refuse("a finite number", str(number))
        return number
