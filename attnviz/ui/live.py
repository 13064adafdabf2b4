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

        weights   of the newest token's row on each token, in units of 0.01 %, mean over `heads` heads of `layers`
                  layers; None before the first, and of a model without attention (`missing` says why)
        newest    index of the token that was chosen at the token before it
        without   layers that have no attention
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
            tenths = np.round(10_000 * mean).astype(int).tolist()
            value |= {"weights": tenths, "newest": row.position, "heads": heads, "layers": layers}
            value["without"] = len(self.card.layers) - layers
        return value


def mean_row(row: LiveRow) -> tuple[Floats, int, int]:
    """[K] mean over every head there is, how many they are, and the number of layers that have any."""
    there: Bools = np.isfinite(row.weights[..., 0])  # [L, H]
    return row.weights[there].mean(axis=0), int(there.sum()), int(there.any(axis=1).sum())
