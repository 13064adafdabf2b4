"""A number per head as a map of layers and heads, the importance of layers, and the tokens that are read most.

Shows HeadScores. A cell is hatched where the layer has no attention; each cell says its number on hover and on focus.
Layer importance is the mean focus of a layer's heads; received attention is 1.0 where a key gets what a uniform head
would give. A head with roles carries their initials, and every role lists its heads, strongest first. A metric with
negative values is coloured in two directions from zero.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from attnviz.hooks import BadInput, Finding, HeadScores, Renderer, View, hookimpl, to_jsonable
from attnviz.plugins.renderers._assets import need_tokens, note_data, pack, script, style, token_data
from attnviz.plugins.renderers._labels import layer_names

_COMPANIONS = ("effect", "null")
"""A metric named `<metric>_effect` or `<metric>_null` says more about the metric before the underscore."""
_INITIALS = 3

Head = tuple[int, int]


def metric_title(name: str) -> str:
    """A metric's or role's name in words."""
    return name.replace("_", " ")


def roles_of(result: HeadScores) -> dict[Head, tuple[str, ...]]:
    """(layer, head) -> its roles, each once."""
    found: dict[Head, tuple[str, ...]] = {}
    for place, names in result.roles.items():
        layer, _, head = place.partition(".")
        at = (int(layer), int(head))
        found[at] = tuple(dict.fromkeys((*found.get(at, ()), *names)))
    return found


def heads_by_role(result: HeadScores) -> dict[str, list[Head]]:
    """Role -> its heads: by the metric of that name, most first, where there is one; else by layer and head.

    Roles with a metric come first, in the order of the metrics.
    """
    found: dict[str, list[Head]] = {}
    for at, names in sorted(roles_of(result).items()):
        for name in names:
            found.setdefault(name, []).append(at)
    order = [name for name in result.metrics if name in found]
    order += [name for name in found if name not in result.metrics]
    return {name: _strongest_first(result, name, found[name]) for name in order}


def _strongest_first(result: HeadScores, role: str, heads: list[Head]) -> list[Head]:
    if role not in result.metrics:
        return heads
    values = result.metrics[role]
    return sorted(heads, key=lambda at: -float(values[at]) if np.isfinite(values[at]) else np.inf)


def initials(names: list[str]) -> dict[str, str]:
    """Name -> the first letters of its first three words; a number tells those apart that would be the same."""
    taken: dict[str, str] = {}
    for name in names:
        words = re.findall(r"[^\W_]+", name)[:_INITIALS]
        letters = short = "".join(word[0].upper() for word in words) or "?"
        count = 1
        while short in taken.values():
            count += 1
            short = f"{letters}{count}"
        taken[name] = short
    return taken


def _companion(result: HeadScores, name: str) -> tuple[str, str]:
    """(metric it belongs to, "effect" or "null"), or (name, "") for a metric of its own."""
    base, _, kind = name.rpartition("_")
    return (base, kind) if kind in _COMPANIONS and base in result.metrics else (name, "")


def _metrics(result: HeadScores) -> list[dict[str, Any]]:
    rows = []
    for name, values in result.metrics.items():
        base, group = _companion(result, name)
        words = {"title": metric_title(name), "base": base, "group": group, "unit": result.units[name]}
        rows.append({"name": name, **words, "values": to_jsonable(values)})
    return rows


def _roles(result: HeadScores) -> list[dict[str, Any]]:
    heads = heads_by_role(result)
    short = initials(list(heads))
    return [
        {"name": name, "title": metric_title(name), "short": short[name], "heads": [list(at) for at in places]}
        for name, places in heads.items()
    ]


def render(finding: Finding) -> View:
    """The data of the page."""
    result = finding.result
    if not isinstance(result, HeadScores):
        raise BadInput(f"head_map: expected head_scores, got {result.kind}.")
    layers, heads = next(iter(result.metrics.values())).shape
    if result.received is not None:
        need_tokens("HeadScores.received", result.received.shape[1], finding)
    importance = None if result.layer_importance is None else to_jsonable(result.layer_importance)
    payload = {
        **token_data(finding),
        "layers": layers,
        "layer_names": layer_names(finding, layers),
        "heads": heads,
        "metrics": _metrics(result),
        "roles": _roles(result),
        "received": None if result.received is None else pack(result.received.astype(np.float32)),
        "layer_importance": importance,
        "sinks": list(result.sinks),
        **note_data(result),
    }
    return View(kind="script", payload=payload)


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The map of heads."""
    return [
        Renderer(
            name="head_map",
            title="Map of heads",
            accepts=(HeadScores,),
            produces="script",
            render=render,
            script=script("head_map"),
            style=style("head_map"),
            order=10,
        )
    ]
