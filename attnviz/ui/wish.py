"""What somebody asks for (model, prompt, answer, agent), from the left column or an address; and the run it becomes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cachetools import LRUCache

from attnviz.agent import MAX_STEPS, NEW_TOKENS, withheld
from attnviz.agent.choosing import chosen_tools
from attnviz.errors import BadInput, UnknownName
from attnviz.hooks import ModelEntry, Sampling, Trajectory
from attnviz.registry import Registry
from attnviz.session import SEEDS, LoadedModel, Session, TracedRun
from attnviz.settings import Settings
from attnviz.ui import measurements, turns
from attnviz.ui.background import Job
from attnviz.ui.describe import ended_by, length_of
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
class Acting:
    """How an agent may work: names of its tools, most turns of the model."""

    tools: tuple[str, ...]
    max_steps: int = MAX_STEPS


@dataclass(frozen=True)
class Wish:
    """What the left column asks for.

    saved     id of the saved run that it was read from
    measured  measurements in place of the prompt and of an answer
    agent     the answer may use tools; `length` is then that of one turn
    then      what the user said after the answer to the prompt, turn by turn
    alike     every turn was made with the settings that are here, so that all can be made again
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
    agent: Acting | None = None
    then: tuple[str, ...] = ()
    alike: bool = True

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
    acts: bool = False,
    tools: Sequence[str] | None = None,
    max_steps: float | None = MAX_STEPS,
    turn_length: float | None = NEW_TOKENS,
) -> Wish:
    """The wish of the left column; an emptied field counts as empty text.

    Raises:
        BadInput: a seed that is no whole number, stop texts that cannot be read, an agent without tools or turns.
    """
    agent = _acting(tools or (), max_steps) if acts and answer else None
    length = length if agent is None else turn_length
    if seed and not _is_whole(seed.strip()):
        raise BadInput(f"Seed: expected a whole number from 0, or nothing, got {seed[:40]!r}.")
    texts = (backend or "auto", device or "auto", category or "", form or "auto")
    numbers = (length, temperature, int(seed) if seed else None)
    share, penalty = (1.0 if value is None else value for value in (top_p, repetition_penalty))  # emptied: no effect
    given = (model or "", own or "", prompt or "", bool(answer), *numbers, *texts, read_stops(stop or ""))
    return Wish(*given, top_p=share, repetition_penalty=penalty, agent=agent)


def _acting(tools: Sequence[str], max_steps: float | None) -> Acting:
    if not tools:
        raise BadInput("Tools: expected at least one for an agent, got none. Tick one, or take the tick off the agent.")
    if max_steps is None or not float(max_steps).is_integer() or max_steps < 1:
        got = "nothing" if max_steps is None else max_steps
        raise BadInput(f"Most turns: expected a whole number from 1, got {got}.")
    return Acting(tuple(tools), int(max_steps))


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
        if not drawn and ended_by(run) != "cancelled":
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
        run = _of_text(model, wish, job)
    read_attention(run, job)
    return run


def _of_text(model: LoadedModel, wish: Wish, job: Job) -> TracedRun:
    if wish.agent is not None:
        return turns.acted(model, wish, job)
    prompt = _prompt(model, wish)
    return turns.answered(model, wish, prompt, job) if wish.answer else model.trace(**prompt, category=wish.category)


def read_attention(run: TracedRun, job: Job) -> None:
    """The forward pass of a run, so that its pictures are there at once."""
    if "attention" in run.model.card.capabilities and not job.cancelled.is_set():
        job.report(0.9, "Reading the attention")
        run.model.session.trace(run.run)


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


def wish_of_saved(run: TracedRun) -> Wish:
    """What the left column asks for once a saved run is opened: the same again."""
    listed = run.run.model in run.model.session.registry.models
    sampling, trajectory = run.run.sampling or Sampling(), run.run.trajectory
    settings = run.model.session.settings
    asked_for = length_of(run.run) if trajectory is None else sampling.max_new_tokens
    return Wish(
        model=run.run.model if listed else OWN,
        own="" if listed else run.run.spec.source,
        prompt=run.prompt if trajectory is None else trajectory.question,
        answer=run.run.sampling is not None,
        length=settings.max_new_tokens if run.run.sampling is None else asked_for,
        temperature=sampling.temperature,
        seed=sampling.seed,
        backend="auto",
        device="auto",
        category=run.run.category,
        format="chat" if any(s.role == "user" for s in run.tokens.segments) else "text",
        stop=sampling.stop if trajectory is None else (),
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
        saved=run.id,
        agent=None if trajectory is None else _acting_again(run, trajectory),
    )


def _acting_again(run: TracedRun, trajectory: Trajectory) -> Acting:
    """The agent of a saved run, with those of its tools that are offered here."""
    offered = run.model.session.registry.tools
    names = (name for name in trajectory.tools if name in offered and withheld(offered[name]) is None)
    return Acting(tuple(names), max(1, trajectory.max_steps))


def address_of(wish: Wish, run: TracedRun) -> dict[str, str]:
    """What the address must say for a link to open this run again; of a very long prompt only that it is left out."""
    if wish.saved:
        return {"run": wish.saved}
    said = {"model": wish.source, "category": run.run.category}
    if wish.then and not (wish.alike and ended_by(run) != "cancelled"):
        return {key: value for key, value in {**said, "turns": str(len(wish.then) + 1)}.items() if value}
    said |= {name: chosen for name in CHOSEN if (chosen := getattr(wish, name)) != "auto"}
    if wish.measured is not None:
        return said | measurements.address(wish.measured)
    long = sum(map(len, (wish.prompt, *wish.then)))
    then = {"then": json.dumps(wish.then, ensure_ascii=False)} if wish.then else {}
    said |= {"prompt": wish.prompt, **then} if long <= LONGEST_ADDRESS else {"long": str(long)}
    sampling = run.run.sampling
    if wish.agent is not None:
        said |= {"agent": str(wish.agent.max_steps), "tools": ",".join(wish.agent.tools)}
    said["answer"] = str(length_of(run.run) if wish.agent is None else int(wish.length or 0))
    if sampling is not None and sampling.temperature > 0:
        said |= {"seed": str(_first_seed(wish, sampling))}
    if sampling is not None:
        said |= {name: repr(float(getattr(sampling, name))) for name in DRAWN if _worth_saying(name, sampling, run)}
        said["stop"] = write_stops(wish.stop)
    return {key: value for key, value in said.items() if value}


def _first_seed(wish: Wish, sampling: Sampling) -> int | None:
    """The seed of the first turn of a conversation, from the settings of the last."""
    return None if sampling.seed is None else (sampling.seed - len(wish.then)) % SEEDS


def as_made(wish: Wish, run: TracedRun) -> Wish:
    """The wish with the seed that was drawn for it."""
    sampling = run.run.sampling
    if sampling is None or sampling.temperature == 0:
        return wish
    return replace(wish, seed=_first_seed(wish, sampling))


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
    if "turns" in url:
        text = f"This link is of a conversation of {url['turns'][:20]} turns that an address cannot make again: its"
        raise BadInput(f"{text} settings changed on the way, or an answer was cut off. Save such a run to keep it.")
    registry, settings = session.registry, session.settings
    entry = default_entry(registry)
    source = url.get("model", entry.name if entry else "")
    listed = source in registry.models
    prompt = url.get("prompt") or default_prompt(registry.models.get(source) or entry)
    agent = _agent_of_address(url, session)
    answer = _whole(url, "answer")  # absent: as on the first screen; 0: none
    return Wish(
        model=source if listed else OWN,
        own="" if listed else source,
        prompt=prompt,
        answer=answer is None or answer > 0,
        length=answer or (settings.max_new_tokens if agent is None else NEW_TOKENS),
        seed=_whole(url, "seed") if "seed" in url else settings.seed,
        category=url.get("category", "")[:200],
        stop=read_stops(url.get("stop", "")),
        temperature=_number(url, "temperature", settings.temperature),
        top_p=_number(url, "top_p", settings.top_p),
        repetition_penalty=_number(url, "repetition_penalty", settings.repetition_penalty),
        measured=measurements.of_address(url, registry.models.get(source)),
        agent=agent,
        then=_then_of_address(url),
        backend=url.get("backend", "auto"),
        device=url.get("device", "auto"),
        format=url.get("format", "auto"),
    )


def _agent_of_address(url: Mapping[str, str], session: Session) -> Acting | None:
    most = _whole(url, "agent")
    if not most:
        return None
    entry = session.registry.models.get(url.get("model", "")) or default_entry(session.registry)
    named = [name.strip() for name in url.get("tools", "").split(",") if name.strip()]
    return Acting(tuple(tool.name for tool in chosen_tools(session.registry, named or None, entry)), most)


def _then_of_address(url: Mapping[str, str]) -> tuple[str, ...]:
    if "then" not in url:
        return ()
    try:
        texts = json.loads(url["then"])
    except ValueError:
        texts = None
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadInput(f'The address gives then as {url["then"][:40]!r}; expected a list such as ["And of Spain?"].')
    return tuple(texts)


def may_load(wish: Wish, known: set[str]) -> bool:
    """Whether a link may load this model without the user pressing Run.

    A link alone never makes the server load a model that is neither on the menu nor in `known`, the sources that were
    loaded here on purpose.
    """
    return wish.model != OWN or wish.source in known


def may_act(agent: Acting, registry: Registry, known: set[str]) -> bool:
    """Whether a link may have the tools of an agent called without the user pressing Run.

    It may if they come with attnviz or are in `known`, those that were used here on purpose: a stranger's tool may do
    anything.
    """
    own = {name for p in registry.plugins if p.origin == "built-in" for kind, name in p.provides if kind == "tools"}
    return set(agent.tools) <= own | known


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
