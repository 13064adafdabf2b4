"""From the numbers of a method to an Attribution, and the words beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attnviz.hooks import AnalysisRequest, Attribution, Floats, Span
from attnviz.plugins.analyses.attribution.engine import Engine, differentiable
from attnviz.plugins.analyses.attribution.question import Question, ask
from attnviz.plugins.analyses.attribution.target_functions import NOTHING, TargetFunction


@dataclass(frozen=True)
class About:
    """What is said of a method.

    name      of the analysis
    unit      of its scores; {} stands for the unit of the target function
    signed    whether the sign of a score means anything
    info      what the scores are, and how they were taken
    warnings  where they mislead
    """

    name: str
    unit: str
    signed: bool
    info: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """What a method found.

    scores  [R, C];  values  [R] the numbers that were explained;  delta  [R] completeness gap, or None
    info, warnings   what only the numbers could tell
    """

    scores: Floats
    values: Floats | None = None
    delta: Floats | None = None
    info: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


Method = Callable[[Engine, AnalysisRequest], Rows]


def explain(request: AnalysisRequest, method: Method, about: About) -> Attribution:
    """The answer of `method` to what a request asks.

    Where states depend on later tokens, every target gets an engine of its own over what comes before it, and its part
    of the progress.

    Raises:
        Unavailable: the model gives no gradients, or does not predict the next token.
        BadInput: parameters that do not fit the run.
        ModelError: out of memory, or gradients that are no finite numbers.
    """
    question, model = ask(request), differentiable(request)
    if not model.reads_ahead:
        found = method(Engine(model, question, request.card.vocabulary), request)
        return attribution(request, question, found, about)
    parts = [
        method(Engine(model, part, request.card.vocabulary), _part_of(request, place, len(question.targets)))
        for place, part in enumerate(question.one_by_one())
    ]
    note = "States of this model depend on later tokens: each target had passes of its own over what comes before it."
    return attribution(
        request, question, _stacked(parts, len(question.sources)), replace(about, info=(*about.info, note))
    )


def _part_of(request: AnalysisRequest, place: int, count: int) -> AnalysisRequest:
    """A request whose progress is that of one target of `count`."""

    def progress(share: float, what: str) -> None:
        request.progress((place + share) / count, f"target {place + 1} of {count}: {what}" if count > 1 else what)

    return replace(request, progress=progress)


def _stacked(parts: Sequence[Rows], sources: int) -> Rows:
    """Rows of several questions under one another; a source that a question does not have scores 0."""

    def joined(name: str) -> Floats | None:
        found = [getattr(part, name) for part in parts]
        return None if any(array is None for array in found) else np.concatenate(found)

    return Rows(
        scores=np.concatenate([np.pad(part.scores, ((0, 0), (0, sources - part.scores.shape[1]))) for part in parts]),
        values=joined("values"),
        delta=joined("delta"),
        info=tuple(dict.fromkeys(line for part in parts for line in part.info)),
        warnings=tuple(dict.fromkeys(line for part in parts for line in part.warnings)),
    )


def attribution(request: AnalysisRequest, question: Question, found: Rows, about: About) -> Attribution:
    """The result with everything that must be said about it."""
    scores = np.where(question.comes_before(), found.scores, 0)
    return Attribution(
        method=about.name,
        target_function=question.function.name,
        targets=question.targets,
        sources=question.sources,
        scores=scores,
        normalized=normalized(scores),
        unit=about.unit.format(question.function.unit),
        signed=about.signed,
        target_values=found.values,
        delta=found.delta,
        info=(*about.info, *found.info, *_lines(request, question)),
        warnings=(*found.warnings, *about.warnings),
    )


def normalized(scores: Floats) -> Floats:
    """Each row divided by the sum of its absolute values; a row of zeros stays zero."""
    total = np.abs(scores).sum(axis=1, keepdims=True)
    shares: Floats = np.divide(scores, total, out=np.zeros_like(scores), where=total > 0)
    return shares


# --------------------------------------------------------------------------------------------- words

_NUMBERS = {
    "log_probability": "the log-probability of the target, in nats",
    "logit": "the logit of the target",
    "probability": "the probability of the target",
    "contrast": "the logit of the target minus that of {}",
    "entropy": "the entropy of the prediction, in bits",
    "kl": "minus the divergence KL(prediction of the run ‖ prediction), in bits: 0 for the run itself",
}


def _lines(request: AnalysisRequest, question: Question) -> tuple[str, ...]:
    function = question.function
    other = "" if function.alternative is None else repr(request.model.label(function.alternative))
    lines = [
        f"Rows: {_counted(question.targets, request.params['targets'], 'target')}. Columns: "
        f"{_counted(question.sources, request.params['sources'], 'source')}, all that comes before the last target; a "
        "source that does not come before a target is exactly 0.",
        *_explained(function, other),
        "Normalised: a row divided by the sum of its absolute scores.",
    ]
    if any(span.stop - span.index > 1 for span in question.targets):
        how = "mean" if function is NOTHING else "sum"
        lines.append(f"The number of a target of several tokens is the {how} over its tokens.")
    if question.assumed:
        label = request.model.label(question.ids[-1])
        lines.append(
            f"The last target, {label!r}, is not in the run: it is the model's own first choice for what comes next."
        )
    return tuple(lines)


def _explained(function: TargetFunction, other: str) -> list[str]:
    if function is NOTHING:
        return []
    return [f"Explained: {_NUMBERS[function.name].format(other)}, as predicted at the position before the target."]


def _counted(spans: Sequence[Span], unit: str, what: str) -> str:
    plural = "" if len(spans) == 1 else "s"
    return f"{len(spans)} {what}{plural}, by {unit}, from token {spans[0].index} to {spans[-1].stop - 1}"
