"""Logit lens: what every site of the residual stream would predict, exact over the whole vocabulary.

nostalgebraist (2020): lens(x) = unembed(final_norm(h)). A few positions with all their sites are worked on at a time,
so the model's own row is at hand for every divergence and [sites, positions, vocabulary] never exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import BadInput, Floats, Ints, LensTable, SelfCheck, ShapeError, Tokens, UnknownName
from attnviz.plugins.backends.forward import Runner
from attnviz.plugins.backends.readout import Readout, site_states

if TYPE_CHECKING:
    import torch

SELF_CHECK = 1e-3  # largest difference of a logit in float32; more in coarser types
_COARSE = {"torch.float16": 2e-2, "torch.bfloat16": 2e-1}
_SITES = ("blocks", "sublayers")
_ROWS = 128  # rows of the vocabulary held at once
_STAYS = 5  # "settles in top 5"


def lens_table(
    readout: Readout,
    module: torch.nn.Module,
    tokens: Tokens,
    *,
    positions: Sequence[int],
    top_k: int,
    targets: Sequence[int],
    sites: str,
    label: Callable[[int], str],
    causal: bool = True,
    runner: Runner | None = None,
) -> LensTable:
    """See LensTable and Model.lens. Of a model that is not causal, position p predicts token p itself.
    `runner` runs the forward pass; None = the module itself.

    Raises:
        BadInput: positions, top_k, targets or sites that do not fit the run.
        Unavailable: this model has no state after attention.
    """
    import torch

    check_request(tokens, positions, top_k, targets, sites)
    sublayers = sites == "sublayers"
    names, states, logits = site_states(readout, module, tokens, positions, sublayers=sublayers, runner=runner)
    vocabulary = logits.shape[1]
    check_vocabulary(top_k, targets, vocabulary)
    columns = Columns(len(names), len(positions), kept_tokens(top_k, vocabulary))
    wanted = torch.tensor(list(targets), dtype=torch.long, device=logits.device)
    step = positions_at_once(len(names))
    with torch.inference_mode():
        for start in range(0, len(positions), step):
            chunk = slice(start, min(start + step, len(positions)))
            part = states[:, chunk]  # [N, p, d]
            raw = readout.logits(part.reshape(-1, part.shape[-1])).view(*part.shape[:2], vocabulary)
            columns.fill(chunk, lens_numbers(raw, logits[chunk], wanted[chunk], columns.kept))
    dtype = str(next(module.parameters()).dtype)
    table = columns.table((*names[:-1], "model"), positions, top_k, targets, label, dtype)
    return table if causal else replace(table, info=(*table.info, "position p shows the guess for token p itself"))


def check_request(tokens: Tokens, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str) -> None:
    """Raises BadInput: positions, top_k, targets or sites that do not fit the run."""
    if sites not in _SITES:
        raise UnknownName("sites", sites, _SITES)
    if not positions:
        raise BadInput("Logit lens: expected at least one position, got none.")
    for position in positions:
        if not 0 <= position < len(tokens):
            raise BadInput(f"Logit lens: position {position} is outside this run, which has 0 to {len(tokens) - 1}.")
        if position < (tokens.decoder_from or 0):
            raise BadInput(
                f"Logit lens: position {position} is a token that the encoder reads, and only the decoder predicts: "
                f"expected {tokens.decoder_from} to {len(tokens) - 1}."
            )
    if len(targets) != len(positions):
        raise ShapeError("Logit lens targets", [len(positions)], [len(targets)])
    if top_k < 1:
        raise BadInput(f"Logit lens: top_k must be at least 1, got {top_k}.")


def check_vocabulary(top_k: int, targets: Sequence[int], vocabulary: int) -> None:
    """Raises BadInput: more tokens than there are, or targets that are none."""
    if top_k > vocabulary:
        raise BadInput(f"Logit lens: top_k {top_k} is more than the {vocabulary} tokens of the vocabulary.")
    for target in targets:
        if not -1 <= target < vocabulary:
            raise BadInput(
                f"Logit lens: target id {target} is not in the vocabulary (0 to {vocabulary - 1}, -1 = none)."
            )


def kept_tokens(top_k: int, vocabulary: int) -> int:
    """Tokens kept of a cell, so that it can be said where the answer settles."""
    return min(max(top_k, _STAYS), vocabulary)


def positions_at_once(sites: int) -> int:
    """Positions worked on at a time."""
    return max(1, _ROWS // sites)


class Columns:
    """The arrays of a LensTable while they fill up. The last site is the model itself."""

    def __init__(self, sites: int, positions: int, kept: int) -> None:
        self.kept = kept
        self.ids = np.empty((sites, positions, kept), np.int64)
        self.logprobs = np.empty((sites, positions, kept), np.float32)
        names = ("entropy", "kl_model_lens", "kl_lens_model", "jensen_shannon", "total_variation", "target_logprob")
        self.floats: dict[str, Floats] = {name: np.zeros((sites, positions), np.float32) for name in names}
        self.ranks = np.empty((sites, positions), np.int64)
        self.max_abs_diff = 0.0
        self.kl = 0.0

    def fill(self, chunk: slice, numbers: Mapping[str, Any]) -> None:
        """What `lens_numbers` gave for the positions `chunk`; arrays or tensors."""
        self.max_abs_diff = max(self.max_abs_diff, float(numbers["max_abs_diff"]))
        self.kl = max(self.kl, float(numbers["kl"]))
        self.ids[:, chunk] = numbers["ids"].cpu().numpy()
        self.logprobs[:, chunk] = numbers["logprobs"].cpu().numpy()
        self.ranks[:, chunk] = numbers["ranks"].cpu().numpy()
        for name, values in self.floats.items():
            values[:, chunk] = numbers[name].cpu().numpy()

    def table(
        self,
        names: tuple[str, ...],
        positions: Sequence[int],
        top_k: int,
        targets: Sequence[int],
        label: Callable[[int], str],
        dtype: str,
    ) -> LensTable:
        top = self.ids[-1, :, 0]  # [P] what the model predicts
        ids = self.ids[:, :, :top_k]
        limit = _COARSE.get(dtype, SELF_CHECK)
        check = SelfCheck(ok=self.max_abs_diff <= limit, max_abs_diff=self.max_abs_diff, kl=self.kl)
        named = {int(i) for i in ids.ravel()} | {int(t) for t in targets if t >= 0}
        warnings = () if check.ok else (f"The lens misses the model's own logits by {self.max_abs_diff:.2g}.",)
        return LensTable(
            sites=names,
            positions=np.asarray(positions, np.int64),
            top_ids=ids,
            top_logprobs=self.logprobs[:, :, :top_k],
            target_ids=np.asarray(targets, np.int64),
            target_rank=self.ranks,
            settles_at=_settles(self.ids[:, :, 0] == top),
            settles_in_top5=_settles((self.ids[:, :, :_STAYS] == top[:, None]).any(-1)),
            self_check=check,
            labels={i: label(i) for i in sorted(named)},
            info=(),  # the analysis says what is to be said
            warnings=warnings,
            **self.floats,
        )


def lens_numbers(raw: torch.Tensor, model: torch.Tensor, targets: torch.Tensor, kept: int) -> dict[str, Any]:
    """All that is kept of a few positions with all their sites. Also runs on NDIF: see remote_code.py.

    raw [N, p, V] logits of the lens, whose last site becomes model [p, V] once it is compared; targets [p], -1 = none.
    ids, logprobs [N, p, kept]; ranks and the names of LensTable [N, p]; max_abs_diff and kl of the last site.
    """
    import torch

    nats = math.log(2)
    reference = torch.log_softmax(model, dim=-1)  # [p, V]
    own = reference.exp()
    apart = (raw[-1] - model).abs().max()
    last = torch.log_softmax(raw[-1], dim=-1)
    kl = (own * (reference - last)).sum(-1).clamp_min(0).max() / nats
    raw[-1] = model
    ranks = _ranks(raw, targets)
    sites = []
    for site, logits in enumerate(raw):
        logprobs = torch.log_softmax(logits, dim=-1)
        top = logprobs.topk(kept, dim=-1)
        nothing = torch.zeros_like(top.values[:, 0])
        values = {
            "ids": top.indices,
            "logprobs": top.values,
            "entropy": -(logprobs.exp() * logprobs).sum(-1) / nats,
            "target_logprob": _at(logprobs, targets),
        }
        if site < len(raw) - 1:
            values |= _divergences(own, reference, logprobs)
        else:  # the model's divergence from itself is exactly 0
            values |= dict.fromkeys(("kl_model_lens", "kl_lens_model", "jensen_shannon", "total_variation"), nothing)
        sites.append(values)
    stacked = {name: torch.stack([values[name] for values in sites]) for name in sites[0]}
    return {**stacked, "ranks": ranks, "max_abs_diff": float(apart), "kl": float(kl)}


def _ranks(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N, p] exact rank of each target: how many tokens have a higher logit; -1 without a target."""
    import torch

    held = torch.gather(logits, 2, targets.clamp_min(0)[None, :, None].expand(len(logits), -1, 1))
    above = (logits > held).sum(-1)
    return torch.where(targets[None] < 0, -1, above)


def _divergences(own: torch.Tensor, reference: torch.Tensor, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    """[p] each, of the model's distribution `own` = exp(reference) [p, V] and the lens's exp(logprobs), in bits.

    Jensen-Shannon: ½ KL(p‖m) + ½ KL(q‖m) with m = (p + q) / 2 (Lin 1991). Total variation: ½ Σ|p − q|, 0..1.
    """
    import torch

    nats = math.log(2)
    other, apart = logprobs.exp(), reference - logprobs
    middle = torch.logaddexp(logprobs, reference).sub_(nats)
    shannon = (own * (reference - middle)).sum(-1) + (other * (logprobs - middle)).sum(-1)
    return {
        "kl_model_lens": (own * apart).sum(-1).clamp_min(0) / nats,
        "kl_lens_model": -(other * apart).sum(-1).clamp_max(0) / nats,
        "jensen_shannon": shannon.clamp_min(0) / 2 / nats,
        "total_variation": (own - other).abs().sum(-1) / 2,
    }


def _at(logprobs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[p] log-probability of each target, NaN without one."""
    found = logprobs.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    return found.masked_fill(targets < 0, float("nan"))


def _settles(agrees: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Ints:
    """[P] first site from which `agrees` [N, P] holds to the end."""
    steady = np.logical_and.accumulate(agrees[::-1], axis=0)[::-1]
    return np.asarray(np.argmax(steady, axis=0), np.int64)
