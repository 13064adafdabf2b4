"""Which tools an agent is given."""

from __future__ import annotations

import os
from collections.abc import Sequence

from attnviz.agent.arguments import check_schema
from attnviz.errors import BadInput, Unavailable, UnknownName
from attnviz.hooks import ModelEntry, Tool
from attnviz.registry import Registry

ALLOWED = "ATTNVIZ_PUBLIC_TOOLS"
"""Environment variable: names of tools that are offered on a public server although they are for local use."""


def is_public() -> bool:
    """Whether strangers use this server: it runs as a Space."""
    return bool(os.environ.get("SPACE_ID"))


def withheld(tool: Tool) -> str | None:
    """Why a tool is not offered here; None if it is."""
    allowed = {name.strip() for name in os.environ.get(ALLOWED, "").split(",")}
    if tool.local_only and is_public() and tool.name not in allowed:
        return f"The tool {tool.name} is not offered on a public server. Whoever runs it can set {ALLOWED}={tool.name}."
    return None


def chosen_tools(registry: Registry, asked: Sequence[str | Tool] | None, entry: ModelEntry | None) -> tuple[Tool, ...]:
    """The tools of an agent; see run_agent.

    Raises:
        UnknownName: there is no such tool.
        BadInput: no list of tools, or one twice.
        Unavailable: a tool that was asked for is not offered here.
        PluginError: a schema that asks for what is not checked.
    """
    if asked is None:
        names = entry.tools if entry is not None and entry.tools else tuple(registry.tools)
        tools = [registry.tools[name] for name in names if name in registry.tools]
        tools = [tool for tool in tools if withheld(tool) is None]
    else:
        if isinstance(asked, str) or not isinstance(asked, Sequence):
            raise BadInput(f'Tools: expected a list such as ["calculator"], got {asked!r:.60}.')
        tools = [tool if isinstance(tool, Tool) else _named(registry, tool) for tool in asked]
        for tool in tools:
            if reason := withheld(tool):
                raise Unavailable(reason)
    twice = sorted({tool.name for tool in tools if sum(t.name == tool.name for t in tools) > 1})
    if twice:
        raise BadInput(f"Tools: {', '.join(twice)} given more than once. Give each once.")
    if not tools:
        raise BadInput(f"Tools: expected at least one, got none. Known: {', '.join(sorted(registry.tools)) or 'none'}.")
    for tool in tools:
        check_schema(tool)
    return tuple(tools)


def _named(registry: Registry, name: object) -> Tool:
    if not isinstance(name, str) or name not in registry.tools:
        raise UnknownName("tool", name, registry.tools)
    return registry.tools[name]
