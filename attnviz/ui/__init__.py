"""The web app. The only part of attnviz that imports gradio, and only once the app is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnviz.registry import Registry

__all__ = ["serve"]


def serve(registry: Registry, *, host: str | None = None, port: int | None = None) -> None:
    """Serve the app over the plugins of `registry` until interrupted.

    Raises:
        BadInput: the address cannot be listened on.
    """
    from attnviz.session import Session
    from attnviz.ui.launch import launch_app

    launch_app(Session(registry), host=host, port=port)
