"""The figures of faithfulness, of one target and one ranking of its m sources.

With p the number that is read of the target (its probability), x the run, x∖k the run with the k best ranked sources
taken away, x|k the run with only these k left of all m, and k(s) = ⌈s·m⌉ (so at least 1) for a share s:

    comprehensiveness(s) = p(x) − p(x∖k(s))       how much is lost without them (DeYoung et al. 2020, "ERASER")
    sufficiency(s)       = p(x) − p(x|k(s))       how much is lost with only them (ibid.)
    AOPC                 = the mean of either over s = 1, 5, 10, 20 and 50 % (Samek et al. 2017, "Evaluating the
                           Visualization of What a Deep Neural Network Has Learned"; ERASER adds the share of nothing,
                           0 in comprehensiveness, and divides by 6)
    deletion AUC         = ∫₀¹ p(x∖k) d(k/m)      from the run to nothing left (Petsiuk et al. 2018, "RISE")
    insertion AUC        = ∫₀¹ p(x|k) d(k/m)      from nothing to the run (ibid.), both by the trapezoid rule
    Kendall tau-b        of the scores and of leave-one-out, p(x) − p(x without that source)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attnviz.hooks import Floats, Ints
from attnviz.plugins.analyses.attribution.removal import Numbers

SHARES = (0.01, 0.05, 0.10, 0.20, 0.50)
HIGHER, LOWER = "higher", "lower"
TAU = "Kendall tau-b with leave-one-out"


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


BETTER: Mapping[str, str] = {
    **{f"comprehensiveness {_percent(share)}": HIGHER for share in SHARES},
    "comprehensiveness AOPC": HIGHER,
    **{f"sufficiency {_percent(share)}": LOWER for share in SHARES},
    "sufficiency AOPC": LOWER,
    "deletion AUC": LOWER,
    "insertion AUC": HIGHER,
    TAU: HIGHER,
}
"""Name of every figure -> whether a faithful ranking makes it higher or lower."""


def taken(share: float, count: int) -> int:
    """k(s): how many of `count` sources a share is; 1 at least."""
    return int(np.ceil(round(share * count, 9)))  # 0.07 · 100 is a little more than 7


def steps(count: int, points: int) -> Ints:
    """[S] how many of `count` sources are taken away at each of `points` + 1 places of a curve, from none to all."""
    found: Ints = np.round(np.linspace(0, count, points + 1)).astype(np.int64)
    return found


def needed(count: int, points: int) -> list[int]:
    """Every k that the figures are made of."""
    return sorted({*steps(count, points).tolist(), *(taken(share, count) for share in SHARES)})


@dataclass(frozen=True)
class Walk:
    """What a ranking of m sources makes of a target.

    whole    p(x)
    without  k -> p(x∖k);  only  k -> p(x|k)
    """

    whole: float
    without: Mapping[int, float]
    only: Mapping[int, float]

    def deletion(self, counts: Ints) -> Numbers:
        """[S]"""
        return np.array([self.without[k] for k in counts.tolist()])

    def insertion(self, counts: Ints) -> Numbers:
        """[S]"""
        return np.array([self.only[k] for k in counts.tolist()])


def figures(walk: Walk, count: int, points: int, tau: float) -> Numbers:
    """All of BETTER, in its order."""
    counts, sizes = steps(count, points), [taken(share, count) for share in SHARES]
    lost = [walk.whole - walk.without[k] for k in sizes]
    missing = [walk.whole - walk.only[k] for k in sizes]
    areas = [area(counts / count, curve) for curve in (walk.deletion(counts), walk.insertion(counts))]
    return np.array([*lost, np.mean(lost), *missing, np.mean(missing), *areas, tau])


def area(places: Floats, values: Floats) -> float:
    """Under the straight lines between the points of a curve."""
    return float(((values[1:] + values[:-1]) / 2 * np.diff(places)).sum())
