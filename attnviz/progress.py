"""How far long work is: passed on to whoever asked for it, who stops the work by raising; and put into words."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[float, str], None]
"""Hears which share of the work (0..1) is done, and what it is at. What it raises ends the work."""
SOON = 1.0
"""Seconds left that are not worth a word."""
PAUSE = 0.1
"""Seconds between two lines on a terminal."""


def quiet(share: float, what: str) -> None:
    """Progress that goes nowhere."""


class Steps:
    """Passes on what an analysis says about itself; the share that is heard never goes back.

    stopped   what the asker raised; raised again at every further word, whatever became of it in the analysis
    """

    def __init__(self, tell: Progress) -> None:
        self.stopped: BaseException | None = None
        self._tell, self._share = tell, 0.0

    def __call__(self, share: float, what: str) -> None:
        if self.stopped is not None:
            raise self.stopped
        self._share = max(self._share, min(1.0, share))
        try:
            self._tell(self._share, what)
        except BaseException as error:
            self.stopped = error
            raise

    def inside(self, title: str) -> Progress:
        """For an analysis that this one asks: its words under its title, while the share stays where it is."""
        return lambda share, what: self(self._share, f"{title}: {what}")


class Pace:
    """How long work will still take, if it goes on as it did since it was last at its beginning."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began, self._end = clock, clock(), float("nan")

    def said(self, share: float) -> None:
        """Such a share of the work is done now."""
        now = self._clock()
        if share <= 0:
            self._began, self._end = now, float("nan")
        else:
            self._end = self._began + (now - self._began) / min(1.0, share)

    def put(self, what: str) -> str:
        """`what`, and how long it will still take where that is known and worth a word."""
        left = self._end - self._clock()
        if not left >= SOON:
            return what
        return f"{what}, about {left:.0f} s left" if left < 90 else f"{what}, about {left / 60:.0f} min left"


class Line:
    """A line on a terminal that is written over and goes away when the work ends; nothing on any other stream."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock, self._pace = stream, clock, Pace(clock)
        self._shown, self._last = stream.isatty(), float("-inf")

    def __enter__(self) -> Line:
        return self

    def __call__(self, share: float, what: str) -> None:
        self._pace.said(share)
        now = self._clock()
        if not self._shown or (share > 0 and now - self._last < PAUSE):
            return
        self._last = now
        text = "".join(c if c.isprintable() else " " for c in f"attnviz: {self._pace.put(what)}")
        self._stream.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        self._stream.flush()

    def __exit__(self, *error: object) -> None:
        if self._shown and self._last > float("-inf"):
            self._stream.write("\r\x1b[K")
            self._stream.flush()
