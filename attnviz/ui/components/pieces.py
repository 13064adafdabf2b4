"""The pieces of the page that are always the same: each is a script and the data it draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from attnviz.hooks import Analysis, Param
from attnviz.ui.components.part import part, source


def header() -> gr.HTML:
    """Name of the app and the light/dark switch."""
    return part(source("header.js"), elem_id="app-header")


def token_strip() -> gr.HTML:
    """Prompt and answer, token by token. Value: see `attnviz.ui.describe.run_value`."""
    return part(source("token_strip.js"), elem_id="app-strip")


def live_answer() -> gr.HTML:
    """An answer in the making, in place of the strip. Value: see `attnviz.ui.live.GrowingAnswer`, or None."""
    return part(source("live_answer.js"), elem_id="app-live")


def status_line() -> gr.HTML:
    """Model, run and provenance of what is open; reads them from the page."""
    return part(source("status_line.js"), elem_id="app-status")


def notice(**options: Any) -> gr.HTML:
    """Progress, an error, or a reason: {"kind": progress | error | info, "text", "share", "again"} or None."""
    return part(source("notice.js"), elem_classes="app-notice-home", **options)


def example_list(examples: tuple[tuple[str, str], ...]) -> gr.HTML:
    """Prompts to try. Event `pick` carries {"category", "prompt"}."""
    return part(source("examples.js"), examples_value(examples), elem_id="app-examples")


def examples_value(examples: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """What `example_list` draws."""
    return {"examples": [list(pair) for pair in examples]}


def linked(analysis: str, params: list[Param]) -> gr.HTML:
    """Controls of the parameters of one analysis that follow the page's selection."""
    described = [
        {"name": p.name, "type": p.type, "title": p.title, "help": p.help, "words": list(p.choices)} for p in params
    ]
    constants = {"analysis": analysis, "params": described}
    return part(source("linked.js"), constants=constants, elem_classes="app-linked-home")


def view_bar(analysis: Analysis, alone: bool, server_functions: list[Callable[..., Any]]) -> gr.HTML:
    """Info line, switch, exports and Python of one analysis. Event `recompute`: show what belongs here."""
    constants = {
        "analysis": analysis.name,
        "alone": alone,
        "summary": analysis.summary,
        "tab": analysis.group,
    }
    return part(
        source("view_bar.js"), constants=constants, server_functions=server_functions, elem_classes="app-bar-home"
    )


def picture(**options: Any) -> gr.HTML:
    """A PNG: {"png": base64, "title"} or None."""
    return part(source("picture.js"), **options)


def plain_text(**options: Any) -> gr.HTML:
    """Text: {"text"} or None."""
    return part(source("plain_text.js"), **options)


def plain_table(value: Any = None, **options: Any) -> gr.HTML:
    """A table that sorts: {"columns", "rows"} or None."""
    return part(source("plain_table.js"), value, **options)


def sheet(empty: str, **options: Any) -> gr.HTML:
    """Text and tables to read: {"blocks": [{"heading", "text", "columns", "rows", …}]}; `empty` where there is none."""
    return part(source("sheet.js"), constants={"empty": empty}, **options)
