"""How much each source contributes to the target, over all orders in which sources could be added.

Shapley 1953, "A Value for n-Person Games". With v(S) the number that is explained where only the sources in S keep
their embeddings and a baseline stands in for all others, and N all C sources:

    φ_j = Σ_{S ⊆ N∖{j}} |S|!·(C − |S| − 1)!/C! · (v(S ∪ {j}) − v(S))        Σ_j φ_j = v(N) − v(∅)

Up to 12 sources this is summed as it stands, 2^C passes. Beyond, it is the mean over random orders of what a source
changes when its turn comes (Castro et al. 2009, "Polynomial calculation of the Shapley value based on sampling"): the
sum holds for each order by itself, and how far the mean is from its limit is told by the spread of the orders.

Misleads because most of these runs are full of holes, such as no text has; and the answer depends on the baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Bools, Floats, Param, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.baseline import BASELINE, baseline
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.question import SHARED, SOURCES
from attnviz.plugins.analyses.attribution.sampling import PLACE, SEED, generator

if TYPE_CHECKING:
    import torch

Numbers = NDArray[np.float64]

EXACT = 12
"""Most sources of which every set is tried."""


@dataclass(frozen=True)
class Game:
    """Runs in which a baseline `start` [n, d] stands in for some of the sources."""

    engine: Engine
    start: torch.Tensor
    progress: Callable[[float, str], None]

    @property
    def players(self) -> int:
        """C"""
        return len(self.engine.question.sources)

    def worth(self, coalitions: Bools) -> Numbers:
        """[B, C] which sources keep their embeddings -> [B, R] of every target."""
        size, count = self.engine.batch, len(coalitions)
        found = []
        for first in range(0, count, size):
            self.progress(first / count, f"run {first + 1} of {count}")
            found.append(as_array(self.engine.values(self._runs(coalitions[first : first + size]))))
        return self.engine.question.by_target(np.concatenate(found).astype(np.float64)).astype(np.float64)

    def _runs(self, coalitions: Bools) -> torch.Tensor:
        """[b, C] -> [b, n, d]"""
        import torch

        lengths = [span.stop - span.index for span in self.engine.question.sources]
        kept = torch.tensor(np.repeat(coalitions, lengths, axis=1), device=self.start.device)
        return torch.where(kept[:, :, None], self.engine.embeddings, self.start)


@dataclass(frozen=True)
class Division:
    """What the sources get.

    scores  [R, C];  nothing, everything  [R] worth of no source, and of all
    error   largest standard error of a score, None where every set was tried
    """

    scores: Numbers
    nothing: Numbers
    everything: Numbers
    error: float | None = None


def of_all_sets(game: Game) -> Division:
    """The formula itself."""
    players = game.players
    sets = np.arange(1 << players)
    member = (sets[:, None] >> np.arange(players) & 1).astype(np.bool_)  # [2^C, C]
    worth = game.worth(member)
    weights = 1 / np.array([players * comb(players - 1, size) for size in range(players)])  # by size of the rest
    scores = np.zeros((worth.shape[1], players))
    for player in range(players):
        rest = sets[~member[:, player]]
        gains = worth[rest | 1 << player] - worth[rest]  # [2^(C−1), R]
        scores[:, player] = weights[member[rest].sum(axis=1)] @ gains
    return Division(scores, worth[0], worth[-1])


def of_orders(game: Game, orders: NDArray[np.int64]) -> Division:
    """Mean over `orders` [K, C] of what each source changes in its turn."""
    players = game.players
    turns = np.argsort(orders, axis=1)  # [K, C] when each source comes
    stages = turns[:, None, :] < np.arange(1, players)[:, None]  # [K, C − 1, C], nothing and everything left out
    ends = np.repeat(np.array([[False], [True]]), players, axis=1)
    worth = game.worth(np.concatenate([ends, stages.reshape(-1, players)]))
    nothing, everything, between = worth[0], worth[1], worth[2:].reshape(len(orders), players - 1, -1)
    path = np.concatenate([np.broadcast_to(end, (len(orders), 1, len(end))) for end in (nothing, everything)], axis=1)
    path = np.concatenate([path[:, :1], between, path[:, 1:]], axis=1)  # [K, C + 1, R]
    gains = np.take_along_axis(np.diff(path, axis=1), turns[:, :, None], axis=1)  # [K, C, R]
    error = float(gains.std(axis=0, ddof=1).max()) / len(orders) ** 0.5
    return Division(gains.mean(axis=0).T, nothing, everything, error)


def random_orders(seed: int, count: int, players: int) -> NDArray[np.int64]:
    """[K, C] of `count` orders; of fewer players the same ones, without those that are left out."""
    drawn = np.stack([generator(seed, sample, PLACE).random(players) for sample in range(count)])
    return np.argsort(drawn, axis=1)


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors; BadInput for a baseline that the model does not have."""
    about = About(
        name="shapley",
        unit="{}",
        signed=True,
        info=(
            "Shapley values (Shapley 1953): what each source changes of each target when it takes its place, averaged "
            "over the orders in which sources can do so.",
            "delta: the sum over all sources, minus the difference between the run and the run without any source.",
        ),
        warnings=("Runs with some sources taken away are no text, and another baseline gives other scores.",),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    start, removed = baseline(engine, request, request.params["baseline"])
    game, seed, count = Game(engine, start, request.progress), request.params["seed"], request.params["orders"]
    if game.players <= EXACT:
        found = of_all_sets(game)
        how = f"All {1 << game.players} sets of {game.players} sources."
    else:
        found = of_orders(game, random_orders(seed, count, game.players))
        how = (
            f"{count} random orders of {game.players} sources (seed {seed}); every set of sources is tried up to "
            f"{EXACT}. Largest standard error of a score: {found.error:.2g}."
        )
    delta = found.scores.sum(axis=1) - (found.everything - found.nothing)
    return Rows(
        scores=_exact(engine, found.scores),
        values=_exact(engine, found.everything),
        delta=_exact(engine, delta),
        info=(f"Taken away: every token of a source is replaced by {removed}.", how),
        warnings=() if found.error is None else ("Sampled: see the standard error, and compare another seed.",),
    )


def _exact(engine: Engine, numbers: Numbers) -> Floats:
    """As precise as the model."""
    precise: Floats = numbers.astype(as_array(engine.embeddings[:0]).dtype)
    return precise


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Shapley values."""
    shared = tuple(replace(param, default="word") if param is SOURCES else param for param in SHARED)
    return [
        Analysis(
            name="shapley",
            title="Shapley values",
            group="Attribution",
            summary="How much each word contributes, over all orders in which words could be added; adds up exactly.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(
                *shared,
                BASELINE,
                Param(
                    "orders",
                    "int",
                    default=16,
                    minimum=2,
                    maximum=4096,
                    help=f"Random orders that are tried where there are more than {EXACT} sources.",
                ),
                SEED,
            ),
            gpu=True,
        )
    ]
