"""The host of script views. The page learns every renderer once, in its head; a component only says which it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from attnviz.hooks import Renderer
from attnviz.ui.components.part import part, source


def script_view(
    renderer: Renderer, fetch_detail: Callable[..., Any], *, beside: bool = False, **options: Any
) -> gr.HTML:
    """A place for a renderer's view, or for two of them beside each other.

    Value: {"run", "analysis", "params"} and "data", which the page asks `fetch_detail` for if it is not there; or None.
    """
    shown = f"name: {json.dumps(renderer.name)}, beside: {json.dumps(beside)}"
    return part(
        f"window.attnviz.mount({{element, props, watch, server, {shown}}});", server_functions=[fetch_detail], **options
    )


def page_scripts(renderers: list[Renderer]) -> str:
    """HTML for the head of the page: its own script, and each renderer in an element of its own.

    A script that cannot be read by the browser then fails alone.
    """
    beside = f"window.attnviz.beside = (draw) => function (root, data, host) {{\n{source('beside.js')}\n}};"
    known = [_defining(renderer) for renderer in renderers if renderer.produces == "script"]
    scripts = (source("page.js"), beside, source("steps.js"), *known)
    return "\n".join(f"<script>\n{_in_element(text)}\n</script>" for text in scripts)


def _defining(renderer: Renderer) -> str:
    """JavaScript that tells the page of a renderer: its script becomes the body of a function (root, data, host).

    Name and style enter as JSON, which is also a JavaScript literal.
    """
    body = f"function (root, data, host) {{\n{renderer.script}\n}}"
    return f"window.attnviz.define({json.dumps(renderer.name)}, {json.dumps(renderer.style)}, {body});"


def _in_element(script: str) -> str:
    """The script, with nothing in it that ends or confuses the <script> element it lies in; means the same."""
    return re.sub(r"<(?=/script|!--)", r"\\x3C", script, flags=re.IGNORECASE)
