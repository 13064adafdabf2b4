"""summary.txt: what came out, as text to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attnviz.bench.faithfulness import FIGURES
from attnviz.bench.folder import Benchmark
from attnviz.bench.insights import insights
from attnviz.bench.statistics import Pair, pairs
from attnviz.bench.tables import method_rows

SHOWN = 5
"""Errors of a model and method that are quoted."""


def summary(benchmark: Benchmark) -> str:
    """The text."""
    found = pairs(benchmark)
    lines = [f"Attribution benchmark - {benchmark.started}", ""]
    lines += [
        f"Total prompts: {len(benchmark.plan.prompts)}",
        f"Cells: {len(benchmark.cells)} of {benchmark.plan.cells}",
    ]
    if not benchmark.done:
        lines.append("Not finished: the same command goes on with it.")
    lines += ["", "System Information", *(f"  {line}" for line in _system(benchmark.system))]
    for pair, row in zip(found, method_rows(benchmark), strict=True):
        lines += ["", f"{pair.model} / {pair.method}", *(f"  {line}" for line in _of(pair, row))]
    lines += ["", "Insights", *(f"  {item.title} ({item.figure}): {item.text}" for item in insights(found))]
    return "\n".join(lines) + "\n"


def _system(system: Mapping[str, Any]) -> Iterator[str]:
    named = {
        "Platform": ("platform", "platform_version"),
        "CPU": ("cpu_model",),
        "Cores": ("cpu_cores",),
        "Memory (GB)": ("memory_total_gb",),
        "PyTorch": ("torch_version",),
        "Processes": ("processes",),
    }
    for title, keys in named.items():
        known = [str(system[key]) for key in keys if system.get(key) is not None]
        yield f"{title}: {' '.join(known) or 'not known'}"
    cuda = f" (CUDA {system.get('cuda_version')})" if system.get("gpu_info") else ""
    yield f"GPU: {system.get('gpu_info') or 'none'}{cuda}"


def _of(pair: Pair, row: Mapping[str, Any]) -> Iterator[str]:
    if pair.success_rate is None:
        yield "Not tried yet."
        return
    yield f"Success rate: {pair.success_rate:.1f}% ({len(pair.succeeded)}/{len(pair.cells)})"
    yield f"Model loading: {_number(row['model_loading_time'])} s"
    yield f"Attribution: {_number(row['attribution_time'])} s, {_number(row['cpu_seconds'])} CPU s"
    yield f"Average per prompt: {_number(row['average_prompt_time'])} s"
    yield f"Total: {_number(row['total_time'])} s"
    yield f"Prompt tokens per second: {_number(row['tokens_per_second'])}"
    yield f"Peak memory: {_number(row['peak_memory_mb'])} MB"
    if row["completeness_delta"] is not None:
        yield f"Largest completeness gap: {_number(row['completeness_delta'])}"
    if row["comprehensiveness"] is not None:
        for name in FIGURES:
            title, chance = name.capitalize().replace("_", " "), _number(row[f"{name}_random"])
            yield f"{title}: {_number(row[name])} (random orders: {chance})"
    for cell in pair.failed[:SHOWN]:
        yield f"Failed at {cell.error_stage}, prompt {cell.prompt}: {' '.join(cell.error.split())}"
    if len(pair.failed) > SHOWN:
        yield f"… and {len(pair.failed) - SHOWN} more failures, all in prompt_timing_results.csv"


def _number(value: Any) -> str:
    return "not known" if value is None else f"{value:.4g}"
