"""How one prompt is put through a transformers module."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attnviz.hooks import Ints, ModelError

if TYPE_CHECKING:
    import torch

_RELATIVE_ERROR = {"torch.float16": 1e-2, "torch.bfloat16": 4e-2}


class Runner(Protocol):
    """What is called: a transformers module, or something that runs one its own way with the same results."""

    def __call__(self, **inputs: Any) -> Any:
        """One forward pass."""

    def generate(self, **inputs: Any) -> Any:
        """[1, T] ids of prompt and answer."""


def model_inputs(
    module: torch.nn.Module, ids: Ints, *, logits_at: Sequence[int] | None = None, **options: Any
) -> dict[str, Any]:
    """Arguments of `module.forward` for one prompt, without a cache.

    logits_at   positions whose logits are needed; others are not computed where the model can leave them out
    """
    import torch

    device = input_device(module)
    input_ids = torch.tensor(np.asarray(ids)[None], dtype=torch.long, device=device)  # [1, T]
    inputs: dict[str, Any] = {"input_ids": input_ids, "return_dict": True, **options}
    accepted = inspect.signature(module.forward).parameters
    if "attention_mask" in accepted:
        inputs["attention_mask"] = torch.ones_like(input_ids)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    if logits_at is not None and "logits_to_keep" in accepted:
        inputs["logits_to_keep"] = torch.tensor(list(logits_at), dtype=torch.long, device=device)
    return inputs


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
        length = inputs["input_ids"].shape[1]
        raise ModelError(f"The device has too little free memory for {length} tokens: use a shorter prompt.") from error


def input_device(module: torch.nn.Module) -> torch.device:
    """Where token ids go: the device of the embedding."""
    embedding = module.get_input_embeddings()
    return next(iter(embedding.parameters()), next(iter(module.parameters()))).device


def tolerance(dtype: torch.dtype) -> float:
    """How far two ways to the same number may be apart in a model of this type, relative to the largest one."""
    return _RELATIVE_ERROR.get(str(dtype), 1e-4)


def logits_of(output: Any) -> torch.Tensor | None:
    """[T, V] logits of the only prompt, or None for a model without an output head."""
    logits = getattr(output, "logits", None)
    return None if logits is None else logits[0]
