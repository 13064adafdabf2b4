"""Long work in a thread, watched: the page hears how far it is, and Cancel reaches it."""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from attnviz.errors import AttnvizError
from attnviz.progress import Pace

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE = 0.25
"""Seconds before the first word about progress, and between two."""


class Cancelled(AttnvizError):
    """Ends an analysis whose asker went away."""


@dataclass
class Job:
    """What work says about itself while it runs.

    pause   seconds between two words about it
    live    what there is of an answer in the making, for the page
    left    what came of work that was cancelled, once it is `done`
    """

    share: float = 0.0
    what: str = "Working"
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    pause: float = PATIENCE
    live: Callable[[], dict[str, Any]] | None = None
    left: Any = None
    pace: Pace = field(default_factory=Pace)

    def report(self, share: float, what: str) -> None:
        """Called by the work: `share` of it (0..1) is done, and it is at `what`."""
        self.share, self.what = share, what

    def step(self, share: float, what: str) -> None:
        """As `report`, by an analysis, which cannot be asked to end in any other way.

        Raises:
            Cancelled: the user cancelled.
        """
        if self.cancelled.is_set():
            raise Cancelled("Cancelled.")
        self.pace.said(share)
        self.report(share, what)


@dataclass
class _Outcome(Generic[T]):
    value: T | None = None
    error: BaseException | None = None


def watched(work: Callable[[Job], T], job: Job | None = None) -> Generator[dict[str, Any], None, T]:
    """Run `work` in a thread; yields notices while it lasts, returns its value.

    When the generator is closed (the user cancelled), the work is told so and left to end by itself.

    Raises:
        Exception: whatever the work raised.
    """
    job, outcome = job or Job(), _Outcome[T]()

    def body() -> None:
        try:
            outcome.value = work(job)
        except BaseException as error:  # carried over to the asking thread
            outcome.error = error
        finally:
            if job.cancelled.is_set():
                job.left = outcome.value
            job.live = None
            job.done.set()

    context = contextvars.copy_context()  # the request of the user travels with the work
    threading.Thread(target=context.run, args=(body,), daemon=True).start()
    try:
        while not job.done.wait(job.pause):
            yield {"kind": "progress", "text": job.pace.put(job.what), "share": job.share}
    finally:
        job.cancelled.set()
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]


def noticed(notice: Any, work: Callable[[Job], T], job: Job | None = None) -> Generator[dict[Any, Any], None, T]:
    """As `watched`, with each notice as an update of the component that shows it."""
    steps = watched(work, job)
    while True:
        try:
            yield {notice: next(steps)}
        except StopIteration as end:
            found: T = end.value
            return found


def in_words(error: Exception) -> str:
    """An error for people. One that attnviz did not raise on purpose is a bug: its traceback goes to the log."""
    if isinstance(error, AttnvizError):
        return str(error)
    log.error("Unexpected error", exc_info=error)
    return f"Unexpected error: {type(error).__name__}: {error}. The details are in the server's log."


def error_notice(error: Exception) -> dict[str, Any]:
    """The notice of an error; a run that is gone offers to run again."""
    text = in_words(error)
    return {"kind": "error", "text": text, "share": 0.0, "again": "no longer in memory" in text}
