"""A benchmark as a picture: the data of its figures, and the script view that draws them in app and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from attnviz.bench.folder import Benchmark
from attnviz.bench.insights import insights
from attnviz.bench.records import STAGES
from attnviz.bench.statistics import pairs
from attnviz.bench.tables import FAITHFUL, method_rows
from attnviz.hooks import Finding, Renderer, View
from attnviz.plugins.renderers._assets import asset
from attnviz.plugins.renderers.html_page import document

NAME = "benchmark"
HERE = Path(__file__).parent
ERRORS = 200
"""Different errors that are listed."""


def view_data(benchmark: Benchmark) -> dict[str, Any]:
    """What the script draws: names, one row for each model and method, sentences, errors by stage."""
    plan, found = benchmark.plan, pairs(benchmark)
    return {
        "models": [model.name for model in plan.models],
        "methods": [method.name for method in plan.methods],
        "prompts": len(plan.prompts),
        "cells": len(benchmark.cells),
        "planned": plan.cells,
        "rows": [_row(row) for row in method_rows(benchmark)],
        "faithfulness": plan.faithfulness is not None,
        "insights": [asdict(insight) for insight in insights(found)],
        "errors": _errors(benchmark),
    }


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": row["model"],
        "method": row["attribution_method"],
        "tried": row["total_prompts"],
        "succeeded": row["successful_prompts"],
        "time": row["average_prompt_time"],
        "throughput": row["tokens_per_second"],
        "cpu": row["cpu_seconds"] / row["successful_prompts"] if row["successful_prompts"] else None,
        "memory": row["peak_memory_mb"],
        "delta": row["completeness_delta"],
        **{name: row[name] for name in FAITHFUL},
    }


def _errors(benchmark: Benchmark) -> list[dict[str, Any]]:
    """Equal errors of a stage, a model and a method together, in the order of the stages."""
    grouped: dict[tuple[str, str, str, str], list[int]] = {}
    for cell in benchmark.cells:
        if not cell.success:
            grouped.setdefault((cell.error_stage, cell.model, cell.method, cell.error), []).append(cell.prompt)
    ordered = sorted(grouped.items(), key=lambda item: STAGES.index(item[0][0]))
    return [
        {
            "stage": stage,
            "model": model,
            "method": method,
            "error": error[:400],
            "prompts": prompts[:20],
            "count": len(prompts),
        }
        for (stage, model, method, error), prompts in ordered[:ERRORS]
    ]


def facts(benchmark: Benchmark) -> list[tuple[str, str]]:
    """What stands above the figures."""
    plan, system = benchmark.plan, benchmark.system
    told = {
        "begun": benchmark.started,
        "models": ", ".join(model.name for model in plan.models),
        "methods": ", ".join(method.name for method in plan.methods),
        "prompts": str(len(plan.prompts)),
        "longest answer": f"{plan.max_new_tokens} tokens",
        "CPU": system.get("cpu_model"),
        "cores": system.get("cpu_cores"),
        "GPU": system.get("gpu_info") or "none",
        "processes": system.get("processes"),
        "torch": system.get("torch_version"),
    }
    return [(name, str(value)) for name, value in told.items() if value is not None]


def report(benchmark: Benchmark) -> str:
    """One offline HTML page: same records, same bytes."""
    title = "Attribution benchmark"
    about = {"title": title, "facts": [list(fact) for fact in facts(benchmark)], "info": [], "warnings": []}
    return document(title, {"about": about, "view": view_data(benchmark)}, view().script, view().style)


def _never(finding: Finding) -> View:
    """A benchmark is no finding; the page gets its data as it is."""
    raise NotImplementedError


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@cache
def view() -> Renderer:
    """The script view of `view_data`."""
    return Renderer(
        name=NAME,
        title="Benchmark",
        accepts=(),
        produces="script",
        render=_never,
        script="\n".join((asset("_common.js"), _text("view.js"))),
        style="\n".join((asset("_common.css"), _text("view.css"))),
    )
