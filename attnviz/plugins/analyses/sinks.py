"""Attention sinks: keys that collect weight whatever is asked, where heads rest when they have nothing to do.

Found, not assumed: a key is a sink when, in at least SHARE of all heads, it receives more than MULTIPLE times what a
uniform head would give it (see received.py). The first position is listed as well where it is a control token or where
every query sees it (causal models): Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks".

Of a model with encoder and decoder every stack (encoder, decoder, cross) is looked at by itself: a token may be a sink
in one and none in another.
"""

from __future__ import annotations

from collections.abc import Mapping
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


Spans = tuple[tuple[int, int], tuple[int, int]]
"""Tokens of the run that are the rows, and the columns, of a stack's layers."""


@dataclass(frozen=True)
class Found:
    """Sinks of one stack, as tokens of the run: by their received attention, or because of where they stand."""

    detected: tuple[int, ...]
    listed: tuple[int, ...]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(sorted({*self.detected, *self.listed}))


@dataclass(frozen=True)
class Sinks:
    """Sinks of every stack; most models have one."""

    stacks: Mapping[Spans, Found]

    @property
    def detected(self) -> tuple[int, ...]:
        """By their received attention, in any stack."""
        return tuple(sorted({position for found in self.stacks.values() for position in found.detected}))

    @property
    def listed(self) -> tuple[int, ...]:
        """Because of where they stand (BOS, first position), in any stack."""
        return tuple(sorted({position for found in self.stacks.values() for position in found.listed}))

    @property
    def positions(self) -> tuple[int, ...]:
        """Tokens of the run that are sinks in any stack."""
        return tuple(sorted({*self.detected, *self.listed}))

    def of(self, capture: LayerCapture) -> tuple[int, ...]:
        """Tokens of the run that are sinks in the stack of this layer."""
        return self.stacks[_spans(capture)].positions

    def columns(self, capture: LayerCapture) -> tuple[int, ...]:
        """The same as columns of this layer."""
        return tuple(position - capture.column_span[0] for position in self.of(capture))

    def left_out(self) -> str:
        """What is removed where sinks are left out."""
        several = len(self.stacks) > 1
        return "the sinks of each layer's own stack" if several else f"the columns {_words(self.positions)}"

    def describe(self) -> str:
        """One line that says how they were found."""
        rule = f"more than {MULTIPLE:g} times the uniform weight in at least {SHARE:.0%} of the heads"
        if len(self.stacks) > 1:
            said = "; ".join(_by_stack(spans, found) for spans, found in self.stacks.items())
            return f"Sinks, of each stack (a key that receives {rule}, or BOS or first position): {said}."
        found = f"positions {_words(self.detected)} receive {rule}" if self.detected else f"no key receives {rule}"
        listed = f"; listed as BOS or first position: {_words(self.listed)}" if self.listed else ""
        return f"Sinks: {found}{listed}."


def _by_stack(spans: Spans, found: Found) -> str:
    queries, keys = spans
    name = "cross" if queries != keys else "decoder" if queries[0] else "encoder"
    return f"{name} {_words(found.positions) or 'none'}"


def _spans(capture: LayerCapture) -> Spans:
    return capture.row_span, capture.column_span


def find_sinks(trace: Trace, tokens: Tokens) -> Sinks:
    """Sink positions of a run, one set for all layers and heads of a stack.

    Raises:
        BadInput: no layer has attention.
        ShapeError: a layer attends over something other than the tokens of the run.
    """
    stacks: dict[Spans, list[LayerCapture]] = {}
    for index, capture in enumerate(trace.layers):
        if capture is None:
            continue
        _check_spans(index, capture, tokens)
        stacks.setdefault(_spans(capture), []).append(capture)
    if not stacks:
        reasons = "; ".join(dict.fromkeys(trace.missing.values()))
        raise BadInput(f"No layer of this model has attention: {reasons or 'it has no layers.'}")
    return Sinks({spans: _find(captures, tokens, spans[1]) for spans, captures in stacks.items()})


def _check_spans(index: int, capture: LayerCapture, tokens: Tokens) -> None:
    whole = (0, len(tokens))
    for given, span in ((capture.queries, capture.row_span), (capture.keys, capture.column_span)):
        fits = span == whole if given is None else 0 <= span[0] <= span[1] <= len(tokens)
        if not fits:
            shape = [len(capture.allowed), len(capture.seen_by)]
            raise ShapeError(f"Attention of layer {index}", f"{[len(tokens)] * 2}, the tokens of the run", shape)


def _find(captures: list[LayerCapture], tokens: Tokens, keys: tuple[int, int]) -> Found:
    """Sinks of the layers of one stack, whose columns are the tokens `keys`."""
    detected = (keys[0] + column for column in _detected(captures))
    listed = (keys[0] + column for column in _listed(captures, tokens, keys))
    return Found(tuple(detected), tuple(listed))


def _detected(captures: list[LayerCapture]) -> tuple[int, ...]:
    keys = len(captures[0].seen_by)
    votes = np.zeros(keys)
    heads = 0
    for capture in captures:
        enough = capture.seen_by >= SEEN * capture.seen_by.max(initial=0)  # [K]
        votes += ((received(capture) > MULTIPLE) & enough).sum(axis=0)  # NaN (unseen) compares false
        heads += capture.heads
    return tuple(int(k) for k in np.flatnonzero(votes >= SHARE * heads))


def _listed(captures: list[LayerCapture], tokens: Tokens, keys: tuple[int, int]) -> tuple[int, ...]:
    ids, special = tokens.ids[slice(*keys)], tokens.special[slice(*keys)]
    text = np.ones(len(ids), bool) if tokens.padding is None else ~tokens.padding[slice(*keys)]
    if not text.any():
        return ()
    first = int(np.flatnonzero(text)[0])
    if special[first] and ids[first] < 0:  # of a model that reads numbers, such as CLS
        return (first,)
    if special[first]:  # BOS, wherever it comes again
        return tuple(int(k) for k in np.flatnonzero((ids == ids[first]) & text))
    return (first,) if all(capture.causal for capture in captures) else ()


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
