"""What a backend promises of its models: rows sum to 1, no weight on later tokens, statistics equal to brute force,
a lens that ends in the model itself, and a torch module that is left as it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import (
    CAPABILITIES,
    AttnvizError,
    Backend,
    BadInput,
    Differentiable,
    DifferentiableMaps,
    Floats,
    LayerCapture,
    LayerCard,
    LensTable,
    LiveRow,
    Model,
    ModelCard,
    ModelSpec,
    ReadsNumbers,
    Sampling,
    Tokens,
    Trace,
    Unavailable,
    Want,
)
from attnviz.testing.captures import attention, brute_force, ranked, thumbnail, visibility
from attnviz.testing.require import as_json, require

ROWS = 1e-5
"""Allowed error of a row sum and of a recomputed weight (float32)."""
STATISTICS = 2e-5
"""Allowed error of a row statistic; of a column sum, per row that enters it."""
LENS = 1e-3
"""Allowed error of derived lens numbers (bits, probabilities)."""


PROMPT = "one two three one two three"


def check_backend(backend: Backend, spec: ModelSpec, prompt: str | NDArray[Any] = PROMPT) -> Model:
    """Load a model it says it can load, and check it; returns the model. The prompt: see `check_model`."""
    nonsense = backend.handles(ModelSpec("/no/such/folder/anywhere"))
    require(
        nonsense is None or bool(nonsense), f"Backend {backend.name}: `handles` must give None or a reason in words."
    )
    reason = backend.handles(spec)
    require(reason is None, f"Backend {backend.name}: it cannot load {spec.source!r}: {reason}")
    model = backend.load(spec)
    require(isinstance(model, Model), f"Backend {backend.name}: what it loads lacks a method of the Model protocol.")
    check_model(model, prompt)
    return model


def check_model(model: Model, prompt: str | NDArray[Any] = PROMPT) -> None:
    """Check everything the capabilities on the card promise, on one short prompt.

    prompt   a text, or an array for a model that reads numbers
    """
    _check_card(model.card)
    if isinstance(prompt, str):
        tokens = model.tokenize(prompt)
        _check_tokens(model, tokens)
    else:
        tokens = _tokens_of(model, prompt)
    with _left_as_found(model):
        if "attention" in model.card.capabilities:
            _check_trace(model, tokens)
        else:
            _unavailable("trace", lambda: model.trace(tokens, Want()))
    if {"hidden_states", "logits"} <= model.card.capabilities and model.card.causal:
        with _left_as_found(model):
            _check_lens(model, tokens)
    if "gradients" in model.card.capabilities:
        with _left_as_found(model):
            _check_gradients(model, tokens)
    if "generation" in model.card.capabilities:
        with _left_as_found(model):
            _check_generation(model, tokens)


# --------------------------------------------------------------------------------------------- card and text


def _check_card(card: ModelCard) -> None:
    unknown = card.capabilities - CAPABILITIES
    require(not unknown, f"Card: unknown capabilities {sorted(unknown)}.")
    unexplained = {c for c in CAPABILITIES - card.capabilities if not card.missing.get(c)}
    require(not unexplained, f"Card: no reason in `missing` for lacking {sorted(unexplained)}.")
    require(
        card.route in ("interface", "eager", "none"), f"Card: route {card.route!r} is not interface, eager or none."
    )
    require(bool(card.route_reason), "Card: no route_reason.")
    indices = [layer.index for layer in card.layers]
    require(indices == list(range(len(indices))), f"Card: layers are numbered {indices}, expected 0, 1, 2 ….")
    for layer in card.layers:
        require(
            layer.heads == 0 or (layer.kv_heads > 0 and layer.heads % layer.kv_heads == 0),
            f"Card: layer {layer.index} has {layer.heads} heads over {layer.kv_heads} key heads.",
        )


def _check_tokens(model: Model, tokens: Tokens) -> None:
    require(len(tokens) > 1, f"tokenize: expected several tokens of the prompt, got {len(tokens)}.")
    low, high = int(tokens.ids.min()), int(tokens.ids.max())
    least = 0 if tokens.values is None else -1  # a token that stands for numbers has no id
    require(low >= least and high < model.card.vocabulary, f"tokenize: ids {low} to {high} leave the vocabulary.")
    spans = tokens.offsets[tokens.offsets[:, 0] >= 0]
    inside = (spans[:, 0] <= spans[:, 1]) & (spans[:, 1] <= len(tokens.text))
    require(bool(inside.all()), "tokenize: a character span leaves the text.")
    require(
        all(model.label(int(i)) is not None for i in tokens.ids), "label: it must give a text for every id of a run."
    )
    try:
        model.tokenize("")
    except BadInput:
        return
    raise AssertionError("tokenize: expected BadInput for an empty text, got tokens.")


def _tokens_of(model: Model, values: NDArray[Any]) -> Tokens:
    """Tokens of an array; a text and arrays that cannot be read are refused in words."""
    require(isinstance(model, ReadsNumbers), "tokenize_values: a model that reads numbers must have it.")
    assert isinstance(model, ReadsNumbers)
    tokens = model.tokenize_values(values)
    require(
        tokens.values is not None and tokens.values.shape == values.shape,
        f"tokenize_values: expected the array of shape {values.shape} in Tokens.values.",
    )
    require(len(tokens) > 1, f"tokenize_values: expected several tokens of the array, got {len(tokens)}.")
    numbers = tokens.ids[: tokens.decoder_from]
    require(bool((numbers == -1).all()), "tokenize_values: a token that stands for numbers has the id -1.")
    bad = values.astype(np.float64)
    bad.flat[0] = np.nan
    readers: dict[str, Callable[[], Tokens]] = {
        "a text": lambda: model.tokenize("one"),
        "NaN": lambda: model.tokenize_values(bad),
    }
    for what, read in readers.items():
        try:
            read()
        except BadInput:
            continue
        raise AssertionError(f"A model that reads numbers must refuse {what} as BadInput.")
    return tokens


# --------------------------------------------------------------------------------------------- attention


def _check_trace(model: Model, tokens: Tokens) -> None:
    trace = model.trace(tokens, Want())
    again = model.trace(tokens, Want())
    cards = model.card.layers
    require(len(trace.layers) == len(cards), f"trace: expected {len(cards)} layers, got {len(trace.layers)}.")
    for card, layer, same in zip(cards, trace.layers, again.layers, strict=True):
        if layer is None:
            require(
                card.kind in ("linear", "none") or bool(trace.missing.get(card.index)),
                f"Layer {card.index}: no attention and no reason.",
            )
            continue
        _check_layer(card, layer, tokens)
        require(same is not None and _equal(layer, same), f"Layer {card.index}: two traces of the same ids differ.")
    first = next((i for i, layer in enumerate(trace.layers) if layer is not None), None)
    require(first is not None, "trace: the card promises attention, and no layer has any.")
    assert first is not None
    one = model.trace(tokens, Want(layers=(first,)))
    require(one.layers[first] is not None, f"trace: layer {first} was asked for alone, and did not come.")
    _check_extras(model, tokens)
    _check_refusal(trace)


def _check_extras(model: Model, tokens: Tokens) -> None:
    """What is only kept when it is asked for: the largest weights, and the norms of values or why there are none."""
    for index, layer in enumerate(model.trace(tokens, Want(top_k=3, values=True)).layers):
        if layer is None:
            continue
        where = f"Layer {index}"
        require(
            layer.value_norm is not None or bool(layer.absent.get("value_norm")),
            f"{where}: the norms of values were asked for; expected value_norm, or a reason in `absent`.",
        )
        require(
            layer.top_weights is not None and layer.top_keys is not None,
            f"{where}: the largest weights were asked for, and did not come.",
        )
        assert layer.top_weights is not None
        assert layer.top_keys is not None
        weights = np.stack([layer.pattern(head) for head in range(layer.heads)])
        _near(f"{where}: largest weights against a sort", layer.top_weights, ranked(weights, 3)[0], ROWS)
        listed = layer.top_keys >= 0
        taken = np.take_along_axis(weights, np.maximum(layer.top_keys, 0), axis=-1)
        _near(f"{where}: weights of the largest keys", taken[listed], layer.top_weights[listed], ROWS)


def _check_refusal(trace: Trace) -> None:
    try:
        trace.attention(len(trace.layers), 0)
    except AttnvizError:
        return
    raise AssertionError(f"trace: layer {len(trace.layers)} does not exist and was given out.")


def _spans(card: LayerCard, tokens: Tokens) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tokens of the run that are the queries and the keys of a layer."""
    if tokens.decoder_from is None:
        return (0, len(tokens)), (0, len(tokens))
    source, target = (0, tokens.decoder_from), (tokens.decoder_from, len(tokens))
    require(
        card.stack in ("encoder", "decoder", "cross"),
        f"Card: layer {card.index} of a model with encoder and decoder is of the stack {card.stack!r}; expected "
        "encoder, decoder or cross.",
    )
    return (source if card.stack == "encoder" else target), (target if card.stack == "decoder" else source)


def _check_layer(card: LayerCard, layer: LayerCapture, tokens: Tokens) -> None:
    where = f"Layer {card.index}"
    require(layer.heads == card.heads, f"{where}: the card says {card.heads} heads, the trace has {layer.heads}.")
    if layer.k is not None:
        shared = layer.k.shape[0]
        require(shared == card.kv_heads, f"{where}: the card says {card.kv_heads} key heads, the trace has {shared}.")
    queries, keys = len(layer.allowed), len(layer.seen_by)
    for name, span, count in zip(("queries", "keys"), _spans(card, tokens), (queries, keys), strict=True):
        given = getattr(layer, name) or (0, count)
        require(given == span, f"{where}: expected the tokens {span} as {name}, got {given}.")
    seen = visibility(queries, keys, causal=layer.causal)
    if layer.visible is not None:
        seen &= layer.visible
    weights = np.stack([layer.pattern(head) for head in range(layer.heads)])  # [H, Q, K]
    _check_rows(where, card, layer, weights, seen)
    if layer.q is not None and layer.k is not None:
        slow = attention(
            layer.q, layer.k, seen, scale=layer.scale, bias=layer.bias, softcap=layer.softcap, sinks=layer.sinks
        )
        _near(f"{where}: pattern against softmax(scale·q·k)", weights, slow, ROWS)
    _check_statistics(where, layer, weights, seen)


def _check_rows(where: str, card: LayerCard, layer: LayerCapture, weights: Floats, seen: Any) -> None:
    require(bool((weights >= 0).all()), f"{where}: a weight is negative.")
    hidden = weights[:, ~seen]
    require(
        not hidden.any(), f"{where}: weight on a key that the query may not see (largest {hidden.max(initial=0):.2g})."
    )
    sums = weights.sum(axis=-1, dtype=np.float64)[:, seen.any(axis=1)]
    if layer.sinks is None:
        _near(f"{where}: row sums", sums, np.ones_like(sums), ROWS)
    else:
        require(bool((sums <= 1 + ROWS).all()), f"{where}: a row sums to {sums.max():.6f}, more than 1.")
    if card.window is not None and layer.causal:
        q, k = np.arange(seen.shape[0])[:, None], np.arange(seen.shape[1])[None, :]
        outside = weights[:, q - k >= card.window]
        require(not outside.any(), f"{where}: weight beyond the window of {card.window}.")


def _check_statistics(where: str, layer: LayerCapture, weights: Floats, seen: Any) -> None:
    slow = brute_force(weights, seen)
    apart = layer.queries != layer.keys
    if apart:
        require(
            bool(np.isnan(layer.distance).all()) and bool(layer.absent.get("distance")),
            f"{where}: queries and keys are different tokens; expected no distance (NaN), and a reason in `absent`.",
        )
    for name in ("entropy", "row_max", "column_sum") if apart else ("entropy", "row_max", "distance", "column_sum"):
        expected = getattr(slow, name)
        scale = max(1.0, float(np.abs(expected).max(initial=0)))
        _near(f"{where}: {name} against brute force", getattr(layer, name), expected, STATISTICS * scale)
    for name in ("allowed", "seen_by"):
        require(
            bool(np.array_equal(getattr(layer, name), getattr(slow, name))),
            f"{where}: {name} does not fit the mask: expected {getattr(slow, name)}, got {getattr(layer, name)}.",
        )
    edge = max(layer.thumbnail.shape[1:])
    picture = thumbnail(weights, edge)
    require(
        picture.shape == layer.thumbnail.shape and int(np.abs(picture.astype(int) - layer.thumbnail).max()) <= 1,
        f"{where}: the thumbnail is not round(255·√max) over square cells.",
    )


def _equal(a: LayerCapture, b: LayerCapture) -> bool:
    return as_json(a) == as_json(b)


# --------------------------------------------------------------------------------------------- lens


def _check_lens(model: Model, tokens: Tokens) -> None:
    first, last = tokens.decoder_from or 0, len(tokens) - 1
    positions = [first, max(first, last - 1), last]
    targets = [int(tokens.ids[min(first + 1, last)]), int(tokens.ids[-1]), -1]
    top_k = min(3, model.card.vocabulary)
    for sites in ("blocks", "sublayers"):
        try:
            table = model.lens(tokens, positions=positions, top_k=top_k, targets=targets, sites=sites)
        except Unavailable:
            require(sites == "sublayers", "lens: the card promises logits, and there is no lens of the blocks.")
            continue
        _check_table(table, positions, targets, top_k)
    for wrong in ([len(tokens)], [first - 1]):
        _refuses(
            f"lens at position {wrong[0]}",
            lambda at=wrong: model.lens(tokens, positions=at, top_k=1, targets=[-1], sites="blocks"),  # type: ignore[misc]
        )


def _check_table(table: LensTable, positions: Sequence[int], targets: Sequence[int], top_k: int) -> None:
    check = table.self_check
    require(
        check.ok, f"Lens: its last row is not the model's own output (difference {check.max_abs_diff}, KL {check.kl})."
    )
    require(table.sites[-1] == "model", f"Lens: expected the last site to be 'model', got {table.sites[-1]!r}.")
    require(
        table.positions.tolist() == list(positions), f"Lens: expected positions {positions}, got {table.positions}."
    )
    require(table.target_ids.tolist() == list(targets), f"Lens: expected targets {targets}, got {table.target_ids}.")
    require(table.top_ids.shape[2] == top_k, f"Lens: expected {top_k} tokens a cell, got {table.top_ids.shape[2]}.")
    descending = np.diff(table.top_logprobs, axis=-1) <= 0
    require(bool(descending.all()), "Lens: the tokens of a cell are not sorted by probability.")
    for name in ("kl_model_lens", "kl_lens_model", "jensen_shannon", "total_variation"):
        last = getattr(table, name)[-1]
        _near(f"Lens: {name} of the model against itself", last, np.zeros_like(last), LENS)
    for name in ("entropy", "kl_model_lens", "kl_lens_model", "jensen_shannon"):
        require(bool((getattr(table, name) >= -LENS).all()), f"Lens: {name} is negative.")
    top = float(np.exp(table.top_logprobs).sum(axis=-1).max())
    require(top <= 1 + LENS, f"Lens: the listed probabilities of a cell sum to {top:.4f}, more than 1.")
    _check_ranks(table)
    named = {int(i) for i in table.top_ids.ravel()} | {i for i in targets if i >= 0}
    require(named <= set(table.labels), f"Lens: no label for the ids {sorted(named - set(table.labels))[:5]}.")


def _check_ranks(table: LensTable) -> None:
    """A target that is listed has the rank and probability of its place; settles_at is where top-1 stays."""
    sites, count, top_k = table.top_ids.shape
    for p in range(count):
        target = int(table.target_ids[p])
        for site in range(sites):
            rank = int(table.target_rank[site, p])
            if target < 0:
                require(rank == -1, f"Lens: position {table.positions[p]} has no target, but a rank of {rank}.")
                continue
            places = np.flatnonzero(table.top_ids[site, p] == target)
            listed = table.top_logprobs[site, p]
            if len(places):
                _near(
                    "Lens: log-probability of a listed target", table.target_logprob[site, p], listed[places[0]], LENS
                )
                fits = rank <= places[0]
            else:
                fits = rank >= top_k or table.target_logprob[site, p] == listed[-1]
            require(bool(fits), f"Lens: rank {rank} of target {target} does not fit the tokens listed at that cell.")
        winner = table.top_ids[-1, p, 0]
        agrees = table.top_ids[:, p, 0] == winner
        since = sites - int(np.argmin(np.append(agrees[::-1], False)))
        require(
            int(table.settles_at[p]) <= since,
            f"Lens: position {table.positions[p]} settles at site {since}, not at {table.settles_at[p]}.",
        )
        require(
            int(table.settles_in_top5[p]) <= int(table.settles_at[p]),
            "Lens: a token cannot settle in the top 1 before it settles in the top 5.",
        )


# --------------------------------------------------------------------------------------------- gradients


def _check_gradients(model: Model, tokens: Tokens) -> None:
    """From embeddings the model says what its lens says of itself, and gradients go to what comes before only."""
    import torch

    require(isinstance(model, Differentiable), "gradients: the card promises them, and a method of them is missing.")
    assert isinstance(model, Differentiable)
    count, split = len(tokens), tokens.decoder_from
    first, last = split or 0, max(split or 0, count - 2)
    with torch.enable_grad():
        parts = [model.embed(tokens.ids[:split])]
        parts += [] if split is None else [model.embed(tokens.ids[split:], decoder=True)]
        embeddings = torch.cat(parts)[None].detach().requires_grad_()  # [1, T, d]
        require(embeddings.shape[1] == count, f"embed: expected {count} embeddings, got {embeddings.shape[1]}.")
        states = model.states(embeddings, tokens, [first, last])
        require(tuple(states.shape[:2]) == (1, 2), f"states: expected [1, 2, d], got {list(states.shape)}.")
        logprobs = torch.log_softmax(model.unembed(states), dim=-1)
        (gradient,) = torch.autograd.grad(logprobs[0, 1, int(tokens.ids[-1])], embeddings)
    require(bool(gradient.isfinite().all()), "gradients: some are no finite numbers.")
    require(bool(gradient[0, : last + 1].any()), "gradients: none arrives at a token that comes before.")
    if not model.reads_ahead:
        require(not bool(gradient[0, last + 1 :].any()), "gradients: one arrives at a later token.")
    require(model.variants(count) >= 1, f"variants: expected 1 or more, got {model.variants(count)}.")
    if {"hidden_states", "logits"} <= model.card.capabilities:
        table = model.lens(tokens, positions=[first, last], top_k=1, targets=[-1, -1], sites="blocks")
        top = logprobs[0].gather(-1, torch.tensor(table.top_ids[-1], device=logprobs.device))
        _near("unembed: log-probabilities against the lens", top.detach().cpu(), table.top_logprobs[-1], LENS)
    if isinstance(model, DifferentiableMaps) and "attention" in model.card.capabilities and split is None:
        _check_maps_of_gradients(model, tokens, embeddings.detach())


def _check_maps_of_gradients(model: DifferentiableMaps, tokens: Tokens, embeddings: Any) -> None:
    """The weights that gradients are taken of are those of a trace."""
    import torch

    assert isinstance(model, Model)
    with torch.enable_grad():
        _, maps = model.states_and_maps(embeddings.clone().requires_grad_(), tokens, [len(tokens) - 1])
    for index, layer in enumerate(model.trace(tokens, Want()).layers):
        require(
            (index in maps) == (layer is not None), f"states_and_maps: it disagrees with the trace about layer {index}."
        )
        for head in range(0 if layer is None else layer.heads):
            assert layer is not None
            where = f"states_and_maps: layer {index}, head {head} against the trace"
            _near(where, maps[index][0, head].detach().float().cpu(), layer.pattern(head), ROWS)


# --------------------------------------------------------------------------------------------- generation


def _check_generation(model: Model, tokens: Tokens) -> None:
    heard: list[int] = []
    sampling = Sampling(max_new_tokens=4)
    answer = model.generate(tokens, sampling, on_token=heard.append)
    require(
        bool(np.array_equal(answer.ids[: len(tokens)], tokens.ids)),
        "generate: the answer does not begin with the prompt.",
    )
    new = [int(i) for i in answer.ids[len(tokens) :]]
    require(0 < len(new) <= 4, f"generate: expected 1 to 4 new tokens, got {len(new)}.")
    require(heard == new, f"generate: on_token heard {heard}, the answer has {new}.")
    again = model.generate(tokens, sampling)
    require(bool(np.array_equal(again.ids, answer.ids)), "generate: two greedy answers to the same prompt differ.")
    seeded = Sampling(max_new_tokens=4, temperature=1.0, seed=7)
    first, second = model.generate(tokens, seeded), model.generate(tokens, seeded)
    require(bool(np.array_equal(first.ids, second.ids)), "generate: two answers sampled with one seed differ.")
    stopped = model.generate(tokens, Sampling(max_new_tokens=8), cancelled=lambda: True)
    require(len(stopped) - len(tokens) <= 2, f"generate: {len(stopped) - len(tokens)} tokens after it was cancelled.")
    _check_stop(model, tokens, answer)
    if "attention" in model.card.capabilities:
        _check_rows_of_answer(model, tokens, answer)
    _passes_on(model, tokens)


def _check_rows_of_answer(model: Model, tokens: Tokens, answer: Tokens) -> None:
    """Each new token comes with the row it was chosen from: that of a trace over prompt and answer."""
    rows: list[LiveRow] = []
    heard = model.generate(tokens, Sampling(max_new_tokens=4), on_row=rows.append)
    require(bool(np.array_equal(heard.ids, answer.ids)), "generate: the answer is another one when on_row listens.")
    places = [(row.position, row.id) for row in rows]
    expected = [(i, int(answer.ids[i])) for i in range(len(tokens), len(answer))]
    require(places == expected, f"generate: on_row got (position, id) {places}, expected {expected}.")
    trace = model.trace(answer, Want())
    for row in rows:
        shape = (len(trace.layers), trace.heads, row.position)
        require(row.weights.shape == shape, f"generate: on_row got weights {row.weights.shape}, expected {shape}.")
        for index, (card, layer) in enumerate(zip(model.card.layers, trace.layers, strict=True)):
            heads = 0 if layer is None or card.stack == "encoder" else layer.heads
            none = row.weights[index, heads:]
            require(
                bool(np.isnan(none).all()),
                f"Layer {index}: on_row gave weights to heads that do not exist, or have no such row.",
            )
            for head in range(heads):
                assert layer is not None
                (first, _), (start, stop) = _spans(card, answer)
                at, keys = row.position - 1 - first, slice(start, min(stop, row.position))
                last = layer.pattern(head, slice(at, at + 1))[0, : keys.stop - start]
                where = f"Layer {index}, head {head}: row of token {row.position} while generating against the trace"
                _near(where, row.weights[index, head, keys], last, ROWS)
                others = np.delete(row.weights[index, head], keys)
                require(bool(np.isnan(others).all()), f"{where}: weights for tokens that are no keys of this layer.")


def _check_stop(model: Model, tokens: Tokens, answer: Tokens) -> None:
    """With a stop text the same answer ends with the first token after which it contains the text."""
    start = len(tokens.text)
    spelled = [c for c in answer.text[start:] if c != "\N{REPLACEMENT CHARACTER}"]
    if not spelled:
        return
    complete = start + answer.text[start:].index(spelled[0]) + 1
    expected = next(i for i in range(len(tokens), len(answer)) if answer.offsets[i, 1] >= complete)
    got = model.generate(tokens, Sampling(max_new_tokens=4, stop=(spelled[0],)))
    require(
        bool(np.array_equal(got.ids, answer.ids[: expected + 1])),
        f"generate: with the stop text {spelled[0]!r} expected {expected + 1 - len(tokens)} new tokens, the first that "
        f"complete it, got {len(got) - len(tokens)}.",
    )


class _Interruption(Exception):
    """Raised by a listener in the middle of an answer."""


def _passes_on(model: Model, tokens: Tokens) -> None:
    def interrupt(token: int) -> None:
        raise _Interruption

    try:
        model.generate(tokens, Sampling(max_new_tokens=4), on_token=interrupt)
    except _Interruption:
        return
    raise AssertionError("generate: an error of the listener was swallowed.")


# --------------------------------------------------------------------------------------------- nothing left behind


@contextmanager
def _left_as_found(model: Model) -> Iterator[None]:
    """The torch module is the same before and after: hooks, modes, gradients, attention implementation."""
    before = _state(model)
    yield
    after = _state(model)
    for name, value in before.items():
        require(
            after.get(name) == value,
            f"Left behind in the model: {name} was {value!r:.80}, is now {after.get(name)!r:.80}.",
        )


def _state(model: Model) -> dict[str, Any]:
    try:
        module = model.module()
    except Unavailable:
        return {}
    config = getattr(module, "config", None)
    state: dict[str, Any] = {"attention implementation": getattr(config, "_attn_implementation", None)}
    for name, part in module.named_modules():
        hooks = [key for key in vars(part) if key.endswith("_hooks")]
        state[f"hooks of {name or 'the module'}"] = {
            key: len(getattr(part, key)) for key in hooks if getattr(part, key)
        }
        state[f"training mode of {name or 'the module'}"] = part.training
        state[f"forward of {name or 'the module'}"] = "forward" in vars(part)
    for name, parameter in module.named_parameters():
        state[f"requires_grad of {name}"] = parameter.requires_grad
        state[f"grad of {name}"] = parameter.grad is None
    return state


# --------------------------------------------------------------------------------------------- comparing


def _near(what: str, got: Any, expected: Any, tolerance: float) -> None:
    difference = float(np.abs(np.asarray(got, np.float64) - expected).max(initial=0))
    require(difference <= tolerance, f"{what}: differs by {difference:.3g}, at most {tolerance:.3g} is allowed.")


def _refuses(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except AttnvizError:
        return
    except Exception as error:
        raise AssertionError(f"{what}: expected an AttnvizError, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what}: expected an AttnvizError, got a result.")


def _unavailable(what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except Unavailable:
        return
    raise AssertionError(f"{what}: the card lacks the capability, so it must raise Unavailable.")
