"""What the visualizer hands out: attention as an array, and its summary."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attnviz.errors import BadInput, ShapeError
from attnviz.session import SavableFinding, TracedRun
from attnviz.types import Trace

ATOL = 0.01
"""How far a row of attention may sum from 1."""


class VisualizationType(str, Enum):
    """Pictures of one map."""

    HEATMAP = "heatmap"
    FLOW = "flow"
    NETWORK = "network"
    DISTRIBUTION = "distribution"
    TIMESERIES = "timeseries"


class ExportFormat(str, Enum):
    """Files of a summary."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"
    PNG = "png"
    SVG = "svg"


@dataclass(frozen=True)
class Origin:
    """Where attention comes from: the run, what its forward pass gave, and the layers that are in the array."""

    run: TracedRun
    trace: Trace
    layers: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """Attention of one input, or of a batch whose inputs are kept apart.

    weights         [layer, head, query, key], or [layer, input, head, query, key] as stacked from a batch; read-only
    layer, head     the active map
    feature_names   of the positions; None = they have none
    timestep_names  of the time steps of the input; None = they have none
    model_name      where it comes from
    timestamp       when it was taken
    input_shape     of what the model read; () = not known
    averaged        heads are averaged: `weights` has one for each layer

    Raises:
        ShapeError: other axes, or another number of names than there are positions.
    """

    weights: NDArray[np.floating]
    layer: int = 0
    head: int = 0
    feature_names: Sequence[str] | None = None
    timestep_names: Sequence[str] | None = None
    model_name: str = "unknown"
    timestamp: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    input_shape: tuple[int, ...] = ()
    averaged: bool = False
    origins: tuple[Origin, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        array = np.asarray(self.weights)
        if array.ndim not in (4, 5) or not array.size or array.shape[-1] != array.shape[-2]:
            expected = "[layer, head, query, key] or [layer, input, head, query, key], queries = keys"
            raise ShapeError("Attention weights", expected, list(array.shape))
        if array.dtype.kind != "f":
            raise BadInput(f"Attention weights: expected floating-point numbers, got {array.dtype}.")
        if self.feature_names is not None and len(self.feature_names) != array.shape[-1]:
            what = f"{array.shape[-1]} names, one for each position of the map"
            raise BadInput(f"feature_names: expected {what}, got {len(self.feature_names)}.")
        view = array.view()
        view.flags.writeable = False
        object.__setattr__(self, "weights", view)

    def validate(self, atol: float = ATOL) -> bool:
        """Whether every row is weights that sum to 1 within `atol`; if not, a warning says which is the first."""
        from attnviz.plugins.backends.given_maps import first_fault

        fault = first_fault(self.weights, atol)
        if fault is not None:
            warnings.warn(f"Invalid attention weights: {fault}", stacklevel=2)
        return fault is None

    def get_shape(self) -> tuple[int, ...]:
        """(layers, heads, positions, positions); of a batch (layers, inputs, heads, positions, positions)."""
        return tuple(self.weights.shape)

    @property
    def inputs(self) -> int:
        """How many inputs of a batch there are; 1 without one."""
        return int(self.weights.shape[1]) if self.weights.ndim == 5 else 1

    def batch(self, index: int) -> AttentionWeights:
        """Attention of one input of a batch.

        Raises:
            BadInput: no such input.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < self.inputs:
            raise BadInput(f"Unknown input {index!r}. There are {self.inputs}: 0 to {self.inputs - 1}.")
        if self.weights.ndim == 4:
            return self
        origins = self.origins[index : index + 1]
        return dataclasses.replace(self, weights=self.weights[:, index], origins=origins)

    def only(self) -> AttentionWeights:
        """The one input there is.

        Raises:
            BadInput: there are several, which are not averaged.
        """
        if self.inputs > 1:
            raise BadInput(f"Expected one input, got a batch of {self.inputs}: choose one with weights.batch(index).")
        return self.batch(0)


@dataclass(frozen=True, eq=False)
class AttentionSummary:
    """Attention of one input on one page.

    feature_importance      [S] share of the attention received, corrected for how many queries may see each; sums to 1
    top_attended_features   (name, share), the most attended first
    top_attending_features  (name, focus of its row), the sharpest first
    layer_importance        [L] mean focus over heads;  head_importance  layer -> [H] focus
    provenance_hash         SHA-256 of model, weights, input, analysis, versions and numbers
    processing_time_ms      all of it, the hash included
    aggregated_weights      [L, S, S] mean over heads
    """

    feature_importance: NDArray[np.float32]
    top_attended_features: list[tuple[str, float]]
    top_attending_features: list[tuple[str, float]]
    layer_importance: NDArray[np.float32]
    head_importance: Mapping[int, NDArray[np.float32]]
    provenance_hash: str
    processing_time_ms: float
    weights: AttentionWeights = field(repr=False)
    finding: SavableFinding = field(repr=False)

    @cached_property
    def aggregated_weights(self) -> NDArray[np.floating]:
        array = self.weights.weights
        return array[:, 0] if array.shape[1] == 1 else array.mean(axis=1)
