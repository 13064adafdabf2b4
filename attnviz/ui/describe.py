"""Plain data for the page: a run, a model card, a finding."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnviz.hooks import AgentStep, Finding, ModelCard, Run, Segment, Tokens, Trajectory, to_jsonable
from attnviz.model_card import duration, parameters_in_words, summary, vocabulary_in_words
from attnviz.session import ROLES, TracedRun


def prompt_of(run: Run) -> str:
    """The prompt alone: the text up to the first character of the answer, which of an encoder's text is a new line."""
    spans = run.tokens.offsets[len(run.tokens) if run.generated_from is None else run.generated_from :, 0]
    prompt = run.text[: min((start for start in spans.tolist() if start >= 0), default=len(run.text))]
    return prompt if run.tokens.decoder_from is None else prompt.removesuffix("\n")


def messages_of(run: Run, stop: int | None = None) -> list[dict[str, str]]:
    """The conversation of a run before token `stop`, by default before its answer, from the tokens of its messages; []
    if it was a plain text."""
    stop = stop or run.generated_from or len(run.tokens)
    messages = []
    for segment in run.tokens.segments:
        said = text_of(run, segment.start, min(segment.stop, stop))
        if segment.role in ROLES and segment.start < stop and said:
            messages.append({"role": segment.role, "content": said})
    return messages


def text_of(run: Run, start: int, stop: int) -> str:
    """Text of tokens start..stop-1; control tokens stand for no characters."""
    spans = run.tokens.offsets[start:stop]
    spans = spans[spans[:, 0] >= 0]
    return run.text[spans[0, 0] : spans[:, 1].max()] if len(spans) else ""


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation: what was said, and the tokens first..stop-1 of the answer to it."""

    said: str
    first: int
    stop: int


def turns_of(run: Run) -> list[Turn]:
    """The turns of a run, each of which the model answered; the first begins with the prompt."""
    answers = [segment for segment in run.tokens.segments if segment.role == "answer"]
    turns, start = [], 0
    for answer in answers:
        between = [s for s in run.tokens.segments if start <= s.start < answer.start and s.role in ("user", "text")]
        said = text_of(run, between[-1].start, between[-1].stop) if between else ""
        turns.append(Turn(said.removeprefix("\n") if start else said, answer.start, answer.stop))
        start = answer.stop
    return turns


def length_of(run: Run) -> int:
    """New tokens to ask for so that this answer comes again; of a cancelled one those that it has."""
    if run.sampling is None:
        return 0
    cancelled = run.ended == "cancelled" and run.generated_from is not None
    return len(run.tokens) - (run.generated_from or 0) if cancelled else run.sampling.max_new_tokens


def heads_of(card: ModelCard) -> list[int]:
    """Heads per layer; 0 where a layer has no attention."""
    return [0 if layer.kind in ("none", "linear") else layer.heads for layer in card.layers]


def run_value(run: TracedRun, address: Mapping[str, str], selection: Mapping[str, int]) -> dict[str, Any]:
    """What the token strip draws and the page knows of a run."""
    tokens = run.tokens
    return {
        "id": run.id,
        "address": dict(address),
        "selection": dict(selection),
        "heads": heads_of(run.model.card),
        "layers": [layer.name for layer in run.model.card.layers],
        "tokens": list(tokens.labels),
        "ids": tokens.ids.tolist(),
        "special": [i for i, special in enumerate(tokens.special.tolist()) if special],
        "segments": measured_bracket(tokens) or brackets(tokens.segments, run.generated_from, len(tokens)),
        "generated_from": run.generated_from,
        "ended": ended_by(run),
        "card": card_value(run.model.name, run.model.card),
        "agent": None if run.run.trajectory is None else agent_value(run.run.trajectory),
    }


def ended_by(run: TracedRun) -> str:
    """Why the answer ended, one of ENDED; of an agent's run why the agent ended, one of AGENT_ENDED."""
    return run.run.ended if run.run.trajectory is None else run.run.trajectory.ended


def agent_value(trajectory: Trajectory) -> dict[str, Any]:
    """What the page says of an agent beside its tokens."""
    return {
        "steps": [step_value(step) for step in trajectory.steps],
        "tools": list(trajectory.tools),
        "format": trajectory.format,
        "ended": trajectory.ended,
        "calls": len(trajectory.calls),
        "seconds": duration(trajectory.seconds),
    }


def step_value(step: AgentStep) -> dict[str, Any]:
    """One step of an agent for the page."""
    arguments = to_jsonable(step.arguments)
    return {
        "kind": step.kind,
        "text": step.text,
        "start": step.start,
        "stop": step.stop,
        "tool": step.tool,
        "arguments": json.dumps(arguments, ensure_ascii=False) if arguments else "",
        "failed": step.failed,
        "note": step.note,
        "seconds": duration(step.seconds),
    }


def measured_bracket(tokens: Tokens) -> list[list[Any]]:
    """The bracket of measurements, which says what a token stands for; [] for a text."""
    words = {"sensor": "sensors", "time": "time steps", "": "measured"}
    return [] if tokens.values is None else [[words[tokens.axis], 0, len(tokens)]]


def brackets(segments: Sequence[Segment], start: int | None, count: int) -> list[list[Any]]:
    """[role, start, stop] of the brackets in the strip: the roles of a conversation, else prompt and answer.

    `start`: first token of the answer; it has a bracket also where no segment stands for it yet.
    """
    named: list[list[Any]] = [[s.role, s.start, s.stop] for s in segments if s.stop > s.start]
    answered = start is not None and start < count
    if named and not (len(named) == 1 and named[0][0] == "text"):
        return [*named, ["answer", start, count]] if answered and named[-1][2] <= (start or 0) else named
    return [["prompt", 0, start], ["answer", start, count]] if answered else [["prompt", 0, count]]


def card_value(name: str, card: ModelCard) -> dict[str, str]:
    """A model in one line, and in full."""
    kinds = ", ".join(dict.fromkeys(layer.kind for layer in card.layers))
    details = [
        f"{card.architecture}, {parameters_in_words(card)}, {card.dtype} on {card.device}",
        f"{vocabulary_in_words(card)}, positions {card.positions or 'unlimited'}, layers: {kinds}",
        *card.notes,
        *(f"no {what}: {why}" for what, why in card.missing.items()),
        *([f"weights {card.weights_digest}"] if card.weights_digest else []),
    ]
    return {
        "summary": summary(name, card),
        "details": "\n".join(details),
        "route": card.route,
        "route_reason": card.route_reason,
    }


def finding_value(finding: Finding) -> dict[str, Any]:
    """What the line above a view says of a finding."""
    return {
        "run": finding.run,
        "info": list(finding.result.info),
        "warnings": list(finding.result.warnings),
        "seconds": duration(finding.seconds),
        "cached": finding.cached,
        "provenance": finding.provenance,
    }
