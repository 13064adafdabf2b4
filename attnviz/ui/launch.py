"""Start the app: address and port, what gradio must not do, and a model that is ready when the page asks for it."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

from attnviz.errors import BadInput
from attnviz.session import Session
from attnviz.ui.first_run import make_ready
from attnviz.ui.wish import Finished

PORT = 7860


def launch_app(session: Session, *, host: str | None = None, port: int | None = None, quiet: bool = False) -> None:
    """Serve until interrupted.

    Args:
        host: address to listen on; None = 127.0.0.1, and every address on a Space.
        port: None = $GRADIO_SERVER_PORT, else 7860.

    Raises:
        BadInput: the address cannot be listened on.
    """
    host, port = host or default_host(), default_port() if port is None else port
    check_free(host, port)
    prepare()
    from attnviz.ui.build import build_app

    finished = Finished(session)
    app = build_app(session, finished)
    # Not before gradio is imported: two threads that import at once only wait for one another.
    threading.Thread(target=make_ready, args=(finished,), daemon=True).start()
    app.launch(server_name=host, server_port=port, quiet=quiet, **launch_options(session))


def prepare() -> None:
    """Settings that gradio reads when it is imported: no calls home."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def default_host() -> str:
    """This machine only, unless this is a Space."""
    return "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"


def default_port() -> int:
    """The port of the environment, else 7860. Raises BadInput if it is no port."""
    text = os.environ.get("GRADIO_SERVER_PORT", str(PORT))
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise BadInput(f"GRADIO_SERVER_PORT: expected a port from 1 to 65535, got {text!r}.")
    return int(text)


def check_free(host: str, port: int) -> None:
    """Raises BadInput if the port is in use or may not be used."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BadInput(f"Cannot listen on {host}:{port}: {reason}. Choose another port with --port.") from None


def launch_options(session: Session) -> dict[str, Any]:
    """Options of `Blocks.launch` that hold everywhere."""
    from attnviz.ui.build import head
    from attnviz.ui.components.part import HERE
    from attnviz.ui.routes import api_routes
    from attnviz.ui.theme import theme

    return {
        "theme": theme(),
        "head": head(session.registry),
        "app_kwargs": {"routes": api_routes(session)},
        "css_paths": [HERE / name for name in ("page.css", "beside.css", "runs.css", "steps.css")],
        "ssr_mode": False,
        "run_history": False,
        "enable_monitoring": False,
        "footer_links": ["api"],
        "show_error": False,
        "pwa": False,
        "mcp_server": False,
        "share": False,
        "inbrowser": False,
        "_frontend": False,  # gradio would ask itself for the page and give up after 3 s, on a busy machine too early
    }
