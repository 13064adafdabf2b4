"""Arrays for models that read numbers: .npy as it is, .csv as [time, channel] with an optional row of names.

CSV: cells separated by commas, a point for decimals, one row per time step. The first row holds names if none of its
cells is a number.
"""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import BadInput, Format, hookimpl

MAX_BYTES = 256 << 20


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """{"array": numbers, "names": of the channels, or None}.

    Raises:
        BadInput: it cannot be read, is too large, or holds something other than numbers, with its row and column.
    """
    file = Path(path)
    if file.suffix.lower() not in (".npy", ".csv"):
        raise BadInput(f"{file.name}: expected a file ending in .npy or .csv.")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadInput(f"{file.name}: expected at most {MAX_BYTES >> 20} MiB, got more.")
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)  # what is no plain file has no size before it is read
    except OSError as error:
        raise BadInput(f"{file.name}: cannot be read: {error.strerror or error}.") from None
    if len(raw) > MAX_BYTES:
        raise BadInput(f"{file.name}: expected at most {MAX_BYTES >> 20} MiB, got more.")
    if file.suffix.lower() == ".npy":
        return {"array": _npy(raw, file.name), "names": None}
    return _csv(raw, file.name)


def _npy(raw: bytes, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise BadInput(f"{name}: expected an array as numpy.save writes it: {' '.join(str(error).split())}.") from None
    if array.dtype.kind not in "fiu":
        raise BadInput(f"{name}: expected an array of numbers, got one of {array.dtype}.")
    if not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0].tolist()
        raise BadInput(f"{name}: expected finite numbers, got {array[tuple(place)]} at {place}.")
    return array


def _csv(raw: bytes, name: str) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: expected UTF-8 text, got other bytes at {error.start}.") from None
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise BadInput(f"{name}: expected rows of numbers separated by commas: {error}.") from None
    names = None
    if rows and not any(_is_number(cell) for cell in rows[0]):
        names = _names(rows[0], name)
    first = 0 if names is None else 1
    if len(rows) == first:
        raise BadInput(f"{name}: expected rows of numbers, got none.")
    numbers = [_numbers(row, number, names, len(rows[0]), name) for number, row in enumerate(rows[first:], first + 1)]
    return {"array": np.array(numbers, np.float64), "names": names}


def _names(row: list[str], name: str) -> tuple[str, ...]:
    names = tuple(cell.strip() for cell in row)
    if not all(names):
        raise BadInput(f"{name}, row 1: column {names.index('') + 1} is neither a number nor a name.")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise BadInput(f"{name}, row 1: expected a name of its own for each column, got {twice!r} twice.")
    return names


def _numbers(row: list[str], number: int, names: tuple[str, ...] | None, width: int, name: str) -> list[float]:
    """The numbers of one row; rows are counted from 1, names included and empty lines not."""
    if len(row) != width:
        raise BadInput(f"{name}, row {number}: expected {width} cells as in the first row, got {len(row)}.")
    for column, cell in enumerate(row):
        if not _is_number(cell) or not math.isfinite(float(cell)):
            where = f"column {column + 1}" + ("" if names is None else f" ({names[column]})")
            raise BadInput(f"{name}, row {number}, {where}: expected a finite number, got {cell[:40]!r}.")
    return [float(cell) for cell in row]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python's own way of writing 1_000


@hookimpl
def attnviz_formats() -> list[Format]:
    """Arrays of numbers."""
    summary = "Numbers for models that read them: .npy, or .csv of [time, channel]."
    return [Format(name="numbers", summary=summary, content="numbers", suffixes=(".npy", ".csv"), read=read)]
