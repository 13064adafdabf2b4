"""From the attention calls of one forward pass to a LayerCapture per layer."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import Bools, LayerCapture, ModelError
from attnviz.plugins.backends.attention_function import AttentionCall
from attnviz.plugins.backends.estimate import Level
from attnviz.plugins.backends.stacks import Span
from attnviz.plugins.backends.statistics import RowStatistics, Scores, map_statistics, stream_statistics
from attnviz.plugins.backends.value_norms import Projection, value_norms

if TYPE_CHECKING:
    import torch

_FLOAT16_MAX = 65504.0
_UNSEEN = 1e-7  # weight of a key that an additive mask hides
_LONG = 512  # tokens from which on memory is given back after each layer

CallKey = tuple[int, int]  # identity of the attention module, how many calls of it came before in this forward


class Shelf:
    """One piece of memory for all that a capture keeps.

    Kept arrays that lie between the passing ones of a forward pass would keep the freed memory around them from being
    used again or given back: several times their own size at long contexts.
    """

    def __init__(self, size: int) -> None:
        self._room = np.empty(size, np.uint8)  # pages are only taken when they are written to
        self._taken = 0

    def place(self, array: np.ndarray[Any, Any], dtype: Any = None) -> np.ndarray[Any, Any]:
        """A copy, of another type if wanted; on the shelf, or beside it once the shelf is full."""
        dtype = np.dtype(dtype or array.dtype)
        start = -(-self._taken // dtype.itemsize) * dtype.itemsize
        size = array.size * dtype.itemsize
        if start + size > self._room.size:
            return np.array(array, dtype=dtype, order="C")
        self._taken = start + size
        found: np.ndarray[Any, Any] = self._room[start : start + size].view(dtype).reshape(array.shape)
        found[...] = array
        return found


@dataclass(frozen=True)
class _Mask:
    causal: bool
    visible: torch.Tensor | None  # [Q, K] bool
    bias: torch.Tensor | None  # [1 or H, Q, K] float32


@dataclass
class AttentionCollector:
    """Captures the calls of the layers in `layers` (call -> index of the layer); others run as usual.

    With `layers` None every call is captured, in order of coming: that is how a model is first looked at; `outputs`
    then has what the heads of each call put out, [H, Q, D_v].
    top_k        largest weights of every row to keep; 0 = none
    projections  layer -> output projection, or why there is none; None = value norms are not asked for
    without      why queries and keys are not kept; empty = they are
    spans        layer -> tokens of the run that are its queries and its keys; a layer that is not in it has all
    padding      [T] tokens of the run that are padding: their rows and columns are empty; None = none
    shelf        where everything is put
    """

    layers: Mapping[CallKey, int] | None
    thumbnail: int
    half: bool = False  # keep queries and keys in float16
    captured: dict[int, LayerCapture] = field(default_factory=dict)
    calls: list[tuple[CallKey, AttentionCall]] = field(default_factory=list)
    top_k: int = field(default=0, kw_only=True)
    projections: Mapping[int, Projection | str] | None = field(default=None, kw_only=True)
    outputs: list[torch.Tensor] = field(default_factory=list, kw_only=True)
    without: str = field(default="", kw_only=True)
    spans: Mapping[int, tuple[Span, Span]] = field(default_factory=dict, kw_only=True)
    padding: Bools | None = field(default=None, kw_only=True)
    shelf: Shelf = field(default_factory=lambda: Shelf(0), kw_only=True)
    _counts: Counter[int] = field(default_factory=Counter)
    _masks: dict[int, tuple[torch.Tensor, _Mask]] = field(default_factory=dict)
    _visible: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)
    _padded: dict[tuple[int, tuple[Span, Span] | None], tuple[torch.Tensor | None, _Mask]] = field(default_factory=dict)
    _biases: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]] = field(
        default_factory=dict
    )
    _added: dict[int, np.ndarray[Any, Any]] = field(default_factory=dict)

    def attend(self, call: AttentionCall) -> torch.Tensor | None:
        key = (id(call.module), self._counts[id(call.module)])
        self._counts[id(call.module)] += 1
        if self.layers is not None and key not in self.layers:
            return None
        if call.query.shape[0] != 1:
            raise ModelError(f"Capture works on one prompt at a time, got a batch of {call.query.shape[0]}.")
        if self.layers is None:
            index = len(self.calls)
            self.calls.append((key, replace(call, query=call.query[:, :, :0], mask=None, bias=None)))
        else:
            index = self.layers[key]
        scores = self._scores(call, index)
        statistics = stream_statistics(scores, self.thumbnail, top_k=self.top_k)
        self.captured[index] = placed(
            self._capture(scores, statistics, self._values(index, scores)), self.spans.get(index)
        )
        if call.query.shape[2] >= _LONG:
            _give_back()
        if self.layers is None and statistics.output is not None:
            self.outputs.append(statistics.output)
        return None if statistics.output is None else statistics.output[None]

    def _values(self, index: int, scores: Scores) -> dict[str, Any]:
        """Fields of the capture that have to do with values."""
        if self.projections is None:
            return {}
        projection = self.projections[index]
        if isinstance(projection, str):
            return {"absent": {"value_norm": projection}}
        norms = value_norms(scores.value, projection, scores.query.shape[0])
        return {"value_norm": self.shelf.place(norms.cpu().numpy())}

    def _scores(self, call: AttentionCall, index: int) -> Scores:
        mask = self._mask(call)
        if self.padding is not None:
            mask = self._without_padding(call, mask, self.spans.get(index))
        return Scores(
            query=call.query[0].detach(),
            key=call.key[0].detach(),
            value=call.value[0].detach(),
            scale=call.scale,
            causal=mask.causal,
            visible=mask.visible,
            bias=self._bias(call, mask),
            softcap=call.softcap,
            sinks=None if call.sinks is None else call.sinks.detach().float().flatten(),
        )

    def _mask(self, call: AttentionCall) -> _Mask:
        """The mask in one form; layers share the tensor, so each one is read once."""
        if call.mask is None:
            return _Mask(call.causal, None, None)
        held = self._masks.get(id(call.mask))
        if held is None:  # the tensor is kept with it, else its identity could be given to another one
            held = self._masks[id(call.mask)] = (call.mask, _read_mask(call.mask[0]))
        return held[1]

    def _without_padding(self, call: AttentionCall, mask: _Mask, spans: tuple[Span, Span] | None) -> _Mask:
        """The mask with nothing visible to padding, and padding visible to nothing; one for all layers that share it.

        Raises:
            ModelError: the model itself lets a token see padding.
        """
        import torch

        assert self.padding is not None
        key = (id(call.mask), spans)
        if key not in self._padded:
            rows, columns = (self.padding if s is None else self.padding[slice(*s)] for s in spans or (None, None))
            device, (queries, keys) = call.query.device, (call.query.shape[2], call.key.shape[2])
            there = torch.ones(queries, keys, dtype=torch.bool, device=device)
            seen = mask.visible if mask.visible is not None else there.tril() if mask.causal else there
            here = ~torch.tensor(rows, device=device)[:, None]  # [Q, 1] rows that count
            blank = torch.tensor(columns, device=device)[None]  # [1, K]
            if bool((seen & here & blank).any()):
                raise ModelError(NO_PADDING.format(type(call.module).__name__))
            self._padded[key] = (call.mask, replace(mask, visible=seen & here & ~blank))
        return self._padded[key][1]

    def _bias(self, call: AttentionCall, mask: _Mask) -> torch.Tensor | None:
        """[1 or H, Q, K] what is added to the scores, one tensor for all layers that share it; None where that is 0."""
        if call.bias is None:
            return mask.bias
        key = (id(call.bias), id(mask.bias))
        if key not in self._biases:  # kept with what it is made of, as the masks are
            bias = call.bias[0].float() if mask.bias is None else call.bias[0].float() + mask.bias
            self._biases[key] = (call.bias, mask.bias, bias if bool(bias.any()) else None)
        return self._biases[key][2]

    def _capture(self, scores: Scores, statistics: RowStatistics, values: dict[str, Any]) -> LayerCapture:
        visible = None
        if scores.visible is not None:
            visible = self._visible.setdefault(id(scores.visible), scores.visible.cpu().numpy())
        bias = None
        if scores.bias is not None and not self.without:
            bias = self._added.setdefault(id(scores.bias), scores.bias.cpu().numpy())
        queries, keys = scores.query.shape[1], scores.key.shape[1]
        allowed, seen_by = visible_counts(queries, keys, scores.causal, visible)
        absent = {**values.pop("absent", {}), **({"q": self.without} if self.without else {})}
        q, k = self._queries_and_keys(scores)
        return LayerCapture(
            q=q,
            k=k,
            scale=scores.scale,
            causal=scores.causal,
            allowed=self.shelf.place(allowed),
            seen_by=self.shelf.place(seen_by),
            visible=visible,
            bias=bias,
            softcap=scores.softcap,
            sinks=None if scores.sinks is None else scores.sinks.cpu().numpy(),
            absent=absent,
            **self._placed(statistics),
            **values,
        )

    def _placed(self, statistics: RowStatistics) -> dict[str, Any]:
        return {name: self.shelf.place(array) for name, array in _arrays(statistics).items()}

    def _queries_and_keys(self, scores: Scores) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any] | None]:
        """Copies on the host; the model may write over its own buffers."""
        if self.without:
            return None, None
        dtype = _kept_dtype(scores, self.half)
        q, k = (self.shelf.place(tensor.float().cpu().numpy(), dtype) for tensor in (scores.query, scores.key))
        return q, k


def _give_back() -> None:
    """Hands memory that was freed back to the system, where the C library can (glibc).

    It keeps the aligned blocks that torch frees, in pieces that those of the next layer do not fit: without this the
    peak of a long context is several times what is in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _read_mask(mask: torch.Tensor) -> _Mask:
    """[1 or H, Q, K] bool or additive -> which keys are visible, and what is added to their scores."""
    import torch

    shown = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    bias = None
    if shown.shape[0] > 1 and not bool((shown == shown[:1]).all()):  # a mask of its own for each head
        bias = torch.zeros(shown.shape, dtype=torch.float32, device=mask.device).masked_fill_(~shown, float("-inf"))
    if mask.dtype != torch.bool and bool((mask.masked_fill(~shown, 0) != 0).any()):
        bias = mask.float().masked_fill(~shown, float("-inf") if bias is not None else 0.0)
    visible = shown.any(dim=0)  # [Q, K]
    past = torch.ones_like(visible).tril()
    causal = not bool((visible & ~past).any())
    full = bool((visible == past).all()) if causal else bool(visible.all())
    return _Mask(causal, None if full else visible, bias)


def visible_counts(
    queries: int, keys: int, causal: bool, visible: np.ndarray[Any, Any] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """n(q) for every query, and for every key the number of queries that may see it."""
    if visible is not None:
        shown = np.tril(visible) if causal else visible
        return shown.sum(axis=1), shown.sum(axis=0)
    if causal:
        return np.minimum(np.arange(1, queries + 1), keys), np.maximum(queries - np.arange(keys), 0)
    return np.full(queries, keys), np.full(keys, queries)


def _kept_dtype(scores: Scores, half: bool) -> type[np.floating[Any]]:
    if not half:
        return np.float32
    largest = max(float(scores.query.abs().max()), float(scores.key.abs().max()))
    return np.float16 if largest <= _FLOAT16_MAX else np.float32


def _arrays(statistics: RowStatistics) -> dict[str, Any]:
    names = ["entropy", "row_max", "distance", "column_sum", "thumbnail"]
    if statistics.top_weights is not None:
        names += ["top_weights", "top_keys"]
    return {name: getattr(statistics, name).cpu().numpy() for name in names}


def precision_of(captured: dict[int, LayerCapture], level: Level) -> str:
    """The level that was chosen, and the layers whose numbers float16 cannot hold."""
    if level.number != 2:
        return level.name
    wide = [i for i, layer in sorted(captured.items()) if layer.q is None or layer.q.dtype.name == "float32"]
    if len(wide) == len(captured):
        return "float32"
    return level.name if not wide else f"float16 (float32 in layers {', '.join(map(str, wide))}). {level.reason}"


NO_DISTANCE = "Queries are tokens of the decoder, keys are tokens of the encoder: they stand in no one order."
_NO_VALUES = "This model is read through the maps it returns, which come without its values."


NO_PADDING = "{} attends to padding although a mask tells it not to: give the text without padding."


def without_padding(weights: torch.Tensor, padding: Bools, spans: tuple[Span, Span] | None) -> torch.Tensor:
    """A map [H, Q, K] with empty rows of padding.

    Raises:
        ModelError: a token that is no padding gives weight to padding.
    """
    import torch

    rows, columns = (padding if s is None else padding[slice(*s)] for s in spans or (None, None))
    here, blank = (torch.tensor(part, device=weights.device) for part in (rows, columns))
    found = weights.masked_fill(here[None, :, None], 0)
    if bool((found[:, :, blank] > _UNSEEN).any()):
        raise ModelError(NO_PADDING.format("This model"))
    return found.masked_fill(blank, 0)


def placed(capture: LayerCapture, spans: tuple[Span, Span] | None, why: str = NO_DISTANCE) -> LayerCapture:
    """With the tokens of the run that are its queries and keys; between two different spans there is no distance."""
    if spans is None:
        return capture
    if spans[0] == spans[1]:
        return replace(capture, queries=spans[0], keys=spans[1])
    distance = np.full_like(capture.distance, np.nan)
    absent = {**capture.absent, "distance": why}
    return replace(capture, queries=spans[0], keys=spans[1], distance=distance, absent=absent)


def capture_map(
    weights: torch.Tensor, thumbnail: int, causal: bool, *, top_k: int = 0, values: bool = False
) -> LayerCapture:
    """A LayerCapture from a whole map [H, Q, K], for models that give nothing else.

    Masks are not known on this route, so a key counts as visible where any head gives it weight; nor are values.
    """
    statistics = map_statistics(weights, thumbnail, causal, top_k=top_k)
    visible = (weights > 0).any(dim=0).cpu().numpy()
    queries, keys = weights.shape[1:]
    full = np.tril(np.ones((queries, keys), bool)) if causal else np.ones((queries, keys), bool)
    allowed, seen_by = visible_counts(queries, keys, causal, visible)
    return LayerCapture(
        q=None,
        k=None,
        scale=1.0,
        causal=causal,
        allowed=allowed,
        seen_by=seen_by,
        visible=None if bool((visible == full).all()) else visible,
        weights=weights.float().cpu().numpy(),
        absent={"value_norm": _NO_VALUES} if values else {},
        **_arrays(statistics),
    )
