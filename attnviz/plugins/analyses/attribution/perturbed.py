"""Runs with some of their sources taken away, each put through the model once.

What is to be read of which run is collected first. A run that several targets need is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from attnviz.hooks import Bools, Ints
from attnviz.plugins.analyses.attribution.faithfulness_figures import Walk
from attnviz.plugins.analyses.attribution.orders import Order
from attnviz.plugins.analyses.attribution.question import Question
from attnviz.plugins.analyses.attribution.removal import DROPPED, Removal


@dataclass
class Runs:
    """Collects what is to be read of which runs, then reads it.

    own       [R, C] the sources of each target
    removals  an engine for all targets, or one for each where states depend on later tokens
    """

    question: Question
    own: Bools
    removals: Sequence[Removal]
    _asked: dict[bytes, set[int]] = field(default_factory=dict)
    _alike: dict[tuple[int, bytes], bytes] = field(default_factory=dict)
    _found: dict[tuple[bytes, int], float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Runs that are put through the model."""
        return sum(len(group) for _, _, group in self._groups())

    def ask(self, away: Ints, target: int) -> bytes:
        """A run without these sources is to be read for a target; returns its name.

        Runs without the same sources of the target are one run to it: what is equal is not told apart by rounding.
        """
        removed = np.zeros(len(self.question.sources), np.bool_)
        removed[away] = True
        name = self._alike.setdefault((target, (removed & self.own[target]).tobytes()), removed.tobytes())
        self._asked.setdefault(name, set()).add(target)
        return name

    def read(self, name: bytes, target: int) -> float:
        """Log-probability of the target in that run, summed over its tokens."""
        return self._found[name, target]

    def compute(self, progress: Callable[[float, str], None]) -> None:
        """Everything that was asked for."""
        done, count = 0, self.count
        for removal, targets, names in self._groups():
            places = {target: self._places(removal, target) for target in targets}
            read = [place for target in targets for place in places[target]]
            at = 0
            for values in removal.values(self._tokens_of(removal, names), read):
                progress(done / count, f"changed run {done + 1} of {count}")
                starts = np.cumsum([0, *(len(places[target]) for target in targets[:-1])])
                summed = np.add.reduceat(values, starts, axis=1)  # [b, targets]
                for name, row in zip(names[at : at + len(values)], summed.tolist(), strict=True):
                    self._found.update({(name, target): value for target, value in zip(targets, row, strict=True)})
                done, at = done + len(values), at + len(values)

    def _groups(self) -> Iterable[tuple[Removal, Sequence[int], Sequence[bytes]]]:
        """Runs that are read together: for which targets, in order, and which runs.

        A token that stands in leaves every position readable, so runs with the same last target share a batch; of what
        is dropped only that is read which was asked for.
        """
        for number, removal in enumerate(self.removals):
            mine = set(range(len(self.question.targets))) if len(self.removals) == 1 else {number}
            groups: dict[tuple[int, ...], list[bytes]] = {}
            for name, targets in self._asked.items():
                if wanted := sorted(targets & mine):
                    key = tuple(wanted) if removal.words == DROPPED else (wanted[-1],)
                    groups.setdefault(key, []).append(name)
            for key, names in groups.items():
                together = set.union(*(self._asked[name] & mine for name in names))
                yield removal, sorted(together) if len(key) == 1 else key, names

    def _places(self, removal: Removal, target: int) -> range:
        """Of a target among the target tokens of the engine."""
        group = removal.engine.question.groups[target if len(self.removals) == 1 else 0]
        return range(group.start, group.stop)

    def _tokens_of(self, removal: Removal, names: Sequence[bytes]) -> Bools:
        """[B, n] tokens of the sources that are away; control tokens stay."""
        question = self.question
        cover = np.zeros((len(question.sources), len(question.tokens)), np.bool_)  # [C, T]
        for row, source in zip(cover, question.sources, strict=True):
            row[source.index : source.stop] = ~question.tokens.special[source.index : source.stop]
        away = np.stack([np.frombuffer(name, np.bool_) for name in names])  # [B, C]
        found: Bools = (away.astype(np.float32) @ cover.astype(np.float32) > 0)[:, : removal.engine.question.count]
        return found


@dataclass(frozen=True)
class Plan:
    """The runs that a walk down an order needs, by their names."""

    target: int
    whole: bytes
    without: Mapping[int, bytes]
    only: Mapping[int, bytes]

    def walk(self, runs: Runs, number: Callable[[float], float]) -> Walk:
        """What they say, as `number` makes it of a log-probability."""

        def read(names: Mapping[int, bytes]) -> dict[int, float]:
            return {k: number(runs.read(name, self.target)) for k, name in names.items()}

        return Walk(number(runs.read(self.whole, self.target)), read(self.without), read(self.only))


def plan(runs: Runs, target: int, order: Order, sizes: Iterable[int]) -> Plan:
    """Asks for the runs in which the best of `sizes` are away, or alone are left."""
    count = int(order.own.sum())
    whole = runs.ask(np.array([], np.int64), target)
    nothing = runs.ask(order.sources, target)
    without = {k: whole if k == 0 else nothing if k == count else runs.ask(order.without(k), target) for k in sizes}
    only = {k: nothing if k == 0 else whole if k == count else runs.ask(order.only(k), target) for k in sizes}
    return Plan(target, whole, without, only)
