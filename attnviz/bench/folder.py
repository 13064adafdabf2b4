"""The folder of a benchmark.

    plan.json                       what is asked for
    MODEL/model.json                how the model was loaded
    MODEL/method_METHOD/cells/N.json    what a method took over prompt N, or where it failed
    MODEL/method_METHOD/data/N.json     its result, as `attnviz run` prints it
    system_info.json, *.csv, summary.txt, report.html    made of all that

Every file is written beside its place, flushed to disk and renamed, so a kill leaves whole files only.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from attnviz.bench.plan import FORMAT, FORMATS, Plan, PlannedMethod, PlannedModel, file_name
from attnviz.bench.prompts import Prompt
from attnviz.bench.records import Cell, Loaded, read_record
from attnviz.errors import BadInput

PLAN, SYSTEM = "plan.json", "system_info.json"
MAX_PLAN, MAX_RECORD = 256 << 20, 1 << 20
MAX_CELLS = 1_000_000
Value = TypeVar("Value")


@dataclass(frozen=True)
class Benchmark:
    """All that a folder holds: the plan, when it was begun, the machine, and the records there are so far."""

    plan: Plan
    started: str
    cells: tuple[Cell, ...] = ()
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether every cell has been tried."""
        return len(self.cells) == self.plan.cells


# --------------------------------------------------------------------------------------------- places


def cell_path(folder: Path, model: PlannedModel, method: str, prompt: int) -> Path:
    """Where the record of a cell lies."""
    return folder / model.folder / f"method_{file_name(method)}" / "cells" / f"{prompt:05d}.json"


def result_path(folder: Path, model: PlannedModel, method: str, prompt: int) -> Path:
    """Where the result of a cell lies."""
    return folder / model.folder / f"method_{file_name(method)}" / "data" / f"{prompt:05d}.json"


def loaded_path(folder: Path, model: PlannedModel) -> Path:
    """Where the record of a model lies."""
    return folder / model.folder / "model.json"


# --------------------------------------------------------------------------------------------- writing


def write_text(path: Path, text: str) -> None:
    """The whole text or nothing; makes the folder.

    Raises:
        BadInput: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8", newline="", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """JSON text; see write_text."""
    write_text(path, json.dumps(data, allow_nan=False, indent=1) + "\n")


def write_plan(folder: Path, plan: Plan, started: str) -> None:
    """Begin a benchmark in a folder."""
    write_json(folder / PLAN, {"format": FORMAT, "digest": plan.digest, "started": started, "plan": plan.to_jsonable()})


def write_cell(folder: Path, model: PlannedModel, cell: Cell) -> None:
    """A cell is done, one way or the other."""
    write_json(cell_path(folder, model, cell.method, cell.prompt), asdict(cell))


def write_loaded(folder: Path, model: PlannedModel, loaded: Loaded) -> None:
    """A model is loaded, or cannot be; the record of a success stays as it was first written."""
    before = read_loaded(folder, model)
    if before is None or not before.success:
        write_json(loaded_path(folder, model), asdict(loaded))


# --------------------------------------------------------------------------------------------- reading


def has_plan(folder: Path) -> bool:
    """Whether a benchmark has been begun in a folder."""
    return (folder / PLAN).is_file()


def read_plan(folder: Path) -> tuple[Plan, str]:
    """The plan of a folder, and when it was begun.

    Raises:
        BadInput: no benchmark, or a plan that is none.
    """
    if not has_plan(folder):
        raise BadInput(f"{folder}: expected the folder of a benchmark, with a file {PLAN}; there is none.")
    data, where = _json(folder / PLAN, MAX_PLAN), f"{folder.name}/{PLAN}"
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BadInput(f"{where}: expected a plan of the format {FORMAT}, got another file.")
    try:
        plan = _plan(data["plan"])
        started = data["started"]
        fits = data["digest"] == plan.digest and isinstance(started, str) and len(started) <= 40
    except (KeyError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise BadInput(f"{where}: expected a plan as it was written, got a changed one. Start again in a new folder.")
    if plan.cells > MAX_CELLS:
        raise BadInput(f"{where}: expected at most {MAX_CELLS:,} cells, got {plan.cells:,}.")
    return plan, started


def _plan(data: Mapping[str, Any]) -> Plan:
    """A plan from JSON; the digest over all of it is compared afterwards."""
    plan = Plan(
        models=tuple(PlannedModel(**model) for model in data["models"]),
        methods=tuple(PlannedMethod(**method) for method in data["methods"]),
        prompts=tuple(Prompt(**prompt) for prompt in data["prompts"]),
        loading=data["loading"],
        format=data["format"],
        max_new_tokens=data["max_new_tokens"],
        faithfulness=data["faithfulness"],
    )
    texts = [value for model in plan.models for value in (model.name, model.folder, model.source)]
    texts += [value for prompt in plan.prompts for value in (prompt.text, prompt.system, prompt.category)]
    texts += [value for method in plan.methods for value in (method.name, method.version)]
    sane = (
        all(isinstance(text, str) for text in texts)
        and all(model.folder == file_name(model.folder) for model in plan.models)
        and [prompt.id for prompt in plan.prompts] == list(range(1, len(plan.prompts) + 1))
        and all(isinstance(method.params, dict) for method in plan.methods)
        and isinstance(plan.loading, dict)
        and plan.format in FORMATS
        and type(plan.max_new_tokens) is int
        and (plan.faithfulness is None or isinstance(plan.faithfulness, dict))
    )
    if not sane or not plan.cells:
        raise ValueError
    return plan


def read_cell(folder: Path, model: PlannedModel, method: str, prompt: int) -> Cell | None:
    """The record of a cell; None if it has not been computed.

    Raises:
        BadInput: a file that is none.
    """
    path = cell_path(folder, model, method, prompt)
    if not path.is_file():
        return None
    where = str(path.relative_to(folder.parent))
    cell = read_record(Cell, _json(path, MAX_RECORD), where)
    if (cell.model, cell.method, cell.prompt) != (model.name, method, prompt):
        raise BadInput(f"{where}: expected the cell of its place, got that of another.")
    return cell


def read_loaded(folder: Path, model: PlannedModel) -> Loaded | None:
    """How a model was loaded; None if it has not been tried."""
    path = loaded_path(folder, model)
    return (
        read_record(Loaded, _json(path, MAX_RECORD), str(path.relative_to(folder.parent))) if path.is_file() else None
    )


def read_benchmark(folder: Path) -> Benchmark:
    """Everything there is so far. The order of cells is that of the plan, whoever computed them and when.

    Raises:
        BadInput: no folder of a benchmark, or a broken file in it.
    """
    plan, started = read_plan(folder)
    system = _json(folder / SYSTEM, MAX_RECORD) if (folder / SYSTEM).is_file() else {}
    if not isinstance(system, dict):
        raise BadInput(f"{folder.name}/{SYSTEM}: expected an object, got something else.")
    loaded = {model.name: found for model in plan.models if (found := read_loaded(folder, model)) is not None}
    return Benchmark(plan, started, tuple(_cells(folder, plan)), loaded, cast("dict[str, Any]", system))


def _cells(folder: Path, plan: Plan) -> Iterator[Cell]:
    for model in plan.models:
        for method in plan.methods:
            for prompt in plan.prompts:
                cell = read_cell(folder, model, method.name, prompt.id)
                if cell is not None:
                    yield cell


def _json(path: Path, limit: int) -> Any:
    where = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise BadInput(f"{where}: expected at most {limit:,} bytes, got more.")
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise BadInput(f"{where}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{where}: expected JSON, got a broken file. Remove it to compute it again.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def remove_unfinished(folder: Path) -> None:
    """Removes what a kill left in the middle of writing; nobody else may be writing."""
    for path in folder.rglob(".*.json.*"):
        path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------- many of them


def home() -> Path:
    """Where benchmarks are looked for: $ATTNVIZ_HOME/benchmarks, else benchmarks/ of the current folder."""
    return Path(os.environ.get("ATTNVIZ_HOME") or ".") / "benchmarks"


def benchmarks() -> list[Path]:
    """The folders there that hold a plan, the latest first."""
    try:
        found = [(path.stat().st_mtime_ns, path.name, path.parent) for path in home().glob(f"*/{PLAN}")]
    except OSError:
        return []
    return [folder for *_, folder in sorted(found, reverse=True)]
