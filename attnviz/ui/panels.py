"""One panel per analysis: its controls, its view, and what happens when something of it changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from attnviz.errors import BadInput
from attnviz.hooks import Analysis, Renderer, View, to_jsonable
from attnviz.session import SavableFinding, Session, TracedRun
from attnviz.ui import beside, controls, faithful, files, measurements, views
from attnviz.ui.background import Job, error_notice, in_words, watched
from attnviz.ui.components import pieces
from attnviz.ui.describe import finding_value
from attnviz.ui.place import Place
from attnviz.ui.python_code import reproduce

Updates = dict[Any, Any]
"""component -> its new value or properties."""
Picture = tuple[Any, Any]
"""The component a picture is shown in, and its value."""


@dataclass
class Comparison:
    """What puts another result beside the one of a panel: what is chosen, and where both are shown."""

    renderer: Renderer
    choice: gr.Dropdown
    place: gr.HTML


@dataclass
class Panel:
    """The components of one analysis.

    controls   parameter name -> component, for those that do not follow the selection
    places     renderer name -> component its view is shown in
    comparison where results of the analysis can be put beside others; else None
    judged     where the faithfulness of an attribution stands; else None
    """

    analysis: Analysis
    frame: gr.Column
    notice: gr.HTML
    bar: gr.HTML
    settings: gr.Row
    renderers: list[Renderer]
    controls: dict[str, Any] = field(default_factory=dict)
    places: dict[str, Any] = field(default_factory=dict)
    comparison: Comparison | None = None
    judged: gr.HTML | None = None

    @property
    def settled(self) -> list[Any]:
        """Every component that decides what is shown."""
        return [*self.controls.values(), *([self.comparison.choice] if self.comparison else [])]

    @property
    def pictures(self) -> list[Any]:
        """Every component a picture is shown in."""
        return [*self.places.values(), *([self.comparison.place] if self.comparison else [])]

    @property
    def outputs(self) -> list[Any]:
        """Every component an answer may change."""
        return [self.notice, self.bar, self.settings, *self.pictures, *([self.judged] if self.judged else [])]

    def empty(self, notice: dict[str, Any] | None = None, settings: bool = True) -> Updates:
        """Nothing is shown."""
        empty = dict.fromkeys([*self.pictures, *([self.judged] if self.judged else [])])
        return {self.bar: None, self.notice: notice, self.settings: gr.Row(visible=settings), **empty}


def build_panel(session: Session, analysis: Analysis, alone: bool, visible: bool) -> Panel:
    """Lay out one analysis inside the open Blocks."""
    renderers = views.on_screen(session.renderers(analysis.produces))
    linked = [p for p in analysis.params if p.linked]
    free = [p for p in analysis.params if not p.linked]
    server = ServerFunctions(session)
    with gr.Column(visible=visible, elem_classes="app-panel", elem_id=f"app-panel-{analysis.name}") as frame:
        bar = pieces.view_bar(analysis, alone, [server.export_file, server.python_code])
        with gr.Row(elem_classes="app-controls", visible=_has_settings(analysis)) as settings:
            if linked:
                pieces.linked(analysis.name, linked)
            made = {p.name: controls.control(p) for p in free}
            drawing = next((r for r in renderers if r.produces == "script" and beside.comparable(analysis)), None)
            choice = beside.chooser(session, analysis) if drawing else None
        notice = pieces.notice()
        places = {r.name: views.place_for(r, server.fetch_detail, i == 0) for i, r in enumerate(renderers)}
        comparison = None
        if drawing is not None and choice is not None:
            both = beside.frame(drawing, visible=False, elem_classes="app-view")
            comparison = Comparison(drawing, choice, both)
        judged = faithful.faithful(session, analysis)
    return Panel(analysis, frame, notice, bar, settings, renderers, made, places, comparison, judged)


def _has_settings(analysis: Analysis) -> bool:
    return bool(analysis.params) or beside.comparable(analysis)


def show(
    session: Session,
    panel: Panel,
    run_id: str,
    place: Place,
    values: Mapping[str, Any],
    against: beside.Against = beside.NOTHING,
) -> Iterator[Updates]:
    """Bring a panel up to date with run, selection and controls; if that fails the result of this run stays."""
    analysis = panel.analysis
    try:
        if not run_id:
            return
        run = session.run(run_id)
        if reason := session.check(analysis, run.model.card):
            reason += measurements.which_model(session.registry, analysis)
            notice = {"kind": "info", "text": f"Not available for {run.model.name}. {reason}", "share": 0.0}
            yield panel.empty(notice, settings=False)
            return
        renderer = _chosen(panel, place)
        given = _given(analysis, values)
        params = {**given, **place.linked(analysis)}
        mark = _signature(panel, run_id, renderer, given, place, against)
        if place.shown.get(analysis.name) == mark:
            yield {panel.notice: None}
            return

        def work(job: Job) -> tuple[SavableFinding, Picture]:
            finding = session.analyze(run, analysis.name, params, job.step)
            if panel.comparison is not None and against.choice:
                return finding, _compared(session, panel.comparison, run, finding, against, job)
            where = panel.places[renderer.name]
            if renderer.produces == "script":
                return finding, (where, views.reference(finding))
            return finding, (where, views.view_value(session.render(finding, renderer.name), finding))

        steps = watched(work)
        while True:
            try:
                yield {panel.notice: next(steps)}
            except StopIteration as end:
                finding, drawn = end.value
                break
        yield _drawn(session, panel, renderer, finding, drawn, params, mark, against)
    except Exception as error:  # the boundary of the page: shown where it belongs, logged if it is a bug
        notice = error_notice(error)
        yield {panel.notice: notice} if shows(panel, run_id, place) else panel.empty(notice)


def _compared(
    session: Session, comparison: Comparison, run: TracedRun, finding: SavableFinding, against: beside.Against, job: Job
) -> Picture:
    other = beside.other_of(session, run, finding.analysis, finding.params, against, job.step)
    right = session.analyze(other.run, other.analysis.name, other.params, job.step)
    both = beside.side_by_side(session, comparison.renderer, finding, right)
    return comparison.place, views.view_value(View("script", both), finding)


def shows(panel: Panel, run_id: str, place: Place) -> bool:
    """Whether what the panel shows is of this run."""
    return place.shown.get(panel.analysis.name, "").startswith(f"{run_id}:")


def _chosen(panel: Panel, place: Place) -> Renderer:
    if not panel.renderers:
        kind = panel.analysis.produces.__name__
        raise BadInput(f"No renderer draws a {kind} on the screen. Add one as a plugin.")
    wanted = place.views.get(panel.analysis.name)
    return next((r for r in panel.renderers if r.name == wanted), panel.renderers[0])


def _given(analysis: Analysis, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the controls; an emptied one means the default."""
    return {name: value for name, value in values.items() if value is not None and value != ""}


def _signature(
    panel: Panel, run_id: str, renderer: Renderer, given: Mapping[str, Any], place: Place, against: beside.Against
) -> str:
    """What decides whether a panel is up to date. A script view follows the selection by itself."""
    linked = place.linked(panel.analysis)
    if _follows(renderer):
        linked = {name: value for name, value in linked.items() if isinstance(value, str)}
    text = json.dumps([run_id, renderer.name, to_jsonable(given), linked, beside.signature(against)], sort_keys=True)
    return f"{run_id}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _follows(renderer: Renderer) -> bool:
    return renderer.produces == "script" and renderer.detail is not None


def _drawn(
    session: Session,
    panel: Panel,
    renderer: Renderer,
    finding: SavableFinding,
    drawn: Picture,
    params: Mapping[str, Any],
    mark: str,
    against: beside.Against,
) -> Updates:
    linked = {p.name: p.type for p in panel.analysis.params if p.linked}
    bar = {
        **finding_value(finding),
        **({"info": [], "warnings": []} if renderer.produces == "script" else {}),  # a script view says these itself
        "given": to_jsonable({name: value for name, value in params.items() if name not in linked}),
        "linked": linked,
        "made": to_jsonable(params),
        "follows": _follows(renderer),
        "renderer": renderer.name,
        "views": [{"name": r.name, "title": r.title} for r in panel.renderers],
        "suffixes": list(files.savers(session, type(finding.result))),
        "signature": mark,
        "against": to_jsonable(against) if against.choice else None,
    }
    updates: Updates = {
        panel.notice: None,
        panel.bar: bar,
        panel.settings: gr.Row(visible=_has_settings(panel.analysis)),
    }
    if panel.judged is not None:
        updates[panel.judged] = faithful.offer(session, session.run(finding.run))
    where, value = drawn
    for component in panel.pictures:
        updates[component] = gr.update(value=value if component is where else None, visible=component is where)
    return updates


# --------------------------------------------------------------------------------------------- asked by the page


class ServerFunctions:
    """What scripts in the page may ask. Arguments are untrusted; the run id is what gives access to a run."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.fetch_detail = _answering(self._fetch_detail, "fetch_detail")
        self.export_file = _answering(self._export_file, "export_file")
        self.python_code = _answering(self._python_code, "python_code")

    def _asked(self, request: Mapping[str, Any]) -> tuple[TracedRun, str, dict[str, Any]]:
        run_id, analysis, params = request.get("run"), request.get("analysis"), request.get("params", {})
        if not isinstance(run_id, str) or not isinstance(analysis, str) or not isinstance(params, Mapping):
            raise BadInput("Expected run, analysis and params.")
        return self.session.run(run_id), analysis, {str(k): v for k, v in params.items()}

    def _fetch_detail(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The same analysis with other parameters; or the data of its view (`whole`), or a `part` of that."""
        run, analysis, params = self._asked(request)
        finding = self.session.analyze(run, analysis, params)
        wanted, what = request.get("renderer"), request.get("part")
        renderer = next((r for r in self.session.renderers(type(finding.result)) if r.name == wanted), None)
        if request.get("whole") is True and renderer is not None and renderer.produces == "script":
            return {"detail": to_jsonable(self.session.render(finding, renderer.name).payload)}
        if isinstance(what, Mapping) and renderer is not None and renderer.part is not None:
            return {"detail": to_jsonable(renderer.part(finding, what))}
        if what is None and renderer is not None and renderer.detail is not None:
            return {"detail": to_jsonable(renderer.detail(finding)), "about": finding_value(finding)}
        raise BadInput(f"There is no renderer {wanted!r} that gives details of {analysis}.")

    def _export_file(self, request: Mapping[str, Any]) -> dict[str, Any]:
        run, analysis, params = self._asked(request)
        finding, suffix = self.session.analyze(run, analysis, params), str(request.get("suffix"))
        against = beside.parse_against(request.get("against"))
        if against.choice and suffix == ".html":
            return self._both(run, finding, against)
        return files.as_file(self.session, finding, suffix)

    def _both(self, run: TracedRun, finding: SavableFinding, against: beside.Against) -> dict[str, Any]:
        """Two results beside each other as a web page."""
        other = beside.other_of(self.session, run, finding.analysis, finding.params, against, lambda *_: None)
        right = self.session.analyze(other.run, other.analysis.name, other.params)
        drawing = next(r for r in self.session.renderers(type(finding.result)) if r.produces == "script")
        text = beside.web_page(self.session, drawing, finding, right)
        return files.file_value(f"{finding.analysis}-beside-{right.analysis}.html", "text/html", text.encode())

    def _python_code(self, request: Mapping[str, Any]) -> dict[str, Any]:
        run, name, params = self._asked(request)
        analysis = self.session.analysis(name)
        resolved = self.session.resolve(analysis, run, params)
        text = reproduce(run, self.session.registry, name, resolved)
        against = beside.parse_against(request.get("against"))
        if against.choice:
            other = beside.other_of(self.session, run, name, resolved, against, lambda *_: None)
            asked = self.session.resolve(other.analysis, other.run, other.params)
            text += "\n" + beside.python_lines(self.session, other, asked, same_run=other.run is run)
        return {"text": text}


def _answering(function: Any, name: str) -> Any:
    """The function under a name of its own, with errors as {"error": message}."""

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        try:
            if not isinstance(request, Mapping):
                raise BadInput("Expected one object.")
            return dict(function(request))
        except Exception as error:  # the boundary of the page
            return {"error": in_words(error)}

    answer.__name__ = name
    return answer
