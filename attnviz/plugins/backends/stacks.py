"""Encoder, decoder and the attention between them: which tokens of a run are rows and columns in each stack.

A model with encoder and decoder (Vaswani et al. 2017) reads one run as source tokens followed by target tokens. Its
layers come in this order: encoder 0, 1, …, decoder 0, 1, …, cross 0, 1, …; cross n is what decoder block n reads of the
encoder. A model of one stack calls it "": all tokens are rows and columns.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.hooks import Tokens

if TYPE_CHECKING:
    import torch

ENCODER, DECODER, CROSS = STACKS = ("encoder", "decoder", "cross")
Span = tuple[int, int]  # tokens start..stop-1


@dataclass(frozen=True)
class Lengths:
    """Tokens of a run, and of a model with encoder and decoder the first one that the decoder reads."""

    count: int
    decoder_from: int | None = None

    @classmethod
    def of(cls, tokens: Tokens) -> Lengths:
        return cls(len(tokens), tokens.decoder_from)

    def spans(self, stack: str) -> tuple[Span, Span]:
        """Queries and keys of a stack's layers."""
        if self.decoder_from is None or not stack:
            return (0, self.count), (0, self.count)
        source, target = (0, self.decoder_from), (self.decoder_from, self.count)
        return (source if stack == ENCODER else target), (target if stack == DECODER else source)

    def shape(self, stack: str) -> tuple[int, int]:
        """Q, K."""
        queries, keys = self.spans(stack)
        return queries[1] - queries[0], keys[1] - keys[0]

    def stack_of(self, shape: tuple[int, ...]) -> str | None:
        """The stack whose maps are [Q, K] of this shape; None if there is none. Source and target must differ."""
        if self.decoder_from is None:
            return "" if shape == self.shape("") else None
        return next((stack for stack in STACKS if self.shape(stack) == shape), None)


def has_decoder(module: torch.nn.Module) -> bool:
    """Whether the module is a model with encoder and decoder."""
    both = bool(getattr(module.config, "is_encoder_decoder", False))
    return both and "decoder_input_ids" in inspect.signature(module.forward).parameters


def answering(module: torch.nn.Module) -> torch.nn.Module:
    """The part whose blocks make the answer: the decoder of a model with encoder and decoder, else the whole."""
    return module.get_decoder() if has_decoder(module) else module
