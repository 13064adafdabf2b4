"""Two runs beside each other, step by step: what each wrote, what it rests on, and the difference B − A.

Steps are put together by dynamic programming (Needleman & Wunsch 1970): in order, only steps of one kind, as many as
possible, and of those the ones whose words are most alike. What only one run has stands alone. A difference is given
where both sides have a number, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from attnviz.errors import BadInput, Unavailable
from attnviz.provenance import provenance
from attnviz.session import SavableFinding, TracedRun
from attnviz.types import EvidenceLedger, Floats, LedgerSource, Run, Table

NAME = "compare_runs"
KINDS = ("thought", "action", "observation", "answer")
COLUMNS = ("step", "A", "B", "text", "source", "share A", "share B", "share B − A")
DIGITS = 4  # behind the point
EFFECTS = ("effect A [nats]", "effect B [nats]", "effect B − A [nats]")

Cell = str | float | None
Pair = tuple[int | None, int | None]
"""Numbers of what belongs together in A and B; None = the other run has nothing for it."""
Figures = tuple[float | None, float | None]
"""(share, effect) of one source of one step."""


@dataclass(frozen=True)
class Part:
    """A step of a run, or an observation: tokens start..stop-1."""

    kind: str
    label: str
    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class Side:
    """One of the two runs.

    reason  why there is no ledger, in words
    """

    run: TracedRun
    parts: tuple[Part, ...]
    ledger: EvidenceLedger | None
    reason: str = ""


def compare_runs(
    first: TracedRun, second: TracedRun, *, effect: bool = False, layers: str = "mean", heads: str = "mean"
) -> SavableFinding:
    """A table of two runs, A and B: question and answer, then every step with its sources; see the module.

    Args:
        effect: also what taking each source away does to each step; some passes for each run.
        layers, heads: of the shares of attention; "mean", or the number of one.

    Raises:
        BadInput: a run without an answer; a layer or head that one of the models does not have.
    """
    params = {"effect": effect, "layers": layers, "heads": heads}
    sides = _side(first, params), _side(second, params)
    rows = _heads(sides)
    pairs = aligned(sides[0].parts, sides[1].parts)
    for pair in pairs:
        rows += _rows(sides, pairs, pair)
    width = len(COLUMNS) + (len(EFFECTS) if effect else 0)
    result = Table(
        columns=(*COLUMNS, *EFFECTS)[:width],
        rows=tuple(row[:width] for row in rows),
        info=_info(sides),
        warnings=_warnings(sides),
    )
    of_second = provenance(second.run, second.model.card, NAME, params, result)
    names = dict.fromkeys(side.run.model.name for side in sides)
    return SavableFinding(
        analysis=NAME,
        title="Two runs by step",
        params=params,
        model=" and ".join(names),
        tokens=first.tokens,
        result=result,
        provenance=provenance(first.run, first.model.card, NAME, {**params, "against": of_second}, result),
        run=first.id,
        generated_from=first.generated_from,
        session=first.model.session,
    )


def _side(run: TracedRun, params: Mapping[str, Any]) -> Side:
    parts = parts_of(run.run)
    try:
        found = run.analyze("evidence_ledger", **params).result
    except Unavailable as error:  # such as a saved run whose model is not at hand: its words can still be compared
        return Side(run, parts, None, str(error))
    assert isinstance(found, EvidenceLedger)
    return Side(run, parts, found)


# --------------------------------------------------------------------------------------------- steps


def parts_of(run: Run) -> tuple[Part, ...]:
    """What a run wrote and was told, in order; of a run without steps the whole answer.

    Raises:
        BadInput: the model wrote nothing.
    """
    tokens, begin = run.tokens, run.generated_from
    if begin is None or begin >= len(tokens):
        raise BadInput(
            "Comparing runs: expected two answers, but one of the runs has none. Let the model answer first."
        )
    spans = [(s.role, s.start, s.stop) for s in tokens.segments if s.role in KINDS and begin <= s.start < s.stop]
    steps = {} if run.trajectory is None else {(s.kind, s.start): s for s in run.trajectory.steps}
    count = {kind: sum(role == kind for role, _, _ in spans) for kind in KINDS}
    seen = dict.fromkeys(KINDS, 0)
    found = []
    for kind, start, stop in spans or [("answer", begin, len(tokens))]:
        seen[kind] += 1
        step = steps.get((kind, start))
        number = f" {seen[kind]}" if count[kind] > 1 or kind == "observation" else ""
        tool = f" ({step.tool})" if step is not None and step.tool and kind == "observation" else ""
        text = _words(run, start, stop) if step is None else step.text
        found.append(Part(kind, f"{kind}{number}{tool}", text.strip(), start, stop))
    return tuple(found)


def _words(run: Run, start: int, stop: int) -> str:
    places = [(a, b) for a, b in run.tokens.offsets[start:stop].tolist() if a >= 0]
    return run.text[places[0][0] : max(b for _, b in places)] if places else ""


def aligned(first: Sequence[Part], second: Sequence[Part]) -> list[Pair]:
    """Every part once, in order, those that belong together in one pair."""
    n, m = len(first), len(second)
    together = np.array([[_worth(a, b) for b in second] for a in first]).reshape(n, m)
    best = np.zeros((n + 1, m + 1))
    for i in reversed(range(n)):
        for j in reversed(range(m)):
            best[i, j] = max(best[i + 1, j], best[i, j + 1], together[i, j] + best[i + 1, j + 1])
    pairs: list[Pair] = []
    i = j = 0
    while i < n and j < m:
        if best[i, j] == together[i, j] + best[i + 1, j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            pairs.append((i, None))
            i += 1
        else:
            pairs.append((None, j))
            j += 1
    return [*pairs, *((k, None) for k in range(i, n)), *((None, k) for k in range(j, m))]


def _worth(a: Part, b: Part) -> float:
    """1 to 2 by how many words they share in order; what is not of one kind is never put together."""
    if a.kind != b.kind:
        return -1.0
    return 1.0 + SequenceMatcher(None, a.text.split(), b.text.split(), autojunk=False).ratio()


# --------------------------------------------------------------------------------------------- rows


def _heads(sides: tuple[Side, Side]) -> list[tuple[Cell, ...]]:
    """Question and answer of both."""
    asked = [side.run.prompt.strip() for side in sides]
    trajectories = [side.run.run.trajectory for side in sides]
    last = [
        (trajectory.answer or None) if trajectory is not None else side.parts[-1].text
        for side, trajectory in zip(sides, trajectories, strict=True)
    ]
    return [_texts("question", *asked), _texts("final answer", *last)]


def _texts(label: str, a: str | None, b: str | None) -> tuple[Cell, ...]:
    if a is None or b is None:
        said = "in neither" if a is b else "only in A" if b is None else "only in B"
    else:
        said = "the same" if a == b else "differs"
    return label, a, b, said, *[None] * (len(COLUMNS) + len(EFFECTS) - 4)


def _rows(sides: tuple[Side, Side], pairs: Sequence[Pair], pair: Pair) -> list[tuple[Cell, ...]]:
    """What both wrote, then each source of either."""
    parts = [None if n is None else side.parts[n] for side, n in zip(sides, pair, strict=True)]
    label = _label([None if part is None else part.label for part in parts])
    rows = [_texts(label, *(None if part is None else part.text for part in parts))]
    a, b = (_evidence(side, part, which, pairs) for which, (side, part) in enumerate(zip(sides, parts, strict=True)))
    for key in sorted({*a, *b}):
        (share_a, effect_a), (share_b, effect_b) = a.get(key, (None, None)), b.get(key, (None, None))
        figures = (*_with_difference(share_a, share_b), *_with_difference(effect_a, effect_b))
        rows.append((label, None, None, None, _source_label(sides, pairs, key), *figures))
    return rows


def _label(labels: Sequence[str | None]) -> str:
    return " / ".join(dict.fromkeys(label for label in labels if label is not None))


_ORDER = ("system", "question", "observation", "own", "marks")
Key = tuple[int, int]
"""(place of the kind in _ORDER, of an observation the number of its pair): what is one source in both runs."""


def _evidence(side: Side, part: Part | None, which: int, pairs: Sequence[Pair]) -> dict[Key, Figures]:
    """The figures of every source that a step can see; empty for an observation, which is evidence itself."""
    if part is None or side.ledger is None:
        return {}
    steps = [number for number, step in enumerate(side.ledger.steps) if step.start == part.start]
    if not steps:
        return {}
    ledger, s = side.ledger, steps[0]
    return {
        _key(source, side, which, pairs): (_figure(ledger.share, s, c), _figure(ledger.effect, s, c))
        for c, source in enumerate(ledger.sources)
        if ledger.uniform[s, c] > 0
    }


def _key(source: LedgerSource, side: Side, which: int, pairs: Sequence[Pair]) -> Key:
    if source.kind != "observation":
        return _ORDER.index(source.kind), 0
    number = next(n for n, part in enumerate(side.parts) if part.start == source.spans[0][0])
    return _ORDER.index(source.kind), next(n for n, pair in enumerate(pairs) if pair[which] == number)


def _source_label(sides: tuple[Side, Side], pairs: Sequence[Pair], key: Key) -> str:
    kind = _ORDER[key[0]]
    if kind == "observation":
        pair = pairs[key[1]]
        return _label([None if n is None else side.parts[n].label for side, n in zip(sides, pair, strict=True)])
    known = [source.label for side in sides if side.ledger for source in side.ledger.sources if source.kind == kind]
    return known[0]


def _figure(values: Floats | None, step: int, source: int) -> float | None:
    if values is None or not np.isfinite(values[step, source]):
        return None
    return float(values[step, source])


def _with_difference(a: float | None, b: float | None) -> tuple[float | None, ...]:
    difference = None if a is None or b is None else b - a
    return tuple(None if x is None else round(x, DIGITS) for x in (a, b, difference))


# --------------------------------------------------------------------------------------------- words


def _info(sides: tuple[Side, Side]) -> tuple[str, ...]:
    lines = [f"{name}: {_about(side.run)}" for name, side in zip("AB", sides, strict=True)]
    lines.append(
        "Steps stand in order; only steps of one kind are put beside each other, as many as possible, the most alike "
        "by their words. B − A is given where both have a number; four digits behind the point."
    )
    told = dict.fromkeys(line for side in sides if side.ledger for line in side.ledger.info)
    shared = [line for line in told if all(side.ledger is None or line in side.ledger.info for side in sides)]
    lines += shared
    for name, side in zip("AB", sides, strict=True):
        lines += [f"{name}: {line}" for line in (side.ledger.info if side.ledger else ()) if line not in shared]
    return tuple(lines)


def _about(run: TracedRun) -> str:
    trajectory = run.run.trajectory
    how = "without tools" if trajectory is None else f"with the tools {', '.join(trajectory.tools)}"
    return f"{run.model.name}, {how}, {len(run.tokens)} tokens."


def _warnings(sides: tuple[Side, Side]) -> tuple[str, ...]:
    lines = [
        f"{name}: {flag}" for name, side in zip("AB", sides, strict=True) if side.ledger for flag in side.ledger.flags
    ]
    lines += [f"No evidence of {name}: {side.reason}" for name, side in zip("AB", sides, strict=True) if side.reason]
    said = dict.fromkeys(line for side in sides if side.ledger for line in side.ledger.warnings)
    return (*lines, *said)
