"""From one vector per token to one number: five ways, five different numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attnviz.hooks import Param

if TYPE_CHECKING:
    import torch

AGGREGATIONS: Mapping[str, str] = {
    "sum": "sum over the hidden axis, sign kept",
    "mean": "mean over the hidden axis, sign kept",
    "l2": "Euclidean length over the hidden axis, no sign",
    "abs_sum": "sum of absolute values over the hidden axis, no sign",
    "max_abs": "largest absolute value over the hidden axis, no sign",
}
SIGNED = ("sum", "mean")


def aggregate(vectors: torch.Tensor, how: str) -> torch.Tensor:
    """[..., d] -> [...], in float32 at least."""
    import torch

    exact = vectors if vectors.dtype == torch.float64 else vectors.float()
    if how == "sum":
        return exact.sum(-1)
    if how == "mean":
        return exact.mean(-1)
    if how == "l2":
        return exact.norm(dim=-1)
    return exact.abs().sum(-1) if how == "abs_sum" else exact.abs().amax(-1)


def aggregation(default: str) -> Param:
    """The parameter, with the method's own default."""
    return Param(
        "aggregation",
        "choice",
        default=default,
        choices=tuple(AGGREGATIONS),
        help="How the vector of a token becomes one number: sum and mean keep the sign, the others have none.",
    )
