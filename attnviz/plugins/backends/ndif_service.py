"""Jobs on NDIF: sent, waited for, and every way they can fail in one line. The key is never shown.

A job is sent with one request and asked after with others (nnsight's non-blocking way), so that a wait can be given up.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from attnviz.hooks import ModelError
from attnviz.plugins.backends.nnsight_model import import_nnsight

_LONGEST = 3600.0  # seconds a job is waited for
_FIRST, _SLOWEST = 0.5, 3.0  # seconds between two questions
_LOST = 5  # questions in a row that may go unanswered
_ASK = "Set NDIF_API_KEY, or run `nnsight login`"


class Cancelled(Exception):
    """The caller gave up; the job goes on at NDIF, which offers no way to stop one."""


def find_key() -> str:
    """The key, from NDIF_API_KEY or from what `nnsight login` stored.

    Raises:
        ModelError: there is none.
    """
    import_nnsight()
    from nnsight.schema.config import CONFIG

    key = os.environ.get("NDIF_API_KEY") or CONFIG.API.APIKEY
    if not key:
        raise ModelError(f"NDIF needs a key, and there is none. {_ASK}; keys are given out at https://login.ndif.us.")
    return str(key)


@dataclass(frozen=True)
class Service:
    """NDIF for one model. `lock`: one job of a model is put together at a time; waiting needs no lock."""

    envoy: Any
    key: str = field(repr=False)
    lock: Any = field(default_factory=threading.RLock, repr=False)

    def job(self, attention: str) -> Any:
        """What an nnsight trace is handed to, and asked for its result afterwards.

        attention   "eager" gives maps; "sdpa" is what a model computes with otherwise
        """
        env = {**self.envoy._remoteable_get_env(), "attn_implementation": attention}
        with self._said("The Hugging Face hub does not tell what this model is called"):
            key = self.envoy.to_model_key()
        return _job_class()(key, api_key=self.key, env=env, blocking=False)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the trace.

        Raises:
            ModelError: the job could not be sent.
        """
        with self.lock, self._said("NDIF did not take the job"):
            yield

    def result(self, job: Any, cancelled: Callable[[], bool] | None = None) -> Any:
        """What the trace bound to `found`.

        Raises:
            ModelError: the job failed, took too long, or NDIF cannot be reached.
            Cancelled: `cancelled()` said so.
        """
        found = self._wait(job, cancelled or (lambda: False))
        if not isinstance(found, dict) or "found" not in found:
            raise ModelError(f"NDIF finished job {job.job_id} and returned nothing that was asked for.")
        return found["found"]

    def _wait(self, job: Any, cancelled: Callable[[], bool]) -> Any:
        pause, lost, until = _FIRST, 0, time.monotonic() + _LONGEST
        while True:
            if cancelled():
                raise Cancelled
            try:
                with self._said(f"Job {job.job_id} failed at NDIF"):
                    found = job.poll()
                lost = 0
            except _NoAnswer:
                lost, found = lost + 1, None
                if lost == _LOST:
                    raise
            if found is not None:
                return found
            if time.monotonic() > until:
                status = getattr(job.status, "value", "no status")
                raise ModelError(f"Job {job.job_id} was not finished by NDIF within {_LONGEST:.0f} s ({status}).")
            _sleep(pause, cancelled)
            pause = min(pause * 1.3, _SLOWEST)

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        """Errors of the service and of the way to it, in one line."""
        import httpx
        from huggingface_hub.errors import HfHubHTTPError
        from nnsight.intervention.backends.remote import RemoteError

        try:
            yield
        except (RemoteError, httpx.HTTPStatusError, HfHubHTTPError) as error:
            response = getattr(error, "response", None)
            kind = _NoAnswer if getattr(response, "status_code", 0) >= 500 else ModelError
            raise kind(f"{what}: {self._line(error)}") from None
        except (httpx.HTTPError, OSError) as error:
            raise _NoAnswer(f"{what}: there is no answer ({self._line(error)}). Check the connection.") from None
        except ValueError as error:  # an answer that is not JSON, or not of the form agreed on
            raise ModelError(f"{what}: the answer cannot be read ({self._line(error)}).") from None

    def _line(self, error: BaseException) -> str:
        """The last line of a message, which is what a traceback ends in; without the key."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        text = lines[-1] if lines[0].startswith("Traceback") else " ".join(lines)
        text = re.sub(r"\s+", " ", text.replace(self.key, "…"))
        return text if len(text) <= 300 else text[:297] + "…"


class _NoAnswer(ModelError):
    """Nobody answered; asking again may help."""


def _sleep(seconds: float, cancelled: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not cancelled() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def _job_class() -> Any:
    """nnsight's client, quiet, and reading results as data: it would run whatever code a result carries."""
    from nnsight.intervention.backends.remote import RemoteBackend

    class Job(RemoteBackend):  # type: ignore[misc]  # nnsight is not typed
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.verbose = self.display.enabled = False  # it writes to standard output, where results go

        def finalize(self, content: bytes) -> Any:
            import torch
            import zstandard

            try:
                if self.compress:
                    content = zstandard.ZstdDecompressor().decompress(content)
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except (zstandard.ZstdError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ModelError(f"Job {self.job_id} of NDIF: what came back cannot be read: {reason}") from error

    return Job
