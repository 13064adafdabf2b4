"""The options --array and --reference of a run: numbers from a file, which of them the model reads, what is usual."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.errors import BadInput
from attnviz.hooks import PredictsNumbers
from attnviz.series import check_names, reference_windows
from attnviz.types import Reference

if TYPE_CHECKING:
    from attnviz.session import LoadedModel


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Options that say which part of a file of sensor data is read."""
    parser.add_argument("--window", help="rows of a series that the model reads: first, last or START:STOP")
    parser.add_argument("--item", type=int, metavar="N", help="which series of a batch, from 0")
    parser.add_argument("--keep-constant", action="store_true", help="read sensors that never change too")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="sensor data that say what is usual, read in windows; may be that of --array",
    )


def refuse_without_array(options: argparse.Namespace) -> None:
    """Raises BadInput where there are choices and nothing to choose from."""
    given = {
        "--window": options.window,
        "--item": options.item,
        "--keep-constant": options.keep_constant or None,
        "--reference": options.reference,
    }
    alone = [name for name, value in given.items() if value is not None]
    if alone and options.array is None:
        raise BadInput(f"{alone[0]}: expected together with --array, got no array.")


def of_array(model: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    """What `trace` takes of the files of --array and --reference; see `read_array` and `_reference`."""
    choices = {"window": options.window, "item": options.item, "keep_constant": options.keep_constant}
    given = read_array(model, Path(options.array), **choices)
    return given if options.reference is None else {**given, "reference": _reference(model, given, options)}


def read_array(
    model: LoadedModel, file: Path, *, window: str | None, item: int | None, keep_constant: bool
) -> dict[str, Any]:
    """What `trace` takes: sensor data with names and times for a model that reads series, else the numbers as they are.

    Raises:
        BadInput: a file that cannot be used, or a choice that this model or file does not have.
    """
    if "sensors" in model.card.capabilities:
        data = model.session.read_sensors(file, keep_constant=keep_constant)
        return {**data.of(item), "window": window}
    if item is not None or window is not None or keep_constant:
        raise BadInput(f"--window, --item, --keep-constant: {model.name} reads no series of sensors. Leave them out.")
    found = model.session.registry.formats.get("numbers")
    if found is None or found.read is None:
        raise BadInput("--array needs the format plugin 'numbers', which is not loaded.")
    return dict(found.read(file))


def _reference(model: LoadedModel, given: dict[str, Any], options: argparse.Namespace) -> Reference:
    """Windows of the second file, as long as what the model reads of the first.

    Raises:
        BadInput: other columns than the first file has, too few rows, or a model that reads no series [time, sensor].
    """
    if "sensors" not in model.card.capabilities:
        raise BadInput(f"--reference: {model.name} reads no series of sensors. Leave it out.")
    data = model.session.read_sensors(options.reference, keep_constant=options.keep_constant)
    columns = given["array"].shape[-1]
    if data.names and given["names"]:
        check_names(data.names, columns, given["names"])
    elif data.array.shape[-1] != columns:
        raise BadInput(f"--reference: expected {columns} columns, as the array has, got {data.array.shape[-1]}.")
    tokens = model.tokenize(**given)
    if tokens.values is None or tokens.values.ndim != 2 or tokens.values.shape[1] != columns:
        raise BadInput(f"--reference: {model.name} reads more than [time, sensor]. Leave it out.")
    loaded = model.session.model(model.spec)
    series = loaded.series(tokens) if isinstance(loaded, PredictsNumbers) else None
    next_rows = series is not None and series.outputs == tuple(f"next {name}" for name in series.sensors)
    return reference_windows(data, len(tokens.values), next_rows)
