"""One line on standard error that says how far a benchmark is."""

from __future__ import annotations

import sys
import time
from typing import TextIO

WIDTH = 24
EVERY = 10.0
"""Seconds between two lines where standard error is a file."""


def bar(done: int, total: int) -> str:
    """[#####-----] of a share."""
    full = WIDTH * done // total if total else WIDTH
    return f"[{'#' * full}{'-' * (WIDTH - full)}]"


def line(done: int, total: int, failed: int, seconds: float, doing: str) -> str:
    """How far it is, how long it took, and what is being done."""
    minutes, rest = divmod(int(seconds), 60)
    failures = f", {failed} failed" if failed else ""
    return f"{bar(done, total)} {done}/{total}{failures}, {minutes}:{rest:02d}  {doing}"


class Progress:
    """Rewrites its line on a terminal; elsewhere writes one now and then. `total`: cells this process has to do."""

    def __init__(self, total: int, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._started = self._said = time.monotonic()
        self._length = 0

    def say(self, doing: str) -> None:
        """What is being done now."""
        if self._quiet:
            return
        now = time.monotonic()
        text = line(self.done, self.total, self.failed, now - self._started, printable(doing))
        if self._stream.isatty():
            text = text[:118]
            self._stream.write("\r" + text.ljust(self._length))
            self._length = len(text)
        elif now - self._said >= EVERY:
            self._stream.write(text + "\n")
            self._said = now
        self._stream.flush()

    def count(self, success: bool) -> None:
        """One more cell is done."""
        self.done += 1
        self.failed += not success

    def end(self) -> None:
        """The line gives way to what follows."""
        if not self._quiet and self._stream.isatty() and self._length:
            self._stream.write("\r" + " " * self._length + "\r")
            self._stream.flush()
        self._length = 0


def printable(text: str) -> str:
    """Nothing in it that moves a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)
