"""What a tool promises: a schema that fits its function, text for every call it takes, words for every other."""

from __future__ import annotations

import inspect
from typing import Any

from attnviz.hooks import AttnvizError, Tool
from attnviz.testing.require import require
from attnviz.testing.samples import HOSTILE

_JUNK = ("", " ", "\0", "(" * 2000, "9" * 2000, "9**9**9**9", "__import__('os').system('true')", *HOSTILE)


def check_tool(tool: Tool, **arguments: Any) -> str:
    """Call a tool with arguments it takes, then with junk; returns the text of the good call."""
    title = f"Tool {tool.name}"
    properties = dict(tool.parameters.get("properties", {}))
    required = set(tool.parameters.get("required", ()))
    takes = inspect.signature(tool.run).parameters
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    require(
        anything or set(properties) == set(takes),
        f"{title}: its schema names {sorted(properties)}, its function takes {sorted(takes)}.",
    )
    require(required <= set(properties), f"{title}: it requires {sorted(required - set(properties))}, which it lacks.")
    answer = tool.run(**arguments)
    require(isinstance(answer, str), f"{title}: expected text, got {type(answer).__name__}.")
    for name, schema in properties.items():
        for junk in _JUNK if schema.get("type") == "string" else ():
            _call(tool, {**arguments, name: junk})
    return answer


def _call(tool: Tool, arguments: dict[str, Any]) -> None:
    """Junk gives text or an AttnvizError, nothing else."""
    try:
        answer = tool.run(**arguments)
    except AttnvizError as error:
        require(bool(str(error)), f"Tool {tool.name}: it refused {arguments!r:.80} without a word.")
        return
    except Exception as error:
        raise AssertionError(
            f"Tool {tool.name}: {arguments!r:.80} raised {type(error).__name__}, expected text or an AttnvizError."
        ) from error
    require(isinstance(answer, str), f"Tool {tool.name}: expected text, got {type(answer).__name__}.")
