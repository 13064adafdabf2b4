"""Load, trace, analyse and render over a registry; the caches; the one call that reaches the device.

Data only moves one way through here: prompt → Run → (Trace) → Result → View. A `Session` may be shared by threads and
users: nothing in it is "the last run"; a run is reached by its unguessable id.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import secrets
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from attnviz.errors import AttnvizError, BadInput, ModelError, PluginError, Unavailable, UnknownName
from attnviz.hooks import (
    Analysis,
    AnalysisRequest,
    Attribution,
    Estimate,
    Estimating,
    Finding,
    Format,
    LensTable,
    LiveRow,
    Message,
    Model,
    ModelCard,
    ModelEntry,
    ModelSpec,
    Param,
    ReadsIds,
    ReadsNumbers,
    ReadsSeries,
    Reference,
    Renderer,
    Result,
    Run,
    Sampling,
    SensorData,
    Table,
    Tokens,
    Trace,
    View,
    Want,
)
from attnviz.kept import NO_BACKEND, KeptModel, compact, lens_of
from attnviz.progress import Progress, Steps, quiet
from attnviz.provenance import array_digest, provenance, reference_digest, run_provenance, versions
from attnviz.registry import Failure, Registry, load_registry
from attnviz.runfile import SavedRun, read_run, write_run
from attnviz.series import check_names, choose_rows, with_names
from attnviz.settings import Settings, read_settings
from attnviz.store import RunStore, StoredRun

log = logging.getLogger(__name__)

MODELS_KEPT = 3
RUNS_KEPT = 1000
CARDS_KEPT = 64
TRACE_BYTES = 512 << 20
WORTH_SAYING = 1.0  # seconds
PATIENCE = 0.25
"""Seconds between two words of somebody who waits for the same run, and may be told to stop."""
FINDING_BYTES = 128 << 20
CELL_BYTES = 64  # about, of a number or a short text
KEPT = "kept"
"""Backend of a saved run whose model is not at hand."""
SEEDS = 1 << 64
"""Seeds that torch tells apart."""


# --------------------------------------------------------------------------------------------- the device


@dataclass(frozen=True)
class Task:
    """Work for the device, picklable: one run, and at most one analysis of it, or the lens that is kept of it.

    asker   who hears how far it is, in `_LISTENING`; in another process nobody does
    """

    session: str
    run: Run
    analysis: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    trace: Trace | None = None
    capture: bool = False
    want: Want = field(default_factory=Want)
    asker: str = ""
    lens: bool = False


_PAIRS = itertools.count()
_LOADING = threading.Lock()  # libraries change what the whole process shares while they load, such as torch's dtype
_LISTENING: dict[str, Steps] = {}  # functions do not travel to the device; a task names who listens
_SESSIONS: weakref.WeakValueDictionary[str, Session] = weakref.WeakValueDictionary()


def on_device(task: Task) -> tuple[Trace | None, Result | None]:
    """The one way to the device: at most one call per request, picklable in, numpy out.

    Captures attention if the task asks for it, then runs the analysis if it names one.
    """
    session = _SESSIONS[task.session]
    model = session.model(task.run.spec)
    trace = model.trace(task.run.tokens, task.want) if task.capture else task.trace
    if task.lens:
        return trace, lens_of(model, task.run)
    if task.analysis is None:
        return trace, None
    return trace, session.compute(task.run, task.analysis, task.params, trace, _LISTENING.get(task.asker, quiet))


@contextmanager
def _listening(steps: Steps) -> Iterator[str]:
    """A name for tasks under which `steps` are told."""
    name = secrets.token_urlsafe(12)
    _LISTENING[name] = steps
    try:
        yield name
    finally:
        del _LISTENING[name]


# --------------------------------------------------------------------------------------------- session


@lru_cache(maxsize=1)
def default_session() -> Session:
    """The session behind `attnviz.load`, over all plugins that are found; made on first use."""
    return Session(load_registry(), settings=read_settings())


class Session:
    """Everything a user does, over one registry."""

    def __init__(
        self,
        registry: Registry,
        *,
        settings: Settings | None = None,
        trace_bytes: int = TRACE_BYTES,
        finding_bytes: int = FINDING_BYTES,
    ):
        """
        Args:
            settings: what holds where nothing else is said; the model named there becomes the menu's default.
        """
        self.settings = settings or Settings()
        self.registry = registry.beginning_with(self.settings.model) if self.settings.model else registry
        self.id = secrets.token_urlsafe(12)
        self._models: LRUCache[ModelSpec, Model] = LRUCache(MODELS_KEPT)
        self._cards: LRUCache[ModelSpec, ModelCard] = LRUCache(CARDS_KEPT)
        self._runs: LRUCache[str, Run] = LRUCache(RUNS_KEPT)
        self._traces: LRUCache[Any, _Captured] = LRUCache(trace_bytes, getsizeof=lambda kept: kept.trace.nbytes)
        self._findings: LRUCache[Any, Finding] = LRUCache(finding_bytes, getsizeof=_finding_bytes)
        self._lock = threading.RLock()  # guards the four caches; never held while computing
        self._busy: weakref.WeakValueDictionary[Any, _Turn] = weakref.WeakValueDictionary()
        self.failures: list[Failure] = []
        _SESSIONS[self.id] = self

    # ---- models

    def load(
        self,
        source: str | os.PathLike[str] | tuple[Any, Any] | Any = "demo",
        *,
        backend: str = "auto",
        revision: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> LoadedModel:
        """A model ready to be asked.

        Args:
            source: a name of the model menu, a folder, a hub id, a (module, tokenizer) pair, or a torch module that
                reads numbers, alone or in a (module, example) pair.
            backend: a backend's name, or "auto" for the first that can load it.
            device: "auto" (cuda, else mps, else cpu), one of those, or "spread" over all of them, memory and disk.

        Raises:
            UnknownName: no such backend.
            BadInput, ModelError: nothing can load it, with each backend's reason.
        """
        entry = self.registry.models.get(source) if isinstance(source, str) else None
        spec = self._spec(source, entry, revision, backend, dtype, device)
        chosen = self._backend(spec)
        spec = dataclasses.replace(spec, backend=chosen)
        model = self.model(spec)
        return LoadedModel(self, spec, entry.name if entry else model.card.name, model.card)

    def _spec(
        self,
        source: str | os.PathLike[str] | tuple[Any, Any] | Any,
        entry: ModelEntry | None,
        revision: str | None,
        backend: str,
        dtype: str,
        device: str,
    ) -> ModelSpec:
        if _is_module(source):
            source = (source, None)
        if isinstance(source, tuple):
            # A name of its own for every load: the weights may have been trained on since the last one.
            name = f"{type(source[0]).__name__}-{id(source[0]):x}-{next(_PAIRS)}"
            return ModelSpec(name, revision, backend, dtype, device, objects=source)
        if not isinstance(source, (str, os.PathLike)):
            raise BadInput(
                "Model: expected a menu name, a folder, a hub id or a pair, or a torch module that reads numbers, got "
                f"{type(source).__name__}."
            )
        text = entry.source if entry else os.fspath(source)
        if not text.strip():
            raise BadInput(
                "No model given. Expected a menu name, a folder or a hub id; `attnviz models` lists the menu."
            )
        if backend == "auto":
            backend = entry.backend if entry and entry.backend != "auto" else self.settings.backend
        dtype = self.settings.dtype if dtype == "auto" else dtype
        device = self.settings.device if device == "auto" else device
        return ModelSpec(text, revision, backend, dtype, device)

    def _backend(self, spec: ModelSpec) -> str:
        backends = self.registry.backends
        if spec.backend != "auto":
            if spec.backend not in backends:
                raise UnknownName("backend", spec.backend, backends)
            reason = backends[spec.backend].handles(spec)
            if reason is not None:
                raise ModelError(f"The backend {spec.backend} cannot load {spec.source!r}: {reason}")
            return spec.backend
        reasons: dict[str, list[str]] = {}  # several backends often share one
        for backend in sorted(backends.values(), key=lambda b: b.rank):
            reason = backend.handles(spec)
            if reason is None:
                return backend.name
            reasons.setdefault(reason, []).append(backend.name)
        said = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        raise ModelError(f"No backend can load {spec.source[:200]!r}. {said}")

    def model(self, spec: ModelSpec) -> Model:
        """The loaded model of a spec; loads it when it is not in memory."""
        if spec.backend == KEPT:
            assert spec.objects is not None
            return cast(Model, spec.objects[0])
        with self._turn(("model", spec)):
            with self._lock:
                found = self._models.get(spec)
            if found is None:
                if spec.backend not in self.registry.backends:
                    raise UnknownName("backend", spec.backend, self.registry.backends)
                started = time.perf_counter()
                with _LOADING:
                    found = self.registry.backends[spec.backend].load(spec)
                log.info("loaded %.200s in %.2f s", spec.source, time.perf_counter() - started)
                with self._lock:
                    self._models[spec] = found
                    self._cards[spec] = found.card
            return found

    def loaded(self, spec: ModelSpec) -> Model | None:
        """The model of a spec if it is in memory; loads nothing."""
        if spec.backend == KEPT:
            return self.model(spec)
        with self._lock:
            return self._models.get(spec)

    def loaded_models(self) -> list[LoadedModel]:
        """The models that are in memory."""
        with self._lock:
            found = list(self._models.items())
        names = {entry.source: entry.name for entry in self.registry.models.values()}
        return [LoadedModel(self, spec, names.get(spec.source, model.card.name), model.card) for spec, model in found]

    def card(self, spec: ModelSpec) -> ModelCard:
        """What is known of a model; loads it only where nothing is known yet."""
        with self._lock:
            known = self._cards.get(spec)
        return known or self.model(spec).card

    # ---- runs

    def start(self, model: LoadedModel, tokens: Tokens, **about: Any) -> TracedRun:
        """A new run over exactly these ids. The forward pass happens when something first needs it."""
        run = Run(id=secrets.token_urlsafe(12), spec=model.spec, model=model.name, tokens=tokens, **about)
        with self._lock:
            self._runs[run.id] = run
        return TracedRun(model, run)

    def run(self, run_id: str) -> TracedRun:
        """The run of an id.

        Raises:
            BadInput: no such run, or it has been dropped from memory.
        """
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            raise BadInput("This run is no longer in memory. Press Run to compute it again.")
        return TracedRun(LoadedModel(self, run.spec, run.model, self.card(run.spec)), run)

    def adopt(self, source: str, path: str | os.PathLike[str]) -> TracedRun:
        """A saved run of a menu entry as if it had just been computed; the model is loaded when something needs it.

        Raises:
            BadInput: no saved run, or one of other weights than those of the model.
        """
        saved = read_run(Path(path))
        entry = self.registry.models.get(source)
        spec = self._spec(source, entry, None, "auto", "auto", "auto")
        backend = self.registry.backends[self._backend(spec)]
        digest = backend.weights_digest(spec) if backend.weights_digest else None
        if digest is None or digest != saved.card.weights_digest:
            raise BadInput(f"{path}: this run is of other weights than those of {source!r}. Compute it again.")
        spec = dataclasses.replace(spec, backend=backend.name)
        run = dataclasses.replace(saved.run, id=secrets.token_urlsafe(12), spec=spec)
        found = self._register(run, dataclasses.replace(saved.card, name=spec.source))
        self._keep_trace(_ids_key(run), Want(), saved.trace)
        return found

    def reopen(self, saved: SavedRun, model: LoadedModel | None = None) -> TracedRun:
        """A run of a `RunStore`, under the id it was saved by.

        Its model is loaded when something needs it: `model`, else one in memory, else one of the menu or of a local
        folder, each only with the very weights of the run. Where none of them is there the run answers with what was
        kept of it, and says for the rest why it is not there.

        Raises:
            BadInput: `model` has other weights.
        """
        if model is not None and model.card.weights_digest != saved.card.weights_digest:
            raise BadInput(f"This run is of other weights than those of {model.name}. Load the model it was made with.")
        spec = self._spec_of(saved) if model is None else model.spec
        if spec is not None:
            return self._register(dataclasses.replace(saved.run, spec=spec), saved.card)
        reason = saved.card.route_reason
        if saved.run.spec.backend != NO_BACKEND:
            reason = f"Its model, {saved.run.spec.source}, is not at hand; load it and open the run again."
        kept = KeptModel(saved, reason)
        spec = ModelSpec(f"saved run {saved.run.id}", None, KEPT, objects=(kept,))
        return self._register(dataclasses.replace(saved.run, spec=spec), kept.card)

    def _spec_of(self, saved: SavedRun) -> ModelSpec | None:
        """How to load the very weights of a saved run without downloading anything; None where that cannot be told."""
        digest, run = saved.card.weights_digest, saved.run
        with self._lock:
            in_memory = [s for s, card in self._cards.items() if card.weights_digest == digest]
        for spec in in_memory:
            if digest and (spec.dtype, spec.device) == (run.spec.dtype, run.spec.device):
                return spec
        names = [run.model] if run.model in self.registry.models else []
        for source in (*names, run.spec.source):
            spec = self._spec(source, self.registry.models.get(source), run.spec.revision, *_how(run.spec))
            backend = self.registry.backends.get(spec.backend)
            try:
                if digest and backend and backend.weights_digest and backend.weights_digest(spec) == digest:
                    return spec
            except (AttnvizError, OSError):
                continue
        return None

    def _register(self, run: Run, card: ModelCard) -> TracedRun:
        with self._lock:
            self._cards.setdefault(run.spec, card)
            self._runs[run.id] = run
        return TracedRun(LoadedModel(self, run.spec, run.model, card), run)

    def trace(self, run: Run) -> Trace:
        """Attention of a run, computed once.

        Raises:
            Unavailable: the model gives no attention, with the reason.
        """
        key = _ids_key(run)
        with self._turn(("trace", key)):
            found, want = self._cached_trace(key, Want())
            if found is None:
                found, _ = on_device(Task(self.id, run, capture=True, want=want))
                assert found is not None
                log.info("captured %d tokens in %.2f s", len(run.tokens), found.seconds)
                self._keep_trace(key, want, found)
            return found.narrowed(Want())

    def to_keep(self, run: Run) -> tuple[Trace, LensTable | None]:
        """Attention of a run and the lens of its answer, in one crossing to the device."""
        key, card = _ids_key(run), self.card(run.spec)
        attends = "attention" in card.capabilities
        with self._turn(("trace", key)):
            found, want = self._cached_trace(key, Want())
            task = Task(self.id, run, trace=found, capture=attends and found is None, want=want, lens=True)
            trace, lens = on_device(task)
            if task.capture and trace is not None:
                self._keep_trace(key, want, trace)
        assert lens is None or isinstance(lens, LensTable)
        return (_no_trace(card) if trace is None else trace.narrowed(Want())), lens

    # ---- analyses

    def check(self, analysis: Analysis, card: ModelCard) -> str | None:
        """None if the model can be analysed so, else the reason why not."""
        lacking = sorted(analysis.requires - card.capabilities)
        return " ".join(f"Needs {name}: {card.missing.get(name, 'this model has none.')}" for name in lacking) or None

    def analysis(self, name: str) -> Analysis:
        """The analysis of a name. Raises UnknownName, which lists those that exist."""
        if name not in self.registry.analyses:
            raise UnknownName("analysis", name, self.registry.analyses)
        return self.registry.analyses[name]

    def resolve(self, analysis: Analysis, run: TracedRun, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters with values that fit this run.

        Raises:
            UnknownName: a parameter the analysis does not have.
            BadInput: a value out of bounds, such as a layer the model does not have.
        """
        params = analysis.resolve(given)
        layers = run.model.card.layers
        layer: Any = None
        for param in sorted(analysis.params, key=lambda p: p.type != "layer"):  # heads depend on the layer
            value = params[param.name]
            if param.type == "layer":
                layer = params[param.name] = _in_range(param, value, len(layers), self.first_layer(run.model))
            elif param.type == "head":
                chosen = layers[layer : layer + 1] if isinstance(layer, int) else layers
                params[param.name] = _in_range(param, value, max((c.heads for c in chosen), default=0), 0)
            elif param.type == "token":
                params[param.name] = _in_range(param, value, len(run.tokens), len(run.tokens) - 1)
        return params

    def first_layer(self, model: LoadedModel) -> int:
        """The layer to begin with: the one of the settings, else the first with attention."""
        chosen, count = self.settings.layer, len(model.card.layers)
        if chosen is None:
            return _first_with_attention(model.card)
        if not -count <= chosen < count:
            raise BadInput(f"ATTNVIZ_LAYER: expected a layer of {model.name}, {-count} to {count - 1}, got {chosen}.")
        return chosen % count

    def analyze(
        self, run: TracedRun, name: str, params: Mapping[str, Any], progress: Progress = quiet
    ) -> SavableFinding:
        """Run an analysis, or return it from the cache (`cached` says so).

        Args:
            progress: gets the share of the work that is done, which never goes back and ends at 1, and what it is at.
                Whatever it raises ends the work at its next step, and is raised here.

        Raises:
            UnknownName, BadInput: the request is wrong.
            Unavailable: the model lacks what the analysis requires, with the reason.
        """
        started, steps = time.perf_counter(), Steps(progress)
        analysis = self.analysis(name)
        if reason := self.check(analysis, run.model.card):
            raise Unavailable(f"{analysis.title} is not available for {run.model.name}. {reason}")
        resolved = self.resolve(analysis, run, params)
        key = _finding_key(run.run, analysis, resolved)
        with self._turn(("finding", key), steps):
            with self._lock:
                found = self._findings.get(key)
            if found is not None:
                spent = time.perf_counter() - started
                found = dataclasses.replace(found, run=run.id, cached=True, seconds=spent)
                log.debug("%s of %d tokens: cached", name, len(run.tokens))
                steps(1.0, "Found in memory")
                return SavableFinding(**_shallow(found), session=self)
            result = self._compute_once(run.run, analysis, resolved, steps)
            finding = Finding(
                analysis=name,
                title=analysis.title,
                params=resolved,
                model=run.model.name,
                tokens=run.tokens,
                result=result,
                provenance=provenance(run.run, run.model.card, name, resolved, result),
                run=run.id,
                generated_from=run.generated_from,
                seconds=time.perf_counter() - started,
                layers=tuple(layer.name for layer in run.model.card.layers),
            )
            log.info("%s of %d tokens in %.2f s", name, len(run.tokens), finding.seconds)
            with self._lock:
                _keep(self._findings, key, finding)
            steps(1.0, "Done")
            return SavableFinding(**_shallow(finding), session=self)

    def _compute_once(self, run: Run, analysis: Analysis, params: Mapping[str, Any], steps: Steps) -> Result:
        """Trace (if needed) and analysis: one crossing to the device, none if all it needs is in memory."""
        key = _ids_key(run)
        with self._turn(("trace", key), steps):
            needs = "attention" in analysis.requires
            trace, want = self._cached_trace(key, analysis.want) if needs else (None, analysis.want)
            capture = needs and trace is None
            loads = (capture or analysis.gpu) and self.loaded(run.spec) is None
            if loads or not capture:
                steps(0.0, f"Loading {run.model}" if loads else "Computing")
            if capture:
                steps(0.0, self._reading(run, want))
            if analysis.gpu:
                with _listening(steps) as asker:
                    captured, result = on_device(Task(self.id, run, analysis.name, params, trace, capture, want, asker))
            else:
                captured = on_device(Task(self.id, run, capture=True, want=want))[0] if capture else trace
                result = None
            if capture and captured is not None:
                self._keep_trace(key, want, captured)
        return result if result is not None else self.compute(run, analysis.name, params, captured, steps)

    def estimate(self, run: Run, want: Want) -> Estimate | None:
        """What a trace of this run will take; None if the model does not say.

        Raises:
            Unavailable: the model gives no attention.
        """
        model = self.model(run.spec)
        tokens = run.tokens
        return model.estimate(len(tokens), want, tokens.decoder_from) if isinstance(model, Estimating) else None

    def _reading(self, run: Run, want: Want) -> str:
        """What is said of a capture; how long it takes, where that is known and worth a word."""
        estimate = self.estimate(run, want)
        long = estimate is not None and estimate.seconds >= WORTH_SAYING
        return f"Reading the model (about {estimate.seconds:.0f} s)" if estimate and long else "Reading the model"

    def compute(
        self,
        run: Run,
        name: str,
        params: Mapping[str, Any],
        trace: Trace | None,
        progress: Progress = quiet,
        waiting: tuple[str, ...] = (),
    ) -> Result:
        """Call the plugin's own function and check what it returns. A plugin that raises is recorded, and raises on;
        what `progress` raises is not the plugin's doing.

        waiting   the analyses that asked for this one
        """
        analysis = self.analysis(name)
        model = cast(Model, _WhenNeeded(self, run.spec))
        seen = None if trace is None else trace.narrowed(analysis.want)
        steps = progress if isinstance(progress, Steps) else Steps(progress)
        asking = partial(self._asked_by, run, (*waiting, name), steps)
        request = AnalysisRequest(run, self.card(run.spec), model, params, seen, steps, asking)
        try:
            result = analysis.run(request)
            if steps.stopped is not None:
                raise steps.stopped
            if not isinstance(result, analysis.produces):
                expected, got = analysis.produces.__name__, type(result).__name__
                raise PluginError(f"Analysis {name} returned {got}, expected {expected}.")
        except (BadInput, Unavailable, ModelError):
            raise
        except Exception as error:
            if steps.stopped is not None:
                raise steps.stopped from None
            self._record(name, error)
            raise
        return result

    def _asked_by(self, run: Run, waiting: tuple[str, ...], steps: Steps, name: str, /, **given: Any) -> Result:
        """The result of an analysis that others are waiting for, where they are computed; see AnalysisRequest.analyze.

        Takes no turn: whoever waits has one, and may be waited for by another thread.
        """
        if name in waiting:
            raise BadInput(f"Analysis {name} cannot answer itself: {' asks '.join((*waiting, name))}.")
        if not self.analysis(waiting[-1]).gpu:
            raise PluginError(f"Analysis {waiting[-1]} asks others, so it has to say gpu=True.")
        analysis, card = self.analysis(name), self.card(run.spec)
        if reason := self.check(analysis, card):
            raise Unavailable(f"{analysis.title} is not available for {run.model}. {reason}")
        params = self.resolve(analysis, TracedRun(LoadedModel(self, run.spec, run.model, card), run), given)
        with self._lock:
            found = self._findings.get(_finding_key(run, analysis, params))
        if found is not None:
            return found.result
        trace = None
        if "attention" in analysis.requires:
            key = _ids_key(run)
            trace, want = self._cached_trace(key, analysis.want)
            if trace is None:
                trace = self.model(run.spec).trace(run.tokens, want)
                self._keep_trace(key, want, trace)
        return self.compute(run, name, params, trace, steps.inside(analysis.title), waiting)

    def _record(self, name: str, error: Exception) -> None:
        source = next((p.source for p in self.registry.plugins if ("analyses", name) in p.provides), name)
        failure = Failure(name, source, "run", f"{type(error).__name__}: {error}")
        with self._lock:
            if failure not in self.failures:
                self.failures.append(failure)

    # ---- renderers

    def renderers(self, kind: type[Result]) -> list[Renderer]:
        """Renderers that draw this kind of result, in the order they are offered."""
        fitting = [r for r in self.registry.renderers.values() if issubclass(kind, r.accepts)]
        return sorted(fitting, key=lambda r: r.order)

    def render(self, finding: Finding, name: str) -> View:
        """The finding drawn by one renderer.

        Raises:
            UnknownName: no renderer of that name draws this kind of result.
        """
        return self._renderer(finding, name).render(finding)

    def _renderer(self, finding: Finding, name: str) -> Renderer:
        fitting = {r.name: r for r in self.renderers(type(finding.result))}
        if name not in fitting:
            raise UnknownName(f"renderer for {finding.result.kind}", name, fitting)
        return fitting[name]

    def suffixes(self, kind: type[Result]) -> dict[str, Renderer | Format]:
        """File ending -> what writes a result of this kind so, in alphabetical order."""
        found: dict[str, Renderer | Format] = {s: r for r in reversed(self.renderers(kind)) for s in r.suffixes}
        formats = [f for f in self.registry.formats.values() if f.content == kind.kind and f.write is not None]
        found |= {s: f for f in reversed(formats) for s in f.suffixes}
        return dict(sorted(found.items()))

    def save(self, finding: Finding, path: str | os.PathLike[str]) -> Path:
        """Write the finding to a file; the suffix picks renderer or format. Written whole or not at all.

        A format's suffix (such as .inseq.json) is taken before a shorter one.

        Raises:
            BadInput: nothing writes the suffix, or the folder cannot be written to.
        """
        target = Path(path)
        suffixes = self.suffixes(type(finding.result))
        longest = sorted(suffixes, key=len, reverse=True)
        suffix = next((s for s in longest if target.name.lower().endswith(s)), None)
        if suffix is None:
            raise BadInput(f"Cannot save {target.name!r}: expected a file ending in one of {', '.join(suffixes)}.")
        writer = suffixes[suffix]
        if isinstance(writer, Format):
            assert writer.write is not None
            writer.write(finding, target)
            return target
        view = writer.render(finding)
        content = view.payload.encode() if isinstance(view.payload, str) else view.payload
        try:
            _write_whole(target, content)
        except OSError as error:
            raise BadInput(f"Cannot write {target}: {error.strerror or error}.") from error
        return target

    # ---- files

    def read_attribution(self, path: str | os.PathLike[str], *, format: str = "auto", **params: Any) -> SavableFinding:
        """The attribution in a file of another program; see `attnviz plugins --kind formats`.

        Args:
            format: a format's name, or "auto" for the first that the content fits.
            params: what the format lets choose, such as the sequence of an Inseq file.

        Raises:
            UnknownName: no such format, or a parameter it does not have.
            BadInput: no format fits, or the file does not hold what it should.
        """
        chosen = self._format(Path(path), format)
        assert chosen.read is not None
        found = chosen.read(path, **chosen.resolve(params))
        if not isinstance(found, Finding) or found.result.kind != chosen.content:
            raise PluginError(
                f"Format {chosen.name} gave {type(found).__name__}, expected a Finding of {chosen.content}."
            )
        return SavableFinding(**_shallow(found), session=self)

    def _format(self, path: Path, name: str) -> Format:
        """The format of a name, or of the file's content."""
        kind = Attribution.kind
        fitting = {f.name: f for f in self.registry.formats.values() if f.content == kind and f.read is not None}
        if name != "auto":
            if name not in fitting:
                raise UnknownName(f"format of {kind} files", name, fitting)
            return fitting[name]
        reasons = []
        for candidate in fitting.values():
            reason = candidate.handles(path) if candidate.handles else "it reads what is named as its own only."
            if reason is None:
                return candidate
            reasons.append(f"{candidate.name}: {reason}")
        raise BadInput(f"{path.name}: no format reads this file. {' '.join(reasons)}".strip())

    def read_sensors(self, path: str | os.PathLike[str], **params: Any) -> SensorData:
        """The series in a file; see the format "sensor_data" for the parameters.

        Raises:
            UnknownName: a parameter that the format does not have.
            BadInput: the file does not hold what it should, with row and column.
        """
        found = self.registry.formats.get("sensor_data")
        if found is None or found.read is None:
            raise BadInput('Sensor data need the format plugin "sensor_data", which is not loaded.')
        data = found.read(path, **found.resolve(params))
        if not isinstance(data, SensorData):
            raise PluginError(f"Format {found.name} gave {type(data).__name__}, expected SensorData.")
        return data

    # ---- caches

    @contextmanager
    def _turn(self, key: Any, progress: Progress = quiet) -> Iterator[None]:
        """One thread at a time per key, so that two askers of the same thing compute it once; the other is told."""
        with self._lock:
            turn = self._busy.get(key)
            if turn is None:
                turn = self._busy[key] = _Turn()
        while not turn.lock.acquire(timeout=PATIENCE):
            progress(0.0, "Waiting for another analysis of this run")
        try:
            yield
        finally:
            turn.lock.release()

    def _cached_trace(self, key: Any, want: Want) -> tuple[Trace | None, Want]:
        """The trace in memory if it holds what is wanted; and what to capture if not, which includes what it holds."""
        with self._lock:
            kept = self._traces.get(key)
        if kept is None:
            return None, want
        return (kept.trace, kept.want) if kept.want.covers(want) else (None, kept.want.merged(want))

    def _keep_trace(self, key: Any, want: Want, trace: Trace) -> None:
        with self._lock:
            _keep(self._traces, key, _Captured(want, trace))


class _WhenNeeded:
    """Stands for a model until something of it is asked for; many analyses need only the trace."""

    def __init__(self, session: Session, spec: ModelSpec) -> None:
        self._session, self._spec = session, spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session.model(self._spec), name)


@dataclass(frozen=True)
class _Captured:
    """A trace in memory, and what it was asked to hold."""

    want: Want
    trace: Trace


class _Turn:
    """A lock that may be weakly referenced."""

    def __init__(self) -> None:
        self.lock = threading.RLock()


# --------------------------------------------------------------------------------------------- what users hold


@dataclass(frozen=True)
class LoadedModel:
    """A model in a session."""

    session: Session
    spec: ModelSpec
    name: str
    card: ModelCard

    def tokenize(
        self,
        text: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        array: NDArray[Any] | None = None,
        names: Sequence[str] | None = None,
        times: Sequence[str] | None = None,
        window: str | None = None,
    ) -> Tokens:
        """Tokens of a text, of a conversation, or of an array for a model that reads numbers.

        names   of the columns of the array; they stand where a text would
        times   of the rows of a series, as texts
        window  of a series longer than the model reads: "first", "last" or "START:STOP"; None = it has to fit

        Raises:
            BadInput: none of them, several, or one that this model cannot use.
        """
        given = {"a text": text, "messages": messages, "an array": array}
        found = [name for name, value in given.items() if value is not None]
        if len(found) != 1:
            got = f"both {' and '.join(found)}" if found else "neither"
            raise BadInput(f"Expected either a text, messages or an array, got {got}.")
        model = self.session.model(self.spec)
        if array is None:
            return model.tokenize(text if text is not None else _checked_messages(messages))
        if not isinstance(model, ReadsNumbers):
            raise BadInput(f"{self.name} reads text, not an array of numbers: give it a text or messages.")
        return _of_array(model, np.asarray(array), names, times, window)

    def trace(
        self,
        text: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        array: NDArray[Any] | None = None,
        names: Sequence[str] | None = None,
        times: Sequence[str] | None = None,
        window: str | None = None,
        reference: Reference | None = None,
        ids: Sequence[int] | None = None,
        attention_mask: Sequence[int] | None = None,
        category: str = "",
    ) -> TracedRun:
        """A run of the prompt, of one input of a model that reads numbers (in the model's own axes), or of token ids.

        times and window: of a series, see `tokenize`.
        reference: other inputs of the same shape as the array, for analyses that compare it with what is usual.
        ids may be a row of a batch; `attention_mask` is 0 for its padding, left or right. The forward pass happens when
        something first needs it.

        Raises:
            BadInput: an unusable prompt, or ids that do not fit the model or the mask.
        """
        if ids is None:
            if attention_mask is not None:
                raise BadInput("attention_mask: expected together with ids, got none.")
            tokens = self.tokenize(text, messages=messages, array=array, names=names, times=times, window=window)
            tokens = tokens if reference is None else dataclasses.replace(tokens, reference=reference)
        else:
            if text is not None or messages is not None or array is not None or reference is not None:
                raise BadInput("Expected either ids or a prompt, got both.")
            tokens = self._tokens_of(ids, attention_mask)
        return self.session.start(self, tokens, category=category)

    def _tokens_of(self, ids: Sequence[int], attention_mask: Sequence[int] | None) -> Tokens:
        model = self.session.model(self.spec)
        if not isinstance(model, ReadsIds):
            raise BadInput(f"{self.name} takes no token ids. Give the text instead.")
        numbers = np.asarray(ids)
        mask = np.ones(len(numbers), int) if attention_mask is None else np.asarray(attention_mask)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise BadInput(f"ids: expected one row of whole numbers, got {ids!s:.80}.")
        if mask.shape != numbers.shape or not np.isin(mask, (0, 1)).all():
            raise BadInput(f"attention_mask: expected {len(numbers)} values 0 or 1, one for each id, got {mask!s:.80}.")
        return model.tokens_of([int(i) for i in numbers], [not shown for shown in mask])

    def reread(self, run: TracedRun) -> TracedRun:
        """The text of a run of another model, prompt and answer, as a run of this one.

        Where every token of the run has the same id and text here, exactly those ids are taken. Otherwise the text is
        tokenised anew, as plain text, and the answer begins at the token that holds its first character.

        Raises:
            BadInput: a run of numbers, or of encoder and decoder; text this model cannot read.
        """
        tokens = run.tokens
        if tokens.values is not None or tokens.decoder_from is not None:
            raise BadInput("Only a plain text can be read again by another model; this run is of another kind.")
        start = run.generated_from
        if not self._has_tokens(tokens):
            first = None if start is None else next((a for a, _ in tokens.offsets[start:].tolist() if a >= 0), None)
            tokens = self.tokenize(run.text)
            start = None if first is None else _token_at(tokens, first)
        return self.session.start(self, tokens, generated_from=start, category=run.run.category)

    def _has_tokens(self, tokens: Tokens) -> bool:
        """Whether these ids mean the same to this model."""
        label, pairs = self.session.model(self.spec).label, zip(tokens.ids.tolist(), tokens.labels, strict=True)
        return all(token < self.card.vocabulary and label(token) == text for token, text in pairs)

    def generate(
        self,
        text: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        array: NDArray[Any] | None = None,
        names: Sequence[str] | None = None,
        max_new_tokens: int = 40,
        temperature: float = 0.0,
        top_p: float = 1.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        category: str = "",
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> TracedRun:
        """A run of the prompt and the model's answer to it, over the exact ids that were generated.

        Args:
            stop: texts; the answer ends with the first token after which it contains one of them. Nothing is cut off.
            on_token: gets each new id as it comes.
            on_row: gets what each new token was chosen from as it comes; never called by a model without attention.
            cancelled: asked at every token; once it says yes the answer ends and what there is of it is kept.

        Raises:
            BadInput: an unusable prompt or sampling setting.
            Unavailable: the model cannot generate.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, repetition_penalty, seed, stop)  # type: ignore[arg-type]  # it makes a tuple
        check_sampling(sampling)
        if "generation" not in self.card.capabilities:
            raise Unavailable(f"{self.name} cannot generate. {self.card.missing.get('generation', '')}".strip())
        prompt = self.tokenize(text, messages=messages, array=array, names=names)
        answer, ended = self.go_on(prompt, sampling, on_token, cancelled, on_row)
        about: dict[str, Any] = {"sampling": sampling, "category": category, "ended": ended}
        return self.session.start(self, answer, generated_from=len(prompt), **about)

    def go_on(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> tuple[Tokens, str]:
        """Exactly these tokens and what the model writes after them, as one more segment; and why it ended, one of
        ENDED or "". Arguments as for `generate`; keeps no run.

        Raises:
            BadInput: an unusable sampling setting, or no room.
            Unavailable: the model cannot generate.
        """
        check_sampling(sampling)
        if "generation" not in self.card.capabilities:
            raise Unavailable(f"{self.name} cannot generate. {self.card.missing.get('generation', '')}".strip())
        asked = _Asked(cancelled)
        listening = {} if on_row is None else {"on_row": on_row}
        answer = self.session.model(self.spec).generate(tokens, sampling, on_token, asked, **listening)
        return answer, _ended(tokens, answer, sampling, self.card.ends, asked.said_yes)


@dataclass(frozen=True)
class TracedRun:
    """A run in a session: its tokens, its attention, and every analysis of it."""

    model: LoadedModel
    run: Run

    @property
    def id(self) -> str:
        return self.run.id

    @property
    def tokens(self) -> Tokens:
        return self.run.tokens

    @property
    def generated_from(self) -> int | None:
        return self.run.generated_from

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return self.run.text

    @property
    def answer(self) -> str:
        """The generated part of the text; empty if nothing was generated."""
        return self.run.answer

    def write(self, path: str | os.PathLike[str]) -> None:
        """Keep the run and its attention in a file; see attnviz.runfile."""
        write_run(Path(path), SavedRun(self.run, self.model.card, self.captured))

    def save(
        self,
        *,
        category: str = "",
        title: str = "",
        maps: bool = False,
        store: RunStore | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> StoredRun:
        """Keep the run: its tokens, statistics of its attention, small pictures of the heads, the lens of its answer.

        Args:
            category: one of attnviz.store.CATEGORIES or your own; "" = that of the run, else Custom.
            title: "" = the first line of the prompt.
            maps: keep the attention bit for bit as well; otherwise it is computed again from the tokens.
            store: where to; None = the folder of `attnviz.run_store()`.
            metadata: plain JSON of your own.

        Raises:
            BadInput: the folder cannot be written to; nothing is then kept.
        """
        if self.run.spec.backend == KEPT:
            raise BadInput("This run is a saved one without its model. Export and import its file to copy it.")
        card = self.model.card
        trace, lens = self.model.session.to_keep(self.run)
        whole = SavedRun(self.run, card, trace, lens)
        return (store or RunStore()).add(
            whole if maps else compact(whole),
            prompt=self.prompt,
            response=self.answer,
            title=title,
            category=category,
            kind="run" if self.run.trajectory is None else "agent",
            provenance=run_provenance(self.run, card, trace),
            metadata={**(metadata or {}), "versions": dict(versions())},
        )

    @property
    def prompt(self) -> str:
        """What was asked: the user's messages of a conversation, else the text before the answer."""
        return self.run.prompt

    @property
    def captured(self) -> Trace:
        """What the forward pass gave. Raises Unavailable, with the reason, for a model without attention."""
        return self.model.session.trace(self.run)

    def attention(self, layer: int, head: int) -> NDArray[np.float32]:
        """Pattern of one head, float32 [query, key]. Raises BadInput for a layer or head that does not exist."""
        return self.captured.attention(layer, head)

    def analyze(self, analysis: str, *, on_progress: Progress | None = None, **params: Any) -> SavableFinding:
        """The result of an analysis; see `attnviz plugins` for names and parameters.

        Args:
            on_progress: gets the share of the work that is done (0..1) and what it is at, in words. Raise to stop the
                work at its next step.
        """
        return self.model.session.analyze(self, analysis, params, on_progress or quiet)


@dataclass(frozen=True)
class SavableFinding(Finding):
    """A finding that can be drawn and written to a file."""

    session: Session | None = field(default=None, compare=False, repr=False)

    def _home(self) -> Session:
        if self.session is None:
            raise BadInput("This finding belongs to no session, so there are no renderers to draw it.")
        return self.session

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write to a file; the suffix picks how: .html .png .svg .csv .json, of attributions also .inseq.json …"""
        return self._home().save(self, path)

    def render(self, renderer: str) -> View:
        """Drawn by the renderer of this name."""
        return self._home().render(self, renderer)

    def to_json(self) -> str:
        """The JSON text the command line prints."""
        return str(self.render("json").payload)


# --------------------------------------------------------------------------------------------- small steps


def _token_at(tokens: Tokens, character: int) -> int | None:
    """The first token that goes beyond a character; None if none does."""
    return next((i for i, (_, stop) in enumerate(tokens.offsets.tolist()) if stop > character), None)


def _is_module(value: object) -> bool:
    """Whether this is a module of torch; imports nothing."""
    return any(f"{cls.__module__}.{cls.__name__}" == "torch.nn.modules.module.Module" for cls in type(value).__mro__)


def _in_range(param: Param, value: Any, count: int, default: int) -> Any:
    if value is None:
        return default
    if isinstance(value, int) and not isinstance(value, bool) and value >= count:
        known = f"0 to {count - 1}" if count else "none"
        raise BadInput(f"Unknown {param.type} {value}. There are {count}: {known}.")
    return value


def _no_trace(card: ModelCard) -> Trace:
    why = card.missing.get("attention", "this model gives none.")
    return Trace((None,) * len(card.layers), dict.fromkeys(range(len(card.layers)), why))


def _how(spec: ModelSpec) -> tuple[str, str, str]:
    """Backend, data type and device, as asked for."""
    return spec.backend, spec.dtype, spec.device


def _first_with_attention(card: ModelCard) -> int:
    return next((layer.index for layer in card.layers if layer.heads > 0 and layer.kind not in ("none", "linear")), 0)


def _ids_key(run: Run) -> tuple[Any, ...]:
    tokens = run.tokens
    read = tokens.ids.tobytes() if tokens.values is None else array_digest(tokens.values)
    return run.spec, read, tokens.decoder_from, None if tokens.padding is None else tokens.padding.tobytes()


def _run_key(run: Run) -> tuple[Any, ...]:
    """What a finding depends on or shows of a run: one model under two names, or two texts of equal ids, are two."""
    tokens = run.tokens
    beside = None if tokens.reference is None else reference_digest(tokens.reference)
    return (*_ids_key(run), run.model, tokens.text, tokens.labels, tokens.segments, run.generated_from, beside)


def _finding_key(run: Run, analysis: Analysis, params: Mapping[str, Any]) -> tuple[Any, ...]:
    return _run_key(run), analysis.name, analysis.version, tuple(sorted(params.items()))


def _finding_bytes(finding: Finding) -> int:
    fields = (getattr(finding.result, f.name) for f in dataclasses.fields(finding.result))
    nested = [list(v.values()) if isinstance(v, Mapping) else [v] for v in fields]
    arrays = sum(a.nbytes for values in nested for a in values if isinstance(a, np.ndarray))
    cells = len(finding.result.rows) * len(finding.result.columns) if isinstance(finding.result, Table) else 0
    return 1024 + arrays + CELL_BYTES * cells


def _keep(cache: LRUCache[Any, Any], key: Any, value: Any) -> None:
    """Store unless the value alone is larger than the cache."""
    if cache.getsizeof(value) <= cache.maxsize:
        cache[key] = value


def _shallow(finding: Finding) -> dict[str, Any]:
    return {f.name: getattr(finding, f.name) for f in dataclasses.fields(Finding)}


def _of_array(
    model: ReadsNumbers,
    array: NDArray[Any],
    names: Sequence[str] | None,
    times: Sequence[str] | None,
    window: str | None,
) -> Tokens:
    """Tokens of an array, or of the rows of a series that the window says."""
    series = isinstance(model, ReadsSeries) and model.reads_series
    if not series and (times is not None or window is not None):
        raise BadInput("Times and windows are of a series [time, sensor], which this model does not read.")
    if not array.ndim:
        return model.tokenize_values(array)  # which says what it expects
    known = model.columns if isinstance(model, ReadsSeries) else ()
    if names is not None:
        check_names(names, array.shape[-1], known)
    rows = (
        choose_rows(array, window, model.steps) if series and isinstance(model, ReadsSeries) else slice(0, len(array))
    )
    tokens = model.tokenize_values(array[rows])
    return with_names(tokens, tuple(names if names is not None else known), times, rows, len(array))


ROLES = ("system", "user", "assistant")


def _checked_messages(messages: object) -> list[Message]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BadInput('Messages: expected a list such as [{"role": "user", "content": "…"}].')
    for number, message in enumerate(messages):
        fits = isinstance(message, Mapping) and all(isinstance(message.get(k), str) for k in ("role", "content"))
        if not fits:
            raise BadInput(f'Message {number}: expected {{"role", "content"}} with texts, got {message!r:.80}.')
        if message["role"] not in ROLES:
            raise UnknownName(f"role of message {number}", message["role"], ROLES)
    return list(messages)


def check_sampling(sampling: Sampling) -> None:
    """Raises BadInput, with what was expected, for a setting out of its range."""
    bounds = {
        "max_new_tokens": (1, 100_000),
        "temperature": (0.0, 100.0),
        "top_p": (1e-6, 1.0),
        "repetition_penalty": (1e-3, 100.0),
    }
    for name, (low, high) in bounds.items():
        value = getattr(sampling, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise BadInput(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}.")
    for name, top in (("max_new_tokens", 100_000), ("seed", SEEDS - 1)):
        value = getattr(sampling, name)
        if value is not None and not (type(value) is int and 0 <= value <= top):
            raise BadInput(f"{name}: expected a whole number from 0 to {top}, got {value!r:.40}.")


class _Asked:
    """Passes a question on, and remembers whether the answer was ever yes."""

    def __init__(self, question: Callable[[], bool] | None) -> None:
        self.question = question
        self.said_yes = False

    def __call__(self) -> bool:
        if self.question is not None and self.question():
            self.said_yes = True
        return self.said_yes


def _ended(prompt: Tokens, answer: Tokens, sampling: Sampling, ends: Sequence[int], cancelled: bool) -> str:
    """Why the answer ended, one of ENDED; "" where nothing of that holds."""
    count = len(answer) - len(prompt)
    if any(text in answer.text[len(prompt.text) :] for text in sampling.stop):
        return "stop text"
    if count and int(answer.ids[-1]) in ends:
        return "end token"
    if count >= sampling.max_new_tokens:
        return "length"
    return "cancelled" if cancelled else ""


def _write_whole(target: Path, content: bytes) -> None:
    """Write beside the target, flush to disk, then rename: a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp makes it private; the file is the user's like any other
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
