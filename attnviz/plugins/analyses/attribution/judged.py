"""All figures of a ranking, and those of random orders of the same sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnviz.hooks import Floats, Ints, kendall
from attnviz.plugins.analyses.attribution.faithfulness_figures import Walk, figures, needed, steps
from attnviz.plugins.analyses.attribution.orders import best_first, cut, sources_of
from attnviz.plugins.analyses.attribution.perturbed import Runs, plan
from attnviz.plugins.analyses.attribution.question import Question
from attnviz.plugins.analyses.attribution.removal import Numbers, Removal
from attnviz.plugins.analyses.attribution.shapley import random_orders

NUMBERS: Mapping[str, Callable[[float], float]] = {"probability": math.exp, "log_probability": float}
"""What is read of a target, made of its log-probability."""


@dataclass(frozen=True)
class Judging:
    """How rankings are judged.

    number   one of NUMBERS;  points  of a curve, besides the first
    orders   N random ones, of `seed`
    """

    number: str
    points: int
    orders: int
    seed: int


@dataclass(frozen=True)
class Judged:
    """What came out, the figures in the order of BETTER.

    method   [F, R];  chance  [N, F, R] of random orders
    counts   R numbers of sources;  shares  [R, S] of them at the places of the curves
    curves   [2, R, S] deletion and insertion;  random_curves  [2, R, S] mean over the orders
    passes   changed runs that were put through the model
    """

    method: Numbers
    chance: Numbers
    counts: tuple[int, ...]
    shares: Numbers
    curves: Numbers
    random_curves: Numbers
    passes: int


def judge(
    question: Question,
    scores: Sequence[Floats],
    removals: Sequence[Removal],
    judging: Judging,
    progress: Callable[[float, str], None],
    *,
    signed: bool,
) -> Judged:
    """Judge `scores`, of every target those of its own sources (see sources_of).

    removals   of an engine for all targets, or of one for each
    signed     scores with signs are compared with leave-one-out as it is, others with its absolute value
    """
    own, targets = sources_of(question), range(len(question.targets))
    runs = Runs(question, own, removals)
    drawn = random_orders(judging.seed, judging.orders, len(question.sources))  # [N, C]
    rows = [[best_first(scores[r], own[r]) for r in targets]]
    rows += [[cut(order, own, r, question) for r in targets] for order in drawn]
    sizes = [needed(len(row), judging.points) for row in scores]
    plans = [[plan(runs, r, order, sizes[r]) for r, order in enumerate(row)] for row in rows]  # [1 + N][R]
    alone = [[runs.ask(np.array([source]), r) for source in np.flatnonzero(own[r])] for r in targets]
    runs.compute(progress)

    read = NUMBERS[judging.number]
    walks = [[planned.walk(runs, read) for planned in row] for row in plans]
    lost = [_lost(runs, walks[0][r], r, alone[r], read) for r in targets]
    compared = lost if signed else [np.abs(row) for row in lost]
    ranks = [scores, *([order.scores() for order in row] for row in rows[1:])]
    every = np.array(
        [
            [
                figures(walk, len(scores[r]), judging.points, kendall(rank, compared[r]))
                for r, (walk, rank) in enumerate(zip(*row, strict=True))
            ]
            for row in zip(walks, ranks, strict=True)
        ]
    ).swapaxes(1, 2)  # [1 + N, F, R]
    at = [steps(len(row), judging.points) for row in scores]
    curves = np.array([[_curves(walk, at[r]) for r, walk in enumerate(row)] for row in walks])  # [1 + N, R, 2, S]
    curves = curves.swapaxes(1, 2)
    return Judged(
        method=every[0],
        chance=every[1:],
        counts=tuple(len(row) for row in scores),
        shares=np.array([places / len(row) for places, row in zip(at, scores, strict=True)]),
        curves=curves[0],
        random_curves=curves[1:].mean(axis=0),
        passes=runs.count,
    )


def _lost(runs: Runs, walk: Walk, target: int, names: Sequence[bytes], read: Callable[[float], float]) -> Numbers:
    """[m] leave-one-out."""
    return np.array([walk.whole - read(runs.read(name, target)) for name in names])


def _curves(walk: Walk, counts: Ints) -> list[Numbers]:
    return [walk.deletion(counts), walk.insertion(counts)]
