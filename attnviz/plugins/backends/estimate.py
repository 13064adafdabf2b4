"""What a capture will take, before it runs: bytes by formula, seconds from a short run when the model is loaded.

A trace holds, for each layer of Q queries and K keys (all T tokens, but of a model with encoder and decoder those of
the layer's stack) with H heads over H_kv key heads of width D, in n × m ≤ `thumbnail` cells,

    (H·Q + H_kv·K)·D·(4 or 2)   queries and keys, in float32 or float16      [H, Q, K] float32 maps on the eager route
    4·H·(3·Q + K) + 8·(Q + K)   statistics of rows and keys, and their counts
    H·n·m                       thumbnail
    8·H·Q·min(k, K)             largest weights and their keys               4·H·K   norms of values

and T² for every window shorter than the text, and 4·H·Q·K for every bias that layers add to their scores. Not counted:
the masks of the eager route, which are only seen in the maps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnviz.hooks import Estimate, ModelError, Want
from attnviz.plugins.backends.stacks import Lengths
from attnviz.plugins.backends.statistics import Scores, map_statistics, query_block, stream_statistics

if TYPE_CHECKING:
    import torch

FLOAT32_BUDGET = 64 << 20  # bytes of all queries and keys of a run that are kept in float32
FLOAT16_BUDGET = 2 << 30  # bytes of them that are kept in float16; beyond, only what was streamed is kept
TIMED_TOKENS = 16, 64  # of the two forward passes that are timed
_FEW, _MANY = 128, 1024  # tokens of the two pieces of attention that are timed
_TOP_K = 8
_REPEATS, _PATIENCE = 5, 0.05  # a measure is repeated so often, or until so many seconds are spent
_clock = time.perf_counter


@dataclass(frozen=True)
class LayerShape:
    """What decides the size of one layer's capture. `width` 0 = the layer gives maps, not queries and keys."""

    heads: int
    kv_heads: int
    width: int
    window: int | None = None
    values: bool = False  # norms of values can be given
    sinks: bool = False
    stack: str = ""
    biases: int = 0  # heads of the bias that is added to the scores: 0, 1 or all
    bias_layer: int = 0  # the first layer that has the same bias; T5 shares one in a stack, UMT5 has one in each layer
    causal: bool = True

    def query_key_bytes(self, lengths: Lengths, number: int) -> int:
        """Bytes of queries and keys at `number` bytes a number."""
        queries, keys = lengths.shape(self.stack)
        return (self.heads * queries + self.kv_heads * keys) * self.width * number

    def statistics_bytes(self, lengths: Lengths, want: Want) -> int:
        """Bytes of everything else but the mask and the bias, and maps if the layer gives these."""
        queries, keys = lengths.shape(self.stack)
        cell = max(1, -(-max(queries, keys) // want.thumbnail))
        pictures = self.heads * -(-queries // cell) * -(-keys // cell)
        streamed = 4 * self.heads * (3 * queries + keys) + 8 * (queries + keys)
        ranked = 8 * self.heads * queries * min(want.top_k, keys)
        norms = 4 * self.heads * keys if want.values and self.values else 0
        maps = 0 if self.width else 4 * self.heads * queries * keys
        return streamed + pictures + ranked + norms + maps + (4 * self.heads if self.sinks else 0)


@dataclass(frozen=True)
class Level:
    """How much detail is kept, and why not more. `number`: bytes of a number of queries and keys, 0 = none are kept."""

    number: int
    reason: str = ""

    @property
    def name(self) -> str:
        kept = {4: "float32", 2: "float16", 0: "float32 without queries and keys"}[self.number]
        return f"{kept}. {self.reason}" if self.reason else kept

    @property
    def without(self) -> str:
        """Why no queries and keys are kept; empty where they are."""
        return "" if self.number else self.reason


def choose_level(shapes: Iterable[LayerShape], lengths: Lengths) -> Level:
    """float32 where queries and keys fit the budget, else float16, else none of them. Depends on nothing else."""
    full = sum(shape.query_key_bytes(lengths, 4) for shape in shapes)
    whose = f"Queries and keys of {lengths.count} tokens would take"
    if full <= FLOAT32_BUDGET:
        return Level(4)
    if full // 2 <= FLOAT16_BUDGET:
        return Level(2, f"{whose} {in_words(full)} in float32, and at most {in_words(FLOAT32_BUDGET)} are kept so")
    reason = f"{whose} {in_words(full // 2)} in float16, and at most {in_words(FLOAT16_BUDGET)} are kept"
    return Level(0, f"{reason}: use a shorter prompt, or in a plugin ask for fewer layers")


def kept_bytes(shapes: Iterable[LayerShape], lengths: Lengths, want: Want, level: Level) -> int:
    """Bytes of the arrays of a trace, without masks and biases."""
    return sum(s.query_key_bytes(lengths, level.number) + s.statistics_bytes(lengths, want) for s in shapes)


def mask_bytes(shapes: Iterable[LayerShape], lengths: Lengths) -> int:
    """Bytes of the masks; layers of one window share theirs."""
    windows = {(s.stack, s.window) for s in shapes if s.width and s.window}
    sizes = [(window, *lengths.shape(stack)) for stack, window in windows]
    return sum(queries * keys for window, queries, keys in sizes if window < keys)


def bias_bytes(shapes: Iterable[LayerShape], lengths: Lengths, level: Level) -> int:
    """Bytes of the biases, one that layers share counted once. They go with queries and keys."""
    biased = {(s.stack, s.bias_layer, s.biases) for s in shapes} if level.number else set()
    return sum(4 * biases * queries * keys for stack, _, biases in biased for queries, keys in [lengths.shape(stack)])


def working_bytes(shapes: Iterable[LayerShape], lengths: Lengths, state: int, inner: int) -> int:
    """About what a forward pass takes beside the trace: states of `state` numbers, inner ones of the MLP, one layer's
    attention, and the masks in the forms that the model passes them round.
    """
    layers, tokens = list(shapes), lengths.count
    most = max((s.heads for s in layers), default=0)
    maps = any(not s.width for s in layers)
    attention = 12 * most * tokens**2 if maps else 8 * query_block() * tokens
    return 4 * tokens * (20 * state + 8 * inner) + attention + 3 * mask_bytes(layers, lengths)


# --------------------------------------------------------------------------------------------- time


@dataclass(frozen=True)
class Pace:
    """Seconds of a capture: `start` + `token`·T, and for each head of each layer `block` and `weight` as timed.

    plain, ranked   (seconds per block of queries, seconds per weight) without and with the largest weights
    together        heads that are worked on at once
    """

    start: float
    token: float
    plain: tuple[float, float]
    ranked: tuple[float, float]
    together: bool

    def seconds(self, shapes: Iterable[LayerShape], lengths: Lengths, want: Want) -> float:
        return self.start + self.token * lengths.count + self.attention(shapes, lengths, want)

    def attention(self, shapes: Iterable[LayerShape], lengths: Lengths, want: Want) -> float:
        """The part that grows with the square of the length."""
        return sum(self._layer(shape, *lengths.shape(shape.stack), want) for shape in shapes)

    def _layer(self, shape: LayerShape, queries: int, keys: int, want: Want) -> float:
        cost = self.ranked if want.top_k else self.plain
        blocks = 1 if self.together else -(-queries // query_block())
        return (1 if self.together else shape.heads) * (cost[0] * blocks + cost[1] * queries * keys)


def measure_pace(
    shapes: Mapping[int, LayerShape], device: torch.device, runs: Sequence[Lengths], forward: Callable[[Lengths], Any]
) -> Pace | None:
    """Times the captures of one or two short runs, and the attention of one head at two lengths; None for a model
    without attention.
    """
    layers = list(shapes.values())
    if not layers:
        return None
    together = device.type != "cpu"
    shape = max(layers, key=lambda s: (not s.causal, s.heads))  # a causal layer skips half of the weights
    plain, ranked = (_attention_cost(shape, device, together, top_k) for top_k in (0, _TOP_K))
    first = Pace(0.0, 0.0, plain, ranked, together)
    taken = [_seconds(partial(forward, lengths)) for lengths in runs]
    spent = [max(0.0, s - first.attention(layers, n, Want())) for n, s in zip(runs, taken, strict=True)]
    counts = [lengths.count for lengths in runs]
    token = (spent[-1] - spent[0]) / (counts[-1] - counts[0]) if len(counts) > 1 else 0.0
    token = max(token, 0.0) or spent[-1] / counts[-1]
    return Pace(max(0.0, spent[-1] - token * counts[-1]), token, plain, ranked, together)


def _attention_cost(shape: LayerShape, device: torch.device, together: bool, top_k: int) -> tuple[float, float]:
    """Seconds per block of queries and per weight (of T² weights, masked ones included)."""
    few, many = (_seconds(_piece(shape, device, together, top_k, count), device) for count in (_FEW, _MANY))
    blocks = [1, 1] if together else [-(-count // query_block()) for count in (_FEW, _MANY)]
    squares = [_FEW**2, _MANY**2]
    weight = (many * blocks[0] - few * blocks[1]) / (squares[1] * blocks[0] - squares[0] * blocks[1])
    weight = min(max(weight, 0.0), many / squares[1])
    return max(0.0, (few - weight * squares[0]) / blocks[0]), weight


def _piece(shape: LayerShape, device: torch.device, together: bool, top_k: int, tokens: int) -> Callable[[], object]:
    """The attention of one head, or of all where they are worked on at once."""
    import torch

    heads = shape.heads if together else 1
    query = torch.ones(heads, tokens, shape.width or 64, dtype=torch.float32, device=device)
    if shape.width:
        scores = Scores(query, query, query, 0.1, causal=shape.causal)
        return lambda: stream_statistics(scores, 64, top_k=top_k)

    def maps() -> object:
        weights = torch.softmax(query @ query.mT, dim=-1)
        return weights @ query, map_statistics(weights, 64, shape.causal, top_k=top_k)

    return maps


def _seconds(call: Callable[[], object], device: torch.device | None = None) -> float:
    """Wall time; the best of several where that is cheap, because a first call may load code."""
    import torch

    best = math.inf
    for repeat in range(_REPEATS):
        started = _clock()
        with torch.inference_mode():
            call()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, _clock() - started)
        if best * (repeat + 1) > _PATIENCE:
            break
    return best


# --------------------------------------------------------------------------------------------- memory


def free_bytes() -> int | None:
    """Memory this process may still take on the host, or None where the system does not tell."""
    free = [number for number in (_available(), _left_of_limit()) if number is not None]
    return min(free, default=None)


def _available() -> int | None:
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _left_of_limit() -> int | None:
    """What a container's limit leaves (control groups, version 2)."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not (limit.is_file() and used.is_file()):
        return None
    most = limit.read_text().strip()
    return max(0, int(most) - int(used.read_text())) if most.isdecimal() else None


def refuse_beyond_memory(estimate: Estimate, tokens: int, device: torch.device) -> None:
    """Refuses what does not fit.

    Raises:
        ModelError: says what is needed and what is free, on the host or on the device.
    """
    import torch

    places = [("this machine", estimate.peak, free_bytes())]
    if device.type == "cuda":
        places = [
            ("this machine", estimate.bytes, free_bytes()),
            (f"the device {device}", estimate.peak - estimate.bytes, int(torch.cuda.mem_get_info(device)[0])),
        ]
    for where, needed, free in places:
        if free is not None and needed > free:
            raise ModelError(
                f"The attention of {tokens} tokens needs about {in_words(needed)} of memory, and {in_words(free)} are "
                f"free on {where}: use a shorter prompt, or in a plugin ask for fewer layers."
            )


def in_words(count: int) -> str:
    """Bytes in MB or GB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
