"""An answer in the making, as the page shows it: its tokens so far, shaded by what the newest was chosen from."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnviz.hooks import Bools, Floats, LiveRow, ModelCard, Tokens
from attnviz.ui.describe import brackets

UPDATES = 10
"""Most updates of the page in a second."""
TOKENS_SENT = 20_000
"""Most tokens sent to the page in a second, over all updates."""


@dataclass
class GrowingAnswer:
    """Written by the thread that generates, read by the one that tells the page."""

    prompt: Tokens
    card: ModelCard
    label: Callable[[int], str]
    labels: list[str] = field(default_factory=list)
    row: LiveRow | None = None
    key: str = field(default_factory=lambda: secrets.token_hex(8))

    def add(self, token_id: int) -> None:
        """The next token."""
        self.labels.append(self.label(token_id))

    def hear(self, row: LiveRow) -> None:
        """What it was chosen from."""
        self.row = row

    @property
    def pause(self) -> float:
        """Seconds between two updates."""
        return max(1 / UPDATES, (len(self.prompt) + len(self.labels)) / TOKENS_SENT)

    def value(self) -> dict[str, Any]:
        """What the page draws.

        weights   of the newest token's row on each token, in units of 0.01 %, mean over those of `heads` heads of
                  `layers` layers that see the token, None where no head does; None before the first row, and of a
                  model without attention (`missing` says why)
        newest    index of the token that was chosen at the token before it
        without   layers that have no row for it
        sinks     what learned sinks beside the tokens take, in the same units
        target    first token of the decoder, of a model with encoder and decoder: the rows over source and target sum
                  to 1 each; else None
        """
        row, start = self.row, len(self.prompt)
        stop = start + len(self.labels) if row is None else row.position + 1
        value: dict[str, Any] = {
            "key": self.key,
            "labels": [*self.prompt.labels, *self.labels[: stop - start]],
            "special": np.flatnonzero(self.prompt.special).tolist(),
            "segments": brackets(self.prompt.segments, start, stop),
            "weights": None,
            "missing": self.card.missing.get("attention", ""),
        }
        if row is not None:
            mean, heads, layers = mean_row(row)
            value["weights"] = [round(10_000 * weight) if np.isfinite(weight) else None for weight in mean.tolist()]
            value |= {"newest": row.position, "heads": heads, "layers": layers, "target": self.prompt.decoder_from}
            value |= {"without": len(self.card.layers) - layers, "sinks": round(10_000 * self._beside(mean))}
        return value

    def _beside(self, mean: Floats) -> float:
        """What the rows leave to learned sinks."""
        parts = np.split(mean, [self.prompt.decoder_from or 0])
        return float(sum(1 - part.sum() for part in parts if np.isfinite(part).any()))


def mean_row(row: LiveRow) -> tuple[Floats, int, int]:
    """[K] mean over the heads that see each token (NaN: none does), how many heads have a row, in how many layers."""
    seen: Bools = np.isfinite(row.weights)  # [L, H, K]
    count = seen.sum(axis=(0, 1))
    mean = np.where(seen, row.weights, 0).sum(axis=(0, 1)) / np.where(count, count, np.nan)
    there = np.any(seen, axis=-1)
    return mean, int(np.sum(there)), int(np.sum(np.any(there, axis=1)))
