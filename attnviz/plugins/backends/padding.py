"""Whether a model reads a text behind padding as it reads the text alone.

Positions are given to families that take them, and most others find them from the mask. Some (BART and its kin) count
padding as positions; of those a text behind padding is another text, and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import BadInput, Tokens
from attnviz.plugins.backends.forward import Runner, few_tokens, logits_of, model_inputs, run_forward, tolerance

if TYPE_CHECKING:
    import torch

_BLANK = 3  # tokens of padding that a model is tried with


def is_ahead(tokens: Tokens) -> bool:
    """Whether a token of the text has padding before it in what the same part of the model reads."""
    if tokens.padding is None:
        return False
    parts = (slice(0, tokens.decoder_from), slice(tokens.decoder_from, None))
    stacks = [tokens.padding[part] for part in parts[: 1 if tokens.decoder_from is None else 2]]
    return any(bool((np.diff(stack.astype(int)) < 0).any()) for stack in stacks)


def refuse_if_counted(module: torch.nn.Module, runner: Runner, vocabulary: int, tokens: Tokens) -> None:
    """Tries a few tokens with and without padding before them.

    Raises:
        BadInput: the model counts padding as positions.
    """
    assert tokens.padding is not None
    few = few_tokens(module, vocabulary)
    ids = np.insert(few.ids, 0, [int(tokens.ids[tokens.padding][0])] * _BLANK)
    split = None if few.decoder_from is None else few.decoder_from + _BLANK
    row = Tokens(
        ids,
        ("",) * len(ids),
        np.full((len(ids), 2), -1),
        np.zeros(len(ids), bool),
        "",
        decoder_from=split,
        padding=np.arange(len(ids)) < _BLANK,
    )
    alone, behind = (_output(module, runner, given) for given in (few, row))
    apart = float((behind[-len(alone) :] - alone).abs().max())
    if np.isnan(apart):
        raise BadInput(
            f"{type(module).__name__} gives no number for a text behind padding in {str(alone.dtype)[6:]}: put the "
            "padding behind the text, give the text alone, or load the model in float32."
        )
    if not apart <= tolerance(alone.dtype) * max(1.0, float(alone.abs().max())):
        raise BadInput(
            f"{type(module).__name__} counts padding before a text as positions, so that it reads another text: put "
            "the padding behind the text, or give the text alone."
        )


def _output(module: torch.nn.Module, runner: Runner, tokens: Tokens) -> torch.Tensor:
    """[n, …] what the model says of the tokens of its last stack."""
    found = run_forward(runner, model_inputs(module, tokens))
    logits = logits_of(found)
    output: torch.Tensor = found[0][0] if logits is None else logits
    return output
