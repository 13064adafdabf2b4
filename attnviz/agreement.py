"""How far two attributions agree on which sources count: rank correlations, target by target.

Two methods over one run, or two models over one text. Tokens that are the same are matched by position; those of
another tokenizer by the characters they stand for: the scores of all tokens between two places where both cut the text
are added, so that both rank the same pieces. White space belongs to the piece before it, because tokenizers differ in
where they put it. Control tokens that stand for no characters have no counterpart and are left out.

A correlation is NaN where there is nothing to order: fewer than two pieces, or one side alike everywhere.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput
from attnviz.rank_correlation import kendall, spearman
from attnviz.types import Attribution, Finding, Ints, Span, Tokens

__all__ = ["Agreement", "agreement", "kendall", "matching", "spearman"]

Interval = tuple[int, int]


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of two attributions, for every target that both have.

    targets   [A] (row of the first, row of the second)
    spearman, kendall  [A] from −1 to 1; NaN where there is nothing to order
    ranked    [A] pieces of text that were ordered: those that come before the target
    info      what was ordered and what was left out
    """

    targets: tuple[tuple[int, int], ...]
    spearman: NDArray[np.float64]
    kendall: NDArray[np.float64]
    ranked: Ints
    info: tuple[str, ...]


def agreement(first: Finding, second: Finding) -> Agreement:
    """Rank correlations of the sources of every target that both attributions have.

    Where they do not both have signs, both are ordered by absolute value.

    Raises:
        BadInput: a result that is no attribution, or two different texts.
    """
    one, two = _attribution(first), _attribution(second)
    same = same_tokens(first.tokens, second.tokens)
    if not same and first.tokens.text != second.tokens.text:
        raise BadInput("Agreement: expected two attributions of one text, got two different texts.")
    signed = one.signed and two.signed
    places = [_places(found.tokens, same) for found in (first, second)]
    pieces = _pieces([_intervals(one.sources, places[0]), _intervals(two.sources, places[1])])
    targets = _shared_targets((first, one, places[0]), (second, two, places[1]))
    left = _summed(one, [i for i, _ in targets], pieces[0], signed)
    right = _summed(two, [j for _, j in targets], pieces[1], signed)
    known = np.isfinite(left) & np.isfinite(right)
    pairs = [(a[k], b[k]) for a, b, k in zip(left, right, known, strict=True)]
    return Agreement(
        targets=tuple(targets),
        spearman=np.array([spearman(a, b) for a, b in pairs]),
        kendall=np.array([kendall(a, b) for a, b in pairs]),
        ranked=np.array([len(a) for a, _ in pairs], np.int64),
        info=_info(one, two, same, signed, len(targets)),
    )


def _attribution(finding: Finding) -> Attribution:
    if not isinstance(finding.result, Attribution):
        raise BadInput(f"Agreement: expected two attributions, got a result of kind {finding.result.kind!r}.")
    return finding.result


def _info(one: Attribution, two: Attribution, same: bool, signed: bool, targets: int) -> tuple[str, ...]:
    lines = [
        "Agreement: rank correlation of the sources of the chosen target, Spearman’s ρ and Kendall’s τ-b, from −1 "
        "(opposite order) over 0 to 1 (same order); of "
        + ("scores with their signs." if signed else "absolute scores, because they do not both have signs."),
        "Sources are matched by position: the tokens are the same."
        if same
        else "Sources are matched by their characters: scores between two places where both cut the text are added; "
        "control tokens without characters are left out.",
    ]
    left_out = [f"{len(r.targets) - targets} of the {side}" for side, r in (("first", one), ("second", two))]
    if min(len(one.targets), len(two.targets)) > targets:
        lines.append(f"Targets without a counterpart are not compared: {', '.join(left_out)}.")
    return tuple(lines)


# --------------------------------------------------------------------------------------------- what belongs together


def same_tokens(first: Tokens, second: Tokens) -> bool:
    """Whether two tokenised texts are token for token the same, by id and by text."""
    return np.array_equal(first.ids, second.ids) and first.labels == second.labels


def matching(first: Tokens, second: Tokens) -> Ints | None:
    """[T₁ + 1] for each token of the first the first token of the second that shares a character with it, −1 = none.

    White space counts only where a token is nothing else. The last entry stands for the token that would come next.
    None where the tokens are the same.
    """
    if same_tokens(first, second):
        return None
    found = np.full(len(first) + 1, -1, np.int64)
    found[-1] = len(second)
    if first.text != second.text:
        return found
    text = second.text
    holder = np.full(len(text), -1, np.int64)  # the first token of the second that a character belongs to
    for token, (start, stop) in reversed(list(enumerate(second.offsets.tolist()))):
        holder[max(start, 0) : max(stop, 0)] = token
    for token, (start, stop) in enumerate(first.offsets.tolist()):
        inside = range(max(start, 0), max(stop, 0))
        printed = [i for i in inside if not text[i].isspace()]
        sharing = holder[printed or inside]
        found[token] = min(sharing[sharing >= 0], default=-1)
    return found


def _places(tokens: Tokens, same: bool) -> list[Interval]:
    """Where each token lies: its position, or its characters with white space counted to what comes before.

    A token without characters, or of white space alone, gets an empty interval.
    """
    if same:
        return [(i, i + 1) for i in range(len(tokens))]
    text = tokens.text
    after = [len(text)] * (len(text) + 1)  # the next character that is no white space
    for i in reversed(range(len(text))):
        after[i] = after[i + 1] if text[i].isspace() else i
    return [(-1, -1) if start < 0 else (after[start], after[stop]) for start, stop in tokens.offsets.tolist()]


def _intervals(spans: Sequence[Span], places: Sequence[Interval]) -> list[Interval]:
    """From the first to the last place of each span; empty for what stands for no characters."""
    found = []
    for span in spans:
        inside = [place for place in places[span.index : span.stop] if place[0] >= 0]
        found.append((inside[0][0], max(stop for _, stop in inside)) if inside else (-1, -1))
    return found


Pieces = Sequence[Sequence[int]]
"""The sources of one attribution that make up each piece."""


def _pieces(sides: Sequence[Sequence[Interval]]) -> tuple[Pieces, Pieces]:
    """The sources of either side in every stretch between two places where both begin or end one."""
    cuts = [{edge for interval in side for edge in interval if edge >= 0} for side in sides]
    common = sorted(cuts[0] & cuts[1])
    one, two = (_by_piece(side, common) for side in sides)
    both = [k for k in range(len(common)) if one[k] and two[k]]
    return [one[k] for k in both], [two[k] for k in both]


def _by_piece(side: Sequence[Interval], common: Sequence[int]) -> list[list[int]]:
    """The sources that lie in the piece that begins at each of the common places."""
    pieces: list[list[int]] = [[] for _ in common]
    for source, interval in enumerate(side):
        piece = _piece_of(interval, common)
        if piece is not None:
            pieces[piece].append(source)
    return pieces


def _piece_of(interval: Interval, common: Sequence[int]) -> int | None:
    """Number of the piece that begins at common[number] and holds the interval; None if none does."""
    start, stop = interval
    if start < 0:
        return None
    # white space alone belongs to what comes before
    piece = (bisect_left(common, start) if start == stop else bisect_right(common, start)) - 1
    return piece if 0 <= piece < len(common) - 1 and stop <= common[piece + 1] else None


Side = tuple[Finding, Attribution, Sequence[Interval]]


def _shared_targets(first: Side, second: Side) -> list[tuple[int, int]]:
    """Rows of both that explain the same stretch of text; of what would come next, the same token."""
    rows = {key: j for j, key in enumerate(_target_keys(*second))}
    keys = enumerate(_target_keys(*first))
    return [(i, rows[key]) for i, key in keys if key is not None and key in rows]


Key = tuple[Interval, str] | None


def _target_keys(finding: Finding, found: Attribution, places: Sequence[Interval]) -> list[Key]:
    """What each target is: a stretch of text, or the text of what would come next; None for neither."""
    keys: list[Key] = []
    for span, (start, stop) in zip(found.targets, _intervals(found.targets, places), strict=True):
        if span.index >= len(finding.tokens):
            keys.append(((-1, -1), span.label))
        else:
            keys.append(None if start == stop else ((start, stop), ""))
    return keys


def _summed(found: Attribution, rows: Sequence[int], pieces: Pieces, signed: bool) -> NDArray[np.float64]:
    """[rows, pieces] scores; NaN for a piece of which not every token comes before the target."""
    if not pieces:
        return np.empty((len(rows), 0))
    scores = found.scores[list(rows)].astype(np.float64)
    if not signed:
        scores = np.abs(scores)
    starts = np.cumsum([0, *(len(piece) for piece in pieces[:-1])])
    summed = np.add.reduceat(scores[:, [source for piece in pieces for source in piece]], starts, axis=1)
    last = np.array([max(found.sources[source].index for source in piece) for piece in pieces])
    stops = np.array([found.targets[row].stop for row in rows], np.int64)
    return np.where(last[None, :] < stops[:, None] - 1, summed, np.nan)
