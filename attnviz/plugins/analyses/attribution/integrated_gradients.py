"""How much each token contributed to the target on the way from a run of empty tokens to this one.

Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks". With x' the embeddings of a baseline token at every
position, and f the number that is explained:

    A_j = (x_j − x'_j) ⊙ ∫₀¹ ∂f/∂x_j (x' + α·(x − x')) dα        Σ_j A_j = f(x) − f(x')

What is missing from that sum is the completeness gap, delta. The number of steps is found from forward passes along the
path before any gradient is taken (quadrature.py), for each target its own.

Misleads because the answer depends on the baseline, and because the inputs on the way are no text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, Param, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.baseline import BASELINE, baseline
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, SIGNED, aggregate, aggregation
from attnviz.plugins.analyses.attribution.quadrature import LADDER, Numbers, Rule, gauss_legendre, spread, steps_needed
from attnviz.plugins.analyses.attribution.question import SHARED

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Path:
    """From `start` [n, d] to the run's embeddings."""

    engine: Engine
    start: torch.Tensor

    @cached_property
    def way(self) -> torch.Tensor:
        """[n, d]"""
        return self.engine.embeddings - self.start

    def at(self, places: Numbers) -> torch.Tensor:
        """[k] places in 0..1 -> [k, n, d]."""
        import torch

        shares = torch.tensor(places, dtype=self.start.dtype, device=self.start.device)
        return self.start + shares[:, None, None] * self.way

    def ends(self) -> Numbers:
        """[2, R] of every target: at the baseline, and at the run."""
        import torch

        both = as_array(self.engine.values(torch.stack([self.start, self.engine.embeddings])))
        return self.engine.question.by_target(both.astype(np.float64)).astype(np.float64)

    def values(self, places: Numbers, request: AnalysisRequest) -> Numbers:
        """[k] places -> [k, R] of every target."""
        size, parts = self.engine.batch, []
        for start in range(0, len(places), size):
            request.progress(0.0, f"looking along the path, place {start + 1} of {len(places)}")
            parts.append(as_array(self.engine.values(self.at(places[start : start + size]))))
        return self.engine.question.by_target(np.concatenate(parts)).astype(np.float64)


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors."""
    how = request.params["aggregation"]
    about = About(
        name="integrated_gradients",
        unit="{}",
        signed=how in SIGNED,
        info=(
            "Integrated gradients (Sundararajan et al. 2017): the way of each token's embedding from the baseline, "
            f"times the gradient of each target averaged along it; {AGGREGATIONS[how]}. Sources of several tokens: "
            "the sum.",
            "delta: the sum over all sources and the hidden axis, minus the difference between run and baseline.",
        ),
        warnings=("Every score is a comparison with the baseline: another one gives other scores.",),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    start, compared = baseline(engine, request, request.params["baseline"])
    path, tolerance, asked = Path(engine, start), request.params["tolerance"], request.params["steps"]
    if asked is None:
        steps, rule = steps_needed(partial(path.values, request=request), tolerance), spread
    else:
        steps, rule = np.full(len(engine.question.targets), asked), gauss_legendre
    scores, sums = _integrals(path, request, steps, rule)
    before, after = path.ends()
    delta = sums - (after - before)
    exact = as_array(engine.embeddings[:0]).dtype
    return Rows(
        scores=engine.question.by_source(scores).astype(exact),
        values=after.astype(exact),
        delta=delta.astype(exact),
        info=(f"Baseline: {compared}, at every position.", _steps_in_words(steps, asked)),
        warnings=_warnings(engine, delta, tolerance, asked),
    )


def _integrals(
    path: Path, request: AnalysisRequest, steps: NDArray[np.int64], rule: Callable[[int], Rule]
) -> tuple[Numbers, Numbers]:
    """Scores [R, n] of all targets, and their sums [R] over tokens and hidden axis. Targets of as many steps share
    passes."""
    engine, how = path.engine, request.params["aggregation"]
    scores, sums = np.zeros((len(steps), engine.question.count)), np.zeros(len(steps))
    done, step, longest = 0, 0, int(np.unique(steps).sum())
    for count in np.unique(steps).tolist():
        members = np.flatnonzero(steps == count).tolist()
        totals: dict[int, torch.Tensor] = {}  # of signed aggregations [n], which may be summed; of others [n, d]
        for places, weights in _pieces(rule(count), engine.batch):
            what = f"step {step + 1} of {longest}"
            request.progress(done / int(steps.sum()), what)
            for target, gradient in zip(members, engine.gradients(path.at(places), members)[1], strict=True):
                request.progress(done / int(steps.sum()), what)
                done += len(places)
                vector = _weighted(gradient, weights) * path.way
                sums[target] += float(vector.sum())
                part = aggregate(vector, how) if how in SIGNED else vector
                totals[target] = part if target not in totals else totals[target] + part
            step += len(places)
        for target, total in totals.items():
            scores[target] = as_array(total if how in SIGNED else aggregate(total, how))
    return scores, sums


def _pieces(rule: Rule, size: int) -> Iterator[Rule]:
    points, weights = rule
    for start in range(0, len(points), size):
        yield points[start : start + size], weights[start : start + size]


def _weighted(gradients: torch.Tensor, weights: Numbers) -> torch.Tensor:
    """[c, n, d] -> [n, d], in float32 at least."""
    import torch

    exact = gradients if gradients.dtype == torch.float64 else gradients.float()
    return torch.tensordot(torch.tensor(weights, dtype=exact.dtype, device=exact.device), exact, dims=1)


# --------------------------------------------------------------------------------------------- words


def _steps_in_words(steps: NDArray[np.int64], asked: int | None) -> str:
    if asked is not None:
        return f"{asked} steps of Gauss–Legendre quadrature, as asked for."
    few, many = int(steps.min()), int(steps.max())
    shown = f"{few} steps" if few == many else f"{few} to {many} steps, each target its own number"
    return f"{shown}, found from forward passes along the path (transplanted Gauss–Legendre, Hale & Trefethen 2008)."


def _warnings(engine: Engine, delta: Numbers, tolerance: float, asked: int | None) -> tuple[str, ...]:
    missed = np.abs(delta) > tolerance
    if not missed.any():
        return ()
    worst = int(np.abs(delta).argmax())
    label = engine.question.targets[worst].label
    todo = f"even {LADDER[-1]} steps are too few" if asked is None else "take more steps, or leave their number open"
    return (
        f"{int(missed.sum())} of {len(delta)} targets miss completeness by more than {tolerance:g}, most of all "
        f"{label!r} by {abs(delta[worst]):.2g}: {todo}. Do not trust their scores to that.",
    )


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Integrated gradients."""
    return [
        Analysis(
            name="integrated_gradients",
            title="Integrated gradients",
            group="Attribution",
            summary="How much each token contributed on the way from empty tokens; adds up, and says how well.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(
                *SHARED,
                aggregation("sum"),
                BASELINE,
                Param(
                    "tolerance",
                    "float",
                    default=0.01,
                    minimum=1e-6,
                    maximum=100,
                    help="Completeness gap that is accepted, in the unit of the target function.",
                ),
                Param(
                    "steps",
                    "int",
                    minimum=1,
                    maximum=2048,
                    help="Empty: as many as the tolerance needs, for each target its own number.",
                ),
            ),
            gpu=True,
        )
    ]
