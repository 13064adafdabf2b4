"""Random tokens repeated: the exercise from which previous-token and induction heads form.

A unit of 3 to 90 tokens is written two or more times to a total of about 48 to 96; only the copies count in the loss,
because the first one can not be foretold.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

BOS_ID = 1
FIRST_ORDINARY_ID = 6  # below are the special tokens


@dataclass(frozen=True)
class Repetition:
    """What units are made of."""

    vocabulary: int
    digits: Sequence[int]  # ids of the ten digits
    frequent: Sequence[int]  # ids that occur in the training text
    weights: Sequence[float]  # how often each of them is drawn: count ** 0.4

    def draw(self, rng: random.Random) -> tuple[list[int], list[float]]:
        """Ids and their weights in the loss."""
        size = rng.random()
        length = rng.randint(3, 12) if size < 0.45 else rng.randint(12, 40) if size < 0.85 else rng.randint(40, 90)
        copies = max(2, round(rng.randint(48, 96) / length))
        pool: Sequence[int]
        if rng.random() < 0.5:
            pool = rng.choices(self.frequent, self.weights, k=max(4, length))
        elif rng.random() < 0.2:
            pool = rng.sample(range(FIRST_ORDINARY_ID, self.vocabulary), 60)
        else:
            pool = range(FIRST_ORDINARY_ID, self.vocabulary)
        digit_share = rng.choice((0.0, 0.15, 0.5))
        unit = [rng.choice(self.digits if rng.random() < digit_share else pool) for _ in range(length)]
        lead = rng.randint(0, 20) if rng.random() < 0.5 else 0
        before = [rng.randrange(FIRST_ORDINARY_ID, self.vocabulary) for _ in range(lead)]
        silent = 1 + lead + length
        return [BOS_ID, *before, *unit * copies], [0.0] * silent + [1.0] * (length * (copies - 1))
