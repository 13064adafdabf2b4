"""From the residual stream to logits: the model's own final norm, unembedding, scale and soft-cap.

They are not found by name: a few tokens are put through the model, and the modules that carry the last block's output
to the logits are the readout. It is accepted only if it then gives the model's logits. (The last entry of
transformers' `hidden_states` is already normed, so block outputs are taken by hooks.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.hooks import Tokens, Unavailable
from attnviz.plugins.backends.forward import (
    Runner,
    at_least_float32,
    few_tokens,
    logits_of,
    model_inputs,
    run_forward,
    tolerance,
)
from attnviz.plugins.backends.residual import Passage, find_blocks, recording, watched
from attnviz.plugins.backends.stacks import answering, has_decoder

if TYPE_CHECKING:
    import torch

Change = Callable[["torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Scaled:
    """A module that is given its input times a factor."""

    module: torch.nn.Module
    factor: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.module(states * self.factor)
        return found


@dataclass(frozen=True)
class Readout:
    """How logits are read off the residual stream.

    blocks      the transformer blocks, in order; of a model with encoder and decoder the decoder's
    chain       modules from a block's output to raw logits: final norm, …, unembedding
    scale, softcap, bias   logits = softcap · tanh(scale · raw / softcap) + bias; bias [V] or None
    attention   of each block the module whose output, times `multiplier`, is added to the residual stream before the
                MLP's; empty if the blocks are not built so
    """

    blocks: tuple[torch.nn.Module, ...]
    chain: tuple[Change, ...]
    scale: float = 1.0
    softcap: float | None = None
    attention: tuple[torch.nn.Module, ...] = ()
    multiplier: float = 1.0
    bias: torch.Tensor | None = None

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[n, d] residual stream -> [n, V] logits in float32 (float64 of a float64 model)."""
        logits = read_logits(states, self.chain, self.scale, self.softcap)
        return logits if self.bias is None else logits + self.bias


def read_logits(states: torch.Tensor, chain: Sequence[Change], scale: float, softcap: float | None) -> torch.Tensor:
    """[n, d] residual stream -> [n, V] logits, as `Readout.logits`. Also runs on NDIF: see remote_code.py."""
    for part in chain:
        states = part(states)
    states = states if states.dtype.itemsize > 4 else states.float()
    if scale != 1.0:
        states = states * scale
    return states if softcap is None else soft_capped(states, softcap)


def soft_capped(logits: torch.Tensor, softcap: float) -> torch.Tensor:
    """softcap · tanh(logits / softcap). A TorchFunctionMode sees it as one operation (see relevance.py)."""
    from torch.overrides import handle_torch_function, has_torch_function_unary

    if has_torch_function_unary(logits):
        capped: torch.Tensor = handle_torch_function(soft_capped, (logits,), logits, softcap)
        return capped
    return softcap * (logits / softcap).tanh()


def find_readout(module: torch.nn.Module, vocabulary: int) -> Readout:
    """Locates and verifies the readout.

    Raises:
        Unavailable: the model has no blocks or no logits, or what was found does not give its logits.
    """
    name = type(module).__name__
    config = module.config.get_text_config()
    blocks = find_blocks(answering(module), _block_count(module))
    if not blocks:
        raise Unavailable(f"{name}: its transformer blocks were not found, so there is no residual stream to read.")
    tokens = few_tokens(module, vocabulary)
    every = list(module.modules())
    with watched(every), recording(every, lambda tensor: tensor.clone()) as passages:
        output = run_forward(module, model_inputs(module, tokens))
    logits = logits_of(output)
    read = len(tokens) - (tokens.decoder_from or 0)
    if logits is None or logits.ndim != 2 or logits.shape[-1] < 2 or logits.shape[0] != read:
        raise Unavailable(f"{name} has no output over a vocabulary: it is not a language model.")
    chain, last, raw = find_chain(name, passages, blocks[-1], logits.shape)
    bias = _bias(module, raw.shape[-1])
    scale, softcap = _scale(config, raw, logits if bias is None else logits - bias)
    multiplier = float(getattr(config, "residual_multiplier", None) or 1.0)  # Granite
    added = _attention(passages, blocks, multiplier)
    found = Readout(tuple(blocks), tuple(chain), scale, softcap, tuple(added), multiplier, bias)
    _verify(name, found, last, logits)
    return found


def _block_count(module: torch.nn.Module) -> int:
    """How many blocks make the answer, as the configuration says; 0 where it does not."""
    config = module.config
    if not has_decoder(module):
        return int(getattr(config.get_text_config(), "num_hidden_layers", 0))
    named = (getattr(config, name, None) for name in ("decoder_layers", "num_decoder_layers"))
    own = getattr(getattr(config, "decoder", None), "num_hidden_layers", 0)  # a configuration for each stack
    return next((int(count) for count in named if count), int(own))


def first_passage(passages: Sequence[Passage], module: torch.nn.Module) -> Passage:
    """The first pass through `module`. Raises Unavailable if there was none."""
    for passage in passages:
        if passage.module is module:
            return passage
    raise Unavailable(f"Block {type(module).__name__} was not called in a forward pass.")


def find_chain(
    name: str,
    passages: Sequence[Passage],
    last: torch.nn.Module,
    shape: torch.Size,
    *,
    same: Callable[[torch.Tensor, torch.Tensor], bool] | None = None,
) -> tuple[list[Change], torch.Tensor, torch.Tensor]:
    """Modules that carry the last block's output to raw logits of `shape`, each fed with what the one before returned,
    as it is or times a factor (`Scaled`).

    `same` tells whether a module was given what another returned; None = the numbers are equal.
    Returns them with the last block's output and the raw logits.

    Raises:
        Unavailable: there is no such way.
    """
    import torch

    same = same or torch.equal
    block = first_passage(passages, last)
    if block.outside is None:
        raise Unavailable(f"{name}: its last block returned no tensor.")
    start = next(i for i, p in enumerate(passages) if p is block)
    factors = (1.0, float(block.outside.shape[-1]) ** -0.5)  # T5 with tied embeddings: d^-½ before the unembedding

    def search(state: torch.Tensor, later: Sequence[Passage]) -> tuple[list[Change], torch.Tensor] | None:
        # passages come in order of leaving, so inner modules (each norm, each matrix) are tried before outer ones
        for index, taken in enumerate(later):
            if taken.inside is None or taken.outside is None or taken.inside.shape != state.shape:
                continue
            for factor in factors:
                if same(taken.inside, state if factor == 1.0 else state * factor):
                    found = search(taken.outside, later[index + 1 :])
                    if found is not None:
                        step = taken.module if factor == 1.0 else Scaled(taken.module, factor)
                        return [step, *found[0]], found[1]
        return ([], state) if state.shape[-2:] == shape else None

    found = search(block.outside, passages[start + 1 :])
    if found is None or not found[0]:
        raise Unavailable(f"{name}: the way from the last block to the logits was not found.")
    return found[0], block.outside, found[1]


def _bias(module: torch.nn.Module, vocabulary: int) -> torch.Tensor | None:
    """[V] what BART, Marian and their kin add to the logits behind the unembedding."""
    for name, buffer in module.named_buffers():
        if name.endswith("final_logits_bias") and buffer.numel() == vocabulary and bool(buffer.any()):
            bias: torch.Tensor = buffer.flatten().float()
            return bias
    return None


def _scale(config: object, raw: torch.Tensor, logits: torch.Tensor) -> tuple[float, float | None]:
    """Factor and soft-cap between the unembedding and the logits, as the configuration names them.

    Cohere: logit_scale · z; Granite: z / logits_scaling; Gemma 2: cap · tanh(z / cap).
    """
    import torch

    factors = [1.0]
    for name, invert in (("logit_scale", False), ("logits_scaling", True)):
        value = getattr(config, name, None)
        if value:
            factors.append(1.0 / float(value) if invert else float(value))
    caps = [None, getattr(config, "final_logit_softcapping", None)]
    shown = at_least_float32(raw.reshape(-1, raw.shape[-1]))
    for factor in factors:
        for cap in caps:
            tried = shown * factor
            tried = cap * (tried / cap).tanh() if cap else tried
            if torch.allclose(tried, logits.to(tried.dtype), atol=1e-5, rtol=1e-4):
                return factor, cap or None
    return 1.0, None


def _verify(name: str, readout: Readout, last: torch.Tensor, logits: torch.Tensor) -> None:
    import torch

    with torch.inference_mode():
        found = readout.logits(last.reshape(-1, last.shape[-1]))
    apart = float((found - at_least_float32(logits)).abs().max())
    limit = tolerance(logits.dtype) * max(1.0, float(logits.abs().max()))
    if not apart <= limit:
        raise Unavailable(f"{name}: final norm and unembedding do not give the model's logits (off by {apart:.2g}).")


def _attention(
    passages: Sequence[Passage], blocks: Sequence[torch.nn.Module], multiplier: float
) -> list[torch.nn.Module]:
    """Of each block the module whose output is added to the residual stream before the MLP's; [] if there is none."""
    found = [_added_first(passages, block, multiplier) for block in blocks]
    return [module for module in found if module is not None] if None not in found else []


def _added_first(passages: Sequence[Passage], block: torch.nn.Module, multiplier: float) -> torch.nn.Module | None:
    """Found by trying: block input + multiplier · (first + second) = block output."""
    import torch

    whole = first_passage(passages, block)
    if whole.inside is None or whole.outside is None:
        return None
    change = (whole.outside - whole.inside.to(whole.outside.device)) / multiplier  # blocks may lie on several GPUs
    inner = {id(part) for part in block.modules()} - {id(block)}
    parts = [
        (p.module, p.outside.reshape(change.shape))  # OPT's MLP works on [T, d]
        for p in passages
        if id(p.module) in inner and p.outside is not None and p.outside.numel() == change.numel()
    ]
    for index, (module, first) in enumerate(parts):
        for _, second in parts[index + 1 :]:
            if torch.allclose(first + second, change, atol=1e-4, rtol=1e-3):
                return module
    return None


def site_states(
    readout: Readout,
    module: torch.nn.Module,
    tokens: Tokens,
    positions: Sequence[int],
    *,
    sublayers: bool,
    runner: Runner | None = None,
) -> tuple[tuple[str, ...], torch.Tensor, torch.Tensor]:
    """Residual stream at each site and the model's own logits, from one forward pass of `runner` (None = the module).

    positions   of the run; of a model with encoder and decoder all of them the decoder's
    Returns names, states [N, P, d] and logits [P, V] (float32 at least). The last state is the last block's output.

    Raises:
        Unavailable: the stream after attention was asked for, and this model's blocks do not add to one.
    """
    import torch

    if sublayers and not readout.attention:
        parts = (
            "attention, attention to the encoder and MLP" if tokens.decoder_from is not None else "attention and MLP"
        )
        raise Unavailable(
            f"{type(module).__name__}: its blocks do not add {parts} to one residual stream, so there is "
            'no state after attention. Use sites="blocks".'
        )
    rows = torch.tensor(list(positions), dtype=torch.long) - (tokens.decoder_from or 0)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        at = rows.to(tensor.device)
        return tensor[0, at] if tensor.ndim == 3 else tensor[at]  # [P, d]

    added = readout.attention if sublayers else ()
    with recording([*readout.blocks, *added], keep) as passages:
        output = run_forward(runner or module, model_inputs(module, tokens, logits_at=positions))
    names, states = ["embedding"], [_kept(first_passage(passages, readout.blocks[0]).inside)]
    for index, block in enumerate(readout.blocks):
        whole = first_passage(passages, block)
        if sublayers:
            names.append(f"attention {index}")
            change = _kept(first_passage(passages, added[index]).outside) * readout.multiplier
            states.append(_kept(whole.inside).to(change.device) + change)
        names.append(f"block {index}")
        states.append(_kept(whole.outside))
    logits = output.logits[0]
    if logits.shape[0] != len(positions):
        logits = logits[rows.to(logits.device)]
    return tuple(names), torch.stack([s.to(logits.device) for s in states]), at_least_float32(logits)


def _kept(tensor: torch.Tensor | None) -> torch.Tensor:
    if tensor is None:
        raise Unavailable("A block of this model passes its state on in a form that is not known.")
    return tensor
