"""What each layer would predict at each position: a grid of positions and sites, with the full list of one position.

Shows LensTable. Position p predicts token p + 1, so choosing token t shows position t − 1: what the model expected
before that token was read. Early layers are read through a norm and an unembedding made for the last one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from attnviz.hooks import BadInput, Finding, LensTable, Renderer, ShapeError, View, hookimpl, to_jsonable
from attnviz.plugins.renderers._assets import note_data, pack, script, style, token_data

_FLOATS = ("top_logprobs", "entropy", "kl_model_lens", "kl_lens_model", "jensen_shannon", "target_logprob")
_WHOLE = ("top_ids", "target_rank")


def _checked(finding: Finding) -> LensTable:
    """The result, with every position inside the text and every id labelled.

    Raises:
        BadInput, ShapeError: what does not fit.
    """
    lens = finding.result
    if not isinstance(lens, LensTable):
        raise BadInput(f"lens_grid: expected a lens_table, got {lens.kind}.")
    count = len(finding.tokens)
    outside = [p for p in lens.positions.tolist() if not 0 <= p < count]
    if outside:
        raise ShapeError("LensTable.positions", f"within 0..{count - 1}", outside)
    named = set(lens.top_ids.ravel().tolist()) | {i for i in lens.target_ids.tolist() if i >= 0}
    if unnamed := sorted(named - set(lens.labels)):
        raise BadInput(f"LensTable.labels: no text for the ids {unnamed[:5]}.")
    return lens


def render(finding: Finding) -> View:
    """The data of the page."""
    lens = _checked(finding)
    payload: dict[str, Any] = {
        **token_data(finding),
        "sites": list(lens.sites),
        "positions": lens.positions.tolist(),
        "top": lens.top_ids.shape[2],
        "labels": {str(i): text for i, text in sorted(lens.labels.items())},
        "target_ids": lens.target_ids.tolist(),
        "settles_at": lens.settles_at.tolist(),
        "settles_in_top5": lens.settles_in_top5.tolist(),
        "self_check": to_jsonable(lens.self_check),
        **{name: pack(getattr(lens, name).astype(np.float32)) for name in _FLOATS},
        **{name: pack(getattr(lens, name).astype(np.int32)) for name in _WHOLE},
        **note_data(lens),
    }
    return View(kind="script", payload=payload)


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The grid of the logit lens."""
    return [
        Renderer(
            name="lens_grid",
            title="Lens grid",
            accepts=(LensTable,),
            produces="script",
            render=render,
            script=script("_heat", "lens_grid"),
            style=style("lens_grid"),
            order=10,
        )
    ]
