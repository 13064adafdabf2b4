"""What runs on NDIF. These functions are sent there by their source, and attnviz is not installed there.

So they are plain functions over tensors and plain values, and call nothing but one another, torch, transformers and
the functions of `TRAVELLING`: no class, no decorator, no annotation inside of a function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attnviz.plugins.backends.generation import choose
from attnviz.plugins.backends.lens import lens_numbers
from attnviz.plugins.backends.readout import read_logits

if TYPE_CHECKING:
    import torch

TRAVELLING = (
    "attnviz.plugins.backends.remote_code",
    "attnviz.plugins.backends.generation",
    "attnviz.plugins.backends.lens",
    "attnviz.plugins.backends.readout",
)
"""Modules whose functions are sent by their source."""
_ROWS = 128


def forward(model: Any, inputs: Mapping[str, Any], **assembled: Any) -> Any:
    """One pass over exactly the ids that were sent, without gradients; nnsight adds positions of its own.

    inputs   further arguments; lists become tensors
    """
    import torch

    ids = assembled["input_ids"]
    given = {name: torch.tensor(v, device=ids.device) if isinstance(v, list) else v for name, v in inputs.items()}
    if "attention_mask" in given:
        given["attention_mask"] = torch.ones_like(ids)
    with torch.no_grad():
        return model._module(input_ids=ids, **given)


def answer(model: Any, settings: Mapping[str, Any], sampling: Mapping[str, Any], **assembled: Any) -> list[int]:
    """New ids after the ids that were sent, chosen as on this machine: draws come from a generator of the CPU."""
    import torch
    from transformers import GenerationConfig

    ids = assembled["input_ids"]
    generator = torch.Generator()
    if sampling["seed"] is None:
        generator.seed()
    else:
        generator.manual_seed(sampling["seed"])

    def pick(input_ids, scores):  # type: ignore[no-untyped-def]  # sent as source, where annotations would be run
        return choose(
            input_ids, scores, sampling["temperature"], sampling["top_p"], sampling["repetition_penalty"], generator
        )

    with torch.no_grad():
        output = model._module.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=GenerationConfig(**settings),
            logits_processor=[pick],
        )
    return [int(i) for i in output[0, ids.shape[1] :]]


# --------------------------------------------------------------------------------------------- attention


def layer_numbers(
    module: Any,
    weights: torch.Tensor,
    given: Any,
    masks: list[torch.Tensor],
    wanted: Mapping[str, Any],
    window: int | None,
) -> dict[str, Any]:
    """What is kept of one layer, on the host: fields of LayerCapture, and `visible` as a place in `masks` or None.

    module  the attention module; weights [1, H, Q, K] the map it returned; given (args, kwargs) it was called with
    masks   the masks of this run that are more than causal; grows
    wanted  thumbnail, top_k, maps (whether the map itself is kept)
    window  of a layer that hides farther keys
    """
    import torch

    pattern = weights[0].detach()  # [H, Q, K]
    visible, causal = visibility(pattern, find_mask(given, pattern.shape[-1]), window)
    found = {**map_numbers(pattern, wanted["thumbnail"], wanted["top_k"]), "causal": causal, "visible": None}
    found["dtype"] = str(weights.dtype).removeprefix("torch.")
    past = torch.ones_like(visible).tril() if causal else torch.ones_like(visible)
    if not bool((visible == past).all()):
        shown = visible.cpu()
        known = [place for place, mask in enumerate(masks) if bool((mask == shown).all())]
        if not known:
            masks.append(shown)
        found["visible"] = known[0] if known else len(masks) - 1
    sinks = getattr(module, "sinks", None)  # learned, beside the keys (gpt-oss)
    if sinks is not None and sinks.numel() == pattern.shape[0]:
        found["sinks"] = sinks.detach().float().flatten().cpu()
    if wanted["maps"]:
        found["weights"] = pattern.float().cpu()
    return found


def find_mask(given: Any, keys: int) -> Any:
    """The mask the attention module was given, [1, 1 or H, Q, K] bool or additive; None where there is none."""
    args, named = given
    for value in (named.get("attention_mask"), *args):
        if hasattr(value, "ndim") and value.ndim == 4 and value.shape[-1] == keys and value.shape[-2] == keys:
            return value
    return None


def visibility(pattern: torch.Tensor, mask: Any, window: int | None) -> tuple[torch.Tensor, bool]:
    """[Q, K] which keys a query may see, and whether these are all earlier ones or itself.

    Read off the mask, because in half precision a small weight is 0 as well; some families (GPT-Neo) hide the keys
    beyond a window without one. Without a mask a key counts as visible where any head gives it weight.
    """
    import torch

    queries, keys = pattern.shape[1:]
    weighted = torch.stack([(pattern[:, row] > 0).any(dim=0) for row in range(queries)])
    if mask is None:
        shown = weighted
    else:
        shown = mask[0] if mask.dtype == torch.bool else mask[0] > torch.finfo(mask.dtype).min / 2
        shown = shown.any(dim=0).to(pattern.device)
        if window is not None:
            near = torch.arange(queries)[:, None] - torch.arange(keys)[None] < window
            shown = shown & near.to(pattern.device)
        shown = shown | weighted
    return shown, not bool(shown.triu(1).any())


def map_numbers(pattern: torch.Tensor, edge: int, top_k: int) -> dict[str, Any]:
    """Statistics of a map [H, Q, K], a block of queries at a time; see RowStatistics."""
    import torch

    heads, queries, keys = pattern.shape
    cell = max(1, -(-max(queries, keys) // edge))
    step = max(cell, _ROWS // cell * cell)
    kept = min(top_k, keys)
    columns = torch.zeros(heads, keys, dtype=torch.float32, device=pattern.device)
    places = torch.arange(max(queries, keys), dtype=torch.float32, device=pattern.device)
    parts = []
    for start in range(0, queries, step):
        block = pattern[:, start : start + step].float()  # [H, q, K]
        apart = (places[start : start + block.shape[1], None] - places[:keys]).abs()  # [q, K]
        largest = torch.nn.functional.max_pool2d(block, cell, ceil_mode=True)
        top = block.topk(kept, dim=-1)
        columns += block.sum(dim=1)
        parts.append(
            {
                "entropy": torch.special.entr(block).sum(dim=-1) / math.log(2),
                "row_max": block.amax(dim=-1),
                "distance": (block * apart).sum(dim=-1),
                "thumbnail": (largest.sqrt() * 255).round().clamp(0, 255).to(torch.uint8),
                "top_weights": top.values,
                "top_keys": top.indices.masked_fill(top.values == 0, -1).to(torch.int32),
            }
        )
    found = {name: torch.cat([part[name] for part in parts], dim=1).cpu() for name in parts[0]}
    found["entropy"] = found["entropy"].clamp_min(0)  # a one-key row gives -0 or a rounding error
    if not top_k:
        found["top_weights"] = found["top_keys"] = None
    return {**found, "column_sum": columns.cpu()}


# --------------------------------------------------------------------------------------------- logit lens


def rows_of(value: Any, positions: Sequence[int]) -> torch.Tensor:
    """[P, d] states at the positions, of what a module was given or returned."""
    import torch

    tensor = value[0] if isinstance(value, (tuple, list)) else value
    at = torch.tensor(positions, device=tensor.device)
    return tensor[0, at] if tensor.ndim == 3 else tensor[at]


def lens_of(
    states: Sequence[torch.Tensor],
    logits: torch.Tensor,
    chain: Sequence[Any],
    wanted: Mapping[str, Any],
) -> dict[str, Any]:
    """`lens_numbers` of all positions, on the host.

    states  [P, d] of each site;  logits [P or T, V] the model's own;  chain the modules that read a state
    wanted  positions, targets [P], kept, step (positions at once), scale, softcap
    """
    import torch

    positions = wanted["positions"]
    if logits.shape[0] != len(positions):
        logits = logits[torch.tensor(positions, device=logits.device)]
    dtype = str(logits.dtype).removeprefix("torch.")
    logits = logits.float()
    stream = torch.stack([state.to(logits.device) for state in states])  # [N, P, d]
    targets = torch.tensor(wanted["targets"], device=logits.device)
    parts = []
    with torch.no_grad():
        for start in range(0, len(positions), wanted["step"]):
            chunk = slice(start, start + wanted["step"])
            part = stream[:, chunk]
            raw = read_logits(part.flatten(0, 1), chain, wanted["scale"], wanted["softcap"])
            raw = raw.to(logits.device).view(*part.shape[:2], -1)
            parts.append(lens_numbers(raw, logits[chunk], targets[chunk], wanted["kept"]))
    tensors = [name for name in parts[0] if hasattr(parts[0][name], "ndim")]
    found = {name: torch.cat([part[name] for part in parts], dim=1).cpu() for name in tensors}
    apart, kl = (max(part[name] for part in parts) for name in ("max_abs_diff", "kl"))
    largest = float(logits.abs().max())
    return {**found, "max_abs_diff": apart, "kl": kl, "largest": largest, "dtype": dtype}
