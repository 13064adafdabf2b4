"""The Model tab: what is known of a model before any run, and what runs of some lengths will take."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from attnviz.errors import BadInput
from attnviz.model_card import (
    COUNTS,
    Description,
    Expected,
    analysis_table,
    checked_counts,
    describe,
    described,
    estimate_table,
    facts,
    layer_table,
    summary,
)
from attnviz.registry import Registry
from attnviz.session import LoadedModel, Session
from attnviz.ui.background import Job, error_notice, in_words, noticed
from attnviz.ui.components.pieces import notice, sheet
from attnviz.ui.panels import Updates

TITLE, ID = "Model", "model"
NOBODY = "Choose a model and press “Look at the model”: what is known of it appears here. No prompt is needed."
TAKES = (
    "What one run of so many tokens will take, before it runs. Memory is that of the trace; the peak is needed at once "
    "beside the model's weights. Detail says how exactly queries and keys are kept."
)
WAITING = "The model is not in memory yet; press Estimate to load it."
PATIENCE, PAUSE = 30.0, 0.25
"""Seconds that an open tab waits for a model which is being loaded, and between two looks."""


@dataclass
class ModelTab:
    """The components of the tab. `model` keeps which model of this browser it shows, None = none."""

    tab: gr.Tab
    model: gr.State
    notice: gr.HTML
    card: gr.HTML
    counts: gr.Textbox
    ask: gr.Button
    estimates: gr.HTML
    analyses: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        """Every component an answer may change."""
        return [self.model, self.notice, self.card, self.estimates, self.analyses]

    def empty(self) -> Updates:
        """Nothing is shown."""
        return dict.fromkeys(self.outputs)


def build_model_tab() -> ModelTab:
    """Lay out the tab inside the open Blocks."""
    with gr.Tab(TITLE, id=ID) as tab:
        model = gr.State(None)
        note = notice()
        card = sheet(NOBODY, elem_id="app-card")
        gr.Markdown("What a run takes", elem_classes="app-heading")
        with gr.Row(elem_classes="app-estimate"):
            counts = gr.Textbox(
                ", ".join(map(str, COUNTS)), label="Tokens", max_lines=1, min_width=120, elem_id="app-counts"
            )
            ask = gr.Button("Estimate", min_width=80, scale=0, elem_id="app-estimate")
        estimates = sheet("", elem_id="app-estimates")
        analyses = sheet("", elem_id="app-analyses")
    return ModelTab(tab, model, note, card, counts, ask, estimates, analyses)


# --------------------------------------------------------------------------------------------- what it shows


def shown(tab: ModelTab, model: LoadedModel, counts: str, above: str | None = None) -> Updates:
    """The tab over a model; estimates only where it is in memory.

    Args:
        above: model of the run in the strip above, if that is another one.
    """
    about = described(model)
    return {
        tab.model: (model.name, model.spec),
        tab.notice: None,
        tab.card: card_sheet(about, above),
        tab.estimates: in_memory_estimates(model, counts) if in_memory(model) else estimates_sheet((), WAITING),
        tab.analyses: analyses_sheet(about, model.session.registry),
    }


def in_memory(model: LoadedModel) -> bool:
    """Whether estimating needs no loading."""
    return model.session.loaded(model.spec) is not None


def in_memory_estimates(model: LoadedModel, counts: str) -> dict[str, Any]:
    """The estimates of a model that is in memory, or what is wrong, in their place."""
    try:
        return estimates_sheet(describe(model, parse_counts(counts)).estimates, TAKES)
    except Exception as error:  # the boundary of the page: the card beside it does not depend on the estimates
        return estimates_sheet((), in_words(error))


def estimate(tab: ModelTab, session: Session, kept: Any, counts: str) -> Iterator[Updates]:
    """Estimate was pressed; loads the model if it is not in memory. What was there stays if that fails."""
    try:
        if kept is None:
            yield {tab.notice: {"kind": "info", "text": NOBODY, "share": 0.0}}
            return
        lengths = parse_counts(counts)
        model = _again(session, kept)

        def work(job: Job) -> Description:
            job.report(0.1, f"Estimating {model.name}")
            return describe(model, lengths)

        about = yield from noticed(tab.notice, work)
        yield {tab.notice: None, tab.estimates: estimates_sheet(about.estimates, TAKES)}
    except Exception as error:  # the boundary of the page
        yield {tab.notice: error_notice(error)}


def estimate_when_loaded(tab: ModelTab, session: Session, kept: Any, counts: str) -> Iterator[Updates]:
    """The tab came into sight: estimates, as soon as somebody else has loaded the model. Loads nothing."""
    if kept is None:
        return
    model = _again(session, kept)
    end = time.monotonic() + PATIENCE
    while not in_memory(model):
        if time.monotonic() > end:
            return
        time.sleep(PAUSE)
    yield {tab.estimates: in_memory_estimates(model, counts)}


def _again(session: Session, kept: tuple[str, Any]) -> LoadedModel:
    name, spec = kept
    return LoadedModel(session, spec, name, session.card(spec))


def parse_counts(text: str | None) -> list[int]:
    """Lengths from "128, 1024". Raises BadInput for anything that is no whole number from 1, and for nothing."""
    words = re.findall(r"[^\s,;]+", text or "")
    if not words:
        raise BadInput(f"Tokens: expected whole numbers such as {COUNTS[0]}, {COUNTS[1]}; got nothing.")
    for word in words:
        if not (word.isascii() and word.isdigit() and len(word) <= 12):
            raise BadInput(f"Tokens: expected whole numbers such as {COUNTS[0]}, {COUNTS[1]}; got {word[:40]!r}.")
    return checked_counts(int(word) for word in words)


# --------------------------------------------------------------------------------------------- as blocks of a sheet


def card_sheet(about: Description, above: str | None = None) -> dict[str, Any]:
    """One line, all facts, and the layers."""
    text = "" if above is None else f"Looked at, not run: the tokens above are of {above}."
    heading, rows = summary(about.model, about.card), facts(about.card)
    folded, every = layer_table(about.card), layer_table(about.card, every=True)
    unfolded = {"columns": every[0], "rows": every[1]} if len(every[1]) > len(folded[1]) else None
    return {
        "blocks": [
            {"heading": heading, "text": text, "label": "About the model", "columns": [], "rows": rows},
            {"heading": "Layers", "columns": folded[0], "rows": folded[1], "unfolded": unfolded},
        ]
    }


def estimates_sheet(estimates: tuple[Expected, ...], text: str) -> dict[str, Any]:
    """The estimates under a line of text."""
    columns, rows = estimate_table(estimates)
    return {"blocks": [{"text": text, "label": "What a run takes", "columns": columns if rows else [], "rows": rows}]}


def analyses_sheet(about: Description, registry: Registry) -> dict[str, Any]:
    """Every analysis, and whether the model allows it."""
    columns, rows = analysis_table(about.analyses)
    titled = [(registry.analyses[name].title, name, said) for name, said in rows]
    return {"blocks": [{"heading": "Analyses", "columns": [columns[0], "Name", columns[1]], "rows": titled}]}
