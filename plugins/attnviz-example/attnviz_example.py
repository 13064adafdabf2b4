"""What one token looks at, over all heads: an analysis in a tab of its own, and a renderer that draws it as text."""

import numpy as np

from attnviz.hooks import Analysis, BadInput, Finding, Param, Renderer, TokenScores, View, hookimpl

__version__ = "0.1.0"
BAR = 40  # characters of the longest bar


def looks_at(request):
    """Row of the query, mean over all heads of all layers; the keys it may not see have no score."""
    query = request.params["token"]
    layers = [layer for layer in request.trace.layers if layer is not None and query in range(*layer.row_span)]
    if not layers:
        raise BadInput("No layer of this model has attention.")
    total, heads, seen = np.zeros((3, len(request.tokens)))  # of every token: weight, heads that have it as a key, seen
    for layer in layers:
        row, keys = slice(query - layer.row_span[0], query - layer.row_span[0] + 1), slice(*layer.column_span)
        total[keys] += sum(layer.pattern(head, row)[0] for head in range(layer.heads))
        heads[keys] += layer.heads
        hidden = layer.hidden(row)
        seen[keys] += True if hidden is None else ~hidden[0]
    return TokenScores(
        scores=np.divide(total, heads, out=np.full(len(total), np.nan), where=seen > 0),
        unit="weight",
        info=(f"Weight that position {query} gives to each token, mean over {heads.max():.0f} heads, sinks included.",),
        warnings=("A mean hides heads that disagree.",),
    )


def bars(finding: Finding) -> View:
    """One line per token: number, bar, label. Bars have the length of the largest score = BAR."""
    scores = finding.result.scores
    largest = np.nanmax(np.abs(scores), initial=0.0) or 1.0
    lines = [finding.title, *finding.result.info]
    for label, score in zip(finding.tokens.labels, scores, strict=True):
        known = np.isfinite(score)
        bar = "█" * round(BAR * abs(float(score)) / largest) if known else ""
        lines.append(f"{score:9.4f} {bar:<{BAR}} {label!r}" if known else f"{'–':>9} {'':<{BAR}} {label!r}")
    return View(kind="text", payload="\n".join(lines) + "\n", media_type="text/plain")


analysis = Analysis(
    name="looks_at",
    title="What a token looks at",
    group="Examples",  # a name that no built-in uses makes a new tab
    summary="The mean attention row of one token.",
    run=looks_at,
    produces=TokenScores,
    params=(Param("token", "token", help="Position of the query; the last token unless another is chosen."),),
)
renderer = Renderer(
    name="bars", title="Bars", accepts=(TokenScores,), produces="text", render=bars, suffixes=(".txt",), order=80
)


@hookimpl
def attnviz_analyses():
    """A tab "Examples"."""
    return [analysis]


@hookimpl
def attnviz_renderers():
    """Offered for every TokenScores, also those of other plugins."""
    return [renderer]
