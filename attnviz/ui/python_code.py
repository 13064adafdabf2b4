"""The Python that reproduces what is on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attnviz.hooks import Run, Sampling
from attnviz.registry import Registry
from attnviz.session import KEPT, SEEDS, TracedRun
from attnviz.ui import measurements
from attnviz.ui.describe import length_of, messages_of, prompt_of, text_of, turns_of


def reproduce(run: TracedRun, registry: Registry, analysis: str, params: Mapping[str, Any]) -> str:
    """Code that loads the model, makes the run and analyses it.

    Args:
        params: all parameters, resolved.
    """
    settings = "".join(f", {name}={value!r}" for name, value in params.items())
    if run.run.spec.backend == KEPT:
        lines = ("import attnviz", "", f"run = attnviz.open_run({run.id!r})")
        return "\n".join((*lines, f"finding = run.analyze({analysis!r}{settings})", "print(finding.to_json())"))
    if measured := measurements.python_lines(run, load_arguments(run, registry)):
        return "\n".join((*measured, f"finding = run.analyze({analysis!r}{settings})", "print(finding.to_json())"))
    return "\n".join(
        (
            "import attnviz",
            "",
            f"model = attnviz.load({load_arguments(run, registry)})",
            *_run(run),
            f"finding = run.analyze({analysis!r}{settings})",
            "print(finding.to_json())",
        )
    )


def load_arguments(run: TracedRun, registry: Registry) -> str:
    """What `attnviz.load` takes to give the model of a run."""
    spec = run.run.spec
    entry = registry.models.get(run.run.model)
    listed = entry is not None and entry.title != entry.source  # else it is on the menu by a setting of this machine
    options = {"revision": spec.revision, "dtype": spec.dtype, "device": spec.device}
    if len(registry.backends) > 1:
        options["backend"] = spec.backend
    given = "".join(f", {k}={v!r}" for k, v in options.items() if v not in (None, "auto"))
    return f"{(run.run.model if listed else spec.source)!r}{given}"


def _run(run: TracedRun) -> list[str]:
    """Lines that make the run."""
    sampling = run.run.sampling
    if run.run.trajectory is not None:
        return _agent(run)
    if sampling is None:
        return [f"run = model.trace({_prompt(run.run)})"]
    turns = turns_of(run.run)
    if any(segment.role in ("thought", "action", "observation") for segment in run.tokens.segments):
        return [f"run = model.trace(ids={run.tokens.ids.tolist()})  # begun by an agent"]
    if len(turns) < 2:
        return [f"run = model.generate({_prompt(run.run)}{_settings(sampling, length_of(run.run), 0)})"]
    lines = [] if sampling.temperature == 0 else ["# every turn with the settings of the last"]
    for number, turn in enumerate(turns):
        last = number == len(turns) - 1
        length = length_of(run.run) if last else turn.stop - turn.first  # where an answer was cut off, it is again
        settings = _settings(sampling, length, len(turns) - 1 - number)
        asked = f"attnviz.reply(run, {turn.said!r}" if number else f"model.generate({_prompt(run.run, turn.first)}"
        lines.append(f"run = {asked}{settings})")
    return lines


def _settings(sampling: Sampling, length: int, before: int) -> str:
    """How the answer of the turn that is `before` turns before the last was drawn, as further arguments."""
    options: dict[str, Any] = {"max_new_tokens": length, "temperature": sampling.temperature}
    if sampling.temperature > 0 and sampling.seed is not None:
        options["seed"] = (sampling.seed - before) % SEEDS
    drawn = ("top_p", "repetition_penalty")
    options |= {name: getattr(sampling, name) for name in drawn if getattr(sampling, name) != 1}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    return "".join(f", {k}={v!r}" for k, v in options.items())


def _agent(run: TracedRun) -> list[str]:
    trajectory, sampling = run.run.trajectory, run.run.sampling
    assert trajectory is not None
    options = f"tools={list(trajectory.tools)!r}, max_steps={trajectory.max_steps}"
    drawn = "" if sampling is None else _settings(replace(sampling, stop=()), sampling.max_new_tokens, 0)
    return [f"done = attnviz.run_agent(model, {trajectory.question!r}, {options}{drawn})", "run = done.run"]


def _prompt(run: Run, stop: int | None = None) -> str:
    """What stands before token `stop`, by default the answer, as an argument: a text, or messages of a conversation."""
    messages = messages_of(run, stop)
    if messages:
        return f"messages={messages!r}"
    return repr(prompt_of(run) if stop is None else text_of(run, 0, stop))
