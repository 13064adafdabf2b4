"""The number that is explained: a function of the logits of the position before the target token.

logit             z[target]
log_probability   log p[target], in nats
probability       p[target]
contrast          z[target] − z[alternative]: why this token rather than that one (Yin & Neubig 2022)
entropy           −Σ p log2 p of the prediction, in bits: what made the model sure or unsure
kl                −KL(p of the run ‖ p), in bits: 0 for the run itself, below 0 for whatever predicts otherwise
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNITS: Mapping[str, str] = {
    "log_probability": "nats",
    "logit": "logits",
    "probability": "probability",
    "contrast": "logits",
    "kl": "bits",
    "entropy": "bits",
}
"""Name -> unit of every target function; the first is the default."""


@dataclass(frozen=True)
class TargetFunction:
    """One of UNITS. `alternative`: id that a contrast is made with."""

    name: str
    alternative: int | None = None

    @property
    def unit(self) -> str:
        return UNITS.get(self.name, "")

    def __call__(self, logits: torch.Tensor, ids: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        """[..., P, V] logits -> [..., P]. ids [P] targets; reference [P, V] log-probabilities of the run, for kl."""
        import torch

        at_target = logits.gather(-1, ids.expand(logits.shape[:-1])[..., None])[..., 0]
        if self.name == "logit":
            return at_target
        if self.name == "contrast":
            return at_target - logits[..., self.alternative]
        if self.name in ("log_probability", "probability"):
            logprob = at_target - logits.logsumexp(-1)
            return logprob if self.name == "log_probability" else logprob.exp()
        logprobs = torch.log_softmax(logits, dim=-1)
        if self.name == "entropy":
            return -(logprobs.exp() * logprobs).sum(-1) / math.log(2)
        assert reference is not None
        return (reference.exp() * (logprobs - reference)).sum(-1) / math.log(2)


NOTHING = TargetFunction("none")
"""Of a method that reads something off the model and explains no number of it."""
