"""Which source counts for which target: a heat map, and the sources of one target shaded in the text.

Shows TokenMatrix. Rows are targets, columns sources. Both signs: orange positive, blue negative around 0. Of a large
matrix the page gets the strongest score of each block, and the exact ones of the chosen target on demand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import BadInput, Finding, Renderer, ShapeError, TokenMatrix, View, hookimpl
from attnviz.plugins.renderers._assets import note_data, pack, script, style, token_data, window_of
from attnviz.plugins.renderers.attention_grid import block_of

CELLS = 300_000  # scores that a page gets; of a larger matrix it gets the strongest of each block
CELLS_IN_FILE = 4_000_000  # the same of an offline file, which cannot ask for more


def checked(finding: Finding) -> TokenMatrix:
    """The result, with every row and column inside the text.

    Raises:
        BadInput, ShapeError: another kind of result, or positions outside the text.
    """
    matrix = finding.result
    if not isinstance(matrix, TokenMatrix):
        raise BadInput(f"token_matrix: expected a token_matrix, got {matrix.kind}.")
    for name, positions in (("rows", matrix.rows), ("columns", matrix.columns)):
        outside = [p for p in positions.tolist() if not 0 <= p < len(finding.tokens)]
        if outside:
            raise ShapeError(f"TokenMatrix.{name}", f"within 0..{len(finding.tokens) - 1}", outside)
    return matrix


def strongest_of_blocks(scores: NDArray[np.floating[Any]], block: int) -> NDArray[np.floating[Any]]:
    """[R, C] to [⌈R/block⌉, ⌈C/block⌉]: the score farthest from 0 of each block; NaN where a block has none."""
    for axis in (0, 1):
        starts = np.arange(0, scores.shape[axis], block)
        high = np.fmax.reduceat(scores, starts, axis=axis)
        low = np.fmin.reduceat(scores, starts, axis=axis)
        scores = np.where(-low > high, low, high)
    return scores


def render(finding: Finding) -> View:
    """The data of the page."""
    return View(kind="script", payload=page_data(finding, CELLS))


def render_file(finding: Finding) -> View:
    """The same for an offline file, which holds more because it cannot ask for it."""
    return View(kind="script", payload=page_data(finding, CELLS_IN_FILE))


def page_data(finding: Finding, cells: int) -> dict[str, Any]:
    """The payload; a matrix of more cells is given as the strongest score of each block."""
    matrix = checked(finding)
    block = block_of(matrix.scores.shape, cells)
    scores = matrix.scores if block == 1 else strongest_of_blocks(matrix.scores, block)
    known = matrix.scores[np.isfinite(matrix.scores)]
    return {
        **token_data(finding),
        "rows": matrix.rows.tolist(),
        "columns": matrix.columns.tolist(),
        "block": block,
        "scores": pack(scores.astype(np.float32)),
        "most": float(np.abs(known).max(initial=0.0)),
        "signed": bool((known < 0).any()),
        "unit": matrix.unit,
        **note_data(matrix),
    }


def part(finding: Finding, what: Mapping[str, Any]) -> dict[str, Any]:
    """The exact scores of one row. `what`: {"rows": [i, i + 1]}, counted from the first row.

    Raises:
        BadInput: not one row of the matrix.
    """
    matrix = checked(finding)
    rows = window_of(what, "rows", range(len(matrix.rows)))
    if len(rows) != 1:
        raise BadInput(f"Part of a matrix: expected one row, got {len(rows)}.")
    return {"scores": pack(matrix.scores[rows.start].astype(np.float32))}


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The matrix of tokens."""
    return [
        Renderer(
            name="token_matrix",
            title="Token matrix",
            accepts=(TokenMatrix,),
            produces="script",
            render=render,
            part=part,
            script=script("_tokens", "_heat", "token_matrix"),
            style=style(),
            order=10,
        )
    ]
