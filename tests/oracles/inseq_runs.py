"""A run put through Inseq as it is: its very ids, no text in between."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Tokens


def log_probability(args: Any) -> Any:
    """[B] what Inseq explains, in place of its own probability."""
    logits = args.attribution_model.output2logits(args.forward_output)
    return logits.log_softmax(-1).gather(-1, args.target_ids.reshape(-1, 1)).squeeze(-1)


def attribute(module: Any, tokenizer: Any, method: str, tokens: Tokens, first: int, base: int, **options: Any) -> Any:
    """Inseq's sequence of scores of the targets from token `first` on; `base` is the id that it compares with."""
    from inseq.data import DecoderOnlyBatch, EncoderDecoderBatch
    from inseq.models.huggingface_model import HuggingfaceModel

    split = tokens.decoder_from
    model = HuggingfaceModel.load(module, method, tokenizer, device="cpu")
    if split is None:
        batch = DecoderOnlyBatch.from_batch(_batch(model, tokens.ids, base, as_targets=False))
    else:
        parts = (tokens.ids[:split], False), (tokens.ids[split:], True)
        batch = EncoderDecoderBatch(*(_batch(model, ids, base, as_targets=target) for ids, target in parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own affair
        found = model.attribution_method.attribute(
            batch,
            log_probability,
            attr_pos_start=first - (split or 0),
            show_progress=False,
            attribute_target=split is not None,
            attribution_args=options,
        )
    return found.sequence_attributions[0]


def _batch(model: Any, ids: Sequence[int], base: int, *, as_targets: bool) -> Any:
    import torch
    from inseq.data import Batch, BatchEmbedding, BatchEncoding

    given = torch.tensor(np.array(ids))[None]
    other = torch.full_like(given, base)
    names = [[str(i) for i in given[0].tolist()]]
    embeddings = (model.embed_ids(some, as_targets=as_targets) for some in (given, other))
    return Batch(BatchEncoding(given, torch.ones_like(given), names, other), BatchEmbedding(*embeddings))


def scores(sequence: Any, width: int, how: str) -> tuple[NDArray[np.float64], float]:
    """[R, width] of what Inseq returned, [source or target token, target, ...]; a token that comes too late is 0.

    And the largest sum of sizes that one of them is the sum of: its float32 round each part.
    """
    parts = [t for t in (sequence.source_attributions, sequence.target_attributions) if t is not None]
    flat = [part.double().reshape(*part.shape[:2], -1).nan_to_num() for part in parts]
    rows = [(part.sum(-1) if how == "sum" else part.mean(-1)).T.numpy() for part in flat]
    size = max(float(part.abs().sum(-1).max()) for part in flat)
    return np.concatenate(rows, axis=1)[:, :width], size if how == "sum" else size / flat[0].shape[-1]
