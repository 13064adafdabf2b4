"""Whether the model needs what an attribution ranks high: figures under its view, computed when somebody asks."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from attnviz.hooks import Analysis, Faithfulness, Finding, to_jsonable
from attnviz.session import Session, TracedRun
from attnviz.ui.background import Job, in_words, noticed
from attnviz.ui.beside import comparable
from attnviz.ui.components.part import part, source
from attnviz.ui.place import Place

ANALYSIS = "faithfulness"
_SHARE = " %"
"""How the names of figures of a single share end; of these the view shows none, only what sums them up."""


def faithful(session: Session, analysis: Analysis) -> gr.HTML | None:
    """The place of the figures under an attribution; None under other results. Event `judge`: they are asked for.

    Value: {"state": offer | reason | progress | error | ready, "text", "share"}, when ready with figures; or None.
    """
    if ANALYSIS not in session.registry.analyses or not comparable(analysis):
        return None
    return part(source("faithful.js"), constants={"analysis": analysis.name}, elem_classes="app-faithful-home")


def offer(session: Session, run: TracedRun) -> dict[str, Any]:
    """That figures may be asked for, or why not."""
    reason = session.check(session.analysis(ANALYSIS), run.model.card)
    return {"state": "offer"} if reason is None else {"state": "reason", "text": f"Faithfulness: {reason}"}


def judge(
    session: Session, where: gr.HTML, analysis: Analysis, run_id: str, place: Place, values: Mapping[str, Any]
) -> Iterator[dict[Any, Any]]:
    """The figures of what the panel shows. values: of its controls."""
    try:
        run = session.run(run_id)
        given = {name: value for name, value in values.items() if value not in (None, "")}
        params = session.resolve(analysis, run, {**given, **place.linked(analysis)})
        asked = {"method": analysis.name, "settings": settings(analysis, params)}

        def work(job: Job) -> Finding:
            return session.analyze(run, ANALYSIS, asked, job.step)

        steps = noticed(where, work)
        while True:
            try:
                (notice,) = next(steps).values()
                yield {where: {**notice, "state": "progress"}}
            except StopIteration as end:
                finding: Finding = end.value
                break
        yield {where: {**figures(finding), "signature": place.shown.get(analysis.name)}}
    except Exception as error:  # the boundary of the page
        yield {where: {"state": "error", "text": in_words(error)}}


def settings(analysis: Analysis, params: Mapping[str, Any]) -> str:
    """What differs from the defaults, as the parameter `settings` of faithfulness takes it."""
    defaults = {param.name: param.default for param in analysis.params}
    return shlex.join(f"{name}={value}" for name, value in params.items() if value != defaults[name])


def figures(finding: Finding) -> dict[str, Any]:
    """What the place shows: of every target, and of their mean, the figures that sum up the shares."""
    result = finding.result
    assert isinstance(result, Faithfulness)
    targets: dict[str, list[Any]] = {}
    for target, *row in result.rows:
        if not str(row[0]).endswith(_SHARE):
            targets.setdefault(str(target), []).append(to_jsonable(row))
    return {
        "state": "ready",
        "targets": [{"name": name, "rows": rows} for name, rows in targets.items()],
        "info": list(result.info),
        "warnings": list(result.warnings),
    }
