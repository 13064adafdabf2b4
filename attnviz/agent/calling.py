"""Calling a tool that may raise, hang, or return anything: what comes back is a short text, and is said to be an error
where it is one."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attnviz.agent.arguments import checked_arguments
from attnviz.errors import AttnvizError
from attnviz.hooks import Tool

LONGEST = 2000
"""Characters of an observation that the model gets to read."""
PATIENCE = 20.0
"""Seconds a tool may take."""
POLL = 0.05
"""Seconds between two looks at whether the asker has given up."""


@dataclass(frozen=True)
class Observation:
    """What a tool gave, as it is told to the model.

    words    the beginning of it, or all; characters that cannot be shown as escapes
    whole    characters that there were
    failed   it is an error
    changes  what was changed beside a cut, in words
    """

    words: str
    whole: int
    failed: bool = False
    seconds: float = 0.0
    changes: tuple[str, ...] = ()

    @property
    def cut(self) -> str:
        """What was left out, in words; "" = nothing."""
        return f"cut to {len(self.words)} of {self.whole} characters" if len(self.words) < self.whole else ""

    @property
    def text(self) -> str:
        """What the model reads. A cut is said in it, and so is that it is an error."""
        said = f"{self.words} … ({self.cut})" if self.cut else self.words
        return f"error: {said}" if self.failed else said

    @property
    def note(self) -> str:
        """What was changed on the way; see AgentStep."""
        return "; ".join((*self.changes, self.cut) if self.cut else self.changes)

    def shortened(self, longest: int) -> Observation:
        """Its first `longest` characters."""
        return self if len(self.words) <= longest else replace(self, words=self.words[:longest])

    def one_line(self) -> Observation:
        """The same in one line, so that nothing in it can look like a line of the model."""
        words = " ".join(self.words.split())
        if words == self.words:
            return self
        whole = self.whole - len(self.words) + len(words)
        return replace(self, words=words, whole=whole, changes=(*self.changes, "put on one line"))


def observed(text: str, *, failed: bool = False, seconds: float = 0.0, longest: int = LONGEST) -> Observation:
    """A text of whatever kind as an observation of at most `longest` characters."""
    kept = text[:longest]
    words = "".join(map(_shown, kept))
    changes = ("control characters are shown as escapes",) if words != kept else ()
    whole = len(text) - len(kept) + len(words)
    return Observation(words, whole, failed, seconds, changes).shortened(longest)


def _shown(character: str) -> str:
    """Control characters and halves of surrogate pairs, which no tokenizer takes, as escapes."""
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs"):
        return character
    return character.encode("unicode_escape").decode()


def call_tool(
    tool: Tool,
    arguments: Mapping[str, Any],
    *,
    seconds: float = PATIENCE,
    longest: int = LONGEST,
    cancelled: Callable[[], bool] = lambda: False,
) -> Observation | None:
    """The observation of one call; None if the asker gave up while the tool worked.

    A tool runs in a thread of its own, which cannot be ended from outside: one that hangs keeps it until it returns or
    attnviz ends. What it returns later goes nowhere.
    """
    started = time.perf_counter()
    work = _Work(tool, arguments)
    thread = threading.Thread(target=work, name=f"attnviz tool {tool.name}", daemon=True)
    thread.start()
    while thread.is_alive() and time.perf_counter() - started < seconds:
        if cancelled():
            return None
        thread.join(POLL)
    spent = time.perf_counter() - started
    if work.text is None:
        text = f"the tool {tool.name} gave no answer within {seconds:g} s"
        return observed(text, failed=True, seconds=spent, longest=longest)
    return observed(work.text, failed=work.failed, seconds=spent, longest=longest)


@dataclass
class _Work:
    """One call. `text` is set last, so that it is there only once `failed` is right."""

    tool: Tool
    arguments: Mapping[str, Any]
    failed: bool = False
    text: str | None = None

    def __call__(self) -> None:
        try:
            given: Any = self.tool.run(**checked_arguments(self.tool, self.arguments))
            self.failed = not isinstance(given, str)
            text = f"expected text from the tool {self.tool.name}, got {type(given).__name__}" if self.failed else given
        except AttnvizError as error:
            self.failed, text = True, str(error)
        except BaseException as error:  # a stranger's program: whatever it raises, also SystemExit
            self.failed, text = True, f"the tool {self.tool.name} raised {type(error).__name__}: {error}"
        self.text = text
