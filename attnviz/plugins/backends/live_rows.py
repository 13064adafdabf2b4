"""What each new token of an answer was chosen from: the last row of attention of every pass, as it is generated.

With a cache, a pass after the first has one query, so its map is one row: a product of that query with the keys the
model keeps. The model's own output is left to it, so an answer is the same with and without a listener. Keys that a
window has dropped from the cache have no weight; those that are kept are the latest.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attnviz.hooks import LayerCard, LiveRow, ModelError
from attnviz.plugins.backends import attention_function
from attnviz.plugins.backends.attention_function import AttentionCall
from attnviz.plugins.backends.capture import CallKey
from attnviz.plugins.backends.stacks import Lengths

if TYPE_CHECKING:
    import torch

LastRows = Mapping[int, "torch.Tensor"]
"""Layer -> [H, K'] weights of the last query of one pass over the latest K' keys."""


class RowListener(Protocol):
    """Hears the passes of a generation. `passes`: those that no token was made of yet, oldest first."""

    passes: deque[LastRows]

    def listening(self) -> Any:
        """Context manager around the generation."""


@dataclass
class InterfaceRows:
    """Last rows from the calls of our attention function. `calls`: every call of a pass -> its layer."""

    calls: Mapping[CallKey, int]
    passes: deque[LastRows] = field(default_factory=deque)
    _counts: Counter[int] = field(default_factory=Counter)
    _rows: dict[int, torch.Tensor] = field(default_factory=dict)

    def listening(self) -> Any:
        return attention_function.collecting(self)

    def attend(self, call: AttentionCall) -> None:
        key = (id(call.module), self._counts[id(call.module)])
        self._counts[id(call.module)] += 1
        if key in self.calls:
            self._rows[self.calls[key]] = last_row(call)
        if len(self._rows) == len(self.calls):
            self.passes.append(self._rows)
            self._rows, self._counts = {}, Counter()


def last_row(call: AttentionCall) -> torch.Tensor:
    """[H, K] float32 weights of the last query, a learned sink's share left out."""
    import torch

    query = call.query[0, :, -1].detach().float()  # [H, D]
    key = call.key[0].detach().float()  # [H_kv, K, D]
    grouped = query.unflatten(0, (key.shape[0], -1))  # heads that share a key head stand together
    scores = (grouped @ key.transpose(-1, -2)).flatten(0, 1) * call.scale
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if call.bias is not None:
        scores = scores + call.bias[0, :, -1].float()
    if call.mask is not None:
        mask = call.mask[0, :, -1]  # [1 or H, K]
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask.float()
    if call.sinks is None:
        return torch.softmax(scores, dim=-1)
    sinks = call.sinks.detach().float().view(-1, 1)
    return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[:, :-1]


# --------------------------------------------------------------------------------------------- eager maps

_maps: ContextVar[MapRows | None] = ContextVar("attnviz_map_rows", default=None)


def watch_maps(module: torch.nn.Module) -> None:
    """Lets `MapRows` hear a model that returns its maps. Once, when it is loaded; idle until somebody listens."""
    module.register_forward_pre_hook(_ask, with_kwargs=True)
    module.register_forward_hook(_hear)


def _ask(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    return None if _maps.get() is None else (args, {**kwargs, "output_attentions": True})


def _hear(module: torch.nn.Module, args: Any, output: Any) -> None:
    listener = _maps.get()
    if listener is not None:
        names = ("decoder_attentions", "cross_attentions", "attentions")
        listener.heard([weights for name in names for weights in getattr(output, name, None) or ()])


@dataclass
class MapRows:
    """Last rows of the maps a model returns. `layers` [n]: layer of the n-th map, an encoder's left out."""

    layers: Sequence[int]
    passes: deque[LastRows] = field(default_factory=deque)

    @contextmanager
    def listening(self) -> Iterator[None]:
        token = _maps.set(self)
        try:
            yield
        finally:
            _maps.reset(token)

    def heard(self, maps: Sequence[torch.Tensor | None]) -> None:
        given = [weights[0, :, -1].detach().float() for weights in maps if weights is not None]
        self.passes.append(dict(zip(self.layers, given, strict=True)))


# --------------------------------------------------------------------------------------------- rows of a token


def live_row(rows: LastRows, layers: Sequence[LayerCard], lengths: Lengths, token_id: int) -> LiveRow:
    """The rows of one pass as what the token behind `lengths` was chosen from.

    Raises:
        ModelError: a layer keeps more keys than there are tokens.
    """
    import torch

    sizes = {layer: tuple(row.shape) for layer, row in rows.items()}
    spans = {layer: lengths.spans(layers[layer].stack)[1] for layer in rows}
    for layer, (_, keys) in sizes.items():
        tokens = spans[layer][1] - spans[layer][0]
        if keys > tokens:
            raise ModelError(f"Layer {layer} keeps {keys} keys for {tokens} tokens: its cache is of an unknown kind.")
    together = torch.cat([row.flatten().to(rows[next(iter(rows))].device) for row in rows.values()])
    flat = together.cpu().numpy()  # one transfer
    heads = max((card.heads for card in layers), default=0)
    weights = np.full((len(layers), heads, lengths.count), np.nan, np.float32)
    start = 0
    for layer, (heads, keys) in sizes.items():
        stop, (first, last) = start + heads * keys, spans[layer]
        weights[layer, :heads, first:last] = 0.0  # keys a window has dropped
        weights[layer, :heads, last - keys : last] = flat[start:stop].reshape(heads, keys)
        start = stop
    return LiveRow(lengths.count, token_id, weights)
