"""What a decoder is given before an answer: the ids a model with encoder and decoder starts its target with.

They are tokens of the run like any other, so what is forced is seen: the start token (T5 and Marian the padding token,
BART the end token), then what the model's own files put first, such as the language of mBART. Nothing else is forced
(no end token at the last position, no ids ruled out): an answer is what the decoder says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnviz.hooks import ModelError

if TYPE_CHECKING:
    import torch


def first_ids(module: torch.nn.Module) -> list[int]:
    """Ids that the target begins with.

    Raises:
        ModelError: the model's files name no start token.
    """
    start = _named(module, "decoder_start_token_id")
    start = _named(module, "bos_token_id") if start is None else start
    if start is None:
        raise ModelError(
            f"{type(module).__name__}: its files name no decoder_start_token_id, so its decoder cannot be started. Add "
            "it to generation_config.json."
        )
    forced = _named(module, "forced_bos_token_id")
    return [int(start)] if forced is None else [int(start), int(forced)]


def _named(module: torch.nn.Module, name: str) -> Any:
    """A setting of the files for generation, or else of the configuration."""
    found = getattr(getattr(module, "generation_config", None), name, None)
    return getattr(module.config, name, None) if found is None else found
