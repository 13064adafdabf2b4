"""Which sources a target owes its score to: the text shaded by the scores of one target, with lines to the strongest.

Shows Attribution. Scores of both signs are orange (towards the target function) and blue (against it) around 0; scores
without a sign go from paper to dark. The share of a row that the drawn lines keep is printed beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Attribution, BadInput, Finding, Renderer, Span, View, hookimpl
from attnviz.plugins.renderers._assets import generated_from, need_spans, note_data, pack, script, style

LARGE = 60_000
"""Scores from which the page gets rounded ones."""
DIGITS = 15
"""Bits of a rounded score: a relative error of at most 2^-15, four significant digits."""
ROUNDED = "The page holds four significant digits of each score; the .json and .csv files hold all."


def checked(finding: Finding) -> Attribution:
    """The result, with every source inside the text; a target may be the token that would come next.

    Raises:
        BadInput, ShapeError: another kind of result, or spans outside the text.
    """
    result = finding.result
    if not isinstance(result, Attribution):
        raise BadInput(f"attribution_text: expected an attribution, got {result.kind}.")
    need_spans("Attribution.sources", result.sources, len(finding.tokens))
    need_spans("Attribution.targets", result.targets, len(finding.tokens) + 1)
    return result


def rounded(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scores to DIGITS bits; the bits that are left are zero, which packs well."""
    fraction, exponent = np.frexp(scores)
    kept: NDArray[np.float32] = np.ldexp(np.rint(np.ldexp(fraction, DIGITS)), exponent - DIGITS).astype(np.float32)
    return kept


def tolerance(finding: Finding) -> float | None:
    """The largest delta the analysis was asked to accept; None where it has no such parameter."""
    asked = finding.params.get("tolerance")
    return float(asked) if isinstance(asked, (int, float)) and not isinstance(asked, bool) else None


def _span_data(spans: Sequence[Span]) -> list[list[Any]]:
    return [[span.index, span.stop, span.id, span.label] for span in spans]


def _place(spans: Sequence[Span], token: int) -> int:
    """Number of the spans that begin before a token."""
    return sum(span.index < token for span in spans)


def render(finding: Finding) -> View:
    """The data of the page."""
    result = checked(finding)
    answer = generated_from(finding)
    segments = [
        (s.role, _place(result.sources, s.start), _place(result.sources, s.stop)) for s in finding.tokens.segments
    ]
    large = result.scores.size > LARGE
    scores = result.scores.astype(np.float32)
    payload = {
        "count": len(finding.tokens),
        "sources": _span_data(result.sources),
        "targets": _span_data(result.targets),
        "segments": [{"role": role, "start": start, "stop": stop} for role, start, stop in segments if stop > start],
        "generated_from": None if answer is None else _place(result.sources, answer),
        "scores": pack(rounded(scores) if large else scores),
        "unit": result.unit,
        "target_function": result.target_function.replace("_", "-"),
        "signed": result.signed,
        "values": _numbers(result.target_values),
        "delta": _numbers(result.delta),
        "tolerance": tolerance(finding),
        **note_data(result),
    }
    if large:
        payload["info"].append(ROUNDED)
    return View(kind="script", payload=payload)


def _numbers(values: NDArray[np.floating[Any]] | None) -> list[float | None] | None:
    return None if values is None else [float(x) if np.isfinite(x) else None for x in values]


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The text with its sources and targets."""
    return [
        Renderer(
            name="attribution_text",
            title="Text and lines",
            accepts=(Attribution,),
            produces="script",
            render=render,
            script=script("_tokens", "_heat", "attribution_text"),
            style=style("attribution_text"),
            order=10,
        )
    ]
