"""How well methods find the drivers of a simulated process; arrays are [S, S], predicted sensor by source."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.demo.sensors.process import Process
from attnviz.hooks import Model, PredictsNumbers, Want

Matrix = NDArray[np.floating[Any]]
QUADRATURE = 8  # points of integrated gradients


def occlusion(model: PredictsNumbers, values: Matrix, means: Matrix) -> Matrix:
    """Mean squared change of the prediction when a sensor is held at its mean. values [N, time, S]."""
    before, columns = model.predict(values), []
    for sensor in range(values.shape[-1]):
        held = values.copy()
        held[..., sensor] = means[sensor]
        columns.append(((model.predict(held) - before) ** 2).mean(axis=0))
    return np.stack(columns, axis=1)


def occlusion_by_step(model: PredictsNumbers, values: Matrix, means: Matrix) -> Matrix:
    """[S, time, S] the same for one time step of one sensor."""
    before = model.predict(values)
    _, steps, sensors = values.shape
    found = np.zeros((before.shape[1], steps, sensors))
    for step in range(steps):
        for sensor in range(sensors):
            held = values.copy()
            held[:, step, sensor] = means[sensor]
            found[:, step, sensor] = ((model.predict(held) - before) ** 2).mean(axis=0)
    return found


def gradient_times_input(model: PredictsNumbers, values: Matrix, means: Matrix) -> Matrix:
    """Mean over inputs of Σ_t |∂y/∂x · (x − mean)|."""
    outputs = range(values.shape[-1])
    parts = model.prediction_gradients(values, outputs) * (values - means)[:, None]  # [N, S, time, S]
    found: Matrix = np.abs(parts).sum(axis=2).mean(axis=0)
    return found


def integrated_gradients_by_step(model: PredictsNumbers, values: Matrix, means: Matrix) -> Matrix:
    """[S, time, S] mean over inputs of the integrated gradients' size (Sundararajan et al. 2017), from the means on."""
    outputs, apart = range(values.shape[-1]), values - means
    total = np.zeros((len(values), values.shape[-1], *values.shape[1:]))
    for point in range(QUADRATURE):
        total += model.prediction_gradients(means + apart * ((point + 0.5) / QUADRATURE), outputs)
    found: Matrix = np.abs(total / QUADRATURE * apart[:, None]).mean(axis=0)
    return found


def attention_by_layer(model: Model, values: Matrix) -> Matrix:
    """[L, S, S] mean over inputs and heads."""
    found = []
    for one in values:
        trace = model.trace(model.tokenize_values(one), Want())  # type: ignore[attr-defined]  # it reads numbers
        layers = range(len(model.card.layers))
        heads = [range(model.card.layers[layer].heads) for layer in layers]
        found.append([np.mean([trace.attention(i, head) for head in heads[i]], axis=0) for i in layers])
    layers_of_all: Matrix = np.mean(found, axis=0)
    return layers_of_all


# --------------------------------------------------------------------------------------------- against the truth


def hit_rate(process: Process, scores: Matrix) -> float:
    """Of a driven sensor with k drivers, the share of them among the k highest scores; mean over driven sensors."""
    parents = process.parents()
    hits = []
    for row in process.driven:
        count = int(parents[row].sum())
        hits.append(parents[row][np.argsort(-scores[row], kind="stable")[:count]].mean())
    return float(np.mean(hits))


def agreement(process: Process, scores: Matrix, strength: Matrix) -> float:
    """Pearson correlation with the true strength over sources; mean over driven sensors."""
    return float(np.mean([np.corrcoef(scores[row], strength[row])[0, 1] for row in process.driven]))


def exact_lags(process: Process, by_step: Matrix) -> float:
    """Share of (sensor, driver, lag) whose highest step is the true one. by_step [S, time, S], latest step last."""
    names, steps = process.names, by_step.shape[1]
    exact = [
        int(np.argmax(by_step[row, :, names.index(parent)])) == steps - lag
        for row, sensor in enumerate(process.sensors)
        for parent, lag in sensor.parents
    ]
    return float(np.mean(exact))


def proxy_share(process: Process, scores: Matrix) -> float:
    """Share, in what a row gives to other sensors than itself, of those that only go with a driver; mean over driven
    sensors but the proxies."""
    proxies = [process.names.index(name) for name in process.proxies]
    rows = [row for row in process.driven if row not in proxies]
    return float(np.mean([scores[row][proxies].sum() / np.delete(scores[row], row).sum() for row in rows]))
