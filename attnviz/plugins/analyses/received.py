"""How much attention each key receives, corrected for how many queries may see it.

Early keys are seen by more queries, and by queries with fewer keys to share their weight among, so a plain column sum
favours them whatever the model does. A uniform head would give key k the sum of 1/n(q) over the queries q that see it,
n(q) being the number of keys visible to q. Dividing by that sum gives

    received(k) = Σ_q A[q, k] / Σ_{q sees k} 1/n(q)

so that 1.0 means "as much as a uniform head would give". (Σ_q A[q, k] / #{q sees k}, divided by the mean over those q
of 1/n(q), is the same number: the count cancels.)
"""

from __future__ import annotations

import numpy as np

from attnviz.hooks import Floats, LayerCapture

_ROWS = 256  # rows of the visibility mask looked at in one go: keeps a long context in the cache


def expected_column_sum(capture: LayerCapture) -> Floats:
    """[K] column sums of a uniform head under the mask of this layer; 0 for a key that no query sees."""
    queries, keys = len(capture.allowed), len(capture.seen_by)
    allowed = capture.allowed.astype(np.float64)
    share = np.divide(1.0, allowed, out=np.zeros(queries), where=allowed > 0)  # [Q] 1 / n(q)
    if capture.visible is None and not capture.causal:
        return np.full(keys, share.sum())
    if capture.visible is None and queries == keys:  # plain causal: key k is seen by the queries from k on
        return share[::-1].cumsum()[::-1]
    expected = np.zeros(keys)
    for start in range(0, queries, _ROWS):
        rows = slice(start, min(start + _ROWS, queries))
        hidden = capture.hidden(rows)
        assert hidden is not None
        expected += share[rows] @ ~hidden
    return expected


def received(capture: LayerCapture) -> Floats:
    """[H, K] corrected received attention of every head; NaN for a key that no query sees."""
    expected = expected_column_sum(capture)
    corrected: Floats = np.full(capture.column_sum.shape, np.nan)
    np.divide(capture.column_sum.astype(np.float64), expected, out=corrected, where=expected > 0)
    return corrected
