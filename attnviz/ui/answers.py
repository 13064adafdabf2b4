"""What the HTTP paths answer, as plain data: chat with the lens of every token, context of a token, analyses, lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from attnviz.agent import is_public
from attnviz.errors import BadInput
from attnviz.hooks import LensTable
from attnviz.model_card import COUNTS, describe
from attnviz.registry import own_version
from attnviz.session import LoadedModel, Session, TracedRun
from attnviz.store import RunStore
from attnviz.ui.plugins_tab import plugins_json
from attnviz.ui.wish import default_entry

MOST_CONTEXT = 1000
MOST_RUNS = 500


class WrongField(Exception):
    """A field is missing or of the wrong kind; says which and what was expected."""


class UnknownRun(BadInput):
    """No run of that id, or none any more."""


class Forbidden(BadInput):
    """Something that this server gives nobody."""


# --------------------------------------------------------------------------------------------- fields


def _field(given: Mapping[str, Any], name: str, kind: type, what: str, default: Any = None) -> Any:
    value = given.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise WrongField(f"{name}: expected {what}, got {value!r:.80}.")
    return value


def _text(given: Mapping[str, Any], name: str, default: str | None = "") -> Any:
    return _field(given, name, str, "a text", default)


def _whole(given: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number of the body or of the address."""
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 12:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise WrongField(f"{name}: expected a whole number from {low} to {high}, got {value!r:.80}.")
    return value


def _no_others(given: Mapping[str, Any], *known: str) -> None:
    if strange := [name for name in given if name not in known]:
        raise WrongField(f"Unknown field {strange[0]!r:.80}. Known: {', '.join(known)}.")


def _model(session: Session, given: Mapping[str, Any]) -> LoadedModel:
    entry = default_entry(session.registry)
    return session.load(_text(given, "model") or (entry.name if entry else ""))


def _run(session: Session, run_id: str) -> TracedRun:
    """A run in memory, else a saved one."""
    try:
        return session.run(run_id)
    except BadInput:
        pass
    if is_public():  # there, saved runs belong to their visitors
        raise UnknownRun(f"No run {run_id[:80]!r} is in memory. Ask again with the text.")
    try:
        return session.reopen(RunStore().read(run_id))
    except BadInput:
        raise UnknownRun(f"No run {run_id[:80]!r} is in memory or saved. Ask again with the text.") from None


# --------------------------------------------------------------------------------------------- what is there


def health(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the app answers, and what it would answer with."""
    _no_others(given)
    entry = default_entry(session.registry)
    name = entry.name if entry else ""
    loaded = session.loaded_models()
    found = next((model for model in loaded if model.name == name), None)
    device = found.card.device if found else None
    about = {"status": "ok", "model": name, "model_loaded": found is not None, "device": device}
    return {**about, "version": own_version(), "loaded": sorted({model.name for model in loaded})}


def model_info(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """Everything known of a model before any run."""
    _no_others(given, "model", "tokens")
    text = _text(given, "tokens")
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
        raise WrongField(f"tokens: expected whole numbers with commas, such as 128,1024, got {text!r:.80}.")
    model = _model(session, given)
    card = model.card
    short = {"model_name": model.name, "num_layers": len(card.layers), "vocab_size": card.vocabulary}
    return {**short, "device": card.device, **describe(model, [int(w) for w in words] or COUNTS).to_jsonable()}


def models(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """The model menu."""
    _no_others(given)
    fields = ("name", "title", "source", "size", "licence", "note", "backend", "default")
    return {"models": [{f: getattr(e, f) for f in fields} for e in session.registry.models.values()]}


def plugins(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is registered, and what failed."""
    _no_others(given)
    return plugins_json(session)


def runs(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """Saved runs, newest first. On a public server they belong to their visitors, and are not listed."""
    _no_others(given, "search", "category", "limit")
    limit = _whole(given, "limit", 50, 1, MOST_RUNS)
    search, category = _text(given, "search"), _text(given, "category")
    if is_public():
        raise Forbidden("Saved runs are not listed on a public server.")
    found = RunStore().list(search=search, category=category, limit=limit)
    return {"runs": [run.to_jsonable() for run in found]}


# --------------------------------------------------------------------------------------------- chat


def chat(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """The model's answer to a text after the messages before it, with the lens of every token of both.

    `lens` of a token is what each layer expected in its place, taken where it was predicted: at the position before it,
    on the very ids that were read and generated. Probabilities are in percent.

    Raises:
        WrongField: a field of the wrong kind. BadInput: no text, a role that does not exist, a model that cannot chat.
    """
    _no_others(given, "text", "messages", "model", "max_new_tokens", "top_k", "temperature", "seed", "category")
    text = _text(given, "text", None)
    if text is None or not text.strip():
        raise BadInput("text: expected what the user says, got nothing.")
    before = _field(given, "messages", list, "a list of {role, content}", [])
    settings = session.settings
    length = _whole(given, "max_new_tokens", settings.max_new_tokens, 1, 100_000)
    top_k = _whole(given, "top_k", 5, 1, 20)
    temperature = float(_field(given, "temperature", (int, float), "a number", settings.temperature))  # type: ignore[arg-type]
    seed = given.get("seed")
    seed = settings.seed if seed is None else _whole(given, "seed", 0, 0, (1 << 63) - 1)
    category = _text(given, "category")
    model = _model(session, given)
    messages = [*before, {"role": "user", "content": text}]
    sampling = {"max_new_tokens": length, "temperature": temperature, "seed": seed, "category": category}
    sampling |= {"top_p": settings.top_p, "repetition_penalty": settings.repetition_penalty}
    run = model.generate(messages=messages, **sampling)
    return _spoken(run, top_k)


def _spoken(run: TracedRun, top_k: int) -> dict[str, Any]:
    tokens, first = run.tokens, run.generated_from or 0
    said = [s for s in tokens.segments if s.role == "user" and s.stop <= first][-1:]
    asked = range(said[0].start, said[0].stop) if said else range(first)
    answered = range(first, len(tokens))
    lens = _lens(run, min(asked.start, first), len(tokens) - 1, top_k)
    return {
        "text": run.answer,
        "tokens": [_token(run, position, lens(position)) for position in answered],
        "userTokens": [_token(run, position, lens(position)) for position in asked],
        "run": run.id,
        "model": run.model.name,
        "ended": run.run.ended,
        "generated_from": first,
    }


def _token(run: TracedRun, position: int, lens: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "text": run.tokens.labels[position],
        "id": int(run.tokens.ids[position]),
        "position": position,
        "lens": lens,
    }


def _lens(run: TracedRun, first: int, last: int, top_k: int) -> Callable[[int], list[dict[str, Any]]]:
    """position -> what each layer expected there: nothing for the first token, which nothing predicts."""
    start = max(first - 1, run.tokens.decoder_from or 0)
    if last - 1 < start:
        return lambda position: []
    finding = run.analyze("logit_lens", top_k=top_k, first=start, last=last - 1)
    table = finding.result
    assert isinstance(table, LensTable)
    row_of = {int(position): row for row, position in enumerate(table.positions)}

    def at(position: int) -> list[dict[str, Any]]:
        row = row_of.get(position - 1)
        return [] if row is None else [_layer(table, site, row) for site in range(len(table.sites))]

    return at


def _layer(table: LensTable, site: int, row: int) -> dict[str, Any]:
    chances = np.exp(table.top_logprobs[site, row].astype(np.float64))
    found = zip(table.top_ids[site, row].tolist(), chances.tolist(), strict=True)
    return {
        "layer": table.sites[site],
        "predictions": [
            {"token": table.labels[token], "id": token, "probability": 100 * chance, "rank": rank}
            for rank, (token, chance) in enumerate(found, start=1)
        ],
    }


def token_context(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """One token of a run with the tokens before it, and what each layer expected in its place.

    Raises:
        UnknownRun: no such run, or no such position in it.
    """
    _no_others(given, "position", "run", "context_size", "top_k")
    size = _whole(given, "context_size", 15, 0, MOST_CONTEXT)
    top_k = _whole(given, "top_k", 5, 1, 20)
    run_id = _text(given, "run", None)
    if not run_id:
        raise WrongField("run: expected the id of a run, such as /api/chat gives, got nothing.")
    run = _run(session, run_id)
    tokens, text = run.tokens, str(given["position"])
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise WrongField(f"position: expected a whole number from 0, got {text!r:.80}.")
    position = int(text)
    if position >= len(tokens):
        raise UnknownRun(f"No token {position} in this run. It has {len(tokens)}: 0 to {len(tokens) - 1}.")
    role_of = {p: s.role for s in tokens.segments for p in range(s.start, s.stop)}
    answer = len(tokens) if run.generated_from is None else run.generated_from

    def plain(at: int) -> dict[str, Any]:
        place = {"position": at, "relative_position": at - position, "role": role_of.get(at, "")}
        return {"text": tokens.labels[at], "id": int(tokens.ids[at]), **place, "generated": at >= answer}

    lens = _lens(run, position, position, top_k)(position)
    context = [plain(at) for at in range(max(0, position - size), position)]
    return {"run": run.id, "token": plain(position), "context": context, "lens": lens, "tokens": len(tokens)}


# --------------------------------------------------------------------------------------------- analyses and runs


def analyze(session: Session, given: Mapping[str, Any]) -> dict[str, Any]:
    """The result of an analysis of a text, of messages or of a run: the JSON of the command line.

    Raises:
        UnknownName, UnknownRun, WrongField, BadInput: what cannot be used, and what would be.
    """
    _no_others(given, "analysis", "text", "messages", "run", "model", "params")
    analysis = session.analysis(str(given["analysis"]))
    params = _field(given, "params", dict, "an object of parameters", {})
    named = [name for name in ("text", "messages", "run") if given.get(name) is not None]
    if len(named) != 1:
        raise WrongField(f"Expected one of text, messages and run, got {' and '.join(named) or 'none'}.")
    if named == ["run"]:
        if given.get("model") is not None:
            raise WrongField("model: a run is of its own model; leave it out.")
        run = _run(session, _text(given, "run"))
    else:
        messages = _field(given, "messages", list, "a list of {role, content}")
        prompt = {"text": _text(given, "text")} if messages is None else {"messages": messages}
        run = _model(session, given).trace(**prompt)
    finding = session.analyze(run, analysis.name, params)
    return {**json.loads(finding.to_json()), "run": run.id}
