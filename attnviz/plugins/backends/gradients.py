"""Gradients through a transformers model: embeddings in, the residual stream that its readout reads out.

Checked when the model is loaded, on a few tokens: from embeddings the readout must give the logits that the model gives
from ids, and a gradient must arrive at every token that a state depends on. Whether states depend on later tokens is
seen there too, and what a pass keeps for its gradients is counted at two lengths.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import ModelError, Tokens, Unavailable
from attnviz.plugins.backends.estimate import free_bytes, in_words
from attnviz.plugins.backends.forward import (
    Runner,
    bare_tokens,
    input_device,
    logits_of,
    model_inputs,
    run_forward,
    tolerance,
)
from attnviz.plugins.backends.readout import Readout
from attnviz.plugins.backends.residual import recording
from attnviz.plugins.backends.stacks import answering, has_decoder

if TYPE_CHECKING:
    import torch

_SHORT, _LONG = 8, 16  # tokens of the two passes of the check
_SHARE = 0.5  # of the free memory that passes may fill; the rest is for what they hold only for a moment


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the first `count` tokens of a run, in transformers' cache."""

    count: int
    cache: Any

    def copies(self, variants: int) -> Any:
        """A cache of its own for so many variants; a layer puts new tensors in the place of its old ones."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        if variants > 1:
            cache.batch_repeat_interleave(variants)
        return cache


@dataclass(frozen=True)
class Gradients:
    """How gradients are taken through a module; see Differentiable.

    linear, square   bytes that a pass over n tokens keeps for its gradients: linear·n + square·n²
    continues   whether a pass can go on from the keys and values of earlier tokens
    """

    module: torch.nn.Module
    readout: Readout
    reads_ahead: bool = False
    linear: float = 0.0
    square: float = 0.0
    continues: bool = False

    def embed(self, ids: Any, *, decoder: bool = False) -> torch.Tensor:
        import torch

        part = answering(self.module) if decoder else self.module
        with torch.no_grad():
            found = torch.tensor(np.asarray(ids), dtype=torch.long, device=input_device(self.module))
            embedded: torch.Tensor = part.get_input_embeddings()(found)
            return embedded

    def states(
        self,
        runner: Runner,
        embeddings: torch.Tensor,
        tokens: Tokens,
        positions: Sequence[int],
        after: Prefix | None = None,
    ) -> torch.Tensor:
        return self.states_and_output(runner, embeddings, tokens, positions, after)[0]

    def remember(
        self, runner: Runner, embeddings: torch.Tensor, tokens: Tokens, after: Prefix | None = None
    ) -> Prefix | None:
        import torch

        if not self.continues or runner is not self.module:
            return None
        count = embeddings.shape[1] + (0 if after is None else after.count)
        with torch.no_grad():
            output = self.states_and_output(runner, embeddings, tokens, [count - 1], after, use_cache=True)[1]
        return Prefix(count, output.past_key_values)

    def states_and_output(
        self,
        runner: Runner,
        embeddings: torch.Tensor,
        tokens: Tokens,
        positions: Sequence[int],
        after: Prefix | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, Any]:
        """The states, and what the module returned, which is given further `options`."""
        import torch

        known = 0 if after is None else after.count
        count = known + embeddings.shape[1]
        read = bare_tokens(tokens.ids[:count], tokens.decoder_from)
        first = known + (read.decoder_from or 0)  # token of the first state that the pass gives
        inputs = _from_embeddings(model_inputs(self.module, read, logits_at=[count - 1]), embeddings, read.decoder_from)
        if after is not None:
            inputs |= {"past_key_values": after.copies(len(embeddings)), "use_cache": True}
            if "logits_to_keep" in inputs:
                inputs["logits_to_keep"] = inputs["logits_to_keep"] - known
        rows = torch.tensor(list(positions), dtype=torch.long) - first
        with enough_memory(count), recording([self.readout.blocks[-1]], lambda t: _at(t, rows)) as passages:
            output = runner(**{**inputs, **options})
        if not passages or passages[0].outside is None:
            raise Unavailable(f"{type(self.module).__name__}: its last block was not called, or returned no states.")
        return passages[0].outside, output

    def inner_states(
        self, runner: Runner, embeddings: torch.Tensor, tokens: Tokens, positions: Sequence[int], layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See DifferentiableInside; of a model whose blocks are its layers."""
        name, count, blocks = type(self.module).__name__, embeddings.shape[1], self.readout.blocks
        seen: dict[int, int] = {}  # of each tensor how often it had been written to when it was first seen

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            seen.setdefault(id(tensor), tensor._version)
            return tensor

        read = bare_tokens(tokens.ids[:count])
        inputs = _from_embeddings(model_inputs(self.module, read, logits_at=[count - 1]), embeddings, None)
        with enough_memory(count), recording([blocks[layer], blocks[-1]], keep) as passages:
            runner(**inputs)
        found = []
        for block in (blocks[layer], blocks[-1]):
            state = next((passage.outside for passage in passages if passage.module is block), None)
            if state is None or state.ndim != 3 or state.shape[:2] != embeddings.shape[:2]:
                raise Unavailable(f"{name}: its blocks were not called, or do not return one state for each token.")
            if state._version != seen[id(state)]:
                raise Unavailable(f"{name}: its blocks write over the states that they are given.")
            found.append(state)
        inner, last = found
        return last[:, list(positions)], inner

    def unembed(self, states: torch.Tensor) -> torch.Tensor:
        rows = self.readout.logits(states.reshape(-1, states.shape[-1]))
        return rows.view(*states.shape[:-1], rows.shape[-1])

    def variants(self, count: int) -> int:
        needed = self.linear * count + self.square * count**2
        where, free = free_on(input_device(self.module))
        if free is None:
            return 1
        if needed > _SHARE * free:
            raise ModelError(
                f"Gradients over {count} tokens need about {in_words(int(needed / _SHARE))} of memory, and "
                f"{in_words(free)} are free on {where}: use a shorter prompt."
            )
        return max(1, int(_SHARE * free // max(needed, 1)))


@contextmanager
def enough_memory(count: int) -> Iterator[None]:
    """Turns what torch says when memory runs out into one line."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"The device has too little free memory for gradients over {count} tokens: use a shorter prompt."
        ) from error


def _from_embeddings(inputs: dict[str, Any], embeddings: torch.Tensor, decoder_from: int | None) -> dict[str, Any]:
    """`inputs` of a run with B variants of its embeddings [B, n, d] in place of its ids."""
    given = {name: value for name, value in inputs.items() if not name.endswith("input_ids")}
    given["inputs_embeds"] = embeddings[:, :decoder_from]
    if decoder_from is not None:
        given["decoder_inputs_embeds"] = embeddings[:, decoder_from:]
    for name in ("attention_mask", "decoder_attention_mask"):
        if name in given:
            given[name] = given[name].expand(len(embeddings), -1)
    return given


def _at(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """[B, P, d] of [B, n, d]; anything else as it is."""
    return tensor[:, rows.to(tensor.device)] if tensor.ndim == 3 else tensor


def free_on(device: torch.device) -> tuple[str, int | None]:
    """Where a model is, in words, and the bytes that are free there; None where the system does not tell."""
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return f"the device {device}", int(torch.cuda.mem_get_info(device)[0]) + unused
    return "this machine", free_bytes() if device.type == "cpu" else None


# --------------------------------------------------------------------------------------------- looking at a model


def find_gradients(module: torch.nn.Module, readout: Readout, vocabulary: int) -> Gradients:
    """Looks at what gradients a model gives.

    Raises:
        Unavailable: none, or none that can be trusted, with the reason.
    """
    name = type(module).__name__
    if module.main_input_name != "input_ids":
        raise Unavailable(f"{name} reads numbers ({module.main_input_name}): there are no embeddings of tokens.")
    found = Gradients(module, readout)
    few, more = (_probe(module, vocabulary, count) for count in (_SHORT, _LONG))
    try:
        _check_logits(name, found, few)
        sizes = [_kept(name, found, tokens) for tokens in (few, more)]
        ahead = _reads_ahead(found, few)
    except Unavailable:
        raise
    except Exception as error:  # broad on purpose: an architecture may refuse embeddings, or a gradient, in any way
        said = " ".join(str(error).split()) or type(error).__name__
        raise Unavailable(f"{name} cannot be run from embeddings with gradients: {said[:200]}") from error
    square = max(0.0, (sizes[1] / _LONG - sizes[0] / _SHORT) / (_LONG - _SHORT))
    linear = sizes[1] / _LONG - square * _LONG
    return Gradients(module, readout, ahead, linear, square, not ahead and _continues(found, few))


def _probe(module: torch.nn.Module, vocabulary: int, count: int) -> Tokens:
    """A run of a few tokens; of a model with encoder and decoder half of them for each."""
    ids = np.arange(count) * 5 % max(vocabulary - 1, 1) + 1
    return bare_tokens(ids, decoder_from=count // 2 if has_decoder(module) else None)


def _embedded(found: Gradients, tokens: Tokens) -> torch.Tensor:
    """[1, n, d]"""
    import torch

    split = tokens.decoder_from
    parts = [found.embed(tokens.ids[:split])] + (
        [] if split is None else [found.embed(tokens.ids[split:], decoder=True)]
    )
    return torch.cat(parts)[None]


def _states(found: Gradients, embeddings: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """At every position that predicts."""
    runner: Runner = found.module
    return found.states(runner, embeddings, tokens, range(tokens.decoder_from or 0, len(tokens)))


def _check_logits(name: str, found: Gradients, tokens: Tokens) -> None:
    """From embeddings the same as from ids, else a position or a layer of the embedding is left out."""
    import torch

    runner: Runner = found.module
    expected = logits_of(run_forward(runner, model_inputs(found.module, tokens)))
    assert expected is not None  # a readout was found
    with torch.no_grad():
        logits = found.unembed(_states(found, _embedded(found, tokens), tokens))[0]
    apart = float((logits - expected.to(logits.dtype)).abs().max())
    if not apart <= tolerance(expected.dtype) * max(1.0, float(expected.abs().max())):
        raise Unavailable(f"{name}: run from embeddings its logits differ by {apart:.2g} from those run from ids.")


def _kept(name: str, found: Gradients, tokens: Tokens) -> int:
    """Bytes that a pass keeps for its gradients, parameters not counted; on the way a gradient is taken and checked."""
    import torch

    own = {part.untyped_storage().data_ptr() for part in (*found.module.parameters(), *found.module.buffers())}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    embeddings = _embedded(found, tokens).requires_grad_()
    with torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            states = _states(found, embeddings, tokens)
        last = found.unembed(states[:, -1])
        (gradient,) = torch.autograd.grad(last.square().sum(), embeddings)
    if not bool(gradient.isfinite().all()):
        raise Unavailable(f"{name}: its gradients are no finite numbers in {embeddings.dtype}.")
    arrives = gradient[0].any(dim=-1)  # [n]
    if not bool(arrives[-1]) or not bool(arrives[: tokens.decoder_from].any()):
        raise Unavailable(f"{name}: no gradient of the last state arrives at the embeddings that it is made of.")
    return sum(kept.values())


def _reads_ahead(found: Gradients, tokens: Tokens) -> bool:
    """Whether another last token changes any earlier state."""
    import torch

    with torch.no_grad():
        embeddings = _embedded(found, tokens)
        before = _states(found, embeddings, tokens)[:, :-1]
        after = _states(found, torch.cat([embeddings[:, :-1], embeddings[:, :1]], dim=1), tokens)[:, :-1]
    apart = float((after - before).abs().max())
    return apart > tolerance(before.dtype) * max(1.0, float(before.abs().max()))


def _continues(found: Gradients, tokens: Tokens) -> bool:
    """Whether passes that go on from a few tokens give the states of whole ones.

    Only with keys and values that are put behind one another; a cache of any other kind may be written over.
    """
    import torch

    name, split = "past_key_values", len(tokens) // 2
    if tokens.decoder_from is not None or name not in inspect.signature(found.module.forward).parameters:
        return False
    runner: Runner = found.module
    can = replace(found, continues=True)
    embeddings = _embedded(found, tokens)
    try:
        first = can.remember(runner, embeddings[:, : split - 1], tokens)
        if first is None or not _appends(first.cache):
            return False
        memory = can.remember(runner, embeddings[:, split - 1 : split], tokens, first)
        rest, later = embeddings[:, split:].repeat(2, 1, 1), range(split, len(tokens))
        with torch.no_grad():
            given = [can.states(runner, rest, tokens, later, memory) for _ in range(2)]  # twice: nothing is left in it
            whole = _states(found, embeddings, tokens)[:, split:]
    except Exception:  # broad on purpose: a way that fails is not taken, passes are whole then
        return False
    apart = max(float((states - whole).abs().max()) for states in given)
    return apart <= tolerance(whole.dtype) * max(1.0, float(whole.abs().max()))


def _appends(cache: Any) -> bool:
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return type(cache) is DynamicCache and all(type(layer) in kinds for layer in cache.layers)
