"""PyTorch's own attention functions as one AttentionCall each, and what nn.MultiheadAttention gives back for it.

Vaswani et al. 2017, section 3.2: head h attends with softmax(q·k/√D), q = x W_Q,h and so on, and the heads side by side
go through the output projection. What is added to that (masks, added keys, separate widths of keys and values) is as in
torch.nn.functional.multi_head_attention_forward.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from attnviz.hooks import BadInput, ModelError
from attnviz.plugins.backends.attention_function import AttentionCall

if TYPE_CHECKING:
    import torch

_PLAIN = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


# --------------------------------------------------------------------------------------------- scaled_dot_product


def plain_call(module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AttentionCall:
    """The call that torch.nn.functional.scaled_dot_product_attention was given.

    Raises:
        ModelError: more axes than batch, head, token and width.
    """
    given = {**dict(zip(_PLAIN, args, strict=False)), **kwargs}
    query, key, value = (_four_axes(given[name]) for name in ("query", "key", "value"))
    mask, scale = given.get("attn_mask"), given.get("scale")
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)]
        mask = mask.expand(query.shape[0], mask.shape[1], query.shape[2], key.shape[2])
    return AttentionCall(
        module=module,
        query=query,
        key=key,
        value=value,
        mask=mask,
        causal=bool(given.get("is_causal")),
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        bias=None,
        softcap=None,
        sinks=None,
        window=None,
    )


def _four_axes(tensor: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D]; the first of three axes counts as heads, two axes are one head."""
    if tensor.ndim > 4:
        raise ModelError(f"Attention over {tensor.ndim} axes: expected batch, head, token and width.")
    return tensor[(None,) * (4 - tensor.ndim)]


# --------------------------------------------------------------------------------------------- multi_head_attention


@lru_cache(maxsize=1)
def _signature() -> inspect.Signature:
    from torch.nn.functional import multi_head_attention_forward

    return inspect.signature(multi_head_attention_forward)


def named_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of multi_head_attention_forward by name, defaults included."""
    bound = _signature().bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def multi_head_call(module: torch.nn.Module, given: Mapping[str, Any]) -> AttentionCall:
    """The call inside multi_head_attention_forward: projected, with added keys, masks in one.

    Raises:
        BadInput: a query that may see no key, of which the module makes NaN.
    """
    inputs = [given[name] if given[name].ndim == 3 else given[name][:, None] for name in ("query", "key", "value")]
    projected = [
        _linear(x, weight, bias) for x, weight, bias in zip(inputs, _weights(given), _biases(given), strict=True)
    ]
    query, key, value = (_heads(x, given["num_heads"]) for x in projected)  # [B, H, T, D]
    if given["static_k"] is not None:
        key = given["static_k"].unflatten(0, (query.shape[0], -1))
    if given["static_v"] is not None:
        value = given["static_v"].unflatten(0, (query.shape[0], -1))
    added = 0
    if given["bias_k"] is not None:
        key, value = (_append(x, _heads(given[b], given["num_heads"])) for x, b in ((key, "bias_k"), (value, "bias_v")))
        added += 1
    if given["add_zero_attn"]:
        key, value = (_append(x, x.new_zeros(1, x.shape[1], 1, x.shape[3])) for x in (key, value))
        added += 1
    hinted = given["is_causal"] and given["key_padding_mask"] is None and not given["need_weights"]
    mask = None if hinted else _mask(given, query.shape[0], added)
    if mask is not None and given["need_weights"]:
        _refuse_blind_rows(mask)
    return AttentionCall(
        module=module,
        query=query,
        key=key,
        value=value,
        mask=mask,
        causal=hinted,
        scale=query.shape[-1] ** -0.5,
        bias=None,
        softcap=None,
        sinks=None,
        window=None,
    )


def multi_head_answer(
    given: Mapping[str, Any], call: AttentionCall, heads: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What multi_head_attention_forward returns for `heads` [B, H, Q, D], what the heads put out.

    Its maps are written out only for a module that asks for them (need_weights).
    """
    joined = heads.permute(2, 0, 1, 3).flatten(2)  # [Q, B, H·D]
    output = _linear(joined, given["out_proj_weight"], given["out_proj_bias"])
    weights = _maps(call) if given["need_weights"] else None
    if weights is not None and given["average_attn_weights"]:
        weights = weights.mean(dim=1)
    if given["query"].ndim == 2:
        return output[:, 0], None if weights is None else weights[0]
    return output, weights


def _weights(given: Mapping[str, Any]) -> Sequence[torch.Tensor]:
    """Projections of queries, keys and values, each [E, width]."""
    if given["use_separate_proj_weight"]:
        return [given[f"{name}_proj_weight"] for name in "qkv"]
    packed: Sequence[torch.Tensor] = given["in_proj_weight"].chunk(3)
    return packed


def _biases(given: Mapping[str, Any]) -> Sequence[torch.Tensor | None]:
    packed = given["in_proj_bias"]
    return [None] * 3 if packed is None else packed.chunk(3)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    from torch.nn.functional import linear

    return linear(x, weight, bias)


def _heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """[T, B, H·D] -> [B, H, T, D]."""
    return x.unflatten(-1, (count, -1)).permute(1, 2, 0, 3)


def _append(x: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    """One more key or value [1, H, 1, D], the same for the whole batch."""
    import torch

    return torch.cat([x, more.expand(x.shape[0], -1, -1, -1)], dim=2)


def _mask(given: Mapping[str, Any], batch: int, added: int) -> torch.Tensor | None:
    """[B, 1 or H, Q, K] of both masks: bool (True = visible), or float where one of them is added to the scores.

    PyTorch's own bool masks say the opposite: True = left out. Every query sees the added keys.
    """
    from torch.nn.functional import pad

    masks = []
    if given["attn_mask"] is not None:
        mask = given["attn_mask"]
        masks.append(mask[None, None] if mask.ndim == 2 else mask.unflatten(0, (batch, -1)))
    if given["key_padding_mask"] is not None:
        mask = given["key_padding_mask"]
        masks.append((mask[None] if mask.ndim == 1 else mask)[:, None, None])
    if not masks:
        return None
    if any(mask.dtype.is_floating_point for mask in masks):
        combined = sum(_additive(mask, given["query"].dtype) for mask in masks)
    else:
        combined = ~masks[0] if len(masks) == 1 else ~(masks[0] | masks[1])
    wide = combined.expand(batch, -1, given["query"].shape[0], -1)
    return pad(wide, (0, added), value=0.0 if wide.dtype.is_floating_point else 1.0) if added else wide


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    import torch

    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, float("-inf"))


def _refuse_blind_rows(mask: torch.Tensor) -> None:
    shown = mask > float("-inf") if mask.dtype.is_floating_point else mask
    blind = (~shown.any(dim=-1)).nonzero()
    if len(blind):
        raise BadInput(
            f"Query {int(blind[0, -1])} may see no key, and nn.MultiheadAttention makes NaN of it: give every query a "
            "key that its mask does not hide."
        )


def _maps(call: AttentionCall) -> torch.Tensor:
    """[B, H, Q, K] weights written out."""
    import torch

    scores = (call.query * call.scale) @ call.key.mT
    if call.mask is not None and call.mask.dtype == torch.bool:
        scores = scores.masked_fill(~call.mask, float("-inf"))
    elif call.mask is not None:
        scores = scores + call.mask
    return torch.softmax(scores, dim=-1)
