"""Backend "maps": attention that somebody else has taken, given as an array [layer, head, query, key].

There is no model behind it: everything that works on attention alone works, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    CAPABILITIES,
    Backend,
    BadInput,
    Floats,
    LayerCapture,
    LayerCard,
    LensTable,
    LiveRow,
    Message,
    Model,
    ModelCard,
    ModelSpec,
    Sampling,
    ShapeError,
    Tokens,
    Trace,
    Unavailable,
    Want,
    hookimpl,
)

TOLERANCE = 0.01
"""How far a row may sum from 1."""


@hookimpl
def attnviz_backends() -> list[Backend]:
    """The one backend of this file."""
    summary = "attention given as an array [layer, head, query, key], without a model"
    return [Backend(name="maps", summary=summary, handles=handles, load=load, rank=40)]


def handles(spec: ModelSpec) -> str | None:
    """None if the spec holds an array, else why this is none for it."""
    if spec.objects is None or not isinstance(spec.objects[0], np.ndarray):
        return "it shows attention that is given as an array, not a model"
    return None


def load(spec: ModelSpec) -> Model:
    """The maps behind the contract of a model; beside the array, names of the positions or None.

    Raises:
        ShapeError: other axes than [layer, head, query, key] with as many queries as keys, or another number of names.
        BadInput: weights that are no weights, with the place of the first.
    """
    assert spec.objects is not None
    maps, names = spec.objects[0], spec.objects[1] if len(spec.objects) > 1 else None
    if maps.ndim != 4 or not maps.size or maps.shape[2] != maps.shape[3]:
        raise ShapeError("Attention weights", "[layer, head, query, key], queries = keys", list(maps.shape))
    if (fault := first_fault(maps, TOLERANCE)) is not None:
        raise BadInput(f"Invalid attention weights: {fault}")
    count = maps.shape[-1]
    labels = tuple(map(str, range(count))) if names is None else tuple(names)
    if len(labels) != count:
        raise ShapeError("Names of positions", [count], [len(labels)])
    plain = np.ascontiguousarray(maps, np.float32)
    causal = count > 1 and not np.triu(np.abs(plain).max(axis=(0, 1)), 1).any()
    return GivenMaps(_card(spec.source, plain, causal), plain, labels)


def first_fault(maps: NDArray[Any], tolerance: float) -> str | None:
    """What is wrong with the first row that is no distribution over keys, with its place; None if all are."""
    sums = maps.sum(axis=-1, dtype=np.float64)  # [..., Q]
    bad = ~(np.abs(sums - 1) <= tolerance)
    if not bad.any() and not (maps.min() < 0):
        return None
    if bad.any():
        place = np.argwhere(bad)[0].tolist()
        return f"{_place(place)} sums to {sums[tuple(place)]:.4g}, expected 1 (± {tolerance:g})."
    place = np.argwhere(maps < 0)[0].tolist()
    return f"{_place(place[:-1])}, key {place[-1]}: expected a weight from 0 on, got {maps[tuple(place)]:.4g}."


def _place(place: Sequence[int]) -> str:
    """[layer, (input,) head, row] in words."""
    names = ("layer", "input", "head", "row") if len(place) == 4 else ("layer", "head", "row")
    return ", ".join(f"{name} {index}" for name, index in zip(names, place, strict=True))


def _card(name: str, maps: NDArray[np.float32], causal: bool) -> ModelCard:
    layers, heads, _, _ = maps.shape
    missing = dict.fromkeys(CAPABILITIES - {"attention"}, "Only attention was given, without a model.")
    return ModelCard(
        name=name,
        architecture="given maps",
        layers=tuple(LayerCard(index, "full", heads, heads) for index in range(layers)),
        vocabulary=maps.shape[-1],
        positions=maps.shape[-1],
        dtype="float32",
        device="cpu",
        parameters=0,
        causal=causal,
        route="none",
        route_reason="the maps were given",
        capabilities=frozenset({"attention"}),
        missing=missing,
        notes=("causal: no weight above the diagonal",) if causal else (),
        weights_digest=hashlib.sha256(maps.tobytes()).hexdigest(),
    )


@dataclass(frozen=True)
class GivenMaps:
    """maps [L, H, S, S] float32; labels S names. Token ids are the positions."""

    card: ModelCard
    maps: NDArray[np.float32]
    labels: tuple[str, ...]

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        raise BadInput("Only attention was given, without a model: there is nothing that could read a text.")

    def tokens_of(self, ids: Sequence[int], padding: Sequence[bool] | None = None) -> Tokens:
        count = len(self.labels)
        if list(ids) != list(range(count)) or (padding is not None and any(padding)):
            raise BadInput(f"Given maps are of positions 0 to {count - 1}: expected exactly these as ids, no padding.")
        nowhere = np.full((count, 2), -1, np.int64)
        return Tokens(np.arange(count), self.labels, nowhere, np.zeros(count, np.bool_), "")

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        if len(tokens) != len(self.labels):
            raise ShapeError("Tokens of given maps", [len(self.labels)], [len(tokens)])
        layers = tuple(_capture(maps, self.card.causal, want.thumbnail) for maps in self.maps)
        return Trace(layers).narrowed(want)

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        self._unavailable("logits")

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        self._unavailable("generation")

    def _unavailable(self, what: str) -> NoReturn:
        raise Unavailable(self.card.missing[what])

    def label(self, token_id: int) -> str:
        return self.labels[token_id]

    def module(self) -> Any:
        self._unavailable("interventions")


def _capture(maps: NDArray[np.float32], causal: bool, edge: int) -> LayerCapture:
    """Statistics of every row of one layer."""
    heads, count, _ = maps.shape
    entropy, distance = np.zeros((heads, count), np.float32), np.zeros((heads, count), np.float32)
    gap = np.abs(np.arange(count)[:, None] - np.arange(count)).astype(np.float32)  # [Q, K]
    for head, p in enumerate(maps):
        logs = np.log2(p, out=np.zeros_like(p), where=p > 0)
        entropy[head] = -np.einsum("qk,qk->q", p, logs)
        distance[head] = np.einsum("qk,qk->q", p, gap)
    places = np.arange(1, count + 1)
    return LayerCapture(
        q=None,
        k=None,
        scale=1.0,
        causal=causal,
        entropy=entropy,
        row_max=maps.max(axis=2),
        distance=distance,
        column_sum=maps.sum(axis=1),
        allowed=places if causal else np.full(count, count),
        seen_by=places[::-1].copy() if causal else np.full(count, count),
        thumbnail=_thumbnail(maps, edge),
        weights=maps,
    )


def _thumbnail(maps: Floats, edge: int) -> NDArray[np.uint8]:
    """[H, n, n] round(255·√max) over square cells; at most `edge` a side."""
    count = maps.shape[-1]
    starts = np.arange(0, count, max(1, -(-count // edge)))
    largest = np.maximum.reduceat(np.maximum.reduceat(maps, starts, axis=1), starts, axis=2)
    found: NDArray[np.uint8] = np.rint(255 * np.sqrt(largest.clip(0, 1))).astype(np.uint8)
    return found
