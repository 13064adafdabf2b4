"""The prompts of a benchmark: a CSV file, or the built-in set."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attnviz.errors import BadInput

BUILTIN = Path(__file__).parent / "prompts.csv"
MAX_BYTES = 64 << 20
WHOLE, SYSTEM, USER, CATEGORY = "full_prompt", "system_instruction", "user_request", "category"


@dataclass(frozen=True)
class Prompt:
    """One prompt. `id`: the number of its row, from 1; `system`: an instruction of its own before the text, or ""."""

    id: int
    text: str
    system: str = ""
    category: str = ""

    @property
    def plain(self) -> str:
        """As one text: the instruction, an empty line, the request."""
        return f"{self.system}\n\n{self.text}" if self.system else self.text

    @property
    def messages(self) -> list[dict[str, str]]:
        """As a conversation."""
        before = [{"role": "system", "content": self.system}] if self.system else []
        return [*before, {"role": "user", "content": self.text}]


def read_prompts(path: Path | None = None, limit: int | None = None) -> tuple[Prompt, ...]:
    """The prompts of a CSV file with a header; the built-in set for None.

    The column `full_prompt` if there is one; else `system_instruction` and `user_request`, if both are there; else the
    first column that is not all numbers. `category` is kept where there is one.

    Args:
        limit: only the first so many.

    Raises:
        BadInput: no such file, no CSV of at most 64 MiB in UTF-8, no column of text, a row without a prompt.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"--limit: expected a number of prompts from 1, got {limit}.")
    place = BUILTIN if path is None else path
    header, rows = _table(place)
    system, text = _columns(place.name, header, rows)
    category = header.index(CATEGORY) if CATEGORY in header else None
    prompts = []
    for number, row in enumerate(rows[:limit], 1):
        if not row[text].strip():
            raise BadInput(f"{place.name}, row {number}: expected a prompt in {header[text]!r:.60}, got nothing.")
        about = "" if category is None else row[category].strip()
        prompts.append(Prompt(number, row[text], "" if system is None else row[system].strip(), about))
    return tuple(prompts)


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, every row as long as the header; rows without any text are left out."""
    name = path.name
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        with _long_cells():
            table = [row for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise BadInput(f"{name}: expected CSV, got a broken line {reader.line_num} ({error}).") from None
    if len(table) < 2:
        raise BadInput(f"{name}: expected a header and at least one row of prompts, got {len(table)} rows.")
    header = [cell.strip() for cell in table[0]]
    if twice := [column for column in header if column and header.count(column) > 1]:
        raise BadInput(f"{name}: the column {twice[0]!r:.60} stands twice in the header. Rename one.")
    for number, row in enumerate(table[1:], 1):
        if len(row) != len(header):
            raise BadInput(f"{name}, row {number}: expected {len(header)} cells as in the header, got {len(row)}.")
    return header, table[1:]


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise BadInput(f"{path.name}: expected at most {MAX_BYTES >> 20} MiB of prompts. Split the file.")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path.name}: expected UTF-8 text, byte {error.start} is not.") from None


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells of more than 128 KiB, less than a long document."""
    before = csv.field_size_limit(MAX_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _columns(name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int | None, int]:
    """Which column holds the instruction (None = none does), and which the prompt."""
    if WHOLE in header:
        return None, header.index(WHOLE)
    if SYSTEM in header and USER in header:
        return header.index(SYSTEM), header.index(USER)
    for column in range(len(header)):
        if not all(_is_number(row[column]) for row in rows):
            return None, column
    raise BadInput(f"{name}: expected a column {WHOLE}, or {SYSTEM} and {USER}, or one of text; all are numbers.")


def _is_number(cell: str) -> bool:
    """Whether a cell holds a number, or nothing."""
    try:
        float(cell or "0")
    except ValueError:
        return False
    return True
