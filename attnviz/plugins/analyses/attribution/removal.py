"""How sources are taken away from a run, and what is left of its predictions.

Replaced by a token that says nothing or by the mean embedding (everything else stays where it is), or dropped (what
follows moves up). Of a target whose predicting token is dropped, the last one before it that is left predicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import AnalysisRequest, BadInput, Bools, Tokens
from attnviz.plugins.analyses.attribution.baseline import BASELINE, baseline
from attnviz.plugins.analyses.attribution.engine import Engine, as_array

if TYPE_CHECKING:
    import torch

Numbers = NDArray[np.float64]

DROP = "drop"
DROPPED = "dropped, what follows moves up"
REMOVAL = replace(
    BASELINE,
    name="removal",
    choices=("auto", DROP, *BASELINE.choices[1:]),
    help="How a source is taken away: dropped, or replaced by a control token of the model or by the mean embedding of "
    f"the vocabulary. {BASELINE.help.rpartition('. ')[2]}",
)


def without(tokens: Tokens, kept: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Tokens:
    """Only the tokens at `kept`, without segments."""
    split = tokens.decoder_from
    return replace(
        tokens,
        ids=tokens.ids[kept],
        labels=tuple(tokens.labels[i] for i in kept),
        offsets=tokens.offsets[kept],
        special=tokens.special[kept],
        segments=(),
        decoder_from=None if split is None else int((kept < split).sum()),
    )


@dataclass(frozen=True)
class Removal:
    """Takes tokens away from the run of an engine. `start` [n, d] stands in for them; None: they are dropped."""

    engine: Engine
    start: torch.Tensor | None
    words: str

    def values(self, removed: Bools, places: Sequence[int]) -> Iterator[Numbers]:
        """[B, n] which tokens are taken away -> a batch at a time, [b, p] of the target tokens at `places`.

        Only as much of the run is read as the last of them needs.

        Raises:
            BadInput: nothing is left to predict one of them from.
            ModelError: out of memory.
        """
        if self.start is None:
            yield from (self._dropped(row, places)[None] for row in removed)
            return
        import torch

        engine, count = self.engine, self.engine.question.positions[places[-1]] + 1
        for first in range(0, len(removed), engine.batch):
            away = torch.tensor(removed[first : first + engine.batch, :count, None], device=self.start.device)
            runs = torch.where(away, self.start[:count], engine.embeddings[:count])
            yield as_array(engine.values(runs, places)).astype(np.float64)

    def _dropped(self, removed: Bools, places: Sequence[int]) -> Numbers:
        """[p]"""
        import torch

        engine, question = self.engine, self.engine.question
        kept = np.flatnonzero(~removed[: question.positions[places[-1]] + 1])
        left: Any = without(question.tokens, kept)
        positions = [int(np.searchsorted(kept, question.positions[place], side="right")) - 1 for place in places]
        if left.decoder_from == 0 or min(positions) < (left.decoder_from or 0):
            raise BadInput(
                "Parameter removal: with every source dropped nothing is left to predict a target from. Replace them "
                "instead of dropping them."
            )
        with torch.no_grad():
            states = engine.model.states(engine.embeddings[torch.as_tensor(kept)][None], left, positions)
            found: Numbers = as_array(engine.read(states, places))[0].astype(np.float64)
        return found


def removal(engine: Engine, request: AnalysisRequest) -> Removal:
    """What the parameter `removal` asks for.

    Raises:
        BadInput: the model has no such token.
    """
    name = request.params["removal"]
    if name == DROP:
        return Removal(engine, None, DROPPED)
    start, word = baseline(engine, request, name)
    return Removal(engine, start, f"replaced by {word}")
