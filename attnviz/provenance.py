"""One hash that says what a result is of: model, weights, input, analysis, parameters, versions, and its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.types import ModelCard, Reference, Result, Run, Tokens, Trace, to_jsonable

LIBRARIES = ("attnviz", "numpy", "torch", "transformers")


@lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Version of every library a number depends on ("source" where it runs from a checkout)."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found


def provenance(run: Run, card: ModelCard, analysis: str, params: Mapping[str, Any], result: Result) -> str:
    """SHA-256, hex: a canonical JSON header, then each array's name, dtype, shape and little-endian C-order bytes.

    Independent of how numpy prints and of the machine's byte order: the same numbers from the same versions give the
    same hash.
    """
    return _digest(_header(run, card, analysis, params), _arrays(result))


def run_provenance(run: Run, card: ModelCard, trace: Trace) -> str:
    """The same of a whole run: its header, then the statistics of every layer of its attention."""
    statistics = ("entropy", "row_max", "distance", "column_sum")
    layers = [(index, layer) for index, layer in enumerate(trace.layers) if layer is not None]
    arrays = ((f"{index}.{name}", getattr(layer, name)) for index, layer in layers for name in statistics)
    return _digest(_header(run, card, "run", {"generated_from": run.generated_from}), arrays)


def _header(run: Run, card: ModelCard, analysis: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": run.model,
        "revision": run.spec.revision,
        "weights": card.weights_digest,
        "backend": run.spec.backend,
        "dtype": card.dtype,
        "attention": card.route,
        "ids": hashlib.sha256(_bytes(run.tokens.ids)).hexdigest(),
        **_beside_ids(run.tokens),
        "analysis": analysis,
        "params": to_jsonable(params),
        "versions": versions(),
    }


def _digest(header: Mapping[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode())
    for name, array in arrays:
        digest.update(json.dumps([name, array.dtype.newbyteorder("<").str, list(array.shape)]).encode())
        digest.update(_bytes(array))
    return digest.hexdigest()


def array_digest(array: NDArray[Any]) -> bytes:
    """SHA-256 over dtype, shape and little-endian C-order bytes."""
    head = json.dumps([array.dtype.newbyteorder("<").str, list(array.shape)]).encode()
    return hashlib.sha256(head + _bytes(array)).digest()


def reference_digest(reference: Reference) -> bytes:
    """SHA-256 over the inputs, and the outcomes where they are known."""
    outcomes = b"" if reference.outcomes is None else array_digest(reference.outcomes)
    return hashlib.sha256(array_digest(reference.inputs) + outcomes).digest()


def _beside_ids(tokens: Tokens) -> dict[str, Any]:
    """What else decides what the model reads; empty for a plain text."""
    found: dict[str, Any] = {}
    if tokens.values is not None:
        found["values"] = array_digest(tokens.values).hex()
    if tokens.reference is not None:
        found["reference"] = reference_digest(tokens.reference).hex()
    if tokens.padding is not None:
        found["padding"] = array_digest(tokens.padding).hex()
    if tokens.decoder_from is not None:
        found["decoder_from"] = tokens.decoder_from
    return found


def _arrays(result: Result) -> Iterator[tuple[str, NDArray[Any]]]:
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, np.ndarray):
            yield field.name, value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                if isinstance(item, np.ndarray):
                    yield f"{field.name}.{key}", item


def _bytes(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
