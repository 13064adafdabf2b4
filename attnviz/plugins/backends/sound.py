"""What Whisper hears: log-mel features of a stretch of sound, and the tokens that stand for pieces of it.

Radford et al. 2023, "Robust Speech Recognition via Large-Scale Weak Supervision": a frame of features every 10 ms, of
which two make one token of the encoder. A model hears a stretch of one length only, 30 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import Floats, ShapeError, Tokens

if TYPE_CHECKING:
    import torch

_FRAMES = 2  # that make a token: the stride of the second convolution
_SECONDS = 0.02  # of a token


@dataclass(frozen=True)
class Sound:
    """What one model hears: `mels` features a frame, `tokens` tokens of its encoder."""

    mels: int
    tokens: int

    @classmethod
    def of(cls, module: torch.nn.Module) -> Sound | None:
        """None for a model that does not hear."""
        config: Any = module.config
        if config.model_type != "whisper" or module.main_input_name != "input_features":
            return None
        return cls(int(config.num_mel_bins), int(config.max_source_positions))

    @property
    def axes(self) -> str:
        """What is expected, in words."""
        seconds = self.tokens * _SECONDS
        return f"[mel, frame] = [{self.mels}, {self.tokens * _FRAMES}], the log-mel features of {seconds:g} s of sound"

    def source(self, values: Floats) -> Tokens:
        """The tokens that the encoder makes of an array; each is labelled with the second it begins at.

        Raises:
            ShapeError: another shape than the model's.
        """
        if values.shape != (self.mels, self.tokens * _FRAMES):
            raise ShapeError("Sound", self.axes, list(values.shape))
        labels = tuple(f"{index * _SECONDS:.2f} s" for index in range(self.tokens))
        ids, offsets = np.full(self.tokens, -1, np.int64), np.full((self.tokens, 2), -1, np.int64)
        return Tokens(ids, labels, offsets, np.zeros(self.tokens, np.bool_), "", (), values)

    def example(self) -> Floats:
        """Numbers that it can take, to look at it with."""
        noise: Floats = np.random.default_rng(0).normal(size=(self.mels, self.tokens * _FRAMES)).astype(np.float32)
        return noise
