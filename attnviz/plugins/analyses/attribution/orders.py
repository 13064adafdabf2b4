"""In which order the sources of a target are taken away.

A prediction does not depend on what comes after it. So one order of all sources serves every target: cut down to the
sources of a target it is an order of these, and the run in which the first of all are away is one in which the first of
the target's are away. A ranking that belongs to one target needs runs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnviz.hooks import Bools, Floats, Ints
from attnviz.plugins.analyses.attribution.question import Question
from attnviz.plugins.analyses.attribution.removal import Numbers


def sources_of(question: Question) -> Bools:
    """[R, C] which sources a target has: those that end before it begins and are not control tokens throughout."""
    special = question.tokens.special
    free = np.array([not special[source.index : source.stop].all() for source in question.sources])
    stops = np.array([source.stop for source in question.sources])
    starts = np.array([target.index for target in question.targets])
    found: Bools = (stops[None, :] <= starts[:, None]) & free
    return found


@dataclass(frozen=True)
class Order:
    """Sources, best first: those of a target, maybe with others between that it does not see.

    sources  [g]
    own      [g] which of them are the target's
    """

    sources: Ints
    own: Bools

    @property
    def count(self) -> int:
        """m: sources of the target."""
        return int(self.own.sum())

    def without(self, best: int) -> Ints:
        """What is taken away with the best of the target's sources."""
        return self.sources[: self._end(best)]

    def only(self, best: int) -> Ints:
        """What is taken away so that only the best of the target's sources are left."""
        return self.sources[self._end(best) :]

    def scores(self) -> Numbers:
        """[m] of the target's sources in the order of the text: the higher the better they rank."""
        places: Numbers = -np.argsort(self.sources[self.own]).astype(np.float64)
        return places

    def _end(self, best: int) -> int:
        return 0 if best == 0 else int(np.flatnonzero(self.own)[best - 1]) + 1


def best_first(scores: Floats, own: Bools) -> Order:
    """A target's sources [C] by their scores [m], highest first, of equal ones the earlier first."""
    best = np.flatnonzero(own)[np.argsort(-scores, kind="stable")]
    return Order(best, np.ones(len(best), np.bool_))


def cut(order: Ints, own: Bools, target: int, question: Question) -> Order:
    """An order [C] of all sources, for one target. own: [R, C] the sources of each.

    With others between, so that targets can share runs, unless the target sees a part of one that is not its own.
    """
    seen = np.array([source.index < question.targets[target].stop - 1 for source in question.sources])
    used: Bools = np.asarray(own.any(axis=0))
    shared = not (seen & used & ~own[target]).any()
    kept = order[(used if shared else own[target])[order]]
    return Order(kept, own[target][kept])
