"""Standard output of the command line: results, and nothing else."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from attnviz.errors import BadInput


def say(text: str) -> None:
    """Write a line to standard output, as UTF-8 whatever the locale. Raises BadInput if it cannot be written."""
    stream: Any = sys.stdout
    if stream is None:
        raise BadInput("Standard output is closed; the result can be written nowhere.")
    try:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        say_no_more()
        raise BadInput(f"Cannot write to standard output: {error.strerror or error}.") from error


def say_no_more() -> None:
    """Nobody reads standard output any more; what is left in its buffer goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """Write a value as JSON. Raises BadInput if it cannot be written."""
    say(json.dumps(value, ensure_ascii=False, indent=1))
