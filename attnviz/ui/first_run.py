"""What the first screen shows: which model, which prompt. Made ready in the background while the page loads."""

from __future__ import annotations

import logging

from attnviz.hooks import ModelEntry
from attnviz.registry import Registry
from attnviz.session import Session

log = logging.getLogger(__name__)


def default_entry(registry: Registry) -> ModelEntry | None:
    """The model of the first screen: the menu's default, else its first."""
    entries = list(registry.models.values())
    return next((e for e in entries if e.default), entries[0] if entries else None)


def default_prompt(entry: ModelEntry | None) -> str:
    """The prompt of the first screen."""
    return entry.examples[0][1] if entry and entry.examples else "The cat sat on the mat."


def make_ready(session: Session) -> None:
    """Load the model of the first screen and run its prompt once, so that the page finds both in memory.

    What fails here fails again, with its message, when the page asks; here it only goes to the log.
    """
    entry = default_entry(session.registry)
    if entry is None:
        return
    try:
        run = session.load(entry.name).trace(default_prompt(entry))
        if "attention" in run.model.card.capabilities:
            session.trace(run.run)
    except Exception:
        log.warning("The model of the first screen is not ready.", exc_info=True)
