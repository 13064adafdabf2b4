"""How strongly the prediction responds to a sensor, from gradients with respect to its values.

    gradient × input (Shrikumar et al. 2017)        |Σ_t ∂f/∂x_ts · (x_ts − usual_s)|
    integrated gradients (Sundararajan et al. 2017)  the same with the mean of ∂f/∂x on the straight way from the usual
                                                     values to the input, which adds up to f(x) − f(usual)

Means over inputs and outputs. Gradient × input misleads where the response is curved: the slope at the input says
nothing of the way there. Integrated gradients see the whole way, and confirm or contradict occlusion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attnviz.hooks import Floats, Ints
from attnviz.plugins.analyses.sensors.question import Question

_NUMBERS = 1 << 22  # gradients held at once


@dataclass(frozen=True)
class InputGradients:
    """Means over inputs and outputs.

    at_input, on_the_way  [S] gradient × input, integrated gradients;  windows [W, S] gradient × input of each window
    gap    largest |Σ_s integrated gradients − (f(x) − f(usual))|, over inputs and outputs
    moved  largest |f(x) − f(usual)|, to compare the gap with
    """

    at_input: Floats
    on_the_way: Floats
    windows: Floats
    gap: float
    moved: float


def input_gradients(asked: Question, windows: Ints, points: int) -> InputGradients:
    """points: places on the way, in the middle of equal parts of it (midpoint rule)."""
    usual = _usual_inputs(asked)
    at_input = np.zeros(len(asked.usual))
    on_the_way, by_window = at_input.copy(), np.zeros((len(windows), len(at_input)))
    gaps, moves = [0.0], [0.0]
    size = max(1, _NUMBERS // max(1, len(asked.outputs) * asked.inputs[0].size))
    for start in range(0, len(asked.inputs), size):
        part = slice(start, start + size)
        inputs, baseline = asked.inputs[part], usual[part]
        moved = asked.differences()[part, None]  # [b, 1, T, S]
        local = _gradients(asked, inputs) * moved  # [b, P, T, S]
        middle = np.zeros_like(local)
        for point in range(points):
            middle += _gradients(asked, baseline + (inputs - baseline) * (point + 0.5) / points) / points
        whole = (middle * moved).sum(axis=2)  # [b, P, S]
        at_input += np.abs(local.sum(axis=2)).mean(axis=1).sum(axis=0)
        on_the_way += np.abs(whole).mean(axis=1).sum(axis=0)
        for number, (first, stop) in enumerate(windows.tolist()):
            by_window[number] += np.abs(local[:, :, first:stop].sum(axis=2)).mean(axis=1).sum(axis=0)
        change = asked.predict(inputs) - asked.predict(baseline)  # [b, P]
        gaps.append(float(np.abs(whole.sum(axis=2) - change).max()))
        moves.append(float(np.abs(change).max()))
    count = len(asked.inputs)
    return InputGradients(at_input / count, on_the_way / count, by_window / count, max(gaps), max(moves))


def _usual_inputs(asked: Question) -> Floats:
    """[B, T, C] the inputs with every sensor at its usual value; columns that are no sensors stay."""
    found: Floats = np.array(asked.inputs)
    found[:, :, : len(asked.usual)] = asked.usual
    return found


def _gradients(asked: Question, inputs: Floats) -> Floats:
    """[b, T, C] -> [b, P, T, S] of the scaled outputs."""
    every = asked.model.prediction_gradients(inputs, asked.outputs)
    found: Floats = np.asarray(every[..., : len(asked.usual)], np.float64) / asked.scale[:, None, None]
    return found
