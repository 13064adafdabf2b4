"""Which source counts for which target: a heat map, and the sources of one target shaded in the text.

Shows TokenMatrix. Rows are targets, columns sources. Both signs: orange positive, blue negative around 0.
"""

from __future__ import annotations

import numpy as np

from attnviz.hooks import BadInput, Finding, Renderer, ShapeError, TokenMatrix, View, hookimpl
from attnviz.plugins.renderers._assets import note_data, pack, script, style, token_data


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


def render(finding: Finding) -> View:
    """The data of the page."""
    matrix = checked(finding)
    payload = {
        **token_data(finding),
        "rows": matrix.rows.tolist(),
        "columns": matrix.columns.tolist(),
        "scores": pack(matrix.scores.astype(np.float32)),
        "unit": matrix.unit,
        **note_data(matrix),
    }
    return View(kind="script", payload=payload)


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
            script=script("_tokens", "_heat", "token_matrix"),
            style=style(),
            order=10,
        )
    ]
