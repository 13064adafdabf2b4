"""How far two lists of numbers put the same things in the same order.

Spearman's ρ is the Pearson correlation of ranks, equal values sharing their mean rank. Kendall's τ-b (Kendall 1945) is
(concordant − discordant) / √((n₀ − n₁)(n₀ − n₂)) with n₀ = n(n−1)/2 pairs, of which n₁ and n₂ are ties of either side.
Both are NaN where there is nothing to order: fewer than two numbers, or one side alike everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["kendall", "spearman"]


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's ρ of two [n] arrays without NaN; NaN where there is nothing to order."""
    one, two = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second))) if len(first) else ((), ())
    size = float(np.sqrt(np.dot(one, one) * np.dot(two, two)))
    return float(np.dot(one, two)) / size if size > 0 else float("nan")


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 for the smallest; equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return ranks


def kendall(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Kendall's τ-b of two [n] arrays without NaN; NaN where there is nothing to order. By sorting (Knight 1966)."""
    order = np.lexsort((second, first))
    one, two = np.unique(first, return_inverse=True)[1][order], np.unique(second, return_inverse=True)[1][order]
    pairs = len(one) * (len(one) - 1) // 2
    ties_one, ties_two = _ties(one), _ties(two)
    ties_both = _ties(one * (len(two) + 1) + two)
    discordant = _inversions(two.astype(np.int64))
    size = float(np.sqrt(float(pairs - ties_one) * float(pairs - ties_two)))
    return (pairs - ties_one - ties_two + ties_both - 2 * discordant) / size if size > 0 else float("nan")


def _ties(values: NDArray[np.integer]) -> int:
    """Pairs of equal values."""
    count = np.unique(values, return_counts=True)[1].astype(np.int64)
    return int((count * (count - 1) // 2).sum())


def _inversions(values: NDArray[np.int64]) -> int:
    """Pairs that stand in the wrong order: merge sort, a level at a time for all blocks at once."""
    count, found, width = len(values), 0, 1
    place = np.arange(count)
    while width < count:
        block = place // (2 * width)
        left = (place // width) % 2 == 0
        span = int(values.max()) + 1
        keys = block * span + values  # ordered by block, then by value
        lefts = np.sort(keys[left])
        ends = np.searchsorted(lefts, (block[~left] + 1) * span)  # all of the left half
        found += int((ends - np.searchsorted(lefts, keys[~left], side="right")).sum())
        values = np.sort(keys) % span
        width *= 2
    return found
