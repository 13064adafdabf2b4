"""What attribution files of other programs have in common: tokens with ids, and a score of each source for each target.

Their scores become an Attribution: rows are targets, columns are sources, float32, exactly 0 for a source that does not
come before its target. What a file normalises in its own way is computed anew from its raw scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import Attribution, BadInput, Finding, Floats, Segment, Span, Tokens
from attnviz.plugins.formats._files import Field

MAX_BYTES = 64 << 20
"""Largest file that is read, unpacked."""
UNIT = "score"
NOT_STATED = "not stated"
HIGHEST_ID = 2**63 - 1


# --------------------------------------------------------------------------------------------- tokens


def read_tokens(field: Field, id_name: str) -> tuple[list[str], list[int]]:
    """Texts and ids of a list of {"token", id_name}; -1 stands for several tokens in one."""
    items = list(field)
    texts = [item["token"].text() for item in items]
    return texts, [item[id_name].whole(-1, HIGHEST_ID) for item in items]


def make_tokens(parts: Sequence[tuple[Sequence[str], str | None]], ids: Sequence[int], two_stacks: bool) -> Tokens:
    """Tokens of one text, or of the text an encoder reads and that of a decoder.

    parts  (labels, text or None) of each. A label that does not come next in its text is a control token, without a
           place; where text is left over so, or there is none, the text is the labels one after the other.
    """
    text = ""
    offsets: list[tuple[int, int]] = []
    for labels, given in parts:
        body, places = _placed(labels, given)
        text += "\n" if offsets and two_stacks else ""
        offsets += [(a + len(text), b + len(text)) if a >= 0 else (-1, -1) for a, b in places]
        text += body
    labels = tuple(label for part, _ in parts for label in part)
    edge = len(parts[0][0])
    segments = (Segment("source", 0, edge), Segment("target", edge, len(labels))) if two_stacks else ()
    return Tokens(
        ids=np.array(ids, np.int64),
        labels=labels,
        offsets=np.array(offsets, np.int64).reshape(-1, 2),
        special=np.array([start < 0 for start, _ in offsets], np.bool_),
        text=text,
        segments=segments,
        decoder_from=edge if two_stacks else None,
    )


def _placed(labels: Sequence[str], text: str | None) -> tuple[str, list[tuple[int, int]]]:
    """The text of the labels, and the place of each in it."""
    cursor, places = 0, []
    for label in labels if text is not None else ():
        found = text is not None and text.startswith(label, cursor)
        places.append((cursor, cursor + len(label)) if found else (-1, -1))
        cursor += len(label) if found else 0
    if text is not None and cursor == len(text):
        return text, places
    stops = np.cumsum([len(label) for label in labels]).tolist()
    return "".join(labels), list(zip([0, *stops], stops, strict=False))


def token_spans(tokens: Tokens, chosen: range) -> tuple[Span, ...]:
    """One span for each of these tokens."""
    return tuple(Span(i, i + 1, int(tokens.ids[i]), tokens.labels[i]) for i in chosen)


# --------------------------------------------------------------------------------------------- scores


def checked_scores(name: str, scores: NDArray[Any], targets: Sequence[Span], sources: Sequence[Span]) -> Floats:
    """[R, C] float32; NaN and 0 of a source that does not come before its target become 0. NaN elsewhere is missing.

    Raises:
        BadInput: an infinite score, one that float32 does not hold, or one of a source after its target.
    """
    with np.errstate(over="ignore"):
        found = scores.astype(np.float32)
    if np.isinf(found).any():
        row, column = (int(i) for i in np.argwhere(np.isinf(found))[0])
        raise BadInput(
            f"{name}: expected scores that float32 holds, got {scores[row, column]:g} in row {row}, column {column}."
        )
    starts, ends = np.array([s.index for s in sources]), np.array([t.stop for t in targets])
    after = starts[None, :] >= ends[:, None] - 1
    wrong = after & ~np.isnan(found) & (found != 0)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise BadInput(
            f"{name}: expected no score for a source that does not come before its target, got "
            f"{found[row, column]:g} for target {row} and source {column}, in {int(wrong.sum())} places in all. "
            "The axes may be exchanged."
        )
    return np.where(after, np.float32(0), found)


def normalized(scores: Floats) -> Floats:
    """Each row divided by the sum of its absolute values, missing ones left out; a row of zeros stays zero."""
    total = np.nansum(np.abs(scores.astype(np.float64)), axis=1, keepdims=True)
    shares = np.divide(scores, total, out=np.zeros(scores.shape), where=total > 0)
    return np.where(np.isnan(scores), np.nan, shares).astype(np.float32)


@dataclass(frozen=True)
class Described:
    """What a file says of its scores, beside them."""

    format: str
    method: str
    model: str
    target_function: str
    title: str = ""
    unit: str = UNIT
    signed: bool | None = None
    target_values: Floats | None = None
    delta: Floats | None = None
    params: tuple[tuple[str, Any], ...] = ()
    info: tuple[str, ...] = ()


def to_finding(
    name: str,
    tokens: Tokens,
    targets: Sequence[Span],
    sources: Sequence[Span],
    scores: NDArray[Any],
    about: Described,
) -> Finding:
    """The finding of a file. `scores` [R, C] as they are in it; see checked_scores.

    Raises:
        BadInput: nothing to show, or scores that cannot be.
    """
    if not targets or not sources:
        raise BadInput(
            f"{name}: expected at least one target and one source before it, got {len(targets)} and {len(sources)}."
        )
    found = checked_scores(name, scores, targets, sources)
    missing = int(np.isnan(found).sum())
    signed = bool((found < 0).any()) if about.signed is None else about.signed
    result = Attribution(
        method=about.method,
        target_function=about.target_function,
        targets=tuple(targets),
        sources=tuple(sources),
        scores=found,
        normalized=normalized(found),
        unit=about.unit,
        signed=signed,
        target_values=about.target_values,
        delta=about.delta,
        info=(
            f"Read from {name} ({about.format}).",
            f"Rows: {len(targets)} targets. Columns: {len(sources)} sources; a source that does not come before a "
            "target is exactly 0.",
            *about.info,
            "Normalised: a row divided by the sum of its absolute scores, computed from the raw scores of the file.",
        ),
        warnings=(f"{missing} scores are missing (NaN) in the file.",) if missing else (),
    )
    return Finding(
        analysis=about.method,
        title=about.title or about.method,
        params=dict(about.params),
        model=about.model,
        tokens=tokens,
        result=result,
        generated_from=targets[0].index,
    )


# --------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class Layout:
    """An attribution as files have it: what is read first, and the targets, which become sources one by one.

    inputs   sources before the first target
    targets  R targets
    scores   [R, inputs + R - 1] or, where targets are no sources, [R, inputs]
    """

    inputs: tuple[Span, ...]
    targets: tuple[Span, ...]
    scores: Floats


def layout(finding: Finding, format: str) -> Layout:
    """The attribution of a finding as `format` has it.

    Raises:
        BadInput: another kind of result, or sources and targets that are cut differently.
    """
    result = finding.result
    if not isinstance(result, Attribution):
        raise BadInput(f"{format} files hold attributions; this is a result of kind {result.kind!r}. Save it as .json.")
    if not result.targets:
        raise BadInput(f"{format}: expected an attribution with at least one target, got none.")
    first = result.targets[0].index
    inputs = tuple(source for source in result.sources if source.stop <= first)
    later = result.sources[len(inputs) :]
    places = [(span.index, span.stop) for span in result.targets[:-1]]
    if later and [(span.index, span.stop) for span in later[: len(places)]] != places:
        raise BadInput(
            f"{format} files have targets and sources of one size; here they are cut differently, or in gaps. "
            "Choose the same unit for targets and sources, or save as .json."
        )
    if not inputs:
        raise BadInput(f"{format}: expected sources before the first target, got none.")
    count = len(inputs) + min(len(later), len(places))
    scores = np.asarray(result.scores, np.float32)
    rows, columns = np.indices(scores.shape)
    if np.nan_to_num(scores[columns >= len(inputs) + rows]).any():
        raise BadInput(
            f"{format} files hold no scores of a target for itself, as a target of several tokens has them here. "
            "Choose token as the unit of targets and sources, or save as .json."
        )
    return Layout(inputs, result.targets, scores[:, :count])
