"""Where things are in a model whose weights are elsewhere: one pass over shapes, on torch's meta device.

A tensor without numbers still has an identity: what a module was given is what another one returned if both are the
same piece of (absent) memory. So the way from the last block to the logits, and what a block adds to the residual
stream, are read off as they run, and no name of a module is relied on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnviz.hooks import LayerCard, ModelError, Unavailable
from attnviz.plugins.backends.forward import bare_tokens, logits_of, model_inputs, run_forward
from attnviz.plugins.backends.readout import find_chain, first_passage
from attnviz.plugins.backends.residual import Passage, find_blocks, recording, watched
from attnviz.plugins.backends.route import layer_kinds, layers_without_attention, with_experts

if TYPE_CHECKING:
    import torch

_TOKENS = 11  # no usual number of heads, and no usual width of one


@dataclass(frozen=True)
class Place:
    """Attention of one layer: the module that returns its map, and which part of what it returns that is."""

    path: str
    part: int
    heads: int


@dataclass(frozen=True)
class Outline:
    """Paths of modules, from the root of the model.

    blocks     the transformer blocks, in order
    attention  layer -> where its map is, with eager attention
    chain      from the last block's output to raw logits; a str says why it was not found
    added      of each block the module whose output is added to the residual stream before the MLP's, or ()
    scale, softcap, multiplier   see Readout
    """

    blocks: tuple[str, ...]
    cards: tuple[LayerCard, ...]
    attention: Mapping[int, Place]
    missing: Mapping[int, str]
    chain: tuple[str, ...] | str
    added: tuple[str, ...]
    scale: float = 1.0
    softcap: float | None = None
    multiplier: float = 1.0


def read_outline(module: torch.nn.Module) -> Outline:
    """Runs `module`, which is on the meta device with eager attention, over a few tokens.

    Raises:
        ModelError: the model computes with numbers it must know (such as some linear attention), or has no blocks.
    """
    name = type(module).__name__
    config = module.config.get_text_config()
    blocks = find_blocks(module, int(getattr(config, "num_hidden_layers", 0)))
    if not blocks:
        raise ModelError(f"{name}: its transformer blocks were not found, so it cannot be read from afar.")
    every = list(module.modules())
    paths = {id(part): path for path, part in module.named_modules()}
    maps: list[tuple[str, int, int]] = []
    try:
        with _summing() as sums, watched(every), recording(every, lambda t: t) as passages, _seeing_maps(module, maps):
            output = run_forward(module, model_inputs(module, bare_tokens(_ids())))
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name}: how it is built cannot be read without its weights: {reason}") from error
    multiplier = float(getattr(config, "residual_multiplier", None) or 1.0)  # Granite
    attention = _places(maps, [paths[id(block)] for block in blocks])
    return Outline(
        blocks=tuple(paths[id(block)] for block in blocks),
        cards=_cards(module, attention, len(blocks)),
        attention=attention,
        missing=layers_without_attention(layer_kinds(module, len(blocks)), set(attention)),
        chain=_chain(name, passages, blocks[-1], output, paths),
        added=_added(sums, passages, blocks, paths),
        scale=_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None) or None,
        multiplier=multiplier,
    )


def _ids() -> Any:
    import numpy as np

    return np.zeros(_TOKENS, np.int64)


def _scale(config: Any) -> float:
    """Cohere: logit_scale · z; Granite: z / logits_scaling. Every run compares the outcome with the model's logits."""
    factor = getattr(config, "logit_scale", None) or 1.0
    return float(factor) / float(getattr(config, "logits_scaling", None) or 1.0)


# --------------------------------------------------------------------------------------------- attention


@contextmanager
def _seeing_maps(module: torch.nn.Module, maps: list[tuple[str, int, int]]) -> Iterator[None]:
    """Notes (path, part, heads) of every module that returns a map [1, H, T, T], in order of leaving."""
    import torch

    def see(path: str, output: Any) -> None:
        for part, tensor in enumerate(output if isinstance(output, tuple) else ()):
            if isinstance(tensor, torch.Tensor) and tensor.ndim == 4 and tensor.shape[2:] == (_TOKENS, _TOKENS):
                maps.append((path, part, int(tensor.shape[1])))
                return

    handles = [
        part.register_forward_hook(lambda _, __, output, path=path: see(path, output))
        for path, part in module.named_modules()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _places(maps: Sequence[tuple[str, int, int]], blocks: Sequence[str]) -> dict[int, Place]:
    """Of each block the innermost module that returns its map; a wrapper hands the same map on later."""
    found: dict[int, Place] = {}
    for path, part, heads in maps:
        for index, block in enumerate(blocks):
            if path.startswith(block + "."):
                found.setdefault(index, Place(path, part, heads))
    return found


def _cards(module: torch.nn.Module, attention: Mapping[int, Place], count: int) -> tuple[LayerCard, ...]:
    config: Any = module.config.get_text_config()
    width = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    everywhere = width and not (getattr(config, "layer_types", None) or getattr(config, "attention_layers", None))
    shared = getattr(config, "num_key_value_heads", None)
    cards = []
    for index, kind in enumerate(layer_kinds(module, count)):
        place = attention.get(index)
        if place is None:
            cards.append(LayerCard(index, "linear" if kind == "linear" and attention else "none", 0, 0))
            continue
        window = int(width) if width and (everywhere or kind == "sliding") else None
        heads = int(shared) if shared and place.heads % int(shared) == 0 else place.heads
        cards.append(LayerCard(index, "sliding" if window else "full", place.heads, heads, window))
    return tuple(with_experts(module, cards))


# --------------------------------------------------------------------------------------------- readout


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return _memory(a) == _memory(b)


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _chain(
    name: str, passages: Sequence[Passage], last: torch.nn.Module, output: Any, paths: Mapping[int, str]
) -> tuple[str, ...] | str:
    logits = logits_of(output)
    if logits is None or logits.ndim != 2:
        return f"{name} has no output over a vocabulary: it is not a language model."
    try:
        modules, _, _ = find_chain(name, passages, last, logits.shape, same=_same)
    except Unavailable as reason:
        return str(reason)
    return tuple(paths[id(part)] for part in modules)


# --------------------------------------------------------------------------------------------- residual stream


@dataclass
class _Sums:
    """Which tensors a tensor is the sum of, each named by its memory; `held` keeps memory from being given out anew."""

    terms: dict[int, tuple[int, ...]] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)

    def of(self, tensor: torch.Tensor) -> tuple[int, ...]:
        return self.terms.get(_memory(tensor), (_memory(tensor),))


@contextmanager
def _summing() -> Iterator[_Sums]:
    """Follows every sum of two tensors of one shape, and products with a plain number (Granite)."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    sums = _Sums()
    adds = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
    products = (torch.ops.aten.mul.Tensor, torch.ops.aten.mul.Scalar)

    class Following(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sums.held.append((args, result))
            if func in adds and all(isinstance(a, torch.Tensor) and a.shape == result.shape for a in args[:2]):
                sums.terms[_memory(result)] = (*sums.of(args[0]), *sums.of(args[1]))
            elif func in products and not (isinstance(args[1], torch.Tensor) and args[1].ndim):
                sums.terms[_memory(result)] = sums.of(args[0])
            return result

    with Following():
        yield sums


def _added(
    sums: _Sums, passages: Sequence[Passage], blocks: Sequence[torch.nn.Module], paths: Mapping[int, str]
) -> tuple[str, ...]:
    """Of each block the module that adds to the stream first: output = input + first + rest; () if one is not so."""
    found = []
    for block in blocks:
        whole = first_passage(passages, block)
        if whole.inside is None or whole.outside is None:
            return ()
        change = Counter(sums.of(whole.outside))
        change.subtract(sums.of(whole.inside))
        inner = {id(part) for part in block.modules()} - {id(block)}
        parts = [p for p in passages if id(p.module) in inner and p.outside is not None]
        first = next((p for p in parts if Counter(sums.of(p.outside)) < change), None)  # less than all of it
        if first is None or min(change.values()) < 0:
            return ()
        found.append(paths[id(first.module)])
    return tuple(found)
