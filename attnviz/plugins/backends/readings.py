"""What a model that reads numbers takes: the array it expects, the tokens it makes of it, the arguments of its forward.

The array of one input has the model's own axes and no batch axis; `arguments` takes a batch of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from attnviz.hooks import BadInput, Floats, Segment, SensorSeries, ShapeError, Tokens

if TYPE_CHECKING:
    import torch

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class Reading(Protocol):
    """One way to read an array."""

    @property
    def axes(self) -> str:
        """The axes it expects and their sizes, in words."""

    @property
    def sensors(self) -> str | None:
        """None if its numbers are series of sensor values, else what they are."""

    @property
    def axis(self) -> str:
        """What a token stands for; see Tokens.axis."""

    @property
    def steps(self) -> int | None:
        """Rows of a series; None = any number, or it is no series."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, of a model that has its own; else ()."""

    @property
    def sequences(self) -> int:
        """How many sequences attend side by side, each on its own: 1, or the channels of the array."""

    @property
    def positions(self) -> int | None:
        """Tokens of every input; None where that depends on the input."""

    @property
    def decoder_from(self) -> int | None:
        """The first token that a decoder reads, of a model with encoder and decoder."""

    def check(self, values: Floats) -> None:
        """Raises ShapeError for an array the model cannot take."""

    def arguments(self, values: torch.Tensor) -> Arguments:
        """Arguments of `module.forward` for a batch [B, …] of inputs."""

    def tokens(self, values: Floats, count: int) -> Tokens:
        """The `count` tokens that the model makes of an array it can take."""

    def example(self) -> Floats:
        """Numbers it can take, to look at it with."""

    def sensor_columns(self, values: Floats) -> int:
        """How many columns of an input are sensors; they come first."""

    def series(self, tokens: Tokens) -> SensorSeries | None:
        """Names and units, of a model that has its own; else None."""


def as_numbers(values: Any, wide: bool = False) -> Floats:
    """A read-only float32 copy (float64 if `wide`).

    Raises:
        BadInput: not numbers, none at all, or one that is not finite, with its place.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise BadInput(f"Expected an array of numbers, got one of {array.dtype}.")
    if array.size == 0:
        raise BadInput(f"Expected an array with numbers in it, got one of shape {list(array.shape)}.")
    with np.errstate(over="ignore"):
        numbers = np.array(array, np.float64 if wide else np.float32)
    if not np.isfinite(numbers).all():
        place = np.argwhere(~np.isfinite(numbers))[0].tolist()
        raise BadInput(
            f"Expected finite numbers, got {array[tuple(place)]} at {place}: fill in or leave out what was not "
            "measured before you give it to the model."
        )
    numbers.flags.writeable = False
    return numbers


def number_tokens(
    values: Floats,
    labels: list[str],
    special: list[int] | None = None,
    segments: tuple[Segment, ...] = (),
    decoder_from: int | None = None,
    axis: str = "",
    columns: tuple[str, ...] = (),
) -> Tokens:
    """Tokens that stand for parts of an array: no ids, no text."""
    count = len(labels)
    marked = np.zeros(count, np.bool_)
    marked[special or []] = True
    ids, offsets = np.full(count, -1, np.int64), np.full((count, 2), -1, np.int64)
    return Tokens(ids, tuple(labels), offsets, marked, "", segments, values, decoder_from, axis=axis, columns=columns)


# --------------------------------------------------------------------------------------------- pictures

_BEFORE_PATCHES: Mapping[str, tuple[str, ...]] = {
    "vit": ("CLS",),
    "deit": ("CLS", "distillation"),
    "beit": ("CLS",),
    "dinov2": ("CLS",),
    "dinov2_with_registers": ("CLS",),
    "dinov3_vit": ("CLS",),
    "vit_msn": ("CLS",),
    "clip_vision_model": ("CLS",),
    "siglip_vision_model": (),
    "ijepa": (),
}
"""Tokens that come before the patches, by model type; registers follow them."""


@dataclass(frozen=True)
class Pictures:
    """A vision transformer (Dosovitskiy et al. 2021): [channel, height, width] in patches, row by row."""

    channels: int
    height: int
    width: int
    patch: tuple[int, int]
    before: tuple[str, ...]
    sensors: str | None = "it reads pictures, not series of sensor values."
    axis: str = ""
    steps: int | None = None
    columns: tuple[str, ...] = ()
    sequences: int = 1
    decoder_from: int | None = None

    @property
    def axes(self) -> str:
        return f"[channel, height, width] = [{self.channels}, {self.height}, {self.width}]"

    @property
    def positions(self) -> int | None:
        return len(self.before) + (self.height // self.patch[0]) * (self.width // self.patch[1])

    def check(self, values: Floats) -> None:
        if values.shape != (self.channels, self.height, self.width):
            raise ShapeError("Picture", self.axes, list(values.shape))

    def arguments(self, values: torch.Tensor) -> Arguments:
        return (), {"pixel_values": values}

    def tokens(self, values: Floats, count: int) -> Tokens:
        rows, columns = self.height // self.patch[0], self.width // self.patch[1]
        labels = [*self.before, *(f"patch {row},{column}" for row in range(rows) for column in range(columns))]
        return number_tokens(values, labels, special=list(range(len(self.before))))

    def example(self) -> Floats:
        return _noise(self.channels, self.height, self.width)

    def sensor_columns(self, values: Floats) -> int:
        return 0

    def series(self, tokens: Tokens) -> SensorSeries | None:
        return None


def pictures(config: Any) -> Pictures:
    """How a vision model of transformers reads."""
    height, width = _pair(config.image_size)
    registers = int(getattr(config, "num_register_tokens", 0) or 0)
    before = (*_BEFORE_PATCHES[config.model_type], *(f"register {index}" for index in range(registers)))
    return Pictures(int(config.num_channels), height, width, _pair(config.patch_size), before)


def _pair(size: Any) -> tuple[int, int]:
    """Height and width from one number or two."""
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


# --------------------------------------------------------------------------------------------- series


@dataclass(frozen=True)
class Patches:
    """PatchTST (Nie et al. 2023): [time, channel]; patches of time steps are the tokens, each channel on its own."""

    length: int
    channels: int
    patch: int
    stride: int
    cls: bool
    sensors: str | None = None
    axis: str = "time"
    columns: tuple[str, ...] = ()
    decoder_from: int | None = None

    @property
    def sequences(self) -> int:
        return self.channels

    @property
    def axes(self) -> str:
        return f"[time, channel] = [{self.length}, {self.channels}]"

    @property
    def positions(self) -> int | None:
        return self.cls + self._patches

    @property
    def _patches(self) -> int:
        return (max(self.length, self.patch) - self.patch) // self.stride + 1

    def check(self, values: Floats) -> None:
        if values.shape != (self.length, self.channels):
            raise ShapeError("Series", self.axes, list(values.shape))

    def arguments(self, values: torch.Tensor) -> Arguments:
        return (), {"past_values": values}

    def tokens(self, values: Floats, count: int) -> Tokens:
        first = self.length - self.patch - self.stride * (self._patches - 1)  # the model leaves out what is before
        starts = range(first, first + self.stride * self._patches, self.stride)
        labels = [*(["CLS"] if self.cls else []), *(f"t {start}–{start + self.patch - 1}" for start in starts)]
        return number_tokens(values, labels, special=[0] if self.cls else [], axis=self.axis)

    def example(self) -> Floats:
        return _noise(self.length, self.channels)

    @property
    def steps(self) -> int | None:
        return self.length

    @property
    def predicts_from(self) -> int:
        """The first time step that it predicts."""
        return self.length

    def sensor_columns(self, values: Floats) -> int:
        return self.channels

    def series(self, tokens: Tokens) -> SensorSeries | None:
        return None


def patches(config: Any) -> Patches:
    """How a PatchTST reads."""
    return Patches(
        int(config.context_length),
        int(config.num_input_channels),
        int(config.patch_length),
        int(config.patch_stride),
        bool(config.use_cls_token),
    )


@dataclass(frozen=True)
class PastAndFuture:
    """TimeSeriesTransformer: [time, column], past and future below one another, the future as in training.

    Columns: `channels` values, `features` of the time of each row, then what stays the same for the whole series:
    `categories` (the number of classes of each) and `constants`. The encoder reads the `context` rows before the
    future, the decoder the future; rows before are only looked back at (lags), so they are no tokens.
    """

    lags: int
    context: int
    future: int
    channels: int
    features: int
    categories: tuple[int, ...]
    constants: int
    counts: bool  # its distribution is one of counts
    sensors: str | None = None
    axis: str = "time"
    columns: tuple[str, ...] = ()
    sequences: int = 1

    @property
    def axes(self) -> str:
        columns = (
            (self.channels, "value", "values"),
            (self.features, "time feature", "time features"),
            (len(self.categories), "category", "categories"),
            (self.constants, "constant", "constants"),
        )
        named = [f"{n} {name if n == 1 else many}" for n, name, many in columns if n]
        past = self.lags + self.context
        sizes = f"[time, column] = [{past + self.future}, {self._columns}]"
        return f"{sizes} (rows: {past} past, {self.future} future; columns: {', '.join(named)})"

    @property
    def _columns(self) -> int:
        return self.channels + self.features + len(self.categories) + self.constants

    @property
    def positions(self) -> int | None:
        return self.context + self.future

    @property
    def decoder_from(self) -> int | None:
        return self.context

    def check(self, values: Floats) -> None:
        if values.shape != (self.lags + self.context + self.future, self._columns):
            raise ShapeError("Series", self.axes, list(values.shape))
        first = self.channels + self.features
        for column in range(first, self._columns):
            if (values[:, column] != values[0, column]).any():
                raise BadInput(f"Column {column} of the series: expected the same number in every row, got several.")
        for column, classes in enumerate(self.categories, first):
            if values[0, column] not in range(classes):
                raise BadInput(
                    f"Column {column} of the series: expected a whole number from 0 to {classes - 1}, got "
                    f"{values[0, column]:g}."
                )

    def arguments(self, values: torch.Tensor) -> Arguments:
        import torch

        numbers, features, categories, constants = values.split(
            [self.channels, self.features, len(self.categories), self.constants], dim=-1
        )
        if self.channels == 1:
            numbers = numbers[..., 0]
        past = self.lags + self.context
        given = {
            "past_values": numbers[:, :past],
            "past_time_features": features[:, :past],
            "past_observed_mask": torch.ones_like(numbers[:, :past]),
            "future_values": numbers[:, past:],
            "future_time_features": features[:, past:],
        }
        if self.categories:
            given["static_categorical_features"] = categories[:, 0].long()
        if self.constants:
            given["static_real_features"] = constants[:, 0]
        return (), given

    def tokens(self, values: Floats, count: int) -> Tokens:
        labels = [f"t {row}" for row in range(self.lags, self.lags + count)]
        segments = (Segment("source", 0, self.context), Segment("target", self.context, count))
        return number_tokens(values, labels, segments=segments, decoder_from=self.context, axis=self.axis)

    def example(self) -> Floats:
        values = _noise(self.lags + self.context + self.future, self._columns)
        if self.counts:
            values[:, : self.channels] = np.abs(values[:, : self.channels]).round()
        values[:, self.channels + self.features :] = 0
        return values

    @property
    def steps(self) -> int | None:
        return self.lags + self.context + self.future

    @property
    def predicts_from(self) -> int:
        """The first time step that it predicts."""
        return self.lags + self.context

    def sensor_columns(self, values: Floats) -> int:
        return self.channels

    def series(self, tokens: Tokens) -> SensorSeries | None:
        return None


def past_and_future(config: Any) -> PastAndFuture:
    """How a TimeSeriesTransformer reads."""
    return PastAndFuture(
        max(config.lags_sequence),
        int(config.context_length),
        int(config.prediction_length),
        int(config.input_size),
        int(config.num_time_features) + int(config.num_dynamic_real_features),
        tuple(config.cardinality) if config.num_static_categorical_features else (),
        int(config.num_static_real_features),
        config.distribution_output == "negative_binomial",
    )


# --------------------------------------------------------------------------------------------- modules of torch


@dataclass(frozen=True)
class Rows:
    """A module of the user's: an array as its forward takes it, [time, width] for PyTorch's own layers.

    shape      of one input, without the batch axis; None where any length will do
    batch      the axis that the batch of one is put on: 0, 1, or None for a module that takes none
    probe      an input it takes
    repeated   how many times the array is given: 3 to nn.MultiheadAttention, as queries, keys and values
    axis       what a token stands for, once that is known; see Tokens.axis
    """

    shape: tuple[int | None, ...]
    batch: int | None
    probe: Floats
    repeated: int = 1
    axis: str = ""
    columns: tuple[str, ...] = ()
    sequences: int = 1
    decoder_from: int | None = None

    @property
    def steps(self) -> int | None:
        return self.shape[0] if len(self.shape) == 2 else None

    @property
    def sensors(self) -> str | None:
        count = len(self.shape)
        return None if count == 2 else f"it reads an array of {count} axes, not a series [time, sensor]."

    @property
    def axes(self) -> str:
        names = ["time", "width"] if len(self.shape) == 2 else [f"axis {i}" for i in range(len(self.shape))]
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"[{', '.join(names)}] = [{sizes}]"

    @property
    def positions(self) -> int | None:
        return None

    def check(self, values: Floats) -> None:
        fits = values.ndim == len(self.shape) and all(
            expected in (None, size) for expected, size in zip(self.shape, values.shape, strict=True)
        )
        if not fits:
            raise ShapeError("Input", self.axes, list(values.shape))

    def arguments(self, values: torch.Tensor) -> Arguments:
        batched = values[0] if self.batch is None else values.movedim(0, self.batch)
        return (batched,) * self.repeated, {}

    def tokens(self, values: Floats, count: int) -> Tokens:
        word = {"time": "t", "sensor": "sensor"}.get(self.axis, "position")
        return number_tokens(values, [f"{word} {index}" for index in range(count)], axis=self.axis)

    def example(self) -> Floats:
        return self.probe

    def sensor_columns(self, values: Floats) -> int:
        return int(values.shape[-1])

    def series(self, tokens: Tokens) -> SensorSeries | None:
        return None


def _noise(*shape: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
