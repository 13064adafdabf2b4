"""What a model that reads series answers: the numbers of its head for a batch of inputs, their names and gradients.

A model of transformers answers with its head; where the head gives a distribution, with its mean. A module of the
user's answers with the first tensor it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from attnviz.hooks import BadInput, ModelError, SensorSeries, Tokens, Unavailable
from attnviz.plugins.backends.arrays_route import tensors_of
from attnviz.plugins.backends.number_models import is_transformers
from attnviz.plugins.backends.readings import Arguments, PastAndFuture, Patches, Reading, Rows

if TYPE_CHECKING:
    import torch

AT_ONCE = 256
"""Most inputs in one forward pass."""
_NUMBERS_AT_ONCE = 1 << 24  # weights of attention and values of the inputs, together
_ROUNDING = 1e-4  # allowed difference of an input's answer in a batch and alone, relative to the largest answer


@dataclass(frozen=True)
class Predictor:
    """A module and the way to ask it.

    batched   it takes several inputs at once, and answers each as if it were alone
    axis      of the output, along which the batch lies
    """

    module: torch.nn.Module
    reading: Reading
    batched: bool
    axis: int

    def answer(self, values: torch.Tensor) -> torch.Tensor:
        """[B, …] inputs -> [B, …] answers, in one forward pass; gradients flow unless it is called without them."""
        output = _answer(self.module, self.reading.arguments(values))
        return output.movedim(self.axis, 0) if self.batched else output.flatten()[None]

    def shape(self, values: torch.Tensor) -> tuple[int, ...]:
        """Axes of the answer to one input [1, …]."""
        output = _answer(self.module, self.reading.arguments(values))
        return tuple(output.movedim(self.axis, 0).shape[1:]) if self.batched else tuple(output.shape)


def predictor(module: torch.nn.Module, reading: Reading, example: torch.Tensor) -> Predictor:
    """How to ask a module, found out on two inputs: `example` [1, …] and another one.

    Raises:
        Unavailable: it predicts nothing.
    """
    if is_transformers(module):
        _head_of(module)  # refused here where there is none
        return Predictor(module, reading, batched=True, axis=0)
    alone = Predictor(module, reading, batched=False, axis=0)
    with _forward_only():
        return _batched(alone, example) or alone


def _batched(alone: Predictor, example: torch.Tensor) -> Predictor | None:
    """Asking for several at once, where that gives what each gives alone."""
    import torch

    if isinstance(alone.reading, Rows) and alone.reading.batch is None:
        return None
    others = torch.cat([example, example.flip(1) * 0.5, example * 0.25])
    try:
        singles = [_answer(alone.module, alone.reading.arguments(one[None])) for one in others]
        together = _answer(alone.module, alone.reading.arguments(others))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    found = []
    for axis, size in enumerate(singles[0].shape):
        grown = [*singles[0].shape[:axis], len(others), *singles[0].shape[axis + 1 :]]
        if size == 1 and list(together.shape) == grown:
            apart = (together - torch.cat(singles, dim=axis)).abs().max()
            if float(apart) <= _ROUNDING * max(float(together.abs().max()), 1e-12):
                found.append(Predictor(alone.module, alone.reading, batched=True, axis=axis))
    return found[0] if len(found) == 1 else None


def _answer(module: Any, arguments: Arguments) -> torch.Tensor:
    args, kwargs = arguments
    if is_transformers(module):
        return _head_of(module)(module, kwargs)
    output = next(tensors_of(module(*args, **kwargs)), None)
    if output is None:
        raise Unavailable(f"{type(module).__name__} returns no tensor of real numbers.")
    return output


# --------------------------------------------------------------------------------------------- heads of transformers


def _head_of(module: Any) -> Callable[[Any, dict[str, Any]], torch.Tensor]:
    """The function that asks a model of transformers.

    Raises:
        Unavailable: a base model, or one with a head for something else.
    """
    heads = {
        "PatchTSTForPrediction": _patch_forecast,
        "PatchTSTForRegression": _patch_regression,
        "PatchTSTForClassification": _patch_classes,
        "TimeSeriesTransformerForPrediction": _forecast,
    }
    found = heads.get(type(module).__name__)
    if found is None:
        raise Unavailable(
            f"{type(module).__name__} predicts nothing: it has no head, or one that attnviz does not know. Predictions "
            f"are read from {', '.join(heads)}."
        )
    return found


def _patch_forecast(module: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """[B, step, channel]"""
    output = module(**kwargs)
    answer = output.prediction_outputs
    if module.distribution_output is None:
        return answer
    return module.distribution_output.distribution(answer, loc=output.loc, scale=output.scale).mean


def _patch_regression(module: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """[B, target]"""
    answer = module(**kwargs).regression_outputs
    if module.distribution_output is None:
        return answer
    return module.distribution_output.distribution(answer).mean.view(-1, module.config.num_targets)


def _patch_classes(module: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """[B, class] logits"""
    return module(**kwargs).prediction_logits


def _forecast(module: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """[B, step] or [B, step, channel]: each step from the past and the steps of the future before it.

    The head is called here, because the forward pass of the whole scales the parameters of a negative binomial in place
    for its loss, so that what it returns cannot be scaled once more.
    """
    output = module.model(**kwargs, use_cache=False)
    params = module.output_params(output.last_hidden_state)
    return module.output_distribution(params, loc=output.loc, scale=output.scale).mean


# --------------------------------------------------------------------------------------------- names


def series_of(asked: Predictor, tokens: Tokens, shape: tuple[int, ...]) -> SensorSeries:
    """Names of what a run holds and of what is predicted from it; shape: of the answer to one input."""
    known = asked.reading.series(tokens)
    if known is not None:
        return known
    assert tokens.values is not None
    count = asked.reading.sensor_columns(tokens.values)
    sensors = tokens.columns[:count] or tuple(f"sensor {index}" for index in range(count))
    outputs = _output_names(asked, sensors, shape)
    return SensorSeries(sensors, outputs, ("",) * len(sensors), ("",) * len(outputs))


def _output_names(asked: Predictor, sensors: tuple[str, ...], shape: tuple[int, ...]) -> tuple[str, ...]:
    kind = type(asked.module).__name__
    if isinstance(asked.reading, (Patches, PastAndFuture)) and "ForPrediction" in kind:
        first = asked.reading.predicts_from
        return tuple(f"{name} at t {first + step}" for step in range(shape[0]) for name in sensors)
    word = {"PatchTSTForRegression": "target", "PatchTSTForClassification": "logit of class"}.get(kind, "output")
    return tuple(f"{word} {', '.join(map(str, place))}".strip() for place in np.ndindex(*shape))


# --------------------------------------------------------------------------------------------- batches


def predict(asked: Predictor, values: torch.Tensor, weights: int) -> NDArray[np.floating[Any]]:
    """[B, …] -> [B, O], in as many passes as memory asks for; weights: of attention, for one input."""
    with _forward_only():
        found = [asked.answer(part).flatten(1).cpu().numpy() for part in _parts(asked, values, weights)]
    return np.concatenate(found)


def gradients(
    asked: Predictor, values: torch.Tensor, outputs: Sequence[int], weights: int
) -> NDArray[np.floating[Any]]:
    """[B, …] -> [B, P, …] derivatives of each of the P outputs with respect to its own input."""
    return np.concatenate([_gradients(asked, part, outputs) for part in _parts(asked, values, weights)])


def _gradients(asked: Predictor, values: torch.Tensor, outputs: Sequence[int]) -> NDArray[np.floating[Any]]:
    import torch

    found = torch.zeros(len(values), len(outputs), *values.shape[1:], dtype=values.dtype)
    try:
        with torch.enable_grad():
            given = values.detach().clone().requires_grad_(True)
            answers = asked.answer(given).flatten(1)
            _check_outputs(outputs, answers.shape[1])
            if not answers.requires_grad:
                name = type(asked.module).__name__
                raise Unavailable(f"{name}: its output does not depend on its input by way of derivatives.")
            for place, index in enumerate(outputs):
                (found[:, place],) = torch.autograd.grad(answers[:, index].sum(), given, retain_graph=True)
    except torch.OutOfMemoryError as error:
        raise ModelError("The device has too little free memory for these gradients: give fewer inputs.") from error
    derivatives: NDArray[np.floating[Any]] = found.numpy()
    return derivatives


def _check_outputs(outputs: Sequence[int], count: int) -> None:
    for index in outputs:
        if not 0 <= index < count:
            raise BadInput(f"Unknown output {index}. This model predicts {count} numbers: 0 to {count - 1}.")


@contextmanager
def _forward_only() -> Iterator[None]:
    """Without gradients.

    Raises:
        ModelError: the device has too little memory.
    """
    import torch

    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "The device has too little free memory for these inputs: give fewer, or shorter ones."
        ) from error


def _parts(asked: Predictor, values: torch.Tensor, weights: int) -> Sequence[torch.Tensor]:
    size = max(1, min(AT_ONCE, _NUMBERS_AT_ONCE // max(1, weights + values[0].numel()))) if asked.batched else 1
    parts: tuple[torch.Tensor, ...] = values.split(size)
    return parts
