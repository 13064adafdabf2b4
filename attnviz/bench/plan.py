"""What a benchmark is asked to do: every model, every method with its parameters, every prompt."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from attnviz.bench.prompts import Prompt
from attnviz.errors import BadInput, UnknownName
from attnviz.hooks import Analysis, Attribution, to_jsonable
from attnviz.registry import Registry

FORMAT = "attnviz-bench-1"
FORMATS = ("auto", "text", "chat")
"""How a prompt is read: auto = as a chat message where the model has a chat template, else as plain text."""
DEFAULT_MODELS = ("demo",)
DEFAULT_METHODS = ("attention", "saliency", "input_x_gradient", "integrated_gradients", "occlusion")
JUDGE = "faithfulness"
"""The analysis that judges an attribution."""
JUDGED = ("method", "settings", "first", "last", "targets", "sources")
"""Its parameters that follow the method that is judged."""
ANSWER = 16
"""Most tokens of an answer unless said otherwise."""


@dataclass(frozen=True)
class PlannedModel:
    """`name`: what tables call it; `folder`: its place in the benchmark; `source`: what is loaded."""

    name: str
    folder: str
    source: str


@dataclass(frozen=True)
class PlannedMethod:
    """An analysis that attributes, with a value for every parameter it has. `version`: of the analysis."""

    name: str
    params: Mapping[str, Any]
    version: str


@dataclass(frozen=True)
class Plan:
    """All of a benchmark.

    loading         backend, revision, dtype and device of every model
    format          one of FORMATS
    max_new_tokens  longest answer; answers are greedy
    faithfulness    parameters of the analysis that judges every attribution; None = none is judged
    """

    models: tuple[PlannedModel, ...]
    methods: tuple[PlannedMethod, ...]
    prompts: tuple[Prompt, ...]
    loading: Mapping[str, str | None] = field(default_factory=dict)
    format: str = "auto"
    max_new_tokens: int = ANSWER
    faithfulness: Mapping[str, Any] | None = None

    @property
    def cells(self) -> int:
        """How many attributions it asks for."""
        return len(self.models) * len(self.methods) * len(self.prompts)

    @property
    def digest(self) -> str:
        """SHA-256, hex, over everything that is asked for."""
        text = json.dumps(to_jsonable(asdict(self)), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def to_jsonable(self) -> dict[str, Any]:
        """What plan.json holds."""
        found: dict[str, Any] = to_jsonable(asdict(self))
        return found

    def differs_from(self, other: Plan) -> list[str]:
        """The names of what two plans have not in common."""
        mine, theirs = self.to_jsonable(), other.to_jsonable()
        return [f.name for f in fields(self) if mine[f.name] != theirs[f.name]]


def plan_benchmark(
    registry: Registry,
    models: Sequence[str],
    methods: Sequence[str],
    prompts: Sequence[Prompt],
    *,
    params: Mapping[str, str] | None = None,
    faithfulness: bool = False,
    **more: Any,
) -> Plan:
    """A plan that can be carried out, as far as can be said before a model is loaded.

    Args:
        models: menu names, folders, hub ids.
        methods: names of analyses that give an attribution.
        params: "method.parameter" -> value; with faithfulness also "faithfulness.parameter".
        faithfulness: whether every attribution is judged.
        more: the other fields of Plan.

    Raises:
        BadInput: nothing to do, something named twice, a method that attributes nothing, a wrong parameter.
    """
    for what, names in (("model", models), ("method", methods)):
        if not names or not all(name.strip() for name in names):
            raise BadInput(f"--{what}s: expected names separated by commas, got an empty one.")
        if twice := [name for name in names if list(names).count(name) > 1]:
            raise BadInput(f"--{what}s: {twice[0]!r:.80} is named twice. Name it once.")
    judging = (JUDGE,) if faithfulness else ()
    given = _by_method((*methods, *judging), params or {})
    chosen = [_attributing(registry, name) for name in methods]
    return Plan(
        models=_named(models),
        methods=tuple(PlannedMethod(a.name, to_jsonable(a.resolve(given[a.name])), a.version) for a in chosen),
        prompts=tuple(prompts),
        faithfulness=_judging(registry, given[JUDGE]) if faithfulness else None,
        **more,
    )


def _attributing(registry: Registry, name: str) -> Analysis:
    known = {a.name: a for a in registry.analyses.values() if issubclass(a.produces, Attribution)}
    if name not in known:
        raise UnknownName("method of attribution", name, known)
    return known[name]


def _judging(registry: Registry, given: Mapping[str, str]) -> dict[str, Any]:
    """Parameters of the analysis that judges, without those that follow the method."""
    if JUDGE not in registry.analyses:
        raise UnknownName("analysis", JUDGE, registry.analyses)
    if own := [name for name in given if name in JUDGED]:
        raise BadInput(f"-p {JUDGE}.{own[0]}: it follows the method that is judged. Leave it out.")
    resolved = registry.analyses[JUDGE].resolve(given)
    found: dict[str, Any] = to_jsonable({name: value for name, value in resolved.items() if name not in JUDGED})
    return found


def _by_method(methods: Sequence[str], params: Mapping[str, str]) -> dict[str, dict[str, str]]:
    given: dict[str, dict[str, str]] = {name: {} for name in methods}
    for name, value in params.items():
        method, dot, parameter = name.partition(".")
        if not dot or method not in given:
            raise BadInput(f"-p {name}={value}: expected METHOD.PARAMETER=VALUE with a method of {', '.join(methods)}.")
        given[method][parameter] = value
    return given


def _named(sources: Sequence[str]) -> tuple[PlannedModel, ...]:
    """Models with the names of tables: a folder's last part where that is enough to tell it from the others."""
    short = [Path(source).resolve().name if Path(source).is_dir() else source for source in sources]
    names = [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]
    found: list[PlannedModel] = []
    for name, source in zip(names, sources, strict=True):
        folder, taken = file_name(name)[-60:], {model.folder.lower() for model in found}
        while folder.lower() in taken:
            folder += "_"
        found.append(PlannedModel(name, folder, source))
    return tuple(found)


def file_name(name: str) -> str:
    """A name as part of a path: letters, digits, dot, dash and underscore."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".")[-80:]
    return plain or "_"
