"""Lookup: facts from a table that is shipped, or from one of your own (`ATTNVIZ_FACTS`: CSV of topic, answer)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from attnviz.hooks import BadInput, Tool, Unavailable, hookimpl

FACTS = Path(__file__).with_name("facts.csv")
NOTHING = "nothing found"
LONGEST = 4 << 20


def look_up(topic: str) -> str:
    """ "capital of France" -> "Paris"; "nothing found" where the table says nothing.

    Raises:
        BadInput: no topic.
        Unavailable: a table of your own that cannot be read.
    """
    if not isinstance(topic, str) or not topic.strip():
        raise BadInput("expected a topic, such as capital of France")
    return _table().get(_key(topic), NOTHING)


def _key(topic: str) -> str:
    """Case, spaces, articles and closing marks do not make it another topic."""
    words = topic.casefold().strip(" .?!").split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def _table() -> dict[str, str]:
    path = Path(os.environ.get("ATTNVIZ_FACTS") or FACTS)
    try:
        if path.stat().st_size > LONGEST:
            raise Unavailable(f"{path.name}: expected at most {LONGEST >> 20} MiB of facts")
        with path.open(encoding="utf-8", newline="") as file:
            return {_key(row["topic"]): row["answer"] for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, AttributeError, csv.Error) as error:
        raise Unavailable(f"{path.name}: expected a table with the columns topic, answer: {error!r:.100}") from error


@hookimpl
def attnviz_tools() -> list[Tool]:
    """Lookup."""
    return [
        Tool(
            name="lookup",
            summary="Finds a fact in a small table: capitals, colours, sounds and legs of animals, planets, elements.",
            parameters={
                "type": "object",
                "properties": {"topic": {"type": "string", "description": "Such as capital of France."}},
                "required": ["topic"],
                "additionalProperties": False,
            },
            run=look_up,
        )
    ]
