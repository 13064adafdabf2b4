"""How a model gives up its attention, decided once when it is loaded and checked against transformers' eager maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import AttnvizError, LayerCapture, LayerCard, ModelError, Tokens
from attnviz.plugins.backends import attention_function
from attnviz.plugins.backends.attention_function import AttentionCall
from attnviz.plugins.backends.capture import AttentionCollector, CallKey
from attnviz.plugins.backends.estimate import LayerShape
from attnviz.plugins.backends.forward import few_tokens, logits_of, model_inputs, run_forward, tolerance
from attnviz.plugins.backends.residual import find_blocks, recording, watched
from attnviz.plugins.backends.stacks import CROSS, DECODER, ENCODER, STACKS, Lengths
from attnviz.plugins.backends.value_norms import Projection, find_projection, matrices

if TYPE_CHECKING:
    import torch

_THUMBNAIL = 8
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # Mixtral, Qwen, DeepSeek


@dataclass(frozen=True)
class Route:
    """interface: our attention function · eager: maps from transformers · none.

    calls    attention call -> layer (interface);  maps [n] layer of the n-th map (eager)
    missing  layer -> why it has no attention
    projections  layer -> output projection of its attention, or why it has none (interface)
    shapes   layer -> what decides the size of its capture
    """

    name: str
    reason: str
    cards: tuple[LayerCard, ...]
    missing: Mapping[int, str] = field(default_factory=dict)
    calls: Mapping[CallKey, int] = field(default_factory=dict)
    maps: tuple[int, ...] = ()
    causal: bool | None = None  # as seen in the maps (of the decoder, where there is one); None without any
    projections: Mapping[int, Projection | str] = field(default_factory=dict)
    shapes: Mapping[int, LayerShape] = field(default_factory=dict)


@dataclass(frozen=True)
class _Look:
    """What a few tokens showed.

    maps      [H, Q, K] of each layer that gave one (eager);  captures   of each layer (our attention function)
    stacks    stack of each of them, in the order of the layers; None for a map of another shape than any stack has
    output    [T, V] logits or [T, d] states
    calls, projections   of each capture
    lost      layers of an encoder that has no maps over tokens
    """

    maps: tuple[np.ndarray[Any, Any], ...]
    output: torch.Tensor
    stacks: tuple[str | None, ...] = ()
    captures: tuple[LayerCapture, ...] = ()
    calls: tuple[tuple[CallKey, AttentionCall], ...] = ()
    projections: tuple[Projection | str, ...] = ()
    lost: int = 0


def choose_route(module: torch.nn.Module, vocabulary: int) -> Route:
    """Tries our attention function, then eager maps; leaves the module set to the one that was chosen."""
    tokens = few_tokens(module, vocabulary)
    config = module.config.get_text_config()
    count = int(getattr(config, "num_hidden_layers", 0))
    architecture = type(module).__name__
    with _implementation(module, "eager"):
        eager = _first_look(module, tokens)
    refused = f"{architecture} does not call transformers' AttentionInterface"
    if module._can_set_attn_implementation():
        for name in (attention_function.NAME, attention_function.NAME_FLOAT_MASK):
            with _implementation(module, name):
                look = _look_interface(module, tokens)
            fault = _difference(look, eager)
            if fault is None:
                module.set_attn_implementation(name)
                found = _interface_route(module, look, eager, count, len(tokens))
                return _behind_encoder(found, 0 if eager is None else eager.lost)
            refused = fault
    returned = _returned(eager, Lengths.of(tokens))
    if eager is not None and returned is None:
        _set_implementation(module, "eager")
        return _behind_encoder(_eager_route(module, eager, count, refused), eager.lost)
    reason = f"{architecture} gives no attention: {refused}, and {returned}."
    cards = tuple(LayerCard(i, "none", 0, 0) for i in range(count))
    return Route("none", reason, cards, missing=dict.fromkeys(range(count), reason))


def _set_implementation(module: torch.nn.Module, name: str) -> None:
    if module.config._attn_implementation != name and module._can_set_attn_implementation():
        module.set_attn_implementation(name)


@contextmanager
def _implementation(module: torch.nn.Module, name: str) -> Iterator[None]:
    before = module.config._attn_implementation
    _set_implementation(module, name)
    try:
        yield
    finally:
        _set_implementation(module, before)


def _compared(output: Any) -> torch.Tensor:
    logits = logits_of(output)
    return logits if logits is not None else output[0][0]


def _first_look(module: torch.nn.Module, tokens: Tokens) -> _Look | None:
    """As `_look_eager`.

    Raises:
        ModelError: the module cannot be run over a few tokens.
    """
    try:
        return _look_eager(module, tokens)
    except AttnvizError:
        raise
    except Exception as error:  # broad on purpose: an architecture may refuse what it is given in any way
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{type(module).__name__} cannot be run over {len(tokens)} tokens: {said[:200]}") from error


def _look_eager(module: torch.nn.Module, tokens: Tokens) -> _Look | None:
    """None when the architecture does not know output_attentions."""
    try:
        output = run_forward(module, model_inputs(module, tokens, output_attentions=True))
    except TypeError as error:
        if "output_attentions" not in str(error):
            raise
        return None
    lengths = Lengths.of(tokens)
    lost = _encoder_without_maps(output, lengths)
    maps = tuple(weights[0].float().cpu().numpy() for weights in returned_maps(output, encoder=not lost))
    stacks = tuple(lengths.stack_of(weights.shape[1:]) for weights in maps)
    return _Look(maps, _compared(output), stacks, lost=lost)


def returned_maps(output: Any, *, encoder: bool = True) -> list[torch.Tensor]:
    """[1, H, Q, K] maps that transformers returned, in the order of the layers; those of an encoder only if wanted."""
    names = [*(["encoder_attentions"] if encoder else []), "decoder_attentions", "cross_attentions", "attentions"]
    return [weights for name in names for weights in getattr(output, name, None) or () if weights is not None]


def _encoder_without_maps(output: Any, lengths: Lengths) -> int:
    """Layers of an encoder of which none gives a map over tokens: LED and LongT5 return windows, PEGASUS-X a dict."""
    given = getattr(output, "encoder_attentions", None) or ()
    fits = [hasattr(weights, "shape") and lengths.stack_of(tuple(weights.shape[2:])) == ENCODER for weights in given]
    return 0 if any(fits) else len(fits)


def _look_interface(module: torch.nn.Module, tokens: Tokens) -> _Look:
    collector = AttentionCollector(layers=None, thumbnail=_THUMBNAIL)
    parts = matrices(module)
    taken = recording(parts, lambda tensor: tensor.clone())
    with watched(parts), taken as passages, attention_function.collecting(collector):
        output = run_forward(module, model_inputs(module, tokens))
    captures = list(collector.captured.values())
    lengths = Lengths.of(tokens)
    stacks = [lengths.stack_of((len(capture.allowed), len(capture.seen_by))) for capture in captures]
    order = sorted(range(len(captures)), key=lambda i: ("", *STACKS, None).index(stacks[i]))  # a decoder calls by turns
    return _Look(
        maps=(),
        output=_compared(output),
        stacks=tuple(stacks[i] for i in order),
        captures=tuple(captures[i] for i in order),
        calls=tuple(collector.calls[i] for i in order),
        projections=tuple(find_projection(passages, collector.outputs[i]) for i in order),
    )


def _difference(look: _Look, eager: _Look | None) -> str | None:
    """Why our maps are not those of the model, or None."""
    if not look.captures:
        return "it does not call transformers' AttentionInterface"
    if None in look.stacks:
        shape = list(_shape_of(look.captures[look.stacks.index(None)]))
        return f"what it hands to transformers' AttentionInterface has shape {shape}, which is not that of its tokens"
    if eager is None:
        return None
    if eager.maps and len(eager.maps) != len(look.captures):
        return f"{len(look.captures)} of {len(eager.maps)} layers call transformers' AttentionInterface"
    limit = tolerance(eager.output.dtype)
    apart = (look.output.float() - eager.output.float()).abs().max()
    if not float(apart) <= limit * max(1.0, float(eager.output.abs().max())):
        return f"outputs differ from eager attention by {float(apart):.2g}"
    for index, (ours, theirs) in enumerate(zip(look.captures, eager.maps, strict=False)):
        if _shape_of(ours) != theirs.shape:
            return f"map {index} has shape {_shape_of(ours)}, eager's {theirs.shape}"
        most = max(float(np.abs(ours.pattern(head) - theirs[head]).max()) for head in range(ours.heads))
        if not most <= limit:
            return f"map {index} differs from eager attention by {most:.2g}"
    return None


def _shape_of(capture: LayerCapture) -> tuple[int, int, int]:
    """H, Q, K."""
    return capture.heads, len(capture.allowed), len(capture.seen_by)


def _returned(eager: _Look | None, lengths: Lengths) -> str | None:
    """Why what the model returns as attention are no maps over tokens, or None."""
    if eager is None or not eager.maps:
        return "it returns no attention maps"
    for weights, stack in zip(eager.maps, eager.stacks, strict=True):  # Longformer: [H, Q, window]; RWKV: states
        if weights.ndim != 3 or stack is None:
            sizes = [lengths.shape(stack) for stack in (("",) if lengths.decoder_from is None else STACKS)]
            expected = " or ".join(f"[heads, {queries}, {keys}]" for queries, keys in sizes)
            return f"what it returns has shape {list(weights.shape)} for {lengths.count} tokens, not {expected}"
    return None


def _layer_of_calls(module: torch.nn.Module, modules: list[torch.nn.Module], count: int) -> list[int]:
    """Layer index of each attention call. Hybrid models have fewer calls than blocks."""
    blocks = find_blocks(module, count)
    owner = {id(part): index for index, block in enumerate(blocks) for part in block.modules()}
    found = [owner.get(id(m)) for m in modules]
    known = [index for index in found if index is not None]
    if len(known) == len(modules) and len(set(known)) == len(known):
        return known
    return list(range(len(modules)))  # one module called again and again, or no list of blocks


def layer_kinds(module: torch.nn.Module, count: int) -> list[str]:
    """Kind of each block, as far as its configuration says."""
    config = module.config.get_text_config()
    types = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None) or []  # or: GPT-Neo
    names = {"sliding_attention": "sliding", "local": "sliding", "linear_attention": "linear"}
    kinds = [names.get(t, "full") for t in types]
    return kinds if len(kinds) == count else ["full"] * count


def with_experts(module: torch.nn.Module, cards: Sequence[LayerCard]) -> list[LayerCard]:
    """The cards of a model's blocks, with the experts of those that have any; DeepSeek's first blocks have none.

    Where no block names its experts, all blocks have those of the configuration.
    """
    config = module.config.get_text_config()
    count = next((n for name in _EXPERTS if (n := getattr(config, name, None))), None)
    if count is None:
        return list(cards)
    blocks = find_blocks(module, len(cards))
    mixed = [any(name.rpartition(".")[2] == "experts" for name, _ in block.named_modules()) for block in blocks]
    if not any(mixed):
        mixed = [True] * len(cards)
    return [replace(card, experts=count if has else None) for card, has in zip(cards, mixed, strict=True)]


def layers_without_attention(kinds: list[str], with_attention: set[int]) -> dict[int, str]:
    """Layer -> why it has no attention."""
    return {
        index: f"its kind is {kind} attention, which has no map." if kind == "linear" else "it has no attention module."
        for index, kind in enumerate(kinds)
        if index not in with_attention
    }


def _stack_kinds(stacks: tuple[str | None, ...]) -> list[str]:
    """Kind of each layer of a model with encoder and decoder, as far as its stack says."""
    return ["cross" if stack == CROSS else "full" for stack in stacks]


def _in_stacks(cards: list[LayerCard], stacks: tuple[str | None, ...]) -> tuple[LayerCard, ...]:
    """With the stack of each layer and its place in it; as they are where there is one stack."""
    if not set(stacks) & set(STACKS):
        return tuple(cards)
    places = [stacks[:index].count(stack) for index, stack in enumerate(stacks)]
    return tuple(
        replace(card, stack=stack or "", number=number)
        for card, stack, number in zip(cards, stacks, places, strict=True)
    )


def _interface_route(module: torch.nn.Module, look: _Look, eager: _Look | None, count: int, tokens: int) -> Route:
    single = not set(look.stacks) & set(STACKS)
    layers = list(range(len(look.captures)))
    if single:
        layers = _layer_of_calls(module, [call.module for _, call in look.calls], count)
    total = max([count if single else 0, *(index + 1 for index in layers)])
    kinds = layer_kinds(module, total) if single else _stack_kinds(look.stacks)
    missing = layers_without_attention(kinds, set(layers))
    cards = [LayerCard(i, kinds[i] if kinds[i] == "linear" else "none", 0, 0) for i in range(total)]
    for index, capture, (_, call) in zip(layers, look.captures, look.calls, strict=True):
        window = call.window or (getattr(call.module, "sliding_window", None) if kinds[index] == "sliding" else None)
        kind = "cross" if kinds[index] == "cross" else "sliding" if window else "full"
        cards[index] = LayerCard(index, kind, capture.heads, _kv_heads(capture), window)
    against = "with transformers' eager maps and outputs" if eager and eager.maps else "with the model's own outputs"
    return Route(
        name="interface",
        reason=f"attnviz's attention function, compared {against} on {tokens} tokens",
        cards=_in_stacks(with_experts(module, cards) if single else cards, look.stacks),
        missing=missing,
        causal=all(c.causal for c, stack in zip(look.captures, look.stacks, strict=True) if stack in ("", DECODER)),
        calls={key: index for index, (key, _) in zip(layers, look.calls, strict=True)},
        projections=dict(zip(layers, look.projections, strict=True)),
        shapes={
            index: _shape(capture, cards[index].window, projection, stack or "", first)
            for index, capture, projection, stack, first in zip(
                layers, look.captures, look.projections, look.stacks, _bias_layers(look.captures), strict=True
            )
        },
    )


def _behind_encoder(route: Route, lost: int) -> Route:
    """The layers of `route` after those of an encoder that has no maps over tokens."""
    if not lost or any(card.stack == ENCODER for card in route.cards):
        return route
    encoder = [LayerCard(index, "none", 0, 0, stack=ENCODER, number=index) for index in range(lost)]
    reason = "the encoder attends within windows or in parts, and gives no map over its tokens."
    return replace(
        route,
        cards=(*encoder, *(replace(card, index=card.index + lost) for card in route.cards)),
        missing={**dict.fromkeys(range(lost), reason), **{layer + lost: why for layer, why in route.missing.items()}},
        calls={call: layer + lost for call, layer in route.calls.items()},
        maps=tuple(layer + lost for layer in route.maps),
        projections={layer + lost: projection for layer, projection in route.projections.items()},
        shapes={layer + lost: shape for layer, shape in route.shapes.items()},
    )


def _bias_layers(captures: Sequence[LayerCapture]) -> list[int]:
    """For each capture the first one that has the same bias."""
    biases = [id(capture.bias) for capture in captures]
    return [biases.index(bias) for bias in biases]


def _shape(
    capture: LayerCapture, window: int | None, projection: Projection | str, stack: str, bias_layer: int
) -> LayerShape:
    return LayerShape(
        heads=capture.heads,
        kv_heads=_kv_heads(capture),
        width=0 if capture.q is None else int(capture.q.shape[2]),
        window=window,
        values=isinstance(projection, Projection),
        sinks=capture.sinks is not None,
        stack=stack,
        biases=0 if capture.bias is None else len(capture.bias),
        bias_layer=bias_layer,
        causal=capture.causal,
    )


def _kv_heads(capture: LayerCapture) -> int:
    return capture.heads if capture.k is None else int(capture.k.shape[0])


def _eager_route(module: torch.nn.Module, eager: _Look, count: int, refused: str) -> Route:
    single = not set(eager.stacks) & set(STACKS)
    kinds = layer_kinds(module, count) if single else _stack_kinds(eager.stacks)
    attending = [i for i, kind in enumerate(kinds) if kind != "linear"]
    layers = tuple(attending if len(attending) == len(eager.maps) else range(len(eager.maps)))
    total = max([count if single else 0, *(index + 1 for index in layers)])
    kinds = layer_kinds(module, total) if single else kinds
    cards = [LayerCard(i, "linear" if kinds[i] == "linear" else "none", 0, 0) for i in range(total)]
    config = module.config.get_text_config()
    width = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    for index, weights in zip(layers, eager.maps, strict=True):
        window = width if kinds[index] == "sliding" else None
        cards[index] = LayerCard(index, kinds[index], weights.shape[0], weights.shape[0], window)
    return Route(
        name="eager",
        reason=f"transformers' eager maps, because {refused}",
        cards=_in_stacks(with_experts(module, cards) if single else cards, eager.stacks),
        missing=layers_without_attention(kinds, set(layers)),
        causal=all(
            not np.triu(weights, 1).any()
            for weights, stack in zip(eager.maps, eager.stacks, strict=True)
            if stack in ("", DECODER)
        ),
        maps=layers,
        shapes={
            index: LayerShape(
                len(weights),
                len(weights),
                0,
                cards[index].window,
                stack=stack or "",
                causal=not np.triu(weights, 1).any(),
            )
            for index, weights, stack in zip(layers, eager.maps, eager.stacks, strict=True)
        },
    )
