"""The run of the first screen: the saved one of the menu entry at once, then the model, ready for the next prompt."""

from __future__ import annotations

import logging
from pathlib import Path

from attnviz.errors import AttnvizError
from attnviz.session import TracedRun
from attnviz.ui.background import Job
from attnviz.ui.wish import Finished, Wish, first_wish

log = logging.getLogger(__name__)
PATIENCE = 20.0
"""Seconds that the page may take to show the saved run before the model is loaded beside it."""


def make_ready(finished: Finished) -> None:
    """Make the run of the first screen and its first analysis, so that the page finds both in memory.

    What fails here fails again, with its message, when the page asks; here it only goes to the log.
    """
    session = finished.session
    wish = first_wish(session)
    if wish is None:
        return
    try:
        saved = _saved(finished, wish)
        run = saved or finished.make(wish, Job())
        for analysis in session.registry.analyses.values():
            if session.check(analysis, run.model.card) is None:
                session.analyze(run, analysis.name, {})
            break
        if saved:  # loading takes both cores for seconds: the first screen goes first
            finished.shown.wait(PATIENCE)
            session.model(run.run.spec)
    except Exception:
        log.warning("The run of the first screen is not ready.", exc_info=True)


def _saved(finished: Finished, wish: Wish) -> TracedRun | None:
    """The saved run of the wish, if there is one and it is of these weights."""
    entry = finished.session.registry.models.get(wish.model)
    if entry is None or not entry.first_run or not Path(entry.first_run).is_file():
        return None
    try:
        run = finished.session.adopt(entry.name, entry.first_run)
    except AttnvizError as error:
        log.warning("The saved first run is not used: %s", error)
        return None
    if not is_of(run, wish):
        log.warning("The saved first run answers another prompt than the first example; it is computed anew.")
        return None
    finished.keep(wish, run)
    return run


def is_of(run: TracedRun, wish: Wish) -> bool:
    """Whether the run is what pressing Run for this wish would give: same prompt, same length, greedy."""
    asked = [s for s in run.tokens.segments if s.role == "user"]
    if len(asked) != 1 or run.run.sampling is None:
        return False
    spans = [span for span in run.tokens.offsets[asked[0].start : asked[0].stop] if span[0] >= 0]
    said = run.text[spans[0][0] : spans[-1][1]] if spans else ""
    greedy = run.run.sampling.temperature == 0 and not wish.temperature and not wish.stop
    greedy = greedy and run.run.sampling.repetition_penalty == wish.repetition_penalty
    return wish.answer and greedy and said == wish.prompt and run.run.sampling.max_new_tokens == wish.length
