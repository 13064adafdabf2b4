"""Which heads do a known job: look at the previous token, at the first, at copies, at what followed a copy, near by.

Scores are mean weights on the keys of a role (see roles.py), with the names and formulas of the literature: previous
token, first token (sink), self, duplicate token, induction (prefix matching, Olsson et al. 2022), local window. Each
has the same score under a null (role_nulls.py), and an effect size

    effect = (score − null) / (1 − null)        1 = all weight, 0 = no more than the null

A head gets a role if chance alone would hardly give it to any head of the model, and the effect is large enough to
matter. It is measured on the run itself, or on repeated random tokens (random_tokens.py), where a copy can only be
found by looking for it.

Misleads when a role is taken for a function: the score says where a head looks, not what it does with what it finds;
and a head without a role on this input may have one on another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Bools, Floats, HeadScores, Param, Want, hookimpl
from attnviz.plugins.analyses.names import layer_name
from attnviz.plugins.analyses.random_tokens import Pair, draw_pairs
from attnviz.plugins.analyses.role_nulls import (
    CHANCE,
    DRAWS,
    Evidence,
    by_id_paired,
    by_id_shuffled,
    by_position,
)
from attnviz.plugins.analyses.roles import MOST_QUERIES, ROLES, decoding, query_step
from attnviz.plugins.analyses.sinks import find_sinks

LEAST_EFFECT = {
    "previous_token": 1 / 3,
    "first_token": 1 / 3,
    "self": 1 / 3,
    "duplicate_token": 1 / 3,
    "induction": 1 / 3,
    "local_window": 2 / 3,
}
"""Share of the possible rise over the null. Chance is not all that must be ruled out: a model that has learnt nothing
has real preferences too. With the entries of every weight tensor of the embedded model shuffled, in 12 ways on two
texts and on random tokens, the strongest head reached 0.29 for the first token, at most 0.22 for self, previous
token, induction and duplicate token, and 0.56 for the local window: rotary position codes alone make a head look near
by. Of 20 further shuffles one had one head above these bounds (local window, 0.83)."""
TOP = 5
"""Heads listed per role."""
THIS_RUN, RANDOM = "this run", "repeated random tokens"
TITLES = {
    "previous_token": "Previous token",
    "first_token": "First token",
    "self": "Self",
    "duplicate_token": "Duplicate token",
    "induction": "Induction",
    "local_window": "Local window",
}
_INACTIVE = {
    "previous_token": "no query sees its previous token and another one",
    "first_token": "no query sees the first token and another one",
    "self": "no query sees itself and another token",
    "duplicate_token": "no ordinary token occurs twice within sight",
    "induction": "no ordinary token occurs again after something else followed it, within sight",
    "local_window": "no query sees a token outside the window",
}

Labels = dict[str, tuple[str, ...]]


def run(request: AnalysisRequest) -> HeadScores:
    """Scores, nulls and effects of every head, and the roles they amount to.

    Raises:
        Unavailable: random tokens are asked for, and the model has too few positions or ordinary tokens.
    """
    find_sinks(request.trace, request.tokens)  # refuses a trace without attention, or over something else
    window = request.params["window"]
    pairs: list[Pair] = []
    if request.params["ground"] == RANDOM:
        pairs = draw_pairs(request.model, request.card, request.tokens)
        evidence = _on_random_tokens(request, pairs, window)
    else:
        sample = decoding(request.tokens, request.trace)
        request.progress(0.1, "roles by position")
        evidence = by_position([sample], window)
        request.progress(0.5, "roles by token")
        evidence |= by_id_shuffled(sample)
    labels = _labels(evidence)
    return HeadScores(
        metrics={name: values.astype(np.float32) for name, values in _metrics(evidence).items()},
        units={name: _unit(name) for name in _metrics(evidence)},
        roles=labels,
        info=_info(request, evidence, labels, pairs),
        warnings=_warnings(request),
    )


def _on_random_tokens(request: AnalysisRequest, pairs: list[Pair], window: int) -> dict[str, Evidence]:
    repeated, unrepeated = [], []
    want = Want(thumbnail=1)
    for number, pair in enumerate(pairs):
        request.progress(number / (len(pairs) + 1), f"random tokens, pair {number + 1} of {len(pairs)}")
        repeated.append(decoding(pair.repeated, request.model.trace(pair.repeated, want)))
        unrepeated.append(decoding(pair.unrepeated, request.model.trace(pair.unrepeated, want)).trace)
    request.progress(len(pairs) / (len(pairs) + 1), "scores")
    return by_position(repeated, window) | by_id_paired(repeated, unrepeated)


def _metrics(evidence: dict[str, Evidence]) -> dict[str, Floats]:
    """Name -> [L, H]: the scores first, then effects, then nulls."""
    return {
        **{role: evidence[role].score for role in ROLES},
        **{f"{role}_effect": evidence[role].effect for role in ROLES},
        **{f"{role}_null": evidence[role].null for role in ROLES},
    }


def _unit(metric: str) -> str:
    return "share of possible rise" if metric.endswith("_effect") else "share of weight"


def has_role(evidence: Evidence, role: str) -> Bools:
    """[L, H] heads above chance and of sufficient effect."""
    above: Bools = (evidence.chance <= CHANCE[role]) & (evidence.effect >= LEAST_EFFECT[role])  # NaN compares false
    return above


def _narrower(evidence: dict[str, Evidence]) -> Bools:
    """[L, H] heads whose place is one single token near by."""
    return has_role(evidence["previous_token"], "previous_token") | has_role(evidence["self"], "self")


def _labels(evidence: dict[str, Evidence]) -> Labels:
    """ "layer.head" -> roles. A head that looks at the previous token or itself is not called local as well."""
    found = {role: has_role(evidence[role], role) for role in ROLES}
    found["local_window"] &= ~_narrower(evidence)
    labels: Labels = {}
    for layer, head in np.argwhere(np.logical_or.reduce(list(found.values()))):
        roles = tuple(role for role in ROLES if found[role][layer, head])
        labels[f"{layer}.{head}"] = roles
    return labels


# --------------------------------------------------------------------------------------------- words


def _info(
    request: AnalysisRequest, evidence: dict[str, Evidence], labels: Labels, pairs: list[Pair]
) -> tuple[str, ...]:
    trace, window = request.trace, request.params["window"]
    lines = [_ground(request, pairs)]
    taken = {"local_window": _narrower(evidence)}
    names = [layer_name(request, index) for index in range(len(trace.layers))]
    lines += [_role_line(role, evidence[role], labels, taken.get(role), names, random=bool(pairs)) for role in ROLES]
    lines += [
        "Scores are mean weights on: the token before (previous token), position 0 (first token), itself (self), "
        "earlier copies of the same token (duplicate token), tokens that followed an earlier copy (induction), tokens "
        f"at most {window} positions away (local window). Means are over the queries from 2 on that see such a token "
        "and another one; control tokens are nobody's copies.",
        _null_line(bool(pairs)),
        "effect = (score − null) / (1 − null): 1 = all weight, 0 = no more than the null.",
        f"A head is labelled where its effect is at least {LEAST_EFFECT['induction']:.2f} "
        f"({LEAST_EFFECT['local_window']:.2f} for the local window) and chance alone would give any head of the model "
        f"that role with a probability of at most {CHANCE['induction']:g} ({CHANCE['first_token']:g} for the first "
        f"token), {sum(CHANCE.values()):.2g} for all heads and roles together (max-T, Westfall & Young 1993). A head "
        "labelled previous token or self is not labelled local window as well.",
        f"Sinks are included; a learned sink beside the keys takes its share. Computed in {trace.precision}.",
    ]
    lines += [
        f"Layer {layer_name(request, index)} has no attention: {reason}"
        for index, reason in sorted(trace.missing.items())
    ]
    return tuple(lines)


def _ground(request: AnalysisRequest, pairs: list[Pair]) -> str:
    if not pairs:
        count = len(request.tokens) - (request.tokens.decoder_from or 0)
        step = query_step(count)
        part = "" if step == 1 else f" One query row in {step} is measured, at most {MOST_QUERIES}."
        return f"Measured on this run, {count} tokens{_stacks(request)}.{part}"
    tokens, length = pairs[0].repeated, pairs[0].length
    start = tokens.decoder_from or 0
    first = "with no control token before them (none is usual here)"
    if tokens.special[start]:
        first = f"after {tokens.labels[start]}"
    text = "text" if tokens.decoder_from is None else "target"
    return (
        f"Measured on {len(pairs)} texts of {length} random tokens written twice, {first}{_stacks(request)}; the "
        f"{text} of this run plays no part. Every score is a mean over them."
    )


def _stacks(request: AnalysisRequest) -> str:
    """Which layers have roles, of a model with encoder and decoder."""
    if request.tokens.decoder_from is None:
        return ""
    return (
        " of the decoder: roles are looked for in its attention to its own tokens, position 0 being the one it starts "
        "with; layers of the encoder and cross layers have no numbers"
    )


def _role_line(
    role: str, evidence: Evidence, labels: Labels, taken: Bools | None, names: Sequence[str], *, random: bool
) -> str:
    """The heads that have the role, or the one that comes nearest among those not taken by a narrower one."""
    title = TITLES[role]
    if np.isnan(evidence.score).all():
        return f"{title}: not active on this input: {_INACTIVE[role]}."
    heads = [tuple(map(int, key.split("."))) for key, roles in labels.items() if role in roles]
    order = sorted(heads, key=lambda at: (-evidence.score[at], at))
    listed = ", ".join(_head(at, evidence, names) for at in order[:TOP])
    idle = _idle_layers(evidence, names)
    if heads:
        more = f", and {len(heads) - TOP} more" if len(heads) > TOP else ""
        return f"{title}: {listed}{more}.{idle}"
    left = evidence.score if taken is None else np.where(taken, np.nan, evidence.score)
    if np.isnan(left).all():
        return f"{title}: every head is labelled previous token or self.{idle}"
    best = np.unravel_index(int(np.nanargmax(left)), left.shape)
    highest = f"highest {_head((int(best[0]), int(best[1])), evidence, names)}"
    if 1 / (1 + evidence.draws) > CHANCE[role]:
        elsewhere = "" if random else f' Measure on "{RANDOM}" instead.'
        return f"{title}: this text is too short to tell a role from chance; {highest}.{elsewhere}{idle}"
    return f"{title}: no head is labelled; {highest}.{idle}"


def _head(at: tuple[int, ...], evidence: Evidence, names: Sequence[str]) -> str:
    """For example: L3H1 0.98 (null 0.02, effect 0.98)."""
    layer = f"L{at[0]}" if names[at[0]] == str(at[0]) else f"{names[at[0]]} "
    effect = evidence.effect[at]
    shown = "none" if np.isnan(effect) else f"{effect:.2f}"
    return f"{layer}H{at[1]} {evidence.score[at]:.2f} (null {evidence.null[at]:.2f}, effect {shown})"


def _idle_layers(evidence: Evidence, names: Sequence[str]) -> str:
    """Layers with attention in which the role never applies, such as those with a narrow window."""
    layers = zip(names, evidence.queries, evidence.attends, strict=True)
    idle = [name for name, queries, attends in layers if attends and not queries]
    return f" Not active in layers {', '.join(idle)}." if idle else ""


def _null_line(random: bool) -> str:
    by_token = (
        "the weight on the same positions when the second half is other random tokens"
        if random
        else f"the mean over {DRAWS} shuffles of the ids of ordinary tokens over their positions (control tokens and "
        "position 0 stay), the attention as it is"
    )
    return (
        "null of previous token, first token, self and local window: what a head would give that spreads its weight "
        f"evenly over the tokens it sees. null of duplicate token and induction: {by_token}."
    )


def _warnings(request: AnalysisRequest) -> tuple[str, ...]:
    lines = ["A role says where a head looks, not what it does with what it finds there."]
    if request.params["ground"] == RANDOM:
        lines.append("Random tokens are unlike any text: a head may do something else on yours. Compare with this run.")
    else:
        lines.append(
            "In a text, copies stand in places of their own (names, lists, formats): a head that looks a fixed "
            "distance back can seem to look for copies. Repeated random tokens tell the two apart."
        )
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Roles of heads."""
    return [
        Analysis(
            name="head_roles",
            title="Head roles",
            group="Heads",
            summary="Which heads look at the previous token, at the first, at copies, at what followed a copy.",
            run=run,
            produces=HeadScores,
            gpu=True,  # random tokens are run through the model
            params=(
                Param(
                    "ground",
                    "choice",
                    default=THIS_RUN,
                    choices=(THIS_RUN, RANDOM),
                    label="Measured on",
                    help=f"{RANDOM.capitalize()}: 20 short forward passes; finds induction heads whatever the text.",
                ),
                Param(
                    "window",
                    "int",
                    default=4,
                    minimum=1,
                    maximum=64,
                    label="Window",
                    help="Tokens to each side that count as local.",
                ),
            ),
        )
    ]
