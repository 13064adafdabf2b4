"""What layers and heads are called in the words beside a result."""

from __future__ import annotations

from attnviz.hooks import AnalysisRequest


def layer_name(request: AnalysisRequest, index: int) -> str:
    """Its number, or its place in its stack ("cross 0") where the model has several."""
    layers = request.card.layers
    return layers[index].name if index < len(layers) else str(index)


def head_name(request: AnalysisRequest, layer: int, head: int) -> str:
    """Its number, and whose it is where channels attend side by side."""
    layers = request.card.layers
    return layers[layer].head_name(head) if layer < len(layers) else str(head)


def of_channels(request: AnalysisRequest) -> str:
    """What a mean over heads is a mean of besides, of a model whose channels attend side by side; else nothing."""
    card = max(request.card.layers, key=lambda layer: layer.channels, default=None)
    if card is None or card.channels == 1:
        return ""
    return f" ({card.channels} channels of {card.heads // card.channels} heads each)"
