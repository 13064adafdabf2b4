"""The Python that reproduces what is on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnviz.hooks import Run
from attnviz.registry import Registry
from attnviz.session import KEPT, TracedRun
from attnviz.ui import measurements
from attnviz.ui.describe import length_of, messages_of, prompt_of


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
            f"run = {_run(run)}",
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


def _run(run: TracedRun) -> str:
    prompt, sampling = _prompt(run.run), run.run.sampling
    if sampling is None:
        return f"model.trace({prompt})"
    options: dict[str, Any] = {"max_new_tokens": length_of(run.run), "temperature": sampling.temperature}
    if sampling.temperature > 0:
        options["seed"] = sampling.seed
    drawn = ("top_p", "repetition_penalty")
    options |= {name: getattr(sampling, name) for name in drawn if getattr(sampling, name) != 1}
    if sampling.stop:
        options["stop"] = list(sampling.stop)
    given = "".join(f", {k}={v!r}" for k, v in options.items())
    return f"model.generate({prompt}{given})"


def _prompt(run: Run) -> str:
    """The prompt as an argument: a text, or the messages of a conversation."""
    messages = messages_of(run)
    return f"messages={messages!r}" if messages else repr(prompt_of(run))
