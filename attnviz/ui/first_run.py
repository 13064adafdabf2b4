"""The run of the first screen, made in the background while the page loads."""

from __future__ import annotations

import logging

from attnviz.ui.background import Job
from attnviz.ui.wish import Finished, first_wish

log = logging.getLogger(__name__)


def make_ready(finished: Finished) -> None:
    """Make the run of the first screen and its first analysis, so that the page finds both in memory.

    What fails here fails again, with its message, when the page asks; here it only goes to the log.
    """
    session = finished.session
    wish = first_wish(session.registry)
    if wish is None:
        return
    try:
        run = finished.make(wish, Job())
        for analysis in session.registry.analyses.values():
            if session.check(analysis, run.model.card) is None:
                session.analyze(run, analysis.name, {})
            break
    except Exception:
        log.warning("The run of the first screen is not ready.", exc_info=True)
