"""The left column: which model, which prompt, whether an answer is generated; and the run they make."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from attnviz.errors import BadInput
from attnviz.registry import Registry
from attnviz.session import LoadedModel, Session, TracedRun
from attnviz.ui.background import Job
from attnviz.ui.components import pieces
from attnviz.ui.first_run import default_entry, default_prompt

OWN = "own"
"""Value of the menu's last line: a model that is not on the menu."""
DEVICES = ("auto", "cpu", "cuda", "mps")
LONGEST_ADDRESS = 6000
"""Characters of a prompt that still goes into the address."""


@dataclass
class Sidebar:
    """The components of the left column."""

    model: gr.Dropdown
    own: gr.Textbox
    prompt: gr.Textbox
    run: gr.Button
    cancel: gr.Button
    clear: gr.Button
    notice: gr.HTML
    answer: gr.Checkbox
    length: gr.Number
    temperature: gr.Number
    seed: gr.Number
    backend: gr.Dropdown
    device: gr.Dropdown
    category: gr.Dropdown
    examples: gr.HTML

    @property
    def asked(self) -> list[Any]:
        """The components a `Wish` is read from, in its order of fields."""
        return [
            self.model,
            self.own,
            self.prompt,
            self.answer,
            self.length,
            self.temperature,
            self.seed,
            self.backend,
            self.device,
            self.category,
        ]


@dataclass(frozen=True)
class Wish:
    """What the left column asks for."""

    model: str
    own: str
    prompt: str
    answer: bool
    length: float | None
    temperature: float | None
    seed: float | None
    backend: str
    device: str
    category: str

    @property
    def source(self) -> str:
        """Menu name, hub id or folder."""
        return (self.own or "").strip() if self.model == OWN else self.model or ""


def build_sidebar(registry: Registry) -> Sidebar:
    """Lay out the left column inside the open Blocks."""
    entry = default_entry(registry)
    examples = entry.examples if entry else ()
    menu = [(f"{e.title} ({e.size})", e.name) for e in registry.models.values()]
    pieces.header()
    model = gr.Dropdown(
        [*menu, ("Another model…", OWN)], value=entry.name if entry else OWN, label="Model", elem_id="app-model"
    )
    own = gr.Textbox(
        label="Hub id or folder",
        placeholder="openai-community/gpt2 or /path/to/folder",
        visible=entry is None,
        max_lines=1,
        elem_id="app-own",
    )
    prompt = gr.Textbox(
        label="Prompt", value=default_prompt(entry), lines=3, max_lines=12, elem_id="app-prompt", submit_btn=False
    )
    with gr.Row(elem_classes="app-buttons"):
        run = gr.Button("Run", variant="primary", elem_id="app-run", min_width=60, scale=3)
        cancel = gr.Button("Cancel", elem_id="app-cancel", min_width=60, scale=1)
        clear = gr.Button("Clear", elem_id="app-clear", min_width=60, scale=1)
    notice = pieces.notice(elem_id="app-run-notice")
    answer = gr.Checkbox(label="Generate an answer", value=False, elem_id="app-answer", container=False)
    with gr.Row(visible=False, elem_classes="app-answer-row") as answering:
        length = gr.Number(40, label="New tokens", precision=0, minimum=1, min_width=60, elem_id="app-length")
        temperature = gr.Number(0.0, label="Temperature", minimum=0, step=0.1, min_width=60, elem_id="app-temperature")
        seed = gr.Number(None, label="Seed", precision=0, min_width=60, placeholder="any", elem_id="app-seed")
    with gr.Accordion("Backend, device, category", open=False, elem_classes="app-more"):
        with gr.Row():
            backend = gr.Dropdown(["auto", *registry.backends], value="auto", label="Backend", min_width=80)
            device = gr.Dropdown(list(DEVICES), value="auto", label="Device", min_width=80)
        kinds = list(dict.fromkeys(kind for e in registry.models.values() for kind, _ in e.examples))
        category = gr.Dropdown(["", *kinds], value="", label="Category", allow_custom_value=True, elem_id="app-category")
    gr.Markdown("Examples", elem_classes="app-heading")
    shown = pieces.example_list(examples)
    answer.change(
        lambda on: gr.Row(visible=on), answer, answering, show_progress="hidden", api_visibility="private", queue=False
    )
    return Sidebar(
        model, own, prompt, run, cancel, clear, notice, answer, length, temperature, seed, backend, device, category, shown
    )


def make_run(session: Session, wish: Wish, job: Job) -> TracedRun:
    """Load the model, read the prompt, generate the answer if one is wanted, and do the forward pass.

    Raises:
        AttnvizError: what is asked for cannot be done, and why.
    """
    job.report(0.05, f"Loading {wish.source or 'the model'}")
    model = load(session, wish)
    if wish.answer:
        run = _answered(session, model, wish, job)
    else:
        run = model.trace(wish.prompt or "", category=wish.category or "")
    if "attention" in model.card.capabilities:
        job.report(0.9, "Reading the attention")
        session.trace(run.run)
    return run


def load(session: Session, wish: Wish) -> LoadedModel:
    """The model that is asked for. Raises BadInput if none is named."""
    if not wish.source:
        raise BadInput("No model given: type a hub id (such as openai-community/gpt2) or a folder, or pick one of the menu.")
    return session.load(wish.source, backend=wish.backend or "auto", device=wish.device or "auto")


def _answered(session: Session, model: LoadedModel, wish: Wish, job: Job) -> TracedRun:
    if wish.length is None:
        raise BadInput("New tokens: expected a whole number, got nothing.")
    length, temperature = int(wish.length), float(wish.temperature or 0.0)
    seed = None if wish.seed is None else int(wish.seed)
    if temperature > 0 and seed is None:
        seed = secrets.randbelow(2**31)  # so that the answer can be made again
    label, said = session.model(model.spec).label, []

    def heard(token: int) -> None:
        said.append(label(token))
        job.report(0.1 + 0.8 * len(said) / length, f"{len(said)} of {length} tokens: {''.join(said)[-120:]}")

    job.report(0.1, f"Generating up to {length} tokens")
    return model.generate(
        wish.prompt or "",
        max_new_tokens=length,
        temperature=temperature,
        seed=seed,
        category=wish.category or "",
        on_token=heard,
        cancelled=job.cancelled.is_set,
    )


def address_of(wish: Wish, run: TracedRun) -> dict[str, str]:
    """What the address must say for a link to open this run again; a very long prompt is left out."""
    said = {"model": wish.source, "category": run.run.category}
    if len(wish.prompt) <= LONGEST_ADDRESS:
        said["prompt"] = wish.prompt
    sampling = run.run.sampling
    if sampling is not None:
        said["answer"] = str(sampling.max_new_tokens)
        if sampling.temperature > 0:
            said |= {"temperature": f"{sampling.temperature:g}", "seed": str(sampling.seed)}
    return {key: value for key, value in said.items() if value}


def wish_of_address(url: Mapping[str, str], registry: Registry) -> Wish:
    """What an address asks for; what it leaves out is as on the first screen.

    Raises:
        BadInput: numbers that are none.
    """
    entry = default_entry(registry)
    source = url.get("model", entry.name if entry else "")
    listed = source in registry.models
    prompt = url.get("prompt") or default_prompt(registry.models.get(source) or entry)
    answer = _number(url, "answer")
    return Wish(
        model=source if listed else OWN,
        own="" if listed else source,
        prompt=prompt,
        answer=answer is not None,
        length=40 if answer is None else answer,
        temperature=_number(url, "temperature") or 0.0,
        seed=_number(url, "seed"),
        backend="auto",
        device="auto",
        category=url.get("category", "")[:200],
    )


def may_load(wish: Wish, known: set[str]) -> bool:
    """Whether a link may load this model without the user pressing Run.

    A link alone never makes the server load a model that is neither on the menu nor in `known`, the sources that were
    loaded here on purpose.
    """
    return wish.model != OWN or wish.source in known


def _number(url: Mapping[str, str], name: str) -> float | None:
    if name not in url:
        return None
    try:
        return float(url[name][:20])
    except ValueError:
        raise BadInput(f"The address gives {name} as {url[name][:40]!r}; expected a number.") from None

