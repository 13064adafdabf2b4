"""Which method to believe: how well the model predicts at all, and how far the methods agree.

Occlusion asks the model what it does without a sensor, so sensors are ranked by it; integrated gradients, which get
there by another way, confirm it; attention says where values come from. A model that does not predict well says nothing
of the process it was trained on, whatever the method: below GOOD of the R² that can be attained none is to be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from attnviz.hooks import BadInput, Floats, Reference, spearman
from attnviz.plugins.analyses.sensors.question import Question

GOOD = 0.9
"""Share of the attainable R² from which a model is taken at its word."""
ENOUGH = 50
"""Outcomes from which an R² is taken at its word; of fewer it is mostly chance."""
CONFIRMS = 0.7
"""Spearman's ρ from which one method confirms another."""
SAME = 0.8
"""Share of what attention differs from uniform by that remains on shuffled time, from which the two are the same."""
PAIRS = (
    ("attention", "occlusion"),
    ("gradient_x_input", "occlusion"),
    ("integrated_gradients", "occlusion"),
    ("attention", "integrated_gradients"),
)


@dataclass(frozen=True)
class Fit:
    """R² of each explained output, [P], and what of it no model can exceed; None = not known. `source` in words.

    enough  there are outcomes enough to judge by
    """

    found: Floats | None
    attainable: Floats | None
    source: str
    enough: bool = True

    def good(self) -> bool | None:
        """Whether the model predicts well enough; None where that is not known."""
        if self.found is None or not self.enough or not np.isfinite(self.found).any():
            return None
        return bool(np.nanmean(self.found / self._best()) >= GOOD)

    def words(self) -> str:
        """One line."""
        if self.found is None or not np.isfinite(self.found).any():
            return "How well the model predicts is not known: no outcomes were given, and none are published with it."
        doubt = "" if self.enough else f": too few to judge by, {ENOUGH} are asked for"
        return f"Model fit: {self.figure()}, {self.source}{doubt}."

    def figure(self) -> str:
        """R², and what of it can be attained; means over the outputs."""
        assert self.found is not None
        best = "" if self.attainable is None else f" of an attainable {float(np.nanmean(self.attainable)):.3f}"
        return f"R² {float(np.nanmean(self.found)):.3f}{best}"

    def _best(self) -> Floats:
        assert self.found is not None
        return np.ones_like(self.found) if self.attainable is None else self.attainable


def fit(asked: Question, reference: Reference | None) -> Fit:
    """From the outcomes of the reference if there are enough, else as published with the model, else from the few.

    Raises:
        BadInput: outcomes for another number of outputs than the model has.
    """
    chosen, series = list(asked.outputs), asked.series
    attainable = None if series.attainable is None else series.attainable[chosen].astype(np.float64)
    measured = None
    if reference is not None and reference.outcomes is not None:
        if reference.outcomes.shape[1] != len(series.outputs):
            expected, got = len(series.outputs), reference.outcomes.shape[1]
            raise BadInput(f"outcomes: expected {expected} columns, one for each output of the model, got {got}.")
        found = _explained(asked.predict(reference.inputs) * asked.scale, reference.outcomes[:, chosen])
        count = int(np.isfinite(reference.outcomes[:, chosen]).sum(axis=0).min())
        measured = Fit(found, attainable, f"over the {count} outcomes of the reference", enough=count >= ENOUGH)
        if measured.enough:
            return measured
    if series.fit is not None:
        return Fit(series.fit[chosen].astype(np.float64), attainable, "on held-out data, as published with the model")
    return measured or Fit(None, attainable, "")


def _explained(predicted: Floats, measured: Floats) -> Floats:
    """[P] R² = 1 − Σ(measured − predicted)² / Σ(measured − its mean)²; NaN where fewer than two differ."""
    found: Floats = np.full(predicted.shape[1], np.nan)
    for column in range(predicted.shape[1]):
        known = np.isfinite(measured[:, column])
        truth = measured[known, column].astype(np.float64)
        spread = float(((truth - truth.mean()) ** 2).sum()) if len(truth) else 0.0
        if spread > 0:
            found[column] = 1 - float(((truth - predicted[known, column]) ** 2).sum()) / spread
    return found


def correlations(methods: Mapping[str, Floats]) -> dict[str, float]:
    """Such as "attention_occlusion" -> Spearman's ρ over sensors; NaN where one is missing or nothing is ordered."""
    found = {}
    for one, two in PAIRS:
        known = np.isfinite(methods[one]) & np.isfinite(methods[two])
        found[f"{one}_{two}"] = spearman(methods[one][known], methods[two][known])
    return found


def of_history(attention: Floats, null: Floats) -> str:
    """That attention does not depend on what happened when, in words; "" where it does, or where one is missing.

    Of attention a and null n, [S], the share Σ (a − 1)(n − 1) / Σ (a − 1)²: 1 where shuffling changes nothing, 0 where
    the null is uniform or prefers other sensors. Plain sizes would not tell, since the mean of both is near 1.
    """
    known = np.isfinite(attention) & np.isfinite(null)
    here, shuffled = attention[known] - 1, null[known] - 1
    size = float(here @ here)
    share = float(here @ shuffled) / size if size else 0.0
    if share < SAME:
        return ""
    return (
        f"Attention would look the same on shuffled time ({share:.0%} of its difference from uniform remains; this is "
        f"said from {SAME:.0%} on), so it says which sensors are read, not which history matters."
    )


def verdict(how_good: Fit, rho: Mapping[str, float], history: str = "") -> tuple[str, str]:
    """(the method to believe, or "", and why in words); history: see of_history."""
    good = how_good.good()
    if good is False:
        return "", (
            f"Believe none of them: the model itself does not predict well ({how_good.figure()}; at least {GOOD:.0%} "
            "of what can be attained is asked for), so what it relies on says little of the process."
        )
    confirms = rho["integrated_gradients_occlusion"]
    if np.isnan(confirms):
        second = "integrated gradients have nothing to compare it with"
    else:
        word = "confirm it" if confirms >= CONFIRMS else "do not confirm it: look at both before you act"
        second = f"integrated gradients {word} (ρ = {confirms:.2f})"
    unknown = "" if good else " Whether the model predicts well is not known: the ranking is its own, good or bad."
    routed = f"{_of_attention(rho)} {history}".strip()
    return "occlusion", f"Rank by occlusion, which asks the model itself; {second}. {routed}{unknown}"


def _of_attention(rho: Mapping[str, float]) -> str:
    with_occlusion = rho["attention_occlusion"]
    if np.isnan(with_occlusion):
        return "There is no attention between sensors to compare with."
    agrees = "agrees with that here" if with_occlusion >= CONFIRMS else "does not agree with that here"
    return f"Attention shows where values come from, not how much they matter; it {agrees} (ρ = {with_occlusion:.2f})."
