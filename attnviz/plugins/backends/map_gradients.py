"""A pass that keeps its attention weights, so that gradients of what comes out can be taken with regard to them.

On the route "interface" our attention function writes attention out, each layer's weights as one tensor; on the route
"eager" transformers does so itself, and returns them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attnviz.hooks import ModelError, Tokens
from attnviz.plugins.backends import attention_function
from attnviz.plugins.backends.attention_function import AttentionCall, attention_weights, per_head
from attnviz.plugins.backends.capture import CallKey
from attnviz.plugins.backends.estimate import in_words
from attnviz.plugins.backends.forward import Runner, input_device
from attnviz.plugins.backends.gradients import Gradients, free_on
from attnviz.plugins.backends.route import Route, returned_maps

if TYPE_CHECKING:
    import torch

_KEPT = 3  # tensors of the size of a map that a pass keeps for a layer: scores, weights, and weights in its own type
_SHARE = 0.5  # of the free memory that they may fill


@dataclass
class WeightKeeper:
    """Attends with weights that are kept. `layers`: every call of a pass -> its layer."""

    layers: Mapping[CallKey, int]
    maps: dict[int, torch.Tensor] = field(default_factory=dict)
    _counts: Counter[int] = field(default_factory=Counter)

    def attend(self, call: AttentionCall) -> torch.Tensor:
        key = (id(call.module), self._counts[id(call.module)])
        self._counts[id(call.module)] += 1
        weights = attention_weights(call, slice(0, call.query.shape[2]))
        if key in self.layers:
            self.maps[self.layers[key]] = weights
        return weights.to(call.value.dtype) @ per_head(call.value, call)


def states_and_maps(
    gradients: Gradients,
    runner: Runner,
    route: Route,
    embeddings: torch.Tensor,
    tokens: Tokens,
    positions: Sequence[int],
) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
    """See DifferentiableMaps; of a model with one stack of layers that gives attention."""
    _refuse_beyond_memory(gradients, route, len(embeddings), embeddings.shape[1])
    if route.name == "interface":
        keeper = WeightKeeper(route.calls)
        with attention_function.collecting(keeper):
            states = gradients.states(runner, embeddings, tokens, positions)
        return states, dict(sorted(keeper.maps.items()))
    states, output = gradients.states_and_output(runner, embeddings, tokens, positions, output_attentions=True)
    return states, dict(zip(route.maps, returned_maps(output), strict=True))


def _refuse_beyond_memory(gradients: Gradients, route: Route, variants: int, count: int) -> None:
    heads = sum(card.heads for card in route.cards)
    needed = variants * (_KEPT * heads * count**2 * 4 + int(gradients.linear * count + gradients.square * count**2))
    where, free = free_on(input_device(gradients.module))
    if free is not None and needed > _SHARE * free:
        raise ModelError(
            f"Gradients of all attention weights over {count} tokens need about {in_words(int(needed / _SHARE))} of "
            f"memory, and {in_words(free)} are free on {where}: use a shorter prompt."
        )
