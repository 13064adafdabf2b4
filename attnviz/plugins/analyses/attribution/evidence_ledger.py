"""What each step of an answer rests on: attention to the parts of the run, and what taking them away changes.

For each thought, action and answer, of the rows that predict its tokens (row t − 1 predicts token t): the share of
their attention mass that falls on the system text, the question, each observation, what the model itself wrote before,
and the marks of the chat template; mean over heads, layers and rows, sinks left out. Beside it the share of a head that
looks at every visible token alike, since a longer source draws more weight.

The effect of a source is the log-probability of the step, minus the same with all its tokens taken away at once. Only
this says what the step depends on; attention says what was looked at (Jain & Wallace 2019, "Attention is not
Explanation").

Flags compare an observation with a threshold. With effects: taking it away lowers the log-probability by less than
NEEDED nats. Without: its share of attention is below that of a uniform head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    BadInput,
    Bools,
    EvidenceLedger,
    Floats,
    LayerCapture,
    LedgerSource,
    LedgerStep,
    Param,
    Span,
    Unavailable,
    hookimpl,
)
from attnviz.plugins.analyses.attribution.engine import Engine, differentiable
from attnviz.plugins.analyses.attribution.question import Question, need_predictions, next_id
from attnviz.plugins.analyses.attribution.removal import REMOVAL, removal
from attnviz.plugins.analyses.attribution.target_functions import TargetFunction
from attnviz.plugins.analyses.sinks import EXCLUDE_SINKS, Sinks, find_sinks, without_sinks

WRITTEN = ("thought", "action", "answer")
NAMES = {"system": "system", "user": "question", "own": "own earlier text", "marks": "marks of the template"}
NEEDED = 0.5
"""Nats. Below, the step is at most e^0.5 = 1.6 times less likely without the source."""
COLUMNS = ("step", "tokens", "source", "share of attention", "uniform share", "effect [nats]")

LAYERS = Param("layers", "text", default="mean", help="mean: over all layers with attention; or the number of one.")
HEADS = Param("heads", "text", default="mean", help="mean: over all heads; or the number of one.")

Masses = tuple[Floats, Floats]


def run(request: AnalysisRequest) -> EvidenceLedger:
    """
    Raises:
        BadInput: a run with padding; a layer or head that is not there.
        Unavailable: a model with encoder and decoder, or effects of one without gradients.
    """
    need_predictions(request)
    if request.tokens.decoder_from is not None:
        raise Unavailable(
            f"{request.card.name} has an encoder and a decoder: the evidence ledger is about one text that grows, with "
            "rows over all that came before. Choose a model that is a decoder only."
        )
    steps = steps_of(request)
    sources = sources_of(request, steps)
    sinks = find_sinks(request.trace, request.tokens)
    share, uniform = _masses(request, steps, sources, sinks)
    effect, logprob, words = _effects(request, steps, sources) if request.params["effect"] else (None, None, "")
    found = _Found(steps, sources, share, uniform, effect)
    return EvidenceLedger(
        columns=COLUMNS,
        rows=tuple(found.rows()),
        steps=steps,
        sources=sources,
        share=share,
        uniform=uniform,
        effect=effect,
        logprob=logprob,
        removal=words,
        flags=tuple(found.flags()),
        info=_info(request, sources, sinks, words),
        warnings=_warnings(words),
    )


# --------------------------------------------------------------------------------------------- steps and sources


def steps_of(request: AnalysisRequest) -> tuple[LedgerStep, ...]:
    """What the model wrote, step by step; of a run without steps the whole answer, and of one without an answer the
    token that would come next, for which the model's own first choice is taken."""
    tokens, begin = request.tokens, request.run.generated_from
    if begin is None or begin >= len(tokens):
        return (LedgerStep("text", "what would come next", len(tokens), len(tokens) + 1),)
    written = [s for s in tokens.segments if s.role in WRITTEN and s.start >= begin and s.start < s.stop]
    if not written:
        return (LedgerStep("answer", "answer", begin, len(tokens)),)
    count = {role: sum(s.role == role for s in written) for role in WRITTEN}
    seen = dict.fromkeys(WRITTEN, 0)
    steps = []
    for segment in written:
        seen[segment.role] += 1
        number = f" {seen[segment.role]}" if count[segment.role] > 1 else ""
        steps.append(LedgerStep(segment.role, f"{segment.role}{number}", segment.start, segment.stop))
    return tuple(steps)


def sources_of(request: AnalysisRequest, steps: Sequence[LedgerStep]) -> tuple[LedgerSource, ...]:
    """A partition of the run: system, question, observations, what the model wrote, and the rest."""
    tokens = request.tokens
    begin = len(tokens) if request.run.generated_from is None else request.run.generated_from
    kinds = np.full(len(tokens), "marks", dtype=object)
    for segment in tokens.segments:
        if segment.role in ("system", "user", "observation", "text"):
            kinds[segment.start : segment.stop] = "user" if segment.role == "text" else segment.role
    if not tokens.segments:
        kinds[:begin] = "user"  # a plain text
    kinds[[i for i, kind in enumerate(kinds) if kind == "marks" and i >= begin]] = "own"
    for segment in tokens.segments:
        if segment.role in ("assistant", *WRITTEN):
            kinds[segment.start : segment.stop] = "own"
    plain = ("system", "user", "own", "marks")
    found = {kind: _spans(kinds == kind) for kind in plain}
    observed = [(s.start, s.stop) for s in tokens.segments if s.role == "observation" and s.start < s.stop]
    tools = _tools(request, observed)
    places = [
        LedgerSource("observation", f"observation {n}{tool}", (span,))
        for n, (span, tool) in enumerate(zip(observed, tools, strict=True), start=1)
    ]
    names = NAMES if any(s.role == "user" for s in tokens.segments) else {**NAMES, "user": "prompt"}
    named = {kind: LedgerSource("question" if kind == "user" else kind, names[kind], found[kind]) for kind in plain}
    return (*(named[k] for k in ("system", "user") if found[k]), *places, named["own"], *(
        [named["marks"]] if found["marks"] else []
    ))  # fmt: skip


def _tools(request: AnalysisRequest, observed: Sequence[tuple[int, int]]) -> list[str]:
    """Of each observation the tool it came from, where that is known."""
    trajectory = request.run.trajectory
    names = {} if trajectory is None else {s.start: s.tool for s in trajectory.steps if s.kind == "observation"}
    return [f" ({names[start]})" if names.get(start) else "" for start, _ in observed]


def _spans(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


# --------------------------------------------------------------------------------------------- attention


def _masses(
    request: AnalysisRequest, steps: Sequence[LedgerStep], sources: Sequence[LedgerSource], sinks: Sinks
) -> Masses:
    """([S, C] share of attention, [S, C] that of a uniform head), mean over rows, heads and layers."""
    trace, count = request.trace, len(request.tokens)
    member = np.zeros((count, len(sources)), np.float32)
    for column, source in enumerate(sources):
        for start, stop in source.spans:
            member[start:stop, column] = 1
    first, last = steps[0].start - 1, steps[-1].stop - 1
    rows = slice(first, last)
    heads = _heads(request)
    total, alike = np.zeros((last - first, len(sources))), np.zeros((last - first, len(sources)))
    for done, (index, head) in enumerate(heads):
        request.progress(done / len(heads), f"layer {index}, head {head}")
        capture = trace.layer(index)
        left_out = sinks.columns(capture) if request.params["exclude_sinks"] else ()
        weights = capture.pattern(head, rows)  # [R, T]
        total += _shares(weights, left_out) @ member
        alike += _shares(_visible(capture, count, rows), left_out) @ member
    of_step = [slice(step.start - 1 - first, step.stop - 1 - first) for step in steps]
    share, uniform = (np.stack([_normed(found[part].sum(0)) for part in of_step]) for found in (total, alike))
    return share.astype(np.float32), uniform.astype(np.float32)


def _shares(weights: Floats, left_out: tuple[int, ...]) -> Floats:
    """Rows that sum to 1 over what is left; also beside a learned sink, which takes a part of each row."""
    left = without_sinks(weights, left_out)
    total = left.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(left, total, out=np.zeros_like(left), where=total > 0)
    return shares


def _normed(masses: Floats) -> Floats:
    """Sum 1; rows that see nothing but sinks have no part in it."""
    total = masses.sum()
    return masses / total if total > 0 else np.full_like(masses, np.nan)


def _visible(capture: LayerCapture, count: int, rows: slice) -> Floats:
    """[R, T] 1 where a row may look."""
    found = np.ones((rows.stop - rows.start, count), np.float32)
    hidden = capture.hidden(rows)
    if hidden is not None:
        found[hidden] = 0
    return found


def _heads(request: AnalysisRequest) -> list[tuple[int, int]]:
    """Every (layer, head) that is looked at."""
    trace = request.trace
    layer, head = (_one(request.params[name], name) for name in ("layers", "heads"))
    layers = [i for i, capture in enumerate(trace.layers) if capture is not None] if layer is None else [layer]
    found = []
    for index in layers:
        count = trace.layer(index).heads
        if head is not None and head >= count:
            raise BadInput(f"Unknown head {head}. Layer {index} has heads 0 to {count - 1}.")
        found += [(index, h) for h in (range(count) if head is None else [head])]
    return found


def _one(text: str, name: str) -> int | None:
    """The number of a layer or head; None for the mean over all."""
    word = text.strip().lower()
    if word in ("mean", ""):
        return None
    if not (word.isascii() and word.isdigit() and len(word) < 7):
        raise BadInput(f"Parameter {name}: expected mean or a number from 0, got {text!r:.40}.")
    return int(word)


# --------------------------------------------------------------------------------------------- effects


def _effects(
    request: AnalysisRequest, steps: Sequence[LedgerStep], sources: Sequence[LedgerSource]
) -> tuple[Floats, Floats, str]:
    """([S, C] effects, [S] log-probabilities, how sources were taken away)."""
    first, last = steps[0].start, steps[-1].stop
    tokens = request.tokens
    ids = [int(i) for i in tokens.ids[:last]]
    if len(ids) < last:
        ids.append(next_id(request))
    spans = tuple(Span(i, i + 1, token, request.model.label(token)) for i, token in enumerate(ids))
    question = Question(
        tokens=tokens,
        first=first,
        ids=tuple(ids[first:]),
        assumed=last > len(tokens),
        targets=spans[first:],
        sources=spans[: last - 1],
        function=TargetFunction("log_probability"),
    )
    model = differentiable(request)
    effect = np.full((len(steps), len(sources)), np.nan, np.float32)
    logprob = np.zeros(len(steps), np.float32)
    words = ""
    parts = [(question, range(len(steps)))]
    if model.reads_ahead:  # states depend on later tokens: each step has a reading of its own
        parts = [(_only(question, step), range(n, n + 1)) for n, step in enumerate(steps)]
    for part, numbers in parts:
        engine = Engine(model, part, request.card.vocabulary)
        away = removal(engine, request)
        words = away.words
        changes = _changes([steps[n] for n in numbers], sources, tokens.special)
        read = _reader(part, steps)
        masks = np.stack([np.zeros(part.count, np.bool_), *(mask[: part.count] for _, _, mask in changes)])
        found = np.concatenate(list(away.values(masks, range(len(part.ids)))))  # [1 + changes, P]
        for n in numbers:
            logprob[n] = read(found[0], n)
        for (place, column, _), values in zip(changes, found[1:], strict=True):
            for n in [numbers[place]] if place is not None else numbers:
                if any(start < steps[n].start for start, _ in sources[column].spans):
                    effect[n, column] = read(found[0], n) - read(values, n)
    return effect, logprob, words


def _only(question: Question, step: LedgerStep) -> Question:
    """The same about one step, over no more than what comes before its end."""
    ids = question.ids[step.start - question.first : step.stop - question.first]
    targets = tuple(t for t in question.targets if step.start <= t.index < step.stop)
    return replace(question, first=step.start, ids=ids, targets=targets, sources=question.sources[: step.stop - 1])


def _changes(
    steps: Sequence[LedgerStep], sources: Sequence[LedgerSource], special: Bools
) -> list[tuple[int | None, int, Bools]]:
    """(place of the step it is for, None = every one; source; which tokens are away). Control tokens stay."""
    changes: list[tuple[int | None, int, Bools]] = []
    for column, source in enumerate(sources):
        whole = np.zeros(len(special), np.bool_)
        for start, stop in source.spans:
            whole[start:stop] = True
        whole &= ~special
        if source.kind != "own":
            if whole.any():
                changes.append((None, column, whole))
            continue
        for place, step in enumerate(steps):  # a step is not evidence for itself: only what was written before it
            before = whole & (np.arange(len(special)) < step.start)
            if before.any():
                changes.append((place, column, before))
    return changes


def _reader(question: Question, steps: Sequence[LedgerStep]) -> Callable[[Floats, int], float]:
    def read(values: Floats, number: int) -> float:
        step = steps[number]
        return float(values[step.start - question.first : step.stop - question.first].sum())

    return read


# --------------------------------------------------------------------------------------------- words


@dataclass(frozen=True)
class _Found:
    steps: Sequence[LedgerStep]
    sources: Sequence[LedgerSource]
    share: Floats
    uniform: Floats
    effect: Floats | None

    def rows(self) -> list[tuple[str | float | None, ...]]:
        rows: list[tuple[str | float | None, ...]] = []
        for s, step in enumerate(self.steps):
            for c, source in enumerate(self.sources):
                effect = None if self.effect is None else _number(self.effect[s, c])
                span = f"{step.start}–{step.stop - 1}" if step.stop - step.start > 1 else str(step.start)
                shares = _number(self.share[s, c]), _number(self.uniform[s, c])
                rows.append((step.label, span, source.label, *shares, effect))
        return rows

    def flags(self) -> list[str]:
        """What rests on no observation, and which observation nothing rests on."""
        observed = [c for c, source in enumerate(self.sources) if source.kind == "observation"]
        flags = []
        for s, step in enumerate(self.steps):
            before = [c for c in observed if self.sources[c].spans[0][1] <= step.start]
            if step.kind == "answer" and before and not any(self._used(s, c) for c in before):
                flags.append(f"The {step.label} rests on no observation: {self._because()}.")
        for c in observed:
            later = [s for s, step in enumerate(self.steps) if step.start >= self.sources[c].spans[0][1]]
            if later and not any(self._used(s, c) for s in later):
                flags.append(f"{self.sources[c].label.capitalize()} was never used: {self._because()}.")
        return flags

    def _used(self, step: int, source: int) -> bool:
        if self.effect is not None and np.isfinite(self.effect[step, source]):
            return bool(self.effect[step, source] >= NEEDED)
        return bool(self.share[step, source] >= self.uniform[step, source])

    def _because(self) -> str:
        if self.effect is not None:
            return f"without it what follows is less likely by under {NEEDED:g} nats"
        return "it gets less attention than a head gives that looks everywhere alike; compute the effect to be sure"


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def _info(request: AnalysisRequest, sources: Sequence[LedgerSource], sinks: Sinks, words: str) -> tuple[str, ...]:
    layer, head = (_one(request.params[name], name) for name in ("layers", "heads"))
    layers = "all layers with attention" if layer is None else f"layer {layer}"
    heads = "all heads" if head is None else f"head {head}"
    excluded = request.params["exclude_sinks"]
    lines = [
        f"Share of attention: of the rows that predict the step's tokens, mean over {layers} and {heads}; the sources "
        "of a step sum to 1. Own earlier text reaches to the token that is predicted.",
        "Uniform share: of a head that gives every visible token the same weight.",
        f"Computed from what was captured in {request.trace.precision}.",
        sinks.describe() + (f" Left out: {sinks.left_out()}." if excluded else " They are kept."),
    ]
    if missing := request.trace.missing:
        lines.append(f"Layers without attention have no part: {', '.join(map(str, sorted(missing)))}.")
    if words:
        lines.append(
            f"Effect: log-probability of the step (nats, summed over its tokens), minus the same with every token of "
            f"the source {words}; control tokens stay. Of own earlier text: what was written before the step."
        )
    if any(source.kind == "observation" for source in sources):
        needed = f"without it the step is less likely by at least {NEEDED:g} nats"
        looked = "it gets at least the share of a uniform head"
        lines.append(f"Flags: a step counts as resting on an observation if {needed if words else looked}.")
    return tuple(lines)


def _warnings(words: str) -> tuple[str, ...]:
    looked = "Attention says what was looked at, not what the answer depends on"
    if not words:
        return (f"{looked}: compute the effect to see what taking a source away changes.",)
    return (f"{looked}; the effect does, though a run with a hole is no text.",)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """The evidence ledger."""
    return [
        Analysis(
            name="evidence_ledger",
            title="Evidence ledger",
            group="Agent",
            summary="What each step of an answer rests on: system, question, observations, or the model's own words.",
            run=run,
            produces=EvidenceLedger,
            requires=frozenset({"attention", "generation"}),
            gpu=True,
            params=(
                Param(
                    "effect",
                    "bool",
                    default=False,
                    label="Effect of taking sources away",
                    help="Also measure how much less likely each step is without each source: a pass for each.",
                ),
                LAYERS,
                HEADS,
                REMOVAL,
                replace(EXCLUDE_SINKS, default=True),
            ),
        )
    ]
