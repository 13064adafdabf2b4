"""Generation with the exact ids handed out as they come. Sampling draws from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import BadInput, LayerCard, LiveRow, Sampling, StopTexts, TokenLabels, Tokens
from attnviz.plugins.backends.forward import Runner, bare_tokens, few_tokens, given_inputs, input_device
from attnviz.plugins.backends.live_rows import RowListener, live_row
from attnviz.plugins.backends.stacks import Lengths, has_decoder

if TYPE_CHECKING:
    import torch


def check_sampling(sampling: Sampling, length: int, positions: int | None, model: str) -> None:
    """Refuses settings out of their range and an answer that does not fit behind the prompt.

    Raises:
        BadInput: what was given, what is possible.
    """
    if sampling.max_new_tokens < 1:
        raise BadInput(f"max_new_tokens must be at least 1, got {sampling.max_new_tokens}.")
    if not 0 <= sampling.temperature < float("inf"):
        raise BadInput(f"temperature must be 0 (greedy) or more, got {sampling.temperature}.")
    if not 0 < sampling.top_p <= 1:
        raise BadInput(f"top_p must be above 0 and at most 1, got {sampling.top_p}.")
    if not 0 < sampling.repetition_penalty < float("inf"):
        raise BadInput(f"repetition_penalty must be above 0 (1 = none), got {sampling.repetition_penalty}.")
    if positions is None or length + sampling.max_new_tokens <= positions:
        return
    room = positions - length
    taken = f"{model} has {positions} positions and the prompt takes {length}"
    if room == 0:
        raise BadInput(f"There is no room for an answer: {taken}.")
    raise BadInput(
        f"{sampling.max_new_tokens} new tokens do not fit: {taken}, which leaves {room}. Ask for {room} or fewer."
    )


def generate_ids(
    module: torch.nn.Module,
    tokenizer: Any,
    tokens: Tokens,
    sampling: Sampling,
    on_token: Callable[[int], None] | None,
    cancelled: Callable[[], bool] | None,
    runner: Runner | None = None,
    rows: LiveRows | None = None,
) -> list[int]:
    """New ids, the end token included if it came. `runner` None = the module itself."""
    import torch

    if cancelled is not None and cancelled():
        return []
    start = tokens.decoder_from or 0
    settings = generation_settings(module, tokenizer, sampling.max_new_tokens)
    # said as a whole length: beside one of the files, new tokens would be logged as a contradiction
    settings["max_length"] = len(tokens) - start + settings.pop("max_new_tokens")
    if tokens.decoder_from is not None:
        settings["decoder_start_token_id"] = int(tokens.ids[start])  # the target begins with it: none is put before
        settings["cache_implementation"] = None  # it is given one
    received = _Stream(on_token, rows, Lengths.of(tokens))
    with torch.inference_mode(), rows.listener.listening() if rows else nullcontext():
        output = _generate_of(module, runner)(
            **given_inputs(module, tokens),
            **_cache(tokens),
            generation_config=_stated(settings),
            logits_processor=[_Choice.of(sampling, input_device(module))],
            stopping_criteria=[_Cancelled(cancelled), *_Complete.of(sampling, tokens, tokenizer)],
            streamer=received,
        )
    return [int(i) for i in output[0, len(tokens) - start :]]


def generation_fault(module: torch.nn.Module, tokenizer: Any) -> str | None:
    """Why this module does not generate, found by trying two tokens; None if it does."""
    name = type(module).__name__
    if not module.can_generate():
        return f"{name} does not continue a text."
    prompt = few_tokens(module, 3) if has_decoder(module) else bare_tokens(np.array([1, 2, 1]))
    try:
        generate_ids(module, tokenizer, prompt, Sampling(max_new_tokens=2), None, None)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        return f"{name} cannot generate: {' '.join(str(error).split())[:200]}"
    return None


def end_ids(module: torch.nn.Module, tokenizer: Any) -> list[int]:
    """Ids that end an answer, as the model and its tokenizer name them."""
    named = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    ids = list(named) if isinstance(named, (list, tuple)) else [named]
    ids.append(getattr(tokenizer, "eos_token_id", None))
    return sorted({int(i) for i in ids if i is not None})


def generation_settings(module: torch.nn.Module, tokenizer: Any, max_new_tokens: int) -> dict[str, Any]:
    """Arguments of GenerationConfig. Every setting is given, so that none comes from the model's own files."""
    ends = end_ids(module, tokenizer)
    pad = getattr(tokenizer, "pad_token_id", None)
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": False,  # _Choice has chosen by then
        "num_beams": 1,
        "eos_token_id": ends or None,
        "pad_token_id": pad if pad is not None else (ends[0] if ends else 0),
        "repetition_penalty": 1.0,
        "use_cache": True,
        "cache_implementation": "dynamic" if _names_a_cache(module) else None,
        "return_dict_in_generate": False,
    }


def _names_a_cache(module: torch.nn.Module) -> bool:
    """Whether the model's own files ask for a kind of cache."""
    return getattr(getattr(module, "generation_config", None), "cache_implementation", None) is not None


def _generate_of(module: torch.nn.Module, runner: Runner | None) -> Callable[..., Any]:
    """transformers' own loop: Whisper's would cut the sound in pieces and force tokens of its own."""
    from transformers import GenerationMixin

    return partial(GenerationMixin.generate, module) if runner in (None, module) else runner.generate


def _cache(tokens: Tokens) -> dict[str, Any]:
    """A cache that grows by the decoder's own layers: generate() would count those of T5's encoder."""
    from transformers import DynamicCache, EncoderDecoderCache

    if tokens.decoder_from is None:
        return {}
    return {"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}


def _stated(settings: Mapping[str, Any]) -> Any:
    """A GenerationConfig of which nothing is filled in from the model's own files."""
    from transformers import GenerationConfig

    class Stated(GenerationConfig):  # type: ignore[misc]
        def update(self, *args: Any, allow_custom_entries: bool = False, **changes: Any) -> Any:
            """Where nothing is said, generate() would take what the files say; here it takes the defaults."""
            return {} if allow_custom_entries else super().update(*args, **changes)

    return Stated(**settings)


@dataclass(frozen=True)
class LiveRows:
    """Who listens to the passes, of which layers, and who gets the rows."""

    listener: RowListener
    layers: Sequence[LayerCard]
    on_row: Callable[[LiveRow], None]


@dataclass
class _Stream:
    """The streamer transformers hands each new id to. The prompt comes first and is not passed on.

    `lengths`: tokens so far. Where stopping is decided one pass late (MPS) an id comes when the pass after it is done;
    the oldest pass is then still the one it was chosen from.
    """

    on_token: Callable[[int], None] | None
    rows: LiveRows | None
    lengths: Lengths
    prompt_seen: bool = False

    def put(self, value: torch.Tensor) -> None:
        if not self.prompt_seen:
            self.prompt_seen = True
            return
        for token_id in value.flatten().tolist():
            if self.on_token is not None:
                self.on_token(int(token_id))
            if self.rows is not None:
                passed = self.rows.listener.passes.popleft()
                self.rows.on_row(live_row(passed, self.rows.layers, self.lengths, int(token_id)))
            self.lengths = replace(self.lengths, count=self.lengths.count + 1)

    def end(self) -> None:
        return None


@dataclass
class _Cancelled:
    """Stops after the token during which the caller gave up."""

    cancelled: Callable[[], bool] | None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        stop = self.cancelled is not None and self.cancelled()
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


@dataclass
class _Complete:
    """Stops with the first token after which the answer contains one of the stop texts. `seen`: ids looked at."""

    texts: StopTexts
    seen: int
    found: bool = False

    @classmethod
    def of(cls, sampling: Sampling, prompt: Tokens, tokenizer: Any) -> list[_Complete]:
        """One, or none without a stop text."""
        if not sampling.stop:
            return []
        return [
            cls(StopTexts(sampling.stop, prompt, TokenLabels.of(tokenizer)), len(prompt) - (prompt.decoder_from or 0))
        ]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        import torch

        for token_id in input_ids[0, self.seen :].tolist():
            self.found = self.texts.add(token_id) or self.found
        self.seen = input_ids.shape[1]
        return torch.full((input_ids.shape[0],), self.found, dtype=torch.bool, device=input_ids.device)


@dataclass
class _Choice:
    """Picks the next id and leaves only that one: greedy decoding of what is left gives it.

    Order as usual: repetition penalty (Keskar et al. 2019), temperature, nucleus (Holtzman et al. 2020), one draw from
    `generator`. So no draw touches torch's global generator, and an equal seed gives an equal answer in any thread.
    """

    sampling: Sampling
    generator: Any = field(default=None)

    @classmethod
    def of(cls, sampling: Sampling, device: torch.device) -> _Choice:
        import torch

        generator = torch.Generator(device=device if device.type == "cuda" else "cpu")
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed)
        return cls(sampling, generator)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        sampling = self.sampling
        return choose(
            input_ids, scores, sampling.temperature, sampling.top_p, sampling.repetition_penalty, self.generator
        )


def choose(
    input_ids: torch.Tensor, scores: torch.Tensor, temperature: float, top_p: float, penalty: float, generator: Any
) -> torch.Tensor:
    """[1, V] logits that leave one id to greedy decoding; see _Choice. Also runs on NDIF: see remote_code.py."""
    import torch

    logits = scores.float()
    if penalty != 1.0:
        seen = torch.gather(logits, 1, input_ids)
        logits = logits.scatter(1, input_ids, torch.where(seen < 0, seen * penalty, seen / penalty))
    if temperature == 0:
        return logits
    probabilities = nucleus(torch.softmax(logits / temperature, dim=-1), top_p)
    drawn = torch.multinomial(probabilities.to(generator.device), 1, generator=generator)
    only = torch.full_like(logits, float("-inf"))
    return only.scatter(1, drawn.to(logits.device), 0.0)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The fewest most probable tokens that hold at least top_p together; the first always stays."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # mass of the more probable ones
    ordered = ordered.masked_fill(before >= top_p, 0)
    return probabilities.scatter(1, order, ordered)
