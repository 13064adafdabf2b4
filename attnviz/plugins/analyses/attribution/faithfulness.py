"""Whether the model needs the sources that an attribution ranks high.

Sources are taken away in the order of their scores, and the target's probability is read each time; the figures and
where they come from are in faithfulness_figures.py. Beside each stands the same figure of random orders of the same
sources: a ranking says something only where it does better than those.

What counts as a source of a target: every source that ends before the target begins and is not a control token. Control
tokens stay, and so do the target's own tokens. The best source is the one with the highest score, sign kept; of equal
scores the earlier one.

Misleads because a run with holes is no text, and what the model makes of it may come from the holes (Hooker et al.
2019, "A Benchmark for Interpretability Methods in Deep Neural Networks"). Another removal gives other figures.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from attnviz.hooks import (
    UNITS,
    Analysis,
    AnalysisRequest,
    Attribution,
    BadInput,
    Bools,
    Faithfulness,
    Floats,
    Param,
    hookimpl,
)
from attnviz.plugins.analyses.attribution.engine import Engine, differentiable
from attnviz.plugins.analyses.attribution.faithfulness_figures import BETTER, LOWER, SHARES, TAU, taken
from attnviz.plugins.analyses.attribution.judged import NUMBERS, Judged, Judging, judge
from attnviz.plugins.analyses.attribution.orders import sources_of
from attnviz.plugins.analyses.attribution.question import FIRST, LAST, SOURCES, TARGETS, Question, need_predictions
from attnviz.plugins.analyses.attribution.removal import REMOVAL, Numbers, removal
from attnviz.plugins.analyses.attribution.sampling import SEED
from attnviz.plugins.analyses.attribution.target_functions import TargetFunction

METHODS = (
    "input_x_gradient",
    "saliency",
    "gradient_norm",
    "integrated_gradients",
    "smooth_grad",
    "gradient_shap",
    "layer_gradient_x_activation",
    "gradient_x_attention",
    "cp_lrp",
    "occlusion",
    "shapley",
    "attention",
)
AUTO = "auto"
COLUMNS = ("target", "figure", "better", "value", "random mean", "random sd", "random beaten", "unit")


def run(request: AnalysisRequest) -> Faithfulness:
    """
    Raises:
        UnknownName, BadInput: no such method or parameter of it, a result that ranks nothing, a target with fewer than
            two sources.
        Unavailable: the model gives no gradients or does not predict the next token, or lacks what the method needs.
        ModelError: out of memory.
    """
    need_predictions(request)
    model = differentiable(request)
    ranked = _ranked(request)
    question = _question(request, ranked)
    scores = _scores(ranked, sources_of(question))
    parts = list(question.one_by_one()) if model.reads_ahead else [question]
    removals = [removal(Engine(model, part, request.card.vocabulary), request) for part in parts]
    params = request.params
    judging = Judging(params["number"], params["points"], params["orders"], params["seed"])
    judged = judge(question, scores, removals, judging, request.progress, signed=ranked.signed)
    unit = "probability" if params["number"] == "probability" else "nats"
    return Faithfulness(
        columns=COLUMNS,
        rows=_rows(question, judged, unit),
        method=ranked.method,
        removal=removals[0].words,
        number=params["number"],
        targets=question.targets,
        shares=judged.shares.astype(np.float32),
        deletion=judged.curves[0].astype(np.float32),
        insertion=judged.curves[1].astype(np.float32),
        random_deletion=judged.random_curves[0].astype(np.float32),
        random_insertion=judged.random_curves[1].astype(np.float32),
        info=_info(request, ranked, question, judged, removals[0].words),
        warnings=_warnings(ranked, judged, scores),
    )


# --------------------------------------------------------------------------------------------- what is judged


def _ranked(request: AnalysisRequest) -> Attribution:
    """The scores of the method."""
    params = request.params
    asked = {name: params[name] for name in ("first", "last") if params[name] is not None}
    asked |= {name: params[name] for name in ("targets", "sources") if params[name] != AUTO}
    request.progress(0.0, f"scores of {params['method']}")
    found = request.analyze(params["method"], **{**asked, **settings(params["settings"])})
    if not isinstance(found, Attribution):
        raise BadInput(
            f"Parameter method: expected an attribution, such as {', '.join(METHODS[:3])}; {params['method']} gives a "
            f"result of kind {found.kind!r}."
        )
    return found


def settings(text: str) -> dict[str, str]:
    """ "a=1 b='x y'" -> {"a": "1", "b": "x y"}.

    Raises:
        BadInput: not of that form.
    """
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise BadInput(f"Parameter settings: {error}, in {text!r:.80}.") from None
    pairs = [part.partition("=") for part in parts]
    if wrong := [part for part, (name, sign, _) in zip(parts, pairs, strict=True) if not (name and sign)]:
        raise BadInput(f"Parameter settings: expected name=value, separated by spaces; got {wrong[0]!r:.80}.")
    return {name: value for name, _, value in pairs}


def _question(request: AnalysisRequest, ranked: Attribution) -> Question:
    """The log-probability of the targets that were scored.

    Raises:
        BadInput: spans that do not lie in the run one after the other.
    """
    tokens, targets = request.tokens, ranked.targets
    count = len(tokens)
    edges = [edge for span in targets for edge in (span.index, span.stop)]
    if not targets or edges != sorted(edges) or edges[0] < 1 or any(span.index > count for span in targets):
        raise BadInput(
            f"Method {ranked.method}: expected targets one after the other within 1 to {count}, got {edges}."
        )
    if any(not 0 <= span.index < span.stop <= count for span in ranked.sources):
        raise BadInput(f"Method {ranked.method}: expected sources within the {count} tokens of the run.")
    first, stop = edges[0], edges[-1]
    ids = [int(i) for i in tokens.ids[first:stop]]
    assumed = stop > count
    if assumed:
        ids.append(targets[-1].id)
    log_probability = TargetFunction("log_probability")
    return Question(tokens, first, tuple(ids), targets, ranked.sources, log_probability, assumed)


def _scores(ranked: Attribution, own: Bools) -> list[Floats]:
    """Of every target those of its own sources.

    Raises:
        BadInput: fewer than two of them, or a score that is no number.
    """
    found = []
    for target, row, mine in zip(ranked.targets, ranked.scores, own, strict=True):
        if (count := int(mine.sum())) < 2:
            raise BadInput(
                f"Target {target.index} {target.label!r}: expected at least 2 sources before it that are no control "
                f"tokens, to rank them; got {count}. Choose a later first target, or smaller sources."
            )
        if not np.isfinite(row[mine]).all():
            raise BadInput(f"Method {ranked.method}: target {target.index} has scores that are no numbers.")
        found.append(row[mine].astype(np.float64))
    return found


# --------------------------------------------------------------------------------------------- the table

Row = tuple[str | float | int | None, ...]


def _rows(question: Question, judged: Judged, unit: str) -> tuple[Row, ...]:
    """One block of figures for the mean over targets, where there are several, and one for each target."""
    count, rows = len(question.targets), []
    if count > 1:
        rows += _block(f"mean of {count} targets", _means(judged.method), _means(judged.chance), unit)
    for index, target in enumerate(question.targets):
        name = f"{target.index} “{target.label}”"
        rows += _block(name, judged.method[:, index], judged.chance[:, :, index], unit)
    return tuple(rows)


def _means(values: Numbers) -> Numbers:
    """[..., F, R] -> [..., F] over the targets that have the figure; NaN where none has."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1)
    found: Numbers = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return found


def _block(target: str, values: Numbers, chance: Numbers, unit: str) -> list[Row]:
    """values [F], chance [N, F]."""
    rows: list[Row] = []
    for index, (figure, better) in enumerate(BETTER.items()):
        value, others = float(values[index]), chance[:, index]
        won = others > value if better == LOWER else others < value
        numbers = (value, float(others.mean()), float(others.std(ddof=1)), float(won.mean()))
        known = math.isfinite(value) and bool(np.isfinite(others).all())
        rows.append((target, figure, better, *(numbers if known else (None,) * 4), "–" if figure == TAU else unit))
    return rows


# --------------------------------------------------------------------------------------------- words


def _info(
    request: AnalysisRequest, ranked: Attribution, question: Question, judged: Judged, removed: str
) -> tuple[str, ...]:
    params = request.params
    read = "probability" if params["number"] == "probability" else "log-probability in nats"
    few, many = min(judged.counts), max(judged.counts)
    counted = f"{few}" if few == many else f"{few} to {many}"
    sizes = ", ".join(f"{100 * share:g} % = {_takes(share, judged.counts)}" for share in SHARES)
    own = f" ({params['settings']})" if params["settings"].strip() else ""
    return (
        f"Judged: {ranked.method}{own}, sources by descending score{'' if ranked.signed else ' (it has no sign)'}, of "
        "equal scores the earlier first. Read: the "
        f"{read} of each target, of several tokens together.",
        f"Taken away: every token of a source is {removed}. Control tokens and the target's own tokens stay.",
        f"Sources of a target: {counted}, all that end before it. Shares are rounded up to whole sources: {sizes}.",
        "Comprehensiveness: what the target loses without the best sources; sufficiency: with only these (DeYoung et "
        "al. 2020). AOPC: their mean over the five shares (Samek et al. 2017). Deletion and insertion AUC: area under "
        f"the {read} from the run to nothing and back, best sources first, {params['points']} steps (Petsiuk et al. "
        f"2018). Kendall's tau-b with leave-one-out{'' if ranked.signed else ', of absolute values'}: from -1 to 1.",
        f"Random: mean and standard deviation over {params['orders']} orders of the same sources (seed "
        f"{params['seed']}); beaten: the share of them that the method is better than.",
        f"{judged.passes} changed runs were read.",
        *_assumed(question),
    )


def _assumed(question: Question) -> tuple[str, ...]:
    label = question.targets[-1].label
    said = f"The last target, {label!r}, is not in the run: it is the method's choice for what comes next."
    return (said,) if question.assumed else ()


def _takes(share: float, counts: Sequence[int]) -> str:
    sizes = sorted({taken(share, count) for count in counts})
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"


def _warnings(ranked: Attribution, judged: Judged, scores: Sequence[Floats]) -> tuple[str, ...]:
    lines = [
        "A run with holes is no text, and the model was not trained on such: part of each change comes from the holes "
        "(Hooker et al. 2019). Compare figures only where sources are taken away in the same way.",
    ]
    few = min(judged.counts)
    same = [f"{100 * a:g} and {100 * b:g} %" for a, b in pairwise(SHARES) if taken(a, few) == taken(b, few)]
    if same:
        lines.append(f"Few sources: with {few} of them the shares {'; '.join(same)} are the same number.")
    if tied := sum(len(np.unique(row)) < len(row) for row in scores):
        lines.append(f"Equal scores: {tied} of {len(scores)} targets have sources that the method does not tell apart.")
    if ranked.target_function not in (*NUMBERS, "logit", "none"):
        lines.append(f"The scores explain another number ({ranked.target_function}) than the one that is read here.")
    return tuple(lines)


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Faithfulness."""
    words = (*UNITS, AUTO)
    return [
        Analysis(
            name="faithfulness",
            title="Faithfulness",
            group="Attribution",
            summary="Whether the model needs the sources that an attribution ranks high, beside random orders.",
            run=run,
            produces=Faithfulness,
            requires=frozenset({"gradients", "logits"}),
            params=(
                Param(
                    "method",
                    "text",
                    default=METHODS[0],
                    choices=METHODS,
                    help="The attribution that is judged: the name of any analysis that gives one.",
                ),
                Param(
                    "settings",
                    "text",
                    default="",
                    help="Parameters of the method, as name=value, separated by spaces. Empty: its defaults.",
                ),
                FIRST,
                LAST,
                replace(TARGETS, default=AUTO, choices=words, help=f"{TARGETS.help} auto: as the method does."),
                replace(SOURCES, default=AUTO, choices=words, help=f"{SOURCES.help} auto: as the method does."),
                REMOVAL,
                Param(
                    "number",
                    "choice",
                    default="probability",
                    choices=tuple(NUMBERS),
                    help="What is read of a target when sources are taken away.",
                ),
                Param("points", "int", default=10, minimum=1, maximum=1000, help="Steps of the two curves."),
                Param("orders", "int", default=10, minimum=2, maximum=1000, help="Random orders beside the method's."),
                SEED,
            ),
            gpu=True,
        )
    ]
