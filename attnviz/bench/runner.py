"""Computes the cells of a plan: each model is loaded once, each prompt answered once, then every method attributes it.

A cell that fails is a cell with the stage it failed at and its error, and the benchmark goes on. Nothing is cached from
one cell to the next, so that no method is timed over what another one has computed.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.bench.faithfulness import judged
from attnviz.bench.folder import read_cell, result_path, write_cell, write_loaded
from attnviz.bench.meter import measured
from attnviz.bench.plan import Plan, PlannedMethod, PlannedModel
from attnviz.bench.processes import Crew
from attnviz.bench.progress import Progress
from attnviz.bench.prompts import Prompt
from attnviz.bench.records import MAX_TEXT, Cell, Loaded
from attnviz.errors import AttnvizError, BadInput
from attnviz.hooks import Attribution, Tokens
from attnviz.registry import Registry
from attnviz.session import LoadedModel, SavableFinding, Session, TracedRun

Todo = tuple[PlannedModel, Prompt, tuple[PlannedMethod, ...]]
"""A prompt of a model, and the methods that have not yet been tried on it."""


class StageError(Exception):
    """Something failed at a stage. `details`: the traceback of what is a bug and no message for people."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(stage)
        known = isinstance(error, AttnvizError)
        self.stage = stage
        self.said = " ".join(str(error).split()) if known else f"{type(error).__name__}: {error}"[:MAX_TEXT]
        self.details = "" if known else "".join(traceback.format_exception(error))[-MAX_TEXT:]

    def on(self, cell: Cell) -> Cell:
        """The cell, failed."""
        return replace(cell, success=False, error_stage=self.stage, error=self.said, details=self.details)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Whatever goes wrong inside went wrong at this stage. One cell must not end a night's work, so all is caught."""
    try:
        yield
    except Exception as error:
        raise StageError(name, error) from error


# --------------------------------------------------------------------------------------------- what is left to do


def remaining(folder: Path, plan: Plan, *, retry: bool = False) -> list[Todo]:
    """What has not been tried. `retry`: what has failed counts as not tried."""
    found = []
    for model in plan.models:
        for prompt in plan.prompts:
            methods = tuple(m for m in plan.methods if not _is_done(folder, model, m.name, prompt.id, retry))
            if methods:
                found.append((model, prompt, methods))
    return found


def _is_done(folder: Path, model: PlannedModel, method: str, prompt: int, retry: bool) -> bool:
    cell = read_cell(folder, model, method, prompt)
    return cell is not None and (cell.success or not retry)


# --------------------------------------------------------------------------------------------- doing it


@dataclass(frozen=True)
class Work:
    """What all steps need to know. A model has a session of its own, which ends with it."""

    registry: Registry
    plan: Plan
    folder: Path
    progress: Progress

    def keep(self, model: PlannedModel, cell: Cell) -> None:
        """The cell is done."""
        write_cell(self.folder, model, cell)
        self.progress.count(cell.success)


def compute(work: Work, todo: Sequence[Todo], crew: Crew) -> None:
    """Compute this process's share; every model's prompts are split over all processes."""
    for model in work.plan.models:
        mine = crew.share([task for task in todo if task[0].name == model.name])
        if mine:
            _model(work, model, mine)


def _model(work: Work, model: PlannedModel, tasks: Sequence[Todo]) -> None:
    work.progress.say(f"loading {model.name}")
    try:
        loaded = _loaded(work, model)
    except StageError as failure:
        for _, prompt, methods in tasks:
            for method in methods:
                work.keep(model, failure.on(Cell(model.name, method.name, prompt.id, False)))
        return
    for _, prompt, methods in tasks:
        _prompt(work, model, loaded, prompt, methods)


def _loaded(work: Work, model: PlannedModel) -> LoadedModel:
    """The model in a session that remembers neither traces nor findings."""
    session = Session(work.registry, trace_bytes=0, finding_bytes=0)
    try:
        with stage("model_loading"), measured() as took:
            found = session.load(model.source, **work.plan.loading)  # type: ignore[arg-type]  # texts, as load takes
    except StageError as failure:
        about: dict[str, Any] = {"architecture": "", "parameters": 0, "dtype": "", "device": ""}
        record = Loaded(model.name, False, failure.said, took.seconds, took.cpu_seconds, **about)
        write_loaded(work.folder, model, record)
        raise
    card = found.card
    about = {"architecture": card.architecture, "parameters": card.parameters, "dtype": card.dtype}
    record = Loaded(model.name, True, "", took.seconds, took.cpu_seconds, device=card.device, **about)
    write_loaded(work.folder, model, record)
    return found


def _prompt(
    work: Work, model: PlannedModel, loaded: LoadedModel, prompt: Prompt, methods: Sequence[PlannedMethod]
) -> None:
    work.progress.say(f"{model.name}, prompt {prompt.id}, answer")
    cell = Cell(model.name, "", prompt.id, False, device=loaded.card.device)
    try:
        with stage("tokenization"):
            asked = _asked(work.plan, loaded, prompt)
            tokens = loaded.tokenize(**asked)
        cell = replace(cell, token_count=len(tokens))
        with stage("generation"), measured() as took:
            run = loaded.generate(**asked, max_new_tokens=work.plan.max_new_tokens)
            counts = _counts(run)
            _need_same_answer(work, model, prompt, run)
        cell = replace(cell, token_count=counts[0], output_token_count=counts[1])
        cell = replace(cell, generation_time=took.seconds, answer=_digest(run.tokens))
    except StageError as failure:
        for method in methods:
            work.keep(model, failure.on(replace(cell, method=method.name)))
        return
    for method in methods:
        work.progress.say(f"{model.name}, prompt {prompt.id}, {method.name}")
        work.keep(model, _cell(work, model, run, method, replace(cell, method=method.name)))


def _cell(work: Work, model: PlannedModel, run: TracedRun, method: PlannedMethod, cell: Cell) -> Cell:
    try:
        with stage("attribution"), measured(cell.device) as took:
            finding = run.analyze(method.name, **method.params)
        cell = replace(
            cell,
            attribution_time=took.seconds,
            cpu_seconds=took.cpu_seconds,
            peak_memory_mb=took.peak_memory_mb,
            completeness_delta=_largest_gap(finding),
        )
        if work.plan.faithfulness is not None:
            work.progress.say(f"{model.name}, prompt {cell.prompt}, {method.name}, faithfulness")
            with stage("faithfulness"), measured() as took:
                figures = judged(run, method, work.plan.faithfulness)
            cell = replace(cell, faithfulness_time=took.seconds, **figures)  # type: ignore[arg-type]  # names of fields
        with stage("saving"):
            path = result_path(work.folder, model, method.name, cell.prompt)
            path.parent.mkdir(parents=True, exist_ok=True)
            finding.save(path)
    except StageError as failure:
        return failure.on(cell)
    return replace(cell, success=True)


# --------------------------------------------------------------------------------------------- small steps


def _asked(plan: Plan, model: LoadedModel, prompt: Prompt) -> dict[str, Any]:
    """The prompt as the plan wants it read."""
    if plan.format == "chat" or (plan.format == "auto" and _reads_chat(model)):
        return {"messages": prompt.messages}
    return {"text": prompt.plain}


def _reads_chat(model: LoadedModel) -> bool:
    try:
        model.tokenize(messages=[{"role": "user", "content": "Hello"}])
    except BadInput:
        return False
    return True


def _counts(run: TracedRun) -> tuple[int, int]:
    """Tokens of prompt and answer."""
    start = run.generated_from
    if start is None or start >= len(run.tokens):
        raise BadInput("The model answered nothing, so there is no target.")
    return start, len(run.tokens) - start


def _digest(tokens: Tokens) -> str:
    return hashlib.sha256(np.ascontiguousarray(tokens.ids, "<i8").tobytes()).hexdigest()


def _need_same_answer(work: Work, model: PlannedModel, prompt: Prompt, run: TracedRun) -> None:
    """A benchmark that goes on attributes the answer it began with.

    Raises:
        BadInput: the model answers otherwise now.
    """
    for method in work.plan.methods:
        before = read_cell(work.folder, model, method.name, prompt.id)
        if before is not None and before.answer and before.answer != _digest(run.tokens):
            raise BadInput(
                f"The answer differs from the one that {method.name} attributed before this benchmark was resumed: "
                "model, libraries or machine have changed. Start again in a new folder."
            )


def _largest_gap(finding: SavableFinding) -> float | None:
    """The largest |completeness gap| of any target; None where the method promises nothing."""
    result = finding.result
    if not isinstance(result, Attribution) or result.delta is None or not np.isfinite(result.delta).any():
        return None
    return float(np.nanmax(np.abs(result.delta)))
