"""What is chosen outside of a command or a call: variables ATTNVIZ_… of the environment and of a file `.env`.

The command line and the app read `.env` in the working folder; the environment itself wins over it. A notebook sees the
environment only. The table `VARIABLES` is all there is.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attnviz.errors import BadInput

PREFIX = "ATTNVIZ_"
FILE = ".env"
LOG_LEVELS = ("debug", "info", "warning", "error")
FORMER = {
    "MODEL_NAME": "ATTNVIZ_MODEL",
    "MODEL_PATH": "ATTNVIZ_MODEL",
    "DEVICE": "ATTNVIZ_DEVICE",
    "ATTENTION_LAYER_INDEX": "ATTNVIZ_LAYER",
    "MAX_NEW_TOKENS": "ATTNVIZ_MAX_NEW_TOKENS",
    "TEMPERATURE": "ATTNVIZ_TEMPERATURE",
    "TOP_P": "ATTNVIZ_TOP_P",
    "REPETITION_PENALTY": "ATTNVIZ_REPETITION_PENALTY",
    "RESULTS_DIR": "ATTNVIZ_HOME",
    "LOG_LEVEL": "ATTNVIZ_LOG_LEVEL",
}
"""Names that files of this kind commonly have, and what they are called here."""
_LARGEST_FILE = 64 << 10
_TESTS = "ATTNVIZ_TEST_"  # of the project's own tests


@dataclass(frozen=True)
class Settings:
    """Choices that hold where a command, a call or the page says nothing else.

    model        menu name, folder or hub id; "" = the menu's default
    layer        layer that analyses begin with; negative = counted from the last; None = the first with attention
    seed         of sampled answers; None = drawn
    home         folder of saved runs and benchmarks
    """

    model: str = ""
    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    layer: int | None = None
    max_new_tokens: int = 40
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    home: str = ""
    log_level: str = "warning"


@dataclass(frozen=True)
class Variable:
    """One variable: how its text is read, and what it does in a line."""

    read: Callable[[str], Any]
    help: str

    def value(self, name: str, text: str) -> Any:
        """The value of the text. Raises BadInput naming the variable."""
        try:
            return self.read(text)
        except ValueError as error:
            raise BadInput(f"{name}: {error}, got {text!r:.80}.") from None


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of an environment; an empty value counts as none.

    Args:
        environ: None = of this process.

    Raises:
        BadInput: a value that cannot be used; the line names the variable and what is expected.
    """
    environ = os.environ if environ is None else environ
    known = {field.name for field in fields(Settings)}
    given = {name: text.strip() for name in VARIABLES if (text := environ.get(name, "")).strip()}
    read = {name: VARIABLES[name].value(name, text) for name, text in given.items()}
    return Settings(**{short: value for name, value in read.items() if (short := _short(name)) in known})


def take_file(folder: Path, environ: dict[str, str] | None = None) -> list[str]:
    """Put the variables of the folder's `.env` into the environment, where it does not have them; says what is odd.

    Returns:
        One line for every variable that has no effect, in the file or in the environment.

    Raises:
        BadInput: a file that cannot be read.
    """
    target: Any = os.environ if environ is None else environ
    found = _read_file(folder / FILE)
    for name, text in found.items():
        if name in VARIABLES and text is not None:
            target.setdefault(name, text)
    said = [_unknown(name, f"in {FILE}") for name in found if name.startswith(PREFIX) or name in FORMER]
    said += [_unknown(name, "in the environment") for name in target if name.startswith(PREFIX) and name not in found]
    return [line for line in said if line]


def _read_file(path: Path) -> dict[str, str | None]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise BadInput(f"{path}: expected at most {_LARGEST_FILE >> 10} KiB of settings.")
        return dotenv_values(path, interpolate=False, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: expected UTF-8 text, byte {error.start} is not.") from error


def _unknown(name: str, where: str) -> str:
    """What to say of a variable without effect; "" for one that has some."""
    if name in VARIABLES or name.startswith(_TESTS):
        return ""
    if name in FORMER:
        return f"{name} {where} has no effect: here it is called {FORMER[name]}."
    near = difflib.get_close_matches(
        name.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in VARIABLES], n=1
    )
    hint = f" Did you mean {PREFIX}{near[0]}?" if near else f" Known: {', '.join(VARIABLES)}."
    return f"{name} {where} has no effect.{hint}"


def start_logging(settings: Settings) -> None:
    """Send what attnviz says of its work to standard error, from the chosen level on."""
    import logging

    log = logging.getLogger("attnviz")
    log.setLevel(settings.log_level.upper())
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("attnviz: %(message)s"))
        log.addHandler(handler)
        log.propagate = False


# --------------------------------------------------------------------------------------------- values


def _short(name: str) -> str:
    return name.removeprefix(PREFIX).lower()


def _text(text: str) -> str:
    return text


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 20 and low <= int(text) <= high):
            raise ValueError(f"expected a whole number from {low} to {high}")
        return int(text)

    return read


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}")
        return value

    return read


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return text.lower()

    return read


VARIABLES: dict[str, Variable] = {
    "ATTNVIZ_MODEL": Variable(_text, "the model to begin with: menu name, folder or hub id"),
    "ATTNVIZ_BACKEND": Variable(_text, "how models are loaded where nothing else is chosen: a backend's name"),
    "ATTNVIZ_DEVICE": Variable(
        _one_of("auto", "cpu", "cuda", "mps", "spread", "ndif"), "what models are loaded on: auto, cpu, cuda, mps …"
    ),
    "ATTNVIZ_DTYPE": Variable(
        _one_of("auto", "float32", "float16", "bfloat16"), "the type of their numbers: auto, float32, float16, bfloat16"
    ),
    "ATTNVIZ_LAYER": Variable(_whole(-1000, 1000), "the layer that analyses begin with; -1 = the last"),
    "ATTNVIZ_MAX_NEW_TOKENS": Variable(_whole(1, 100_000), "tokens of the longest answer"),
    "ATTNVIZ_TEMPERATURE": Variable(_number(0, 100), "of sampled answers; 0 = greedy"),
    "ATTNVIZ_TOP_P": Variable(_number(1e-6, 1), "of sampled answers: the share of probability they are drawn from"),
    "ATTNVIZ_REPETITION_PENALTY": Variable(_number(1e-3, 100), "1 = none"),
    "ATTNVIZ_SEED": Variable(_whole(0, (1 << 64) - 1), "makes sampled answers repeatable"),
    "ATTNVIZ_HOME": Variable(_text, "folder of saved runs and benchmarks"),
    "ATTNVIZ_LOG_LEVEL": Variable(_one_of(*LOG_LEVELS), f"what is said on standard error: {', '.join(LOG_LEVELS)}"),
    "ATTNVIZ_PLUGINS": Variable(_text, "the only plugins to load, by name, with commas"),
    "ATTNVIZ_PLUGIN_FOLDER": Variable(_text, "folder of drop-in plugins"),
    "ATTNVIZ_PUBLIC_TOOLS": Variable(_text, "tools for local use that a public server offers, by name, with commas"),
    "ATTNVIZ_FACTS": Variable(_text, "table of facts of the tool lookup"),
    "ATTNVIZ_SENSORS": Variable(_text, "table of readings of the tool sensor"),
}
