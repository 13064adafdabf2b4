"""What a layer is called in the words beside a result."""

from __future__ import annotations

from attnviz.hooks import AnalysisRequest


def layer_name(request: AnalysisRequest, index: int) -> str:
    """Its number, or its place in its stack ("cross 0") where the model has several."""
    layers = request.card.layers
    return layers[index].name if index < len(layers) else str(index)
