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
    top_weights, top_keys  [H, Q, k] float32 descending, int32 (-1 beside a weight of 0), or None
    """

    entropy: torch.Tensor
    row_max: torch.Tensor
    distance: torch.Tensor
    column_sum: torch.Tensor
    thumbnail: torch.Tensor
    output: torch.Tensor | None = None
    top_weights: torch.Tensor | None = None
    top_keys: torch.Tensor | None = None


@dataclass(frozen=True)
class _Rows:
    """What the softmax of a block knows of its rows, each [h, q]: largest weight, entropy, and their sum (None: 1)."""

    largest: torch.Tensor
    bits: torch.Tensor
    sum: torch.Tensor | None = None


class _Accumulator:
    """Takes blocks of weights, one (heads × queries) at a time."""

    def __init__(
        self, shape: tuple[int, int, int], edge: int, causal: bool, device: torch.device, top_k: int = 0
    ) -> None:
        import torch

        heads, queries, keys = shape
        self.causal = causal
        self.cell = max(1, -(-max(queries, keys) // edge))  # tokens per edge of one thumbnail cell
        self.positions = torch.arange(max(queries, keys), dtype=torch.float32, device=device)
        self.ones = torch.ones(queries, dtype=torch.float32, device=device)
        self.entropy, self.row_max, self.distance = torch.empty(3, heads, queries, dtype=torch.float32, device=device)
        self.column_sum = torch.zeros(heads, keys, dtype=torch.float32, device=device)
        self.pooled = torch.zeros(
            heads, -(-queries // self.cell), -(-keys // self.cell), dtype=torch.float32, device=device
        )
        self.top_weights = (
            torch.zeros(heads, queries, min(top_k, keys), dtype=torch.float32, device=device) if top_k else None
        )
        self.top_keys = torch.full((heads, queries, min(top_k, keys)), -1, dtype=torch.int32, device=device)

    def add(self, weights: torch.Tensor, heads: slice, rows: slice, known: _Rows) -> None:
        """weights [h, q, k] with k = the first keys."""
        self.entropy[heads, rows] = known.bits.clamp_min_(0)  # a one-key row gives -0 or a rounding error
        self.row_max[heads, rows] = known.largest
        self._add_columns(weights, heads)
        self.distance[heads, rows] = self._distance(weights, rows, known)
        self._pool(weights, heads, rows)
        if self.top_weights is not None:
            self._rank(weights, heads, rows)

    def _add_columns(self, weights: torch.Tensor, heads: slice) -> None:
        count, queries, keys = weights.shape
        if count == 1:  # a product with a vector of ones takes half the time of a sum over the first axis
            self.column_sum[heads.start, :keys].addmv_(weights[0].T, self.ones[:queries])
        else:
            self.column_sum[heads, :keys] += weights.sum(dim=1)

    def _distance(self, weights: torch.Tensor, rows: slice, known: _Rows) -> torch.Tensor:
        import torch

        keys = self.positions[: weights.shape[2]]
        if not self.causal:
            apart = (self.positions[rows, None] - keys).abs_()  # [q, k]
            if len(weights) == 1:  # a fifth of the time of the product for all heads, in the memory that is there
                return apart.mul_(weights[0]).sum(dim=-1)[None]
            return torch.einsum("hqk,qk->hq", weights, apart)
        # Σ p·(q−k) = Σ p·(start−k) + (q−start)·Σ p: small terms for near keys, so nothing is lost in float32
        start = self.positions[rows.start]
        further = self.positions[rows] - start  # [q]
        return weights @ (start - keys) + (further if known.sum is None else further * known.sum)

    def _rank(self, weights: torch.Tensor, heads: slice, rows: slice) -> None:
        import torch

        assert self.top_weights is not None
        kept = min(self.top_weights.shape[2], weights.shape[2])
        values, keys = largest_keys(weights, kept)
        self.top_weights[heads, rows, :kept] = values
        self.top_keys[heads, rows, :kept] = keys.masked_fill_(values == 0, -1).to(torch.int32)

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
        return RowStatistics(
            self.entropy,
            self.row_max,
            self.distance,
            self.column_sum,
            thumbnail,
            output,
            self.top_weights,
            self.top_keys if self.top_weights is not None else None,
        )


def largest_keys(weights: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest weights of each row, descending, and their keys, from weights [h, q, k] in memory order.

    Keys are dealt out to chunks like cards. The largest weights lie in the chunks with the largest maxima, so only
    those are sorted: exact, at a fraction of a sort of the row. Among equal weights any may be listed.
    """
    import torch

    keys = weights.shape[2]
    chunks = _chunks(keys, count)
    if chunks is None:
        values, found = weights.topk(count, dim=-1)
        return values, found
    size = keys // chunks
    dealt = weights[..., : size * chunks].unflatten(-1, (size, chunks))
    best = dealt.amax(dim=-2).topk(count, dim=-1, sorted=False).indices  # [h, q, count] chunks
    places = torch.arange(size, device=weights.device) * chunks
    candidates = (best[..., None] + places).flatten(-2)  # keys of those chunks
    left = torch.arange(size * chunks, keys, device=weights.device)  # keys that were not dealt out
    candidates = torch.cat([candidates, left.expand(*candidates.shape[:-1], -1)], dim=-1)
    values, at = weights.gather(-1, candidates).topk(count, dim=-1)
    return values, candidates.gather(-1, at)


def _chunks(keys: int, count: int) -> int | None:
    """Number of chunks, or None where a plain sort is as good. Of several the one that leaves the fewest keys over.

    Measured: torch.topk takes the `count` largest of n fast up to n = 80 and from n = 64·count on, where it sorts in
    part, and several times slower in between; so neither chunks nor keys of the chosen ones should be that many.
    """
    wide = 64 * count
    if keys >= 2 * wide:
        return min(range(wide, wide + wide // 4), key=lambda chunks: keys % chunks)
    if keys > 128 and count * (keys // 64) <= 80:
        return min(range(48, 65), key=lambda chunks: keys % chunks)
    return None


def query_block() -> int:
    """Queries worked on at once on a CPU."""
    return _QUERY_BLOCK


def _query_blocks(queries: int, cell: int, largest: int) -> Iterator[slice]:
    """Blocks of whole thumbnail cells, about `largest` queries each."""
    step = max(cell, largest // cell * cell)
    for start in range(0, queries, step):
        yield slice(start, min(queries, start + step))


def stream_statistics(scores: Scores, edge: int, *, together: int | None = None, top_k: int = 0) -> RowStatistics:
    """Statistics and output of one layer from its queries and keys.

    `together` heads are worked on at once: 1, or all; by default 1 on a CPU, all on an accelerator.
    With `top_k` the largest weights of each row as well (all of them where there are fewer keys).
    A query that may see no key has a row of zeros (and so entropy, maximum and output 0).
    """
    import torch

    heads, queries, _ = scores.query.shape
    kv_heads, keys, _ = scores.key.shape
    device = scores.query.device
    repeat = heads // kv_heads
    if together is None:
        together = 1 if device.type == "cpu" else heads
    total = _Accumulator((heads, queries, keys), edge, scores.causal, device, top_k)
    largest = _QUERY_BLOCK if together == 1 else max(1, _ACCELERATOR_BLOCK // (heads * keys))
    blocks = list(_query_blocks(queries, total.cell, largest))
    room = together * max(b.stop - b.start for b in blocks) * keys
    buffers = torch.empty(2, room, dtype=torch.float32, device=device)
    # laid out as the caller hands it on, [Q, H, D_v], so that it need not be copied once more
    output = scores.value.new_empty(queries, heads, scores.value.shape[-1]).transpose(0, 1)
    hidden = None if scores.visible is None else ~scores.visible
    for head in range(0, heads, together):
        span = slice(head, head + together)
        groups = slice(head // repeat, (head + together - 1) // repeat + 1)
        query, key = scores.query[span].float() * scores.scale, scores.key[groups].float()
        for rows in blocks:
            stop = min(keys, rows.stop) if scores.causal else keys
            shape = (together, rows.stop - rows.start, stop)
            raw, weights = (b[: math.prod(shape)].view(shape) for b in buffers)
            grouped = (groups.stop - groups.start, -1, stop)
            queries_of_group = query[:, rows].reshape(grouped[0], -1, query.shape[2])
            torch.bmm(queries_of_group, key[:, :stop].transpose(1, 2), out=raw.view(grouped))
            known = _softmax(scores, raw, weights, span, rows, hidden)
            total.add(weights, span, rows, known)
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
) -> _Rows:
    """Turns `raw` [h, q, k] into `weights`, in place.

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
    largest, share = weights.amax(dim=-1), None
    lse = top - largest.log()
    if scores.sinks is not None:
        share = torch.sigmoid(lse - scores.sinks[heads, None])  # what the sink leaves to the keys
        weights.mul_(share[..., None])
        bits = torch.special.entr(weights).sum(dim=-1) / math.log(2)
        largest = largest * share
    else:
        bits = (lse - raw.mul_(weights).sum(dim=-1)) / math.log(
            2
        )  # in place: a new block each time would split the heap
    if hidden is not None or scores.bias is not None:
        blind = top <= lowest / 2  # [h, q] no key is visible
        weights.masked_fill_(blind[..., None], 0)
        largest, bits = largest.masked_fill(blind, 0), bits.masked_fill(blind, 0)
        share = (torch.ones_like(largest) if share is None else share).masked_fill(blind, 0)
    return _Rows(largest, bits, share)


def map_statistics(weights: torch.Tensor, edge: int, causal: bool, *, top_k: int = 0) -> RowStatistics:
    """The same statistics from a map that is already there, weights [H, Q, K]."""
    import torch

    heads, queries, keys = weights.shape
    total = _Accumulator((heads, queries, keys), edge, causal, weights.device, top_k)
    for rows in _query_blocks(queries, total.cell, _QUERY_BLOCK):
        block = weights[:, rows].float().contiguous()
        bits = torch.special.entr(block).sum(dim=-1) / math.log(2)
        total.add(block, slice(0, heads), rows, _Rows(block.amax(dim=-1), bits, block.sum(dim=-1)))
    return total.finish()
