"""One run in one file: tokens, model card and everything the forward pass gave, as safetensors with a JSON header.

Arrays are stored as they are, so what is read back is what was written, bit for bit. Nothing in a file is executed or
imported; a file that does not fit is refused in one line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, BadInput
from attnviz.types import (
    LayerCapture,
    LayerCard,
    ModelCard,
    ModelSpec,
    Reference,
    Run,
    Sampling,
    Segment,
    Tokens,
    Trace,
    Trajectory,
    to_jsonable,
)

FORMAT = "attnviz-run-1"


@dataclass(frozen=True)
class SavedRun:
    """A run with the card of its model and its attention; the model itself is not needed to look at it."""

    run: Run
    card: ModelCard
    trace: Trace


def write_run(path: Path, saved: SavedRun) -> None:
    """Write the file. Raises OSError where it cannot be written."""
    from safetensors.numpy import save_file

    header: dict[str, Any] = {
        "run": to_jsonable(dataclasses.replace(saved.run, spec=dataclasses.replace(saved.run.spec, objects=None))),
        "card": to_jsonable(saved.card),
        "trace": {
            "missing": to_jsonable(saved.trace.missing),
            "precision": saved.trace.precision,
            "seconds": saved.trace.seconds,
            "layers": [None if layer is None else _plain_fields(layer) for layer in saved.trace.layers],
        },
    }
    tokens = header["run"]["tokens"]
    arrays = {f"tokens.{name}": np.asarray(getattr(saved.run.tokens, name)) for name in ("ids", "offsets", "special")}
    for name in ("ids", "offsets", "special", "values", "padding", "reference"):
        del tokens[name]
    reference = saved.run.tokens.reference
    if reference is not None:
        arrays["tokens.reference.inputs"] = np.asarray(reference.inputs)
        if reference.outcomes is not None:
            arrays["tokens.reference.outcomes"] = np.asarray(reference.outcomes)
    if saved.run.tokens.padding is not None:
        arrays["tokens.padding"] = np.asarray(saved.run.tokens.padding)
    if saved.run.tokens.values is not None:
        arrays["tokens.values"] = np.asarray(saved.run.tokens.values)
    for index, layer in enumerate(saved.trace.layers):
        if layer is not None:
            arrays |= {f"layers.{index}.{name}": array for name, array in _arrays(layer).items()}
    ready = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(ready, str(path), metadata={"format": FORMAT, "header": json.dumps(header, ensure_ascii=False)})


def read_run(path: Path) -> SavedRun:
    """The run that `write_run` wrote.

    Raises:
        BadInput: no such file, not a run of this format, or parts that do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: expected a saved run, got: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise BadInput(f"{path}: expected a file of format {FORMAT}, got {metadata.get('format')!r}.")
    try:
        header = json.loads(metadata["header"])
        return SavedRun(_run(header["run"], arrays), _card(header["card"]), _trace(header["trace"], arrays))
    except AttnvizError as error:
        raise BadInput(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path}: the saved run is damaged ({type(error).__name__}: {error}).") from error


# --------------------------------------------------------------------------------------------- parts


def _arrays(layer: LayerCapture) -> dict[str, NDArray[Any]]:
    values = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _plain_fields(layer: LayerCapture) -> dict[str, Any]:
    values = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
    return {name: to_jsonable(v) for name, v in values.items() if v is not None and not isinstance(v, np.ndarray)}


def _run(data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Run:
    tokens = data["tokens"]
    sampling = data["sampling"]
    return Run(
        id=data["id"],
        spec=ModelSpec(**{**data["spec"], "objects": None}),
        model=data["model"],
        tokens=Tokens(
            ids=arrays["tokens.ids"],
            labels=tuple(tokens["labels"]),
            offsets=arrays["tokens.offsets"],
            special=arrays["tokens.special"],
            text=tokens["text"],
            segments=tuple(Segment(**segment) for segment in tokens["segments"]),
            values=arrays.get("tokens.values"),
            decoder_from=tokens.get("decoder_from"),
            padding=arrays.get("tokens.padding"),
            reference=_reference(arrays),
            axis=tokens.get("axis", ""),
            columns=tuple(tokens.get("columns", ())),
        ),
        generated_from=data["generated_from"],
        sampling=None if sampling is None else Sampling(**{**sampling, "stop": tuple(sampling.get("stop", ()))}),
        category=data["category"],
        ended=data.get("ended", ""),
        trajectory=None if data.get("trajectory") is None else Trajectory.from_jsonable(data["trajectory"]),
    )


def _reference(arrays: Mapping[str, NDArray[Any]]) -> Reference | None:
    inputs = arrays.get("tokens.reference.inputs")
    return None if inputs is None else Reference(inputs, arrays.get("tokens.reference.outcomes"))


def _card(data: Mapping[str, Any]) -> ModelCard:
    given = dict(data)
    given["layers"] = tuple(LayerCard(**layer) for layer in data["layers"])
    given["capabilities"] = frozenset(data["capabilities"])
    given["notes"] = tuple(data["notes"])
    given["ends"] = tuple(data.get("ends", ()))
    return ModelCard(**given)


def _trace(data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Trace:
    layers: list[LayerCapture | None] = []
    for index, plain in enumerate(data["layers"]):
        prefix = f"layers.{index}."
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        optional = {"q": None, "k": None}
        spans = {name: tuple(plain[name]) for name in ("queries", "keys") if plain and name in plain}
        layers.append(None if plain is None else LayerCapture(**{**optional, **plain, **own, **spans}))
    missing = {int(index): reason for index, reason in data["missing"].items()}
    return Trace(tuple(layers), missing, data["precision"], data["seconds"])
