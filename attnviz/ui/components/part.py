"""What every piece of the page shares: a static template, a script beside this module, and a value as data.

Gradio evaluates `${…}` and `{{…}}` in templates, also where they come from data. So no template here holds data: the
DOM is built by the script with `textContent`. The pieces are functions, not subclasses of gr.HTML, because gradio
writes a .pyi file beside the source of every subclass when it is imported. What never changes enters as `constants`,
not as properties: an update that changes nothing empties the properties of a component that is not mounted yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent
TEMPLATE = '<div class="app-part"></div>'


def source(name: str) -> str:
    """Text of a script or style that lies beside this module."""
    return (HERE / name).read_text(encoding="utf-8")


def part(
    script: str,
    value: Any = None,
    *,
    constants: Mapping[str, Any] | None = None,
    server_functions: list[Callable[..., Any]] | None = None,
    **options: Any,
) -> gr.HTML:
    """A piece of the page drawn by JavaScript.

    Args:
        script: finds the component in `element`, its value in `props.value`.
        value: JSON-able data, or None for nothing.
        constants: JSON-able; the script finds them under this name.
    """
    if constants is not None:
        script = f"const constants = {json.dumps(constants)};\n{script}"
    return gr.HTML(
        value,
        html_template=TEMPLATE,
        css_template="",
        js_on_load=script,
        apply_default_css=False,
        server_functions=server_functions,
        **options,
    )
