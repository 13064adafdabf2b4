"""The left column: which model, which prompt, whether an answer is generated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from attnviz.session import Session
from attnviz.store import CATEGORIES
from attnviz.ui.agent_box import AgentBox, build_agent_box
from attnviz.ui.components import pieces
from attnviz.ui.measure_box import MeasureBox, build_measure_box
from attnviz.ui.wish import FORMATS, OWN, default_entry, default_prompt

DEVICES = ("auto", "cpu", "cuda", "mps", "spread", "ndif")
STOP_TEXTS = "none; one on each line, \\n = new line"


@dataclass
class Sidebar:
    """The components of the left column."""

    model: gr.Dropdown
    own: gr.Textbox
    prompt: gr.Textbox
    run: gr.Button
    cancel: gr.Button
    clear: gr.Button
    look: gr.Button
    save: gr.Button
    shelf: gr.Dropdown
    notice: gr.HTML
    format: gr.Dropdown
    answer: gr.Checkbox
    length: gr.Number
    temperature: gr.Number
    seed: gr.Textbox
    stop: gr.Textbox
    backend: gr.Dropdown
    device: gr.Dropdown
    category: gr.Dropdown
    top_p: gr.Number
    repetition_penalty: gr.Number
    examples: gr.HTML
    measured: MeasureBox
    go_on: gr.Button
    agent: AgentBox

    @property
    def asked(self) -> list[Any]:
        """The components a `Wish` is read from, in its order of fields."""
        return [
            self.model,
            self.own,
            self.prompt,
            self.answer,
            self.length,
            self.temperature,
            self.seed,
            self.backend,
            self.device,
            self.category,
            self.format,
            self.stop,
            self.top_p,
            self.repetition_penalty,
            *self.agent.asked,
        ]


def build_sidebar(session: Session) -> Sidebar:
    """Lay out the left column inside the open Blocks."""
    registry, settings = session.registry, session.settings
    entry = default_entry(registry)
    examples = entry.examples if entry else ()
    menu = [(f"{e.title} ({e.size})", e.name) for e in registry.models.values()]
    pieces.header()
    model = gr.Dropdown(
        [*menu, ("Another model…", OWN)], value=entry.name if entry else OWN, label="Model", elem_id="app-model"
    )
    own = gr.Textbox(
        label="Hub id or folder",
        placeholder="openai-community/gpt2 or /path/to/folder",
        visible=entry is None,
        max_lines=1,
        elem_id="app-own",
    )
    measured = build_measure_box(session, model)
    prompt = gr.Textbox(
        label="Prompt", value=default_prompt(entry), lines=3, max_lines=12, elem_id="app-prompt", submit_btn=False
    )
    with gr.Row(elem_classes="app-buttons"):
        run = gr.Button("Run", variant="primary", elem_id="app-run", min_width=60, scale=3)
        go_on = gr.Button("Continue", elem_id="app-continue", min_width=60, scale=2)
    with gr.Row(elem_classes="app-buttons"):
        cancel = gr.Button("Cancel", elem_id="app-cancel", min_width=60, scale=1)
        clear = gr.Button("Clear", elem_id="app-clear", min_width=60, scale=1)
    look = gr.Button("Look at the model", elem_id="app-look", size="sm")
    with gr.Row(elem_classes="app-save"):
        save = gr.Button("Save this run", elem_id="app-save", size="sm", min_width=60, scale=3)
        shelf = gr.Dropdown(
            [("category", ""), *CATEGORIES],
            value="",
            container=False,
            show_label=False,
            label="Category of the saved run",
            min_width=60,
            scale=2,
            elem_id="app-save-category",
        )
    notice = pieces.notice(elem_id="app-run-notice")
    answer = gr.Checkbox(label="Generate an answer", value=True, elem_id="app-answer", container=False)
    with gr.Column(scale=0, min_width=0, elem_classes="app-answering") as answering:
        with gr.Row(elem_classes="app-answer-row"):
            length = gr.Number(
                settings.max_new_tokens,
                label="New tokens",
                precision=0,
                minimum=1,
                min_width=60,
                elem_id="app-length",
            )
            temperature = gr.Number(
                settings.temperature,
                label="Temperature",
                minimum=0,
                step=0.1,
                min_width=60,
                elem_id="app-temperature",
            )
            drawn = "" if settings.seed is None else str(settings.seed)
            seed = gr.Textbox(drawn, label="Seed", max_lines=1, min_width=60, placeholder="any", elem_id="app-seed")
        stop = gr.Textbox(
            "", label="Stop texts", lines=1, max_lines=4, placeholder=STOP_TEXTS, elem_id="app-stop", submit_btn=False
        )
        agent = build_agent_box(registry, entry, [length, stop])
    with gr.Accordion("More", open=False, elem_classes="app-more"):
        with gr.Row():
            backend = gr.Dropdown(["auto", *registry.backends], value="auto", label="Backend", min_width=80)
            device = gr.Dropdown(list(DEVICES), value="auto", label="Device", min_width=80)
        kinds = list(dict.fromkeys(kind for e in registry.models.values() for kind, _ in e.examples))
        with gr.Row():
            form = gr.Dropdown(list(FORMATS), value="auto", label="Prompt is", min_width=80, elem_id="app-format")
            category = gr.Dropdown(
                ["", *kinds], value="", label="Category", allow_custom_value=True, min_width=80, elem_id="app-category"
            )
        with gr.Row():
            top_p = gr.Number(
                settings.top_p, label="Top-p", minimum=0, maximum=1, step=0.05, min_width=80, elem_id="app-top-p"
            )
            penalty = gr.Number(
                settings.repetition_penalty,
                label="Repetition penalty",
                minimum=0,
                step=0.05,
                min_width=80,
                elem_id="app-penalty",
            )
    gr.Markdown("Examples", elem_classes="app-heading")
    shown = pieces.example_list(examples)
    answer.change(
        lambda on: gr.Column(visible=on),
        answer,
        answering,
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )
    return Sidebar(
        model,
        own,
        prompt,
        run,
        cancel,
        clear,
        look,
        save,
        shelf,
        notice,
        form,
        answer,
        length,
        temperature,
        seed,
        stop,
        backend,
        device,
        category,
        top_p,
        penalty,
        shown,
        measured,
        go_on,
        agent,
    )
