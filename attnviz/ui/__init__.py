"""The web app. The only part of attnviz that imports gradio, and only once the app is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnviz.session import Session

__all__ = ["serve"]


def serve(session: Session, *, host: str | None = None, port: int | None = None) -> None:
    """Serve the app over a session until interrupted.

    Raises:
        BadInput: the address cannot be listened on.
    """
    from attnviz.ui.launch import launch_app

    launch_app(session, host=host, port=port)
