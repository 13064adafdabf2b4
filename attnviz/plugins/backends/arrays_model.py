"""A model that reads numbers, behind the Model contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    CAPABILITIES,
    AttnvizError,
    BadInput,
    Estimate,
    LensTable,
    LiveRow,
    Message,
    ModelCard,
    ModelSpec,
    Sampling,
    SensorSeries,
    ShapeError,
    Tokens,
    Trace,
    Unavailable,
    Want,
)
from attnviz.plugins.backends import attention_function
from attnviz.plugins.backends.arrays_looking import FAULTS, as_tensor, look_at
from attnviz.plugins.backends.arrays_route import (
    ArrayRoute,
    SideBySide,
    choose_route,
    count_tokens,
    run_once,
    sizes_of,
)
from attnviz.plugins.backends.capture import AttentionCollector, Shelf, precision_of
from attnviz.plugins.backends.estimate import (
    TIMED_TOKENS,
    LayerShape,
    Pace,
    bias_bytes,
    choose_level,
    kept_bytes,
    mask_bytes,
    measure_pace,
    refuse_beyond_memory,
    working_bytes,
)
from attnviz.plugins.backends.loading import Loaded, load_without_tokenizer, quiet
from attnviz.plugins.backends.number_models import SENSORS, model_type
from attnviz.plugins.backends.predictions import Predictor, gradients, predict, predictor, series_of
from attnviz.plugins.backends.readings import Arguments, Reading, Rows, as_numbers
from attnviz.plugins.backends.stacks import Lengths
from attnviz.plugins.backends.token_axis import token_axis


def load(spec: ModelSpec) -> ArrayModel:
    """Loads, looks at and checks a model.

    Raises:
        ModelError: files that are missing or broken, or a model that gives no attention.
        BadInput: an unknown or absent device or data type.
    """
    attention_function.register()
    loaded = _loaded(spec)
    with quiet():
        reading, look = look_at(loaded.module, None if spec.objects is None else spec.objects[1])
        route = choose_route(loaded.module, reading, look)
        if isinstance(reading, Rows):
            reading = replace(reading, axis=token_axis(loaded.module, reading, route))
    model = ArrayModel(_card(loaded, reading, route), loaded, reading, route)
    return replace(model, pace=_pace(model))


def _loaded(spec: ModelSpec) -> Loaded:
    if spec.objects is None and model_type(spec) == SENSORS:
        from attnviz.plugins.backends.sensor_transformer import load_folder

        return load_folder(spec)
    return load_without_tokenizer(spec)


@dataclass(frozen=True)
class ArrayModel:
    """The module belongs to attnviz. No call changes it: what is set at load (attention function, idle hooks) stays."""

    card: ModelCard
    loaded: Loaded
    reading: Reading
    route: ArrayRoute
    pace: Pace | None = field(default=None, kw_only=True)
    _counts: dict[tuple[int, ...], int] = field(default_factory=dict, compare=False, repr=False)
    _predictors: list[Predictor] = field(default_factory=list, compare=False, repr=False)

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        raise BadInput(
            f"{self.card.name} reads numbers, not text: expected an array {self.reading.axes}. Give it as "
            "trace(array=…), or on the command line as --array FILE.npy or FILE.csv."
        )

    @property
    def reads_series(self) -> bool:
        return self.reading.sensors is None

    @property
    def steps(self) -> int | None:
        return self.reading.steps

    @property
    def columns(self) -> tuple[str, ...]:
        return self.reading.columns

    def tokenize_values(self, values: NDArray[Any]) -> Tokens:
        numbers = as_numbers(values, wide=self.card.dtype == "float64")
        self.reading.check(numbers)
        return _with_added(self.reading.tokens(numbers, self._count(numbers)), self.route.added)

    def _count(self, numbers: NDArray[Any]) -> int:
        """Tokens the model makes of an array; of a module of the user's only a forward pass can tell.

        Raises:
            BadInput: the module stopped.
        """
        if self.reading.positions is not None:
            return self.reading.positions
        found = self._counts.get(numbers.shape)
        if found is None:
            arguments = self._arguments(numbers)
            seen = self._run(lambda: sizes_of(self.loaded.module, arguments, self.route.capturing), numbers.shape)
            if tuple(call.key for call in seen) != self.route.found:
                raise BadInput(
                    f"{self.card.name} calls attention {len(seen)} times for an array of shape {list(numbers.shape)}, "
                    f"or in another order; {len(self.route.found)} calls were expected, as for the example."
                )
            found = self._counts[numbers.shape] = count_tokens(seen, None)
        return found

    def _arguments(self, numbers: NDArray[Any]) -> Arguments:
        return self.reading.arguments(as_tensor(self.loaded.module, numbers)[None])

    def _run(self, run: Callable[[], Any], shape: tuple[int, ...]) -> Any:
        """Raises BadInput where the module stops over its input."""
        try:
            return run()
        except AttnvizError:
            raise
        except FAULTS as error:
            said = " ".join(str(error).split())[:200]
            raise BadInput(
                f"{self.card.architecture} cannot read an array of shape {list(shape)}; expected {self.reading.axes}. "
                f"It said: {said}"
            ) from error

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        numbers = self._checked(tokens)
        layers = range(len(self.card.layers)) if want.layers is None else want.layers
        for layer in layers:
            if not 0 <= layer < len(self.card.layers):
                raise BadInput(f"Unknown layer {layer}. This model has layers 0 to {len(self.card.layers) - 1}.")
        if want.top_k < 0:
            raise BadInput(f"top_k must be 0 (none) or more, got {want.top_k}.")
        if not want.attention:
            return self._trace({}, "float32", "attention was not asked for.", 0.0)
        refuse_beyond_memory(self.estimate(len(tokens), want, tokens.decoder_from), len(tokens), _device(self.loaded))
        start, lengths = time.perf_counter(), Lengths.of(tokens)
        level = choose_level(self._shapes(want), lengths)
        collector = AttentionCollector(
            {key: layer for key, layer in self.route.calls.items() if layer in set(layers)},
            want.thumbnail,
            half=level.number == 2,
            top_k=want.top_k,
            projections=self.route.projections if want.values else None,
            without=level.without,
            shelf=Shelf(kept_bytes(self._shapes(want), lengths, want, level)),
        )
        watched, arguments = (
            self.route.capturing(SideBySide(collector, len(self.route.added))),
            self._arguments(numbers),
        )
        self._run(lambda: run_once(self.loaded.module, arguments, watched), numbers.shape)
        precision = precision_of(collector.captured, level)
        captured = self.route.placed(collector.captured, tokens)
        return self._trace(captured, precision, "this layer was not asked for.", time.perf_counter() - start)

    def _checked(self, tokens: Tokens) -> NDArray[Any]:
        """The array of a run.

        Raises:
            BadInput, ShapeError: tokens of a text, or of an array this model cannot take.
        """
        if tokens.values is None:
            raise BadInput(f"{self.card.name} reads numbers, not text: expected an array {self.reading.axes}.")
        self.reading.check(tokens.values)
        expected = self._count(tokens.values) + len(self.route.added)
        if len(tokens) != expected:
            raise BadInput(f"{expected} tokens are expected for this array, got {len(tokens)}.")
        return tokens.values

    def series(self, tokens: Tokens) -> SensorSeries:
        numbers = self._checked(tokens)
        asked = self._predictor(numbers)
        shape = self._run(lambda: asked.shape(as_tensor(self.loaded.module, numbers)[None]), numbers.shape)
        return series_of(asked, tokens, shape)

    def predict(self, values: NDArray[Any]) -> NDArray[np.floating[Any]]:
        numbers = self._batch(values)
        asked, weights = self._predictor(numbers[0]), self._weights(numbers[0])
        batch = as_tensor(self.loaded.module, numbers)
        found: NDArray[np.floating[Any]] = self._run(lambda: predict(asked, batch, weights), numbers.shape[1:])
        return found

    def prediction_gradients(self, values: NDArray[Any], outputs: Sequence[int]) -> NDArray[np.floating[Any]]:
        numbers = self._batch(values)
        asked, weights = self._predictor(numbers[0]), self._weights(numbers[0])
        batch = as_tensor(self.loaded.module, numbers)
        found: NDArray[np.floating[Any]] = self._run(
            lambda: gradients(asked, batch, outputs, weights), numbers.shape[1:]
        )
        return found

    def _batch(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inputs of a batch, each checked as that of a run is."""
        numbers = as_numbers(values, wide=self.card.dtype == "float64")
        if numbers.ndim < 2:
            raise ShapeError("Batch", f"[input, …] of inputs {self.reading.axes}", list(numbers.shape))
        for one in numbers:
            self.reading.check(one)
        return numbers

    def _weights(self, numbers: NDArray[Any]) -> int:
        """Weights of attention that one input makes."""
        count = self._count(numbers) + len(self.route.added)
        return sum(layer.heads for layer in self.card.layers) * count**2

    def _predictor(self, numbers: NDArray[Any]) -> Predictor:
        if self.reading.sensors is not None:
            self._unavailable("sensors")
        if not self._predictors:  # the first of two threads may do it twice; both find the same
            example = as_tensor(self.loaded.module, self.reading.example())[None]
            found = self._run(lambda: predictor(self.loaded.module, self.reading, example), numbers.shape)
            self._predictors.append(found)
        return self._predictors[0]

    def _shapes(self, want: Want) -> list[LayerShape]:
        """Of the layers asked for."""
        return [shape for layer, shape in self.route.shapes.items() if want.layers is None or layer in want.layers]

    def _trace(self, captured: dict[int, Any], precision: str, why: str, seconds: float) -> Trace:
        found = tuple(captured.get(index) for index in range(len(self.card.layers)))
        missing = {i: self.route.missing.get(i, why) for i, layer in enumerate(found) if layer is None}
        return Trace(found, missing, precision, seconds)

    def estimate(self, count: int, want: Want, decoder_from: int | None = None) -> Estimate:
        """What a trace of `count` tokens will take; see Estimate. The formula is in estimate.py."""
        shapes, lengths = self._shapes(want), Lengths(count, decoder_from)
        level = choose_level(shapes, lengths)
        state = max((shape.heads * shape.width for shape in shapes), default=0)
        held = kept_bytes(shapes, lengths, want, level)
        held += mask_bytes(shapes, lengths) + bias_bytes(shapes, lengths, level)
        seconds = float("nan") if self.pace is None else self.pace.seconds(shapes, lengths, want)
        return Estimate(held, held + working_bytes(shapes, lengths, state, 4 * state), seconds, level.name)

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        self._unavailable("logits")

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        self._unavailable("generation")

    def _unavailable(self, what: str) -> NoReturn:
        raise Unavailable(self.card.missing[what])

    def label(self, token_id: int) -> str:
        return ""  # there are no ids

    def module(self) -> Any:
        return self.loaded.module


def _device(loaded: Loaded) -> Any:
    return next(loaded.module.parameters()).device


def _with_added(tokens: Tokens, added: tuple[str, ...]) -> Tokens:
    """The tokens, and behind them the keys that layers add to theirs."""
    if not added:
        return tokens
    count = len(added)
    return replace(
        tokens,
        ids=np.append(tokens.ids, [-1] * count),
        labels=(*tokens.labels, *added),
        offsets=np.append(tokens.offsets, [[-1, -1]] * count, axis=0),
        special=np.append(tokens.special, [True] * count),
    )


# --------------------------------------------------------------------------------------------- card and pace


_TOKENS = {
    "sensor": ("a token is a sensor, over the whole time: attention goes from sensor to sensor",),
    "time": ("a token is a time step, or several in a row: attention goes from time to time, not between sensors",),
    "": (),
}


def _own_positions(reading: Reading) -> int | None:
    """Tokens of the decoder, where there is one, else of the whole."""
    return None if reading.positions is None else reading.positions - (reading.decoder_from or 0)


def _card(loaded: Loaded, reading: Reading, route: ArrayRoute) -> ModelCard:
    name = type(loaded.module).__name__
    numbers = f"{name} reads numbers, not text, and has no vocabulary."
    missing = {
        "logits": numbers,
        "hidden_states": "States are read as predictions over a vocabulary, and there is none.",
        "generation": f"{numbers} Give it an array instead: trace(array=…), or --array FILE.",
        "gradients": "Gradients are taken at the embeddings of token ids, and this model has none.",
        "interventions": "Interventions are made at token ids, and this model has none.",
    }
    if reading.sensors is not None:
        missing["sensors"] = f"{name}: {reading.sensors}"
    parameter = next(p for p in loaded.module.parameters() if p.is_floating_point())
    return ModelCard(
        name=loaded.name,
        architecture=name,
        layers=route.cards,
        vocabulary=0,
        positions=_own_positions(reading),
        source_positions=reading.decoder_from,
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(parameter.device),
        parameters=sum(p.numel() for p in loaded.module.parameters()),
        causal=route.causal,
        route="interface",
        route_reason=route.reason,
        capabilities=CAPABILITIES - missing.keys(),
        missing=missing,
        notes=(f"reads an array {reading.axes}", *_TOKENS[reading.axis], *route.notes, *loaded.notes),
        weights_digest=loaded.digest,
    )


def _pace(model: ArrayModel) -> Pace | None:
    """How fast it is: by two lengths where any will do, else by the only one it takes."""
    reading, probe = model.reading, model.reading.example()
    arrays = [probe]
    if isinstance(reading, Rows) and reading.shape[0] is None:
        arrays = [np.resize(probe, (count, *probe.shape[1:])) for count in TIMED_TOKENS]
    tokens = {Lengths.of(found): found for found in map(model.tokenize_values, arrays)}
    return measure_pace(
        model.route.shapes,
        _device(model.loaded),
        list(tokens),
        lambda lengths: model.trace(tokens[lengths], Want()),
    )
