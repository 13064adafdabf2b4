"""The option --array of a run: numbers from a file, and which of them the model reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.errors import BadInput

if TYPE_CHECKING:
    from attnviz.session import LoadedModel


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Options that say which part of a file of sensor data is read."""
    parser.add_argument("--window", help="rows of a series that the model reads: first, last or START:STOP")
    parser.add_argument("--item", type=int, metavar="N", help="which series of a batch, from 0")
    parser.add_argument("--keep-constant", action="store_true", help="read sensors that never change too")


def refuse_without_array(options: argparse.Namespace) -> None:
    """Raises BadInput where there are choices and nothing to choose from."""
    given = {"--window": options.window, "--item": options.item, "--keep-constant": options.keep_constant or None}
    alone = [name for name, value in given.items() if value is not None]
    if alone and options.array is None:
        raise BadInput(f"{alone[0]}: expected together with --array, got no array.")


def of_array(model: LoadedModel, options: argparse.Namespace) -> dict[str, Any]:
    """What `trace` takes of the file of --array; see `read_array`."""
    choices = {"window": options.window, "item": options.item, "keep_constant": options.keep_constant}
    return read_array(model, Path(options.array), **choices)


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
