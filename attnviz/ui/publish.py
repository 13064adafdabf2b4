"""Every analysis as an API endpoint of its own name, and what is known of a model; the JSON of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from attnviz.hooks import Analysis, Param
from attnviz.model_card import COUNTS, describe
from attnviz.session import Session
from attnviz.ui.background import in_words
from attnviz.ui.plugins_tab import plugins_json
from attnviz.ui.wish import default_entry


def publish(session: Session) -> None:
    """Add the endpoints to the open Blocks: one per analysis, `plugins`, `models` and `model_info`."""

    def plugins() -> dict[str, Any]:
        """What is registered, and what failed."""
        return plugins_json(session)

    def models() -> dict[str, Any]:
        """The model menu."""
        fields = ("name", "title", "source", "size", "licence", "note", "backend", "default")
        entries = session.registry.models.values()
        return {"models": [{f: getattr(e, f) for f in fields} for e in entries]}

    gr.api(plugins, api_name="plugins")
    gr.api(models, api_name="models")
    gr.api(_model_info(session), api_name="model_info")  # these three first: gradio gives a taken name a number
    for analysis in session.registry.analyses.values():
        gr.api(_endpoint(session, analysis), api_name=analysis.name, api_description=_description(analysis))


def _model_info(session: Session) -> Callable[..., Any]:
    entry = default_entry(session.registry)
    name = entry.name if entry else ""

    def model_info(model: str = name, tokens: list[int] | None = None) -> dict[str, Any]:
        """What is known of a model before any run; `tokens`: lengths of the runs to estimate."""
        try:
            return describe(session.load(model or name), COUNTS if tokens is None else tokens).to_jsonable()
        except Exception as error:  # the boundary of the API: a failure is a failure, in words
            raise gr.Error(in_words(error), print_exception=False) from None

    return model_info


def _endpoint(session: Session, analysis: Analysis) -> Callable[..., Any]:
    entry = default_entry(session.registry)
    name = entry.name if entry else ""

    def endpoint(text: str, model: str = name, params: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            run = session.load(model or name).trace(text)
            finding = session.analyze(run, analysis.name, params or {})
            return dict(json.loads(finding.to_json()))
        except Exception as error:  # the boundary of the API: a failure is a failure, in words
            raise gr.Error(in_words(error), print_exception=False) from None

    return endpoint


def _description(analysis: Analysis) -> str:
    given = "; ".join(_param(param) for param in analysis.params)
    return f"{analysis.title}: {analysis.summary} Parameters: {given or 'none'}."


def _param(param: Param) -> str:
    words = f", {'|'.join(param.choices)}" if param.choices else ""
    return f"{param.name} ({param.type}, default {param.default!r}{words})"
