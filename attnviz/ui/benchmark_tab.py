"""The Benchmark tab: a folder of `attnviz bench` as figures, sentences and errors. Reads only, and starts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from attnviz.bench.folder import benchmarks, home, read_benchmark
from attnviz.bench.view import NAME, facts, view, view_data
from attnviz.errors import BadInput
from attnviz.ui.background import error_notice
from attnviz.ui.components.pieces import notice
from attnviz.ui.components.script_view import script_view
from attnviz.ui.panels import Updates

TITLE, ID = "Benchmark", "benchmark"
HOW = """A benchmark runs on the command line, stops and goes on as it likes, and can be looked at here meanwhile:

```sh
attnviz bench --models demo --methods attention,saliency,occlusion --faithfulness --out {home}/first
```

`--prompts F.csv` takes prompts of yours, `--models A,B` compares models; the page docs/benchmark.md says the rest.
"""


@dataclass
class BenchmarkTab:
    """The components of the tab."""

    tab: gr.Tab
    folder: gr.Dropdown
    other: gr.Textbox
    notice: gr.HTML
    picture: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """Every component an answer may change."""
        return [self.folder, self.notice, self.picture]


def build_benchmark_tab() -> BenchmarkTab:
    """Lay out and wire the tab inside the open Blocks."""
    with gr.Tab(TITLE, id=ID) as tab:
        with gr.Row(elem_classes="app-estimate"):
            folder = gr.Dropdown([], label=f"Benchmarks in {home()}", min_width=160, elem_id="app-benchmark-folder")
            other = gr.Textbox(label="Another folder", max_lines=1, min_width=160, elem_id="app-benchmark-other")
            again = gr.Button("Open", min_width=80, scale=0, elem_id="app-benchmark-open")
        note = notice()
        picture = script_view(view(), _no_details, elem_id="app-benchmark")
        with gr.Accordion("Run a benchmark", open=False):
            gr.Markdown(HOW.format(home=home()))
    made = BenchmarkTab(tab, folder, other, note, picture)

    def show(chosen: str | None, typed: str) -> Iterator[Updates]:
        yield from _said(made, typed or chosen)

    def pick(chosen: str | None) -> Iterator[Updates]:
        for said in _said(made, chosen):
            yield {**said, other: ""}

    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "trigger_mode": "always_last"}
    say = f"(...given) => {{ window.attnviz.place('{TITLE}'); return given; }}"
    tab.select(show, [folder, other], made.outputs, js=say, **options)
    gr.on([again.click, other.submit], show, [folder, other], made.outputs, **options)
    folder.input(pick, folder, [*made.outputs, other], **options)
    return made


def _no_details(request: dict[str, Any]) -> dict[str, Any]:
    return {"error": "A benchmark is shown as a whole."}


def opened(made: BenchmarkTab, chosen: str | None) -> Iterator[Updates]:
    """What is in the chosen folder; in the newest where none is chosen. What was there stays if it cannot be read."""
    found = {str(path): path.name for path in benchmarks()}
    chosen = (chosen or "").strip() or next(iter(found), "")
    named = [(name, path) for path, name in found.items()]
    choices: Updates = {made.folder: gr.Dropdown(choices=named, value=chosen if chosen in found else None)}
    if not chosen:
        text = f"There is no benchmark in {home()} yet. Below stands how to run one."
        yield {**choices, made.notice: {"kind": "info", "text": text, "share": 0.0}, made.picture: None}
        return
    yield {**choices, made.notice: {"kind": "progress", "text": f"Reading {chosen}", "share": 0.2}}
    try:
        shown = {made.notice: None, made.picture: _shown(chosen)}
    except Exception as error:  # the boundary of the page
        shown = {made.notice: error_notice(error)}
    yield {**choices, **shown}


def _said(made: BenchmarkTab, chosen: str | None) -> Iterator[Updates]:
    """Every answer repeats what the earlier ones said: the browser may take only the last of several."""
    said: Updates = {}
    for updates in opened(made, chosen):
        said |= updates
        yield dict(said)


def _shown(chosen: str) -> dict[str, Any]:
    """The value of the view."""
    try:
        found = read_benchmark(Path(chosen))
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"Folder: expected a path, got {chosen!r:.80}.") from None
    data = {**view_data(found), "facts": [list(fact) for fact in (*facts(found), ("folder", chosen))]}
    return {"run": found.plan.digest, "analysis": NAME, "params": {"folder": chosen}, "data": data}
