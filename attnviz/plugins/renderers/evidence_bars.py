"""What each step of an answer rests on: the steps in order, each with a bar split by source, and the text beside them.

Shows EvidenceLedger. Every part of a bar stands below it in words and numbers, so nothing is told by colour alone. The
thin bar is what a head would give that looks everywhere alike; where effects were computed, each source says how much
less likely the step is without it, which is the only one of the two that says what the step depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnviz.hooks import (
    BadInput,
    EvidenceLedger,
    Finding,
    Floats,
    LedgerSource,
    Renderer,
    ShapeError,
    Tokens,
    View,
    hookimpl,
)
from attnviz.plugins.renderers._assets import note_data, script, style, token_data

_COLOURS = {"system": "#7a869a", "question": "#0072b2", "own": "#009e73", "marks": "#c3c9d4"}
_OBSERVATIONS = ("#e69f00", "#d55e00", "#cc79a7", "#f0e442")  # Okabe & Ito's, told apart by most kinds of sight
_SHORT = {"system": "system", "question": "question", "own": "own text", "marks": "marks"}
_EXCERPT = 600  # characters of a step


@dataclass(frozen=True)
class Look:
    """How a source is drawn: colour as #rrggbb, whether it is hatched, and a name that fits into a bar."""

    colour: str
    hatched: bool
    short: str


@dataclass(frozen=True)
class Entry:
    """A line of the story: a step with its evidence, or an observation, which is evidence.

    step, source  its row, or its column, in the ledger; None = it is the other
    """

    kind: str
    label: str
    text: str
    start: int
    stop: int
    step: int | None = None
    source: int | None = None


def checked(finding: Finding) -> EvidenceLedger:
    """The result, with every source inside the text; a step may be the token that would come next.

    Raises:
        BadInput, ShapeError: another kind of result, or spans outside the text.
    """
    result = finding.result
    if not isinstance(result, EvidenceLedger):
        raise BadInput(f"evidence_bars: expected an evidence ledger, got {result.kind}.")
    count = len(finding.tokens)
    places = [(step.start, step.stop, count + 1) for step in result.steps]
    places += [(*span, count) for source in result.sources for span in source.spans]
    for start, stop, end in places:
        if not 0 <= start < stop <= end:
            raise ShapeError("EvidenceLedger spans", f"within 0..{end}", (start, stop))
    return result


def looks(sources: Sequence[LedgerSource]) -> list[Look]:
    """One for each source; observations have colours of their own, hatched from the second round on."""
    found, seen = [], 0
    for source in sources:
        if source.kind == "observation":
            turn, place = divmod(seen, len(_OBSERVATIONS))
            seen += 1
            found.append(Look(_OBSERVATIONS[place], bool(turn % 2), f"obs. {seen}"))
        else:
            found.append(Look(_COLOURS[source.kind], source.kind == "marks", _SHORT[source.kind]))
    return found


def entries(finding: Finding, result: EvidenceLedger) -> list[Entry]:
    """Steps and observations in the order of the run."""
    tokens = finding.tokens
    found = [
        Entry(step.kind, step.label, _words(tokens, step.start, step.stop), step.start, step.stop, step=number)
        for number, step in enumerate(result.steps)
    ]
    for number, source in enumerate(result.sources):
        if source.kind == "observation" and source.spans:
            start, stop = source.spans[0][0], source.spans[-1][1]
            found.append(Entry("observation", source.label, _words(tokens, start, stop), start, stop, source=number))
    return sorted(found, key=lambda entry: entry.start)


def _words(tokens: Tokens, start: int, stop: int) -> str:
    """The text of some tokens; their labels where they stand for no characters."""
    places = [(a, b) for a, b in tokens.offsets[start:stop].tolist() if a >= 0]
    if not places:
        return "".join(tokens.labels[start:stop])[:_EXCERPT]
    return tokens.text[places[0][0] : max(b for _, b in places)].strip()[:_EXCERPT]


def render(finding: Finding) -> View:
    """The data of the page."""
    result = checked(finding)
    payload = {
        **token_data(finding),
        "entries": [vars(entry) for entry in entries(finding, result)],
        "steps": [{"label": step.label, "tokens": step.stop - step.start} for step in result.steps],
        "sources": [
            {
                "kind": source.kind,
                "label": source.label,
                "short": look.short,
                "colour": [int(look.colour[i : i + 2], 16) for i in (1, 3, 5)],
                "hatched": look.hatched,
                "spans": [list(span) for span in source.spans],
            }
            for source, look in zip(result.sources, looks(result.sources), strict=True)
        ],
        "share": _numbers(result.share),
        "uniform": _numbers(result.uniform),
        "effect": None if result.effect is None else _numbers(result.effect),
        "logprob": None if result.logprob is None else _numbers(result.logprob[None])[0],
        "removal": result.removal,
        "flags": list(result.flags),
        **note_data(result),
    }
    return View(kind="script", payload=payload)


def _numbers(values: Floats) -> list[list[float | None]]:
    return [[float(f"{x:.6g}") if np.isfinite(x) else None for x in row] for row in values.tolist()]


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The steps with their bars."""
    return [
        Renderer(
            name="evidence_bars",
            title="Steps and evidence",
            accepts=(EvidenceLedger,),
            produces="script",
            render=render,
            script=script("_tokens", "evidence_bars"),
            style=style("evidence_bars"),
            order=5,
        )
    ]
