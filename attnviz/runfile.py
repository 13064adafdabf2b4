"""One run in one file: tokens, model card and everything the forward pass gave, as safetensors with a JSON header.

Arrays are stored as they are, or packed together, so what is read back is what was written, bit for bit.
Nothing in a file is executed or imported; a file that does not fit is refused in one line.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, BadInput
from attnviz.types import (
    LayerCapture,
    LayerCard,
    LensTable,
    ModelCard,
    ModelSpec,
    Reference,
    Run,
    Sampling,
    Segment,
    SelfCheck,
    Tokens,
    Trace,
    Trajectory,
    to_jsonable,
)

FORMAT = "attnviz-run-1"


LARGEST_HEADER, LARGEST_ARRAYS = 64 << 20, 1 << 30
"""Bytes that the packed parts of a file may become."""
LARGEST_DICTIONARY = 128 << 20
"""Bytes that unpacking may take beside."""


@dataclass(frozen=True)
class SavedRun:
    """A run with the card of its model and its attention; the model itself is not needed to look at it.

    lens   what the logit lens gave at some positions, or None
    about  what whoever keeps the file says of it: plain JSON
    """

    run: Run
    card: ModelCard
    trace: Trace
    lens: LensTable | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


def write_run(path: Path, saved: SavedRun) -> None:
    """Write the file. Raises OSError where it cannot be written."""
    path.write_bytes(run_bytes(saved))


def run_bytes(saved: SavedRun, *, packed: bool = False) -> bytes:
    """The content of the file of a run; `packed`: with everything compressed."""
    from safetensors.numpy import save

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
    if saved.lens is not None:
        header["lens"] = _plain_fields(saved.lens)
    arrays = _all_arrays(saved, header["run"]["tokens"])
    metadata = {"format": FORMAT, "about": json.dumps(dict(saved.about), ensure_ascii=False)}
    if packed:
        ready, how = _packed(header, arrays), {"packed": "xz"}
    else:
        ready = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        how = {"header": json.dumps(header, ensure_ascii=False)}
    return bytes(save(ready, metadata={**metadata, **how}))


def _all_arrays(saved: SavedRun, tokens: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Every array of the run under its name; those of the tokens are taken out of their header."""
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
    if saved.lens is not None:
        arrays |= {f"lens.{name}": array for name, array in _arrays(saved.lens).items()}
    return arrays


def read_about(path: Path) -> Mapping[str, Any]:
    """What is said of a run in its file; reads no array.

    Raises:
        BadInput: no such file, or not a run of this format.
    """
    return _about(path, _metadata(path))


def read_run(path: Path) -> SavedRun:
    """The run that `write_run` wrote.

    Raises:
        BadInput: no such file, not a run of this format, or parts that do not fit together.
    """
    from safetensors import SafetensorError, safe_open

    metadata = _metadata(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: expected a saved run, got: {error}.") from error
    about = _about(path, metadata)
    try:
        if "packed" in metadata:
            header, arrays = _unpacked(arrays)
        else:
            header = json.loads(metadata["header"])
        lens = _lens(header["lens"], arrays) if "lens" in header else None
        trace = _trace(header["trace"], arrays)
        return SavedRun(_run(header["run"], arrays), _card(header["card"]), trace, lens, about)
    except AttnvizError as error:
        raise BadInput(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, lzma.LZMAError) as error:
        raise BadInput(f"{path}: the saved run is damaged ({type(error).__name__}: {error}).") from error


def _metadata(path: Path) -> Mapping[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path}: expected a saved run, got: {error}.") from error
    if metadata.get("format") != FORMAT:
        raise BadInput(f"{path}: expected a file of format {FORMAT}, got {metadata.get('format')!r}.")
    return metadata


def _about(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        about = json.loads(metadata.get("about", "{}"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: the saved run is damaged (what is said of it is no JSON).") from error
    if not isinstance(about, dict):
        raise BadInput(f"{path}: the saved run is damaged (what is said of it is no object).")
    return about


# --------------------------------------------------------------------------------------------- parts


def _packed(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Header and arrays, compressed; of an array the first bytes of all numbers, then the second ones, and so on."""
    places = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    text = json.dumps({**header, "arrays": places}, ensure_ascii=False).encode()
    flat = [np.ascontiguousarray(array).reshape(-1) for array in arrays.values()]
    by_place = [a.view(np.uint8).reshape(a.size, a.itemsize).T.tobytes() for a in flat]
    parts = {"header": text, "arrays": b"".join(by_place)}
    return {name: np.frombuffer(lzma.compress(part), np.uint8) for name, part in parts.items()}


def _unpacked(packed: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What `_packed` made these of. Raises BadInput for what is too large or does not fit."""
    header: dict[str, Any] = json.loads(_unpacked_bytes(packed["header"], LARGEST_HEADER))
    raw = _unpacked_bytes(packed["arrays"], LARGEST_ARRAYS)
    arrays: dict[str, NDArray[Any]] = {}
    place = 0
    for name, (text, shape) in header["arrays"].items():
        dtype = np.dtype(text)
        count = math.prod(int(n) for n in shape)
        stop = place + count * dtype.itemsize
        if dtype.kind not in "biuf" or count < 0 or stop > len(raw):
            raise BadInput(
                f"{name}: expected numbers for shape {list(shape)}, got {len(raw) - place} bytes of {text!r}."
            )
        by_place = np.frombuffer(raw[place:stop], np.uint8).reshape(dtype.itemsize, count)
        arrays[name] = np.ascontiguousarray(by_place.T).reshape(-1).view(dtype).reshape(shape)
        place = stop
    return header, arrays


def _unpacked_bytes(packed: NDArray[Any], limit: int) -> bytes:
    raw = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST_DICTIONARY).decompress(packed.tobytes(), limit + 1)
    if len(raw) > limit:
        raise BadInput(f"Expected at most {limit:,} bytes unpacked, got more.")
    return raw


def _arrays(part: LayerCapture | LensTable) -> dict[str, NDArray[Any]]:
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _plain_fields(part: LayerCapture | LensTable) -> dict[str, Any]:
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
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


def _lens(plain: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> LensTable:
    own = {name.removeprefix("lens."): array for name, array in arrays.items() if name.startswith("lens.")}
    given: dict[str, Any] = {**plain, **own}
    for name in ("sites", "info", "warnings"):
        given[name] = tuple(plain[name])
    measured: dict[str, Any] = {
        name: math.nan if value is None else value for name, value in plain["self_check"].items()
    }
    given["self_check"] = SelfCheck(**measured)
    given["labels"] = {int(index): label for index, label in plain["labels"].items()}
    return LensTable(**given)
