"""The next turn of the conversation in the strip, and the wish that the whole conversation is."""

from __future__ import annotations

import threading
from dataclasses import replace

from cachetools import LRUCache

from attnviz.conversation import is_chat
from attnviz.errors import BadInput
from attnviz.session import Session, TracedRun
from attnviz.ui import turns
from attnviz.ui.background import Job
from attnviz.ui.describe import ended_by
from attnviz.ui.wish import FINISHED_KEPT, Wish, as_made, read_attention


class Made:
    """The wish that a run was made of, so that a conversation can go on from it and still be made again."""

    def __init__(self) -> None:
        self._of: LRUCache[str, Wish] = LRUCache(FINISHED_KEPT)
        self._lock = threading.Lock()

    def keep(self, run: TracedRun, wish: Wish) -> None:
        """Remember the wish of a run."""
        with self._lock:
            self._of[run.id] = as_made(wish, run)

    def find(self, run_id: str) -> Wish | None:
        """The wish of a run; None where that is not known, as of a saved one."""
        with self._lock:
            return self._of.get(run_id)


def next_wish(session: Session, run_id: str, wish: Wish, earlier: Wish | None) -> Wish:
    """The conversation of a run and one more turn, the prompt of `wish`, as one wish.

    Args:
        earlier: the wish that the run is of; None where that is not known.

    Raises:
        BadInput: the conversation cannot go on so, and why.
    """
    if not run_id:
        raise BadInput("There is nothing to go on from. Press Run first.")
    before = session.run(run_id)
    if wish.agent is not None:
        raise BadInput("An agent begins anew with every question: press Run, or take the tick off the tools to go on.")
    if not wish.answer:
        raise BadInput("A conversation goes on with an answer: tick Generate an answer.")
    if before.generated_from is None or before.generated_from >= len(before.tokens):
        raise BadInput("There is no answer to go on from. Tick Generate an answer and press Run first.")
    if wish.source not in (before.model.name, before.run.spec.source):
        raise BadInput(f"This conversation is with {before.model.name}. Choose that model to go on, or press Run.")
    if earlier is None:
        return replace(wish, prompt=before.prompt, then=(wish.prompt,), alike=False)
    seed = earlier.seed if wish.seed is None or not wish.temperature else wish.seed
    then = (*earlier.then, wish.prompt)
    whole = replace(wish, prompt=earlier.prompt, format=earlier.format, seed=seed, then=then)
    alike = replace(earlier, category=wish.category, then=then) == whole and ended_by(before) != "cancelled"
    return replace(whole, alike=alike)


def go_on(session: Session, run_id: str, whole: Wish, job: Job) -> TracedRun:
    """The run of the conversation of a run and its next turn, the last of `whole`.

    Raises:
        AttnvizError: the model cannot go on, and why.
    """
    run = turns.gone_on(session.run(run_id), whole, job)
    read_attention(run, job)
    return run


def about_plain(run: TracedRun, wish: Wish) -> str:
    """What is to be said of a conversation that no chat template writes; "" of any other."""
    if not wish.then or is_chat(run.tokens):
        return ""
    return f"What you said went on as plain text, on a new line: {run.model.name} reads this without a chat template."
