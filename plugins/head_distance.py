"""How far each head looks, as a share of how far it could: 0 = at itself, 1 = at the farthest key it may see."""

import numpy as np

from attnviz.hooks import Analysis, HeadScores, hookimpl


def run(request):
    """Mean over queries of Σ_k p(k)·|q−k| / max_k |q−k|, over the keys that q may see."""
    trace = request.trace
    share = np.full((len(trace.layers), trace.heads), np.nan)  # [L, H]; NaN where a layer has no attention
    for index, layer in enumerate(trace.layers):
        if layer is not None and len(layer.allowed) > 1 and "distance" not in layer.absent:
            place = np.arange(len(layer.allowed))
            gap, hidden = np.abs(place[:, None] - place), layer.hidden()  # [Q, K]
            reach = (gap if hidden is None else gap * ~hidden).max(axis=1)  # [Q]
            share[index, : layer.heads] = (layer.distance[:, reach > 0] / reach[reach > 0]).mean(axis=1)
    info = ("Mean over the queries that see more than one key; sinks are included.",)
    return HeadScores(metrics={"distance": share}, units={"distance": "share of the visible range"}, info=info)


@hookimpl
def attnviz_analyses():
    """One more entry of the Heads tab."""
    return [Analysis("head_distance", "Head distance", "Heads", "How far each head looks", run, HeadScores)]
