"""What a head is after, as sets of keys: for every query position the keys a head of that role would look at.

    previous_token   {q − 1}
    first_token      {0}
    self             {q}
    duplicate_token  earlier copies: k < q with the id of q
    induction        the tokens after earlier copies: k = j + 1 < q, where j has the id of q (Olsson et al. 2022,
                     prefix matching)
    local_window     |q − k| ≤ w

A head's score is the mean, over the queries to which the role applies, of the weight on these keys. A query counts if
it sees one of the keys and also one that is none of them. Queries 0 and 1 never count: their previous token is the
first one. Control tokens are nobody's copies: they recur because of the format, not of what is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Bools, Floats, Ints, LayerCapture, Tokens, Trace

BY_POSITION = ("previous_token", "first_token", "self", "local_window")
BY_ID = ("duplicate_token", "induction")
ROLES = ("previous_token", "first_token", "self", "duplicate_token", "induction", "local_window")
FIRST_QUERY = 2
MOST_QUERIES = 256
"""Query rows looked at; of a longer text every n-th. A mean over so many rows is exact enough, and the null needs each
of them hundreds of times."""
_ELEMENTS = 8_000_000  # of the largest array built in one go


@dataclass(frozen=True)
class Sample:
    """A text that heads are measured on. ids [S]: as `comparable` makes them."""

    ids: Ints
    trace: Trace


def decoding(tokens: Tokens, trace: Trace) -> Sample:
    """What roles are defined for: a text and the attention between its tokens.

    Of a model with encoder and decoder that is the decoder's attention to its own tokens; the other layers are left
    out.
    """
    start, layers = tokens.decoder_from or 0, list(trace.layers)
    missing, own = dict(trace.missing), (start, len(tokens))
    for index, capture in enumerate(layers):
        if capture is not None and (capture.row_span, capture.column_span) != (own, own):
            layers[index] = None
            missing[index] = "it is not the decoder's attention to its own tokens."
    return Sample(comparable(tokens)[start:], Trace(tuple(layers), missing, trace.precision))


def comparable(tokens: Tokens) -> Ints:
    """[S] ids in which every control token, and every token without an id, has a (negative) number of its own.

    So it equals nothing else.
    """
    return np.where(tokens.special | (tokens.ids < 0), -1 - np.arange(len(tokens)), tokens.ids)


def query_step(tokens: int) -> int:
    """Every how many-th query is looked at."""
    return max(1, -(-tokens // MOST_QUERIES))


def blocks(tokens: int, depth: int) -> Iterator[slice]:
    """The queries looked at, in slices small enough for arrays of [depth, rows, tokens]."""
    step = query_step(tokens)
    size = max(1, _ELEMENTS // max(depth * tokens, 1))
    for start in range(FIRST_QUERY, tokens, step * size):
        yield slice(start, min(start + step * size, tokens), step)


def read(capture: LayerCapture, rows: slice) -> tuple[NDArray[np.float32], Bools]:
    """Patterns [H, q, K] of these rows, and which keys they see [q, K]."""
    patterns = np.stack([capture.pattern(head, rows) for head in range(capture.heads)])
    hidden = capture.hidden(rows)
    seen = np.ones(patterns.shape[1:], dtype=np.bool_) if hidden is None else ~hidden
    return patterns, seen


# --------------------------------------------------------------------------------------------- keys


def earlier_copies(ids: Ints, rows: slice) -> Bools:
    """[…, q, K] keys before q with the id of q; ids […, S]."""
    count = ids.shape[-1]
    before = np.arange(count) < np.arange(count)[rows, None]
    copies: Bools = (ids[..., rows, None] == ids[..., None, :]) & before
    return copies


def after_copies(copies: Bools, rows: slice) -> Bools:
    """[…, q, K] keys before q that follow an earlier copy of q; copies […, q, K]."""
    count = copies.shape[-1]
    after = np.zeros_like(copies)
    after[..., 1:] = copies[..., :-1]
    after &= np.arange(count) < np.arange(count)[rows, None]  # after "aa" comes q itself
    return after


def keys_of_ids(ids: Ints, rows: slice) -> dict[str, Bools]:
    """Role -> [q, K], of the roles that depend on which tokens are the same."""
    copies = earlier_copies(ids, rows)
    return {"duplicate_token": copies, "induction": after_copies(copies, rows)}


def keys_of_positions(tokens: int, rows: slice, window: int) -> dict[str, Bools]:
    """Role -> [q, K], of the roles that depend on positions alone."""
    q, k = np.arange(tokens)[rows, None], np.arange(tokens)[None, :]
    return {
        "previous_token": k == q - 1,
        "first_token": np.broadcast_to(k == 0, (len(q), tokens)),
        "self": k == q,
        "local_window": np.abs(q - k) <= window,
    }


def applies(keys: Bools, seen: Bools) -> Bools:
    """[q] queries that count: one of the keys is seen, and one that is none of them."""
    counts: Bools = np.logical_or.reduce(keys & seen, axis=-1) & np.logical_or.reduce(~keys & seen, axis=-1)
    return counts


# --------------------------------------------------------------------------------------------- scores


@dataclass
class Totals:
    """Sums over the queries to which a role applies, of every head.

    mass [L, H] weight on the role's keys;  uniform [L] what a head would give that spreads its weight evenly
    queries [L] how many
    """

    mass: Floats
    uniform: Floats
    queries: Floats

    @classmethod
    def empty(cls, layers: int, heads: int) -> Totals:
        return cls(np.zeros((layers, heads)), np.zeros(layers), np.zeros(layers))

    def add(self, layer: int, patterns: Floats, keys: Bools, seen: Bools) -> None:
        """Count these rows of one layer: patterns [H, q, K], keys and seen [q, K]."""
        counts = applies(keys, seen)
        chosen = keys & seen & counts[:, None]
        self.mass[layer, : len(patterns)] += _mass(patterns, chosen)
        self.uniform[layer] += (chosen.sum(axis=1) / np.maximum(seen.sum(axis=1), 1)).sum()
        self.queries[layer] += counts.sum()

    def score(self) -> Floats:
        """[L, H] mean weight; NaN in a layer where the role never applies."""
        return self.mass / _or_nan(self.queries)[:, None]

    def uniform_score(self) -> Floats:
        """[L, 1] the score of a head that spreads its weight evenly over what it sees."""
        return (self.uniform / _or_nan(self.queries))[:, None]


def _mass(patterns: Floats, chosen: Bools) -> Floats:
    """[H] weight on the chosen keys, summed over the rows."""
    at = np.nonzero(chosen)
    total: Floats = patterns[:, at[0], at[1]].sum(axis=1, dtype=np.float64)
    return total


def _or_nan(counts: Floats) -> Floats:
    return np.where(counts > 0, counts, np.nan)


def existing(trace: Trace) -> Bools:
    """[L, H] heads there are: no head of a layer without attention, nor beyond the heads of a layer that has fewer."""
    counts = np.array([0 if layer is None else layer.heads for layer in trace.layers])
    return np.arange(trace.heads) < counts[:, None]
