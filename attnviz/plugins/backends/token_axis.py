"""Whether the tokens of a module of the user's are sensors or time steps, found out by changing one column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.plugins.backends.arrays_looking import as_tensor
from attnviz.plugins.backends.arrays_route import ArrayRoute, SideBySide, run_once
from attnviz.plugins.backends.capture import AttentionCollector
from attnviz.plugins.backends.readings import Rows

if TYPE_CHECKING:
    import torch

_SAME = 1e-5  # relative difference of queries that rounding alone explains


def token_axis(module: torch.nn.Module, rows: Rows, route: ArrayRoute) -> str:
    """See Tokens.axis. A token is a sensor if another value of a column changes the query of that one token in the
    first layer and no other; else it is a time step if there are as many of both.
    """
    if rows.probe.ndim != 2:
        return ""
    steps, columns = rows.probe.shape
    if route.count == columns and all(_changes_only(module, rows, route, place) for place in (0, columns - 1)):
        return "sensor"
    return "time" if route.count == steps else ""


def _changes_only(module: torch.nn.Module, rows: Rows, route: ArrayRoute, column: int) -> bool:
    other = np.array(rows.probe)
    other[:, column] += np.linspace(0.5, 1.5, len(other), dtype=other.dtype)
    before, after = _queries(module, rows, route, rows.probe), _queries(module, rows, route, other)
    if before is None or after is None:
        return False
    apart = np.abs(after - before).max(axis=(0, 2)) > _SAME * np.abs(before).max()  # [Q]
    return bool(np.array_equal(np.flatnonzero(apart), [column]))


def _queries(
    module: torch.nn.Module, rows: Rows, route: ArrayRoute, values: NDArray[Any]
) -> NDArray[np.floating[Any]] | None:
    """[H, Q, D] of the first layer that has a map over the tokens."""
    key, layer = next(iter(route.calls.items()))
    collector = AttentionCollector({key: layer}, thumbnail=1)
    capturing = route.capturing(SideBySide(collector, len(route.added)))
    run_once(module, rows.arguments(as_tensor(module, values)[None]), capturing)
    queries = collector.captured[layer].q
    return None if queries is None else np.asarray(queries, np.float32)
