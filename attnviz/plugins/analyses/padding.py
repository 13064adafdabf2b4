"""What is said of padding beside a result."""

from __future__ import annotations

import numpy as np

from attnviz.hooks import Tokens


def padding_line(tokens: Tokens) -> tuple[str, ...]:
    """One line where a run has padding, else none."""
    if tokens.padding is None:
        return ()
    places = ", ".join(map(str, np.flatnonzero(tokens.padding)[:20]))
    more = ", …" if tokens.padding.sum() > 20 else ""
    return (f"Padding at {places}{more}: left out. Its rows and columns are 0, and no number counts them.",)
