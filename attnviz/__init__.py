"""attnviz: see how a transformer came to its answer.

    import attnviz
    model = attnviz.load("demo")
    run = model.trace("What is 25 * 37?")
    run.attention(layer=2, head=3)            # float32 numpy [query, key]
    run.analyze("logit_lens", top_k=5).save("lens.html")

Importing this package loads neither torch nor gradio.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnviz.agent import AgentRun, ToolComparison
    from attnviz.demo.sensors.presets import SensorPreset
    from attnviz.model_card import Description
    from attnviz.session import LoadedModel, SavableFinding, Session, TracedRun
    from attnviz.store import RunStore, StoredRun
    from attnviz.types import SensorData
    from attnviz.visualizer import (
        AttentionSummary,
        AttentionVisualizer,
        AttentionWeights,
        ExportFormat,
        VisualizationType,
    )

__all__ = [
    "AttentionSummary",
    "AttentionVisualizer",
    "AttentionWeights",
    "ExportFormat",
    "VisualizationType",
    "compare_runs",
    "compare_tools",
    "default_session",
    "describe",
    "load",
    "open_run",
    "read_attribution",
    "read_sensors",
    "reply",
    "run_agent",
    "run_store",
    "runs",
    "sensor_presets",
]

_OF_VISUALIZER = frozenset(__all__[:5])


def __getattr__(name: str) -> Any:
    """Classes that are imported when they are first asked for."""
    if name not in _OF_VISUALIZER:
        raise AttributeError(f"module 'attnviz' has no attribute {name!r}")
    import attnviz.visualizer

    return getattr(attnviz.visualizer, name)


def default_session() -> Session:
    """The session behind `attnviz.load`, over all plugins that are found; made on first use."""
    from attnviz.session import default_session

    return default_session()


def load(source: Any = None, **options: Any) -> LoadedModel:
    """Load a model: "demo", a hub id, a folder, a (module, tokenizer) pair, or a torch module that reads numbers.

    Nothing given = $ATTNVIZ_MODEL, else "demo".

    Options: backend ("auto", "hf"), revision, dtype ("auto", "float32" …), device ("auto", "cpu", "cuda" …).

    Raises:
        attnviz.errors.AttnvizError: nothing can load it; the message says why.
    """
    session = default_session()
    return session.load(session.settings.model or "demo" if source is None else source, **options)


def read_attribution(path: str | PathLike[str], *, format: str = "auto", **params: Any) -> SavableFinding:
    """The attribution in a file of another program (Inseq, TokenLense), to be drawn and saved like any result.

    Args:
        format: a format's name, or "auto" for the first that the content fits.
        params: what the format lets choose; of Inseq files: sequence (from 0), aggregation.

    Raises:
        attnviz.errors.BadInput: the file does not hold what it should; the message says what was expected.
    """
    return default_session().read_attribution(path, format=format, **params)


def read_sensors(path: str | PathLike[str], *, keep_constant: bool = False) -> SensorData:
    """Sensor data of a .csv or .npy file, for `trace(array=data.array, names=data.names, times=data.times, …)`.

    Args:
        keep_constant: read sensors that never change too, instead of refusing them.

    Raises:
        attnviz.errors.BadInput: the file does not hold what it should, with row and column.
    """
    return default_session().read_sensors(path, keep_constant=keep_constant)


def sensor_presets() -> tuple[SensorPreset, ...]:
    """Sets of sensors with simulated example data; each says which embedded model reads it."""
    from attnviz.demo.sensors.presets import sensor_presets

    return sensor_presets()


def run_store(folder: str | PathLike[str] | None = None) -> RunStore:
    """The saved runs of a folder: list, search, rename, delete. None = $ATTNVIZ_HOME/runs, else `runs` here."""
    from attnviz.store import RunStore

    return RunStore(folder)


def runs(search: str = "", *, category: str = "", limit: int | None = None) -> list[StoredRun]:
    """Saved runs, newest first.

    Args:
        search: words that all occur in prompt, answer or title.
        category: only of this one.
        limit: at most so many; None = 50, 0 = all.

    Raises:
        attnviz.errors.BadInput: the folder cannot be read.
    """
    return run_store().list(search=search, category=category, limit=limit)


def open_run(run_id: str, model: LoadedModel | None = None) -> TracedRun:
    """A saved run as it was: by its model where the same weights are at hand, else with what was kept of it.

    Raises:
        attnviz.errors.BadInput: no such run, or a model of other weights.
    """
    return default_session().reopen(run_store().read(run_id), model)


def describe(model: LoadedModel, tokens: Iterable[int] = (128, 1024, 4096)) -> Description:
    """What is known of a loaded model before any run: print it, or take its fields.

    Args:
        tokens: lengths of the runs whose memory and time are estimated.

    Raises:
        attnviz.errors.BadInput: a length that is no whole number from 1.
    """
    from attnviz.model_card import describe

    return describe(model, tokens)


def reply(run: TracedRun, text: str, **options: Any) -> TracedRun:
    """The run of a conversation after one more turn of the user and the model's answer, over the very ids of `run`.

    Options: max_new_tokens, temperature, top_p, repetition_penalty, seed, stop, category, on_token …; see
    attnviz.conversation.reply.

    Raises:
        attnviz.errors.AttnvizError: the conversation cannot go on; the message says why.
    """
    from attnviz.conversation import reply

    return reply(run, text, **options)


def run_agent(model: LoadedModel, question: str, **options: Any) -> AgentRun:
    """Let a loaded model answer a question with tools, step by step.

    The steps are in `.steps`, the answer in `.answer`, and the run of all that the model read and wrote in `.run`.
    Options: tools (names of tool plugins, or tools), max_steps, max_new_tokens of a turn, temperature, top_p,
    repetition_penalty, seed, category, on_step, on_token, cancelled …; see attnviz.agent.run_agent.

    Raises:
        attnviz.errors.AttnvizError: the model or a tool cannot be used so; the message says why.
    """
    from attnviz.agent import run_agent

    return run_agent(model, question, **options)


def compare_runs(first: TracedRun, second: TracedRun, **options: Any) -> SavableFinding:
    """Two runs beside each other by step: what each wrote, what it rests on, and the difference; a table.

    Options: effect (also what taking sources away does), layers, heads; see attnviz.run_comparison.

    Raises:
        attnviz.errors.BadInput: a run without an answer; a layer or head that is not there.
    """
    from attnviz.run_comparison import compare_runs

    return compare_runs(first, second, **options)


def compare_tools(model: LoadedModel, question: str, **options: Any) -> ToolComparison:
    """One question answered without tools and with them: both runs, and `.finding`, the table that compares them.

    Options: effect, and those of `run_agent`.

    Raises:
        attnviz.errors.AttnvizError: the model or a tool cannot be used so; the message says why.
    """
    from attnviz.agent import compare_tools

    return compare_tools(model, question, **options)
