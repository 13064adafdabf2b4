"""What a decoder is given before an answer: the ids a model with encoder and decoder starts its target with.

They are tokens of the run like any other, so what is forced is seen: the start token (T5 and Marian the padding token,
BART the end token), then what the model's own files put first, such as the language of mBART. Nothing else is forced
(no end token at the last position, no ids ruled out): an answer is what the decoder says.

Whisper's start is that of Radford et al. 2023: start of transcript, language, task, no timestamps. The language is the
one its files name, else the one that the model itself finds most probable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attnviz.hooks import ModelError

if TYPE_CHECKING:
    import torch


def first_ids(module: torch.nn.Module) -> list[int]:
    """Ids that the target begins with.

    Raises:
        ModelError: the model's files name no start token.
    """
    start = _named(module, "decoder_start_token_id")
    start = _named(module, "bos_token_id") if start is None else start
    if start is None:
        raise ModelError(
            f"{type(module).__name__}: its files name no decoder_start_token_id, so its decoder cannot be started. Add "
            "it to generation_config.json."
        )
    forced = _named(module, "forced_bos_token_id")
    return [int(start)] if forced is None else [int(start), int(forced)]


def first_ids_of_sound(module: torch.nn.Module, likeliest: Callable[[int, list[int]], int]) -> list[int]:
    """The same for Whisper. `likeliest`: start id, ids -> the one that the model finds most probable after the start.

    Raises:
        ModelError: the files name no start token, or a language or task that the model does not have.
    """
    config = getattr(module, "generation_config", None)
    ids = first_ids(module)
    languages, tasks = getattr(config, "lang_to_id", None), getattr(config, "task_to_id", None)
    if languages:
        language = getattr(config, "language", None)
        found = likeliest(ids[0], list(languages.values())) if language is None else _one_of(languages, language)
        ids.append(int(found))
        if tasks:
            ids.append(int(_one_of(tasks, getattr(config, "task", None) or "transcribe")))
    silent = getattr(config, "no_timestamps_token_id", None)
    return ids if silent is None else [*ids, int(silent)]


def _one_of(known: Mapping[str, int], name: str) -> int:
    """The id of a language ("en" or "<|en|>") or of a task."""
    found = known.get(name, known.get(f"<|{name}|>"))
    if found is None:
        raise ModelError(f"The files of this model ask for {name!r}; it has {', '.join(known)}.")
    return found


def _named(module: torch.nn.Module, name: str) -> Any:
    """A setting of the files for generation, or else of the configuration."""
    found = getattr(getattr(module, "generation_config", None), name, None)
    return getattr(module.config, name, None) if found is None else found
