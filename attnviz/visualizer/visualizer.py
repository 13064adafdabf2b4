"""The visualizer: attention out of a model, its summary, its pictures and its files."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput, ModelError, ShapeError, Unavailable
from attnviz.provenance import array_digest, provenance
from attnviz.session import LoadedModel, SavableFinding, Task, TracedRun, default_session, on_device
from attnviz.types import FeatureAttention, Finding, Tokens, Trace, Want
from attnviz.visualizer.data import AttentionSummary, AttentionWeights, ExportFormat, Origin, VisualizationType

ANALYSIS = "attention_summary"
KEPT = 8
"""Extractions that are cached."""
_WANT = Want(thumbnail=1)  # small pictures of every head are not used here, and cost
_NO_ATTENTION = "Model does not output attention weights"
_NO_MATPLOTLIB = "matplotlib required for visualization: pip install matplotlib"


class AttentionVisualizer:
    """Attention of a model, as arrays, summaries, pictures and files. Nothing it does changes the model.

    Args:
        model: a module of PyTorch, a model of transformers that reads numbers, a (model, tokenizer) pair, a name or
            folder, or a model from `attnviz.load`; None to look at arrays alone.
        feature_names: of the sensors the model reads, or of the positions its attention is over; None = as the model
            says.
        enable_caching: the same input is run once; the last few are kept, until `clear_cache`.

    A module in memory is copied when it is first used: after training on, make a new visualizer.
    """

    def __init__(self, model: Any = None, feature_names: Sequence[str] | None = None, enable_caching: bool = True):
        if isinstance(feature_names, str) or not all(isinstance(name, str) for name in feature_names or ()):
            raise BadInput(f"feature_names: expected a list of texts, got {feature_names!r:.80}.")
        self.model = model
        self.feature_names = None if feature_names is None else tuple(feature_names)
        self.enable_caching = enable_caching
        self._loaded: LoadedModel | None = model if isinstance(model, LoadedModel) else None
        self._kept: OrderedDict[Any, Origin] = OrderedDict()

    def clear_cache(self) -> None:
        """Forget what was extracted."""
        self._kept.clear()

    # ---- extraction

    def extract_attention_weights(
        self, input_data: Any, return_all_layers: bool = True, return_all_heads: bool = False
    ) -> AttentionWeights:
        """Attention over one input, or over each of a batch.

        Args:
            input_data: numbers in the model's own axes, such as [time, sensor], or a batch of such; for a model that
                reads text a text, or token ids, one row or a batch.
            return_all_layers: every layer with attention, else the last of them.
            return_all_heads: every head, else their mean, which takes a 1/heads of the memory.

        Returns:
            [layer, head, query, key], of several inputs [layer, input, head, query, key]; the head axis is 1 long for
            the mean.

        Raises:
            Unavailable, ModelError: the model gives no attention, with the reason.
            BadInput: an input or names that do not fit.
        """
        inputs = self._inputs(input_data)
        origins = tuple(self._origin(one, return_all_layers) for one in inputs)
        maps = [_maps(origin, return_all_heads) for origin in origins]
        if len({each.shape for each in maps}) > 1:
            raise BadInput(f"Batch: expected inputs of one length, got {sorted({each.shape[-1] for each in maps})}.")
        tokens = origins[0].run.tokens
        return AttentionWeights(
            weights=maps[0] if len(maps) == 1 else np.stack(maps, axis=1),
            feature_names=list(tokens.labels),
            timestep_names=list(tokens.labels) if tokens.axis == "time" else None,
            model_name=_model_name(origins[0].run),
            input_shape=np.shape(input_data) if not isinstance(input_data, str) else (len(tokens),),
            averaged=not return_all_heads,
            origins=origins,
        )

    def _inputs(self, given: Any) -> list[Any]:
        """One input each: a text, ids, or numbers without the batch axis."""
        if isinstance(given, str):
            self._load(None)
            return [given]
        array = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
        if array.dtype.kind not in "fiu" or not array.size:
            raise BadInput(f"input_data: expected a text or numbers, got {type(given).__name__} of {array.shape}.")
        loaded = self._load(array)
        if not _reads_numbers(loaded):
            if array.dtype.kind == "f":
                raise BadInput(
                    f"input_data: {loaded.name} reads text: expected a text or token ids, got {array.dtype}."
                )
            return [array] if array.ndim == 1 else list(array)
        try:
            loaded.tokenize(array=array)
        except (ShapeError, BadInput):
            if array.ndim < 3:
                raise
            return list(array)
        return [array]

    def _load(self, example: NDArray[Any] | None) -> LoadedModel:
        """The model; a module of PyTorch that needs an example to be looked at gets the first input."""
        if self._loaded is not None:
            return self._checked(self._loaded)
        if self.model is None:
            raise BadInput("This visualizer has no model. Give one, or AttentionWeights of your own.")
        try:
            self._loaded = self._first_load(example)
        except ModelError as error:
            if "no attention" in str(error):
                raise ModelError(f"{_NO_ATTENTION}: {error}") from error
            raise
        return self._checked(self._loaded)

    def _first_load(self, example: NDArray[Any] | None) -> LoadedModel:
        plain = not isinstance(self.model, (str, os.PathLike, tuple)) and not hasattr(self.model, "config")
        if not plain or example is None:
            return default_session().load(self.model)
        if example.ndim < 3:
            return default_session().load((self.model, example))
        try:
            return default_session().load((self.model, example[0]))  # the first axis is mostly a batch
        except ModelError:
            return default_session().load((self.model, example))

    def _checked(self, loaded: LoadedModel) -> LoadedModel:
        if "attention" not in loaded.card.capabilities:
            raise Unavailable(f"{_NO_ATTENTION}: {loaded.card.missing.get('attention', loaded.card.route_reason)}")
        return loaded

    def _origin(self, one: Any, every_layer: bool) -> Origin:
        """The run of an input and its forward pass, from the cache where there is one."""
        key = (one if isinstance(one, str) else array_digest(one), self.feature_names)
        found = self._kept.get(key) if self.enable_caching else None
        if found is None:
            run = self._run(one)
            trace, _ = on_device(Task(run.model.session.id, run.run, capture=True, want=_WANT))
            assert trace is not None
            layers = tuple(index for index, layer in enumerate(trace.layers) if layer is not None)
            found = Origin(run, trace, layers)
            if self.enable_caching:
                self._kept[key] = found
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        if not found.layers:
            raise Unavailable(f"{_NO_ATTENTION}: {'; '.join(dict.fromkeys(found.trace.missing.values()))}")
        return found if every_layer else dataclasses.replace(found, layers=found.layers[-1:])

    def _run(self, one: Any) -> TracedRun:
        loaded = self._load(None)
        if isinstance(one, str):
            run = loaded.trace(one)
        elif not _reads_numbers(loaded):
            run = loaded.trace(ids=[int(token) for token in one])
        else:
            columns = one.shape[-1]
            named = self.feature_names is not None and len(self.feature_names) == columns
            run = loaded.trace(array=one, names=self.feature_names if named else None)
        tokens = _named(run.tokens, self.feature_names)
        return run if tokens is run.tokens else loaded.session.start(loaded, tokens)

    # ---- summary

    def get_attention_summary(self, weights: AttentionWeights, top_k: int = 5) -> AttentionSummary:
        """Features, layers and heads on one page.

        Raises:
            BadInput: weights that are none ("Invalid attention weights"), a batch, or a top_k below 1.
        """
        started = time.perf_counter()
        _at_least_one("top_k", top_k)
        weights = weights.only()
        origin = weights.origins[0] if weights.origins else _given(weights)
        finding = _finding(origin, weights)
        result = finding.result
        assert isinstance(result, FeatureAttention)
        heads = {
            layer: result.head_importance[number, np.isfinite(result.head_importance[number])]
            for number, layer in enumerate(origin.layers)
        }
        spent = time.perf_counter() - started
        return AttentionSummary(
            feature_importance=np.asarray(result.importance, np.float32),
            top_attended_features=list(result.ranked("importance", top_k)),
            top_attending_features=list(result.ranked("attending", top_k)),
            layer_importance=np.asarray(result.layer_importance, np.float32),
            head_importance=heads,
            provenance_hash=finding.provenance,
            processing_time_ms=1000 * spent,
            weights=weights,
            finding=dataclasses.replace(finding, seconds=spent),
        )

    def highlight_important_features(
        self, weights: AttentionWeights, threshold: float = 0.1, top_k: int | None = None
    ) -> dict[str, Any]:
        """{"important_features": [{"name", "importance", "rank"}, …]}, the most attended first.

        Args:
            threshold: least share of the attention received; of S features a uniform head gives each 1/S.
            top_k: so many, whatever their share.
        """
        if top_k is not None:
            _at_least_one("top_k", top_k)
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
            raise BadInput(f"threshold: expected a share from 0 to 1, got {threshold!r}.")
        every = self.get_attention_summary(weights, top_k=weights.weights.shape[-1]).top_attended_features
        chosen = every[:top_k] if top_k is not None else [pair for pair in every if pair[1] >= threshold]
        named = [{"name": name, "importance": share, "rank": rank} for rank, (name, share) in enumerate(chosen, 1)]
        return {"important_features": named, "threshold": None if top_k is not None else threshold, "top_k": top_k}

    # ---- pictures and files

    def visualize_attention(
        self,
        weights: AttentionWeights,
        layer: int | None = None,
        head: int | None = None,
        viz_type: VisualizationType | str = VisualizationType.HEATMAP,
        figsize: tuple[float, float] = (12, 10),
    ) -> dict[str, Any]:
        """One map as a picture: {"figure", "matrix", "layer", "head", "viz_type", "share", "feature_names"}.

        The figure is one of matplotlib: `result["figure"].savefig("map.png", dpi=300)`. `share` of all attention is
        drawn; flow and network draw the strongest weights only.

        Raises:
            BadInput: no such layer or head, or a batch.
            Unavailable: matplotlib is not installed.
        """
        weights = weights.only()
        layers, heads = weights.weights.shape[:2]
        layer = _index("layer", weights.layer if layer is None else layer, layers, "")
        only_mean = " Heads were averaged: extract with return_all_heads=True." if weights.averaged else ""
        head = _index("head", weights.head if head is None else head, heads, only_mean)
        matrix = weights.weights[layer, head]
        kind = viz_type.value if isinstance(viz_type, VisualizationType) else str(viz_type)
        of = "mean of the heads" if weights.averaged else f"head {head}"
        number = weights.origins[0].layers[layer] if weights.origins else layer
        try:
            from attnviz.plugins.renderers.attention_figures import map_figure

            drawn = map_figure(kind, matrix, _names(weights), f"{weights.model_name} · layer {number} · {of}", figsize)
        except ImportError as error:
            raise Unavailable(_NO_MATPLOTLIB) from error
        return {
            "figure": drawn.figure,
            "matrix": matrix,
            "layer": layer,
            "head": head,
            "viz_type": VisualizationType(kind),
            "share": drawn.share,
            "feature_names": _names(weights),
        }

    def export_visualization(
        self,
        summary: AttentionSummary,
        format: ExportFormat | str = ExportFormat.HTML,
        output_path: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Write a summary to a file; without a path attention_summary.html, .json, .csv, .png or .svg.

        HTML is interactive and works without a network; PNG and SVG have four panels.

        Raises:
            BadInput: another format, or a place that cannot be written.
            Unavailable: matplotlib is not installed (PNG, SVG).
        """
        known = [each.value for each in ExportFormat]
        name = format.value if isinstance(format, ExportFormat) else str(format).lower()
        if name not in known:
            raise BadInput(f"format: expected one of {', '.join(known)}, got {format!r:.40}.")
        target = Path(output_path) if output_path is not None else Path(f"attention_summary.{name}")
        try:
            return _save(_with_map(summary), target, f".{name}")
        except ImportError as error:
            raise Unavailable(_NO_MATPLOTLIB) from error


# --------------------------------------------------------------------------------------------- small steps


def _reads_numbers(loaded: LoadedModel) -> bool:
    return hasattr(loaded.session.model(loaded.spec), "tokenize_values")


def _named(tokens: Tokens, names: Sequence[str] | None) -> Tokens:
    """With names for the positions, where they are not those of the columns.

    Raises:
        BadInput: as many names as there are neither positions nor columns.
    """
    columns = tokens.values.shape[-1] if tokens.values is not None else None
    if names is None or (len(names) == columns and (tokens.axis == "sensor" or columns != len(tokens))):
        return tokens
    if len(names) != len(tokens):
        or_columns = "" if columns is None else f" (or {columns}, one for each column of the input)"
        expected = f"{len(tokens)} names, one for each position of the map{or_columns}"
        raise BadInput(f"feature_names: expected {expected}, got {len(names)}.")
    return dataclasses.replace(tokens, labels=tuple(names))


def _maps(origin: Origin, every_head: bool) -> NDArray[np.float32]:
    """[L, H or 1, S, S]

    Raises:
        BadInput: layers over other tokens, or with other numbers of heads.
    """
    layers = [origin.trace.layer(index) for index in origin.layers]
    count = len(origin.run.tokens)
    if any(layer.row_span != (0, count) or layer.column_span != (0, count) for layer in layers):
        raise BadInput(
            "This model has several stacks, whose maps have other rows and columns and make no one array: take them "
            "one by one with model.trace(…).attention(layer, head)."
        )
    heads = {layer.heads for layer in layers}
    if every_head and len(heads) > 1:
        raise BadInput(f"Layers have {sorted(heads)} heads and make no one array: take return_all_heads=False.")
    found = np.zeros((len(layers), heads.pop() if every_head else 1, count, count), np.float32)
    for number, layer in enumerate(layers):
        for head in range(layer.heads):
            if every_head:
                found[number, head] = layer.pattern(head)
            else:
                found[number, 0] += layer.pattern(head)
        if not every_head:
            found[number] /= layer.heads
    return found


def _given(weights: AttentionWeights) -> Origin:
    """Arrays of somebody else as a run; checked when they are loaded."""
    session = default_session()
    loaded = session.load((np.asarray(weights.weights), _names(weights)))
    run = loaded.trace(ids=range(weights.weights.shape[-1]))
    trace, _ = on_device(Task(session.id, run.run, capture=True, want=_WANT))
    assert trace is not None
    return Origin(run, trace, tuple(range(len(trace.layers))))


def _model_name(run: TracedRun) -> str:
    """A name that does not change from one load to the next: of a model in memory what it is."""
    return run.model.name if run.run.spec.objects is None else run.model.card.architecture


def _names(weights: AttentionWeights) -> list[str]:
    count = weights.weights.shape[-1]
    return [str(index) for index in range(count)] if weights.feature_names is None else list(weights.feature_names)


def _finding(origin: Origin, weights: AttentionWeights) -> SavableFinding:
    """The analysis of exactly the layers that are in the array, with its provenance."""
    run, session = origin.run, origin.run.model.session
    params = {"map": False}
    chosen = Trace(tuple(origin.trace.layers[i] for i in origin.layers), precision=origin.trace.precision)
    card = session.card(run.run.spec)
    result = session.compute(run.run, ANALYSIS, params, chosen)
    assert isinstance(result, FeatureAttention)
    result = dataclasses.replace(result, made=weights.timestamp.isoformat(timespec="seconds"))
    shown: Mapping[str, Any] = {**params, "layers": list(origin.layers)}
    given = Finding(
        analysis=ANALYSIS,
        title=session.analysis(ANALYSIS).title,
        params=shown,
        model=weights.model_name,
        tokens=run.tokens,
        result=result,
        provenance=provenance(dataclasses.replace(run.run, model=_model_name(run)), card, ANALYSIS, shown, result),
        run=run.id,
        layers=tuple(card.layers[i].name for i in origin.layers),
    )
    return SavableFinding(**{f.name: getattr(given, f.name) for f in dataclasses.fields(Finding)}, session=session)


def _with_map(summary: AttentionSummary) -> SavableFinding:
    """The finding with the mean map, which files show."""
    result = summary.finding.result
    assert isinstance(result, FeatureAttention)
    mean = summary.aggregated_weights.mean(axis=0).astype(np.float32)
    return dataclasses.replace(summary.finding, result=dataclasses.replace(result, weights=mean))


def _save(finding: SavableFinding, target: Path, suffix: str) -> Path:
    """Written whole or not at all, under any name.

    Raises:
        BadInput: the place cannot be written.
    """
    if target.name.lower().endswith(suffix):
        return finding.save(target)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            os.replace(finding.save(Path(folder) / f"summary{suffix}"), target)
    except OSError as error:
        raise BadInput(f"Cannot write {target}: {error.strerror or error}.") from error
    return target


def _index(what: str, index: Any, count: int, more: str) -> int:
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < count:
        raise BadInput(f"Unknown {what} {index!r}. There are {count}: 0 to {count - 1}.{more}")
    return int(index)


def _at_least_one(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{name}: expected a whole number from 1, got {value!r}.")
