"""Statistics of every attention row, streamed: no map of a layer is ever held whole.

One head (on a CPU) or all heads (on an accelerator) and one block of queries at a time, in buffers that are used again,
so that a block stays in the cache. The blocks also give the layer's output, so attention is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_QUERY_BLOCK = 128
_ACCELERATOR_BLOCK = 1 << 26  # scores held at once, all heads together


@dataclass(frozen=True)
class Scores:
    """All that decides the scores of one layer; tensors on the model's device.

    query [H, Q, D], key [H_kv, K, D], value [H_kv, K, D_v]
    visible [Q, K] bool or None, on top of `causal`
    bias    [1 or H, Q, K] float32 or None; -inf hides a key from one head
    sinks   [H] float32 or None
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scale: float
    causal: bool
    visible: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None


@dataclass(frozen=True)
class RowStatistics:
    """What is kept of one layer's map.

    entropy [H, Q] bits; row_max [H, Q]; distance [H, Q] tokens, Σ_k p(k)·|q−k|; column_sum [H, K], Σ_q A[q, k]
    thumbnail [H, n, m] uint8, round(255·√max) over square blocks of the map
    output    [H, Q, D_v], the layer's attention output, or None
    """

    entropy: torch.Tensor
    row_max: torch.Tensor
    distance: torch.Tensor
    column_sum: torch.Tensor
    thumbnail: torch.Tensor
    output: torch.Tensor | None = None


class _Accumulator:
    """Takes blocks of weights, one (heads × queries) at a time."""

    def __init__(self, shape: tuple[int, int, int], edge: int, causal: bool, device: torch.device) -> None:
        import torch

        heads, queries, keys = shape
        self.causal = causal
        self.cell = max(1, -(-max(queries, keys) // edge))  # tokens per edge of one thumbnail cell
        self.positions = torch.arange(max(queries, keys), dtype=torch.float32, device=device)
        self.entropy, self.row_max, self.distance = torch.empty(3, heads, queries, device=device)
        self.column_sum = torch.zeros(heads, keys, device=device)
        self.pooled = torch.zeros(heads, -(-queries // self.cell), -(-keys // self.cell), device=device)

    def add(self, weights: torch.Tensor, heads: slice, rows: slice, row_max: torch.Tensor, bits: torch.Tensor) -> None:
        """weights [h, q, k] with k = the first keys; row_max, bits [h, q]."""
        self.entropy[heads, rows] = bits.clamp_min_(0)  # a one-key row gives -0 or a rounding error
        self.row_max[heads, rows] = row_max
        self.column_sum[heads, : weights.shape[2]] += weights.sum(dim=1)
        self.distance[heads, rows] = self._distance(weights, rows)
        self._pool(weights, heads, rows)

    def _distance(self, weights: torch.Tensor, rows: slice) -> torch.Tensor:
        import torch

        keys = self.positions[: weights.shape[2]]
        if not self.causal:
            apart = (self.positions[rows, None] - keys).abs()  # [q, k]
            return torch.einsum("hqk,qk->hq", weights, apart)
        # Σ p·(q−k) = Σ p·(start−k) + (q−start)·Σ p: small terms for near keys, so nothing is lost in float32
        start = self.positions[rows.start]
        sums = weights @ torch.stack([start - keys, torch.ones_like(keys)], dim=1)  # [h, q, 2]
        return sums[..., 0] + (self.positions[rows] - start) * sums[..., 1]

    def _pool(self, weights: torch.Tensor, heads: slice, rows: slice) -> None:
        """Max over cells; `rows` starts on a cell's edge."""
        from torch.nn.functional import pad

        cell = self.cell
        count, queries, keys = weights.shape
        if queries % cell:
            weights = pad(weights, (0, 0, 0, -queries % cell))
        weights = weights.view(count, -1, cell, keys).amax(dim=2)
        if keys % cell:
            weights = pad(weights, (0, -keys % cell))
        weights = weights.view(count, weights.shape[1], -1, cell).amax(dim=3)
        first = rows.start // cell
        self.pooled[heads, first : first + weights.shape[1], : weights.shape[2]] = weights

    def finish(self, output: torch.Tensor | None = None) -> RowStatistics:
        import torch

        thumbnail = (self.pooled.sqrt_() * 255).round_().clamp_(0, 255).to(torch.uint8)
        return RowStatistics(self.entropy, self.row_max, self.distance, self.column_sum, thumbnail, output)


def _query_blocks(queries: int, cell: int, largest: int) -> Iterator[slice]:
    """Blocks of whole thumbnail cells, about `largest` queries each."""
    step = max(cell, largest // cell * cell)
    for start in range(0, queries, step):
        yield slice(start, min(queries, start + step))


def stream_statistics(scores: Scores, edge: int, *, together: int | None = None) -> RowStatistics:
    """Statistics and output of one layer from its queries and keys.

    `together` heads are worked on at once: 1, or all; by default 1 on a CPU, all on an accelerator.
    A query that may see no key has a row of zeros (and so entropy, maximum and output 0).
    """
    import torch

    heads, queries, _ = scores.query.shape
    kv_heads, keys, _ = scores.key.shape
    device = scores.query.device
    repeat = heads // kv_heads
    if together is None:
        together = 1 if device.type == "cpu" else heads
    total = _Accumulator((heads, queries, keys), edge, scores.causal, device)
    largest = _QUERY_BLOCK if together == 1 else max(1, _ACCELERATOR_BLOCK // (heads * keys))
    blocks = list(_query_blocks(queries, total.cell, largest))
    room = together * max(b.stop - b.start for b in blocks) * keys
    buffers = torch.empty(2, room, device=device)
    output = scores.value.new_empty(heads, queries, scores.value.shape[-1])
    hidden = None if scores.visible is None else ~scores.visible
    query, key = scores.query.float() * scores.scale, scores.key.float()
    for head in range(0, heads, together):
        span = slice(head, head + together)
        groups = slice(head // repeat, (head + together - 1) // repeat + 1)
        for rows in blocks:
            stop = min(keys, rows.stop) if scores.causal else keys
            shape = (together, rows.stop - rows.start, stop)
            raw, weights = (b[: math.prod(shape)].view(shape) for b in buffers)
            grouped = (groups.stop - groups.start, -1, stop)
            queries_of_group = query[span, rows].reshape(grouped[0], -1, query.shape[2])
            torch.bmm(queries_of_group, key[groups, :stop].transpose(1, 2), out=raw.view(grouped))
            row_max, bits = _softmax(scores, raw, weights, span, rows, hidden)
            total.add(weights, span, rows, row_max, bits)
            values = scores.value[groups, :stop]
            mixed = torch.bmm(weights.view(grouped).to(values.dtype), values)
            output[span, rows] = mixed.view(together, shape[1], -1)
    return total.finish(output)


def _softmax(
    scores: Scores,
    raw: torch.Tensor,
    weights: torch.Tensor,
    heads: slice,
    rows: slice,
    hidden: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turns `raw` [h, q, k] into `weights`, in place; returns the row maximum and the entropy in bits, both [h, q].

    The softmax's own maximum gives the logarithm of its denominator, so that the entropy, lse − Σ p·s, takes no
    logarithm per weight.
    """
    import torch

    lowest, stop = torch.finfo(raw.dtype).min, raw.shape[2]
    if scores.softcap is not None:
        raw.div_(scores.softcap).tanh_().mul_(scores.softcap)
    if scores.bias is not None:
        shared = scores.bias.shape[0] == 1
        raw.add_(scores.bias[slice(0, 1) if shared else heads, rows, :stop]).clamp_min_(lowest)
    if hidden is not None:
        raw.masked_fill_(hidden[rows, :stop], lowest)
    if scores.causal:  # only the corner on the diagonal holds later keys
        size = stop - rows.start
        later = torch.ones(raw.shape[1], size, dtype=torch.bool, device=raw.device).triu_(1)
        raw[:, :, rows.start :].masked_fill_(later, lowest)
    torch.softmax(raw, dim=-1, out=weights)
    top = raw.amax(dim=-1)
    row_max = weights.amax(dim=-1)
    if scores.sinks is not None:
        lse = top - row_max.log()
        share = torch.sigmoid(lse - scores.sinks[heads, None])  # what the sink leaves to the keys
        weights.mul_(share[..., None])
        bits = torch.special.entr(weights).sum(dim=-1) / math.log(2)
        row_max = row_max * share
    else:
        bits = (top - row_max.log() - raw.mul_(weights).sum(dim=-1)) / math.log(2)
    if hidden is not None or scores.bias is not None:
        blind = top <= lowest / 2  # [h, q] no key is visible
        weights.masked_fill_(blind[..., None], 0)
        row_max, bits = row_max.masked_fill(blind, 0), bits.masked_fill(blind, 0)
    return row_max, bits


def map_statistics(weights: torch.Tensor, edge: int, causal: bool) -> RowStatistics:
    """The same statistics from a map that is already there, weights [H, Q, K]."""
    import torch

    heads, queries, keys = weights.shape
    total = _Accumulator((heads, queries, keys), edge, causal, weights.device)
    for rows in _query_blocks(queries, total.cell, _QUERY_BLOCK):
        block = weights[:, rows].float()
        bits = torch.special.entr(block).sum(dim=-1) / math.log(2)
        total.add(block, slice(0, heads), rows, block.amax(dim=-1), bits)
    return total.finish()
