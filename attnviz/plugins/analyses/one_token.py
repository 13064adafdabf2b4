"""A text that a user typed for one token of the model."""

from __future__ import annotations

from attnviz.hooks import BadInput, Model


def one_token(text: str, model: Model, param: str) -> int:
    """The id of a text that is exactly one token.

    Raises:
        BadInput: it is several tokens, or none; names them.
    """
    found = model.tokenize(text)
    ids = [int(i) for i, special in zip(found.ids, found.special, strict=True) if not special]
    if not ids:  # the text may itself be a control token; one that was merely added has no characters of its own
        ids = [int(i) for i, (start, stop) in zip(found.ids, found.offsets, strict=True) if stop > start >= 0]
    if len(ids) != 1:
        pieces = " ".join(repr(model.label(i)) for i in ids) or "none"
        raise BadInput(
            f"Parameter {param}: expected a text that is one token of this model, got {text!r}, which is {len(ids)}: "
            f"{pieces}. Type a single token, with its leading space if it has one."
        )
    return ids[0]
