"""Attributions of TokenLense, versions 1.0.0 to 1.1.0: {"metadata", "data"}, raw scores as rows of a matrix.

Rows are output tokens, columns input tokens and then earlier output tokens; zeros fill the places of tokens that come
too late. A matrix may be as wide as the inputs, or as inputs and outputs, with or without the last output. Its
`normalized_association` is not used: it is scaled by column or over everything, and has negative values where there is
no score.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.hooks import Attribution, BadInput, Finding, Floats, Format, Span, hookimpl, piece_labels
from attnviz.plugins.formats._attribution import (
    MAX_BYTES,
    NOT_STATED,
    Described,
    layout,
    make_tokens,
    read_tokens,
    to_finding,
    token_spans,
)
from attnviz.plugins.formats._files import Field, parse_json, read_bytes, write_whole

VERSION = "1.1.0"
_READ = re.compile(r"1\.0\.\d{1,3}|1\.1\.0")
_EXPECTED = 'TokenLense\'s {"metadata", "data"}'


def handles(path: str | os.PathLike[str]) -> str | None:
    """None if the file has TokenLense's fields, else what it lacks."""
    root = parse_json(read_bytes(path, MAX_BYTES), Path(path).name, _EXPECTED)
    data = root.get("data") if isinstance(root, dict) else None
    return None if isinstance(data, dict) and "association_matrix" in data else "no field data with association_matrix."


def read(path: str | os.PathLike[str]) -> Finding:
    """The attribution of a file.

    Raises:
        BadInput: it cannot be read, is larger than 64 MiB, or does not hold what TokenLense writes.
    """
    name = Path(path).name
    root = Field(parse_json(read_bytes(path, MAX_BYTES), name, _EXPECTED), name)
    metadata, data = root["metadata"], root["data"]
    _check_version(metadata)
    inputs, input_ids = read_tokens(data["input_tokens"], "token_id")
    outputs, output_ids = read_tokens(data["output_tokens"], "token_id")
    scores = _matrix(data["association_matrix"], len(inputs), len(outputs))
    tokens = make_tokens([(piece_labels([*inputs, *outputs]), None)], [*input_ids, *output_ids], two_stacks=False)
    method = _said(metadata, "attribution_method")
    about = Described(
        format="TokenLense",
        method=method,
        model=metadata["llm_id"].text(),
        target_function=NOT_STATED,
        info=("What of each target was explained is not stated in such files.",),
    )
    return to_finding(
        name,
        tokens,
        targets=token_spans(tokens, range(len(inputs), len(tokens))),
        sources=token_spans(tokens, range(scores.shape[1])),
        scores=scores,
        about=about,
    )


def _check_version(metadata: Field) -> None:
    """A file without a version is one of the first."""
    version = metadata.optional("version")
    if version is not None and not _READ.fullmatch(version.text()):
        raise version.refuse(f"1.0.0 to {VERSION}", repr(version.text()[:40]))


def _said(metadata: Field, name: str) -> str:
    found = metadata.optional(name)
    return NOT_STATED if found is None else found.text()


def _matrix(field: Field, inputs: int, outputs: int) -> Floats:
    """[outputs, inputs] or [outputs, inputs + outputs - 1], without the column of the last output.

    Raises:
        BadInput: another shape, or anything but finite numbers.
    """
    rows = list(field)
    if len(rows) != outputs:
        exchanged = len(rows) in (inputs + outputs, inputs + outputs - 1)
        hint = " This is what was read by what was generated: the axes are exchanged." if exchanged else ""
        raise BadInput(f"{field.where}: expected {outputs} rows, one for each output token, got {len(rows)}.{hint}")
    widths = sorted({inputs, max(inputs + outputs - 1, 0), inputs + outputs})
    found = [[number.finite() for number in row] for row in rows]
    width = len(found[0]) if found else 0
    for number, row in enumerate(found):
        if len(row) not in widths or len(row) != width:
            listed = ", ".join(map(str, widths))
            raise BadInput(
                f"{field.where} {number}: expected as many numbers in every row, {listed} for {inputs} inputs and "
                f"{outputs} outputs; got {len(row)}."
            )
    scores: Floats = np.array(found, np.float64).reshape(outputs, width)
    if width == inputs + outputs and scores[:, -1:].any():
        raise BadInput(f"{field.where}: expected zeros in the column of the last output, which comes before nothing.")
    return scores[:, : max(inputs + outputs - 1, 0)]


# --------------------------------------------------------------------------------------------- writing


def write(finding: Finding, path: str | os.PathLike[str]) -> None:
    """Version 1.1.0, one output for each target. Unit, target function and completeness gaps have no place in it.

    Raises:
        BadInput: no attribution, targets and sources of different units, missing scores, or a place that cannot be
            written.
    """
    whole = layout(finding, "TokenLense")
    if not np.isfinite(whole.scores).all():
        raise BadInput("TokenLense files cannot hold missing scores (NaN), and this attribution has some.")
    result = finding.result
    assert isinstance(result, Attribution)
    count = whole.scores.shape[1]
    data = {
        "metadata": {
            "timestamp": datetime.now(timezone.utc).isoformat(),
            "llm_id": finding.model,
            "llm_version": finding.model.rsplit("/", 1)[-1],
            "prompt": "".join(span.label for span in whole.inputs),
            "generation_params": {"max_new_tokens": len(whole.targets)},
            "version": VERSION,
            "attribution_method": result.method,
        },
        "data": {
            "input_tokens": _token_list(whole.inputs),
            "output_tokens": _token_list(whole.targets),
            "association_matrix": _rows(whole.scores),
            "normalized_association": _rows(np.asarray(result.normalized, np.float32)[:, :count]),
            "attribution_source": "combined" if count > len(whole.inputs) else "source",
            "raw_dimensions": list(whole.scores.shape),
        },
    }
    write_whole(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def _token_list(spans: Sequence[Span]) -> list[dict[str, Any]]:
    return [{"token": span.label, "token_id": span.id, "clean_token": span.label.lstrip("Ġ").strip()} for span in spans]


def _rows(scores: Floats) -> list[list[float]]:
    """Nine digits: exact float32."""
    return [[float(f"{number:.9g}") for number in row] for row in scores.tolist()]


@hookimpl
def attnviz_formats() -> list[Format]:
    """The format of TokenLense."""
    return [
        Format(
            name="tokenlense",
            summary="Attributions of TokenLense, versions 1.0.0 to 1.1.0.",
            content="attribution",
            suffixes=(".tokenlense.json",),
            read=read,
            write=write,
            handles=handles,
        )
    ]
