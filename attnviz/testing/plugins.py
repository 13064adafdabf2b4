"""What a plugin as a whole promises; used by `attnviz check`."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from attnviz.hooks import (
    Analysis,
    AttnvizError,
    Backend,
    Format,
    ModelEntry,
    ModelSpec,
    Renderer,
    SensorData,
    Tool,
    UnknownName,
)
from attnviz.testing.analyses import check_analysis
from attnviz.testing.fake import FakeModel
from attnviz.testing.fake_sensors import FakeSensors
from attnviz.testing.formats import check_format
from attnviz.testing.renderers import check_renderer
from attnviz.testing.require import require
from attnviz.testing.samples import fake_request, sample_finding, sample_findings, sample_recording
from attnviz.testing.tools import check_tool

CONTENTS: Mapping[str, Any] = {
    "conversation": [
        {"role": "user", "content": "What is 25 * 37?"},
        {"role": "assistant", "content": "925 \N{SNOWMAN}"},
    ],
    "numbers": {"array": [[1.0, 2.0], [3.0, 4.5]], "names": ["pressure", "flow"]},
    "sensor_data": SensorData(np.array([[1.0, 2.0], [3.0, 4.5]]), ("pressure", "flow"), ("0", "1")),
    "attribution": sample_finding("attribution"),
    "attention_summary": sample_finding("attention_summary"),
    "trajectory": sample_recording(),
}
"""Something to write, by what a format carries."""


class _Record(Protocol):
    name: str
    source: str
    provides: tuple[tuple[str, str], ...]


class _Failure(Protocol):
    plugin: str
    source: str
    stage: str
    reason: str


class AnyRegistry(Protocol):
    """What these checks read of a registry."""

    @property
    def backends(self) -> Mapping[str, Backend]: ...
    @property
    def analyses(self) -> Mapping[str, Analysis]: ...
    @property
    def renderers(self) -> Mapping[str, Renderer]: ...
    @property
    def formats(self) -> Mapping[str, Format]: ...
    @property
    def tools(self) -> Mapping[str, Tool]: ...
    @property
    def models(self) -> Mapping[str, ModelEntry]: ...
    @property
    def plugins(self) -> Sequence[Any]: ...
    @property
    def failures(self) -> Sequence[Any]: ...


def check_registry(registry: AnyRegistry) -> None:
    """Everything that was loaded fits together: no failures, no result without a picture, one default model at most."""
    require(not registry.failures, "Failures: " + "; ".join(_words(f) for f in registry.failures))
    for kind in ("backends", "analyses", "renderers", "formats", "tools", "models"):
        for name, descriptor in getattr(registry, kind).items():
            require(descriptor.name == name, f"{kind}: {descriptor.name!r} is registered as {name!r}.")
    for analysis in registry.analyses.values():
        drawn = [r.name for r in registry.renderers.values() if issubclass(analysis.produces, r.accepts)]
        require(bool(drawn), f"Analysis {analysis.name}: no renderer draws a {analysis.produces.__name__}.")
    defaults = [entry.name for entry in registry.models.values() if entry.default]
    require(len(defaults) <= 1, f"Models: expected one default, got {', '.join(defaults)}.")
    for entry in registry.models.values():
        known = ("auto", *registry.backends)
        require(entry.backend in known, f"Model {entry.name}: its backend {entry.backend!r} is not registered.")
    provided = {pair for plugin in registry.plugins for pair in plugin.provides}
    indexed = {(kind, n) for kind in ("backends", "analyses") for n in getattr(registry, kind)}
    require(indexed <= provided, f"Registered by no plugin: {sorted(indexed - provided)}.")


def check_plugin(what: str | Path, registry: AnyRegistry) -> list[str]:
    """Problems of one loaded plugin, in sentences; empty = it keeps the contract.

    Args:
        what: the plugin's name, the path it was loaded from, or the name of something it provides.
        registry: a registry that has loaded it.

    Raises:
        UnknownName: the registry has no such plugin.
    """
    found = [record for record in registry.plugins if _is(what, record)]
    failed = [failure for failure in registry.failures if _is(what, failure)]
    if not found and not failed:
        raise UnknownName("plugin", str(what), [record.name for record in registry.plugins])
    problems = [_words(failure) for failure in failed]
    for record in found:
        for kind, name in record.provides:
            try:
                check = partial(_analysis, analyses=registry.analyses) if kind == "analyses" else _CHECKS[kind]
                check(getattr(registry, kind)[name])
            except AssertionError as error:
                problems.append(str(error))
            except Exception as error:
                problems.append(f"{kind} {name}: {type(error).__name__}: {error}")
    return problems


def _is(what: str | Path, thing: Any) -> bool:
    name = getattr(thing, "name", None) or getattr(thing, "plugin", "")
    if isinstance(what, Path):
        return thing.source == str(what) or _same_file(what, thing.source)
    return what in (name, thing.source) or any(what == pair[1] for pair in getattr(thing, "provides", ()))


def _same_file(path: Path, source: str) -> bool:
    return path.exists() and Path(source).exists() and path.resolve() == Path(source).resolve()


def _words(failure: _Failure) -> str:
    return f"{failure.plugin} ({failure.source}), {failure.stage}: {failure.reason}"


# --------------------------------------------------------------------------------------------- by kind


def _analysis(analysis: Analysis, analyses: Mapping[str, Analysis] | None = None) -> None:
    """On a fake model, as far as one can do what the analysis requires."""
    if any(analysis.requires <= model.card.capabilities for model in (FakeModel(), FakeSensors())):
        check_analysis(analysis, fake_request(analysis, analyses=analyses))


def _renderer(renderer: Renderer) -> None:
    for accepted in renderer.accepts:
        for name, finding in sample_findings(accepted.kind).items():
            try:
                check_renderer(renderer, finding)
            except Exception as error:
                said = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                raise AssertionError(f"Renderer {renderer.name}, sample {accepted.kind} ({name}): {said}") from error


def _backend(backend: Backend) -> None:
    """Without loading anything: it says in words why it cannot load nonsense."""
    reason = backend.handles(ModelSpec("/no/such/folder/anywhere"))
    require(reason is None or bool(reason), f"Backend {backend.name}: `handles` must give None or a reason in words.")


def _format(format: Format) -> None:
    require(bool(format.suffixes), f"Format {format.name}: no suffixes.")
    if format.content in CONTENTS:
        with tempfile.TemporaryDirectory() as folder:
            check_format(format, CONTENTS[format.content], Path(folder))


def _tool(tool: Tool) -> None:
    """With arguments that fit the schema; a refusal in words is fine, for the values mean nothing."""
    samples = {"string": "1 + 1", "integer": 1, "number": 1.0, "boolean": True}
    arguments = {n: samples.get(s.get("type"), "1") for n, s in dict(tool.parameters.get("properties", {})).items()}
    try:
        tool.run(**arguments)
    except AttnvizError:
        require(
            set(arguments) <= set(inspect.signature(tool.run).parameters),
            f"Tool {tool.name}: schema and function differ.",
        )
        return
    check_tool(tool, **arguments)


def _entry(entry: ModelEntry) -> None:
    for name in ("title", "source", "size", "licence"):
        require(bool(getattr(entry, name)), f"Model {entry.name}: {name} is empty.")


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "analyses": _analysis,
    "renderers": _renderer,
    "backends": _backend,
    "formats": _format,
    "tools": _tool,
    "models": _entry,
}
