"""How a model that reads numbers is to be fed: by its configuration, or found out by trying."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import AttnvizError, ModelError
from attnviz.plugins.backends import function_mode
from attnviz.plugins.backends.arrays_route import Look, Seen, look_at_torch, look_at_transformers, sizes_of
from attnviz.plugins.backends.number_models import PICTURES, SENSORS, is_transformers, model_type_of
from attnviz.plugins.backends.readings import Arguments, Reading, Rows, as_numbers, past_and_future, patches, pictures
from attnviz.plugins.backends.sensor_tokens import SensorTokens

if TYPE_CHECKING:
    import torch

_LENGTH = 8  # time steps of the random input that a module is tried with
_TRIED = 4  # widths that are tried
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
"""What a module raises over an input of another shape than it takes."""


def look_at(module: torch.nn.Module, beside: Any) -> tuple[Reading, Look]:
    """How the module reads, and what an example showed.

    beside   an example of what it reads, one input without its batch axis, or None

    Raises:
        ModelError: it could not be run, or its attention cannot be watched.
        BadInput: an example that is no array of numbers.
    """
    if is_transformers(module):
        reading = _of_configuration(module)
        return reading, look_at_transformers(
            module, example_arguments(module, reading), reading.decoder_from is not None
        )
    _refuse_two_inputs(module)
    function_mode.follow(module)
    if model_type_of(module) == SENSORS:
        sensors = SensorTokens(module.config)
        return sensors, look_at_torch(module, example_arguments(module, sensors))
    rows = _with_free_time(module, _find_rows(module, beside))
    return rows, look_at_torch(module, example_arguments(module, rows))


def example_arguments(module: torch.nn.Module, reading: Reading) -> Arguments:
    """Arguments of `module.forward` for the example of a reading."""
    return reading.arguments(as_tensor(module, reading.example())[None])


def as_tensor(module: torch.nn.Module, values: NDArray[Any]) -> torch.Tensor:
    """On the device of the module and of its type."""
    import torch

    like = next(p for p in module.parameters() if p.is_floating_point())
    return torch.tensor(np.asarray(values), dtype=like.dtype, device=like.device)


def _of_configuration(module: Any) -> Reading:
    """A model of transformers says in its configuration what it takes."""
    config = module.config
    if config.model_type in PICTURES:
        return pictures(config)
    if config.model_type == "patchtst":
        return patches(config)
    if config.model_type == "time_series_transformer":
        return past_and_future(config)
    raise ModelError(f"{type(module).__name__}: attnviz does not know what arrays {config.model_type} reads.")


# --------------------------------------------------------------------------------------------- modules of torch


def _refuse_two_inputs(module: torch.nn.Module) -> None:
    import torch

    if isinstance(module, (torch.nn.Transformer, torch.nn.TransformerDecoder, torch.nn.TransformerDecoderLayer)):
        raise ModelError(
            f"{type(module).__name__} reads two sequences, and a run has one: load its encoder alone, or a module of "
            "your own around it that makes the second from the first."
        )


def _find_rows(module: torch.nn.Module, beside: Any) -> Rows:
    """The first way of feeding the module that it takes, and in which attention is over more than one token.

    Raises:
        ModelError: there is none, with what the last one came to.
    """
    name = type(module).__name__
    fallback: Rows | None = None
    fault = "there is no layer whose width says what it reads"
    for rows in _ways(module, beside):
        try:
            seen = sizes_of(module, example_arguments(module, rows), function_mode.watching)
        except AttnvizError:
            raise
        except FAULTS as error:
            said = " ".join(str(error).split())[:200]
            fault = f"on numbers of shape {list(rows.probe.shape)} it stopped: {said}"
            continue
        if not seen or _all_over_tokens(seen):
            return rows  # without any call the reason is not the input
        if any(call.batch == 1 and call.keys > 1 for call in seen):
            fallback = fallback or rows
        else:
            fault = f"it attends in {seen[0].batch} sequences of {seen[0].keys} where one input was given"
    if fallback is not None:
        return fallback
    advice = "" if beside is not None else f" Give an example beside it, load(({name.lower()}, example)):"
    raise ModelError(f"{name} could not be run: {fault}.{advice} one input as its forward takes it, without the batch.")


def _with_free_time(module: torch.nn.Module, rows: Rows) -> Rows:
    """The same, for any number of rows if the module takes twice as many."""
    if rows.probe.ndim != 2:
        return rows
    longer = replace(rows, probe=np.concatenate([rows.probe, rows.probe]))
    try:
        sizes_of(module, example_arguments(module, longer), function_mode.watching)
    except FAULTS:
        return rows
    return replace(rows, shape=(None, rows.probe.shape[1]))


def _all_over_tokens(seen: list[Seen]) -> bool:
    return all(call.batch == 1 for call in seen) and any(call.keys > 1 for call in seen)


def _ways(module: torch.nn.Module, beside: Any) -> Iterator[Rows]:
    """Every way of feeding the module that is tried, the likeliest first."""
    import torch

    repeated = 3 if isinstance(module, torch.nn.MultiheadAttention) else 1
    if beside is not None:
        probe = as_numbers(beside)
        for batch in _batch_axes(module, probe.ndim):
            yield Rows(probe.shape, batch, probe, repeated)
        return
    widths = list(dict.fromkeys(_widths(module)))[:_TRIED]
    for width in widths:
        for length in dict.fromkeys([_LENGTH, *_lengths(module)]):
            probe = np.random.default_rng(0).standard_normal((length, width)).astype(np.float32)
            for batch in _batch_axes(module, 2):
                yield Rows(probe.shape, batch, probe, repeated)


def _batch_axes(module: torch.nn.Module, axes: int) -> tuple[int | None, ...]:
    """Where the batch of one may go. PyTorch's layers say whether it comes first; modules mostly hand that on."""
    import torch

    layers = [part for part in module.modules() if isinstance(part, torch.nn.MultiheadAttention)]
    if axes != 2:
        return (0, None)
    return (1, 0, None) if layers and not any(layer.batch_first for layer in layers) else (0, 1, None)


def _widths(module: torch.nn.Module) -> Iterator[int]:
    """Widths of what the layers of a module take, in the order they are defined."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.MultiheadAttention):
            yield part.embed_dim
        elif isinstance(part, torch.nn.Linear):
            yield part.in_features
        elif isinstance(part, torch.nn.LayerNorm):
            yield part.normalized_shape[-1]


def _lengths(module: torch.nn.Module) -> Iterator[int]:
    """Lengths that learned positions are made for: [1, T, d], [T, 1, d], or an embedding of T positions."""
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.Embedding):
            yield part.num_embeddings
    for parameter in module.parameters():
        if parameter.ndim == 3 and 1 in parameter.shape[:2]:
            yield max(parameter.shape[:2])
