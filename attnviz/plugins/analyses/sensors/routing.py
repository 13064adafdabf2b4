"""Where values come from: attention that each sensor's token receives, beside the same of time-shuffled input.

    attention(s) = Σ_q A[q, s] / Σ_{q sees s} 1/n(q)        mean over heads, then over layers; 1.0 = uniform

over the rows of the sensors that are explained, where every output that is explained is a sensor that has a row, else
over all rows. The null is the same number of the same input with its time steps in random order, all sensors alike:
what remains of it is due to which sensor it is and how its values are distributed, not to what happened when.

Attention says what is routed, not what it does to the prediction: a sensor may be read and count for nothing, or count
through another that passes its values on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attnviz.hooks import AnalysisRequest, Floats, LayerCapture, Tokens, Trace, Want
from attnviz.plugins.analyses.received import received
from attnviz.plugins.analyses.sensors.question import Question

WANT = Want(thumbnail=1)


@dataclass(frozen=True)
class Routing:
    """attention, null, null_sd [S];  weights [S, S] mean over layers, heads and inputs;  info what was averaged."""

    attention: Floats
    null: Floats
    null_sd: Floats
    weights: Floats
    info: tuple[str, ...]


def why_not(tokens: Tokens) -> str | None:
    """None where tokens are sensors, else why there is no attention between sensors."""
    if tokens.axis == "sensor":
        return None
    what = "time steps" if tokens.axis == "time" else "neither sensors nor time steps"
    return f"Tokens of this model are {what}, so it has no attention between sensors."


def routing(
    request: AnalysisRequest, asked: Question, shuffles: int, seed: int, told: Callable[[float], None]
) -> Routing:
    """The statistic of every input, and of `shuffles` random orders of its time steps.

    Raises:
        Unavailable: the model gives no attention.
    """
    rows = _rows(asked)
    rng = np.random.default_rng(seed)
    count, total = len(asked.usual), len(asked.inputs) * (shuffles + 1)
    found, null = np.zeros((len(asked.inputs), count)), np.zeros((shuffles, count))
    weights = np.zeros((count, count))
    for number, values in enumerate(asked.inputs):
        told(number * (shuffles + 1) / total)
        trace = _trace(request, values)
        found[number] = _statistic(trace, rows, count)
        weights += _mean_map(trace, count) / len(asked.inputs)
        for shuffle in range(shuffles):
            mixed = values.copy()
            mixed[:, :count] = values[rng.permutation(len(values)), :count]
            null[shuffle] += _statistic(_trace(request, mixed), rows, count) / len(asked.inputs)
    spread = null.std(axis=0, ddof=1) if shuffles > 1 else np.full(count, np.nan)
    return Routing(found.mean(axis=0), null.mean(axis=0), spread, weights, _info(asked, rows, shuffles))


def _trace(request: AnalysisRequest, values: Floats) -> Trace:
    kind = request.tokens.values.dtype if request.tokens.values is not None else values.dtype
    return request.model.trace(replace(request.tokens, values=values.astype(kind), reference=None), WANT)


def _rows(asked: Question) -> tuple[int, ...] | None:
    """Tokens of the sensors that are explained; None = all, where some output is no sensor."""
    place: dict[str, int] = {}
    for index, name in enumerate(asked.series.sensors):
        place |= {name: index, f"next {name}": index}
    if not all(name in place for name in asked.output_names):
        return None
    return tuple(place[name] for name in asked.output_names)


def _info(asked: Question, rows: Sequence[int] | None, shuffles: int) -> tuple[str, ...]:
    of = "all rows" if rows is None else f"the rows of {', '.join(asked.output_names)}"
    if rows is not None and len(rows) == len(asked.usual):
        of = "all rows"
    return (
        f"Attention: received by each sensor's token from {of}, mean over heads, then layers; 1.0 = as much as a "
        f"uniform head would give. Null: the same of {shuffles} random orders of the time steps, all sensors alike.",
    )


def _statistic(trace: Trace, rows: Sequence[int] | None, count: int) -> Floats:
    """[S]"""
    layers = [layer for layer in trace.layers if layer is not None]
    found: Floats = np.mean([_of_layer(layer, rows)[:count] for layer in layers], axis=0)
    return found


def _of_layer(layer: LayerCapture, rows: Sequence[int] | None) -> Floats:
    """[K]"""
    if rows is None:
        every: Floats = received(layer).mean(axis=0)
        return every
    hidden = layer.hidden()
    total, expected = np.zeros(len(layer.seen_by)), np.zeros(len(layer.seen_by))
    for row in rows:
        weights = [layer.pattern(head, slice(row, row + 1))[0] for head in range(layer.heads)]
        total += np.mean(weights, axis=0, dtype=np.float64)
        seen = np.ones(len(expected)) if hidden is None else (~hidden[row]).astype(np.float64)
        expected += seen / layer.allowed[row]
    found: Floats = np.full(len(total), np.nan)
    np.divide(total, expected, out=found, where=expected > 0)
    return found


def _mean_map(trace: Trace, count: int) -> Floats:
    """[S, S]"""
    layers = [layer for layer in trace.layers if layer is not None]
    maps = [np.mean([layer.pattern(head) for head in range(layer.heads)], axis=0, dtype=np.float64) for layer in layers]
    found: Floats = np.mean(maps, axis=0)[:count, :count]
    return found
