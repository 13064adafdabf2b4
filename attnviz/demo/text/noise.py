"""How people really type: case, spacing, punctuation and small talk around the same question."""

from __future__ import annotations

import random
import re

_PREFIXES = (
    "Please ", "Hi, ", "Hello! ", "ok, ", "Can you help me? ", "Quick question: ", "Question: ", "Now ",
    "I have a question. ", "Hey, ", "So, ",
)  # fmt: skip
_SUFFIXES = (" Thanks.", " Thank you!", " please", " Please be quick.", "!", "??")
_OPERATOR = re.compile(r"(?<=\d) ([-+*/]) (?=\d)")
_SIGNS = {"*": ("*", "x", "×", "·"), "/": ("/", "÷", ":"), "+": ("+",), "-": ("-", "−")}


def _tight(rng: random.Random, question: str) -> str:
    space = rng.choice(("", "", " ", "  "))
    return _OPERATOR.sub(lambda found: space + rng.choice(_SIGNS[found[1]]) + space, question)


def _apply(rng: random.Random, question: str, change: str) -> str:
    if change == "lower":
        return question.lower()
    if change == "lower_first":
        return question[0].lower() + question[1:]
    if change == "open_end":
        return question.rstrip(".?!")
    if change == "operators":
        return _tight(rng, question)
    if change == "double_space":
        words = question.split(" ")
        cut = rng.randrange(1, len(words)) if len(words) > 1 else 0
        return " ".join(words[:cut]) + "  " + " ".join(words[cut:]) if cut else question + " "
    if change == "prefix":
        return rng.choice(_PREFIXES) + (question[0].lower() + question[1:] if rng.random() < 0.6 else question)
    if change == "suffix":
        return question + rng.choice(_SUFFIXES)
    return question.replace("What is", "What's").replace("what is", "what's")


def roughen(rng: random.Random, question: str, *, exact_case: bool) -> str:
    """The question as someone might type it; two in three come back unchanged."""
    if rng.random() < 0.67:
        return question
    changes = ["open_end", "operators", "operators", "double_space", "suffix", "contraction"]
    if not exact_case:
        changes += ["lower", "lower", "lower_first", "prefix"]
    for change in rng.sample(changes, rng.choice((1, 1, 2, 2, 3))):
        question = _apply(rng, question, change)
    return question
