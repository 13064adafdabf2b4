"""How much the target changes when a source is taken away.

Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks"; for text Li et al. 2016, "Understanding
Neural Networks through Representation Erasure". With f the number that is explained:

    score_j = f(run) − f(run without source j)

Taken away means: replaced by a token that says nothing or by the mean embedding (everything else stays where it is), or
dropped (what follows moves up). One changed run gives the effect on all targets. Of a target whose predicting token is
dropped, the last one before it that is left predicts.

Misleads because a run with a hole is no text, and because two sources that say the same hide each other: taking away
one of them changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, BadInput, Floats, Span, hookimpl
from attnviz.plugins.analyses.attribution.answer import About, Rows, explain
from attnviz.plugins.analyses.attribution.baseline import baseline
from attnviz.plugins.analyses.attribution.engine import Engine, as_array
from attnviz.plugins.analyses.attribution.question import SHARED
from attnviz.plugins.analyses.attribution.removal import DROP, DROPPED, REMOVAL, without

if TYPE_CHECKING:
    import torch


def run(request: AnalysisRequest) -> Attribution:
    """See answer.explain for errors; BadInput where dropping a source would leave nothing to predict from."""
    about = About(
        name="occlusion",
        unit="{}",
        signed=True,
        info=(
            "Occlusion (Zeiler & Fergus 2014): what is explained of the run, minus the same of the run without the "
            "source. Positive: the source speaks for the target. A source of several tokens is taken away as a whole.",
        ),
        warnings=(
            "A run with a hole is no text. Sources that say the same hide each other: each alone changes little.",
        ),
    )
    return explain(request, _rows, about)


def _rows(engine: Engine, request: AnalysisRequest) -> Rows:
    name = request.params["removal"]
    base = as_array(engine.values(engine.embeddings[None]))[0]  # [P]
    if name == DROP:
        changed, removed = _dropped(engine, request, base), DROPPED
    else:
        start, word = baseline(engine, request, name)
        changed, removed = _replaced(engine, request, base, start), f"replaced by {word}"
    question = engine.question
    return Rows(
        scores=question.by_target((base - changed).astype(base.dtype)).T,
        values=question.by_target(base),
        info=(f"Taken away: every token of a source is {removed}.",),
    )


def _replaced(engine: Engine, request: AnalysisRequest, base: Floats, start: torch.Tensor) -> Floats:
    """[C, P] numbers of the run with `start` [n, d] in place of each source; of tokens before it those of the run.

    What comes before a batch of sources is read once, where the model can go on from there.
    """
    sources, found = engine.question.sources, np.tile(base, (len(engine.question.sources), 1))
    memory, known = None, 0
    for first in range(0, len(sources), engine.batch):
        request.progress(first / len(sources), f"source {first + 1} of {len(sources)}")
        some = sources[first : first + engine.batch]
        runs = engine.embeddings.repeat(len(some), 1, 1)  # [b, n, d]
        for row, source in enumerate(some):
            runs[row, source.index : source.stop] = start[source.index : source.stop]
        places, begin = _after(engine, some[0]), some[0].index
        if begin > known and (known == 0 or memory is not None):
            memory = engine.model.remember(engine.embeddings[None, known:begin], engine.question.tokens, memory)
            known = begin
        values = as_array(engine.values(runs if memory is None else runs[:, known:], places, memory))
        for row, source in enumerate(some):
            later = [index for index, place in enumerate(places) if engine.question.positions[place] >= source.index]
            found[first + row, [places[index] for index in later]] = values[row, later]
    return found


def _dropped(engine: Engine, request: AnalysisRequest, base: Floats) -> Floats:
    """[C, P] numbers of the run without each source; of tokens before it those of the run."""
    import torch

    question, found = engine.question, np.tile(base, (len(engine.question.sources), 1))
    for index, source in enumerate(question.sources):
        request.progress(index / len(question.sources), f"source {index + 1} of {len(question.sources)}")
        kept = np.flatnonzero((np.arange(question.count) < source.index) | (np.arange(question.count) >= source.stop))
        places = _after(engine, source)
        if not places:
            continue
        left = without(question.tokens, kept)
        lowest = left.decoder_from or 0
        positions = [int(np.searchsorted(kept, question.positions[place], side="right")) - 1 for place in places]
        if left.decoder_from == 0 or min(positions) < lowest:
            raise BadInput(
                f"Parameter removal: without the source {source.label!r} nothing is left to predict a target from. "
                "Choose smaller sources, or replace them instead of dropping them."
            )
        with torch.no_grad():
            states = engine.model.states(engine.embeddings[torch.as_tensor(kept)][None], left, positions)
            found[index, places] = as_array(engine.read(states, places))[0]
    return found


def _after(engine: Engine, source: Span) -> Sequence[int]:
    """Places of the target tokens that are predicted from the source or later."""
    positions = engine.question.positions
    return range(max(0, source.index - positions.start), len(positions))


@hookimpl
def attnviz_analyses() -> list[Analysis]:
    """Occlusion."""
    return [
        Analysis(
            name="occlusion",
            title="Occlusion",
            group="Attribution",
            summary="How much the target changes when a source is taken away.",
            run=run,
            produces=Attribution,
            requires=frozenset({"gradients", "logits"}),
            params=(*SHARED, REMOVAL),
            gpu=True,
        )
    ]
