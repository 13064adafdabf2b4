"""Every error attnviz raises on purpose. Their text is for people; anything else is a bug and keeps its traceback.

AttnvizError
├── BadInput          what the user gave cannot be used (exit code 2, shown in place)
│   ├── UnknownName   no such model, analysis, parameter, layer, head …; lists the names that exist
│   └── ShapeError    an array of the wrong shape; quotes both shapes
├── ModelError        a model cannot be loaded or run
├── Unavailable       the model or the machine lacks what is asked for; carries the reason
└── PluginError       a plugin breaks the plugin contract
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttnvizError(Exception):
    """Base of all errors with a message for people: what was expected, what came, what to do."""


class BadInput(AttnvizError, ValueError):
    """The user's input cannot be used."""


class UnknownName(BadInput):
    """A name that does not exist. The message lists the names that do."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = ", ".join(names) if names else "none"
        super().__init__(f"Unknown {kind} {name!r}.{hint} Known: {listed}.")
        self.kind, self.name, self.known = kind, name, tuple(names)


class ShapeError(BadInput):
    """An array does not have the shape its place demands."""

    def __init__(self, what: str, expected: object, got: object) -> None:
        super().__init__(f"{what}: expected shape {expected}, got {got}.")


class ModelError(AttnvizError):
    """A model could not be loaded or run."""


class Unavailable(AttnvizError):
    """The model, the machine or the installation lacks what was asked for."""


class PluginError(AttnvizError):
    """A plugin does not keep the plugin contract."""
