"""Whether the model needs what a method points at: the figures of the faithfulness analysis, as means over targets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from attnviz.bench.plan import JUDGE, PlannedMethod
from attnviz.errors import PluginError
from attnviz.hooks import Analysis, Faithfulness
from attnviz.session import TracedRun

FIGURES: Mapping[str, str] = {
    "comprehensiveness": "comprehensiveness AOPC",
    "sufficiency": "sufficiency AOPC",
    "deletion_auc": "deletion AUC",
    "insertion_auc": "insertion AUC",
    "kendall_tau": "Kendall tau-b with leave-one-out",
}
"""Measure of a cell -> figure of the analysis."""


def judged(run: TracedRun, method: PlannedMethod, params: Mapping[str, Any]) -> dict[str, float | None]:
    """Every measure and its random baseline; None where no target has it.

    Raises:
        AttnvizError: it cannot be judged, and why.
    """
    result = run.analyze(JUDGE, method=method.name, settings=settings(run, method), **params).result
    if not isinstance(result, Faithfulness):
        raise PluginError(f"Analysis {JUDGE}: expected a result of faithfulness, got {result.kind}.")
    place = {name: result.columns.index(name) for name in ("figure", "value", "random mean")}
    first: dict[str, tuple[float | None, float | None]] = {}  # the mean over targets stands before each of them
    for row in result.rows:
        first.setdefault(str(row[place["figure"]]), (_number(row[place["value"]]), _number(row[place["random mean"]])))
    found: dict[str, float | None] = {}
    for name, figure in FIGURES.items():
        found[name], found[f"{name}_random"] = first[figure]
    return found


def settings(run: TracedRun, method: PlannedMethod) -> str:
    """The parameters of a method that are not its defaults, as the analysis reads them."""
    analysis: Analysis = run.model.session.analysis(method.name)
    defaults = {param.name: param.default for param in analysis.params}
    chosen = {name: value for name, value in method.params.items() if value is not None and value != defaults[name]}
    return " ".join(shlex.quote(f"{name}={value}") for name, value in chosen.items())


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
