"""The text itself, each token shaded by its score, prompt and answer bracketed by role.

Shows TokenScores. Scores of both signs are orange (positive) and blue (negative) around 0; scores of one sign go from
paper to dark. `token_strip_payload` makes the data of the same strip for a text without scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnviz.hooks import BadInput, Finding, Floats, Renderer, ShapeError, Tokens, TokenScores, View, hookimpl
from attnviz.plugins.renderers._assets import generated_from, need_tokens, note_data, pack, script, style

SCRIPT_PARTS = ("_tokens", "token_strip")


def token_strip_payload(
    tokens: Tokens,
    generated_from: int | None,
    scores: Floats | None = None,
    *,
    unit: str = "",
    info: Sequence[str] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The data of a strip. scores [T], or None for a plain text.

    Raises:
        ShapeError: not one score per token.
    """
    if scores is not None and scores.shape != (len(tokens),):
        raise ShapeError("token_strip scores", f"[{len(tokens)}] (one per token)", list(scores.shape))
    return {
        "tokens": list(tokens.labels),
        "ids": tokens.ids.tolist(),
        "segments": [{"role": s.role, "start": s.start, "stop": s.stop} for s in tokens.segments],
        "generated_from": generated_from,
        "scores": None if scores is None else pack(scores.astype(np.float32)),
        "unit": unit,
        "info": list(info),
        "warnings": list(warnings),
    }


def render(finding: Finding) -> View:
    """The data of the page."""
    result = finding.result
    if not isinstance(result, TokenScores):
        raise BadInput(f"token_strip: expected token_scores, got {result.kind}.")
    need_tokens("TokenScores.scores", len(result.scores), finding)
    payload = token_strip_payload(finding.tokens, generated_from(finding), result.scores, unit=result.unit)
    return View(kind="script", payload=payload | note_data(result))


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The shaded text."""
    return [
        Renderer(
            name="token_strip",
            title="Shaded text",
            accepts=(TokenScores,),
            produces="script",
            render=render,
            script=script(*SCRIPT_PARTS),
            style=style(),
            order=10,
        )
    ]
