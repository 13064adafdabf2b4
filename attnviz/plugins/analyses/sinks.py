"""Attention sinks: keys that collect weight whatever is asked, where heads rest when they have nothing to do.

Found, not assumed: a key is a sink when, in at least SHARE of all heads, it receives more than MULTIPLE times what a
uniform head would give it (see received.py). The first position is listed as well where it is a control token or where
every query sees it (causal models): Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import BadInput, Bools, LayerCapture, Param, ShapeError, Tokens, Trace
from attnviz.plugins.analyses.received import received

MULTIPLE = 4.0
"""Times the uniform expectation. A head that looks only at the previous token gives key k of S about S / (S - k), so at
most 4 to a key that a quarter of the queries can see; a resting place gets far more."""
SHARE = 0.25
"""Share of all heads that must do so: one or two heads with a subject of their own do not make a sink."""
SEEN = 0.5
"""A key must be seen by at least this share of the queries that see the most visible key. The last keys are seen by so
few queries that a single look at them would pass for a multiple."""

EXCLUDE_SINKS = Param(
    "exclude_sinks",
    "bool",
    default=False,
    label="Leave sinks out",
    help="Remove sink columns and divide each row by what remains.",
)


@dataclass(frozen=True)
class Sinks:
    """`detected` by their received attention; `listed` because of where they stand (BOS, first position)."""

    detected: tuple[int, ...]
    listed: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(sorted({*self.detected, *self.listed}))

    def describe(self) -> str:
        """One line that says how they were found."""
        rule = f"more than {MULTIPLE:g} times the uniform weight in at least {SHARE:.0%} of the heads"
        found = f"positions {_words(self.detected)} receive {rule}" if self.detected else f"no key receives {rule}"
        listed = f"; listed as BOS or first position: {_words(self.listed)}" if self.listed else ""
        return f"Sinks: {found}{listed}."


def find_sinks(trace: Trace, tokens: Tokens) -> Sinks:
    """Sink positions of a run, one set for all layers and heads.

    Raises:
        BadInput: no layer has attention.
        ShapeError: a layer attends over something other than the tokens of the run.
    """
    captures = [layer for layer in trace.layers if layer is not None]
    if not captures:
        reasons = "; ".join(dict.fromkeys(trace.missing.values()))
        raise BadInput(f"No layer of this model has attention: {reasons or 'it has no layers.'}")
    for index, capture in enumerate(trace.layers):
        if capture is not None and {len(capture.allowed), len(capture.seen_by)} != {len(tokens)}:
            shape = [len(capture.allowed), len(capture.seen_by)]
            raise ShapeError(f"Attention of layer {index}", f"{[len(tokens)] * 2}, the tokens of the run", shape)
    return Sinks(detected=_detected(captures), listed=_listed(captures, tokens))


def _detected(captures: list[LayerCapture]) -> tuple[int, ...]:
    keys = len(captures[0].seen_by)
    votes = np.zeros(keys)
    heads = 0
    for capture in captures:
        enough = capture.seen_by >= SEEN * capture.seen_by.max(initial=0)  # [K]
        votes += ((received(capture) > MULTIPLE) & enough).sum(axis=0)  # NaN (unseen) compares false
        heads += capture.heads
    return tuple(int(k) for k in np.flatnonzero(votes >= SHARE * heads))


def _listed(captures: list[LayerCapture], tokens: Tokens) -> tuple[int, ...]:
    if not len(tokens):
        return ()
    if tokens.special[0] and tokens.ids[0] < 0:  # of a model that reads numbers, such as CLS
        return (0,)
    if tokens.special[0]:  # BOS, wherever it comes again
        return tuple(int(k) for k in np.flatnonzero(tokens.ids == tokens.ids[0]))
    return (0,) if all(capture.causal for capture in captures) else ()


def sink_columns(sinks: tuple[int, ...], keys: int) -> Bools:
    """[K] True where the key is a sink."""
    column = np.zeros(keys, dtype=np.bool_)
    column[list(sinks)] = True
    return column


def without_sinks(pattern: NDArray[np.float32], sinks: tuple[int, ...]) -> NDArray[np.float32]:
    """The pattern with sink columns removed and each row divided by what remains.

    A row that sees nothing but sinks has no remainder; it stays zero.
    """
    left: NDArray[np.float32] = pattern.copy()  # [Q, K]
    left[:, list(sinks)] = 0
    remainder = left.sum(axis=-1, keepdims=True)
    np.divide(left, remainder, out=left, where=remainder > 0)
    return left


def _words(positions: tuple[int, ...]) -> str:
    return ", ".join(map(str, positions))
