"""Attention computed the slow and obvious way: the oracle that fast code is measured against.

Everything is float64, one row at a time, straight from the definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Bools, Floats, LayerCapture, Trace


@dataclass(frozen=True)
class Statistics:
    """Statistics of one layer; see LayerCapture for what each one is.

    entropy, row_max, distance  [H, Q];  column_sum [H, K];  allowed [Q];  seen_by [K]
    """

    entropy: Floats
    row_max: Floats
    distance: Floats
    column_sum: Floats
    allowed: NDArray[np.int64]
    seen_by: NDArray[np.int64]


def visibility(queries: int, keys: int, *, causal: bool, window: int | None = None) -> Bools:
    """[Q, K] True where query q may see key k; a window counts the query itself."""
    q, k = np.arange(queries)[:, None], np.arange(keys)[None, :]
    seen = np.ones((queries, keys), dtype=np.bool_)
    if causal:
        seen &= k <= q
    if window is not None:
        seen &= np.abs(q - k) < window
    return seen


def attention(
    q: Floats,
    k: Floats,
    seen: Bools,
    *,
    scale: float,
    bias: Floats | None = None,
    softcap: float | None = None,
    sinks: Floats | None = None,
) -> NDArray[np.float64]:
    """[H, Q, K] softmax over the visible keys, row by row.

    q [H, Q, D], k [H_kv, K, D], seen [Q, K]; `sinks` [H] adds a logit that takes weight and is no key.
    """
    heads, queries = q.shape[:2]
    weights = np.zeros((heads, queries, k.shape[1]))
    for head in range(heads):
        keys = k[head // (heads // len(k))].astype(np.float64)
        for row in range(queries):
            scores = keys @ q[head, row].astype(np.float64) * scale
            if softcap is not None:
                scores = softcap * np.tanh(scores / softcap)
            if bias is not None:
                scores = scores + bias[head if len(bias) > 1 else 0, row]
            visible = np.flatnonzero(seen[row])
            if len(visible):
                powers = np.exp(scores[visible] - scores[visible].max())
                rest = 0.0 if sinks is None else np.exp(float(sinks[head]) - scores[visible].max())
                weights[head, row, visible] = powers / (powers.sum() + rest)
    return weights


def brute_force(weights: Floats, seen: Bools) -> Statistics:
    """Statistics of maps [H, Q, K] under a mask [Q, K], one row at a time."""
    heads, queries, keys = weights.shape
    entropy, row_max, distance = (np.zeros((heads, queries)) for _ in range(3))
    column_sum = np.zeros((heads, keys))
    for head in range(heads):
        for row in range(queries):
            p = weights[head, row].astype(np.float64)
            positive = p[p > 0]
            entropy[head, row] = -np.sum(positive * np.log2(positive))
            row_max[head, row] = p.max()
            distance[head, row] = np.sum(p * np.abs(row - np.arange(keys)))
            column_sum[head] += p
    return Statistics(entropy, row_max, distance, column_sum, seen.sum(axis=1), seen.sum(axis=0))


def thumbnail(weights: Floats, edge: int = 64) -> NDArray[np.uint8]:
    """[H, n, m] round(255·√max) over square cells of the maps [H, Q, K]; at most `edge` cells a side."""
    heads, queries, keys = weights.shape
    cell = max(1, -(-max(queries, keys) // edge))
    rows, columns = -(-queries // cell), -(-keys // cell)
    picture = np.zeros((heads, rows, columns), dtype=np.uint8)
    for i in range(rows):
        for j in range(columns):
            block = weights[:, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell]
            picture[:, i, j] = np.round(255 * np.sqrt(block.max(axis=(1, 2))))
    return picture


def ranked(weights: Floats, count: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The `count` largest weights of each row of maps [H, Q, K], descending; their keys, -1 beside a weight of 0."""
    keys = np.argsort(-weights, axis=-1, kind="stable")[..., :count]
    values = np.take_along_axis(weights, keys, axis=-1)
    return values.astype(np.float32), np.where(values > 0, keys, -1).astype(np.int32)


def capture(
    q: Floats,
    k: Floats,
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    visible: Bools | None = None,
    bias: Floats | None = None,
    softcap: float | None = None,
    sinks: Floats | None = None,
    edge: int = 64,
) -> LayerCapture:
    """A LayerCapture of these queries and keys, with statistics by brute force.

    q [H, Q, D], k [H_kv, K, D]; scale is 1/√D unless given; `visible` [Q, K] hides further keys (padding).
    """
    scale = 1.0 / float(np.sqrt(q.shape[2])) if scale is None else scale
    mask = None if window is None else visibility(q.shape[1], k.shape[1], causal=False, window=window)
    if visible is not None:
        mask = visible if mask is None else mask & visible
    seen = visibility(q.shape[1], k.shape[1], causal=causal)
    if mask is not None:
        seen &= mask
    weights = attention(q, k, seen, scale=scale, bias=bias, softcap=softcap, sinks=sinks)
    found = brute_force(weights, seen)
    return LayerCapture(
        q=q.astype(np.float32),
        k=k.astype(np.float32),
        scale=scale,
        causal=causal,
        entropy=found.entropy.astype(np.float32),
        row_max=found.row_max.astype(np.float32),
        distance=found.distance.astype(np.float32),
        column_sum=found.column_sum.astype(np.float32),
        allowed=found.allowed,
        seen_by=found.seen_by,
        thumbnail=thumbnail(weights, edge),
        visible=mask,
        bias=bias,
        softcap=softcap,
        sinks=sinks,
    )


def capture_map(weights: Floats, *, causal: bool = True, visible: Bools | None = None, edge: int = 64) -> LayerCapture:
    """A LayerCapture of maps [H, Q, K] that are given as they are, with statistics by brute force."""
    seen = visibility(*weights.shape[1:], causal=causal)
    if visible is not None:
        seen &= visible
    found = brute_force(weights, seen)
    return LayerCapture(
        q=None,
        k=None,
        scale=1.0,
        causal=causal,
        entropy=found.entropy.astype(np.float32),
        row_max=found.row_max.astype(np.float32),
        distance=found.distance.astype(np.float32),
        column_sum=found.column_sum.astype(np.float32),
        allowed=found.allowed,
        seen_by=found.seen_by,
        thumbnail=thumbnail(weights, edge),
        visible=visible,
        weights=weights.astype(np.float32),
    )


def random_trace(
    tokens: int,
    *,
    heads: Sequence[int] = (4, 4),
    kv_heads: Sequence[int] | None = None,
    windows: Sequence[int | None] | None = None,
    missing: Sequence[int] = (),
    causal: bool = True,
    width: int = 8,
    seed: int = 0,
) -> Trace:
    """A trace of random queries and keys: one layer per entry of `heads`; the layers in `missing` have no attention."""
    rng = np.random.default_rng(seed)
    layers: list[LayerCapture | None] = []
    for index, count in enumerate(heads):
        shared = count if kv_heads is None else kv_heads[index]
        q, k = rng.normal(0, 2, (count, tokens, width)), rng.normal(size=(shared, tokens, width))
        layer = capture(q, k, causal=causal, window=None if windows is None else windows[index])
        layers.append(None if index in missing else layer)
    return Trace(layers=tuple(layers), missing=dict.fromkeys(missing, "a linear layer: it has no map"))
