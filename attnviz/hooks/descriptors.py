"""What a plugin hands over: frozen descriptors that say what it can do. Building one does no work.

A descriptor drives everything a user meets: tab, controls, command-line options, API parameters, validation, exports.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from attnviz.errors import BadInput, PluginError, UnknownName
from attnviz.types import Result, Want

if TYPE_CHECKING:
    from attnviz.hooks.contracts import AnalysisRequest, Model
    from attnviz.types import Finding, ModelSpec, View

CAPABILITIES = frozenset(
    {"attention", "hidden_states", "logits", "gradients", "interventions", "generation", "sensors"}
)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def _check_name(kind: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"{kind} name {name!r}: expected lower-case letters, digits and _ (it becomes an option).")


def _check_texts(owner: str, **texts: object) -> None:
    for name, value in texts.items():
        if not isinstance(value, str):
            raise PluginError(f"{owner}: {name} must be text, got {type(value).__name__}.")


def _is_result(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Result)


def _check_callable(owner: str, value: object) -> None:
    if not callable(value):
        raise PluginError(f"{owner}: expected a function, got {type(value).__name__}.")


@dataclass(frozen=True)
class Param:
    """One parameter of an analysis: the widget, the command-line option, the API field and the validation.

    type      int | float | bool | choice | text | layer | head | token
              layer, head and token follow the selection of the page; their bounds come from the run
    default   used when nothing is given; for layer, head and token None = the first (token: the last)
    minimum, maximum  inclusive bounds of int and float
    choices   allowed values of a choice; further words allowed for a layer or head (such as "mean"); words that are
              offered for a text, which may be any other
    """

    TYPES: ClassVar[tuple[str, ...]] = ("int", "float", "bool", "choice", "text", "layer", "head", "token")
    name: str
    type: str
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        _check_name("Param", self.name)
        if self.type not in self.TYPES:
            raise PluginError(f"Param {self.name}: type {self.type!r} is not one of {', '.join(self.TYPES)}.")
        if self.type == "choice" and self.default not in self.choices:
            raise PluginError(f"Param {self.name}: default {self.default!r} is not one of its choices {self.choices}.")
        if not self.linked and self.default is not None:
            self.parse(self.default)

    @property
    def linked(self) -> bool:
        """True for layer, head and token, which follow the selection of the page."""
        return self.type in ("layer", "head", "token")

    @property
    def title(self) -> str:
        return self.label or self.name.replace("_", " ").capitalize()

    def parse(self, value: Any) -> Any:
        """The value as this parameter's type; text (from a command line or URL) is converted.

        Raises:
            BadInput: not of the type, out of bounds, or not one of the choices.
        """
        if value is None:
            return self.default
        parse = {"bool": self._bool, "int": self._number, "float": self._number, "choice": self._choice}
        if self.type in parse:
            return parse[self.type](value)
        if self.type == "text":
            if isinstance(value, str):
                return value
            raise self._refuse("text", value)
        if isinstance(value, str) and value in self.choices:
            return value
        return self._index(value)

    def _refuse(self, expected: str, value: Any) -> BadInput:
        return BadInput(f"Parameter {self.name}: expected {expected}, got {value!r}.")

    def _bool(self, value: Any) -> bool:
        words = {
            "true": True,
            "yes": True,
            "1": True,
            "on": True,
            "false": False,
            "no": False,
            "0": False,
            "off": False,
        }
        found = words.get(str(value).lower())
        if found is None:
            raise self._refuse("true or false", value)
        return found

    def _choice(self, value: Any) -> str:
        if value not in self.choices:
            raise UnknownName(f"value of parameter {self.name}", value, self.choices)
        return str(value)

    def _number(self, value: Any) -> int | float:
        kind = "a whole number" if self.type == "int" else "a number"
        low = "" if self.minimum is None else f" from {self.minimum}"
        high = "" if self.maximum is None else f" to {self.maximum}"
        expected = f"{kind}{low}{high}"
        if isinstance(value, bool):
            raise self._refuse(expected, value)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise self._refuse(expected, value) from None
        if not math.isfinite(number) or (self.type == "int" and not number.is_integer()):
            raise self._refuse(expected, value)
        below = self.minimum is not None and number < self.minimum
        if below or (self.maximum is not None and number > self.maximum):
            raise self._refuse(expected, value)
        return int(number) if self.type == "int" else number

    def _index(self, value: Any) -> int:
        words = "".join(f" or {c!r}" for c in self.choices)
        expected = f"a {self.type} index from 0{words}"
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise self._refuse(expected, value)
        try:
            index = int(value)
        except (TypeError, ValueError):
            raise self._refuse(expected, value) from None
        if index < 0:
            raise self._refuse(expected, value)
        return index


@dataclass(frozen=True)
class Analysis:
    """One technique: a tab entry, its controls, a command and an API endpoint.

    group     the tab it appears in; a new name makes a new tab
    requires  capabilities the model must have
    want      what the captured attention must hold beside the usual, e.g. Want(top_k=8); see Want
    produces  the Result type it returns; decides which renderers show it
    run       AnalysisRequest -> Result
    gpu       True if `run` itself uses the device (it then runs inside the one device call)
    version   part of the cache key; raise it when results change
    """

    name: str
    title: str
    group: str
    summary: str
    run: Callable[[AnalysisRequest], Result]
    produces: type[Result]
    requires: frozenset[str] = frozenset({"attention"})
    params: tuple[Param, ...] = ()
    gpu: bool = False
    version: str = "1"
    want: Want = field(default_factory=Want)

    def __post_init__(self) -> None:
        _check_name("Analysis", self.name)
        _check_texts(f"Analysis {self.name}", title=self.title, group=self.group, summary=self.summary)
        _check_callable(f"Analysis {self.name}: run", self.run)
        if not _is_result(self.produces):
            raise PluginError(f"Analysis {self.name}: produces must be a Result type, got {self.produces!r:.80}.")
        if isinstance(self.requires, str):
            raise PluginError(f"Analysis {self.name}: requires must be a set of names, got {self.requires!r}.")
        for capability in self.requires:
            if capability not in CAPABILITIES:
                raise PluginError(str(UnknownName(f"capability of analysis {self.name}", capability, CAPABILITIES)))
        object.__setattr__(self, "requires", frozenset(self.requires))
        _check_params(f"Analysis {self.name}", self.params)

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter with its value: given, else default.

        Raises:
            UnknownName: a parameter this analysis does not have.
            BadInput: a value of the wrong type or out of bounds.
        """
        return _resolve(self.name, self.params, given)


def _check_params(owner: str, params: tuple[Param, ...]) -> None:
    names = [p.name for p in params]
    if len(set(names)) != len(names):
        raise PluginError(f"{owner}: a parameter name appears twice in {names}.")


def _resolve(owner: str, params: tuple[Param, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    known = {p.name: p for p in params}
    for name in given:
        if name not in known:
            raise UnknownName(f"parameter of {owner}", name, known)
    return {name: param.parse(given.get(name)) for name, param in known.items()}


@dataclass(frozen=True)
class Renderer:
    """Draws one Result type. The app offers every renderer whose `accepts` fits the result.

    accepts   Result types it draws
    produces  the kind of View it makes (see View)
    suffixes  file endings it serves when saving, e.g. (".svg",); () = screen only
    render    Finding -> View; pure: same input, same output
    script    for kind "script": JavaScript, the body of a function (root, data, host); see docs in plugins/README.md
    style     CSS for the script view
    detail    Finding -> dict; what a script view gets when it asks the host for the same analysis with other
              parameters; None = the view never asks
    part      (Finding, what) -> dict; what a script view gets when it asks the host for a part of what it shows, such
              as the exact numbers of a window. `what` comes from the page: refuse with BadInput what is wrong in it
    order     position in the view switch, lowest first
    """

    name: str
    title: str
    accepts: tuple[type[Result], ...]
    produces: str
    render: Callable[[Finding], View]
    suffixes: tuple[str, ...] = ()
    script: str = ""
    style: str = ""
    detail: Callable[[Finding], dict[str, Any]] | None = None
    part: Callable[[Finding, Mapping[str, Any]], dict[str, Any]] | None = None
    order: int = 50

    def __post_init__(self) -> None:
        from attnviz.types import View

        _check_name("Renderer", self.name)
        _check_texts(f"Renderer {self.name}", title=self.title, script=self.script, style=self.style)
        if not isinstance(self.accepts, tuple) or not all(map(_is_result, self.accepts)):
            raise PluginError(
                f"Renderer {self.name}: accepts must be a tuple of Result types, got {self.accepts!r:.80}."
            )
        _check_callable(f"Renderer {self.name}: render", self.render)
        if self.produces not in View.KINDS:
            raise PluginError(f"Renderer {self.name}: produces {self.produces!r}, not one of {', '.join(View.KINDS)}.")
        if (self.produces == "script") != bool(self.script):
            raise PluginError(f"Renderer {self.name}: a script view, and only a script view, has a script.")
        if any(not s.startswith(".") for s in self.suffixes):
            raise PluginError(f"Renderer {self.name}: suffixes start with a dot, got {self.suffixes}.")


@dataclass(frozen=True)
class Backend:
    """Loads models. `handles` says None if it can load a spec, else the reason why not; `load` does it.

    weights_digest  spec -> the digest its model card will have, found without loading; None = cannot tell
    rank            lowest first when the user leaves the choice to attnviz
    """

    name: str
    summary: str
    handles: Callable[[ModelSpec], str | None]
    load: Callable[[ModelSpec], Model]
    weights_digest: Callable[[ModelSpec], str | None] | None = None
    rank: int = 50

    def __post_init__(self) -> None:
        _check_name("Backend", self.name)
        _check_callable(f"Backend {self.name}: handles", self.handles)
        _check_callable(f"Backend {self.name}: load", self.load)


@dataclass(frozen=True)
class Format:
    """Reads and writes one file format.

    content  what it carries: "conversation", or the kind of a result, such as "attribution" (the content is then a
             Finding of that kind, which can be saved under its suffixes)
    read     path, **params -> the content;  write  content, path -> None; either may be None
    handles  path -> None if the file looks like one of this format, else what of it is missing; None = never asked, so
             the format has to be named
    params   what there is to choose when reading; int, float, bool, choice or text
    """

    name: str
    summary: str
    content: str
    suffixes: tuple[str, ...]
    read: Callable[..., Any] | None = None
    write: Callable[[Any, Any], None] | None = None
    handles: Callable[[Any], str | None] | None = None
    params: tuple[Param, ...] = ()

    def __post_init__(self) -> None:
        _check_name("Format", self.name)
        if self.read is None and self.write is None:
            raise PluginError(f"Format {self.name}: expected read or write, got neither.")
        _check_params(f"Format {self.name}", self.params)
        if linked := [p.name for p in self.params if p.linked]:
            raise PluginError(f"Format {self.name}: a file has no selection to follow; {', '.join(linked)} would.")

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter of reading with its value: given, else default.

        Raises:
            UnknownName: a parameter this format does not have.
            BadInput: a value of the wrong type or out of bounds.
        """
        return _resolve(self.name, self.params, given)


@dataclass(frozen=True)
class Tool:
    """A tool a model may call. `parameters` is a JSON schema (type object); run(**arguments) returns text.

    `run` raises an AttnvizError for arguments it cannot use; the text becomes the observation.

    local_only  not offered on a public server, such as a Space, unless whoever runs it allows it by name
    """

    name: str
    summary: str
    parameters: Mapping[str, Any]
    run: Callable[..., str]
    local_only: bool = False

    def __post_init__(self) -> None:
        _check_name("Tool", self.name)
        _check_callable(f"Tool {self.name}: run", self.run)
        if self.parameters.get("type") != "object":
            raise PluginError(f'Tool {self.name}: parameters must be a JSON schema of type "object".')


@dataclass(frozen=True)
class ModelEntry:
    """One line of the model menu.

    source     folder, hub id, or anything a backend loads
    size       what is downloaded or read, in words, e.g. "2.7 MB, embedded"
    examples   (category, prompt) pairs that the model answers well; the first is the app's first prompt
    first_run  file with a saved run of the first example, shown while the model loads; "" = none
    agent      of a model trained to write Thought, Action and Observation as text: the system prompt it was trained
               with, {tools} where the names of the tools stand; "" = it is asked through its chat template
    tools      names of the tools it was trained with; () = any
    data       (title, file) pairs for a model that reads numbers, as `trace(array=…)` and --array take them
    """

    name: str
    title: str
    source: str
    size: str
    licence: str
    note: str = ""
    backend: str = "auto"
    default: bool = False
    examples: tuple[tuple[str, str], ...] = field(default=())
    first_run: str = ""
    agent: str = ""
    tools: tuple[str, ...] = ()
    data: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", self.name):
            raise PluginError(f"ModelEntry name {self.name!r}: expected letters, digits and . _ / -.")
        texts = {
            name: getattr(self, name) for name in ("title", "source", "size", "licence", "note", "first_run", "agent")
        }
        _check_texts(f"ModelEntry {self.name}", **texts)
        if self.agent and self.agent.count("{tools}") != 1:
            raise PluginError(f"ModelEntry {self.name}: agent names its tools once, as {{tools}}: {self.agent!r:.80}.")
        for kind, what, pairs in (
            ("examples", "(category, prompt)", self.examples),
            ("data", "(title, file)", self.data),
        ):
            for pair in pairs:
                if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
                    raise PluginError(f"ModelEntry {self.name}: {kind} are {what} pairs, got {pair!r:.80}.")
