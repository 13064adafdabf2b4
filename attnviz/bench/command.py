"""`attnviz bench`: plan or resume a benchmark, compute what is missing, write tables and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from attnviz.bench.folder import (
    SYSTEM,
    Benchmark,
    has_plan,
    read_benchmark,
    read_plan,
    remove_unfinished,
    write_json,
    write_plan,
    write_text,
)
from attnviz.bench.machine import system_info
from attnviz.bench.plan import ANSWER, DEFAULT_METHODS, DEFAULT_MODELS, FORMATS, Plan, plan_benchmark
from attnviz.bench.processes import Crew, crew
from attnviz.bench.progress import Progress
from attnviz.bench.prompts import read_prompts
from attnviz.bench.runner import Work, compute, remaining
from attnviz.bench.summary import summary
from attnviz.bench.tables import TABLES, csv_text
from attnviz.bench.view import report
from attnviz.errors import BadInput
from attnviz.registry import Registry, load_registry

LOADING = ("backend", "revision", "dtype", "device")
PLANNING = ("models", "methods", "prompts", "limit", "format", "max_new_tokens", "faithfulness")
"""Options that say what is to be done; without any of them a benchmark that has been begun goes on."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command, beside those of loading."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the benchmark; goes on where it stopped")
    parser.add_argument("--models", metavar="A,B", help=f"menu names, folders or hub ids ({','.join(DEFAULT_MODELS)})")
    parser.add_argument("--methods", metavar="M1,M2", help=f"methods of attribution ({','.join(DEFAULT_METHODS)})")
    parser.add_argument("--prompts", metavar="FILE", help="a CSV file of prompts (a small set of our own)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument(
        "--format", choices=FORMATS, help="how a prompt is read (auto: as a chat message where it can be)"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help=f"longest answer ({ANSWER})")
    parser.add_argument(
        "-p", "--param", action="append", default=[], metavar="METHOD.NAME=VALUE", help="parameter; repeatable"
    )
    parser.add_argument(
        "--faithfulness",
        action="store_true",
        default=None,
        help="test every attribution by removing what it points at, beside random orders",
    )
    parser.add_argument("--retry", action="store_true", help="try again what has failed")
    parser.add_argument("--report", action="store_true", help="only write the tables of what is there so far")


def run(options: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    folder = Path(options.out)
    if options.report:
        write_reports(folder)
        return 0
    together = crew(options.device)
    registry = load_registry(safe=options.no_plugins)
    plan = _begin(folder, options, registry, together)
    todo = together.told_by_first(remaining(folder, plan, retry=options.retry) if together.leads else [])
    failed = _compute(folder, plan, registry, todo, together)
    everything = together.gathered(failed)
    if not together.leads:
        return 0
    return _conclude(folder, sum(everything))


def _begin(folder: Path, options: argparse.Namespace, registry: Registry, together: Crew) -> Plan:
    """The plan that all processes carry out, written down by the first.

    Raises:
        BadInput: the folder holds another plan, or is not the same for all processes.
    """
    if together.leads:
        plan = _planned(folder, options, registry)
        remove_unfinished(folder)
        info = system_info(together.count)
        write_json(folder / SYSTEM, info)
    together.wait()
    found, _ = read_plan(folder)
    digest = together.told_by_first(found.digest)
    if digest != found.digest:
        raise BadInput(f"{folder}: expected a folder that all processes share, got one of another benchmark.")
    return plan if together.leads else found


def _planned(folder: Path, options: argparse.Namespace, registry: Registry) -> Plan:
    """The plan of the options; that of the folder where they say nothing, or the same."""
    before = read_plan(folder)[0] if has_plan(folder) else None
    said = any(getattr(options, name) is not None for name in PLANNING) or bool(options.param)
    said = said or any(getattr(options, name) not in (None, "auto") for name in LOADING)
    if before is not None and not said:
        return before
    plan = _asked(options, registry)
    if before is None:
        if folder.is_dir() and any(folder.iterdir()):
            raise BadInput(f"--out {folder}: expected a new folder or that of a benchmark, got one with other files.")
        write_plan(folder, plan, datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"))
    elif before.digest != plan.digest:
        others = ", ".join(plan.differs_from(before)) or "versions"
        raise BadInput(
            f"--out {folder}: holds a benchmark of another plan (other {others}). Choose another folder, or give only "
            "--out to go on with it."
        )
    return plan


def _asked(options: argparse.Namespace, registry: Registry) -> Plan:
    length = ANSWER if options.max_new_tokens is None else options.max_new_tokens
    if not 1 <= length <= 100_000:
        raise BadInput(f"--max-new-tokens: expected a number from 1 to 100000, got {length}.")
    return plan_benchmark(
        registry,
        _names(options.models, DEFAULT_MODELS),
        _names(options.methods, DEFAULT_METHODS),
        read_prompts(None if options.prompts is None else Path(options.prompts), options.limit),
        params=_params(options.param),
        loading={name: getattr(options, name) for name in LOADING},
        faithfulness=bool(options.faithfulness),
        format=options.format or "auto",
        max_new_tokens=length,
    )


def _names(text: str | None, default: Sequence[str]) -> list[str]:
    return list(default) if text is None else [name.strip() for name in text.split(",")]


def _params(texts: Sequence[str]) -> dict[str, str]:
    params: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or "." not in name:
            raise BadInput(f"-p: expected METHOD.NAME=VALUE, got {text!r:.80}.")
        if name in params:
            raise BadInput(f"-p: {name} is given twice, as {params[name]!r:.40} and {value!r:.40}. Give it once.")
        params[name] = value
    return params


def _compute(folder: Path, plan: Plan, registry: Registry, todo: Sequence[Any], together: Crew) -> list[int]:
    """Compute this process's share; how many failed.

    Raises:
        KeyboardInterrupt: with how far it is.
    """
    mine = [task for model in plan.models for task in together.share([t for t in todo if t[0].name == model.name])]
    progress = Progress(sum(len(methods) for _, _, methods in mine), quiet=not together.leads)
    try:
        compute(Work(registry, plan, folder, progress), todo, together)
    except KeyboardInterrupt:
        progress.end()
        raise KeyboardInterrupt(
            f"stopped after {progress.done} of {progress.total}; the same command goes on with the rest."
        ) from None
    progress.end()
    return [progress.failed]


def _conclude(folder: Path, failed: int) -> int:
    found = write_reports(folder)
    if failed:
        print(
            f"attnviz: {failed} of the attributions of this run failed; {folder / 'summary.txt'} says where.",
            file=sys.stderr,
        )
    if not any(cell.success for cell in found.cells):
        first = found.cells[0]
        raise BadInput(f"No attribution succeeded. The first failed at {first.error_stage}: {first.error}")
    return 0


def write_reports(folder: Path) -> Benchmark:
    """Tables, summary and report of what is there so far.

    Raises:
        BadInput: no folder of a benchmark, a broken file in it, or it cannot be written to.
    """
    found = read_benchmark(folder)
    for name, rows in TABLES.items():
        write_text(folder / name, csv_text(rows(found)))
    write_text(folder / "summary.txt", summary(found))
    write_text(folder / "report.html", report(found))
    print(f"attnviz: {len(found.cells)} of {found.plan.cells} done; wrote {folder / 'report.html'}", file=sys.stderr)
    return found
