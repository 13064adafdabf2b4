"""Which sources a target owes its score to: the text shaded by one target's scores, with lines to the strongest.

Shows Attribution. Scores of both signs are orange (towards the target function) and blue (against it) around 0; scores
without a sign go from paper to dark.
"""

from __future__ import annotations

from attnviz.hooks import Attribution, BadInput, Finding
from attnviz.plugins.renderers._assets import need_spans


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
