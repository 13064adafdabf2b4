"""The hooks a plugin may implement. Each returns a list of descriptors and does no other work."""

from __future__ import annotations

from attnviz.hooks.descriptors import Analysis, Backend, Format, ModelEntry, Renderer, Tool
from attnviz.hooks.markers import hookspec


@hookspec
def attnviz_backends() -> list[Backend]:
    """Ways to load and run a model."""
    raise NotImplementedError


@hookspec
def attnviz_analyses() -> list[Analysis]:
    """Techniques: each gets a tab entry, controls, exports, a command and an API endpoint."""
    raise NotImplementedError


@hookspec
def attnviz_renderers() -> list[Renderer]:
    """Pictures and files of results."""
    raise NotImplementedError


@hookspec
def attnviz_formats() -> list[Format]:
    """Readers and writers of files."""
    raise NotImplementedError


@hookspec
def attnviz_tools() -> list[Tool]:
    """Tools a model may call while it answers."""
    raise NotImplementedError


@hookspec
def attnviz_models() -> list[ModelEntry]:
    """Entries of the model menu."""
    raise NotImplementedError
