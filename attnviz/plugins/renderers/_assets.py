"""Scripts and styles that lie beside the renderers, and arrays packed for the page."""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    AttentionPattern,
    Attribution,
    BadInput,
    EvidenceLedger,
    Faithfulness,
    FeatureAttention,
    Finding,
    HeadScores,
    LensTable,
    Result,
    SensorImportance,
    ShapeError,
    Span,
    Table,
    TokenMatrix,
    TokenScores,
)

ALL_RESULTS: tuple[type[Result], ...] = (
    AttentionPattern,
    HeadScores,
    TokenScores,
    TokenMatrix,
    Attribution,
    LensTable,
    SensorImportance,
    FeatureAttention,
    Table,
    Faithfulness,
    EvidenceLedger,
)

_LEVEL = 6  # of zlib; 9 takes up to fifty times as long on maps, for a hundredth less
_PACKABLE = {"uint8", "uint16", "int32", "float32"}


@functools.cache
def script(*parts: str) -> str:
    """The named JavaScript files of this folder, one after the other, as one function body. Read once."""
    return "\n".join(asset(f"{part}.js") for part in ("_common", *parts))


@functools.cache
def style(*parts: str) -> str:
    """The named style sheets of this folder, one after the other. Read once."""
    return "\n".join(asset(f"{part}.css") for part in ("_common", *parts))


@functools.cache
def asset(name: str) -> str:
    """One file of this folder. Read once."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def pack(array: NDArray[Any]) -> dict[str, Any]:
    """{"z", "dtype", "shape"}: little-endian bytes, bytes of equal significance together, zlib, base64.

    Grouping the bytes (first all low bytes, then all next ones …) lets zlib find the repetitions in the high ones.

    Raises:
        BadInput: a dtype that the page cannot read.
    """
    if array.dtype.name not in _PACKABLE:
        raise BadInput(f"pack: expected one of {', '.join(sorted(_PACKABLE))}, got {array.dtype.name}.")
    plain = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    planes = plain.reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T
    squeezed = zlib.compress(np.ascontiguousarray(planes).tobytes(), _LEVEL)
    return {"z": base64.b64encode(squeezed).decode("ascii"), "dtype": array.dtype.name, "shape": list(array.shape)}


def token_data(finding: Finding) -> dict[str, Any]:
    """What every script view knows of the text: labels, segments, where the answer begins."""
    return {
        "tokens": list(finding.tokens.labels),
        "segments": [{"role": s.role, "start": s.start, "stop": s.stop} for s in finding.tokens.segments],
        "generated_from": generated_from(finding),
    }


def generated_from(finding: Finding) -> int | None:
    """First generated token, from the result if it says so, else from the finding."""
    own = getattr(finding.result, "generated_from", None)
    return finding.generated_from if own is None else own


def token_spans(finding: Finding, pattern: AttentionPattern) -> tuple[range, range]:
    """The tokens of the run that are the rows and the columns of a map.

    Raises:
        ShapeError: a span that is not within the text, or an axis without one that has not one entry per token.
    """
    found = []
    for name, span, count in zip(
        ("queries", "keys"), (pattern.rows, pattern.columns), pattern.weights.shape, strict=True
    ):
        if span is None:
            need_tokens(f"AttentionPattern {name}", count, finding)
        elif not 0 <= span[0] <= span[1] <= len(finding.tokens):
            raise ShapeError(f"AttentionPattern {name}", f"within 0..{len(finding.tokens)}", list(span))
        found.append(range(count) if span is None else range(*span))
    return found[0], found[1]


def window_of(what: Mapping[str, Any], name: str, within: range) -> range:
    """The positions [start, stop] that a page asks for under a name.

    Raises:
        BadInput: not two whole numbers, in order and within what is there.
    """
    asked = what.get(name)
    whole = isinstance(asked, list) and len(asked) == 2 and all(type(number) is int for number in asked)
    if not whole or not within.start <= asked[0] < asked[1] <= within.stop:  # type: ignore[index]
        expected = f"[start, stop] within {within.start}..{within.stop}"
        raise BadInput(f"Part of a map: expected {name} {expected}, got {asked!r:.60}.")
    return range(*asked)  # type: ignore[misc]


def boundary(finding: Finding, span: range) -> int | None:
    """Where the answer begins within a span of tokens, counted from its start; None where it does not."""
    start = generated_from(finding)
    return None if start is None or not span.start < start < span.stop else start - span.start


def note_data(result: Result) -> dict[str, Any]:
    """The lines a view prints under its picture."""
    return {"info": list(result.info), "warnings": list(result.warnings)}


def need_tokens(what: str, count: int, finding: Finding) -> None:
    """Refuse an axis that does not have one entry per token.

    Raises:
        ShapeError: quotes both lengths.
    """
    if count != len(finding.tokens):
        raise ShapeError(what, f"[{len(finding.tokens)}] (one per token)", f"[{count}]")


def need_spans(what: str, spans: Sequence[Span], count: int) -> None:
    """Refuse spans that are empty or do not lie within tokens 0 to count - 1.

    Raises:
        ShapeError: quotes the first that does not.
    """
    for span in spans:
        if not 0 <= span.index < span.stop <= count:
            raise ShapeError(what, f"spans within 0..{count}", (span.index, span.stop))
