"""Finds plugins, checks what they hand over, and indexes it. Knows no plugin by name and does nothing for any of them.

Order: built-in modules, files of the plugin folder, installed entry points (group "attnviz"). Whatever goes wrong in a
plugin becomes a recorded `Failure` with its reason; loading goes on.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pluggy

from attnviz.errors import AttnvizError, PluginError
from attnviz.hooks import PROJECT, Analysis, Backend, Format, ModelEntry, Renderer, Tool, specs
from attnviz.plugins import BUILTIN

KINDS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "backends": Backend,
        "analyses": Analysis,
        "renderers": Renderer,
        "formats": Format,
        "tools": Tool,
        "models": ModelEntry,
    }
)
CHECKOUT = Path(__file__).parent.parent
CHOOSE = "ATTNVIZ_PLUGINS"
FOLDER = "ATTNVIZ_PLUGIN_FOLDER"


@dataclass(frozen=True)
class Failure:
    """Something of a plugin that is not usable. `stage`: import | register | hook | descriptor | duplicate | run."""

    plugin: str
    source: str
    stage: str
    reason: str
    details: str = ""


@dataclass(frozen=True)
class PluginRecord:
    """One loaded plugin. `origin`: built-in | folder | entry point; `provides`: (kind, name) pairs."""

    name: str
    source: str
    origin: str
    version: str
    provides: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Registry:
    """Everything the loaded plugins offer, by kind and name, and what could not be used."""

    backends: Mapping[str, Backend]
    analyses: Mapping[str, Analysis]
    renderers: Mapping[str, Renderer]
    formats: Mapping[str, Format]
    tools: Mapping[str, Tool]
    models: Mapping[str, ModelEntry]
    plugins: tuple[PluginRecord, ...] = ()
    failures: tuple[Failure, ...] = ()
    unavailable: tuple[Failure, ...] = ()

    def groups(self) -> dict[str, list[Analysis]]:
        """Tab title -> its analyses, both in order of registration."""
        tabs: dict[str, list[Analysis]] = {}
        for analysis in self.analyses.values():
            tabs.setdefault(analysis.group, []).append(analysis)
        return tabs

    def beginning_with(self, source: str) -> Registry:
        """The same, with this model as the menu's default; a folder or hub id that is not on the menu comes onto it."""
        chosen = source
        entries = {name: replace(entry, default=name == source) for name, entry in self.models.items()}
        if source not in entries:
            chosen = re.sub(r"[^A-Za-z0-9._/-]", "-", source).lstrip("._/-") or "chosen"
            own = ModelEntry(chosen, source, source, "chosen in the settings", "see its card", default=True)
            entries = {chosen: own, **{name: entry for name, entry in entries.items() if name != chosen}}
        return replace(self, models=MappingProxyType(entries))


@dataclass(frozen=True)
class _Candidate:
    """A plugin that was found and not yet imported."""

    name: str
    source: str
    origin: str
    version: str
    load: Callable[[], object]


@dataclass
class _Loading:
    """What has been gathered so far."""

    index: dict[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    owner: dict[tuple[str, str], str] = field(default_factory=dict)
    plugins: list[PluginRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unavailable: list[Failure] = field(default_factory=list)

    def registry(self) -> Registry:
        return Registry(
            **{kind: MappingProxyType(entries) for kind, entries in self.index.items()},
            plugins=tuple(self.plugins),
            failures=tuple(self.failures),
            unavailable=tuple(self.unavailable),
        )

    def fail(self, candidate: _Candidate, stage: str, reason: str, error: BaseException | None = None) -> None:
        details = "".join(traceback.format_exception(error)) if error is not None else ""
        self.failures.append(Failure(candidate.name, candidate.source, stage, reason, details))


def plugin_folder() -> Path | None:
    """The folder drop-in files are read from: $ATTNVIZ_PLUGIN_FOLDER, else `plugins/` of a source checkout."""
    if chosen := os.environ.get(FOLDER):
        return Path(chosen)
    beside = CHECKOUT / "plugins"
    return beside if (CHECKOUT / "app.py").is_file() and beside.is_dir() else None


def load_registry(
    *,
    folder: Path | None = None,
    entry_points: bool = True,
    only: Sequence[str] | None = None,
    safe: bool = False,
) -> Registry:
    """Discover, check and index all plugins. Never raises for what a plugin does.

    Args:
        folder: where drop-in files lie; None = `plugin_folder()`.
        entry_points: whether installed packages are asked.
        only: names of the plugins to load beside the built-ins (a leading "-" blocks one instead);
            None = $ATTNVIZ_PLUGINS, and all where that is not set.
        safe: built-ins only.
    """
    state = _Loading()
    for candidate in _built_in():
        _add(state, candidate)
    if not safe:
        found = [*_in_folder(state, folder or plugin_folder()), *(_installed() if entry_points else ())]
        for candidate in _chosen(state, found, _choice(only)):
            _add(state, candidate)
    return state.registry()


def load_one(path: Path) -> Registry:
    """Built-ins and the one drop-in file or package at `path`."""
    state = _Loading()
    for candidate in _built_in():
        _add(state, candidate)
    _add(state, _from_path(path))
    return state.registry()


# --------------------------------------------------------------------------------------------- discovery


def _built_in() -> Iterator[_Candidate]:
    version = own_version()
    for module in BUILTIN:
        name = module.removeprefix("attnviz.plugins.")
        yield _Candidate(name, module, "built-in", version, partial(importlib.import_module, module))


def own_version() -> str:
    """The installed version of attnviz; "source" where it is not installed."""
    try:
        return importlib.metadata.version("attnviz")
    except importlib.metadata.PackageNotFoundError:
        return "source"


def _in_folder(state: _Loading, folder: Path | None) -> Iterator[_Candidate]:
    """The drop-in files of the folder; a folder that was asked for and cannot be read is recorded."""
    if folder is None:
        return
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        reason = f"The plugin folder cannot be read: {error.strerror}. Correct {FOLDER}, or make the folder."
        state.failures.append(Failure(folder.name, str(folder), "import", reason))
        return
    for path in paths:
        is_file = path.suffix == ".py" and not path.name.startswith(("_", "."))
        if is_file or (path.is_dir() and (path / "__init__.py").is_file()):
            yield _from_path(path)


def _from_path(path: Path) -> _Candidate:
    return _Candidate(path.stem, str(path), "folder", "", lambda: _import_path(path))


def _import_path(path: Path) -> ModuleType:
    """Import a file or package under a flat name of its own; its folder never enters sys.path."""
    file = path / "__init__.py" if path.is_dir() else path
    name = f"attnviz_plugin_{path.stem}"
    inside = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _installed() -> Iterator[_Candidate]:
    for point in sorted(importlib.metadata.entry_points(group=PROJECT), key=lambda p: (p.name, p.value)):
        package = point.dist.name if point.dist else "unknown package"
        if package == "attnviz":
            continue  # the built-ins, loaded already
        version = point.dist.version if point.dist else ""
        yield _Candidate(point.name, f"{package} ({point.value})", "entry point", version, point.load)


def _choice(only: Sequence[str] | None) -> list[str] | None:
    if only is None:
        text = os.environ.get(CHOOSE)
        only = None if text is None else text.split(",")
    return None if only is None else [name.strip() for name in only if name.strip()]


def _chosen(state: _Loading, found: list[_Candidate], names: list[str] | None) -> Iterator[_Candidate]:
    """The candidates the user wants; a name that fits none is recorded."""
    if names is None:
        yield from found
        return
    wanted = {n for n in names if not n.startswith("-")}
    blocked = {n.removeprefix("-") for n in names if n.startswith("-")}
    known = [candidate.name for candidate in found]
    for name in sorted((wanted | blocked) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(known) or "none"
        state.failures.append(
            Failure(name, CHOOSE, "import", f"No plugin of this name was found.{hint} Found: {listed}.")
        )
    for candidate in found:
        if candidate.name in blocked or (wanted and candidate.name not in wanted) or not names:
            state.unavailable.append(Failure(candidate.name, candidate.source, "blocked", f"Not chosen in {CHOOSE}."))
        else:
            yield candidate


# --------------------------------------------------------------------------------------------- checking


def _add(state: _Loading, candidate: _Candidate) -> None:
    """Import one plugin, check its hooks, and index what each returns."""
    try:
        plugin = candidate.load()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in ("attnviz", "plugins"):
            state.fail(candidate, "import", f"{type(error).__name__}: {error}", error)
        else:
            reason = f"needs the package {missing!r}, which is not installed: pip install {missing}"
            state.unavailable.append(Failure(candidate.name, candidate.source, "import", reason))
        return
    except (Exception, SystemExit) as error:
        state.fail(candidate, "import", f"{type(error).__name__}: {error}", error)
        return
    try:
        hooks = _registered(state, candidate, plugin)
    except Exception as error:  # such as a module whose __getattr__ raises
        state.fail(candidate, "register", f"{type(error).__name__}: {error}", error)
        return
    provides = [pair for name, function in hooks for pair in _index(state, candidate, name, function)]
    if hooks:
        version = candidate.version or str(getattr(plugin, "__version__", ""))
        record = PluginRecord(candidate.name, candidate.source, candidate.origin, version, tuple(provides))
        state.plugins.append(record)


def _registered(state: _Loading, candidate: _Candidate, plugin: object) -> list[tuple[str, Callable[[], Any]]]:
    """(hook name, function) of every hook the plugin implements; [] with a recorded failure when something is wrong."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(specs)
    names = {f"{PROJECT}_{kind}" for kind in KINDS}
    for name in sorted(names & set(dir(plugin))):
        if not hasattr(getattr(plugin, name), f"{PROJECT}_impl"):
            state.fail(candidate, "register", f"{name} has no @hookimpl, so it would never be called. Add it.")
            return []
    try:
        manager.register(plugin, candidate.name)
        manager.check_pending()
    except (pluggy.PluginValidationError, ValueError) as error:
        unknown = [n for n in dir(plugin) if hasattr(getattr(plugin, n, None), f"{PROJECT}_impl") and n not in names]
        near = difflib.get_close_matches(unknown[0], names, n=1) if unknown else []
        hint = f" Did you mean {near[0]}?" if near else ""
        reason = f"{unknown[0]} is not a hook.{hint}" if unknown else str(error).replace("\n", " ")
        state.fail(candidate, "register", reason, error)
        return []
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        state.fail(candidate, "register", f"implements no hook. Hooks: {', '.join(sorted(names))}.")
    return [(caller.name, caller.get_hookimpls()[0].function) for caller in sorted(callers, key=lambda c: c.name)]


def _index(state: _Loading, candidate: _Candidate, hook: str, function: Callable[[], Any]) -> list[tuple[str, str]]:
    """Call one hook and index its descriptors; returns the (kind, name) pairs that were taken."""
    kind = hook.removeprefix(f"{PROJECT}_")
    try:
        returned = function()
        if not isinstance(returned, (list, tuple)) and not inspect.isgenerator(returned):
            raise PluginError(f"{hook} returned {type(returned).__name__}, expected a list of {KINDS[kind].__name__}.")
        descriptors = list(returned)
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, AttnvizError) else f"{type(error).__name__}: {error}"
        state.fail(candidate, "hook", f"{hook}: {reason}" if hook not in reason else reason, error)
        return []
    taken = []
    for descriptor in descriptors:
        if not isinstance(descriptor, KINDS[kind]):
            got = type(descriptor).__name__
            state.fail(candidate, "descriptor", f"{hook} returned a {got}, expected {KINDS[kind].__name__}.")
        elif descriptor.name in state.index[kind]:
            first = state.owner[kind, descriptor.name]
            reason = (
                f"{kind} {descriptor.name!r} exists already: from {first}; the one of {candidate.source} is left out."
            )
            state.fail(candidate, "duplicate", reason)
        else:
            state.index[kind][descriptor.name] = descriptor
            state.owner[kind, descriptor.name] = candidate.source
            taken.append((kind, descriptor.name))
    return taken
