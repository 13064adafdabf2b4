"""The data attnviz passes around: frozen, numpy only, shapes checked on construction.

Axis order everywhere: [layer, head, query, key]. One prompt per run, no batch axis. A *pattern* is post-softmax.
Position q predicts token q+1. Missing numbers are NaN in arrays and null in JSON, always with a reason beside them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput, ShapeError, Unavailable, UnknownName
from attnviz.trajectory import AgentStep, ModelCall, Trajectory

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

__all__ = [
    "AgentStep",
    "AttentionPattern",
    "Attribution",
    "Estimate",
    "EvidenceLedger",
    "Faithfulness",
    "FeatureAttention",
    "Finding",
    "HeadScores",
    "LayerCapture",
    "LayerCard",
    "LedgerSource",
    "LedgerStep",
    "LensTable",
    "LiveRow",
    "ModelCall",
    "ModelCard",
    "ModelSpec",
    "Reference",
    "Result",
    "Run",
    "Sampling",
    "Segment",
    "SelfCheck",
    "SensorData",
    "SensorImportance",
    "SensorSeries",
    "Span",
    "Table",
    "TokenMatrix",
    "TokenScores",
    "Tokens",
    "Trace",
    "Trajectory",
    "View",
    "Want",
    "from_jsonable",
    "result_types",
    "to_jsonable",
]


def _need(what: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    """Refuse `array` unless its shape is `shape` (None = any length)."""
    fits = array.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, array.shape, strict=True))
    if not fits:
        expected = "[" + ", ".join("any" if s is None else str(s) for s in shape) + "]"
        raise ShapeError(what, expected, list(array.shape))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view: NDArray[Any] = np.asarray(array).view()
    view.flags.writeable = False
    return view


# --------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how it is to be loaded. Hashable: it keys the caches.

    `source` is a hub id, a folder, or the name of a menu entry. `objects` carries a (module, tokenizer) pair that is
    already in memory; the spec is then named after the pair and equal only to itself.
    """

    source: str
    revision: str | None = None
    backend: str = "auto"
    dtype: str = "auto"
    device: str = "auto"
    objects: tuple[Any, ...] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class LayerCard:
    """One layer of attention. `kind`: full | sliding | linear | none | cross.

    stack, number   of a model of several stacks (encoder, decoder, cross): which one, and the place in it
    channels        sequences that attend side by side, each with maps of its own: head = channel · heads / channels +
                    head of the model
    """

    index: int
    kind: str
    heads: int
    kv_heads: int
    window: int | None = None
    experts: int | None = None
    stack: str = ""
    number: int | None = None
    channels: int = 1

    @property
    def name(self) -> str:
        """What people call it: "3", or "encoder 3" where there are several stacks."""
        return f"{self.stack} {self.number}" if self.stack else str(self.index)

    def head_name(self, head: int) -> str:
        """What people call a head: "7", or "7 (channel 1, head 3)" where channels attend side by side."""
        own = self.heads // self.channels
        return str(head) if self.channels == 1 else f"{head} (channel {head // own}, head {head % own})"


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before any run.

    `capabilities` ⊆ {attention, hidden_states, logits, gradients, interventions, generation, sensors}; every one that
    is absent has its reason in `missing`. `route`: interface | eager | none, with `route_reason` in words. `ends`: ids
    that end an answer. `positions`: most tokens of a run, of a model with encoder and decoder those of the decoder;
    `source_positions`: most tokens of its encoder. None = no limit. `causal`: position q predicts token q+1 (of the
    decoder). `parameters`: −1 = not known, of a run that was read from a file.
    """

    name: str
    architecture: str
    layers: tuple[LayerCard, ...]
    vocabulary: int
    positions: int | None
    dtype: str
    device: str
    parameters: int
    causal: bool
    route: str
    route_reason: str
    capabilities: frozenset[str]
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    weights_digest: str = ""
    ends: tuple[int, ...] = ()
    source_positions: int | None = None


# --------------------------------------------------------------------------------------------- text


@dataclass(frozen=True)
class Segment:
    """Tokens start..stop-1 belong to one role: system, user, assistant, thought, action, observation, answer, text."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True)
class Span:
    """Tokens index..stop-1 that count as one: a token, a word, a sentence, a turn. `id`: -1 for several tokens."""

    index: int
    stop: int
    id: int
    label: str


@dataclass(frozen=True)
class Reference:
    """Other inputs of a model that reads numbers: they say what is usual, and how well the model predicts.

    inputs    [N, ...] in the axes of one input behind the first, such as [N, time, sensor]
    outcomes  [N, O] what was measured where the model predicts O numbers, NaN = not measured; None = not known
    """

    inputs: Floats
    outcomes: Floats | None = None

    def __post_init__(self) -> None:
        if self.inputs.ndim < 2 or not self.inputs.size:
            expected = "[N, ...], the axes of one input behind the first"
            raise ShapeError("Reference.inputs", expected, list(self.inputs.shape))
        if not np.isfinite(self.inputs).all():
            place = np.argwhere(~np.isfinite(self.inputs))[0].tolist()
            raise BadInput(f"Reference.inputs: expected finite numbers, got {self.inputs[tuple(place)]} at {place}.")
        object.__setattr__(self, "inputs", _read_only(self.inputs))
        if self.outcomes is not None:
            _need("Reference.outcomes", self.outcomes, (len(self.inputs), None))
            object.__setattr__(self, "outcomes", _read_only(self.outcomes))

    @classmethod
    def windows(cls, series: Floats, steps: int, *, stride: int = 1, next_rows: bool = False) -> Reference:
        """Windows of a long series [time, sensor], each of `steps` rows, beginning every `stride` rows.

        next_rows   the row after each window is its outcome, for a model that predicts the next values

        Raises:
            ShapeError: a series that has no window, or other axes.
            BadInput: a stride below 1.
        """
        last = len(series) - steps - next_rows if series.ndim == 2 else -1
        if last < 0 or steps < 1:
            raise ShapeError("Reference.windows", f"[{steps + next_rows} or more, sensor]", list(series.shape))
        if stride < 1:
            raise BadInput(f"Reference.windows: expected a stride from 1, got {stride}.")
        starts = range(0, last + 1, stride)
        inputs = np.stack([series[start : start + steps] for start in starts])
        return cls(inputs, np.stack([series[start + steps] for start in starts]) if next_rows else None)


@dataclass(frozen=True)
class SensorData:
    """Measurements as they are read from a file.

    array  [time, sensor], or [batch, time, sensor] of series that are kept apart
    names  of the sensors; () = the file names none
    times  of the rows, as the file has them; () = none
    """

    array: Floats
    names: tuple[str, ...] = ()
    times: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim not in (2, 3) or not self.array.size:
            expected = "[time, sensor] or [batch, time, sensor], none of them 0"
            raise ShapeError("SensorData.array", expected, list(self.array.shape))
        rows, columns = self.array.shape[-2:]
        for name, count in (("names", columns), ("times", rows)):
            given = len(getattr(self, name))
            if given not in (0, count):
                raise ShapeError(f"SensorData.{name}", count, given)
        object.__setattr__(self, "array", _read_only(self.array))

    def of(self, item: int | None) -> dict[str, Any]:
        """What `trace` takes of it: array, names and times; item: which series of a batch.

        Raises:
            BadInput: a batch without an item, an item of what is no batch, or one that it does not have.
        """
        if self.array.ndim == 2:
            if item is not None:
                raise BadInput(f"Item {item}: expected none, the data are one series and no batch.")
            array = self.array
        else:
            count = len(self.array)
            if item is None or not 0 <= item < count:
                got = "none" if item is None else str(item)
                raise BadInput(
                    f"Item: expected 0 to {count - 1} of a batch of {count} series, which are not averaged; got {got}."
                )
            array = self.array[item]
        return {"array": array, "names": self.names or None, "times": self.times or None}


@dataclass(frozen=True)
class Tokens:
    """A tokenised prompt. Tokens are keyed by position and id, never by decoded text.

    ids      [T] int64
    labels   T strings, one per token, safe to show (a token that is part of a character shows its bytes)
    offsets  [T, 2] int64, character span of each token in `text`; (-1, -1) where the token has none
    special  [T] bool, control tokens of the model (BOS, role marks, padding …)
    values   what a model reads that takes numbers (pixels, sound, sensors) in its own axes; ids are then -1 where a
             token stands for a part of it; None for text
    decoder_from  index of the first token that the decoder reads, of a model with encoder and decoder; else None
    padding  [T] True for tokens that only fill up a row of a batch: nothing attends to them, they attend to nothing;
             None = there are none
    reference  other inputs to compare `values` with, of a model that reads numbers; the model does not read them
    axis     of `values` [time, column], what a token stands for: "sensor" (token i is column i, over the whole time),
             "time" (a step, or several in a row; see the labels), or "" where neither holds
    columns  names of the columns of `values`; () = they have none
    """

    AXES: ClassVar[tuple[str, ...]] = ("", "sensor", "time")
    ids: Ints
    labels: tuple[str, ...]
    offsets: Ints
    special: Bools
    text: str
    segments: tuple[Segment, ...] = ()
    values: Floats | None = None
    decoder_from: int | None = None
    padding: Bools | None = None
    reference: Reference | None = None
    axis: str = ""
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.labels)
        _need("Tokens.ids", self.ids, (count,))
        _need("Tokens.offsets", self.offsets, (count, 2))
        _need("Tokens.special", self.special, (count,))
        for segment in self.segments:
            if not 0 <= segment.start <= segment.stop <= count:
                raise ShapeError("Tokens.segments", f"within 0..{count}", (segment.start, segment.stop))
        if self.decoder_from is not None and not 0 <= self.decoder_from <= count:
            raise BadInput(f"Tokens.decoder_from: expected 0 to {count}, got {self.decoder_from}.")
        if self.axis not in self.AXES:
            raise UnknownName("axis of tokens", self.axis, self.AXES)
        if self.columns and (self.values is None or len(self.columns) != self.values.shape[-1]):
            given = "no values" if self.values is None else list(self.values.shape)
            raise ShapeError("Tokens.columns", f"a name for each column of {given}", len(self.columns))
        for name in ("ids", "offsets", "special"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))
        if self.values is not None:
            object.__setattr__(self, "values", _read_only(self.values))
        if self.reference is not None:
            given = "none" if self.values is None else list(self.values.shape)
            if self.values is None or self.reference.inputs.shape[1:] != self.values.shape:
                raise ShapeError("Tokens.reference", f"[N, ...] of values {given}", list(self.reference.inputs.shape))
        if self.padding is not None:
            _need("Tokens.padding", self.padding, (count,))
            if count and self.padding.all():
                raise BadInput(f"Tokens.padding: expected some of {count} tokens that are no padding, got none.")
            object.__setattr__(self, "padding", _read_only(self.padding) if self.padding.any() else None)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class SensorSeries:
    """What the columns of a series are, and what a model predicts from it.

    sensors       [S] names of columns 0..S-1 of `Tokens.values`; further columns (features of the calendar, categories)
                  are read by the model but are no sensors
    outputs       [O] names of the numbers it predicts, in the order of `PredictsNumbers.predict`
    units         [S] of the sensors, and of `means`; "" where unknown
    output_units  [O] of the outputs; "" where unknown
    means         [S] mean of each sensor in the data the model was trained on; None = not known
    fit           [O] R² of each output on held-out data, as published with the model; None = not known
    attainable    [O] R² on the same data of the true law without its noise, as far as noise lets any model come; None =
                  not known
    """

    sensors: tuple[str, ...]
    outputs: tuple[str, ...]
    units: tuple[str, ...]
    output_units: tuple[str, ...]
    means: Floats | None = None
    fit: Floats | None = None
    attainable: Floats | None = None

    def __post_init__(self) -> None:
        sensors, outputs = len(self.sensors), len(self.outputs)
        for name, count in (("units", sensors), ("output_units", outputs)):
            if len(getattr(self, name)) != count:
                raise ShapeError(f"SensorSeries.{name}", count, len(getattr(self, name)))
        for name, count in (("means", sensors), ("fit", outputs), ("attainable", outputs)):
            if getattr(self, name) is not None:
                _need(f"SensorSeries.{name}", getattr(self, name), (count,))
                object.__setattr__(self, name, _read_only(getattr(self, name)))


@dataclass(frozen=True)
class Sampling:
    """How an answer is generated. temperature 0 = greedy. `seed` makes a sampled answer repeatable.

    stop   texts; generation ends with the first token after which the answer contains one of them
    """

    max_new_tokens: int = 40
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.stop, (tuple, list)) or not all(isinstance(text, str) for text in self.stop):
            raise BadInput(f'stop: expected texts, such as ["Observation:"], got {self.stop!r:.60}.')
        if "" in self.stop:
            raise BadInput("stop: expected texts, got an empty one, which every answer contains. Leave it out.")
        if any(0xD800 <= ord(character) < 0xE000 for text in self.stop for character in text):
            raise BadInput("stop: a text holds half a surrogate pair, which no answer can contain. Remove it.")
        object.__setattr__(self, "stop", tuple(self.stop))


ENDED = ("end token", "length", "stop text", "cancelled")
"""Why an answer ended: the model said so, it is as long as was asked for, it has a text of `Sampling.stop`, or the
asker gave up."""


@dataclass(frozen=True)
class Run:
    """One prompt (and answer) of one model. `generated_from` is the index of the first generated token.

    ended   why the answer ended, one of ENDED; empty without an answer, or where it is not known
    trajectory  what an agent did, of an agent's run; what is not generated after `generated_from` is then what its
            tools and the chat template said
    """

    id: str
    spec: ModelSpec
    model: str
    tokens: Tokens
    generated_from: int | None = None
    sampling: Sampling | None = None
    category: str = ""
    ended: str = ""
    trajectory: Trajectory | None = None

    @property
    def text(self) -> str:
        """The whole text, prompt and answer."""
        return self.tokens.text

    @property
    def answer(self) -> str:
        """The generated part of the text; empty if nothing was generated."""
        if self.generated_from is None:
            return ""
        starts = [int(start) for start, _ in self.tokens.offsets[self.generated_from :] if start >= 0]
        return self.text[starts[0] :] if starts else ""

    @property
    def prompt(self) -> str:
        """What was asked: the user's messages of a conversation, else the text before the answer."""
        stop = len(self.tokens) if self.generated_from is None else self.generated_from
        asked = [s for s in self.tokens.segments if s.role == "user" and s.start < stop]
        spans = [[o for o in self.tokens.offsets[s.start : min(s.stop, stop)].tolist() if o[0] >= 0] for s in asked]
        said = [self.text[found[0][0] : max(end for _, end in found)] for found in spans if found]
        return "\n".join(said) if said else self.text[: len(self.text) - len(self.answer)]


# --------------------------------------------------------------------------------------------- what a forward pass gave


@dataclass(frozen=True)
class LiveRow:
    """What a new token of an answer was chosen from, while the answer is generated.

    position  of the new token in prompt and answer
    id        of the new token
    weights   [L, H, K] float32 of the query before it (K = position), as a trace of the whole gives them: exactly 0 for
              keys that a window hides, rows that sum to less than 1 beside a learned sink; NaN in layers without
              attention or without rows of the answer (an encoder's), beyond the heads of a layer with fewer, and for
              tokens that are no keys of the layer
    """

    position: int
    id: int
    weights: Floats

    def __post_init__(self) -> None:
        _need("LiveRow.weights", self.weights, (None, None, self.position))
        object.__setattr__(self, "weights", _read_only(self.weights))


@dataclass(frozen=True)
class Want:
    """What a trace is asked to keep.

    layers     None = all
    thumbnail  edge of the max-pooled pictures
    top_k      largest weights of every row that are kept with their keys; 0 = none
    values     the norm of what each head makes of each key's value
    """

    attention: bool = True
    layers: tuple[int, ...] | None = None
    thumbnail: int = 64
    top_k: int = 0
    values: bool = False

    def covers(self, other: Want) -> bool:
        """Whether a trace of this holds all that `other` asks for."""
        return (
            self.attention >= other.attention
            and self._covers_layers(other)
            and self.thumbnail == other.thumbnail
            and self.top_k >= other.top_k
            and self.values >= other.values
        )

    def _covers_layers(self, other: Want) -> bool:
        return self.layers is None or (other.layers is not None and set(other.layers) <= set(self.layers))

    def merged(self, other: Want) -> Want:
        """All that this and `other` ask for; of two sizes of thumbnail that of `other`."""
        both = None if self.layers is None or other.layers is None else tuple(sorted({*self.layers, *other.layers}))
        return Want(
            attention=self.attention or other.attention,
            layers=both,
            thumbnail=other.thumbnail,
            top_k=max(self.top_k, other.top_k),
            values=self.values or other.values,
        )


@dataclass(frozen=True)
class Estimate:
    """What a trace will take.

    bytes      held by the trace
    peak       needed at once, the trace included and the model's weights not; about
    seconds    about; NaN where it is not known
    precision  what Trace.precision will say, unless float16 cannot hold the numbers of some layer
    """

    bytes: int
    peak: int
    seconds: float
    precision: str


@dataclass(frozen=True)
class LayerCapture:
    """Attention of one layer: queries and keys to recompute any map from, and statistics of every row.

    q          [H, Q, D]     queries after position encoding (float32, or float16 where the whole would not fit)
    k          [H_kv, K, D]  keys after position encoding; H is a multiple of H_kv (grouped-query attention)
               both None with `weights`, or with a reason in `absent`: then the statistics are all there is
    scale      scores = scale · q·k
    causal     key k visible to query q only if k <= q
    visible    [Q, K] bool or None: further mask (window, padding)
    bias       [1 or H, Q, K] float or None: added to the scores (relative positions)
    softcap    scores = softcap · tanh(scores / softcap), or None
    sinks      [H] logits of a learned sink beside the keys, or None; rows then sum to less than 1
    weights    [H, Q, K] float or None: the map itself, of a model that gives no queries and keys; q and k are then None
    entropy    [H, Q] bits         row entropy
    row_max    [H, Q]              largest weight of the row
    distance   [H, Q] tokens       Σ_k p(k)·|q−k|
    column_sum [H, K]              Σ_q A[q, k]
    allowed    [Q] int             n(q), keys visible to query q
    seen_by    [K] int             queries that may see key k
    thumbnail  [H, n, m] uint8     round(255·√max) over blocks of the map
    top_weights [H, Q, k] or None: largest weights of each row, descending; k = Want.top_k, or K if that is less
    top_keys   [H, Q, k] int32 or None: their keys; -1 beside a weight of 0; among equal weights any is listed
    value_norm [H, K] or None: ‖v_k · W_O,h‖, norm of what head h adds to the output for a weight of 1 on key k
    absent     field -> why it is not there although it was asked for, in words
    queries, keys  (start, stop) of the tokens of the run that are the rows and the columns; None = all of them
    """

    q: Floats | None
    k: Floats | None
    scale: float
    causal: bool
    entropy: Floats
    row_max: Floats
    distance: Floats
    column_sum: Floats
    allowed: Ints
    seen_by: Ints
    thumbnail: NDArray[np.uint8]
    visible: Bools | None = None
    bias: Floats | None = None
    softcap: float | None = None
    sinks: Floats | None = None
    weights: Floats | None = None
    top_weights: Floats | None = None
    top_keys: Ints | None = None
    value_norm: Floats | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    queries: tuple[int, int] | None = None
    keys: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        heads, queries, keys = self._shape()
        for name, count in (("queries", queries), ("keys", keys)):
            span = getattr(self, name)
            if span is not None and span[1] - span[0] != count:
                raise ShapeError(f"LayerCapture.{name}", f"a span of {count} tokens", tuple(span))
        for name in ("entropy", "row_max", "distance"):
            _need(f"LayerCapture.{name}", getattr(self, name), (heads, queries))
        _need("LayerCapture.column_sum", self.column_sum, (heads, keys))
        _need("LayerCapture.allowed", self.allowed, (queries,))
        _need("LayerCapture.seen_by", self.seen_by, (keys,))
        _need("LayerCapture.thumbnail", self.thumbnail, (heads, None, None))
        if self.visible is not None:
            _need("LayerCapture.visible", self.visible, (queries, keys))
        if self.top_weights is not None and self.top_keys is not None:
            _need("LayerCapture.top_weights", self.top_weights, (heads, queries, None))
            _need("LayerCapture.top_keys", self.top_keys, self.top_weights.shape)
        if self.value_norm is not None:
            _need("LayerCapture.value_norm", self.value_norm, (heads, keys))

    def _shape(self) -> tuple[int, int, int]:
        """Heads, queries and keys, from the map or from queries and keys."""
        if self.weights is not None:
            _need("LayerCapture.weights", self.weights, (None, None, None))
            heads, queries, keys = self.weights.shape
            return heads, queries, keys
        if "q" in self.absent:
            return self.entropy.shape[0], len(self.allowed), len(self.seen_by)
        if self.q is None or self.k is None:
            raise BadInput("LayerCapture: expected queries and keys, or weights; got neither.")
        _need("LayerCapture.q", self.q, (None, None, None))
        _need("LayerCapture.k", self.k, (None, None, self.q.shape[2]))
        heads, queries, _ = self.q.shape
        if self.k.shape[0] == 0 or heads % self.k.shape[0]:
            raise ShapeError("LayerCapture.k heads", f"a divisor of {heads}", self.k.shape[0])
        return heads, queries, self.k.shape[1]

    @property
    def heads(self) -> int:
        return int(self.entropy.shape[0])

    @property
    def row_span(self) -> tuple[int, int]:
        """(start, stop) of the tokens of the run that are the rows."""
        return self.queries or (0, len(self.allowed))

    @property
    def column_span(self) -> tuple[int, int]:
        """(start, stop) of the tokens of the run that are the columns."""
        return self.keys or (0, len(self.seen_by))

    def pattern(self, head: int, rows: slice | None = None) -> NDArray[np.float32]:
        """Attention of one head, recomputed from q and k in float32 (or read from `weights`).

        Returns [rows, K]; each row sums to 1 over the keys it may see (to less where there is a learned sink).

        Raises:
            Unavailable: neither is there, with the reason.
        """
        return self.pattern_and_share(head, rows)[0]

    def pattern_and_share(
        self, head: int, rows: slice | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """`pattern`, and [rows] what the learned sink takes of each row: exp(sink) / (exp(sink) + Σ exp(score)).

        A row and its share sum to 1; None without a learned sink.

        Raises:
            Unavailable: neither map nor queries and keys are there, with the reason.
        """
        rows = rows or slice(None)
        if self.weights is not None:
            given = self.weights[head, rows].astype(np.float32)
            rest = 1 - given.sum(axis=-1, dtype=np.float64)  # of a map that is given the rest is all there is to know
            return given, None if self.sinks is None else rest.astype(np.float32)
        if self.q is None or self.k is None:
            raise Unavailable(f"There are no maps of this run. {self.absent['q']}.")
        keys = self.k[head // (self.heads // self.k.shape[0])].astype(np.float32)  # [K, D]
        scores = (self.q[head, rows].astype(np.float32) * np.float32(self.scale)) @ keys.T  # [q, K]
        if self.softcap is not None:
            scores = np.float32(self.softcap) * np.tanh(scores / np.float32(self.softcap))
        if self.bias is not None:
            scores = scores + self.bias[head if self.bias.shape[0] > 1 else 0, rows]
        hidden = self.hidden(rows)
        if hidden is not None:
            scores[hidden] = -np.inf
        top = scores.max(axis=-1, keepdims=True)
        if self.sinks is not None:
            top = np.maximum(top, np.float32(self.sinks[head]))
        top = np.where(np.isfinite(top), top, np.float32(0))  # a row that sees nothing stays zero
        scores -= top  # in place: new memory for each step takes as long as the step
        weights = np.exp(scores, out=scores)
        total = weights.sum(axis=-1, keepdims=True)
        share: NDArray[np.float32] | None = None
        if self.sinks is not None:
            taken = np.exp(np.float32(self.sinks[head]) - top)
            total = total + taken
            share = (taken / total)[:, 0]
        sees = total > 0
        pattern: NDArray[np.float32] = np.divide(weights, np.where(sees, total, np.float32(1)), out=weights)
        pattern[~sees[:, 0]] = 0
        return pattern, share

    def narrowed(self, want: Want) -> LayerCapture:
        """Without what `want` does not ask for."""
        changes: dict[str, Any] = {}
        if self.top_weights is not None and self.top_keys is not None and self.top_weights.shape[2] > want.top_k:
            kept = slice(want.top_k)
            few = (self.top_weights[..., kept], self.top_keys[..., kept]) if want.top_k else (None, None)
            changes["top_weights"], changes["top_keys"] = few
        if not want.values:
            changes["value_norm"] = None
            changes["absent"] = {name: why for name, why in self.absent.items() if name != "value_norm"}
        return dataclasses.replace(self, **changes)

    def hidden(self, rows: slice | None = None) -> Bools | None:
        """[rows, K] True where a query may not see a key; None when every key is visible."""
        queries, keys = len(self.allowed), len(self.seen_by)
        blocked: Bools | None = None if self.visible is None else ~self.visible[rows or slice(None)]
        if self.causal:
            later = np.arange(keys)[None, :] > np.arange(queries)[rows or slice(None), None]
            blocked = later if blocked is None else blocked | later
        return blocked


@dataclass(frozen=True)
class Trace:
    """What one forward pass gave. `layers[i]` is layer i, or None when it has no attention (reason in `missing`)."""

    layers: tuple[LayerCapture | None, ...]
    missing: Mapping[int, str] = field(default_factory=dict)
    precision: str = "float32"
    seconds: float = 0.0

    def __post_init__(self) -> None:
        for index, layer in enumerate(self.layers):
            if layer is None and index not in self.missing:
                raise BadInput(f"Trace: layer {index} has no attention and no reason for it.")

    @property
    def nbytes(self) -> int:
        """Bytes held by all arrays, a mask that layers share counted once; keys the caches' budgets."""
        captures = [layer for layer in self.layers if layer is not None]
        arrays = [getattr(c, f.name) for c in captures for f in dataclasses.fields(c)]
        return sum({id(a): a.nbytes for a in arrays if isinstance(a, np.ndarray)}.values())

    def narrowed(self, want: Want) -> Trace:
        """Without what `want` does not ask for, so that a result does not depend on what was captured before."""
        missing = dict(self.missing)
        layers: list[LayerCapture | None] = []
        for index, layer in enumerate(self.layers):
            asked = want.attention and (want.layers is None or index in want.layers)
            if layer is not None and not asked:
                missing[index] = "this layer was not asked for."
            layers.append(layer.narrowed(want) if layer is not None and asked else None)
        return dataclasses.replace(self, layers=tuple(layers), missing=missing)

    @property
    def heads(self) -> int:
        """Largest head count of any layer."""
        return max((layer.heads for layer in self.layers if layer is not None), default=0)

    def layer(self, index: int) -> LayerCapture:
        """Layer `index`.

        Raises:
            BadInput: no such layer, or a layer without attention (with the reason).
        """
        if not 0 <= index < len(self.layers):
            raise BadInput(f"Unknown layer {index}. This model has layers 0 to {len(self.layers) - 1}.")
        found = self.layers[index]
        if found is None:
            raise BadInput(f"Layer {index} has no attention: {self.missing[index]}")
        return found

    def attention(self, layer: int, head: int, rows: slice | None = None) -> NDArray[np.float32]:
        """Pattern of one head, [query, key].

        Raises:
            BadInput: no such layer or head.
            Unavailable: its queries and keys were not kept, with the reason.
        """
        capture = self.layer(layer)
        if not 0 <= head < capture.heads:
            raise BadInput(f"Unknown head {head}. Layer {layer} has heads 0 to {capture.heads - 1}.")
        return capture.pattern(head, rows)


# --------------------------------------------------------------------------------------------- results


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of the closed set of results. `info`: units, mask, what was averaged; `warnings`: where it misleads."""

    kind: ClassVar[str] = ""
    info: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttentionPattern(Result):
    """Pattern of one head (or a mean of heads), with a small picture of every head.

    weights     [Q, K] float32, rows sum to 1 over visible keys
    layer, head index, or "mean"
    thumbnails  [L, H, n, m] uint8, round(255·√max) over blocks; 0 for a layer without attention
    generated_from  first generated token, or None
    sinks       positions left out and renormalised; empty = nothing was left out
    visible     [Q, K] keys a query may see, where that is not all or all up to itself (windows); else None
    rows, columns  (start, stop) of the tokens of the run that are the rows and the columns; None = all of them
    sink_share  [Q] what a learned sink beside the keys takes of each row, so that row and share sum to 1; or None
    thumbnail_sizes  [L, 2] rows and columns of `thumbnails` that are used, where layers differ in shape; else None
    every       [L, H, Q, K] float16, or None unless all heads were asked for
    every_visible  [L, Q, K] the same as `visible` for the layers of `every`, or None where no layer needs it
    every_sink_share  [L, H, Q] the same as `sink_share` for `every`; NaN in a layer without a learned sink
    """

    kind: ClassVar[str] = "attention_pattern"
    weights: Floats
    layer: int | str
    head: int | str
    thumbnails: NDArray[np.uint8]
    causal: bool
    generated_from: int | None = None
    sinks: tuple[int, ...] = ()
    missing: Mapping[int, str] = field(default_factory=dict)
    visible: Bools | None = None
    every: Floats | None = None
    every_visible: Bools | None = None
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    sink_share: Floats | None = None
    thumbnail_sizes: Ints | None = None
    every_sink_share: Floats | None = None

    def __post_init__(self) -> None:
        _need("AttentionPattern.weights", self.weights, (None, None))
        for name, span, count in zip(("rows", "columns"), (self.rows, self.columns), self.weights.shape, strict=True):
            if span is not None and span[1] - span[0] != count:
                raise ShapeError(f"AttentionPattern.{name}", f"a span of {count} tokens", tuple(span))
        if self.sink_share is not None:
            _need("AttentionPattern.sink_share", self.sink_share, (self.weights.shape[0],))
        if self.thumbnail_sizes is not None:
            _need("AttentionPattern.thumbnail_sizes", self.thumbnail_sizes, (len(self.thumbnails), 2))
        _need("AttentionPattern.thumbnails", self.thumbnails, (None, None, None, None))
        if self.visible is not None:
            _need("AttentionPattern.visible", self.visible, self.weights.shape)
        if self.every_visible is not None:
            _need("AttentionPattern.every_visible", self.every_visible, (len(self.thumbnails), *self.weights.shape))
        if self.every is not None:
            _need("AttentionPattern.every", self.every, (*self.thumbnails.shape[:2], *self.weights.shape))
        if self.every_sink_share is not None:
            heads = (*self.thumbnails.shape[:2], self.weights.shape[0])
            _need("AttentionPattern.every_sink_share", self.every_sink_share, heads)


@dataclass(frozen=True, kw_only=True)
class HeadScores(Result):
    """Named metrics over layers and heads.

    metrics           name -> [L, H]; NaN where a layer has no attention
    units             name -> unit, one per metric
    received          [L, K] corrected received attention, 1.0 = as much as a uniform head would give; or None
    layer_importance  [L] mean focus over heads, or None
    sinks             detected sink positions
    roles             "layer.head" -> names of the roles that head has; empty where roles were not looked for
    """

    kind: ClassVar[str] = "head_scores"
    metrics: Mapping[str, Floats]
    units: Mapping[str, str]
    received: Floats | None = None
    layer_importance: Floats | None = None
    sinks: tuple[int, ...] = ()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.metrics:
            raise BadInput("HeadScores.metrics: expected at least one metric, got none.")
        shape = next(iter(self.metrics.values())).shape
        for name, values in self.metrics.items():
            _need(
                f"HeadScores.metrics[{name!r}]",
                values,
                (shape[0], shape[1]) if len(shape) == 2 else (None, None),
            )
            if name not in self.units:
                raise BadInput(f"HeadScores.units: no unit for metric {name!r}.")
        if self.received is not None:
            _need("HeadScores.received", self.received, (shape[0], None))
        if self.layer_importance is not None:
            _need("HeadScores.layer_importance", self.layer_importance, (shape[0],))
        for place in self.roles:
            layer, dot, head = place.partition(".")
            if not (dot and layer.isdecimal() and head.isdecimal()) or int(layer) >= shape[0] or int(head) >= shape[1]:
                raise BadInput(
                    f'HeadScores.roles: expected "layer.head" within {shape[0]} layers of {shape[1]} heads, '
                    f"got {place!r}."
                )


@dataclass(frozen=True, kw_only=True)
class TokenScores(Result):
    """One number per token of the run. scores [T]."""

    kind: ClassVar[str] = "token_scores"
    scores: Floats
    unit: str

    def __post_init__(self) -> None:
        _need("TokenScores.scores", self.scores, (None,))


@dataclass(frozen=True, kw_only=True)
class TokenMatrix(Result):
    """Numbers between tokens: rows = targets, columns = sources.

    scores  [R, C];  rows [R], columns [C] token positions
    """

    kind: ClassVar[str] = "token_matrix"
    scores: Floats
    rows: Ints
    columns: Ints
    unit: str

    def __post_init__(self) -> None:
        _need("TokenMatrix.rows", self.rows, (None,))
        _need("TokenMatrix.columns", self.columns, (None,))
        _need("TokenMatrix.scores", self.scores, (len(self.rows), len(self.columns)))


@dataclass(frozen=True, kw_only=True)
class Attribution(Result):
    """How much each source has to do with each target: rows = targets, columns = sources.

    method           name of the analysis that made it
    target_function  what was explained: log_probability, logit, probability, contrast, entropy, kl; none
    targets, sources R and C spans of tokens; a target may be the token that would come next, which the run does not
                     have: its index is the number of tokens
    scores           [R, C] raw, in `unit`, signed where the method has signs; exactly 0 for a source that does not
                     come before the target
    normalized       [R, C] scores divided by the row's sum of absolute scores; a row of zeros stays zero
    target_values    [R] value of the target function, or None where the method has none
    delta            [R] completeness gap, sum of the row minus what it should sum to; None where nothing is promised
    signed           whether the sign of a score means anything (towards the target function, or against it)
    """

    kind: ClassVar[str] = "attribution"
    method: str
    target_function: str
    targets: tuple[Span, ...]
    sources: tuple[Span, ...]
    scores: Floats
    normalized: Floats
    unit: str
    signed: bool
    target_values: Floats | None = None
    delta: Floats | None = None

    def __post_init__(self) -> None:
        shape = (len(self.targets), len(self.sources))
        _need("Attribution.scores", self.scores, shape)
        _need("Attribution.normalized", self.normalized, shape)
        for name in ("target_values", "delta"):
            if getattr(self, name) is not None:
                _need(f"Attribution.{name}", getattr(self, name), shape[:1])


@dataclass(frozen=True)
class SelfCheck:
    """The lens's last row against the model's own logits."""

    ok: bool
    max_abs_diff: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class LensTable(Result):
    """What each site of the residual stream would predict, exact over the whole vocabulary.

    sites          N names; the last is "model", the model's own output
    positions      [P] token positions; position p predicts token p+1
    top_ids        [N, P, k];  top_logprobs [N, P, k] natural logarithm
    entropy        [N, P] bits
    kl_model_lens, kl_lens_model, jensen_shannon  [N, P] bits;  total_variation [N, P] in 0..1
    target_ids     [P] id whose rank is followed (-1 = none: the last position has no next token unless one is typed)
    target_logprob [N, P];  target_rank [N, P] 0 = top (-1 = no target)
    settles_at     [P] first site from which the model's top-1 stays top-1 to the end
    settles_in_top5 [P] first site from which it stays among the top 5
    labels         id -> text of every id named in this table
    """

    kind: ClassVar[str] = "lens_table"
    sites: tuple[str, ...]
    positions: Ints
    top_ids: Ints
    top_logprobs: Floats
    entropy: Floats
    kl_model_lens: Floats
    kl_lens_model: Floats
    jensen_shannon: Floats
    total_variation: Floats
    target_ids: Ints
    target_logprob: Floats
    target_rank: Ints
    settles_at: Ints
    settles_in_top5: Ints
    self_check: SelfCheck
    labels: Mapping[int, str]

    def __post_init__(self) -> None:
        sites, positions = len(self.sites), len(self.positions)
        _need("LensTable.top_ids", self.top_ids, (sites, positions, None))
        _need("LensTable.top_logprobs", self.top_logprobs, self.top_ids.shape)
        for name in ("entropy", "kl_model_lens", "kl_lens_model", "jensen_shannon", "total_variation"):
            _need(f"LensTable.{name}", getattr(self, name), (sites, positions))
        for name in ("target_logprob", "target_rank"):
            _need(f"LensTable.{name}", getattr(self, name), (sites, positions))
        for name in ("target_ids", "settles_at", "settles_in_top5"):
            _need(f"LensTable.{name}", getattr(self, name), (positions,))


@dataclass(frozen=True, kw_only=True)
class SensorImportance(Result):
    """How much the predictions of a model rest on each sensor, by several methods beside each other.

    An array is NaN throughout where a method says nothing of this model, with the reason in `absent`.

    sensors           S names
    outputs           O names of the predicted numbers that were explained
    inputs            how many inputs the numbers are means over
    attention         [S] corrected received attention, 1.0 = as much as a uniform head would give
    null, null_sd     [S] the same of inputs whose time steps are shuffled: mean and standard deviation over shuffles
    occlusion         [S] mean absolute change of the outputs when a sensor's values are replaced by their usual mean
    gradient_x_input  [S] mean |Σ_t gradient · (value − usual mean)|
    integrated_gradients  [S] the same with the mean gradient on the straight way from the usual mean to the value
    occlusion_outputs [O, S] occlusion of each output alone
    windows           [W, 2] first time step of each window and the one behind its last
    occlusion_windows, gradient_windows  [W, S] as above, only the steps of a window replaced or summed
    weights           [S, S] attention, mean over layers and heads: row = sensor that looks, column = looked at; None
                      where tokens are no sensors
    rank_correlation  "attention_occlusion" -> Spearman's ρ; NaN where there is nothing to order
    fit               [O] R² of the predictions over the outcomes that were given; None = none were
    units             field -> unit
    absent            field -> why it is missing
    trusted           the method to rank by, or "" where none is to be believed
    verdict           that in a sentence, and why
    sensor_units      [S] of the measured values; () = not known
    usual             [S] what a sensor's values are replaced by; None = not said
    """

    kind: ClassVar[str] = "sensor_importance"
    METHODS: ClassVar[tuple[str, ...]] = ("occlusion", "integrated_gradients", "gradient_x_input", "attention")
    sensors: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: int
    attention: Floats
    null: Floats
    null_sd: Floats
    occlusion: Floats
    gradient_x_input: Floats
    integrated_gradients: Floats
    occlusion_outputs: Floats
    windows: Ints
    occlusion_windows: Floats
    gradient_windows: Floats
    rank_correlation: Mapping[str, float]
    units: Mapping[str, str]
    verdict: str
    trusted: str = ""
    weights: Floats | None = None
    fit: Floats | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    sensor_units: tuple[str, ...] = ()
    usual: Floats | None = None

    def __post_init__(self) -> None:
        sensors, outputs = len(self.sensors), len(self.outputs)
        if not sensors or not outputs:
            raise BadInput(f"SensorImportance: expected sensors and outputs, got {sensors} and {outputs}.")
        for name in (*self.METHODS, "null", "null_sd"):
            _need(f"SensorImportance.{name}", getattr(self, name), (sensors,))
        _need("SensorImportance.occlusion_outputs", self.occlusion_outputs, (outputs, sensors))
        _need("SensorImportance.windows", self.windows, (None, 2))
        for name in ("occlusion_windows", "gradient_windows"):
            _need(f"SensorImportance.{name}", getattr(self, name), (len(self.windows), sensors))
        if len(self.sensor_units) not in (0, sensors):
            raise ShapeError("SensorImportance.sensor_units", sensors, len(self.sensor_units))
        if self.usual is not None:
            _need("SensorImportance.usual", self.usual, (sensors,))
        if self.weights is not None:
            _need("SensorImportance.weights", self.weights, (sensors, sensors))
        if self.fit is not None:
            _need("SensorImportance.fit", self.fit, (outputs,))
        if self.trusted and self.trusted not in self.METHODS:
            raise BadInput(
                f"SensorImportance.trusted: expected one of {', '.join(self.METHODS)}, or none; got {self.trusted!r}."
            )
        for name in self.METHODS:
            if name not in self.units:
                raise BadInput(f"SensorImportance.units: no unit for {name!r}.")
            if name not in self.absent and np.isnan(getattr(self, name)).all():
                raise BadInput(f"SensorImportance.{name}: every number is missing, and absent does not say why.")

    def ranked(self, method: str) -> tuple[tuple[str, float], ...]:
        """(sensor, number), the largest first; sensors without a number are left out.

        Raises:
            BadInput: no such method.
        """
        if method not in self.METHODS:
            raise BadInput(f"Unknown method {method!r}. Known: {', '.join(self.METHODS)}.")
        values = getattr(self, method)
        order = np.argsort(-values, kind="stable")
        return tuple((self.sensors[i], float(values[i])) for i in order if np.isfinite(values[i]))


@dataclass(frozen=True, kw_only=True)
class FeatureAttention(Result):
    """Which features attention goes to: one number per feature, layer and head, for a summary of one page.

    Features are what the tokens of the run stand for: sensors, time steps, pieces of a text.

    features          S names
    importance        [S] share of corrected received attention, mean over layers; those that have a number sum to 1
    received          [L, S] corrected received attention, 1.0 = as much as a uniform head would give
    attending         [S] focus of the feature's own row, mean over heads and layers; 0 = uniform, 1 = one key
    layer_importance  [L] mean focus over heads
    head_importance   [L, H] focus; NaN beyond the heads of a layer with fewer
    weights           [S, S] mean over layers and heads: row = looks, column = looked at; None = not asked for
    axis              what a feature is: sensor | time | "" for anything else
    made              when the attention was taken, ISO 8601; "" = not said
    """

    kind: ClassVar[str] = "attention_summary"
    features: tuple[str, ...]
    importance: Floats
    received: Floats
    attending: Floats
    layer_importance: Floats
    head_importance: Floats
    weights: Floats | None = None
    axis: str = ""
    made: str = ""

    def __post_init__(self) -> None:
        count, layers = len(self.features), len(self.layer_importance)
        _need("FeatureAttention.importance", self.importance, (count,))
        _need("FeatureAttention.received", self.received, (layers, count))
        _need("FeatureAttention.attending", self.attending, (count,))
        _need("FeatureAttention.layer_importance", self.layer_importance, (layers,))
        _need("FeatureAttention.head_importance", self.head_importance, (layers, None))
        if self.weights is not None:
            _need("FeatureAttention.weights", self.weights, (count, count))

    def ranked(self, by: str, top_k: int | None = None) -> tuple[tuple[str, float], ...]:
        """(feature, number) by "importance" or "attending", the largest first, ties in their order; without NaN.

        Raises:
            BadInput: another name.
        """
        if by not in ("importance", "attending"):
            raise BadInput(f"Ranked by: expected importance or attending, got {by!r}.")
        values = getattr(self, by)
        order = [i for i in np.argsort(-values, kind="stable") if np.isfinite(values[i])]
        return tuple((self.features[i], float(values[i])) for i in order[:top_k])


@dataclass(frozen=True, kw_only=True)
class Table(Result):
    """Rows of plain values under named columns. A cell is text, a number, or None."""

    kind: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ShapeError(f"Table row {number}", f"{len(self.columns)} cells", f"{len(row)} cells")


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Table):
    """Whether the model needs the sources that an attribution ranks high: a table of figures, and two curves.

    method    name of the analysis whose ranking is judged
    removal   how sources were taken away, in words
    number    what was read of each target: probability, or log_probability (in nats)
    targets   R spans
    shares    [R, S] shares of its sources that were taken away, or given back: of none, up to all
    deletion, insertion  [R, S] the number with so many of the best ranked sources away; with only so many of them there
    random_deletion, random_insertion  [R, S] the same, mean over random orders of the same sources
    """

    kind: ClassVar[str] = "faithfulness"
    method: str
    removal: str
    number: str
    targets: tuple[Span, ...]
    shares: Floats
    deletion: Floats
    insertion: Floats
    random_deletion: Floats
    random_insertion: Floats

    def __post_init__(self) -> None:
        super().__post_init__()
        _need("Faithfulness.shares", self.shares, (len(self.targets), None))
        for name in ("deletion", "insertion", "random_deletion", "random_insertion"):
            _need(f"Faithfulness.{name}", getattr(self, name), self.shares.shape)


@dataclass(frozen=True)
class LedgerStep:
    """A step whose evidence is looked at: tokens start..stop-1. kind: thought | action | answer | text."""

    kind: str
    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class LedgerSource:
    """Where evidence may come from. kind: system | question | observation | own | marks; `spans` of its tokens.

    own = what the model itself wrote before, up to the token that is predicted; marks = tokens of the chat template.
    """

    kind: str
    label: str
    spans: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", tuple((int(start), int(stop)) for start, stop in self.spans))


@dataclass(frozen=True, kw_only=True)
class EvidenceLedger(Table):
    """What each step of an answer rests on: a row for each step and source, and the same as arrays.

    steps     S, in order;  sources  C
    share     [S, C] of the attention mass of the rows that predict the step; the sources of a step sum to 1
    uniform   [S, C] what a head would give that looks at every visible token alike
    effect    [S, C] nats: log-probability of the step, minus the same with the source's tokens taken away; NaN where
              the source does not come before the step, or holds no tokens that can be taken away; None = not asked for
    logprob   [S] log-probability of the step in nats, summed over its tokens; None = not asked for
    removal   how sources were taken away, in words; "" = not asked for
    flags     what a reader must not miss, in words
    """

    kind: ClassVar[str] = "evidence_ledger"
    steps: tuple[LedgerStep, ...]
    sources: tuple[LedgerSource, ...]
    share: Floats
    uniform: Floats
    effect: Floats | None = None
    logprob: Floats | None = None
    removal: str = ""
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = len(self.steps), len(self.sources)
        for name in ("share", "uniform", "effect"):
            if getattr(self, name) is not None:
                _need(f"EvidenceLedger.{name}", getattr(self, name), shape)
        if self.logprob is not None:
            _need("EvidenceLedger.logprob", self.logprob, shape[:1])


def result_types() -> Mapping[str, type[Result]]:
    """kind -> class, of the closed set."""
    tables = (Table, Faithfulness, EvidenceLedger)
    sensors = (SensorImportance, FeatureAttention)
    kinds = (AttentionPattern, HeadScores, TokenScores, TokenMatrix, Attribution, LensTable, *sensors, *tables)
    return MappingProxyType({cls.kind: cls for cls in kinds})


@dataclass(frozen=True)
class Finding:
    """A result with everything a picture must say about where it came from. `layers`: names of the model's layers."""

    analysis: str
    title: str
    params: Mapping[str, Any]
    model: str
    tokens: Tokens
    result: Result
    provenance: str = ""
    run: str = ""
    generated_from: int | None = None
    seconds: float = 0.0
    cached: bool = False
    layers: tuple[str, ...] = ()

    def layer_name(self, index: int) -> str:
        """What people call a layer: its name, else its number."""
        return self.layers[index] if index < len(self.layers) else str(index)


@dataclass(frozen=True)
class View:
    """What a renderer makes. `kind`: script | plotly | table | text | html | image | file.

    script  payload is a JSON-able dict, drawn by the renderer's own JavaScript
    plotly  a plotly Figure       table  (columns, rows)      text  a string
    html    a whole offline page  image  PNG bytes            file  bytes of a file
    """

    KINDS: ClassVar[tuple[str, ...]] = ("script", "plotly", "table", "text", "html", "image", "file")
    kind: str
    payload: Any
    media_type: str = ""

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise BadInput(f"View.kind: expected one of {', '.join(self.KINDS)}, got {self.kind!r}.")


# --------------------------------------------------------------------------------------------- JSON


def to_jsonable(value: Any) -> Any:
    """Plain JSON data from a result, tokens, or any value inside them. NaN becomes null; float32 stays exact."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return _array_to_lists(value)
    if isinstance(value, np.generic):
        return to_jsonable(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): to_jsonable(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_jsonable(v) for v in value]
    if isinstance(value, (frozenset, set)):
        return sorted(to_jsonable(v) for v in value)
    return value


def _array_to_lists(array: NDArray[Any]) -> Any:
    if array.dtype.kind != "f" or array.size == 0:
        return array.tolist()
    flat: list[Any] = [
        float(f"{x:.9g}") if math.isfinite(x) else None for x in array.ravel().tolist()
    ]  # 9 digits: exact float32
    for length in reversed(array.shape[1:]):
        flat = [flat[i : i + length] for i in range(0, len(flat), length)] if length else []
    return flat


def from_jsonable(kind: str, data: Mapping[str, Any]) -> Result:
    """The result whose `to_jsonable` gave `data`.

    Raises:
        BadInput: unknown kind, missing or unknown fields.
        ShapeError: arrays that do not fit together.
    """
    from attnviz.errors import UnknownName

    types = result_types()
    if kind not in types:
        raise UnknownName("result kind", kind, types)
    fields = {f.name: f for f in dataclasses.fields(types[kind])}
    for name in data:
        if name not in fields:
            raise UnknownName(f"field of {kind}", name, fields)
    required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if absent := sorted(required - set(data)):
        raise BadInput(f"{kind}: missing fields {', '.join(absent)}.")
    return types[kind](**{name: _restore(fields[name].type, name, value) for name, value in data.items()})


_INT_KEYED = {"missing", "labels"}
_PLACES: Mapping[str, Any] = {
    "tuple[Span, ...]": Span,
    "tuple[LedgerStep, ...]": LedgerStep,
    "tuple[LedgerSource, ...]": LedgerSource,
}


def _restore(annotation: Any, name: str, value: Any) -> Any:
    text = str(annotation)
    if value is None:
        return None
    if "uint8" in text:
        return np.asarray(value, np.uint8)
    if text.startswith("Mapping") and "Floats" in text:
        return {k: _floats(v) for k, v in value.items()}
    if text == "Mapping[str, float]":
        return {k: _number(v) for k, v in value.items()}
    if text.startswith("Mapping") and "tuple" in text:
        return {k: tuple(v) for k, v in value.items()}
    if "Floats" in text:
        return _floats(value).astype(np.float16) if name == "every" else _floats(value)
    if "Bools" in text:
        return np.asarray(value, np.bool_)
    if "Ints" in text:
        return np.asarray(value, np.int64)
    if text == "SelfCheck":
        return SelfCheck(ok=bool(value["ok"]), max_abs_diff=_number(value["max_abs_diff"]), kl=_number(value["kl"]))
    if name in _INT_KEYED:
        return {int(k): v for k, v in value.items()}
    if text in _PLACES:
        return tuple(_PLACES[text](**place) for place in value)
    if text.startswith("tuple[tuple"):
        return tuple(tuple(row) for row in value)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _floats(value: Any) -> Floats:
    return np.asarray(np.array(value, dtype=object), dtype=np.float32)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
