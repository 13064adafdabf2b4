"""A transformers model that hears and answers with a text: Whisper."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from attnviz.hooks import BadInput, Estimate, Message, ModelError, Tokens, Unavailable, Want, begin_target
from attnviz.plugins.backends.forward import model_inputs, run_forward
from attnviz.plugins.backends.hf_model import HuggingFaceModel
from attnviz.plugins.backends.placement import is_spread
from attnviz.plugins.backends.readings import as_numbers
from attnviz.plugins.backends.sound import Sound
from attnviz.plugins.backends.target import first_ids_of_sound


def hearing(model: HuggingFaceModel) -> HuggingFaceModel:
    """The same model with a way to give it sound, if it hears; else as it is.

    Raises:
        ModelError: it hears, and accelerate has spread it.
    """
    if Sound.of(model.loaded.module) is None:
        return model
    if is_spread(model.loaded.module):
        raise ModelError(f"{model.card.name}: a model that hears cannot be spread over devices. Name one of them.")
    return SoundModel(**{field.name: getattr(model, field.name) for field in dataclasses.fields(model)})


@dataclasses.dataclass(frozen=True)
class SoundModel(HuggingFaceModel):
    """As HuggingFaceModel; what its encoder reads is an array, and the source tokens are pieces of time."""

    @property
    def sound(self) -> Sound:
        found = Sound.of(self.loaded.module)
        assert found is not None
        return found

    def estimate(self, count: int, want: Want, decoder_from: int | None = None) -> Estimate:
        if decoder_from != self.sound.tokens:
            raise Unavailable(
                f"{self.card.name} always hears {self.sound.tokens} tokens of sound, whatever the decoder reads: the "
                f"estimate is of runs with decoder_from = {self.sound.tokens}."
            )
        return super().estimate(count, want, decoder_from)

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        raise BadInput(f"{self.card.name} hears, it does not read: expected an array {self.sound.axes}.")

    def tokenize_values(self, values: NDArray[Any]) -> Tokens:
        source = self.sound.source(as_numbers(values))

        def likeliest(start: int, ids: list[int]) -> int:
            given = model_inputs(self.loaded.module, begin_target(source, [start], self.labels))
            logits = run_forward(self.runner, given).logits[0, -1]
            return ids[int(logits[ids].argmax())]

        return begin_target(source, first_ids_of_sound(self.loaded.module, likeliest), self.labels)
