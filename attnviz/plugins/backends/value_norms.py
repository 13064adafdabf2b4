"""How much of a key's value a head passes on: ‖v_k · W_O,h‖, for value-weighted attention.

Kobayashi et al. 2020, "Attention is Not Only a Weight": the output of attention is Σ_h Σ_k A[h, q, k] · (v_k W_O,h)
plus a bias, W_O,h being the rows of the output projection that belong to head h.

The projection is not found by name: it is the matrix whose input is what the heads put out, side by side, and it is
accepted only if input times matrix plus bias is what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.plugins.backends.forward import tolerance
from attnviz.plugins.backends.placement import tensor_of
from attnviz.plugins.backends.residual import Passage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Projection:
    """The output projection of one layer.

    transposed   its weight is [d_out, d_in] (Linear), else [d_in, d_out]
    copies       sequences that go through it side by side, each with heads of its own
    """

    module: torch.nn.Module
    transposed: bool
    copies: int = 1

    def matrix(self) -> torch.Tensor:
        """[H·D_v, d]."""
        weight = tensor_of(self.module, "weight").detach()
        matrix = weight.T if self.transposed else weight
        return matrix if self.copies == 1 else matrix.repeat(self.copies, 1)


def matrices(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Every part of `module` that may be a projection: one that holds a matrix and has no parts itself."""
    parts = (m for m in module.modules() if not any(True for _ in m.children()))
    return [m for m in parts if getattr(getattr(m, "weight", None), "ndim", 0) == 2]


def find_projection(passages: Sequence[Passage], output: torch.Tensor) -> Projection | str:
    """The projection that took `output` [H, Q, D_v], what the heads of a layer put out; or why there is none."""
    import torch

    joined = output.transpose(0, 1).flatten(1)  # [Q, H·D_v]
    for passage in passages:
        given, returned = passage.inside, passage.outside
        if given is None or returned is None or given.shape[-1] != joined.shape[1]:
            continue
        given = given.reshape(-1, given.shape[-1])
        if given.shape != joined.shape or not torch.equal(given, joined):
            continue
        for transposed in (True, False):
            found = Projection(passage.module, transposed)
            if _gives(found, given, returned.reshape(len(given), -1)):
                return found
        kind = type(passage.module).__name__
        return f"The output projection of this layer ({kind}) is not a plain matrix product: quantised, or adapted."
    return (
        "No projection of this layer takes what its heads put out as it is: there is a gate, a norm, or an expert in "
        "between, so no single vector belongs to a key."
    )


def _gives(projection: Projection, given: torch.Tensor, returned: torch.Tensor) -> bool:
    """Whether input · matrix + bias is what the module returned."""
    matrix = projection.matrix().to(given.device)
    if matrix.shape != (given.shape[1], returned.shape[1]) or not matrix.is_floating_point():
        return False
    expected = given.float() @ matrix.float()
    if getattr(projection.module, "bias", None) is not None:
        expected = expected + tensor_of(projection.module, "bias").detach().to(given.device).float()
    apart = float((expected - returned.float()).detach().abs().max())
    return apart <= tolerance(returned.dtype) * max(1.0, float(returned.abs().max()))


def value_norms(value: torch.Tensor, projection: Projection, heads: int) -> torch.Tensor:
    """[H, K] float32 ‖v_k · W_O,h‖ from value [H_kv, K, D_v].

    ‖v W‖² = v (W Wᵀ) vᵀ costs D_v numbers a key instead of d. In float64: in float32 the square of a vector that W
    nearly sends to zero would drown in rounding.
    """
    import torch

    exact = torch.float32 if value.device.type == "mps" else torch.float64  # MPS has no float64
    matrix = projection.matrix().to(value.device).unflatten(0, (heads, value.shape[2]))  # [H, D_v, d]
    repeat = heads // value.shape[0]
    norms = torch.empty(heads, value.shape[1], dtype=torch.float32, device=value.device)
    for head in range(heads):
        if head % repeat == 0:
            shared = value[head // repeat].to(exact)  # [K, D_v]
        own = matrix[head].to(exact)
        norms[head] = ((shared @ (own @ own.T)) * shared).sum(dim=1).clamp_min_(0).sqrt_()
    return norms
