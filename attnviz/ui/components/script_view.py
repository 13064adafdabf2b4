"""The host of script views: a component for each renderer that brings its own JavaScript."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from attnviz.hooks import Renderer
from attnviz.ui.components.part import part


def script_view(renderer: Renderer, fetch_detail: Callable[..., Any], **options: Any) -> gr.HTML:
    """A renderer's script, mounted by the page. Value: {"run", "analysis", "params", "data"} or None."""
    return part(mounting(renderer), server_functions=[fetch_detail], **options)


def mounting(renderer: Renderer) -> str:
    """JavaScript that mounts the renderer: its script becomes the body of a function (root, data, host).

    Name and style enter as JSON, which is also a JavaScript literal.
    """
    head = f"name: {json.dumps(renderer.name)}, style: {json.dumps(renderer.style)}"
    body = f"function (root, data, host) {{\n{renderer.script}\n}}"
    return f"window.attnviz.mount({{element, props, watch, server, {head}, draw: {body}}});"
