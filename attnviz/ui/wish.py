"""What somebody asks for (model, prompt, answer), from the left column or from an address; and the run it becomes."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from attnviz.errors import BadInput, UnknownName
from attnviz.hooks import ModelEntry, Sampling
from attnviz.registry import Registry
from attnviz.session import LoadedModel, Session, TracedRun
from attnviz.settings import Settings
from attnviz.ui import measurements
from attnviz.ui.background import Job
from attnviz.ui.describe import length_of
from attnviz.ui.live import GrowingAnswer
from attnviz.ui.measurements import Measured

OWN = "own"
"""Value of the menu's last line: a model that is not on the menu."""
FORMATS = ("auto", "text", "chat")
"""How a prompt is read: auto = as a chat message where the model has a chat template, else as plain text."""
CHOSEN = ("format", "backend", "device")
"""What is in the address only if it is not "auto"."""
LONGEST_ADDRESS = 6000
"""Characters of a prompt that still goes into the address."""
DRAWN = ("temperature", "top_p", "repetition_penalty")
"""Numbers of how an answer is drawn."""
FINISHED_KEPT = 64
BROWSERS_KEPT = 256


@dataclass(frozen=True)
class Wish:
    """What the left column asks for.

    saved     id of the saved run that it was read from
    measured  measurements in place of the prompt and of an answer
    """

    model: str
    own: str
    prompt: str
    answer: bool
    length: float | None
    temperature: float | None
    seed: int | None
    backend: str
    device: str
    category: str
    format: str = "auto"
    stop: tuple[str, ...] = ()
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    saved: str = ""
    measured: Measured | None = None

    @property
    def source(self) -> str:
        """Menu name, hub id or folder."""
        return (self.own or "").strip() if self.model == OWN else self.model or ""


def asked(
    model: str | None,
    own: str | None,
    prompt: str | None,
    answer: bool,
    length: float | None,
    temperature: float | None,
    seed: str | None,
    backend: str | None,
    device: str | None,
    category: str | None,
    form: str | None,
    stop: str | None,
    top_p: float | None = 1.0,
    repetition_penalty: float | None = 1.0,
) -> Wish:
    """The wish of the left column; an emptied field counts as empty text.

    Raises:
        BadInput: a seed that is no whole number, stop texts that cannot be read.
    """
    if seed and not _is_whole(seed.strip()):
        raise BadInput(f"Seed: expected a whole number from 0, or nothing, got {seed[:40]!r}.")
    texts = (backend or "auto", device or "auto", category or "", form or "auto")
    numbers = (length, temperature, int(seed) if seed else None)
    share, penalty = (1.0 if value is None else value for value in (top_p, repetition_penalty))  # emptied: no effect
    given = (model or "", own or "", prompt or "", bool(answer), *numbers, *texts, read_stops(stop or ""))
    return Wish(*given, top_p=share, repetition_penalty=penalty)


_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def read_stops(lines: str) -> tuple[str, ...]:
    """The stop texts of a field, one on each line that is not empty; \\n, \\t and \\\\ stand for one character.

    Raises:
        BadInput: a backslash before anything else.
    """

    def meant(found: re.Match[str]) -> str:
        if found[1] not in _ESCAPES:
            raise BadInput(f"Stop texts: expected \\n, \\t or \\\\, got {found[0]}. A backslash itself is \\\\.")
        return _ESCAPES[found[1]]

    return tuple(re.sub(r"\\(.?)", meant, line) for line in lines.split("\n") if line)


def write_stops(stops: Sequence[str]) -> str:
    """The field that `read_stops` reads so."""
    back = {character: f"\\{letter}" for letter, character in _ESCAPES.items()}
    return "\n".join("".join(back.get(character, character) for character in text) for text in stops)


def default_entry(registry: Registry) -> ModelEntry | None:
    """The model of the first screen: the menu's default, else its first."""
    entries = list(registry.models.values())
    return next((e for e in entries if e.default), entries[0] if entries else None)


def default_prompt(entry: ModelEntry | None) -> str:
    """The prompt of the first screen."""
    return entry.examples[0][1] if entry and entry.examples else "The cat sat on the mat."


def first_wish(session: Session) -> Wish | None:
    """What the first screen asks for; None where no model is on the menu."""
    return wish_of_address({}, session) if default_entry(session.registry) else None


class Finished:
    """Runs made of an address, so that a reload or a link finds them again. Only what is repeatable is kept."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.shown = threading.Event()  # somebody has seen a first screen
        self._ids: LRUCache[Wish, str] = LRUCache(FINISHED_KEPT)
        self._lock = threading.Lock()

    def find(self, wish: Wish) -> TracedRun | None:
        """The run of this wish if it is still in memory."""
        with self._lock:
            run_id = self._ids.get(wish)
        try:
            return self.session.run(run_id) if run_id else None
        except BadInput:
            return None

    def keep(self, wish: Wish, run: TracedRun) -> None:
        """Remember a run as the one of this wish."""
        with self._lock:
            self._ids[wish] = run.id

    def make(self, wish: Wish, job: Job) -> TracedRun:
        """The run of this wish: the one in memory, else a new one."""
        run = self.find(wish) or make_run(self.session, wish, job)
        drawn = run.run.sampling is not None and run.run.sampling.temperature > 0 and wish.seed is None
        if not drawn and run.run.ended != "cancelled":
            self.keep(wish, run)
        return run


@dataclass(frozen=True)
class Asked:
    """A wish, and the work on it."""

    wish: Wish
    job: Job


class LastAsked:
    """What each browser asked for last, so that Cancel finds what came of it."""

    def __init__(self) -> None:
        self._of: LRUCache[str, Asked] = LRUCache(BROWSERS_KEPT)
        self._lock = threading.Lock()

    def keep(self, browser: str, wish: Wish, job: Job) -> None:
        """Remember it in place of what that browser asked for before."""
        with self._lock:
            self._of[browser] = Asked(wish, job)

    def find(self, browser: str) -> Asked | None:
        """What it asked for last; None where that is not known."""
        with self._lock:
            return self._of.get(browser)


def make_run(session: Session, wish: Wish, job: Job) -> TracedRun:
    """Load the model, read the prompt, generate the answer if one is wanted, and do the forward pass.

    Raises:
        AttnvizError: what is asked for cannot be done, and why.
    """
    job.report(0.05, f"Loading {wish.source or 'the model'}")
    model = load(session, wish)
    if wish.measured is not None:
        run = measurements.trace(model, wish.measured, session.registry.models.get(wish.model), wish.category)
    else:
        measurements.refuse_text(model)
        prompt = _prompt(model, wish)
        asks = wish.answer
        run = _answered(session, model, wish, prompt, job) if asks else model.trace(**prompt, category=wish.category)
    if "attention" in model.card.capabilities and not job.cancelled.is_set():
        job.report(0.9, "Reading the attention")
        session.trace(run.run)
    return run


def _prompt(model: LoadedModel, wish: Wish) -> dict[str, Any]:
    """The prompt as `trace` and `generate` take it."""
    if wish.format not in FORMATS:
        raise UnknownName("format of the prompt", wish.format, FORMATS)
    chat = {"messages": [{"role": "user", "content": wish.prompt}]}
    if wish.format == "chat" or (wish.format == "auto" and wish.prompt.strip() and takes_messages(model)):
        return chat
    return {"text": wish.prompt}


def takes_messages(model: LoadedModel) -> bool:
    """Whether the model has a way to read a conversation."""
    try:
        model.tokenize(messages=[{"role": "user", "content": "Hello"}])
    except BadInput:
        return False
    return True


def load(session: Session, wish: Wish) -> LoadedModel:
    """The model that is asked for. Raises BadInput if none is named."""
    if not wish.source:
        raise BadInput("No model given: type a hub id (such as gpt2) or a folder, or pick one of the menu.")
    return session.load(wish.source, backend=wish.backend or "auto", device=wish.device or "auto")


def _answered(session: Session, model: LoadedModel, wish: Wish, prompt: Mapping[str, Any], job: Job) -> TracedRun:
    if wish.length is None or not float(wish.length).is_integer():
        got = "nothing" if wish.length is None else wish.length
        raise BadInput(f"New tokens: expected a whole number, got {got}.")
    length, temperature, seed = int(wish.length), float(wish.temperature or 0.0), wish.seed
    if temperature > 0 and seed is None:
        seed = secrets.randbelow(2**31)  # so that the answer can be made again
    growing = GrowingAnswer(model.tokenize(**prompt), model.card, session.model(model.spec).label)

    def heard(token: int) -> None:
        growing.add(token)
        job.report(0.1 + 0.8 * len(growing.labels) / length, f"{len(growing.labels)} of {length} tokens")
        job.live, job.pause = growing.value, growing.pause

    job.report(0.1, f"Generating up to {length} tokens")
    return model.generate(
        **prompt,
        max_new_tokens=length,
        temperature=temperature,
        top_p=float(wish.top_p),
        repetition_penalty=float(wish.repetition_penalty),
        seed=seed,
        stop=wish.stop,
        category=wish.category,
        on_token=heard,
        on_row=None if wish.device == "ndif" else growing.hear,  # there, a job of its own when the answer is complete
        cancelled=job.cancelled.is_set,
    )


def wish_of_saved(run: TracedRun) -> Wish:
    """What the left column asks for once a saved run is opened: the same again."""
    listed = run.run.model in run.model.session.registry.models
    sampling = run.run.sampling or Sampling()
    settings = run.model.session.settings
    return Wish(
        model=run.run.model if listed else OWN,
        own="" if listed else run.run.spec.source,
        prompt=run.prompt,
        answer=run.run.sampling is not None,
        length=settings.max_new_tokens if run.run.sampling is None else length_of(run.run),
        temperature=sampling.temperature,
        seed=sampling.seed,
        backend="auto",
        device="auto",
        category=run.run.category,
        format="chat" if any(s.role == "user" for s in run.tokens.segments) else "text",
        stop=sampling.stop,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        saved=run.id,
    )


def address_of(wish: Wish, run: TracedRun) -> dict[str, str]:
    """What the address must say for a link to open this run again; of a very long prompt only that it is left out."""
    if wish.saved:
        return {"run": wish.saved}
    said = {"model": wish.source, "category": run.run.category}
    said |= {name: chosen for name in CHOSEN if (chosen := getattr(wish, name)) != "auto"}
    if wish.measured is not None:
        return said | measurements.address(wish.measured)
    said |= {"prompt": wish.prompt} if len(wish.prompt) <= LONGEST_ADDRESS else {"long": str(len(wish.prompt))}
    sampling = run.run.sampling
    said["answer"] = str(length_of(run.run))
    if sampling is not None and sampling.temperature > 0:
        said |= {"seed": str(sampling.seed)}
    if sampling is not None:
        said |= {name: repr(float(getattr(sampling, name))) for name in DRAWN if _worth_saying(name, sampling, run)}
        said["stop"] = write_stops(sampling.stop)
    return {key: value for key, value in said.items() if value}


def _worth_saying(name: str, sampling: Sampling, run: TracedRun) -> bool:
    """Whether an address has to give this number: it, or what holds here without one, is not the usual."""
    usual = getattr(Settings(), name)
    return not usual == getattr(sampling, name) == getattr(run.model.session.settings, name)


def wish_of_address(url: Mapping[str, str], session: Session) -> Wish:
    """What an address asks for; what it leaves out is as on the first screen.

    Raises:
        BadInput: numbers that are none, stop texts that cannot be read, or a prompt that was too long for an address.
    """
    if "long" in url and "prompt" not in url:
        text = f"The prompt of this link was too long for an address ({url['long'][:20]} characters)."
        raise BadInput(f"{text} Paste it into the prompt and press Run.")
    registry, settings = session.registry, session.settings
    entry = default_entry(registry)
    source = url.get("model", entry.name if entry else "")
    listed = source in registry.models
    prompt = url.get("prompt") or default_prompt(registry.models.get(source) or entry)
    answer = _whole(url, "answer")  # absent: as on the first screen; 0: none
    return Wish(
        model=source if listed else OWN,
        own="" if listed else source,
        prompt=prompt,
        answer=answer is None or answer > 0,
        length=answer or settings.max_new_tokens,
        seed=_whole(url, "seed") if "seed" in url else settings.seed,
        category=url.get("category", "")[:200],
        stop=read_stops(url.get("stop", "")),
        temperature=_number(url, "temperature", settings.temperature),
        top_p=_number(url, "top_p", settings.top_p),
        repetition_penalty=_number(url, "repetition_penalty", settings.repetition_penalty),
        measured=measurements.of_address(url, registry.models.get(source)),
        **{name: url.get(name, "auto") for name in CHOSEN},
    )


def may_load(wish: Wish, known: set[str]) -> bool:
    """Whether a link may load this model without the user pressing Run.

    A link alone never makes the server load a model that is neither on the menu nor in `known`, the sources that were
    loaded here on purpose.
    """
    return wish.model != OWN or wish.source in known


def _number(url: Mapping[str, str], name: str, default: float) -> float:
    if name not in url:
        return default
    try:
        return float(url[name])
    except ValueError:
        raise BadInput(f"The address gives {name} as {url[name][:40]!r}; expected a number.") from None


def _whole(url: Mapping[str, str], name: str) -> int | None:
    if name in url and not _is_whole(url[name]):
        raise BadInput(f"The address gives {name} as {url[name][:40]!r}; expected a number, whole and not negative.")
    return int(url[name]) if name in url else None


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20
