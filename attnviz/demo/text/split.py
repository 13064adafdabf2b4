"""The held-out split: a content key per question and per sub-expression, one in twelve of them never trained on.

A problem may be trained on only if none of its keys is held out, and counts as held out only if every one of its
sub-expressions is. So a held-out sum does not leak through a step of another problem or through another wording.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache

HELD_OUT_ONE_IN = 12

_SUM = re.compile(r"(-?\d+(?:\.\d+)?) ([-+*/]) (-?\d+(?:\.\d+)?)")
_LIST = re.compile(r"\[(\d+(?:, \d+)*)\]")
_WORD = re.compile(r"'([a-z]+)'")


@lru_cache(maxsize=1 << 16)
def is_held_out(key: str) -> bool:
    """Decided by the key alone, so that it is the same in every run and on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % HELD_OUT_ONE_IN == 0


def any_held_out(keys: Iterable[str]) -> bool:
    """A text with such a key is never trained on."""
    return any(is_held_out(key) for key in keys)


def question_key(question: str) -> str:
    """The question alone: case, spaces and closing punctuation do not make it another one."""
    return "question:" + " ".join(question.lower().split()).rstrip(" .?!")


def list_key(numbers: Iterable[int]) -> str:
    """A list of numbers, whatever is asked about it and in whatever order it is written."""
    return f"list:{sorted(numbers)}"


def call_key(tool: str, argument: str) -> str | None:
    """Key of a tool call, or None for a sum of two one-digit numbers: there are too few of them to hold some out.

    Sums and products carry the same key in either order.
    """
    if tool == "calculator":
        found = _SUM.fullmatch(argument)
        if not found:
            raise ValueError(f"calculator call: expected 'a + b' with one of + - * /, got {argument!r}")
        a, operation, b = found.groups()
        if len(a) == len(b) == 1:
            return None
        if operation in "+*":
            a, b = sorted((a, b))
        return f"calculator:{a}{operation}{b}"
    if tool == "python":
        if numbers := _LIST.search(argument):
            return list_key(int(n) for n in numbers[1].split(", "))
        if word := _WORD.search(argument):
            return f"word:{word[1]}"
    return f"{tool}:{argument.lower()}"
