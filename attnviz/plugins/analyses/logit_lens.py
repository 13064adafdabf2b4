"""What each layer would answer if it were the last: the residual stream read through the model's own unembedding.

lens_l(x) = unembed(final_norm(h_l)) with the model's own final norm, unembedding, logit scale and soft-cap
(nostalgebraist 2020, "interpreting GPT: the logit lens"). Position p predicts token p + 1; the last row is the model's
own output. All numbers are exact over the whole vocabulary.

Misleads in early layers: the final norm and the unembedding were trained for the last layer only, so an early layer
that "says" something odd may just use another basis (Belrose et al. 2023, "Eliciting Latent Predictions").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    BadInput,
    LensTable,
    Model,
    Param,
    SelfCheck,
    Tokens,
    Unavailable,
    hookimpl,
)
from attnviz.plugins.analyses.one_token import one_token

POSITIONS = 64
"""Positions shown unless others are asked for: the lens of all positions of a long run costs several forward passes."""
NEXT = "next token"


def run(request: AnalysisRequest) -> LensTable:
    """The lens at the positions asked for.

    Raises:
        BadInput: positions outside the run, or a target that is not one token.
        Unavailable: the model does not predict the next token, or its unembedding could not be verified.
    """
    if not request.card.causal:
        raise Unavailable(
            f"{request.card.name} does not predict the next token (it sees the whole text at once), so its logit lens "
            "would say nothing about position p + 1. Choose a causal language model."
        )
    params, tokens = request.params, request.tokens
    start = tokens.decoder_from or 0
    positions = _positions(params["first"], params["last"], len(tokens), request.run.generated_from, start)
    targets = _targets(params["target"], request.model, tokens, positions)
    request.progress(0.0, f"logit lens of {len(positions)} positions")
    table = request.model.lens(
        tokens, positions=positions, top_k=params["top_k"], targets=targets, sites=params["sites"]
    )
    return dataclasses.replace(
        table,
        info=(*_info(request, table, positions, targets), *table.info),
        warnings=(*_warnings(table.self_check), *table.warnings),
    )


def _positions(first: int | None, last: int | None, count: int, generated_from: int | None, start: int = 0) -> range:
    """Positions to look at, from `start` on, where the decoder's begin. Nothing given: the answer with the position
    before it, else the end of the prompt.

    Raises:
        BadInput: outside the run, or the wrong way round.
    """
    for name, value in (("first", first), ("last", last)):
        if value is not None and not start <= value < count:
            source = " (what comes before is read by the encoder, and only the decoder predicts)" if start else ""
            raise BadInput(f"Parameter {name}: expected a position from {start} to {count - 1}{source}, got {value}.")
    if first is None and last is None and generated_from is not None and count - start > POSITIONS:
        first = min(max(generated_from - 1, start), count - 1)
    if first is None:
        stop = count - 1 if last is None else last
        first, last = max(start, stop - POSITIONS + 1), stop
    elif last is None:
        last = min(count - 1, first + POSITIONS - 1)
    assert last is not None
    if first > last:
        raise BadInput(f"Positions {first} to {last}: first is after last. Expected first ≤ last.")
    return range(first, last + 1)


def _targets(target: str, model: Model, tokens: Tokens, positions: Sequence[int]) -> list[int]:
    """[P] id whose probability and rank are followed, -1 where there is none."""
    if target in ("", NEXT):
        return [int(tokens.ids[p + 1]) if p + 1 < len(tokens) else -1 for p in positions]
    return [one_token(target, model, "target")] * len(positions)


# --------------------------------------------------------------------------------------------- words


def _info(request: AnalysisRequest, table: LensTable, positions: range, targets: Sequence[int]) -> tuple[str, ...]:
    count, start = len(request.tokens), request.tokens.decoder_from or 0
    shown = f"Positions {positions[0]} to {positions[-1]} of {start} to {count - 1}"
    cut = f"; up to {POSITIONS} are shown unless you set first and last" if len(positions) < count - start else ""
    blocks = request.params["sites"] == "blocks"
    depth = "after each block" if blocks else "after attention and after the MLP of each block"
    return (
        "Position p predicts token p + 1: the column of a token says what was expected to follow it.",
        f"{shown}{cut}.",
        f"Rows: the embedding, then {depth}; the last row is the model itself. Nothing is averaged.",
        "Exact over the whole vocabulary: probabilities, entropy in bits, divergences in bits, ranks from 0.",
        _followed(request, targets),
        f"Self-check, last row against the model's own logits: {_measured(table.self_check)}.",
    )


def _followed(request: AnalysisRequest, targets: Sequence[int]) -> str:
    if request.params["target"] in ("", NEXT):
        none = " The last token has no next one." if -1 in targets else ""
        return f"Target followed: the next token of the run.{none}"
    return f"Target followed: {request.model.label(targets[0])!r} (id {targets[0]}) at every position."


def _warnings(check: SelfCheck) -> tuple[str, ...]:
    bias = "Early layers are read through a norm and an unembedding trained for the last one: their lens is biased."
    if check.ok:
        return (bias,)
    return (
        f"Self-check failed: the last row does not equal the model's own logits ({_measured(check)}). "
        "Do not trust this view.",
        bias,
    )


def _measured(check: SelfCheck) -> str:
    return f"largest difference {check.max_abs_diff:.2g}, KL {check.kl:.2g} bits"


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """The logit lens."""
    return [
        Analysis(
            name="logit_lens",
            title="Logit lens",
            group="Logit lens",
            summary="What each layer would answer if it were the last.",
            run=run,
            produces=LensTable,
            requires=frozenset({"hidden_states", "logits"}),
            gpu=True,
            params=(
                Param("top_k", "int", default=5, minimum=1, maximum=20, label="Top k", help="Tokens listed per cell."),
                Param(
                    "sites",
                    "choice",
                    default="blocks",
                    choices=("blocks", "sublayers"),
                    help="After each block, or also after its attention.",
                ),
                Param("first", "int", minimum=0, label="First position", help=f"Empty: a range of up to {POSITIONS}."),
                Param("last", "int", minimum=0, label="Last position", help=f"Empty: a range of up to {POSITIONS}."),
                Param(
                    "target",
                    "text",
                    default=NEXT,
                    help=f'Token whose rank is followed: "{NEXT}", or a text that is one token (mind a leading space).',
                ),
            ),
        )
    ]
