"""Models too large for one device: parts on the GPUs, in the machine's memory and on disk, by accelerate.

Its hooks bring the weights of a module to where it runs right before it runs, and take them away again right after. So
the weights that a module has between two passes may be placeholders (on torch's device "meta"), and two passes of one
model at the same time would take each other's weights away.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from attnviz.hooks import LensTable, LiveRow, Sampling, Tokens, Trace, Want
from attnviz.plugins.backends.hf_model import HuggingFaceModel
from attnviz.plugins.backends.placement import is_spread


def one_at_a_time(model: HuggingFaceModel) -> HuggingFaceModel:
    """The model itself; one that is spread, so that its runs wait for one another."""
    if not is_spread(model.loaded.module):
        return model
    return SpreadModel(**{field.name: getattr(model, field.name) for field in dataclasses.fields(HuggingFaceModel)})


@dataclass(frozen=True)
class SpreadModel(HuggingFaceModel):
    """As HuggingFaceModel, one run at a time. A listener of a generation may start a run: no pass is under way then."""

    turn: Any = field(default_factory=threading.RLock, kw_only=True, repr=False, compare=False)

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        with self.turn:
            return super().trace(tokens, want)

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        with self.turn:
            return super().lens(tokens, positions=positions, top_k=top_k, targets=targets, sites=sites)

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        with self.turn:
            return super().generate(tokens, sampling, on_token, cancelled, on_row)
