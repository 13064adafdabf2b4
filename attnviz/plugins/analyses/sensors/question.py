"""What is asked of a model that reads sensors: which inputs, which outputs, and what is usual.

A sensor's usual value is its mean over the reference that was given with the run, over all its inputs and time steps;
without a reference the mean of the data the model was trained on, where that is known; else the mean of the sensor over
the input's own time steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np

from attnviz.hooks import (
    AnalysisRequest,
    BadInput,
    Floats,
    PredictsNumbers,
    Reference,
    SensorSeries,
    Tokens,
    Unavailable,
    UnknownName,
)

ALL = "all"
_ROUNDING = 1e-6  # of a prediction: a smaller spread is none
NOTICE = (
    "For interpretation by people: not for regulatory figures, not for emission values, and not in place of "
    "engineering formulas."
)
"""What every report on sensors says."""


@dataclass(frozen=True)
class Question:
    """Inputs and outputs that are explained.

    inputs   [B, T, C] in the model's own units; the first S columns are sensors
    usual    [S] what a sensor's values are replaced by
    outputs  P indices;  scale [P] what a change of each is divided by;  unit of what then results
    info     how all that was chosen;  warnings where it misleads
    """

    model: PredictsNumbers
    series: SensorSeries
    inputs: Floats
    usual: Floats
    outputs: tuple[int, ...]
    scale: Floats
    unit: str
    info: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self.series.outputs[index] for index in self.outputs)

    def predict(self, inputs: Floats) -> Floats:
        """[N, T, C] -> [N, P] the chosen outputs, each divided by its scale."""
        found: Floats = self.model.predict(inputs)[:, list(self.outputs)].astype(np.float64) / self.scale
        return found

    def differences(self) -> Floats:
        """[B, T, S] values minus what is usual."""
        found: Floats = self.inputs[:, :, : len(self.usual)] - self.usual
        return found


def question(request: AnalysisRequest) -> Question:
    """What the request asks.

    Raises:
        Unavailable: the model predicts nothing, or reads other axes than [time, sensor].
        UnknownName, BadInput: no such output, or a reference that was not given.
    """
    tokens, model = request.tokens, cast(PredictsNumbers, request.model)
    if tokens.values is None:
        raise BadInput(f"{request.card.name}: expected an array [time, sensor], got a text. Give it as trace(array=…).")
    if tokens.values.ndim != 2:
        axes = list(tokens.values.shape)
        raise Unavailable(f"Sensors are columns of [time, sensor]; {request.card.name} reads an array of shape {axes}.")
    series = model.series(tokens)
    inputs, words = _inputs(tokens, str(request.params["inputs"]))
    usual, how, doubts = _usual(tokens, series)
    outputs, scale, unit, chosen, limits = _outputs(model, series, tokens.reference, str(request.params["output"]))
    info = (chosen, words, how)
    return Question(model, series, inputs, usual, outputs, scale, unit, info, (*doubts, *limits))


def _inputs(tokens: Tokens, which: str) -> tuple[Floats, str]:
    assert tokens.values is not None
    if which == "this":
        return tokens.values[None].astype(np.float64), "Of this input alone."
    if tokens.reference is None:
        raise BadInput("inputs: expected a reference for 'reference', got a run without one. Give trace(reference=…).")
    found = tokens.reference.inputs
    return found.astype(np.float64), f"Means over the {len(found)} inputs of the reference."


def _usual(tokens: Tokens, series: SensorSeries) -> tuple[Floats, str, tuple[str, ...]]:
    """[S] usual values, where they come from, and where that misleads."""
    count = len(series.sensors)
    if tokens.reference is not None:
        mean = tokens.reference.inputs[:, :, :count].astype(np.float64).mean(axis=(0, 1))
        return mean, f"Usual = mean over the {len(tokens.reference.inputs)} inputs of the reference.", ()
    if series.means is not None:
        return series.means.astype(np.float64), "Usual = mean over the data the model was trained on.", ()
    assert tokens.values is not None
    mean = tokens.values[:, :count].astype(np.float64).mean(axis=0)
    doubt = (
        "No reference was given, so a sensor is compared with its own mean over this input: one that stood at an "
        "unusual level all the time counts as usual. Give trace(reference=…)."
    )
    return mean, "Usual = mean of the sensor over this input's own time steps.", (doubt,)


Chosen = tuple[tuple[int, ...], Floats, str, str, tuple[str, ...]]


def _outputs(model: PredictsNumbers, series: SensorSeries, reference: Reference | None, asked: str) -> Chosen:
    """Outputs, what each is divided by, the unit, and two kinds of words.

    Raises:
        UnknownName: no such output.
    """
    known: Mapping[str, int] = {name: index for index, name in enumerate(series.outputs)}
    if asked and asked != ALL:
        if asked not in known:
            raise UnknownName("output", asked, (ALL, *known))
        return _one(series, known[asked], f"Explained: {asked}.")
    units = set(series.output_units)
    if len(known) == 1:
        return _one(series, 0, f"Explained: {series.outputs[0]}, the only output.")
    if len(units) == 1:
        unit = units.pop() or "unit of the outputs"
        doubt = "The units of the outputs are not known: outputs of large numbers outweigh the others."
        every = tuple(range(len(known)))
        said = f"Explained: all {len(known)} outputs, mean over them."
        return every, np.ones(len(every)), unit, said, () if unit != "unit of the outputs" else (doubt,)
    if reference is not None and len(reference.inputs) > 1:
        return _scaled(model, series, reference)
    if asked == ALL:
        raise BadInput(
            "output: expected one name, got 'all' of a model whose outputs have different units. Name one, or give a "
            "reference, whose spread makes them comparable."
        )
    others = f"the first of {len(known)} in different units; name another with output=…"
    return _one(series, 0, f"Explained: {series.outputs[0]}, {others}.")


def _one(series: SensorSeries, index: int, said: str) -> Chosen:
    return (index,), np.ones(1), series.output_units[index] or "unit of the output", said, ()


def _scaled(model: PredictsNumbers, series: SensorSeries, reference: Reference) -> Chosen:
    """All outputs that vary, each divided by how much its predictions vary over the reference."""
    predicted = model.predict(reference.inputs).astype(np.float64)
    spread = predicted.std(axis=0)
    varying = tuple(int(i) for i in np.flatnonzero(spread > _ROUNDING * np.abs(predicted).max(axis=0)))
    if not varying:
        raise BadInput("reference: expected inputs of which predictions differ, got the same for all of them.")
    still = [name for index, name in enumerate(series.outputs) if index not in varying]
    said = f"Explained: {len(varying)} outputs, mean over them, each divided by its spread over the reference."
    limits = (f"Left out, because their predictions are the same for all of the reference: {', '.join(still)}.",)
    return varying, spread[list(varying)], "standard deviations of the output", said, limits if still else ()
