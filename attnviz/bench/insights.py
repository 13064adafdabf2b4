"""Sentences about a benchmark. Each names the figure it is read from; without anything to say it is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnviz.bench.statistics import Pair, mean, stages

TIME, ERRORS, TRUTH = "Time per method", "Errors by stage", "Faithfulness against time"


@dataclass(frozen=True)
class Insight:
    """`figure`: the title of the figure that shows it."""

    title: str
    text: str
    figure: str


def insights(found: Sequence[Pair]) -> list[Insight]:
    """All there is to say."""
    makers = (_range, _steadiest, _failing, _wins, _most_faithful)
    return [insight for make in makers if (insight := make(found)) is not None]


def _timed(found: Sequence[Pair]) -> list[tuple[float, Pair]]:
    """(mean seconds, pair) of those that succeeded at all, fastest first."""
    timed = [(time, pair) for pair in found if (time := pair.mean("attribution_time")) is not None]
    return sorted(timed, key=lambda item: item[0])


def _range(found: Sequence[Pair]) -> Insight | None:
    timed = _timed(found)
    if len(timed) < 2 or not timed[0][0]:
        return None
    (low, fastest), (high, slowest) = timed[0], timed[-1]
    text = (
        f"{_name(slowest)} takes {high / low:.1f} times as long as {_name(fastest)}: {_seconds(high)} against "
        f"{_seconds(low)} a prompt, on average."
    )
    return Insight("Performance range", text, TIME)


def _steadiest(found: Sequence[Pair]) -> Insight | None:
    spreads: dict[str, list[float]] = {}
    for pair in found:
        if pair.spread is not None:
            spreads.setdefault(pair.method, []).append(pair.spread)
    if len(spreads) < 2:
        return None
    means = {method: mean(values) or 0.0 for method, values in spreads.items()}
    method = min(means, key=lambda name: means[name])
    text = (
        f"{method} takes the most even time from prompt to prompt: its coefficient of variation (standard deviation by "
        f"mean) is {means[method]:.2f}, that of the others {_from_to([v for n, v in means.items() if n != method])}."
    )
    return Insight("Most consistent method", text, TIME)


def _failing(found: Sequence[Pair]) -> Insight | None:
    parts = []
    for pair in found:
        if pair.failed:
            at = ", ".join(f"{count} at {stage}" for stage, count in stages(pair.failed).items())
            parts.append(f"{_name(pair)}: {len(pair.failed)} of {len(pair.cells)} ({at})")
    return Insight("Failures", f"{'; '.join(parts)}.", ERRORS) if parts else None


def _wins(found: Sequence[Pair]) -> Insight | None:
    winners: dict[str, Pair] = {}
    rivals: dict[str, set[str]] = {}
    for _, pair in _timed(found):
        winners.setdefault(pair.model, pair)
        rivals.setdefault(pair.model, set()).add(pair.method)
    contested = [pair.method for model, pair in winners.items() if len(rivals[model]) > 1]
    if not contested:
        return None
    counts = {method: contested.count(method) for method in dict.fromkeys(contested)}
    most = max(counts.values())
    best = " and ".join(method for method, count in counts.items() if count == most)
    models = "model" if len(contested) == 1 else "models"
    return Insight("Best overall method", f"Fastest on {most} of {len(contested)} {models}: {best}.", TIME)


def _most_faithful(found: Sequence[Pair]) -> Insight | None:
    gains: dict[str, list[float]] = {}
    for pair in found:
        for cell in pair.succeeded:
            if cell.comprehensiveness is not None and cell.comprehensiveness_random is not None:
                gains.setdefault(pair.method, []).append(cell.comprehensiveness - cell.comprehensiveness_random)
    if not gains:
        return None
    means = {method: mean(values) or 0.0 for method, values in gains.items()}
    best = max(means, key=lambda name: means[name])
    beaten = [method for method, gain in means.items() if gain <= 0]
    text = f"{best} is furthest above a random order in comprehensiveness, by {means[best]:.3f} on average."
    if beaten:
        text += f" Not above a random order: {', '.join(beaten)}."
    return Insight("Most faithful method", text, TRUTH)


def _name(pair: Pair) -> str:
    return f"{pair.method} on {pair.model}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _from_to(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
