"""The next turn of a conversation: what the user says after an answer, and the model's answer to that.

All that was read and written before stays as it is, the very ids; only what is new is tokenised. So a token of an
earlier turn has the same id and position in every later run of the conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from attnviz.errors import BadInput, Unavailable
from attnviz.hooks import LiveRow, Model, Reply, Sampling, Segment, TakesTurns, Tokens
from attnviz.session import TracedRun

USER = "user"


def reply(
    run: TracedRun,
    text: str,
    *,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    category: str = "",
    on_token: Callable[[int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    on_row: Callable[[LiveRow], None] | None = None,
) -> TracedRun:
    """The run of a conversation after one more turn of the user and the model's answer to it.

    Args:
        run: what was said so far; it stays as it is.
        category: "" = that of `run`.
        max_new_tokens and the other settings: as of LoadedModel.generate, for this answer only.

    Raises:
        BadInput: an unusable text or setting, or no room.
        Unavailable: the model cannot go on, and why.
    """
    model = run.model
    sampling = Sampling(max_new_tokens, temperature, top_p, repetition_penalty, seed, tuple(stop))
    prompt = next_turn(model.session.model(run.run.spec), model.name, run.tokens, text)
    answer, ended = model.go_on(prompt, sampling, on_token, cancelled, on_row)
    about: dict[str, Any] = {"sampling": sampling, "category": category or run.run.category, "ended": ended}
    return model.session.start(model, answer, generated_from=len(prompt), **about)


def next_turn(model: Model, name: str, tokens: Tokens, text: str) -> Tokens:
    """`tokens` and what the user says after them, ready for the model's answer.

    A conversation goes on as the chat template writes it, a plain text as plain text on a new line.

    Raises:
        BadInput: nothing is said, it is no text, or there is no room for it; the chat template cannot write it.
        Unavailable: the model writes one turn and no more, or its backend cannot continue by tokens.
    """
    if not isinstance(text, str):
        raise BadInput(f"The next turn: expected a text, got {type(text).__name__}.")
    if not text.strip():
        raise BadInput("The next turn is empty: expected some text.")
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise BadInput("The next turn holds half a surrogate pair, which is no valid text. Remove it.")
    if tokens.decoder_from is not None:
        raise Unavailable(f"{name} cannot go on: its decoder writes one turn and no more.")
    if not isinstance(model, TakesTurns):
        raise Unavailable(f"{name} cannot go on: its backend cannot continue a conversation by tokens.")
    told = _replied(model, tokens, text) if is_chat(tokens) else model.say(tokens, f"\n{text}", "text")
    positions = model.card.positions
    if positions is not None and len(told) >= positions:
        raise BadInput(
            f"The conversation has {len(told)} tokens with this turn; {name} has {positions} positions. "
            "Say less, or begin a new conversation."
        )
    return told


def is_chat(tokens: Tokens) -> bool:
    """Whether these are tokens of a conversation, in which somebody asks."""
    return any(segment.role == USER for segment in tokens.segments)


def _replied(model: TakesTurns, tokens: Tokens, text: str) -> Tokens:
    told = model.reply(tokens, [Reply(text)])
    *before, said = told.segments
    return replace(told, segments=(*before, Segment(USER, said.start, said.stop)))
