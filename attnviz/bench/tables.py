"""The CSV tables of a benchmark. They depend on the records only, not on the order in which cells were computed.

method_timing_results.csv      one row for each model and method
prompt_timing_results.csv      one row for each cell
prompt_aggregated_results.csv  mean, sum, standard deviation or maximum of every measure, for each model and method

Times are seconds. Means and sums are over the prompts that succeeded. total_time is loading the model and the
attributions; answers are not part of it. A missing number is an empty cell.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnviz.bench.faithfulness import FIGURES
from attnviz.bench.folder import Benchmark
from attnviz.bench.records import Cell
from attnviz.bench.statistics import Pair, deviation, mean, pairs, stages
from attnviz.plugins.renderers.csv_file import safe_cell

Value = str | int | float | None
Rows = list[dict[str, Value]]
FAITHFUL = tuple(name for figure in FIGURES for name in (figure, f"{figure}_random"))
STATISTICS: Mapping[str, Callable[[Sequence[float]], float | None]] = {
    "mean": mean,
    "sum": math.fsum,
    "std": deviation,
    "max": max,
}
MEASURES: Mapping[str, Sequence[str]] = {
    "token_count": ("mean", "sum", "std"),
    "output_token_count": ("mean", "sum", "std"),
    "generation_time": ("mean", "sum", "std"),
    "attribution_time": ("mean", "sum", "std", "max"),
    "tokens_per_second": ("mean", "std"),
    "cpu_seconds": ("mean", "sum", "std"),
    "peak_memory_mb": ("mean", "max"),
    "completeness_delta": ("mean", "max"),
    "faithfulness_time": ("mean", "sum"),
    **dict.fromkeys(FAITHFUL, ("mean", "std")),
}
"""Measure of a cell -> what is made of it over prompts."""


def method_rows(benchmark: Benchmark) -> Rows:
    """One row for each model and method."""
    system = benchmark.system
    machine: dict[str, Value] = {
        "platform": system.get("platform"),
        "cpu_model": system.get("cpu_model"),
        "cpu_cores": system.get("cpu_cores"),
        "memory_gb": system.get("memory_total_gb"),
        "gpu_info": system.get("gpu_info"),
        "cuda_available": _yes_no(system.get("torch_cuda_available")),
        "mps_available": _yes_no(system.get("torch_mps_available")),
        "torch_version": system.get("torch_version"),
    }
    return [{**_method_row(benchmark, pair), **machine, **_more_of(pair)} for pair in pairs(benchmark)]


def _method_row(benchmark: Benchmark, pair: Pair) -> dict[str, Value]:
    times = pair.values("attribution_time")
    loaded = benchmark.loaded.get(pair.model)
    loading = None if loaded is None else loaded.seconds
    return {
        "model": pair.model,
        "attribution_method": pair.method,
        "successful_prompts": len(pair.succeeded),
        "total_prompts": len(pair.cells),
        "success_rate": pair.success_rate,
        "model_loading_time": loading,
        "attribution_time": math.fsum(times),
        "average_prompt_time": mean(times),
        "total_time": None if loading is None else loading + math.fsum(times),
    }


def _more_of(pair: Pair) -> dict[str, Value]:
    return {
        "tokens_per_second": pair.mean("tokens_per_second"),
        "cpu_seconds": math.fsum(pair.values("cpu_seconds")),
        "peak_memory_mb": pair.largest("peak_memory_mb"),
        "completeness_delta": pair.largest("completeness_delta"),
        **{name: pair.mean(name) for name in FAITHFUL},
        "failures": "; ".join(f"{stage}: {count}" for stage, count in stages(pair.cells).items()),
    }


def prompt_rows(benchmark: Benchmark) -> Rows:
    """One row for each cell there is."""
    prompts = {prompt.id: prompt for prompt in benchmark.plan.prompts}
    gpu = benchmark.system.get("gpu_info")
    return [
        _prompt_row(cell, prompts[cell.prompt].plain, prompts[cell.prompt].category, gpu) for cell in benchmark.cells
    ]


def _prompt_row(cell: Cell, text: str, category: str, gpu: Any) -> dict[str, Value]:
    return {
        "model": cell.model,
        "attribution_method": cell.method,
        "prompt_id": cell.prompt,
        "token_count": cell.token_count,
        "output_token_count": cell.output_token_count,
        "attribution_time": cell.attribution_time,
        "tokens_per_second": cell.tokens_per_second,
        "prompt_text": text,
        "success": _yes_no(cell.success),
        "device": cell.device,
        "gpu_info": gpu,
        "category": category,
        "generation_time": cell.generation_time,
        "cpu_seconds": cell.cpu_seconds,
        "peak_memory_mb": cell.peak_memory_mb,
        "completeness_delta": cell.completeness_delta,
        **{name: getattr(cell, name) for name in FAITHFUL},
        "faithfulness_time": cell.faithfulness_time,
        "error_stage": cell.error_stage,
        "error": cell.error,
    }


def aggregated_rows(benchmark: Benchmark) -> Rows:
    """Every measure over prompts, one row for each model and method."""
    return [_aggregated(pair) for pair in pairs(benchmark)]


def _aggregated(pair: Pair) -> dict[str, Value]:
    row: dict[str, Value] = {
        "model": pair.model,
        "attribution_method": pair.method,
        "successful_prompts": len(pair.succeeded),
    }
    for name, statistics in MEASURES.items():
        values = pair.values(name)
        row |= {f"{name}_{how}": STATISTICS[how](values) if values else None for how in statistics}
    return row


TABLES = {
    "method_timing_results.csv": method_rows,
    "prompt_timing_results.csv": prompt_rows,
    "prompt_aggregated_results.csv": aggregated_rows,
}


def csv_text(rows: Rows) -> str:
    """A table as the csv module writes it; a text that a spreadsheet would run gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([safe_cell(_plain(value)) for value in row.values()] for row in rows)
    return out.getvalue()


def _plain(value: Any) -> Value:
    """Numbers to nine digits."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    return value if isinstance(value, (str, int)) or value is None else str(value)


def _yes_no(value: Any) -> Value:
    return value if value is None else str(bool(value))
