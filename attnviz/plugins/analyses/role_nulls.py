"""Is a head's score more than chance? Every role has a null, and one threshold for all heads together.

The null of each role answers what could make its score high without the head having that role:

    previous_token, self, local_window   the head cares for few keys, whichever: each row's keys are replaced by as many
                                         neighbouring visible keys from a random place on (wrapping round)
    first_token                          the head cares for one key, whichever: every other key in turn is taken for
                                         the first one
    duplicate_token, induction           the head cares for certain places: on a text, the ids of ordinary tokens are
                                         shuffled over their positions (control tokens and position 0 stay) while the
                                         attention stays; on random tokens, the second half is not a repetition

Chance is family-wise (Westfall & Young 1993, max-T): a head's probability is the share of null draws in which the best
of all heads does as well as this head does. It holds however many heads are looked at at once, and however they
depend on one another. The first of the nulls takes the rows of a head for independent, which rows of one text are not
quite; for local_window, where neighbouring rows share keys, small probabilities come out somewhat too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnviz.hooks import Bools, Floats, Ints, Trace
from attnviz.plugins.analyses.roles import (
    BY_ID,
    BY_POSITION,
    Sample,
    Totals,
    after_copies,
    applies,
    blocks,
    earlier_copies,
    existing,
    keys_of_ids,
    keys_of_positions,
    read,
)

DRAWS = 500
"""Null draws of a text: the least probability that can be found is 1/501, below every threshold in CHANCE."""
CHANCE = {
    "first_token": 0.025,
    "previous_token": 0.005,
    "self": 0.005,
    "duplicate_token": 0.005,
    "induction": 0.005,
    "local_window": 0.005,
}
"""Probability, per role, that chance alone gives any head of the model that role. They sum to 0.05, the usual level,
for all heads and roles together. The first token has half of it because its null has only as many draws as there are
keys: at 0.005 a text would need 200 of them."""
SEEN = 0.25
"""A key is taken for the first one only if at least this share of the queries see it: a mean over fewer says little."""
LITTLE = 0.01
"""A hundredth of the weight is no difference worth finding: it is added to every spread, so that a head that differs by
a hair, but always, does not set the threshold for all others."""
_SEED = 0


@dataclass(frozen=True)
class Evidence:
    """One role on one ground.

    score, null, chance  [L, H]; NaN where there is no head or the role never applies. chance: family-wise probability
    draws    null draws that `chance` was counted in
    queries  [L] rows that counted
    attends  [L] the layer has attention
    """

    score: Floats
    null: Floats
    chance: Floats
    draws: int
    queries: Floats
    attends: Bools

    @property
    def effect(self) -> Floats:
        """[L, H] share of the possible rise over the null: 1 = all weight, 0 = no more than the null.

        NaN where the null leaves no room, as far as float32 weights can tell.
        """
        room = 1 - self.null
        effect: Floats = np.full(self.score.shape, np.nan)
        np.divide(self.score - self.null, room, out=effect, where=room > 1e-5)
        return effect


def family_wise(observed: Floats, draws: Floats) -> Floats:
    """[L, H] share of draws, this one included, whose best head does at least as well; draws [B, L, H]."""
    best = np.sort(np.where(np.isnan(draws), -np.inf, draws).max(axis=(1, 2), initial=-np.inf))
    as_well = len(best) - np.searchsorted(best, observed, side="left")
    chance: Floats = np.where(np.isnan(observed), np.nan, (1 + as_well) / (1 + len(best)))
    return chance


def _standardised(score: Floats, draws: Floats) -> tuple[Floats, Floats]:
    """Score and draws in units of each head's own spread; the score counts as one of the draws."""
    together = np.concatenate([score[None], draws])
    known = ~np.isnan(together)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, together, 0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, (together - mean) ** 2, 0).sum(axis=0) / count)
    scaled = (together - mean) / (spread + LITTLE)
    return scaled[0], scaled[1:]


# --------------------------------------------------------------------------------------------- roles by position


def by_position(samples: Sequence[Sample], window: int) -> dict[str, Evidence]:
    """Evidence of the roles that depend on positions alone, over all samples together (which are equally long)."""
    rng = np.random.default_rng(_SEED)
    trace = samples[0].trace
    tokens, layers, heads = len(samples[0].ids), len(trace.layers), trace.heads
    totals = {role: Totals.empty(layers, heads) for role in BY_POSITION}
    elsewhere = {role: np.zeros((DRAWS, layers, heads)) for role in BY_POSITION if role != "first_token"}
    columns = _Columns.empty(layers, heads, tokens)
    for sample in samples:
        for rows in blocks(tokens, heads):
            keys = keys_of_positions(tokens, rows, window)
            places = rng.random((DRAWS, len(range(*rows.indices(tokens)))))  # one for all heads and roles
            for index, capture in enumerate(sample.trace.layers):
                if capture is None:
                    continue
                patterns, seen = read(capture, rows)
                for role in BY_POSITION:
                    totals[role].add(index, patterns, keys[role], seen)
                columns.add(index, patterns, seen)
                for role, drawn in elsewhere.items():
                    drawn[:, index, : capture.heads] += mass_elsewhere(patterns, keys[role], seen, places)
    there = existing(trace)
    found = {}
    for role, drawn in elsewhere.items():
        rows_counted = np.where(totals[role].queries > 0, totals[role].queries, np.nan)
        scaled = _standardised(totals[role].score(), drawn / rows_counted[:, None])
        found[role] = _evidence(totals[role], there, family_wise(*_only(there, *scaled)), DRAWS)
    others = columns.others()
    chance = family_wise(*_only(there, columns.of_first(), others))
    found["first_token"] = _evidence(totals["first_token"], there, chance, len(others))
    return found


def mass_elsewhere(patterns: Floats, keys: Bools, seen: Bools, places: Floats) -> Floats:
    """[B, H] what the role would be given if its keys stood elsewhere: each row's keys become as many neighbouring
    visible keys, from a random place on, wrapping round. patterns [H, q, K]; keys, seen [q, K]; places [B, q] in 0..1.
    """
    counts = applies(keys, seen)
    if not counts.any():
        return np.zeros((len(places), len(patterns)))
    patterns, keys, seen, places = patterns[:, counts], keys[counts], seen[counts], places[:, counts]
    order = np.argsort(~seen, axis=1, kind="stable")  # the visible keys first, in their order
    sums = np.zeros((*patterns.shape[:2], patterns.shape[2] + 1))
    np.cumsum(np.take_along_axis(patterns, order[None], axis=2), axis=2, dtype=np.float64, out=sums[..., 1:])
    visible, size = seen.sum(axis=1), (keys & seen).sum(axis=1)  # [q]
    start = np.minimum((places * visible).astype(np.int64), visible - 1)  # [B, q]
    stop = start + size
    row = np.arange(len(visible))
    drawn = np.empty((len(places), len(patterns)))
    for head, summed in enumerate(sums):  # [q, K + 1]
        straight = summed[row, np.minimum(stop, visible)] - summed[row, start]
        wrapped = summed[row, np.maximum(stop - visible, 0)]
        drawn[:, head] = (straight + wrapped).sum(axis=1)
    return drawn


@dataclass
class _Columns:
    """What every key receives, for comparing the first with the others.

    mass [L, H, K];  uniform [L, K] what a uniform head would give;  queries [L, K] that see the key
    """

    mass: Floats
    uniform: Floats
    queries: Floats

    @classmethod
    def empty(cls, layers: int, heads: int, tokens: int) -> _Columns:
        return cls(np.zeros((layers, heads, tokens)), np.zeros((layers, tokens)), np.zeros((layers, tokens)))

    def add(self, layer: int, patterns: Floats, seen: Bools) -> None:
        """Count rows of one layer: patterns [H, q, K], seen [q, K]."""
        self.mass[layer, : len(patterns)] += patterns.sum(axis=1, dtype=np.float64)
        self.uniform[layer] += (seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)).sum(axis=0)
        self.queries[layer] += seen.sum(axis=0)

    def _received(self) -> Floats:
        """[K, L, H] weight a key receives, 1.0 = as much as from a uniform head; NaN where too few queries see it."""
        enough = (self.queries > 0) & (self.queries >= SEEN * self.queries.max(axis=1, keepdims=True))  # [L, K]
        uniform = np.where(enough, self.uniform, np.nan)
        received: Floats = np.moveaxis(self.mass / uniform[:, None], 2, 0)
        return received

    def of_first(self) -> Floats:
        """[L, H]"""
        first: Floats = self._received()[0]
        return first

    def others(self) -> Floats:
        """[C, L, H] of every other key that enough queries see in some layer."""
        received = self._received()[1:]
        others: Floats = received[~np.isnan(received).all(axis=(1, 2))]
        return others


# --------------------------------------------------------------------------------------------- roles by id


def shuffled_ids(ids: Ints, draws: int = DRAWS) -> Ints:
    """[B, S] the ids, those of ordinary tokens shuffled over their positions; control tokens and position 0 stay."""
    rng = np.random.default_rng(_SEED)
    movable = np.flatnonzero(ids >= 0)
    movable = movable[movable > 0]
    shuffled = np.tile(ids, (draws, 1))
    for row in shuffled:
        row[movable] = rng.permutation(ids[movable])
    return shuffled


def by_id_shuffled(sample: Sample) -> dict[str, Evidence]:
    """Evidence of the roles that depend on ids, on one text: the null shuffles the ids and keeps the attention."""
    trace, tokens = sample.trace, len(sample.ids)
    layers, heads = len(trace.layers), trace.heads
    others = shuffled_ids(sample.ids)
    totals = {role: Totals.empty(layers, heads) for role in BY_ID}
    mass = {role: np.zeros((DRAWS, layers, heads)) for role in BY_ID}
    queries = {role: np.zeros((DRAWS, layers)) for role in BY_ID}
    for rows in blocks(tokens, DRAWS):
        observed = keys_of_ids(sample.ids, rows)
        copies = earlier_copies(others, rows)  # [B, q, K]
        for role, keys in (("duplicate_token", copies), ("induction", after_copies(copies, rows))):
            flat = keys.reshape(DRAWS, -1).astype(np.float32)
            everywhere = keys.any(axis=2).sum(axis=1)  # [B] rows that apply where nothing but later keys is hidden
            for index, capture in enumerate(trace.layers):
                if capture is None:
                    continue
                patterns, seen = read(capture, rows)
                totals[role].add(index, patterns, observed[role], seen)
                mass[role][:, index, : capture.heads] += flat @ patterns.reshape(capture.heads, -1).T
                queries[role][:, index] += (
                    everywhere if capture.visible is None else (keys & seen).any(axis=2).sum(axis=1)
                )
    there = existing(trace)
    return {role: _shuffled_evidence(totals[role], mass[role], queries[role], there) for role in BY_ID}


def _shuffled_evidence(totals: Totals, mass: Floats, queries: Floats, there: Bools) -> Evidence:
    drawn = mass / np.where(queries > 0, queries, np.nan)[:, :, None]  # [B, L, H]
    known = ~np.isnan(drawn)
    null = np.where(known, drawn, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    scaled = _standardised(totals.score(), drawn)
    return _evidence(totals, there, family_wise(*_only(there, *scaled)), len(drawn), null)


def by_id_paired(repeated: Sequence[Sample], unrepeated: Sequence[Trace]) -> dict[str, Evidence]:
    """Evidence of the roles that depend on ids, on random tokens: the null is the weight on the same keys when the
    second half is not a repetition. Chance: the sign of every pair's difference may as well be the other one.
    """
    trace = repeated[0].trace
    there = existing(trace)
    pairs = list(zip(repeated, unrepeated, strict=True))
    with_copy = [_id_totals(sample.ids, sample.trace) for sample in repeated]
    without = [_id_totals(sample.ids, other) for sample, other in pairs]
    found = {}
    for role in BY_ID:
        score = np.stack([totals[role].score() for totals in with_copy])  # [R, L, H]
        null = np.stack([totals[role].score() for totals in without])
        observed, draws = signs_flipped(score - null)
        found[role] = Evidence(
            score=_where(there, score.mean(axis=0)),
            null=_where(there, null.mean(axis=0)),
            chance=family_wise(*_only(there, observed, draws)),
            draws=len(draws),
            queries=np.sum([totals[role].queries for totals in with_copy], axis=0),
            attends=np.logical_or.reduce(there, axis=1),
        )
    return found


def _id_totals(ids: Ints, trace: Trace) -> dict[str, Totals]:
    """Weights of a trace on the keys that these ids make."""
    totals = {role: Totals.empty(len(trace.layers), trace.heads) for role in BY_ID}
    for rows in blocks(len(ids), trace.heads):
        keys = keys_of_ids(ids, rows)
        for index, capture in enumerate(trace.layers):
            if capture is None:
                continue
            patterns, seen = read(capture, rows)
            for role in BY_ID:
                totals[role].add(index, patterns, keys[role], seen)
    return totals


def signs_flipped(differences: Floats) -> tuple[Floats, Floats]:
    """Sum of differences over their spread, as it is [L, H] and for every other choice of signs [2^R − 1, L, H].

    differences [R, L, H]
    """
    pairs = len(differences)
    bits = np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1
    signs = 1.0 - 2.0 * bits  # [2^R, R], the first is all plus
    spread = np.sqrt((differences**2).sum(axis=0)) + np.sqrt(pairs) * LITTLE
    flipped = np.tensordot(signs, differences, axes=1) / spread
    return flipped[0], flipped[1:]


# --------------------------------------------------------------------------------------------- both


def _evidence(totals: Totals, there: Bools, chance: Floats, draws: int, null: Floats | None = None) -> Evidence:
    score = totals.score()
    uniform = np.broadcast_to(totals.uniform_score(), score.shape)
    return Evidence(
        score=_where(there, score),
        null=_where(there & ~np.isnan(score), uniform if null is None else null),
        chance=chance,
        draws=draws,
        queries=totals.queries,
        attends=np.logical_or.reduce(there, axis=1),
    )


def _where(there: Bools, values: Floats) -> Floats:
    return np.where(there, values, np.nan)


def _only(there: Bools, observed: Floats, draws: Floats) -> tuple[Floats, Floats]:
    """Both without the heads that do not exist."""
    return _where(there, observed), _where(there, draws)
