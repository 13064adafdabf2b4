"""Two attributions beside each other: another method over the same run, or the same method over another model.

A parameter that both methods have, with the same default, belongs to the question and is asked of both alike. The rest
belongs to the other method and is as it stands in its own panel.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from attnviz.agreement import agreement, matching
from attnviz.errors import BadInput
from attnviz.hooks import Analysis, Attribution, Finding, Ints, Renderer, Tokens, to_jsonable
from attnviz.plugins.renderers.html_page import document
from attnviz.progress import Progress
from attnviz.session import Session, TracedRun
from attnviz.ui.components.part import source
from attnviz.ui.components.script_view import script_view
from attnviz.ui.python_code import load_arguments

ANALYSIS, MODEL = "analysis:", "model:"
"""What a choice begins with; anything else that is typed is a model."""
PLACES = ("first", "last")
"""Parameters of attributions that are token positions: they are carried over to the other model's tokens."""


@dataclass(frozen=True)
class Against:
    """What a panel is compared with.

    choice  "" = nothing
    given   analysis -> values of its own panel's controls
    """

    choice: str = ""
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


NOTHING = Against()


def comparable(analysis: Analysis) -> bool:
    """Whether results of this analysis can be shown beside others of their kind."""
    return issubclass(analysis.produces, Attribution)


def chooser(session: Session, analysis: Analysis) -> gr.Dropdown:
    """What to compare an analysis with: other methods, the models of the menu, or a model that is typed."""
    others = [a for a in session.registry.analyses.values() if comparable(a) and a.name != analysis.name]
    menu = session.registry.models.values()
    choices = [
        ("nothing", ""),
        *((a.title, ANALYSIS + a.name) for a in others),
        *((f"model {e.title}", MODEL + e.name) for e in menu),
    ]
    return gr.Dropdown(
        choices,
        value="",
        label="Compare with",
        info="Another method, or another model on the same text: pick one, or type a hub id or a folder.",
        allow_custom_value=True,
        min_width=120,
        elem_classes="app-control app-compare",
    )


def frame(renderer: Renderer, **options: Any) -> gr.HTML:
    """Two views of a renderer beside each other, which point at the same things."""
    return script_view(renderer, _no_details, beside=True, **options)


def _no_details(request: dict[str, Any]) -> dict[str, Any]:
    return {"error": "Two views beside each other show what they were made with."}


def parse_against(data: object) -> Against:
    """What the page says a result is compared with; whatever has the wrong form counts as nothing."""
    if not isinstance(data, Mapping) or not isinstance(data.get("choice"), str):
        return NOTHING
    given = data.get("given")
    known = given.items() if isinstance(given, Mapping) else ()
    return Against(data["choice"], {str(name): dict(values) for name, values in known if isinstance(values, Mapping)})


@dataclass(frozen=True)
class Other:
    """The other result before it is computed: of which run, by which analysis, asked how."""

    run: TracedRun
    analysis: Analysis
    params: Mapping[str, Any]


def other_of(
    session: Session, run: TracedRun, name: str, params: Mapping[str, Any], against: Against, progress: Progress
) -> Other:
    """What is put beside the result of an analysis with these (resolved) parameters.

    Raises:
        AttnvizError: there is no such thing, and why.
    """
    analysis = session.analysis(name)
    if against.choice.startswith(ANALYSIS):
        other, text = session.analysis(against.choice.removeprefix(ANALYSIS)), run
    else:
        wanted = against.choice.removeprefix(MODEL).strip()
        if not wanted:
            raise BadInput("Compare with: expected a method or a model, got nothing.")
        progress(0.0, f"Loading {wanted}")
        other, text = analysis, session.load(wanted).reread(run)
    own = {key: value for key, value in against.given.get(other.name, {}).items() if value not in (None, "")}
    return Other(text, other, {**own, **_question(analysis, other, params, run.tokens, text.tokens)})


def _question(
    analysis: Analysis, other: Analysis, params: Mapping[str, Any], here: Tokens, there: Tokens
) -> dict[str, Any]:
    """What both are asked alike."""
    known = {param.name: param.default for param in other.params}
    names = [p.name for p in analysis.params if p.name in known and known[p.name] == p.default]
    shared = {name: params[name] for name in names}
    places = matching(here, there)
    for name in PLACES:
        if shared.get(name) is not None and places is not None:
            shared[name] = _carried(name, shared[name], places)
    return shared


def _carried(name: str, token: int, places: Ints) -> int:
    found = int(places[token]) if 0 <= token < len(places) else -1
    if found < 0:
        raise BadInput(f"Parameter {name}: token {token} has no counterpart in the other model's text.")
    return found


def side_by_side(session: Session, renderer: Renderer, left: Finding, right: Finding) -> dict[str, Any]:
    """The data of both views, which tokens belong together, and how far the two agree."""
    found = agreement(left, right)
    one, two = left.result, right.result
    assert isinstance(one, Attribution)
    assert isinstance(two, Attribution)
    there, back = matching(left.tokens, right.tokens), matching(right.tokens, left.tokens)
    numbers = zip(found.targets, found.spearman.tolist(), found.kendall.tolist(), found.ranked.tolist(), strict=True)
    return {
        "left": _side(session, renderer, left),
        "right": _side(session, renderer, right),
        "there": None if there is None else there.tolist(),
        "back": None if back is None else back.tolist(),
        "agreement": {
            str(one.targets[i].index): {"spearman": _number(rho), "kendall": _number(tau), "ranked": ranked}
            for (i, _), rho, tau, ranked in numbers
        },
        "info": list(found.info),
    }


def _side(session: Session, renderer: Renderer, finding: Finding) -> dict[str, Any]:
    return {"title": f"{finding.title} · {finding.model}", "data": session.render(finding, renderer.name).payload}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def web_page(session: Session, renderer: Renderer, left: Finding, right: Finding) -> str:
    """Both views as one offline page."""
    title = f"{left.title} beside {right.title}" if left.model == right.model else f"{left.title}: two models"
    about = {
        "title": title,
        "analysis": f"{left.analysis} | {right.analysis}",
        "params": to_jsonable(left.params),
        "model": left.model if left.model == right.model else f"{left.model} | {right.model}",
        "tokens": len(left.tokens),
        "text": left.tokens.text,
        "provenance": f"{left.provenance} | {right.provenance}",
        "info": [],
        "warnings": [],
    }
    view = to_jsonable(side_by_side(session, renderer, left, right))
    script = f"const draw = function (root, data, host) {{\n{renderer.script}\n}};\n{source('beside.js')}"
    return document(title, {"about": about, "view": view}, script, renderer.style + source("beside.css"))


def python_lines(session: Session, other: Other, params: Mapping[str, Any], *, same_run: bool) -> str:
    """Python that goes on from `run` and `finding` to the other result and the agreement of both."""
    run = "run" if same_run else f"attnviz.load({load_arguments(other.run, session.registry)}).reread(run)"
    settings = "".join(f", {name}={value!r}" for name, value in params.items())
    return "\n".join(
        (
            "",
            "from attnviz.agreement import agreement",
            "",
            f"other = {run}.analyze({other.analysis.name!r}{settings})",
            "print(agreement(finding, other))",
        )
    )


def signature(against: Against) -> str:
    """What decides whether a comparison is up to date."""
    return json.dumps(to_jsonable(against), sort_keys=True) if against.choice else ""
