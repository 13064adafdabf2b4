"""The part of the left column for measurements: the model's example or a file, and which rows of it are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from attnviz.errors import BadInput
from attnviz.hooks import ModelEntry
from attnviz.session import Session, TracedRun
from attnviz.ui import measurements
from attnviz.ui.background import error_notice
from attnviz.ui.components import pieces
from attnviz.ui.components.part import part, source
from attnviz.ui.measurements import ALL_ROWS, LONGEST_FILE
from attnviz.ui.panels import Panel
from attnviz.ui.wish import OWN, Wish, default_entry

TAB = "Sensors"
UPLOAD = "upload"
"""Value of the choice of an uploaded file."""
PRIVATE: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass
class MeasureBox:
    """The components.

    frame   everything;  rows  what is asked once measurements are chosen
    data    "" = a prompt instead, UPLOAD, or the number of an example
    line    what was read of the file, or why nothing was
    """

    frame: gr.Column
    data: gr.Dropdown
    rows: gr.Column
    file: gr.File
    window: gr.Dropdown
    item: gr.Textbox
    keep: gr.Checkbox
    line: gr.HTML

    @property
    def asked(self) -> list[Any]:
        """What `measurements.asked` takes behind the entry of the menu."""
        return [self.data, self.file, self.window, self.item, self.keep]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the model."""
        return [self.frame, self.data, self.rows, self.file, self.window, self.item, self.keep, self.line]


def build_measure_box(session: Session, model: gr.Dropdown) -> MeasureBox:
    """Lay it out inside the open Blocks. model: the menu above it."""
    entry = default_entry(session.registry)
    choices, chosen = _choices(entry)
    with gr.Column(visible=_offered(entry), elem_id="app-measured", scale=0, min_width=0) as frame:
        data = gr.Dropdown(choices, value=chosen, label="Measurements", elem_id="app-data")
        with gr.Column(visible=bool(chosen), elem_id="app-measured-rows", scale=0, min_width=0) as rows:
            file = gr.File(label="CSV or NPY", visible=False, type="filepath", height=110, elem_id="app-file")
            with gr.Row():
                window = gr.Dropdown(
                    ["last", "first", ALL_ROWS],
                    value="last",
                    label="Rows (or START:STOP)",
                    allow_custom_value=True,
                    min_width=100,
                    elem_id="app-window",
                )
                item = gr.Textbox(
                    "", label="Item of a batch", max_lines=1, min_width=80, placeholder="none", elem_id="app-item"
                )
            keep = gr.Checkbox(label="Keep sensors that never change", value=False, elem_id="app-keep", container=False)
            line = pieces.notice(elem_id="app-measured-line")
        part(source("upload_guard.js"), constants={"most": LONGEST_FILE, "within": "app-file"})
    box = MeasureBox(frame, data, rows, file, window, item, keep, line)
    _wire(session, model, box)
    return box


def _offered(entry: ModelEntry | None) -> bool:
    """Whether a model may read measurements: it has examples, or nothing is known of it."""
    return entry is None or bool(entry.data)


def _choices(entry: ModelEntry | None) -> tuple[list[tuple[str, str]], str]:
    """Choices, and the first of them, which is taken."""
    examples = [(title, str(number)) for number, (title, _) in enumerate(entry.data if entry else ())]
    choices = [*(examples or [("none: a prompt", "")]), ("a file (CSV, NPY)", UPLOAD)]
    return choices, choices[0][1]


# --------------------------------------------------------------------------------------------- events


def _wire(session: Session, model: gr.Dropdown, box: MeasureBox) -> None:
    def of_model(name: str) -> dict[Any, Any]:
        entry = session.registry.models.get(name)
        return _emptied(box, entry)

    def say(name: str, *given: Any) -> Iterator[dict[Any, Any]]:
        yield from _said(session, box, name, given)

    asked: dict[str, Any] = {"inputs": [model, *box.asked], "outputs": [box.rows, box.file, box.line], **PRIVATE}
    chosen = model.input(of_model, model, box.outputs, **PRIVATE)
    chosen.then(say, **asked)
    moved = [box.data.input, box.file.upload, box.file.clear, box.window.input, box.keep.input]
    gr.on([*moved, box.item.submit, box.item.blur], say, trigger_mode="always_last", **asked)


def _emptied(box: MeasureBox, entry: ModelEntry | None) -> dict[Any, Any]:
    """The box as it is when a model has just been chosen."""
    choices, chosen = _choices(entry)
    return {
        box.frame: gr.Column(visible=_offered(entry)),
        box.data: gr.Dropdown(choices, value=chosen),
        box.rows: gr.Column(visible=_offered(entry) and bool(chosen)),
        box.file: gr.File(value=None, visible=False),
        box.window: "last",
        box.item: "",
        box.keep: False,
        box.line: None,
    }


def _said(session: Session, box: MeasureBox, name: str, given: tuple[Any, ...]) -> Iterator[dict[Any, Any]]:
    """What is read of the file that is chosen, in one line, or why it cannot be."""
    data = given[0]
    entry = session.registry.models.get(name)
    shown = {box.rows: gr.Column(visible=bool(data)), box.file: gr.File(visible=data == UPLOAD)}
    try:
        measured = measurements.asked(entry, *given) if _offered(entry) else None
        if measured is None or (measured.example is None and not measured.file):
            yield {**shown, box.line: None}
            return
        if entry is None:
            text = measurements.described(session, measured, entry)
        else:
            yield {**shown, box.line: {"kind": "info", "text": "Reading the file", "share": 0.0}}
            text = measurements.in_words(session.load(entry.name), measured, entry)
        yield {**shown, box.line: {"kind": "info", "text": text, "share": 0.0}}
    except Exception as error:  # the boundary of the page
        yield {**shown, box.line: error_notice(error)}


def with_measurements(session: Session, box: MeasureBox, wish: Wish, values: Mapping[Any, Any]) -> Wish:
    """The wish with the measurements of the left column.

    Raises:
        BadInput: what is typed there cannot be read.
    """
    entry = session.registry.models.get(wish.model)
    if wish.model != OWN and not _offered(entry):
        return wish
    return dataclasses.replace(wish, measured=measurements.asked(entry, *(values[c] for c in box.asked)))


def as_asked(box: MeasureBox, entry: ModelEntry | None, wish: Wish) -> dict[Any, Any]:
    """The box as an address or a saved run has it."""
    made, measured = _emptied(box, entry), wish.measured
    if measured is None or measured.example is None:
        return made
    about = {box.window: measured.window, box.item: "" if measured.item is None else str(measured.item)}
    return {**made, box.data: gr.Dropdown(_choices(entry)[0], value=str(measured.example)), **about,
            box.keep: measured.keep_constant}  # fmt: skip


def choosers(panels: list[Panel]) -> list[Any]:
    """The controls that choose which prediction is explained."""
    return [panel.controls["output"] for panel in panels if _explains(panel)]


def told(box: MeasureBox, panels: list[Panel], wish: Wish, run: TracedRun) -> dict[Any, Any]:
    """What a new run tells: names of what its model predicts, to choose from, and what was read of an example."""
    names, measured = measurements.predicted(run), wish.measured
    said = {chooser: gr.Dropdown(choices=["all", *names]) for chooser in choosers(panels)} if names else {}
    if measured is None or measured.example is None:
        return said
    text = measurements.in_words(run.model, measured, run.model.session.registry.models.get(wish.model))
    return {**said, box.line: {"kind": "info", "text": text, "share": 0.0}}


def _explains(panel: Panel) -> bool:
    return "sensors" in panel.analysis.requires and isinstance(panel.controls.get("output"), gr.Dropdown)


def shows_measurements(session: Session, run: str) -> bool:
    """Whether the run of an id is one of measurements."""
    try:
        return bool(run) and session.run(run).tokens.values is not None
    except BadInput:
        return False
