"""Attributions of Inseq (Sarti et al. 2023): the JSON files of FeatureAttributionOutput.save, 0.5 to 0.7, also gzipped.

A file holds sequences; a sequence its tokens, and scores with axis 0 = what was read, axis 1 = what was generated, NaN
where a token comes too late, so transposed against an Attribution. `source_attributions` are those of an encoder's
tokens, `target_attributions` those of the tokens that the generating stack reads. Gradient methods (class Granular…)
keep one score for each component of the embedding, attention (class MultiDimensional…) one for each layer and head:
these further axes are put together as `aggregation` names it.

Class names in a file are compared with those that are known; nothing is imported.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.hooks import Attribution, BadInput, Finding, Floats, Format, Param, Span, hookimpl, piece_labels
from attnviz.plugins.formats._attribution import (
    MAX_BYTES,
    NOT_STATED,
    UNIT,
    Described,
    Layout,
    layout,
    make_tokens,
    read_tokens,
    to_finding,
    token_spans,
)
from attnviz.plugins.formats._files import Field, parse_json, read_bytes, write_whole
from attnviz.plugins.formats._inseq_arrays import read_array, write_array

_EXPECTED = 'Inseq\'s {"info", "sequence_attributions"}'
_DATA, _TYPING = "inseq.data.attribution", "inseq.utils.typing"
_OUTPUT, _COARSE, _TOKEN = "FeatureAttributionOutput", "CoarseFeatureAttributionSequenceOutput", "TokenWithId"
_LIKE_INSEQ = "like_inseq"
_OF_CLASS = {
    "GranularFeatureAttributionSequenceOutput": "l2_norm",
    "MultiDimensionalFeatureAttributionSequenceOutput": "mean",
}
"""How Inseq itself puts the further axes of each class together."""
AGGREGATIONS = ("sum", "mean", "l2_norm", "abs_sum", "max")
_OURS = "attnviz"
HIGHEST_POSITION = 2**31 - 1

SEQUENCE = Param("sequence", "int", default=0, minimum=0, help="Which sequence of the file, from 0.")
AGGREGATION = Param(
    "aggregation",
    "choice",
    default=_LIKE_INSEQ,
    choices=(_LIKE_INSEQ, *AGGREGATIONS),
    help="How scores of embedding components, or of layers and heads, become one: like_inseq = the L2 norm of "
    "gradients and the mean of attention.",
)


# --------------------------------------------------------------------------------------------- reading


def handles(path: str | os.PathLike[str]) -> str | None:
    """None if the file has Inseq's fields, else what it lacks."""
    root = _plain(Field(parse_json(read_bytes(path, MAX_BYTES), Path(path).name, _EXPECTED), ""))
    fits = isinstance(root.value, dict) and "sequence_attributions" in root.value
    return None if fits else "no field sequence_attributions."


def read(path: str | os.PathLike[str], *, sequence: int = 0, aggregation: str = _LIKE_INSEQ) -> Finding:
    """One sequence of a file.

    Args:
        sequence: which, from 0.
        aggregation: how further axes become one: sum | mean | l2_norm | abs_sum | max, or like_inseq.

    Raises:
        BadInput: it cannot be read, is larger than 64 MiB, does not hold what Inseq writes, or has no such sequence.
    """
    name = Path(path).name
    root = _plain(Field(parse_json(read_bytes(path, MAX_BYTES), name, _EXPECTED), name), _OUTPUT)
    sequences = list(root["sequence_attributions"])
    if not sequence < len(sequences):
        has = f"0 to {len(sequences) - 1}" if sequences else "none"
        raise BadInput(f"{name}: no sequence {sequence}. The file holds {has}.")
    info = root.optional("info") or Field({}, f"{name}, info")
    field = sequences[sequence]
    return _finding(name, _Sequence.of(field, aggregation), info, (sequence, len(sequences)))


@dataclass(frozen=True)
class _Sequence:
    """One sequence as its file has it.

    source, target  (texts, ids);  start, stop  the tokens of the target that were attributed
    by_source       [S, R] or None;  by_target  [T, R] or None
    steps           name -> [R]
    """

    source: tuple[list[str], list[int]]
    target: tuple[list[str], list[int]]
    start: int
    stop: int
    by_source: Floats | None
    by_target: Floats | None
    steps: Mapping[str, Floats]
    aggregation: str
    axes: tuple[int, ...]

    @classmethod
    def of(cls, field: Field, aggregation: str) -> _Sequence:
        data = _plain(field)
        source, target = _tokens(data["source"]), _tokens(data["target"])
        count = len(target[0])
        start = data["attr_pos_start"].whole(0, count)
        end = data.optional("attr_pos_end")
        stop = count if end is None else min(end.whole(start, HIGHEST_POSITION), count)
        by_source = _scores(data, "source_attributions", (len(source[0]),) * 2, stop - start)
        by_target = _scores(data, "target_attributions", (max(stop - 1, 0), count), stop - start)
        known = by_target if by_source is None else by_source
        if known is None:
            raise field.refuse("source_attributions or target_attributions", "neither")
        if by_target is not None and np.nan_to_num(by_target[max(stop - 1, 0) :]).any():
            raise data["target_attributions"].refuse("scores of what comes before the last target", "later ones")
        way = _way(aggregation, known.shape[2:], field)
        return cls(
            source=source,
            target=target,
            start=start,
            stop=stop,
            by_source=None if by_source is None else _put_together(by_source, way),
            by_target=None if by_target is None else _put_together(by_target, way),
            steps=_steps(data, stop - start),
            aggregation=way,
            axes=known.shape[2:],
        )


def _plain(field: Field, expected: str | None = None) -> Field:
    """The fields of an object, without the wrapping that names its class."""
    if isinstance(field.value, dict) and "__instance_type__" in field.value:
        found = _class_name(field)
        if expected is not None and found != expected:
            raise field.refuse(f"an object of class {expected}", repr(found[:60]))
        return field["attributes"]
    return field


def _class_name(field: Field) -> str:
    """The class that an object was made of; "" where the file does not say."""
    wrapping = field.optional("__instance_type__")
    if wrapping is None:
        return ""
    parts = list(wrapping)
    if len(parts) != 2:
        raise wrapping.refuse("[module, class]")
    return parts[1].text()


def _tokens(field: Field) -> tuple[list[str], list[int]]:
    return read_tokens(Field([_plain(item, _TOKEN).value for item in field], field.where), "id")


def _scores(data: Field, name: str, lengths: tuple[int, int], targets: int) -> Floats | None:
    """[A, R, …] with A from the lower to the higher of `lengths`; None where the file has none."""
    field = data.optional(name)
    if field is None:
        return None
    found = read_array(field)
    low, high = lengths
    if found.ndim < 2 or not low <= found.shape[0] <= high or found.shape[1] != targets:
        expected = f"shape [{high}, {targets}, …], as tokens and attr_pos_start and attr_pos_end say"
        raise field.refuse(expected, str(list(found.shape)))
    return found


def _steps(data: Field, count: int) -> dict[str, Floats]:
    """Numbers of each generated token, such as its probability; those of another shape are not ours to show."""
    field = data.optional("step_scores")
    found = {} if field is None else {name: read_array(array) for name, array in field.members().items()}
    return {name: array for name, array in found.items() if array.shape == (count,)}


def _way(aggregation: str, axes: tuple[int, ...], field: Field) -> str:
    """How further axes become one; "" where there are none."""
    if not axes:
        return ""
    if 0 in axes:
        raise field.refuse("scores on every axis", f"further axes of shape {list(axes)}")
    way = _OF_CLASS.get(_class_name(field), "") if aggregation == _LIKE_INSEQ else aggregation
    if way:
        return way
    raise BadInput(
        f"{field.where}: the scores have further axes of shape {list(axes)}, and the file does not say how Inseq would "
        f"put them together. Choose an aggregation: {', '.join(AGGREGATIONS)}."
    )


def _put_together(scores: Floats, way: str) -> Floats:
    """[A, R, …] -> [A, R]: all further axes together, as named."""
    if not way:
        return scores
    flat = scores.reshape(*scores.shape[:2], -1)
    if way == "l2_norm":
        return np.asarray(np.sqrt(np.einsum("arx,arx->ar", flat, flat, dtype=np.float64)), np.float32)
    if way == "max":
        return np.asarray(flat.max(axis=2))
    if way == "mean":
        return np.asarray(flat.mean(axis=2, dtype=np.float64), np.float32)
    summed = np.abs(flat) if way == "abs_sum" else flat
    return np.asarray(summed.sum(axis=2, dtype=np.float64), np.float32)


# --------------------------------------------------------------------------------------------- a sequence as a finding


def _finding(name: str, found: _Sequence, info: Field, place: tuple[int, int]) -> Finding:
    number, of = place
    ours = info.optional(_OURS)
    labels = piece_labels if ours is None else tuple
    texts = {key: _text(info, key, number, of) for key in ("input_texts", "generated_texts")}
    (source, source_ids), (target, target_ids) = found.source, found.target
    if found.by_source is None:
        tokens = make_tokens([(labels(target), texts["generated_texts"])], target_ids, two_stacks=False)
        edge = 0
    else:
        parts = [(labels(source), texts["input_texts"]), (labels(target), texts["generated_texts"])]
        tokens = make_tokens(parts, [*source_ids, *target_ids], two_stacks=True)
        edge = len(source)
    last = edge + found.stop - 1 if found.by_target is not None else edge
    scores = [array.T for array in (found.by_source, found.by_target) if array is not None]
    return to_finding(
        name,
        tokens,
        targets=token_spans(tokens, range(edge + found.start, edge + found.stop)),
        sources=token_spans(tokens, range(max(last, 0))),
        scores=np.concatenate(scores, axis=1)[:, : max(last, 0)],
        about=_described(found, info, ours, place),
    )


def _described(found: _Sequence, info: Field, ours: Field | None, place: tuple[int, int]) -> Described:
    number, of = place
    function = _said(info, "attributed_fn").removesuffix("_fn")
    lines = [f"Sequence {number}, counted from 0; the file holds {of}."]
    if found.aggregation:
        shape = " × ".join(map(str, found.axes))
        lines.append(f"Each score is the {found.aggregation.replace('_', ' ')} of {shape} in the file.")
    params: list[tuple[str, Any]] = [("sequence", number)]
    if found.aggregation:
        params.append(("aggregation", found.aggregation))
    return Described(
        format="Inseq",
        method=_said(info, "attribution_method"),
        model=_said(info, "model_name"),
        target_function=function,
        title="" if ours is None else ours["title"].text(),
        unit=UNIT if ours is None else ours["unit"].text(),
        signed=False if found.aggregation in ("l2_norm", "abs_sum") else None if ours is None else _signed(ours),
        target_values=found.steps.get(function),
        delta=found.steps.get("deltas"),
        params=tuple(params),
        info=tuple(lines),
    )


def _signed(ours: Field) -> bool:
    return ours["signed"].yes_or_no()


def _said(info: Field, name: str) -> str:
    found = info.optional(name)
    return NOT_STATED if found is None else found.text()


def _text(info: Field, name: str, number: int, of: int) -> str | None:
    """The text of one sequence; None where there is not one for each."""
    field = info.optional(name)
    if field is None:
        return None
    texts = [text.text() for text in field]
    return texts[number] if len(texts) == of else None


# --------------------------------------------------------------------------------------------- writing


def write(finding: Finding, path: str | os.PathLike[str]) -> None:
    """One sequence of class Coarse…, as Inseq 0.6 and later write it; gzip if the name ends in .gz.

    Scores are float32. What else Inseq has no place for (unit, title, whether signs count) stands in info, "attnviz".

    Raises:
        BadInput: no attribution, targets and sources of different units, or a place that cannot be written.
    """
    whole = layout(finding, "Inseq")
    data = _wrapped(
        _DATA,
        _OUTPUT,
        {
            "info": _info(finding, whole),
            "sequence_attributions": [_sequence(finding, whole)],
            "step_attributions": None,
        },
    )
    raw = json.dumps(data, indent=4, sort_keys=True, allow_nan=False).encode()
    write_whole(path, gzip.compress(raw, mtime=0) if Path(path).suffix.lower() == ".gz" else raw)


def _wrapped(module: str, name: str, attributes: dict[str, Any]) -> dict[str, Any]:
    return {"__instance_type__": [module, name], "attributes": attributes}


def _sequence(finding: Finding, whole: Layout) -> dict[str, Any]:
    result, tokens = finding.result, finding.tokens
    assert isinstance(result, Attribution)
    edge = tokens.decoder_from
    encoder = [span for span in whole.inputs if edge is not None and span.stop <= edge]
    read_by_target = whole.scores.shape[1] > len(encoder)
    prefix = [span for span in whole.inputs if edge is None or span.index >= edge]
    if edge is not None and not read_by_target:
        prefix = list(token_spans(tokens, range(edge, whole.targets[0].index)))
    rest = token_spans(tokens, range(whole.targets[-1].stop, len(tokens)))
    target = [*prefix, *whole.targets, *rest]
    by_target = np.full((len(target), len(whole.targets)), np.nan, np.float32)
    own = whole.scores[:, len(encoder) :].T
    by_target[: len(own)] = own
    places, steps = np.indices(by_target.shape)
    by_target[places >= len(prefix) + steps] = np.nan
    named = {result.target_function: result.target_values, "deltas": result.delta}
    return _wrapped(
        _DATA,
        _COARSE,
        {
            "source": _token_list(encoder if edge is not None else prefix),
            "target": _token_list(target),
            "source_attributions": None if edge is None else write_array(whole.scores[:, : len(encoder)].T),
            "target_attributions": write_array(by_target) if read_by_target else None,
            "step_scores": {name: write_array(values) for name, values in named.items() if values is not None},
            "sequence_scores": {},
            "attr_pos_start": len(prefix),
            "attr_pos_end": len(prefix) + len(whole.targets),
        },
    )


def _token_list(spans: list[Span]) -> list[dict[str, Any]]:
    return [_wrapped(_TYPING, _TOKEN, {"token": span.label, "id": span.id}) for span in spans]


def _info(finding: Finding, whole: Layout) -> dict[str, Any]:
    result, tokens = finding.result, finding.tokens
    assert isinstance(result, Attribution)
    cut = whole.targets[0].index if tokens.decoder_from is None else tokens.decoder_from
    places = tokens.offsets.tolist()
    edge = max((stop for _, stop in places[:cut]), default=0)
    begin = min((start for start, _ in places[cut:] if start >= 0), default=len(tokens.text))
    to_come = "".join(target.label for target in whole.targets if target.index >= len(tokens))
    return {
        "attribution_method": result.method,
        "attributed_fn": result.target_function,
        "model_name": finding.model,
        "input_texts": [tokens.text[: max(edge, 0)]],
        "generated_texts": [tokens.text[0 if tokens.decoder_from is None else begin :] + to_come],
        "step_scores": [] if result.target_values is None else [result.target_function],
        _OURS: {"title": finding.title, "unit": result.unit, "signed": result.signed},
    }


@hookimpl
def attnviz_formats() -> list[Format]:
    """The format of Inseq."""
    return [
        Format(
            name="inseq",
            summary="Attributions of Inseq 0.5 to 0.7 (FeatureAttributionOutput).",
            content="attribution",
            suffixes=(".inseq.json", ".inseq.json.gz"),
            read=read,
            write=write,
            handles=handles,
            params=(SEQUENCE, AGGREGATION),
        )
    ]
