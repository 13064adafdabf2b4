"""Param → component."""

from __future__ import annotations

from typing import Any

import gradio as gr

from attnviz.hooks import Param


def control(param: Param) -> gr.components.Component:
    """The component of a parameter that does not follow the selection."""
    common: dict[str, Any] = {
        "label": param.title,
        "info": param.help or None,
        "min_width": 120,
        "elem_classes": "app-control",
        "value": param.default,
    }
    if param.type == "bool":
        return gr.Checkbox(**{**common, "value": bool(param.default)})
    if param.type == "choice":
        return gr.Dropdown(choices=list(param.choices), **common)
    if param.type in ("int", "float"):
        return _number(param, common)
    if param.choices:
        return gr.Dropdown(choices=list(param.choices), allow_custom_value=True, **common)
    return gr.Textbox(max_lines=1, **common)


def _number(param: Param, common: dict[str, Any]) -> gr.components.Component:
    low, high = param.minimum, param.maximum
    whole = param.type == "int"
    if param.default is None:  # gr.Number turns an empty field into 0
        return gr.Textbox(max_lines=1, placeholder="auto", **common)
    return gr.Number(precision=0 if whole else None, minimum=low, maximum=high, **common)


def changes(component: gr.components.Component) -> list[Any]:
    """The events that mean "the user set another value"."""
    if isinstance(component, (gr.Textbox, gr.Number)):
        return [component.submit, component.blur]
    return [component.input]
