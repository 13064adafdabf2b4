"""What is asked: which number of which targets is to be explained, by which sources.

A target token at index t is predicted at position t − 1, from tokens 0..t−1: these are its sources. The number of a
target of several tokens (a word, a sentence) is the sum over its tokens; of log-probabilities that is the
log-probability of the whole. A run has one target more than tokens behind the first: what would come next, index = the
number of tokens, for which the model's own first choice is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from attnviz.hooks import (
    UNITS,
    AnalysisRequest,
    BadInput,
    Floats,
    Param,
    Span,
    Tokens,
    Unavailable,
    group_tokens,
)
from attnviz.plugins.analyses.attribution.target_functions import UNITS as FUNCTIONS
from attnviz.plugins.analyses.attribution.target_functions import TargetFunction
from attnviz.plugins.analyses.one_token import one_token

TARGET_FUNCTION = Param(
    "target_function",
    "choice",
    default="log_probability",
    choices=tuple(FUNCTIONS),
    help="What is explained of each target: its log-probability, its logit, its probability, its logit against another "
    "token's (contrast), the change of the whole prediction (kl), or its entropy.",
)
AT_THE_RUN = replace(TARGET_FUNCTION, choices=tuple(name for name in FUNCTIONS if name != "kl"))
"""For gradients at the run itself: kl is largest there, so its gradient is 0."""
CONTRAST = Param(
    "contrast",
    "text",
    default="",
    label="Contrast with",
    help="For target function contrast: a text that is one token (mind a leading space).",
)
FIRST = Param("first", "int", minimum=1, label="First target", help="Token index. Empty: the first of the answer.")
LAST = Param("last", "int", minimum=1, label="Last target", help="Token index. Empty: the last of the answer.")
TARGETS = Param("targets", "choice", default="token", choices=UNITS, help="What tokens are put together to as targets.")
SOURCES = Param("sources", "choice", default="token", choices=UNITS, help="What tokens are put together to as sources.")
RANGE = (FIRST, LAST, TARGETS, SOURCES)
SHARED = (TARGET_FUNCTION, CONTRAST, *RANGE)
"""Parameters of a method that explains a target function."""
SHARED_AT_THE_RUN = (AT_THE_RUN, CONTRAST, *RANGE)
"""The same for gradients at the run itself."""


@dataclass(frozen=True)
class Question:
    """Targets and sources over the first n tokens of a run.

    ids        [P] id of each target token; its index is first + its place, and one less predicts it
    targets    R spans that cover the target tokens;  sources  C spans that cover tokens 0..n−1
    assumed    the last target is not in the run: it is the model's first choice
    """

    tokens: Tokens
    first: int
    ids: tuple[int, ...]
    targets: tuple[Span, ...]
    sources: tuple[Span, ...]
    function: TargetFunction
    assumed: bool = False

    @property
    def count(self) -> int:
        """n: tokens that have to be read."""
        return self.first + len(self.ids) - 1

    @property
    def positions(self) -> range:
        """[P] the position that predicts each target token."""
        return range(self.first - 1, self.count)

    @property
    def groups(self) -> tuple[slice, ...]:
        """[R] places of each target's tokens among the target tokens."""
        return tuple(slice(span.index - self.first, span.stop - self.first) for span in self.targets)

    def by_target(self, values: Floats) -> Floats:
        """[..., P] of target tokens -> [..., R], summed."""
        summed: Floats = np.add.reduceat(values, [group.start for group in self.groups], axis=-1)
        return summed

    def by_source(self, scores: Floats) -> Floats:
        """[..., n] of tokens -> [..., C], summed."""
        summed: Floats = np.add.reduceat(scores, [span.index for span in self.sources], axis=-1)
        return summed

    def comes_before(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """[R, C] whether any token of the source is read before the last token of the target is predicted."""
        stops = np.array([target.stop for target in self.targets])
        starts = np.array([source.index for source in self.sources])
        found: np.ndarray[tuple[int, int], np.dtype[np.bool_]] = starts[None, :] < stops[:, None] - 1
        return found

    def one_by_one(self) -> Iterator[Question]:
        """A question for each target, over no more than what comes before it."""
        for span, group in zip(self.targets, self.groups, strict=True):
            sources = tuple(source for source in self.sources if source.index < span.stop - 1)
            last = replace(sources[-1], stop=min(sources[-1].stop, span.stop - 1))
            yield replace(self, first=span.index, ids=self.ids[group], targets=(span,), sources=(*sources[:-1], last))


def ask(request: AnalysisRequest, function: TargetFunction | None = None) -> Question:
    """The question that the parameters of a request put. `function` None = what its parameters name.

    Raises:
        Unavailable: the model does not predict the next token.
        BadInput: targets outside the run, or a contrast that is not one token.
    """
    need_predictions(request)
    tokens = request.tokens
    first, last = _range(request)
    assumed = last == len(tokens)
    ids = [int(i) for i in tokens.ids[first : last + 1]]
    targets = group_tokens(tokens, request.params["targets"], first, min(last + 1, len(tokens)))
    if assumed:
        ids.append(next_id(request))
        targets = (*targets, Span(last, last + 1, ids[-1], request.model.label(ids[-1])))
    return Question(
        tokens=tokens,
        first=first,
        ids=tuple(ids),
        targets=targets,
        sources=group_tokens(tokens, request.params["sources"], 0, last),
        function=_function(request) if function is None else function,
        assumed=assumed,
    )


def need_predictions(request: AnalysisRequest) -> None:
    """
    Raises:
        Unavailable: the model does not predict the next token.
        BadInput: a run with padding.
    """
    card = request.card
    if not card.causal:
        raise Unavailable(
            f"{card.name} does not predict the next token (it sees the whole text at once), so there is no prediction "
            "to attribute. Choose a causal language model."
        )
    if request.tokens.padding is not None:
        raise BadInput("Attribution reads a text from its first token to its last: give it without padding.")


def _range(request: AnalysisRequest) -> tuple[int, int]:
    """First and last target. Nothing given: the answer; of a run without one, what would come next."""
    count = len(request.tokens)
    lowest = 1 if request.tokens.decoder_from is None else request.tokens.decoder_from + 1
    start, stop = request.run.generated_from, count - 1
    if start is None or start >= count:
        start = stop = count
    given = {name: request.params[name] for name in ("first", "last")}
    for name, value in given.items():
        if value is not None and not lowest <= value <= count:
            raise BadInput(
                f"Parameter {name}: expected a token from {lowest} to {count - 1} of this run, or {count} for the one "
                f"that would come next; got {value}."
            )
    first = (
        given["first"] if given["first"] is not None else min(start, stop if given["last"] is None else given["last"])
    )
    last = given["last"] if given["last"] is not None else max(stop, first)
    if first > last:
        raise BadInput(f"Targets {first} to {last}: first is after last. Expected first ≤ last.")
    return max(first, lowest), last


def next_id(request: AnalysisRequest) -> int:
    """The model's first choice after the run."""
    last = [len(request.tokens) - 1]
    table = request.model.lens(request.tokens, positions=last, top_k=1, targets=[-1], sites="blocks")
    return int(table.top_ids[-1, 0, 0])


def _function(request: AnalysisRequest) -> TargetFunction:
    name, text = request.params["target_function"], request.params["contrast"]
    if name != "contrast":
        return TargetFunction(name)
    if not text:
        raise BadInput("Parameter contrast: expected a text that is one token, to compare each target with; got none.")
    return TargetFunction(name, one_token(text, request.model, "contrast"))
