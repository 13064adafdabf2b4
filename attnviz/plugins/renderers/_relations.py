"""Who attends to whom as a page draws it: the strongest weights, how all are distributed, what each one receives."""

from __future__ import annotations

from typing import Any

import numpy as np

from attnviz.hooks import Floats

EDGES = 200
"""Strongest weights that reach the page."""
BINS = 30


def relations(weights: Floats) -> dict[str, Any]:
    """Of a map [S, S], row = attends, column = attended.

    edges      [row, column, weight], the strongest first, of those above 0
    total      sum of all weights;  pairs, zeros  how many weights there are, and how many of them are 0
    from, to   log10 of the smallest and the largest weight above 0, the ends of `counts`, BINS bins of equal width
    uniform    log10 of 1 / S, the weight that every pair has where attention is spread evenly
    received   [S] sum of each column

    A map without any weight above 0 has no edges and no counts.
    """
    map_ = np.asarray(weights, np.float64)
    places = np.argsort(-map_, axis=None, kind="stable")[:EDGES]
    rows, columns = np.unravel_index(places, map_.shape)
    edges = [[int(q), int(k), float(map_[q, k])] for q, k in zip(rows, columns, strict=True) if map_[q, k] > 0]
    logs = np.log10(map_[map_ > 0])
    low, high = (float(logs.min()), float(logs.max())) if len(logs) else (0.0, 0.0)
    high = high if high > low else low + 1e-9  # all alike: one bin
    return {
        "edges": edges,
        "total": float(map_.sum()),
        "pairs": int(map_.size),
        "zeros": int((map_ <= 0).sum()),
        "from": low,
        "to": high,
        "counts": np.histogram(logs, bins=BINS, range=(low, high))[0].tolist() if len(logs) else [],
        "uniform": float(-np.log10(len(map_))),
        "received": map_.sum(axis=0).tolist(),
    }
