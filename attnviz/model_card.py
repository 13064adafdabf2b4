"""What is known of a model before any run: its card, what runs of some lengths will take, which analyses it allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from attnviz.errors import BadInput, Unavailable
from attnviz.hooks import Estimate, Estimating, LayerCard, ModelCard, Want, to_jsonable
from attnviz.session import LoadedModel

COUNTS = (128, 1024, 4096)
"""Tokens of the runs that are estimated where nobody asks for others."""
MOST_TOKENS = 100_000_000
NOTHING = "–"
OPTIONAL = {"Window", "Experts"}
"""Columns of the table of layers that many models have nothing for."""
ROUTES: Mapping[str, str] = MappingProxyType(
    {"interface": "recomputed from queries and keys", "eager": "maps that the model itself returns", "none": "none"}
)

Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Expected:
    """What a run of so many tokens will take, of the attention that every analysis can use; or why it is not known.

    decoder_from   first token that the decoder reads, of a model with encoder and decoder; else None
    """

    tokens: int
    estimate: Estimate | None = None
    reason: str = ""
    decoder_from: int | None = None


@dataclass(frozen=True, repr=False)
class Description:
    """Everything known of a model before any run. `print` shows it; `to_jsonable` is the JSON of the command line.

    analyses   name of every registered analysis -> None if the model allows it, else why not
    """

    model: str
    card: ModelCard
    estimates: tuple[Expected, ...]
    analyses: Mapping[str, str | None]

    def to_jsonable(self) -> dict[str, Any]:
        """Plain data: model, card, estimates, analyses."""
        card = to_jsonable(self.card)
        card["layers"] = [
            {"name": layer.name, **plain} for layer, plain in zip(self.card.layers, card["layers"], strict=True)
        ]
        return {
            "model": self.model,
            "card": card,
            "estimates": [_estimate_json(expected) for expected in self.estimates],
            "analyses": dict(self.analyses),
        }

    def __str__(self) -> str:
        lines = [summary(self.model, self.card), "", *_aligned((), facts(self.card))]
        for columns, rows in (layer_table(self.card), estimate_table(self.estimates), analysis_table(self.analyses)):
            lines += ["", *_aligned(columns, rows)]
        return "\n".join(lines)

    __repr__ = __str__


def describe(model: LoadedModel, tokens: Iterable[int] = COUNTS) -> Description:
    """What is known of a loaded model.

    Args:
        tokens: lengths of the runs to estimate.

    Raises:
        BadInput: a length that is no whole number from 1.
    """
    counts = checked_counts(tokens)
    return replace(described(model), estimates=tuple(_expected(model, count) for count in counts))


def described(model: LoadedModel) -> Description:
    """What the card says alone, without estimates; loads nothing."""
    session = model.session
    analyses = {name: session.check(analysis, model.card) for name, analysis in session.registry.analyses.items()}
    return Description(model.name, model.card, (), analyses)


def checked_counts(counts: Iterable[Any]) -> list[int]:
    """Each length once, in order. Raises BadInput for one that is no whole number from 1 to MOST_TOKENS."""
    checked = list(dict.fromkeys(counts))
    for count in checked:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_TOKENS:
            raise BadInput(f"Tokens: expected a whole number from 1 to {MOST_TOKENS:,}, got {count!r:.40}.")
    return checked


def _expected(model: LoadedModel, count: int) -> Expected:
    card = model.card
    decoder_from = (count + 1) // 2 if _has_decoder(card) else None
    if reason := _beyond(card, count, decoder_from):
        return Expected(count, None, reason, decoder_from)
    loaded = model.session.model(model.spec)
    if not isinstance(loaded, Estimating):
        return Expected(count, None, "This model does not say.", decoder_from)
    try:
        return Expected(count, loaded.estimate(count, Want(), decoder_from), "", decoder_from)
    except Unavailable as error:
        return Expected(count, None, str(error), decoder_from)


def _has_decoder(card: ModelCard) -> bool:
    """Whether a run is of source and target."""
    return any(layer.kind == "cross" for layer in card.layers)


def _beyond(card: ModelCard, count: int, decoder_from: int | None) -> str:
    """Why the model cannot read so many tokens, or nothing."""
    target = count - (decoder_from or 0)
    if target < 1:
        return "Too short: a run of this model has at least one token for the encoder and one for the decoder."
    if card.positions is not None and target > card.positions:
        whose = "this model" if decoder_from is None else "its decoder"
        return f"More than the {card.positions:,} positions of {whose}."
    if decoder_from is not None and card.source_positions is not None and decoder_from > card.source_positions:
        return f"More than the {card.source_positions:,} positions of its encoder."
    return ""


def _estimate_json(expected: Expected) -> dict[str, Any]:
    """All fields always: those of the estimate are null where there is none, and `reason` is null where there is."""
    names = ("bytes", "peak", "seconds", "precision")
    found = {name: to_jsonable(getattr(expected.estimate, name, None)) for name in names}
    known = {"tokens": expected.tokens, "decoder_from": expected.decoder_from}
    return {**known, **found, "reason": expected.reason or None}


# --------------------------------------------------------------------------------------------- tables


def summary(name: str, card: ModelCard) -> str:
    """A model in one line."""
    attending = [layer.heads for layer in card.layers if layer.kind not in ("none", "linear")]
    heads = sorted(set(attending)) or [0]
    shown = str(heads[0]) if len(heads) == 1 else f"{heads[0]} to {heads[-1]}"
    size = f"{short_number(card.parameters)} param. · " if card.parameters >= 0 else ""
    return f"{name} · {len(card.layers)} layers × {shown} heads · {size}{card.device}"


def parameters_in_words(card: ModelCard) -> str:
    """How many; a run that was read from a file does not say."""
    return f"{card.parameters:,} parameters" if card.parameters >= 0 else "number of parameters not known"


def vocabulary_in_words(card: ModelCard) -> str:
    """Its size; a model that reads numbers has none, and a run that was read from a file does not say."""
    if card.parameters < 0:
        return "vocabulary not known"
    return f"vocabulary {card.vocabulary:,}" if card.vocabulary else "numbers, no vocabulary"


def facts(card: ModelCard) -> Rows:
    """(what, in words) of everything but layers, estimates and analyses."""
    reads = _at_most(card.positions)
    sees = "itself and earlier ones (causal)" if card.causal else "every token (not causal)"
    if _has_decoder(card):
        sees = "in the encoder every token of the source; in the decoder that, itself and earlier ones"
        reads = f"a source of {_at_most(card.source_positions)}, a target of {reads}"
    rows = [
        ("Architecture", f"{card.architecture}, {parameters_in_words(card)}, {card.dtype} on {card.device}"),
        ("Reads", f"{reads}, {vocabulary_in_words(card)}"),
        ("A token sees", sees),
        ("Attention", f"{ROUTES.get(card.route, card.route)} (route {card.route}): {card.route_reason}"),
        ("Gives", ", ".join(sorted(card.capabilities)).replace("_", " ") or "nothing"),
        *([("Ends", f"an answer ends with id {' or '.join(map(str, card.ends))}")] if card.ends else []),
        *((f"No {name.replace('_', ' ')}", reason) for name, reason in sorted(card.missing.items())),
        *(("Note", note) for note in card.notes),
    ]
    return tuple([*rows, ("Weights", card.weights_digest)] if card.weights_digest else rows)


def _at_most(positions: int | None) -> str:
    return f"at most {positions:,} tokens" if positions else "any number of tokens"


def layer_table(card: ModelCard, every: bool = False) -> tuple[tuple[str, ...], Rows]:
    """(columns, rows): one row for all layers that are alike, or one for `every` layer. Empty columns are left out."""
    groups = [[layer] for layer in card.layers] if every else _alike(card.layers)
    columns = ("Layers", "Attention", "Heads", "KV heads", "Window", "Experts", "Count")
    rows = [(_names(g), g[0].kind, *map(_cell, _numbers(g[0])), str(len(g))) for g in groups]
    unused = {name for at, name in enumerate(columns) if all(row[at] == NOTHING for row in rows)} & OPTIONAL
    unused |= {"Count"} if every else set()
    kept = [at for at, name in enumerate(columns) if name not in unused]
    return tuple(columns[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)


def _alike(layers: Iterable[LayerCard]) -> list[list[LayerCard]]:
    """Layers that differ in nothing but their place, also where others stand between them."""
    groups: dict[LayerCard, list[LayerCard]] = {}
    for layer in layers:
        groups.setdefault(replace(layer, index=0, number=None), []).append(layer)
    return list(groups.values())


def _numbers(layer: LayerCard) -> tuple[int | None, ...]:
    """Heads, key heads, window, experts; a layer without maps has no heads that anything could show."""
    heads = (None, None) if layer.kind in ("none", "linear") else (layer.heads, layer.kv_heads)
    return *heads, layer.window, layer.experts


def _cell(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def _names(layers: Sequence[LayerCard]) -> str:
    """ "0–2, 4–6", or "encoder 0–5" where there are several stacks."""
    if len(layers) == 1:
        return layers[0].name
    numbers = [layer.index if layer.number is None else layer.number for layer in layers]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    said = ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in runs)
    return f"{layers[0].stack} {said}".strip()


def estimate_table(estimates: Sequence[Expected]) -> tuple[tuple[str, ...], Rows]:
    """(columns, rows): what runs will take."""
    columns = ("Tokens", "Memory held", "Peak", "Time", "Detail")
    rows = []
    for expected in estimates:
        found = expected.estimate
        if found is None:
            rows.append((f"{expected.tokens:,}", NOTHING, NOTHING, NOTHING, expected.reason))
        else:
            known = math.isfinite(found.seconds)
            time = f"about {duration(found.seconds)}" if known else "not known"
            half = "" if expected.decoder_from is None else "; half of them read by the encoder, half by the decoder"
            row = (f"{expected.tokens:,}", size(found.bytes), size(found.peak), time, found.precision + half)
            rows.append(row)
    return columns, tuple(rows)


def analysis_table(analyses: Mapping[str, str | None]) -> tuple[tuple[str, ...], Rows]:
    """(columns, rows): every analysis, and whether the model allows it."""
    return ("Analysis", "Available"), tuple((name, reason or "yes") for name, reason in analyses.items())


def _aligned(columns: tuple[str, ...], rows: Rows) -> list[str]:
    """A table in plain text; the last column is as long as it likes."""
    lines = [columns, *rows] if columns else list(rows)
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))] if lines else []
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


# --------------------------------------------------------------------------------------------- numbers in words


def short_number(number: int) -> str:
    """1336960 -> "1.34 M"."""
    for unit_size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= unit_size:
            return f"{number / unit_size:.3g} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """0.0034 -> "3 ms", 2.5 -> "2.5 s", 600 -> "10 min"."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def size(count: int) -> str:
    """Bytes: 946176 -> "946 kB"."""
    for unit_size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit_size:
            return f"{count / unit_size:.3g} {unit}"
    return f"{count} bytes"
