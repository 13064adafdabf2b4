"""How one prompt is put through a transformers module."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attnviz.hooks import Floats, Ints, ModelError, Tokens
from attnviz.plugins.backends.placement import run_device
from attnviz.plugins.backends.sound import Sound
from attnviz.plugins.backends.stacks import Lengths, has_decoder

if TYPE_CHECKING:
    import torch

_PROBE_TOKENS, _PROBE_TARGET = 8, 5
_RELATIVE_ERROR = {"torch.float16": 1e-2, "torch.bfloat16": 4e-2}


class Runner(Protocol):
    """What is called: a transformers module, or something that runs one its own way with the same results."""

    def __call__(self, **inputs: Any) -> Any:
        """One forward pass."""

    def generate(self, **inputs: Any) -> Any:
        """[1, T] ids of prompt and answer."""


def model_inputs(
    module: torch.nn.Module, tokens: Tokens, *, logits_at: Sequence[int] | None = None, **options: Any
) -> dict[str, Any]:
    """Arguments of `module.forward` for one run, without a cache.

    logits_at   positions whose logits are needed; others are not computed where the model can leave them out
    """
    import torch

    inputs: dict[str, Any] = {**given_inputs(module, tokens), "return_dict": True, **options}
    accepted = inspect.signature(module.forward).parameters
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    if logits_at is not None and "logits_to_keep" in accepted:
        rows = [position - (tokens.decoder_from or 0) for position in logits_at]
        inputs["logits_to_keep"] = torch.tensor(rows, dtype=torch.long, device=input_device(module))
    return inputs


def given_inputs(module: torch.nn.Module, tokens: Tokens) -> dict[str, Any]:
    """What the module reads: ids or numbers, of a model with encoder and decoder those of both; and that all is seen.

    Masks are said where the module takes them: some families would take a start token for padding.
    """
    import torch

    device, accepted = input_device(module), inspect.signature(module.forward).parameters
    if tokens.values is not None:
        given = {module.main_input_name: torch.tensor(tokens.values[None], dtype=module.dtype, device=device)}
    else:
        given = {"input_ids": _batch(tokens.ids[: tokens.decoder_from], device)}
        if "attention_mask" in accepted:
            given["attention_mask"] = _shown(tokens, slice(0, tokens.decoder_from), device)
        if tokens.padding is not None and "position_ids" in accepted and _counts_from_zero(module):
            given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    if tokens.decoder_from is not None:
        given["decoder_input_ids"] = _batch(tokens.ids[tokens.decoder_from :], device)
        if "decoder_attention_mask" in accepted:
            given["decoder_attention_mask"] = _shown(tokens, slice(tokens.decoder_from, None), device)
    return given


def _shown(tokens: Tokens, span: slice, device: torch.device) -> torch.Tensor:
    """[1, n] 1 for a token, 0 for padding."""
    import torch

    shown = np.ones(len(tokens), bool) if tokens.padding is None else ~tokens.padding
    return torch.tensor(shown[span][None], dtype=torch.long, device=device)


def _counts_from_zero(module: torch.nn.Module) -> bool:
    """Whether the first token of a text is at position 0. Families that count from the padding id on find the
    positions of a padded text themselves."""
    import torch

    return all(
        part.padding_idx is None
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Embedding) and name.endswith("position_embeddings")
    )


def _batch(ids: Ints, device: torch.device) -> torch.Tensor:
    """[1, T]"""
    import torch

    return torch.tensor(ids[None], dtype=torch.long, device=device)


def few_tokens(module: torch.nn.Module, vocabulary: int) -> Tokens:
    """A run of a few tokens that a model is looked at with.

    Of a model with encoder and decoder source and target differ in length, so that maps tell by their shape what they
    are of.
    """
    if not has_decoder(module):
        return some_tokens(module, vocabulary, Lengths(_PROBE_TOKENS))
    sound = Sound.of(module)
    source = _PROBE_TOKENS if sound is None else sound.tokens
    target = _PROBE_TARGET if source != _PROBE_TARGET else _PROBE_TARGET + 1
    return some_tokens(module, vocabulary, Lengths(source + target, source))


def some_tokens(module: torch.nn.Module, vocabulary: int, lengths: Lengths) -> Tokens:
    """A run that is no text: ids one after another, or noise for a model that hears."""
    ids = np.arange(lengths.count) * 7 % max(vocabulary - 1, 1) + 1
    sound = Sound.of(module)
    if sound is None:
        return bare_tokens(ids, lengths.decoder_from)
    ids[: lengths.decoder_from] = -1
    return bare_tokens(ids, lengths.decoder_from, sound.example())


def bare_tokens(ids: Ints, decoder_from: int | None = None, values: Floats | None = None) -> Tokens:
    """Ids that are no text."""
    count = len(ids)
    blank = ("",) * count
    return Tokens(ids, blank, np.full((count, 2), -1), np.zeros(count, bool), "", (), values, decoder_from)


def run_forward(runner: Runner, inputs: dict[str, Any]) -> Any:
    """One forward pass without gradients.

    Raises:
        ModelError: the device has too little memory for a prompt of this length.
    """
    import torch

    try:
        with torch.inference_mode():
            return runner(**inputs)
    except torch.OutOfMemoryError as error:
        length = sum(ids.shape[-1] for name, ids in inputs.items() if name.endswith("input_ids"))
        raise ModelError(f"The device has too little free memory for {length} tokens: use a shorter prompt.") from error


def input_device(module: torch.nn.Module) -> torch.device:
    """Where token ids go: the device of the embedding."""
    embedding = module.get_input_embeddings()
    spread_to = run_device(embedding)
    if spread_to is not None:
        return spread_to
    return next(iter(embedding.parameters()), next(iter(module.parameters()))).device


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways to the same number may be apart in a model of this type, relative to the largest one."""
    return _RELATIVE_ERROR.get(str(dtype), 1e-4)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """float32; float64 of a float64 model."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


def logits_of(output: Any) -> torch.Tensor | None:
    """[T, V] logits of the only prompt (of the decoder's tokens), or None for a model without an output head."""
    logits = getattr(output, "logits", None)
    return None if logits is None else logits[0]
