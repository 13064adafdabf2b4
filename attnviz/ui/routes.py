"""Plain HTTP beside the page: JSON in, JSON out, and a failure is a status, never a 200.

    GET  /api/health                       GET  /api/models      GET /api/plugins      GET /api/runs?search=&limit=
    GET  /api/model_info?model=&tokens=    GET  /api/token/{position}/context?run=&context_size=
    POST /api/chat                         POST /api/analyze/{analysis}

Nothing is shared between those who ask: a conversation is in the request, and a run is reached by its unguessable id.
The same routes are served under /gradio_api/attnviz, which also passes through the Node server that gradio can put in
front of the app.

Status: 400 bad input, 403 not given by a public server, 404 unknown name, run or token, 413 a body over 1 MiB, 415 no
JSON, 422 a field of the wrong kind, 429 too many at once, 500 a defect, 503 the model cannot be loaded or run.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from attnviz.errors import AttnvizError, ModelError, UnknownName
from attnviz.session import Session
from attnviz.ui import answers
from attnviz.ui.answers import Forbidden, UnknownRun, WrongField

log = logging.getLogger(__name__)

PREFIXES = ("/api", "/gradio_api/attnviz")
LARGEST_BODY = 1 << 20
AT_ONCE = 8
"""Requests that may work or wait for the model at the same time; one more is told to come back."""

Work = Callable[[Session, Mapping[str, Any]], dict[str, Any]]


class _TooLarge(Exception):
    """The body is longer than allowed."""


class _NoJson(Exception):
    """The body is not said to be JSON."""


def api_routes(session: Session) -> list[Mount]:
    """The routes over one session, under each of the prefixes."""
    seats = threading.BoundedSemaphore(AT_ONCE)

    def get(path: str, work: Work) -> Route:
        return Route(path, _Endpoint(session, work, seats, reads_body=False), methods=["GET"])

    def post(path: str, work: Work) -> Route:
        return Route(path, _Endpoint(session, work, seats, reads_body=True), methods=["POST"])

    def routes() -> list[Route]:
        return [
            get("/health", answers.health),
            get("/model_info", answers.model_info),
            get("/models", answers.models),
            get("/plugins", answers.plugins),
            get("/runs", answers.runs),
            get("/token/{position}/context", answers.token_context),
            post("/chat", answers.chat),
            post("/analyze/{analysis}", answers.analyze),
            Route("/{rest:path}", _unknown, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
        ]

    return [Mount(prefix, routes=routes()) for prefix in PREFIXES]


async def _unknown(request: Request) -> JSONResponse:
    known = "health, model_info, models, plugins, runs, token/{position}/context, chat, analyze/{analysis}"
    return _refused(404, f"No such path or method: {request.method} {request.url.path[:200]}. Known: {known}.")


@dataclass(frozen=True)
class _Endpoint:
    """One path: takes the request apart, lets `work` answer in a thread, and turns errors into statuses.

    `__call__` is an ASGI application, so that Starlette takes the methods of the route as they are.
    """

    session: Session
    work: Work
    seats: threading.BoundedSemaphore
    reads_body: bool

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> JSONResponse:
        try:
            given = dict(request.query_params) if not self.reads_body else await _body(request)
            given |= {name: str(value) for name, value in request.path_params.items()}
        except _TooLarge:
            return _refused(413, f"Body: expected at most {LARGEST_BODY >> 20} MiB of JSON.")
        except _NoJson:
            return _refused(415, "Body: expected JSON with the header Content-Type: application/json.")
        except WrongField as error:
            return _refused(422, str(error))
        except ClientDisconnect:
            return _refused(400, "The request ended before its body did.")
        return await run_in_threadpool(self._work, given)

    def _work(self, given: Mapping[str, Any]) -> JSONResponse:
        if not self.seats.acquire(blocking=False):
            return _refused(
                429, f"Busy: {AT_ONCE} requests are under way. Ask again in a moment.", {"Retry-After": "2"}
            )
        try:
            return JSONResponse(self.work(self.session, given))
        except Forbidden as error:
            return _refused(403, str(error))
        except (UnknownName, UnknownRun) as error:
            return _refused(404, str(error))
        except WrongField as error:
            return _refused(422, str(error))
        except ModelError as error:
            return _refused(503, str(error))
        except AttnvizError as error:
            return _refused(400, str(error))
        except Exception:
            log.exception("A request failed.")
            return _refused(500, "This is a defect of attnviz or of a plugin; the log of the app has the details.")
        finally:
            self.seats.release()


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of the body.

    Raises:
        WrongField: it is none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _NoJson  # also keeps pages of other sites from posting here without being asked first
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST_BODY:
            raise _TooLarge
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WrongField(f"Body: expected a JSON object, got {bytes(data[:40]).decode('utf-8', 'replace')!r}.")
    return found


def _refused(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    said = {"error": " ".join(text.split()), "status": status}
    return JSONResponse(said, status_code=status, headers=dict(headers or {}))
