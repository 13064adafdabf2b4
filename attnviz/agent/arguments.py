"""Arguments of a tool against its JSON schema (draft 2020-12, the part that describes arguments).

Checked are type, enum, const, properties, required, additionalProperties, items, and bounds of numbers, lengths and
counts. A schema that asks for more is refused with its tool: what is not checked is not promised.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnviz.errors import BadInput, PluginError
from attnviz.hooks import Tool

_WORDS = {"title", "description", "default", "examples", "deprecated", "$schema", "$comment", "$id"}
_CHECKED = {
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
}  # fmt: skip
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
    "integer": lambda value: _TYPES["number"](value) and float(value).is_integer(),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
    "null": lambda value: value is None,
}
# What the bound is of, how it is kept, and its words.
_BOUNDS: Mapping[str, tuple[type | tuple[type, ...], Callable[[Any, Any], bool], str]] = {
    "minimum": ((int, float), lambda value, bound: value >= bound, "at least {}"),
    "maximum": ((int, float), lambda value, bound: value <= bound, "at most {}"),
    "exclusiveMinimum": ((int, float), lambda value, bound: value > bound, "more than {}"),
    "exclusiveMaximum": ((int, float), lambda value, bound: value < bound, "less than {}"),
    "minLength": (str, lambda value, bound: len(value) >= bound, "at least {} characters"),
    "maxLength": (str, lambda value, bound: len(value) <= bound, "at most {} characters"),
    "minItems": (list, lambda value, bound: len(value) >= bound, "at least {} items"),
    "maxItems": (list, lambda value, bound: len(value) <= bound, "at most {} items"),
}


def check_schema(tool: Tool) -> None:
    """Refuse a tool whose schema asks for what is not checked here.

    Raises:
        PluginError: the keyword, and those that may be used.
    """
    _check_schema(tool.name, tool.parameters)


def _check_schema(owner: str, schema: Any) -> None:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise PluginError(f"Tool {owner}: a schema must be an object, got {schema!r:.60}.")
    for name in schema:
        if name not in _WORDS | _CHECKED:
            known = ", ".join(sorted(_CHECKED))
            raise PluginError(f"Tool {owner}: {name!r} in its schema would not be checked. Known: {known}.")
    for type_name in _listed(schema.get("type", ())):
        if type_name not in _TYPES:
            raise PluginError(f"Tool {owner}: unknown type {type_name!r} in its schema. Known: {', '.join(_TYPES)}.")
    inner = [*schema.get("properties", {}).values(), schema.get("items", True)]
    for part in [*inner, schema.get("additionalProperties", True)]:
        _check_schema(owner, part)


def checked_arguments(tool: Tool, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, once they fit the schema of the tool.

    Raises:
        BadInput: what does not fit, in one line: what was expected, what came.
    """
    _check("", given, tool.parameters)
    return dict(given)


def _check(place: str, value: Any, schema: Any) -> None:
    if isinstance(schema, bool):
        if not schema:
            raise BadInput(f"{place}: expected nothing, got {_shown(value)}.")
        return
    name = place or "arguments"
    types = _listed(schema.get("type", ()))
    if types and not any(_TYPES[one](value) for one in types):
        raise BadInput(f"{name}: expected {' or '.join(types)}, got {_shown(value)}.")
    choices = list(schema.get("enum", ())) + ([schema["const"]] if "const" in schema else [])
    if choices and not any(_same(value, choice) for choice in choices):
        raise BadInput(f"{name}: expected one of {', '.join(map(_shown, choices))}, got {_shown(value)}.")
    for keyword, (kind, keeps, words) in _BOUNDS.items():
        measured = isinstance(value, kind) and not isinstance(value, bool)
        if keyword in schema and measured and not keeps(value, schema[keyword]):
            raise BadInput(f"{name}: expected {words.format(schema[keyword])}, got {_shown(value)}.")
    if isinstance(value, Mapping):
        _check_object(place, value, schema)
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            _check(f"{name}[{number}]", item, schema["items"])


def _check_object(place: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    properties = schema.get("properties", {})
    dot = f"{place}." if place else ""
    for name in schema.get("required", ()):
        if name not in value:
            raise BadInput(f"{dot}{name}: expected an argument of this name, got {_names(value)}.")
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if name not in properties and others is False:
            raise BadInput(f"{dot}{name}: there is no such argument. Expected {_names(properties)}.")
        _check(f"{dot}{name}", item, properties.get(name, others))


def text_argument(tool: Tool, text: str) -> dict[str, Any]:
    """Arguments from the one text of a call such as `convert[12 km to miles]`.

    A JSON object gives the arguments by name. Otherwise the text is the argument of a tool that takes one.

    Raises:
        BadInput: a text for a tool that takes several arguments.
    """
    properties = tool.parameters.get("properties", {})
    required = list(tool.parameters.get("required", ()))
    names = required if len(required) == 1 else list(properties)
    if text.strip().startswith("{") and not (len(names) == 1 and _is_text(properties[names[0]])):
        try:
            given = json.loads(text)
        except ValueError as error:
            raise BadInput(
                f"{tool.name}: expected its arguments as a JSON object, got {text!r:.60}: {error}."
            ) from None
        if isinstance(given, dict):
            return given
    if not names and not text.strip():
        return {}
    if len(names) != 1:
        raise BadInput(f'{tool.name}: expected {_names(properties)} as a JSON object, such as {{"{"name"}": …}}.')
    return {names[0]: text if _is_text(properties.get(names[0], {})) else _value(text)}


def _is_text(schema: Any) -> bool:
    return not isinstance(schema, Mapping) or "string" in _listed(schema.get("type", "string"))


def _value(text: str) -> Any:
    """A number, list or the like written as JSON; what is none stays text, and is refused as such."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _listed(types: Any) -> Sequence[str]:
    return (types,) if isinstance(types, str) else tuple(types)


def _same(a: Any, b: Any) -> bool:
    """Equality of JSON: 1 is 1.0 and not true."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:59] + "…"


def _names(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
