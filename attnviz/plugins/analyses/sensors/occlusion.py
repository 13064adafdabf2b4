"""How much the prediction changes when a sensor's values are replaced by what is usual (Zeiler & Fergus 2014).

    occlusion(s) = mean over inputs and outputs of |f(x) − f(x with sensor s at its usual mean)|

Of a window only the steps in it are replaced. It asks the model itself, so it is the measure to rank by. Misleads where
sensors carry the same information: each alone can be replaced without a loss, both together cannot.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attnviz.hooks import Floats, Ints
from attnviz.plugins.analyses.sensors.question import Question

Told = Callable[[float], None]


def occlusion(asked: Question, steps: slice = slice(None)) -> Floats:
    """[P, S] mean over the inputs of the absolute change of each output; `steps` of time are replaced."""
    before = asked.predict(asked.inputs)  # [B, P]
    found = np.zeros((before.shape[1], len(asked.usual)))
    for sensor, usual in enumerate(asked.usual):
        replaced = asked.inputs.copy()
        replaced[:, steps, sensor] = usual
        found[:, sensor] = np.abs(asked.predict(replaced) - before).mean(axis=0)
    return found


def occlusion_by_window(asked: Question, windows: Ints, told: Told) -> Floats:
    """[W, S] mean over outputs and inputs."""
    found = np.zeros((len(windows), len(asked.usual)))
    for number, (start, stop) in enumerate(windows.tolist()):
        told(number / len(windows))
        found[number] = occlusion(asked, slice(start, stop)).mean(axis=0)
    return found
