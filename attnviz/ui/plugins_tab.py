"""The Plugins tab: what is registered, from where, what failed and why, and how to add one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from attnviz.registry import Failure, Registry
from attnviz.session import Session
from attnviz.ui.components.pieces import plain_table

HOW = """Write a file, put it in the `plugins/` folder, start the app again:

```python
import numpy as np

from attnviz.hooks import Analysis, HeadScores, hookimpl


def mean_distance(request):
    layers = [layer.distance.mean(axis=1) for layer in request.trace.layers if layer is not None]
    return HeadScores(metrics={"distance": np.stack(layers)}, units={"distance": "tokens"})


@hookimpl
def attnviz_analyses():
    return [
        Analysis(
            name="mean_distance",
            title="Mean distance",
            group="Heads",
            summary="How far back each head looks.",
            run=mean_distance,
            produces=HeadScores,
        )
    ]
```

It gets a tab entry, controls, pictures, exports, a command and an API endpoint. `attnviz check FILE` says what is wrong
with one.
"""


def registered(registry: Registry) -> dict[str, Any]:
    """One row for each thing a plugin provides."""
    rows = []
    for plugin in registry.plugins:
        for kind, name in plugin.provides:
            what = getattr(registry, kind)[name]
            about = getattr(what, "summary", "") or getattr(what, "title", "")
            rows.append([kind, name, about, plugin.origin, plugin.version, plugin.source])
    return {"columns": ["Kind", "Name", "What", "Origin", "Version", "Source"], "rows": rows}


def problems(failures: Sequence[Failure]) -> dict[str, Any]:
    """One row for each thing that is not usable."""
    rows = [[f.plugin, f.stage, f.reason, f.source] for f in failures]
    return {"columns": ["Plugin", "Stage", "Reason", "Source"], "rows": rows}


def plugins_json(session: Session) -> dict[str, Any]:
    """The same as data."""
    registry = session.registry
    return {
        "plugins": [
            {
                "name": p.name,
                "source": p.source,
                "origin": p.origin,
                "version": p.version,
                "provides": [{"kind": kind, "name": name} for kind, name in p.provides],
            }
            for p in registry.plugins
        ],
        "failures": [_failure(f) for f in [*registry.failures, *session.failures]],
        "unavailable": [_failure(f) for f in registry.unavailable],
    }


def _failure(failure: Failure) -> dict[str, str]:
    return {"plugin": failure.plugin, "source": failure.source, "stage": failure.stage, "reason": failure.reason}


def build_plugins_tab(session: Session) -> None:
    """Lay out the tab inside the open Blocks; failures while running appear when it is opened."""
    registry = session.registry
    with gr.Tab("Plugins", id="plugins") as tab:
        running = [*registry.failures, *session.failures]
        with gr.Column(visible=bool(running), elem_id="app-failures") as failed:
            gr.Markdown("Failures", elem_classes="app-heading")
            failures = plain_table(problems(running))
        if registry.unavailable:
            gr.Markdown("Not available", elem_classes="app-heading")
            plain_table(problems(registry.unavailable))
        gr.Markdown("Registered", elem_classes="app-heading")
        plain_table(registered(registry), elem_id="app-registered")
        with gr.Accordion("Add a plugin", open=False):
            gr.Markdown(HOW)

    def refresh() -> tuple[Any, Any]:
        now = [*registry.failures, *session.failures]
        return gr.Column(visible=bool(now)), problems(now)

    tab.select(
        refresh,
        None,
        [failed, failures],
        js="() => { window.attnviz.place('Plugins'); return []; }",
        show_progress="hidden",
        api_visibility="private",
    )
