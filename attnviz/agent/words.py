"""The words of a turn, and which token each character came with."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from attnviz.hooks import Tokens


@dataclass(frozen=True)
class Words:
    """Text of tokens start..stop-1. `ends`: for each token, how long the text is with it."""

    text: str
    start: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Tokens, start: int, *, control: bool, ends: frozenset[int]) -> Words:
        """Words from a token on, to the token that ends the turn. control: with control tokens, by their names."""
        stop = len(tokens)
        while stop > start and int(tokens.ids[stop - 1]) in ends:
            stop -= 1
        text, lengths, at = "", [], None
        for index in range(start, stop):
            first, last = (int(edge) for edge in tokens.offsets[index])
            if tokens.special[index]:
                text += tokens.labels[index] if control else ""
            elif first >= 0:
                text += tokens.text[first if at is None else max(first, at) : last]
                at = last
            lengths.append(len(text))
        return cls(text, start, tuple(lengths))

    def token_of(self, character: int) -> int:
        """The token that a character came with; the one after the last for what is beyond the text."""
        return self.start + bisect_left(self.ends, character + 1)
