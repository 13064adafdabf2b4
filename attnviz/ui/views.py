"""View → component: what each kind of view is shown in, and the value that goes there."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import gradio as gr

from attnviz.hooks import Finding, Renderer, View, to_jsonable
from attnviz.ui.components.pieces import picture, plain_table, plain_text
from attnviz.ui.components.script_view import script_view

SHOWN = ("script", "plotly", "table", "text", "image")
"""Kinds that have a place on the screen; html and file are downloads."""

ROWS_SHOWN = 2000
"""Rows of a table that are drawn, with a line that says so; a browser stands still over a hundred thousand."""


def on_screen(renderers: list[Renderer]) -> list[Renderer]:
    """The renderers offered in the switch of a view.

    One that writes text or images to files is a download when something made for the screen draws the result too.
    """
    shown = [r for r in renderers if r.produces in SHOWN]
    made_for_it = [r for r in shown if not r.suffixes or r.produces in ("script", "plotly", "table")]
    return made_for_it or shown


def place_for(renderer: Renderer, fetch_detail: Callable[..., Any], visible: bool) -> gr.components.Component:
    """The empty component of a renderer."""
    common: dict[str, Any] = {"visible": visible, "elem_classes": "app-view"}
    if renderer.produces == "script":
        return script_view(renderer, fetch_detail, **common)
    kinds = {"table": plain_table, "text": plain_text, "image": picture}
    if renderer.produces in kinds:
        return kinds[renderer.produces](**common)
    return gr.Plot(show_label=False, container=False, **common)


def reference(finding: Finding) -> dict[str, Any]:
    """The value of a script view whose data the page asks for; gradio sends and compares values several times."""
    return {"run": finding.run, "analysis": finding.analysis, "params": to_jsonable(finding.params)}


def view_value(view: View, finding: Finding) -> Any:
    """What the component of this kind takes."""
    if view.kind == "script":
        return {**reference(finding), "data": to_jsonable(view.payload)}
    if view.kind == "table":
        columns, rows = view.payload
        return {"columns": to_jsonable(columns), "rows": to_jsonable(rows[:ROWS_SHOWN]), "count": len(rows)}
    if view.kind == "text":
        return {"text": view.payload}
    if view.kind == "image":
        return {"png": base64.b64encode(view.payload).decode(), "title": finding.title}
    return view.payload
