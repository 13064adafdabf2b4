"""Sensor data: .csv as [time, sensor] under a row of names, .npy as [time, sensor] or [batch, time, sensor].

CSV: UTF-8, cells separated by commas, a point for decimals, one row per time step. The first row holds names if none of
its cells is a number. A first column called time, timestamp, timestep, step, date, datetime or t holds the time of each
row, as numbers or in ISO 8601, from earlier to later. Rows are counted as lines of the file, from 1.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
from array import array as numbers_of
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import BadInput, Format, Param, SensorData, hookimpl

MAX_BYTES = 64 << 20
TIMES = ("time", "timestamp", "timestep", "step", "date", "datetime", "t")
"""Names of a first column that holds times."""


def read(path: str | os.PathLike[str], *, keep_constant: bool = False) -> SensorData:
    """The series in a file.

    Args:
        keep_constant: sensors that never change are read too; otherwise they are refused by name.

    Raises:
        BadInput: it cannot be read, is larger than 64 MiB (told without reading it), or holds something other than
            finite numbers, with row and column, what was expected and what came.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in (".npy", ".csv"):
        raise BadInput(f"{file.name}: expected a file ending in .csv or .npy.")
    raw = _bytes(file)
    data = SensorData(_npy(raw, file.name)) if suffix == ".npy" else _csv(raw, file.name)
    if not keep_constant:
        _refuse_constant(data, file.name)
    return data


def _bytes(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise BadInput(f"{file.name}: expected at most {MAX_BYTES >> 20} MiB, got {size / 2**20:.0f}: cut it.")
        with file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)  # what is no plain file has no size before it is read
    except OSError as error:
        raise BadInput(f"{file.name}: cannot be read: {error.strerror or error}.") from None
    if len(raw) > MAX_BYTES:
        raise BadInput(f"{file.name}: expected at most {MAX_BYTES >> 20} MiB, got more: cut it.")
    return raw


def _refuse_constant(data: SensorData, name: str) -> None:
    """A sensor that never changes tells nothing apart, and most often is one that failed."""
    flat = data.array.reshape(-1, data.array.shape[-1])
    for column in range(flat.shape[1] if len(flat) > 1 else 0):
        if (flat[:, column] == flat[0, column]).all():
            who = f"column {column + 1 + bool(data.times)}" + (f" ({data.names[column]})" if data.names else "")
            raise BadInput(
                f"{name}, {who}: expected a sensor that changes, got {flat[0, column]:g} in all {len(flat)} rows: leave"
                " it out, or keep it by keep_constant=True (--keep-constant)."
            )


# --------------------------------------------------------------------------------------------- npy


def _npy(raw: bytes, name: str) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise BadInput(f"{name}: expected an array as numpy.save writes it: {' '.join(str(error).split())}.") from None
    if found.dtype.kind not in "fiu":
        raise BadInput(f"{name}: expected an array of numbers, got one of {found.dtype}.")
    if found.ndim not in (2, 3) or not found.size:
        expected = "[time, sensor] or [batch, time, sensor], none of them 0"
        raise BadInput(f"{name}: expected an array {expected}, got one of shape {list(found.shape)}.")
    if not np.isfinite(found).all():
        place = np.argwhere(~np.isfinite(found))[0].tolist()
        axes = ", ".join(
            f"{axis} {index}" for axis, index in zip(("item", "row", "column")[-found.ndim :], place, strict=True)
        )
        raise BadInput(f"{name}, {axes} (from 0): expected a finite number, got {found[tuple(place)]}.")
    return found


# --------------------------------------------------------------------------------------------- csv


def _csv(raw: bytes, name: str) -> SensorData:
    rows = _rows(raw, name)
    first = next(rows, None)
    if first is None:
        raise BadInput(f"{name}: expected a row of names and rows of numbers, got an empty file.")
    number, cells = first
    if any(_is_number(cell) for cell in cells):
        header: tuple[str, ...] = ()
        rows = itertools.chain([first], rows)
    else:
        header = _names(cells, number, name)
    timed = bool(header) and header[0].lower() in TIMES
    if timed and len(header) == 1:
        raise BadInput(f"{name}, row {number}: expected names of sensors behind {header[0]!r}, got none.")
    values, times, count = numbers_of("d"), list[str](), 0
    for number, cells in rows:
        if len(cells) != (len(header) or len(first[1])):
            expected = f"{len(header) or len(first[1])} cells as in the first row"
            raise BadInput(f"{name}, row {number}: expected {expected}, got {len(cells)}.")
        if timed:
            times.append(_time(cells[0], times, number, header[0], name))
        values.extend(_numbers(cells[timed:], number, header, timed, name))
        count += 1
    if not count:
        raise BadInput(f"{name}: expected rows of numbers, got none.")
    return SensorData(np.array(values, np.float64).reshape(count, -1), header[timed:], tuple(times))


def _rows(raw: bytes, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every row that is not empty."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{name}, row {line}: expected UTF-8 text, got the byte {raw[error.start]:#04x}: save it as UTF-8."
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise BadInput(f"{name}, row {reader.line_num}: expected cells separated by commas: {error}.") from None


def _names(cells: list[str], number: int, name: str) -> tuple[str, ...]:
    found = tuple(cell.strip() for cell in cells)
    if len(found) == 1 and any(mark in found[0] for mark in ";\t"):
        raise BadInput(f"{name}, row {number}: expected cells separated by commas, got {found[0][:60]!r}.")
    if not all(found):
        raise BadInput(f"{name}, row {number}, column {found.index('') + 1}: expected a name, got an empty cell.")
    twice = next((column for column in found if found.count(column) > 1), None)
    if twice is not None:
        raise BadInput(f"{name}, row {number}: expected a name of its own for each column, got {twice[:60]!r} twice.")
    return found


def _numbers(cells: list[str], number: int, header: tuple[str, ...], before: int, name: str) -> list[float]:
    """The numbers of one row; before: how many columns come before the first sensor."""
    for column, cell in enumerate(cells, before):
        if not _is_number(cell) or not math.isfinite(float(cell)):
            where = f"column {column + 1}" + (f" ({header[column]})" if header else "")
            raise BadInput(f"{name}, row {number}, {where}: expected a finite number, got {cell[:40]!r}.")
    return [float(cell) for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python's own way of writing 1_000


def _time(cell: str, before: list[str], number: int, column: str, name: str) -> str:
    """The time of a row as it is written. Raises BadInput unless it comes after that of the row before."""
    text = cell.strip()
    where = f"{name}, row {number}, column 1 ({column})"
    now = _moment(text)
    if now is None:
        raise BadInput(f"{where}: expected a number or a time such as 2026-01-31 08:00, got {cell[:40]!r}.")
    if before:
        last = _moment(before[-1])
        if type(last) is not type(now) or not last < now:  # type: ignore[operator]  # of one type
            raise BadInput(f"{where}: expected a time after {before[-1]!r}, got {cell[:40]!r}.")
    return text


def _moment(text: str) -> float | datetime | None:
    if _is_number(text):
        return float(text) if math.isfinite(float(text)) else None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


@hookimpl
def attnviz_formats() -> list[Format]:
    """Series of sensor values."""
    keep = Param("keep_constant", "bool", False, help="read sensors that never change too")
    summary = "Sensor data: .csv of [time, sensor] with names and times, .npy of [time, sensor] or a batch of them."
    return [Format("sensor_data", summary, "sensor_data", (".csv", ".npy"), read=read, params=(keep,))]
