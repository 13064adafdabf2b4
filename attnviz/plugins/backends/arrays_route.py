"""How a model that reads numbers gives up its attention: looked at once when it is loaded, on random numbers.

Its maps are compared with those the model itself returns, its outputs with those of a plain forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import LayerCapture, LayerCard, ModelError, Tokens
from attnviz.plugins.backends import attention_function, function_mode
from attnviz.plugins.backends.attention_function import AttentionCall, Collector
from attnviz.plugins.backends.capture import AttentionCollector, CallKey, placed
from attnviz.plugins.backends.estimate import LayerShape
from attnviz.plugins.backends.forward import tolerance
from attnviz.plugins.backends.readings import Arguments, Reading
from attnviz.plugins.backends.residual import recording, watched
from attnviz.plugins.backends.stacks import CROSS, DECODER, ENCODER, STACKS, Lengths
from attnviz.plugins.backends.value_norms import Projection, find_projection, matrices

if TYPE_CHECKING:
    import torch

Capturing = Callable[[Collector], AbstractContextManager[None]]
Maps = list["torch.Tensor"]  # of each layer, [H, Q, K]
_APART = "Queries are steps of the future, keys are steps of the past: rows and columns are counted apart."
_ADDED = "Some keys are added by the layer itself and stand at no place among the tokens."


@dataclass(frozen=True)
class Seen:
    """One attention call of a forward pass, by its sizes.

    added   keys that the layer itself puts behind those of the tokens, by name
    stack   of a model with encoder and decoder
    """

    key: CallKey
    module: torch.nn.Module
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    added: tuple[str, ...] = ()
    stack: str = ""


@dataclass
class Sizes:
    """A collector that notes the sizes of every call and lets it run as usual."""

    seen: list[Seen] = field(default_factory=list)
    _counts: Counter[int] = field(default_factory=Counter)

    def attend(self, call: AttentionCall) -> torch.Tensor | None:
        key = (id(call.module), self._counts[id(call.module)])
        self._counts[id(call.module)] += 1
        batch, heads, queries, _ = call.query.shape
        sizes = (batch, heads, call.key.shape[1], queries, call.key.shape[2])
        self.seen.append(Seen(key, call.module, *sizes, added_keys(call.module)))
        return None


@dataclass
class SideBySide:
    """Hands the sequences of a batch, each of which attends on its own, to `inner` as heads of one sequence.

    head = sequence · heads of the model + its head. `outputs` has what `inner` made of each call, [H, Q, D_v].
    added   tokens that stand for keys which some layers put behind those of the others
    """

    inner: Collector
    added: int = 0
    outputs: list[torch.Tensor] = field(default_factory=list)

    def attend(self, call: AttentionCall) -> torch.Tensor | None:
        batch, heads, queries = call.query.shape[:3]
        if self.added:
            call = _over_all_tokens(call, queries + self.added)
        mask = call.mask
        if mask is not None and batch > 1:
            mask = mask.expand(batch, heads, -1, -1).flatten(0, 1)[None]
        query, key, value = (tensor.flatten(0, 1)[None] for tensor in (call.query, call.key, call.value))
        output = self.inner.attend(replace(call, query=query, key=key, value=value, mask=mask))
        if output is None:
            return None
        own = output[0, :, :queries]
        self.outputs.append(own)
        return own.unflatten(0, (batch, heads))


def _over_all_tokens(call: AttentionCall, count: int) -> AttentionCall:
    """With rows for added keys, which see nothing, and columns for those this layer does not add, which none sees."""
    import torch
    from torch.nn.functional import pad

    queries, keys = call.query.shape[2], call.key.shape[2]
    mask = call.mask
    if mask is None:
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=call.query.device)
        mask = mask.tril() if call.causal else mask
    hidden = float("-inf") if mask.dtype.is_floating_point else 0.0
    query, key, value = (pad(x, (0, 0, 0, count - x.shape[2])) for x in (call.query, call.key, call.value))
    mask = pad(mask, (0, count - keys, 0, count - queries), value=hidden)
    return replace(call, query=query, key=key, value=value, mask=mask, causal=False)


@dataclass(frozen=True)
class ArrayRoute:
    """How attention is taken, and what is known of the layers.

    calls    attention call -> layer;  missing  layer -> why it has no map of the run
    count    tokens of the example;    found  attention calls of every forward pass, in order
    added    keys that some layers put behind those of the tokens, by name;  adding  those layers
    """

    reason: str
    cards: tuple[LayerCard, ...]
    calls: Mapping[CallKey, int]
    missing: Mapping[int, str]
    projections: Mapping[int, Projection | str]
    shapes: Mapping[int, LayerShape]
    causal: bool
    count: int
    found: tuple[CallKey, ...]
    capturing: Capturing
    added: tuple[str, ...]
    adding: frozenset[int]
    notes: tuple[str, ...] = ()

    def placed(self, captures: Mapping[int, LayerCapture], tokens: Tokens) -> dict[int, LayerCapture]:
        """With the tokens of the run that are queries and keys of a layer, and no distance where it means nothing."""
        return {index: self._placed(index, capture, Lengths.of(tokens)) for index, capture in captures.items()}

    def _placed(self, layer: int, capture: LayerCapture, lengths: Lengths) -> LayerCapture:
        if self.cards[layer].stack:
            return placed(capture, lengths.spans(self.cards[layer].stack), _APART)
        if layer not in self.adding:
            return capture
        absent = {**capture.absent, "distance": _ADDED}
        return replace(capture, distance=np.full_like(capture.distance, np.nan), absent=absent)


# --------------------------------------------------------------------------------------------- one forward pass


def run_once(module: torch.nn.Module, arguments: Arguments, capturing: AbstractContextManager[Any]) -> Any:
    """One forward pass without gradients.

    Raises:
        ModelError: the device has too little memory.
    """
    import torch

    args, kwargs = arguments
    try:
        with torch.inference_mode(), capturing:
            return module(*args, **kwargs)
    except torch.OutOfMemoryError as error:
        raise ModelError("The device has too little free memory for this input: use a shorter one.") from error


def sizes_of(module: torch.nn.Module, arguments: Arguments, capturing: Capturing) -> list[Seen]:
    """The attention calls of one forward pass."""
    collector = Sizes()
    run_once(module, arguments, capturing(collector))
    return collector.seen


def count_tokens(seen: Sequence[Seen], positions: int | None) -> int:
    """Tokens that the layers attend over: `positions`, else the queries of most calls that attend to themselves."""
    if positions is not None:
        return positions
    own = Counter(call.queries for call in seen if call.queries == call.keys - len(call.added) and call.batch == 1)
    return own.most_common(1)[0][0] if own else max(call.keys - len(call.added) for call in seen)


def added_keys(module: torch.nn.Module) -> tuple[str, ...]:
    """Keys that nn.MultiheadAttention adds to those it is given (add_bias_kv, add_zero_attn), by name."""
    import torch

    if not isinstance(module, torch.nn.MultiheadAttention):
        return ()
    learned = ("learned key",) if module.bias_k is not None else ()
    return (*learned, "zero key") if module.add_zero_attn else learned


def tensors_of(output: Any) -> Iterator[torch.Tensor]:
    """Every tensor of real numbers that a module returned, whatever it is wrapped in."""
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for name, part in output.items():
            if "attentions" not in str(name):
                yield from tensors_of(part)
    elif isinstance(output, (tuple, list)):
        for part in output:
            yield from tensors_of(part)


# --------------------------------------------------------------------------------------------- looking


@dataclass(frozen=True)
class Look:
    """What an example showed: outputs and maps of the model itself, and the calls that were seen."""

    arguments: Arguments
    outputs: list[torch.Tensor]
    maps: Maps
    seen: list[Seen]
    capturing: Capturing
    against: str


def look_at_torch(module: torch.nn.Module, arguments: Arguments) -> Look:
    """A module of PyTorch, its attention functions watched. The module is followed already."""
    outputs = _steady_outputs(module, arguments)
    maps: Maps = []
    run_once(module, arguments, function_mode.asking_for_maps(maps))
    seen = sizes_of(module, arguments, function_mode.watching)
    return Look(arguments, outputs, maps, seen, function_mode.watching, "PyTorch's own maps")


def look_at_transformers(module: Any, arguments: Arguments, stacks: bool) -> Look:
    """A model of transformers, which is given our attention function.

    stacks   it has an encoder and a decoder, whose layers come in the order of stacks.py

    Raises:
        ModelError: it does not take one, or returns no maps to compare with.
    """
    name = type(module).__name__
    if not module._can_set_attn_implementation():
        raise ModelError(f"{name} gives no attention: it does not call transformers' AttentionInterface.")
    module.set_attn_implementation("eager")
    args, kwargs = arguments
    outputs = _steady_outputs(module, arguments)
    returned = run_once(module, (args, {**kwargs, "output_attentions": True}), _nothing())
    maps = [weights.flatten(0, 1) for weights in _returned_maps(returned)]
    module.set_attn_implementation(attention_function.NAME)
    seen = sizes_of(module, arguments, attention_function.collecting)
    if stacks:
        seen = sorted(_in_stacks(module, seen), key=lambda call: STACKS.index(call.stack))
    return Look(arguments, outputs, maps, seen, attention_function.collecting, "transformers' eager maps")


def _in_stacks(module: torch.nn.Module, seen: Sequence[Seen]) -> list[Seen]:
    """With the stack of each call, from the name of its module."""
    names = {id(part): name for name, part in module.named_modules()}
    found = []
    for call in seen:
        path = names[id(call.module)].split(".")
        stack = CROSS if path[-1] == "encoder_attn" else DECODER if "decoder" in path else ENCODER
        found.append(replace(call, stack=stack))
    return found


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _returned_maps(output: Any) -> Maps:
    names = ("encoder_attentions", "decoder_attentions", "cross_attentions", "attentions")
    return [weights for name in names for weights in getattr(output, name, None) or () if weights is not None]


def _steady_outputs(module: torch.nn.Module, arguments: Arguments) -> list[torch.Tensor]:
    """What the module returns.

    Raises:
        ModelError: another thing each time.
    """
    import torch

    first, again = (list(tensors_of(run_once(module, arguments, _nothing()))) for _ in range(2))
    if len(first) != len(again) or not all(map(torch.equal, first, again)):
        raise ModelError(
            f"{type(module).__name__} draws random numbers when it runs: the same input gives another output each "
            "time, so attention of one pass says nothing of the next."
        )
    return first


# --------------------------------------------------------------------------------------------- choosing


def choose_route(module: torch.nn.Module, reading: Reading, look: Look) -> ArrayRoute:
    """Captures the example and compares.

    Raises:
        ModelError: no attention, or none that is the model's own.
    """
    name = type(module).__name__
    if not look.seen:
        raise ModelError(
            f"{name} gives no attention: it runs neither scaled_dot_product_attention nor multi_head_attention_forward "
            "of torch.nn.functional. A module that writes its attention out by hand cannot be watched."
        )
    lengths = Lengths(count_tokens(look.seen, reading.positions), reading.decoder_from)
    count, added = lengths.count, next((call.added for call in look.seen if call.added), ())
    missing = {
        index: why
        for index, call in enumerate(look.seen)
        if (why := _not_over_tokens(call, lengths, added, reading.sequences))
    }
    if len(missing) == len(look.seen):
        raise ModelError(f"{name} has no map over its {count} tokens. {missing[0]}")
    calls = {call.key: index for index, call in enumerate(look.seen) if index not in missing}
    if len(look.maps) not in (len(look.seen), len(calls)):  # a model may return only those over its tokens
        raise ModelError(f"{name} returns {len(look.maps)} maps, and {len(look.seen)} calls of attention were seen.")
    captures, outputs, projections = _capture(module, reading, look, calls, len(added))
    _compare(name, look, captures, outputs)
    cards = _cards(look.seen, captures, reading)
    own = look.capturing is attention_function.collecting
    what = "attnviz's attention function" if own else "PyTorch's attention functions, watched"
    return ArrayRoute(
        reason=f"{what}, compared with {look.against} and outputs on random numbers, {count} tokens",
        cards=cards,
        calls=calls,
        missing=missing,
        projections=projections,
        shapes={index: _shape(cards[index], capture, projections[index]) for index, capture in captures.items()},
        causal=all(capture.causal for index, capture in captures.items() if cards[index].stack in ("", DECODER)),
        count=count,
        found=tuple(call.key for call in look.seen),
        capturing=look.capturing,
        added=added,
        adding=frozenset(index for index, call in enumerate(look.seen) if call.added and index not in missing),
        notes=_notes(module, reading, look.seen),
    )


def _not_over_tokens(call: Seen, lengths: Lengths, added: tuple[str, ...], sequences: int) -> str | None:
    """Why a call gives no map of the run, or None."""
    count = lengths.count
    if call.batch != sequences:
        return f"It attends in {call.batch} sequences of {call.keys} at once, where the model has {count} tokens."
    if (call.queries, call.keys - len(call.added)) != lengths.shape(call.stack):
        return (
            f"It attends from {call.queries} queries to {call.keys} keys in an example of {count} tokens: they are not "
            "both the tokens of the run."
        )
    if call.added not in ((), added):
        return f"It adds other keys ({', '.join(call.added)}) than an earlier layer ({', '.join(added)})."
    return None


def _capture(
    module: torch.nn.Module, reading: Reading, look: Look, calls: Mapping[CallKey, int], added: int
) -> tuple[dict[int, LayerCapture], list[torch.Tensor], dict[int, Projection | str]]:
    """Captures and output projections by layer, and what the model returned while it was captured."""
    collector = AttentionCollector(calls, thumbnail=16)
    spread = SideBySide(collector, added)
    parts = matrices(module)
    with watched(parts), recording(parts, lambda tensor: tensor.clone()) as passages:
        output = run_once(module, look.arguments, look.capturing(spread))
    modules = {call.key: call.module for call in look.seen}
    projections: dict[int, Projection | str] = {}
    keys = {index: key for key, index in calls.items()}
    for index, heads in zip(collector.captured, spread.outputs, strict=True):
        found = _projection(modules[keys[index]], find_projection(passages, _joined(heads, reading.sequences)))
        projections[index] = found if isinstance(found, str) else replace(found, copies=reading.sequences)
    return dict(sorted(collector.captured.items())), list(tensors_of(output)), projections


def _joined(heads: torch.Tensor, sequences: int) -> torch.Tensor:
    """[n·H, Q, D_v] -> [H, n·Q, D_v], as the sequences go through the projection."""
    return heads.unflatten(0, (sequences, -1)).transpose(0, 1).flatten(1, 2)


def _projection(module: torch.nn.Module, found: Projection | str) -> Projection | str:
    """nn.MultiheadAttention hands the weight of its projection on without running it."""
    import torch

    if isinstance(found, str) and type(module) is torch.nn.MultiheadAttention:
        return Projection(module.out_proj, transposed=True)
    return found


def _compare(name: str, look: Look, captures: Mapping[int, LayerCapture], outputs: Sequence[torch.Tensor]) -> None:
    """Raises ModelError where maps or outputs are not the model's own."""
    for ours, theirs in zip(outputs, look.outputs, strict=True):
        apart = float((ours.float() - theirs.float()).abs().max()) if theirs.numel() else 0.0
        if not apart <= tolerance(theirs.dtype) * max(1.0, float(theirs.abs().max()) if theirs.numel() else 0.0):
            raise ModelError(f"{name}: its output while its attention is read differs from its own by {apart:.2g}.")
    for number, (index, capture) in enumerate(captures.items()):
        returned = look.maps[index if len(look.maps) == len(look.seen) else number]
        ours, expected = np.stack([capture.pattern(h) for h in range(capture.heads)]), returned.float().cpu().numpy()
        limit, (heads, queries, keys) = tolerance(returned.dtype), expected.shape
        own, beyond = ours[:, :queries, :keys], ours[:, queries:].any() or ours[:, :, keys:].any()  # of added keys
        if beyond or len(ours) != heads or not np.abs(own - expected).max() <= limit:
            raise ModelError(f"{name}: the attention read from layer {index} is not that of {look.against}.")


def _cards(seen: Sequence[Seen], captures: Mapping[int, LayerCapture], reading: Reading) -> tuple[LayerCard, ...]:
    cards: list[LayerCard] = []
    for index, call in enumerate(seen):
        number = sum(card.stack == call.stack for card in cards) if call.stack else None
        kind = "none" if index not in captures else "cross" if call.stack == CROSS else "full"
        heads = captures[index].heads if index in captures else 0
        kv_heads = call.kv_heads * reading.sequences if index in captures else 0
        sequences = reading.sequences if index in captures else 1
        cards.append(LayerCard(index, kind, heads, kv_heads, stack=call.stack, number=number, channels=sequences))
    return tuple(cards)


def _shape(card: LayerCard, capture: LayerCapture, projection: Projection | str) -> LayerShape:
    assert capture.q is not None
    assert capture.k is not None
    return LayerShape(
        capture.heads,
        capture.k.shape[0],
        capture.q.shape[2],
        values=isinstance(projection, Projection),
        stack=card.stack,
        biases=0 if capture.bias is None else len(capture.bias),
        causal=capture.causal,
    )


def _notes(module: torch.nn.Module, reading: Reading, seen: Sequence[Seen]) -> tuple[str, ...]:
    """Where the layers are in the module, and how heads are counted where sequences attend side by side."""
    names = {id(part): name or "the module itself" for name, part in module.named_modules()}
    listed = ", ".join(f"{index} = {names[id(call.module)]}" for index, call in enumerate(seen))
    notes = (f"layers: {listed}",)
    if reading.sequences == 1:
        return notes
    heads = seen[0].heads
    return (
        *notes,
        f"each of the {reading.sequences} channels attends on its own, with maps of its own: head = {heads} · channel "
        f"+ head of the model",
    )
