"""Every head as a small picture and one head at full size: which earlier tokens each position reads.

Shows AttentionPattern. The page gets small pictures of all heads and the weights of one; other heads come on demand.
Of a long text it gets the largest weight of each block of tokens, and the exact ones of what is looked at on demand.
Bright is not important by itself: a head may rest on the first token when it has nothing to do (an attention sink).

Received attention of a key is Σ_q A[q, k] over the queries that may see it, divided by what a uniform head would give
there; without that correction early keys always win. Focus of a query is 1 − H(q) / log2 n(q).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import AttentionPattern, BadInput, Finding, Renderer, View, hookimpl
from attnviz.plugins.renderers._assets import note_data, pack, script, style, token_data, token_spans, window_of
from attnviz.plugins.renderers._labels import layer_names, layer_title

THUMBNAIL_BYTES = 120_000  # of all small pictures together, before compression
CELLS = 300_000  # weights of one head that a page gets; of a larger map it gets the largest of each block
CELLS_IN_PART = 1_000_000  # exact weights that a page gets at once
CELLS_IN_FILE = 4_000_000  # the same of an offline file, which cannot ask for more
SINK_SHARE = 0.3  # mean weight on the first token from which the scale starts as log10
LEARNED_SINK = (
    "Column at the right: the share of each row that a learned sink takes, which is no token. Focus and received "
    "attention count the weight on tokens only, and the small pictures do not show it."
)
PRECISION = (
    "Weights are rounded to 4 decimals (5 below 0.001, 6 below 0.0001): at most 0.00005 off. Bars: focus of each query,"
    " 1 − entropy / log₂ n; attention received by each key (√ scale), dashed line = as from a uniform head; both from"
    " unrounded weights."
)
HALF_PRECISION = f"Kept in half precision (at most 0.00025 off). {PRECISION}"


def encode(weights: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Weights [Q, K] as codes of fixed decimals: 6 below 0.0001, 5 below 0.001, 4 above; largest error 0.00005.

    Code 0..100 = millionths; 100..190 = hundred-thousandths + 90; 190..10180 = ten-thousandths + 180.

    Raises:
        BadInput: a weight that is not a number in 0..1.
    """
    exact = np.asarray(weights, np.float64)
    if not np.isfinite(exact).all() or exact.min(initial=0.0) < 0 or exact.max(initial=0.0) > 1.001:
        raise BadInput(f"Attention weights: expected numbers from 0 to 1, got {exact.min()} to {exact.max()}.")
    fine = np.rint(exact * 1e6)
    middle = np.rint(exact * 1e5) + 90
    coarse = np.rint(exact * 1e4) + 180
    return np.where(exact < 1e-4, fine, np.where(exact < 1e-3, middle, coarse)).astype(np.uint16)


def decode(codes: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The weights that `encode` stored."""
    code = codes.astype(np.float64)
    return np.where(code <= 100, code / 1e6, np.where(code <= 190, (code - 90) / 1e5, (code - 180) / 1e4))


def window_mask(result: AttentionPattern, layer: int | None = None) -> NDArray[np.bool_] | None:
    """[Q, K] keys a query may see, where that is not all or all up to itself; of a layer of `every`, if given."""
    if layer is None:
        return result.visible
    return None if result.every_visible is None else result.every_visible[layer]


def allowed(result: AttentionPattern, layer: int | None = None) -> NDArray[np.bool_]:
    """[Q, K] True where the query may see the key and the key is not left out as a sink.

    layer   of a head in `every`; None = the pattern itself
    """
    queries, keys = result.weights.shape
    mask = window_mask(result, layer)
    first_query, first_key = (0 if span is None else span[0] for span in (result.rows, result.columns))
    shape = np.ones((queries, keys), bool)
    may: NDArray[np.bool_] = np.tril(shape, first_query - first_key) if result.causal else shape
    may = may if mask is None else mask.copy()
    may[:, [k - first_key for k in result.sinks if first_key <= k < first_key + keys]] = False
    return may


def focus(weights: NDArray[np.floating[Any]], may: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[Q] 1 − H(q) / log2 n(q), n(q) = keys the query may see; NaN where n(q) < 2."""
    p = np.where(may, weights, 0.0).astype(np.float64)
    entropy = -np.sum(p * np.log2(p, out=np.zeros_like(p), where=p > 0), axis=1)  # [Q] bits
    count = may.sum(axis=1)
    longest = np.log2(count, out=np.full(len(count), np.nan), where=count >= 2)
    return np.asarray(1 - entropy / longest, np.float32)


def received(weights: NDArray[np.floating[Any]], may: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[K] Σ_q A[q, k] over the queries that may see k, divided by Σ_q 1/n(q) over the same; NaN where none may."""
    p = np.where(may, weights, 0.0).astype(np.float64)
    count = np.maximum(may.sum(axis=1), 1)
    uniform = (may / count[:, None]).sum(axis=0)  # [K] what a uniform head would give
    ratio: NDArray[np.float64] = np.full(p.shape[1], np.nan)
    np.divide(p.sum(axis=0), uniform, out=ratio, where=uniform > 0)
    return ratio.astype(np.float32)


def first_tokens(finding: Finding, keys: range) -> list[int]:
    """The first of these keys and the control tokens right behind it, where attention rests when a head has nothing to
    do; empty where the keys do not begin with what the model (or its decoder) reads first.
    """
    tokens = finding.tokens
    if keys.start not in (0, tokens.decoder_from):
        return []
    stop = keys.start + 1
    while stop < keys.stop and tokens.special[keys.start : stop + 1].all():
        stop += 1
    return list(range(keys.start, min(stop, max(keys.stop - 1, keys.start))))


def shrink(pictures: NDArray[np.uint8], edge: int) -> NDArray[np.uint8]:
    """[L, H, n, m] so that no side is longer than `edge`: the largest value of each block; thin lines survive."""
    longest = max(pictures.shape[2:])
    if longest <= edge:
        return pictures
    for axis in (2, 3):
        count = pictures.shape[axis]
        starts = np.linspace(0, count, max(1, round(count * edge / longest)) + 1).astype(int)[:-1]
        pictures = np.maximum.reduceat(pictures, starts, axis=axis)
    return pictures


def small_pictures(result: AttentionPattern, edge: int) -> tuple[NDArray[np.uint8], list[list[int]] | None]:
    """[L, H, n, m] no side longer than `edge`, and [L, 2] how much of each layer's is used, where they differ."""
    if result.thumbnail_sizes is None:
        return shrink(result.thumbnails, edge), None
    layers, heads = result.thumbnails.shape[:2]
    used = [
        shrink(result.thumbnails[layer : layer + 1, :, :rows, :columns], edge)
        for layer, (rows, columns) in enumerate(result.thumbnail_sizes.tolist())
    ]
    sizes = [list(picture.shape[2:]) for picture in used]
    pictures = np.zeros((layers, heads, *np.max(sizes, axis=0)), np.uint8)
    for layer, picture in enumerate(used):
        pictures[layer, :, : picture.shape[2], : picture.shape[3]] = picture[0]
    return pictures, sizes


def block_of(shape: tuple[int, ...], cells: int) -> int:
    """Edge of the blocks in which a map of this shape has at most so many cells; 1 = the map itself."""
    block = 1
    while -(-shape[0] // block) * -(-shape[1] // block) > cells:
        block += 1
    return block


def largest_of_blocks(weights: NDArray[np.floating[Any]], block: int) -> NDArray[np.floating[Any]]:
    """[Q, K] to [⌈Q/block⌉, ⌈K/block⌉]: the largest weight of each block."""
    if block == 1:
        return weights
    for axis in (0, 1):
        weights = np.maximum.reduceat(weights, np.arange(0, weights.shape[axis], block), axis=axis)
    return weights


def head_data(
    weights: NDArray[np.floating[Any]],
    layer: int | str,
    head: int | str,
    finding: Finding,
    *,
    share: NDArray[np.floating[Any]] | None = None,
    of_every: bool = False,
    cells: int = CELLS,
) -> dict[str, Any]:
    """What the page needs to draw one head: the one the result is about, or (of_every) another it carries.

    share   [Q] what a learned sink takes of each row, or None
    cells   a map of more is given as the largest weight of each block; without what goes by single weights
    """
    result = _checked(finding)
    queries, keys = token_spans(finding, result)
    place = int(layer) if of_every else None
    may, window = allowed(result, place), window_mask(result, place)
    block = block_of(weights.shape, cells)
    first = [k for k in first_tokens(finding, keys) if k not in result.sinks] if block == 1 else []
    notes = note_data(result)
    return {
        "layer": layer,
        "head": head,
        "rows": [queries.start, queries.stop],
        "columns": [keys.start, keys.stop],
        "causal": result.causal,
        "first_tokens": first,
        "block": block,
        "codes": pack(encode(largest_of_blocks(weights, block))),
        "sink": None if share is None else pack(encode(share)),
        "focus": pack(focus(weights, may)),
        "received": pack(received(weights, may)),
        "window": None if window is None or block > 1 else pack(window.astype(np.uint8)),
        "rest": pack(_rest(weights, may, [k - keys.start for k in first], share)) if first else None,
        "precision": PRECISION,
        **notes,
        "info": notes["info"] + ([] if share is None else [LEARNED_SINK]),
    }


def _rest(
    weights: NDArray[np.floating[Any]],
    may: NDArray[np.bool_],
    first: list[int],
    share: NDArray[np.floating[Any]] | None,
) -> NDArray[np.float32]:
    """[Q] what remains of each row without these columns, the learned sink included."""
    kept = may.copy()
    kept[:, first] = False
    rest = np.where(kept, weights, 0.0).sum(axis=1, dtype=np.float64)
    return np.asarray(rest if share is None else rest + share, np.float32)


def detail(finding: Finding, cells: int = CELLS) -> dict[str, Any]:
    """One head, for a page that already shows the others."""
    result = _checked(finding)
    return head_data(result.weights, result.layer, result.head, finding, share=result.sink_share, cells=cells)


def part(finding: Finding, what: Mapping[str, Any]) -> dict[str, Any]:
    """The exact weights of a window of the map. `what`: {"rows": [start, stop], "columns": [start, stop]}, positions.

    Raises:
        BadInput: positions that are not within the map, or too many at once.
    """
    result = _checked(finding)
    queries, keys = token_spans(finding, result)
    rows, columns = window_of(what, "rows", queries), window_of(what, "columns", keys)
    if len(rows) * len(columns) > CELLS_IN_PART:
        raise BadInput(f"{len(rows)} × {len(columns)} weights are too many: at most {CELLS_IN_PART} at once.")
    inside = (
        slice(rows.start - queries.start, rows.stop - queries.start),
        slice(columns.start - keys.start, columns.stop - keys.start),
    )
    window = window_mask(result)
    return {
        "rows": [rows.start, rows.stop],
        "columns": [columns.start, columns.stop],
        "codes": pack(encode(result.weights[inside])),
        "window": None if window is None else pack(window[inside].astype(np.uint8)),
    }


def _checked(finding: Finding) -> AttentionPattern:
    result = finding.result
    if not isinstance(result, AttentionPattern):
        raise BadInput(f"attention_grid: expected an attention_pattern, got {result.kind}.")
    return result


def _every(finding: Finding, result: AttentionPattern, cells: int) -> list[list[dict[str, Any] | None]] | None:
    if result.every is None:
        return None
    layers, heads = result.every.shape[:2]
    return [[_kept_head(finding, result, layer, head, cells) for head in range(heads)] for layer in range(layers)]


def _kept_head(finding: Finding, result: AttentionPattern, layer: int, head: int, cells: int) -> dict[str, Any] | None:
    """A head of `every`; what was said of the head the result is about is marked as such."""
    if result.every is None or layer in result.missing or not result.thumbnails[layer, head].any():
        return None
    share = None if result.every_sink_share is None else result.every_sink_share[layer, head]
    if share is not None and np.isnan(share).any():  # this layer has no learned sink
        share = None
    first = _of_head(finding, result.layer, result.head)
    said = f"Said when this was saved with {first[:1].lower()}{first[1:]}:"
    data = head_data(result.every[layer, head], layer, head, finding, share=share, of_every=True, cells=cells)
    own = [] if share is None else [LEARNED_SINK]
    info = [f"{_of_head(finding, layer, head)}.", *own, said, *result.info, *result.warnings]
    return data | {"precision": HALF_PRECISION, "info": info, "warnings": []}


def _of_head(finding: Finding, layer: int | str, head: int | str) -> str:
    return f"{layer_title(finding, layer)}, {'mean of heads' if head == 'mean' else f'head {head}'}"


def starting_scale(finding: Finding, result: AttentionPattern) -> str:
    """log10 where the head rests on its first tokens, which would drown everything else; else √."""
    queries, keys = token_spans(finding, result)
    first = first_tokens(finding, keys)
    if not first or set(first) & set(result.sinks):
        return "sqrt"
    later = max(0, first[-1] + 1 - queries.start) if result.causal else 0  # rows that see more than the first tokens
    mass = result.weights[later:, [k - keys.start for k in first]].sum(axis=1)
    return "log10" if mass.size and float(mass.mean()) >= SINK_SHARE else "sqrt"


def render(finding: Finding) -> View:
    """The data of the page: small pictures of all heads, one head in full."""
    return View(kind="script", payload=page_data(finding, CELLS))


def render_file(finding: Finding) -> View:
    """The same for an offline file, which holds more because it cannot ask for it."""
    return View(kind="script", payload=page_data(finding, CELLS_IN_FILE))


def page_data(finding: Finding, cells: int) -> dict[str, Any]:
    """The payload; a map of more cells is given as the largest weight of each block."""
    result = _checked(finding)
    layers, heads = result.thumbnails.shape[:2]
    edge = max(12, int((THUMBNAIL_BYTES / max(layers * heads, 1)) ** 0.5))
    pictures, sizes = small_pictures(result, edge)
    return {
        **token_data(finding),
        "layers": layers,
        "layer_names": layer_names(finding, layers),
        "heads": heads,
        "thumbnails": pack(pictures),
        "thumbnail_sizes": sizes,
        "missing": {str(layer): reason for layer, reason in sorted(result.missing.items())},
        "sinks": list(result.sinks),
        "transform": starting_scale(finding, result),
        "head": detail(finding, cells),
        "every": _every(finding, result, cells),
    }


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The interactive attention view."""
    return [
        Renderer(
            name="attention_grid",
            title="All heads",
            accepts=(AttentionPattern,),
            produces="script",
            render=render,
            detail=detail,
            part=part,
            script=script("_tokens", "_heat", "attention_grid"),
            style=style("attention_grid"),
            order=10,
        )
    ]
