"""Random tokens, written twice or not: the input on which a head can only find a copy by looking for it.

A pair shares its first half. Repeated: BOS x x; unrepeated: BOS x y, where x and y are N ordinary tokens each, all
different, drawn with a fixed seed (Olsson et al. 2022 measure induction heads on such repetitions). BOS stands for the
control token that the tokenizer itself puts before a text; where it puts none, there is none. A model with encoder and
decoder keeps the source of the run, and its decoder gets these tokens after the ones it starts with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnviz.hooks import BadInput, Model, ModelCard, Tokens, Unavailable

PAIRS = 10
"""Pairs of texts. Their signs can be flipped in 2^10 = 1024 ways, enough for a probability of 0.005."""
LENGTH = 50
"""Tokens of x and of y: longer than any window a head is called local for, short enough for every model."""
LEAST_LENGTH = 8
"""Below that x is no longer than the windows of local heads."""
_POOL = 200  # different tokens to draw from
_TRIES = 4000  # ids looked at to find them
_SEED = 0


@dataclass(frozen=True)
class Pair:
    """Two texts that differ in their second half only. `length`: tokens of x and of y."""

    repeated: Tokens
    unrepeated: Tokens
    length: int


def draw_pairs(model: Model, card: ModelCard, run: Tokens) -> list[Pair]:
    """PAIRS pairs, the same every time for one model (and one source, where it has an encoder).

    Raises:
        Unavailable: the model has too few positions or its tokenizer too few ordinary tokens.
    """
    if not card.vocabulary:
        raise Unavailable(f"{card.name} reads numbers: there are no tokens to draw. Measure on this run instead.")
    rng = np.random.default_rng(_SEED)
    before = _before(model, run)
    pool = ordinary_ids(model, card.vocabulary, rng)
    taken = len(before.ids) - (before.decoder_from or 0)
    room = LENGTH if card.positions is None else (card.positions - taken) // 2
    length = min(LENGTH, room, len(pool) // 2)
    if length < LEAST_LENGTH:
        raise Unavailable(
            f"Repeated random tokens need room for 2 × {LEAST_LENGTH} tokens and as many different ones; {card.name} "
            f"has {card.positions} positions and {len(pool)} ordinary tokens were found. Measure on this run instead."
        )
    pairs = []
    for _ in range(PAIRS):
        drawn = [int(i) for i in rng.permutation(pool)[: 2 * length]]
        x, y = drawn[:length], drawn[length:]
        pairs.append(Pair(_tokens(model, before, [*x, *x]), _tokens(model, before, [*x, *y]), length))
    return pairs


def _before(model: Model, run: Tokens) -> Tokens:
    """What stands before the random tokens: the control token of a text, or the source and what the decoder starts
    with.
    """
    if run.decoder_from is None:
        first = control_token(model)
        return _bare(model, [] if first is None else [first], special=True)
    start = run.decoder_from
    while start < len(run) and run.special[start]:
        start += 1
    return Tokens(
        ids=run.ids[:start],
        labels=run.labels[:start],
        offsets=np.full((start, 2), -1, np.int64),
        special=run.special[:start],
        text="",
        values=run.values,
        decoder_from=run.decoder_from,
    )


def control_token(model: Model) -> int | None:
    """What the tokenizer puts before a text by itself."""
    found = model.tokenize("a")
    return int(found.ids[0]) if found.special[0] else None


def ordinary_ids(model: Model, vocabulary: int, rng: np.random.Generator) -> list[int]:
    """Up to _POOL random ids that the tokenizer is seen to use for text.

    An id counts if its own text, alone or after a letter, is turned into that id and is no control token. So neither
    control tokens nor ids without a text (padding of the vocabulary, parts of characters) are drawn.
    """
    found: list[int] = []
    for candidate in rng.permutation(vocabulary)[:_TRIES]:
        if len(found) == _POOL:
            break
        text = model.label(int(candidate))
        if _is_text(model, int(candidate), text) or _is_text(model, int(candidate), f"a{text}"):
            found.append(int(candidate))
    return found


def _is_text(model: Model, token_id: int, text: str) -> bool:
    try:
        tokens = model.tokenize(text)
    except BadInput:  # nothing but space, or nothing but control tokens
        return False
    return bool(((tokens.ids == token_id) & ~tokens.special).any())


def _tokens(model: Model, before: Tokens, ids: list[int]) -> Tokens:
    """These ids after what stands before them; they are no text, so they have no places in one."""
    added = _bare(model, ids, special=False)
    return Tokens(
        ids=np.concatenate([before.ids, added.ids]),
        labels=before.labels + added.labels,
        offsets=np.concatenate([before.offsets, added.offsets]),
        special=np.concatenate([before.special, added.special]),
        text="",
        values=before.values,
        decoder_from=before.decoder_from,
    )


def _bare(model: Model, ids: list[int], *, special: bool) -> Tokens:
    """Ids without a text, all of them control tokens or none."""
    return Tokens(
        ids=np.array(ids, np.int64),
        labels=tuple(model.label(i) for i in ids),
        offsets=np.full((len(ids), 2), -1, np.int64),
        special=np.full(len(ids), special),
        text="",
    )
