"""Our attention function in transformers' AttentionInterface: plain SDPA, until a collector is switched on.

A model is given this function once, when it is loaded. Collectors live in a ContextVar, so one request can capture
while others run the same module; a new thread starts without a collector unless it is run in a copied context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from attnviz.plugins.backends.forward import at_least_float32

if TYPE_CHECKING:
    import torch

NAME = "attnviz"
NAME_FLOAT_MASK = "attnviz_float_mask"  # for families that build additive masks only
_QUERY_BLOCK = 256


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention module.

    query [B, H, Q, D], key [B, H_kv, K, D], value [B, H_kv, K, D_v], after position encoding
    mask    [B, 1 or H, Q, K] bool (True = visible) or float (added to the scores), or None
    causal  no mask was given and key k is visible to query q only if k <= q
    bias    [1 or B, 1 or H, Q, K] float added to the scores, or None
    softcap scores = softcap · tanh(scores / softcap), or None
    sinks   [H] logits beside the keys, or None
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    scale: float
    bias: torch.Tensor | None
    softcap: float | None
    sinks: torch.Tensor | None
    window: int | None

    def without_unused_keys(self) -> AttentionCall:
        """Without the empty end of a static cache: a causal call of several queries starts at the first key."""
        count = self.query.shape[2]
        if not self.causal or self.key.shape[2] <= count:
            return self
        bias = None if self.bias is None else self.bias[..., :count]
        return replace(self, key=self.key[:, :, :count], value=self.value[:, :, :count], bias=bias)


class Collector(Protocol):
    """Sees every call. May return the attention output [B, H, Q, D_v]; None leaves that to the plain function."""

    def attend(self, call: AttentionCall) -> torch.Tensor | None: ...


_collector: ContextVar[Collector | None] = ContextVar("attnviz_collector", default=None)


@contextmanager
def collecting(collector: Collector) -> Iterator[None]:
    """Sends every attention call of this context to `collector`."""
    token = _collector.set(collector)
    try:
        yield
    finally:
        _collector.reset(token)


def register() -> None:
    """Makes the function known to transformers under its two names. Repeating it changes nothing."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask, sdpa_mask

    for name, mask in ((NAME, sdpa_mask), (NAME_FLOAT_MASK, eager_mask)):
        AttentionInterface.register(name, attention)
        AttentionMaskInterface.register(name, mask)  # without this the mask would silently be None


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function transformers calls. Returns ([B, Q, H, D_v], None)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    collector = _collector.get()
    plain = softcap is None and s_aux is None  # SDPA knows neither
    if collector is not None or not plain:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        call = AttentionCall(
            module=module,
            query=query,
            key=key,
            value=value,
            mask=attention_mask,
            causal=bool(causal and attention_mask is None and query.shape[2] > 1),
            scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
            bias=position_bias,
            softcap=softcap,
            sinks=s_aux,
            window=kwargs.get("sliding_window"),
        ).without_unused_keys()
        captured = None if collector is None else collector.attend(call)
        if captured is None and not plain:
            captured = explicit_attention(call)
        if captured is not None:
            return captured.transpose(1, 2).contiguous(), None
    kwargs.pop("output_attentions", None)
    output, _ = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        dropout=dropout,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=position_bias,
        **kwargs,
    )
    return output, None


def explicit_attention(call: AttentionCall) -> torch.Tensor:
    """Attention written out, for what SDPA lacks (soft-cap, sinks). Differentiable. Returns [B, H, Q, D_v].

    Soft-cap: Gemma 2 (2024), section 2. Sinks: a learned logit in the softmax's denominator (gpt-oss, 2025).
    """
    import torch

    call = replace(call, key=per_head(call.key, call), value=per_head(call.value, call))
    blocks = []
    for start in range(0, call.query.shape[2], _QUERY_BLOCK):
        rows = slice(start, min(start + _QUERY_BLOCK, call.query.shape[2]))
        blocks.append(attention_weights(call, rows).to(call.value.dtype) @ call.value)
    return torch.cat(blocks, dim=2)


def per_head(shared: torch.Tensor, call: AttentionCall) -> torch.Tensor:
    """[B, H_kv, K, D] -> [B, H, K, D]"""
    repeat = call.query.shape[1] // shared.shape[1]
    return shared if repeat == 1 else shared.repeat_interleave(repeat, dim=1)


def attention_weights(call: AttentionCall, rows: slice) -> torch.Tensor:
    """[B, H, q, K] of these queries, in float32 at least; a learned sink's share left out. Differentiable."""
    import torch

    scores = at_least_float32(call.query[:, :, rows] @ per_head(call.key, call).transpose(-1, -2)) * call.scale
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    if call.bias is not None:
        scores = scores + at_least_float32(call.bias[:, :, rows])
    lowest = torch.finfo(scores.dtype).min
    if call.causal:
        positions = torch.arange(scores.shape[-1], device=scores.device)
        scores = scores.masked_fill(positions[None, :] > positions[rows, None], lowest)
    if call.mask is not None and call.mask.dtype == torch.bool:
        scores = scores.masked_fill(~call.mask[:, :, rows], lowest)
    elif call.mask is not None:
        scores = scores + at_least_float32(call.mask[:, :, rows])
    if call.sinks is None:
        return torch.softmax(scores, dim=-1)
    sinks = at_least_float32(call.sinks).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]
