"""What is kept of a run in few bytes, and the stand-in for its model while that is not at hand.

Kept are the exact tokens, the card of the model, the statistics of every row to 0.2 %, small pictures of the heads, and
the logit lens of the answer. Maps, gradients and everything else come back by running the model over the same tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import Unavailable
from attnviz.hooks import (
    LayerCapture,
    LensTable,
    LiveRow,
    Message,
    Model,
    ModelCard,
    Run,
    Sampling,
    Tokens,
    Trace,
    Want,
)
from attnviz.runfile import SavedRun

THUMBNAIL = 32
"""Edge of the pictures of heads that are kept."""
LENS_POSITIONS = 64
LENS_TOP = 5
KEPT_BITS = 9
"""Of statistics and of the lens: rounding changes them by at most 1 in 512. What is shorter packs better."""
LARGEST = 60_000.0
"""Numbers up to this are kept in float16, which ends at 65 504."""
NO_BACKEND = "none"
"""Backend of a run that was read from a file and never had a model here."""
NO_MAPS = "Of this saved run the maps were not kept, and its model is not at hand to compute them again"
_STATISTICS = ("entropy", "row_max", "distance", "column_sum")
_NEEDED_FOR_LENS = ("hidden_states", "logits")


# --------------------------------------------------------------------------------------------- what is kept


def compact(saved: SavedRun) -> SavedRun:
    """The run without what its model can compute again."""
    layers = tuple(None if layer is None else _compact_layer(layer) for layer in saved.trace.layers)
    precision = f"{saved.trace.precision}, kept to 0.2 %"
    trace = dataclasses.replace(saved.trace, layers=layers, precision=precision)
    lens = None if saved.lens is None else _small(saved.lens)
    return dataclasses.replace(saved, trace=trace, lens=lens)


def _compact_layer(layer: LayerCapture) -> LayerCapture:
    few: dict[str, Any] = {name: _half(getattr(layer, name)) for name in _STATISTICS}
    gone: dict[str, Any] = dict.fromkeys(
        ("q", "k", "weights", "visible", "bias", "top_weights", "top_keys", "value_norm")
    )
    absent = {"q": NO_MAPS}
    return dataclasses.replace(layer, **few, **gone, thumbnail=smaller(layer.thumbnail), absent=absent)


def _small(lens: LensTable) -> LensTable:
    arrays = {f.name: getattr(lens, f.name) for f in dataclasses.fields(lens)}
    few: dict[str, Any] = {
        name: _half(array) if array.dtype.kind == "f" else array.astype(np.int32)
        for name, array in arrays.items()
        if isinstance(array, np.ndarray)
    }
    return dataclasses.replace(lens, **few)


def _half(array: NDArray[Any]) -> NDArray[Any]:
    """Numbers with KEPT_BITS significant bits, in float16 where that can hold them, else in float32."""
    fraction, power = np.frexp(array.astype(np.float64))  # fraction in ±[0.5, 1)
    rounded = np.ldexp(np.round(np.ldexp(fraction, KEPT_BITS)), power - KEPT_BITS)
    largest = np.max(np.abs(rounded), where=np.isfinite(rounded), initial=0)
    kept: NDArray[Any] = rounded.astype(np.float16 if largest <= LARGEST else np.float32)
    return kept


def smaller(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, n, m] pictures as the largest of square blocks, so many that no edge is longer than THUMBNAIL."""
    heads, rows, columns = thumbnail.shape
    edge = math.ceil(max(rows, columns, 1) / THUMBNAIL)
    if edge == 1:
        return thumbnail
    n, m = math.ceil(rows / edge), math.ceil(columns / edge)
    whole = np.zeros((heads, n * edge, m * edge), np.uint8)  # what sticks out is empty, and never the largest
    whole[:, :rows, :columns] = thumbnail
    pooled: NDArray[np.uint8] = whole.reshape(heads, n, edge, m, edge).max(axis=(2, 4))
    return pooled


def lens_of(model: Model, run: Run) -> LensTable | None:
    """The logit lens of the answer, with the position before it; of a run without one, of its end."""
    card, tokens = model.card, run.tokens
    if not card.capabilities >= set(_NEEDED_FOR_LENS):
        return None
    positions = lens_positions(run)
    targets = [int(tokens.ids[p + 1]) if p + 1 < len(tokens) else -1 for p in positions]
    try:
        return model.lens(tokens, positions=positions, top_k=LENS_TOP, targets=targets, sites="blocks")
    except Unavailable:  # the logit lens of this run says why
        return None


def lens_positions(run: Run) -> list[int]:
    """At most LENS_POSITIONS, the ones that the logit lens shows unless other ones are asked for."""
    count, start = len(run.tokens), run.tokens.decoder_from or 0
    first = max(start, count - LENS_POSITIONS)
    if run.generated_from is not None and count - start > LENS_POSITIONS:
        first = min(max(run.generated_from - 1, start), count - 1)
    return list(range(first, min(count, first + LENS_POSITIONS)))


# --------------------------------------------------------------------------------------------- without the model


class KeptModel:
    """Answers for the model of a saved run with what was kept, and says for the rest why it is not there."""

    def __init__(self, saved: SavedRun, reason: str) -> None:
        self.reason = reason
        self.tokens = saved.run.tokens
        self._trace = _widened(saved.trace)
        self._lens = saved.lens
        self._labels = {} if saved.lens is None else dict(saved.lens.labels)
        self._labels |= dict(zip(self.tokens.ids.tolist(), self.tokens.labels, strict=True))
        self.card = _card_without_model(saved, reason)

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        """What was kept of the forward pass.

        Raises:
            Unavailable: it was not kept.
        """
        if want.values or want.top_k or not np.array_equal(tokens.ids, self.tokens.ids):
            self._refuse("What this needs of the forward pass was not kept")
        return self._trace.narrowed(want)

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        """The kept logit lens at some of its positions.

        Raises:
            Unavailable: other positions, targets or sites, or more tokens than were kept.
        """
        kept = self._lens
        if kept is None:
            self._refuse("The logit lens was not kept")
        places = {int(position): index for index, position in enumerate(kept.positions)}
        chosen = [places[p] for p in positions if p in places]
        fits = len(chosen) == len(positions) and top_k <= kept.top_ids.shape[2] and sites == "blocks"
        if not fits or list(targets) != kept.target_ids[chosen].tolist():
            self._refuse(
                f"Kept is the logit lens after each block, at positions {min(places)} to {max(places)}, the top "
                f"{kept.top_ids.shape[2]} and the next token of the run"
            )
        return _lens_at(kept, chosen, top_k)

    def label(self, token_id: int) -> str:
        """Text of one id, where it was kept."""
        if token_id not in self._labels:
            self._refuse(f"The text of id {token_id} was not kept")
        return self._labels[token_id]

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        """Raises Unavailable."""
        self._refuse("The tokenizer is not at hand")

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        """Raises Unavailable."""
        self._refuse("Nothing can be generated")

    def module(self) -> Any:
        """Raises Unavailable."""
        self._refuse("There is no module")

    def _refuse(self, what: str) -> NoReturn:
        raise Unavailable(f"{what}. {self.reason}")


def _card_without_model(saved: SavedRun, reason: str) -> ModelCard:
    kept = {"attention"} & saved.card.capabilities
    if saved.lens is not None:
        kept |= set(_NEEDED_FOR_LENS)
    gone = dict.fromkeys(sorted(saved.card.capabilities - kept), reason)
    note = f"This is a saved run without its model. {reason}"
    return dataclasses.replace(
        saved.card,
        capabilities=frozenset(kept),
        missing={**saved.card.missing, **gone},
        notes=(note, *saved.card.notes),
    )


def _widened(trace: Trace) -> Trace:
    """Statistics in float32 again, to compute with."""

    def wide(layer: LayerCapture) -> LayerCapture:
        return dataclasses.replace(layer, **{name: getattr(layer, name).astype(np.float32) for name in _STATISTICS})

    return dataclasses.replace(trace, layers=tuple(None if layer is None else wide(layer) for layer in trace.layers))


def _lens_at(kept: LensTable, chosen: list[int], top_k: int) -> LensTable:
    """Some positions of a table, with as many tokens as are asked for, as numbers to compute with."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(kept):
        array = getattr(kept, field.name)
        if isinstance(array, np.ndarray):
            some = array[chosen] if array.ndim == 1 else array[:, chosen]
            some = some[..., :top_k] if array.ndim == 3 else some
            changed[field.name] = some.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    return dataclasses.replace(kept, **changed)
