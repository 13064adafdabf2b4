"""A loaded transformers model behind the Model contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attnviz.hooks import (
    CAPABILITIES,
    BadInput,
    Estimate,
    Ints,
    LayerCapture,
    LensTable,
    LiveRow,
    Message,
    ModelCard,
    ModelError,
    ModelSpec,
    Reply,
    Sampling,
    TokenLabels,
    Tokens,
    Tool,
    Trace,
    Unavailable,
    Want,
    begin_target,
    continue_tokens,
    tokenize_messages,
    tokenize_text,
)
from attnviz.plugins.backends import attention_function
from attnviz.plugins.backends.capture import (
    AttentionCollector,
    Shelf,
    capture_map,
    placed,
    precision_of,
    without_padding,
)
from attnviz.plugins.backends.chat_turns import call_format, one_system_segment, reply, say, template_tools
from attnviz.plugins.backends.estimate import (
    TIMED_TOKENS,
    LayerShape,
    Pace,
    bias_bytes,
    choose_level,
    kept_bytes,
    mask_bytes,
    measure_pace,
    refuse_beyond_memory,
    working_bytes,
)
from attnviz.plugins.backends.forward import Runner, input_device, model_inputs, run_forward, some_tokens
from attnviz.plugins.backends.generation import (
    LiveRows,
    check_sampling,
    end_ids,
    generate_ids,
    generation_fault,
)
from attnviz.plugins.backends.gradients import Gradients, find_gradients
from attnviz.plugins.backends.lens import lens_table
from attnviz.plugins.backends.live_rows import InterfaceRows, MapRows, watch_maps
from attnviz.plugins.backends.loading import Loaded, load_model, quiet
from attnviz.plugins.backends.map_gradients import states_and_maps
from attnviz.plugins.backends.padding import is_ahead, refuse_if_counted
from attnviz.plugins.backends.placement import is_spread, shares
from attnviz.plugins.backends.readout import Readout, find_readout
from attnviz.plugins.backends.relevance import relevance_rules
from attnviz.plugins.backends.residual import watch
from attnviz.plugins.backends.route import Route, choose_route, returned_maps
from attnviz.plugins.backends.sound import Sound
from attnviz.plugins.backends.stacks import DECODER, ENCODER, Lengths, Span, has_decoder
from attnviz.plugins.backends.target import first_ids


def load(spec: ModelSpec) -> HuggingFaceModel:
    """Loads, looks at and checks a model. See loading.load_model for errors."""
    attention_function.register()
    loaded = load_model(spec)
    _check_reads_text(loaded)
    with quiet():  # families that lack something say so in warnings; the card says it in words
        route = choose_route(loaded.module, vocabulary_of(loaded))
        if route.name == "eager":
            watch_maps(loaded.module)
        readout = _readout(loaded)
        gradients = _gradients(loaded, readout)
        card = _card(loaded, route, readout, gradients)
    model = HuggingFaceModel(card, loaded, route, readout, TokenLabels.of(loaded.tokenizer), gradients=gradients)
    return replace(model, pace=_pace(model))


def _check_reads_text(loaded: Loaded) -> None:
    """Refuses a model that reads numbers, but for one that hears and answers with a text, and one of two
    vocabularies.
    """
    module = loaded.module
    shared = getattr(module.config, "share_encoder_decoder_embeddings", True)
    if has_decoder(module) and (not shared or hasattr(module.config, "tgt_vocab_size") or not _one_vocabulary(module)):
        raise ModelError(
            f"{loaded.name}: {type(module).__name__} has a vocabulary for its encoder and another one for its decoder. "
            "Only models that share one can be loaded, as an id would not tell which text it stands for."
        )
    if module.main_input_name != "input_ids" and not (has_decoder(module) and Sound.of(module)):
        raise ModelError(
            f"{loaded.name}: {type(module).__name__} reads {module.main_input_name}, not text. Of the models that "
            "hear, Whisper with its decoder can be loaded."
        )


def _one_vocabulary(module: Any) -> bool:
    """Whether the embeddings of encoder and decoder have as many ids; of a model that hears there is one only."""
    if Sound.of(module) is not None or module.main_input_name != "input_ids":
        return True
    parts = (module.get_encoder(), module.get_decoder())
    return len({int(part.get_input_embeddings().weight.shape[0]) for part in parts}) == 1


def _pace(model: HuggingFaceModel) -> Pace | None:
    """How fast it is, from two short captures; None for a model without attention."""

    def forward(lengths: Lengths) -> Trace:
        return model.trace(some_tokens(model.loaded.module, model.card.vocabulary, lengths), Want())

    runs = list(dict.fromkeys(_short_run(model, count) for count in TIMED_TOKENS))
    return measure_pace(model.route.shapes, input_device(model.loaded.module), runs, forward)


def _short_run(model: HuggingFaceModel, count: int) -> Lengths:
    """At most `count` tokens, and of a model with encoder and decoder as many for each (of sound always all)."""
    target = min(count, model.card.positions or count)
    if not has_decoder(model.loaded.module):
        return Lengths(target)
    sound = Sound.of(model.loaded.module)
    source = min(count, model.card.source_positions or count) if sound is None else sound.tokens
    return Lengths(source + target, source)


def _readout(loaded: Loaded) -> Readout | Unavailable:
    """The readout, its modules watched; or why there is none."""
    try:
        found = find_readout(loaded.module, vocabulary_of(loaded))
    except Unavailable as reason:
        return reason
    watch([*found.blocks, *found.attention])
    return found


def _gradients(loaded: Loaded, readout: Readout | Unavailable) -> Gradients | Unavailable:
    if isinstance(readout, Unavailable):
        return readout
    if is_spread(loaded.module):
        return Unavailable(
            f"{type(loaded.module).__name__}: its weights are spread over devices and come and go while it runs, and "
            "gradients need them all at once."
        )
    try:
        return find_gradients(loaded.module, readout, vocabulary_of(loaded))
    except Unavailable as reason:
        return reason


@dataclass(frozen=True)
class HuggingFaceModel:
    """The module belongs to attnviz. No call changes it: what is set at load (attention function, idle hooks) stays."""

    card: ModelCard
    loaded: Loaded
    route: Route
    readout: Readout | Unavailable
    labels: TokenLabels
    gradients: Gradients | Unavailable = field(kw_only=True)
    pace: Pace | None = field(default=None, kw_only=True)

    @property
    def runner(self) -> Runner:
        """What runs the module; other backends put their own way in its place."""
        module: Runner = self.loaded.module
        return module

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        tokenizer, module = self.loaded.tokenizer, self.loaded.module
        limit = self.card.source_positions if has_decoder(module) else self.card.positions
        place: dict[str, Any] = {"positions": limit, "model": self.card.name}
        if isinstance(prompt, str):
            tokens = tokenize_text(tokenizer, self.labels, prompt, **place)
        else:
            tokens = tokenize_messages(tokenizer, self.labels, prompt, **place)
        if has_decoder(module):
            tokens = begin_target(tokens, first_ids(module), self.labels)
        self._check(tokens)
        return tokens

    def tokens_of(self, ids: Sequence[int], padding: Sequence[bool] | None = None) -> Tokens:
        if has_decoder(self.loaded.module):
            raise BadInput(f"{self.card.name} reads a source and a target: give the text instead of ids.")
        nothing = Tokens(np.zeros(0, np.int64), (), np.zeros((0, 2), np.int64), np.zeros(0, bool), "")
        self._check_ids(np.asarray(ids, np.int64))
        tokens = continue_tokens(nothing, ids, self.labels, role="text")
        tokens = replace(tokens, padding=None if padding is None else np.asarray(padding, bool))
        self._check(tokens)
        return tokens

    def trace(self, tokens: Tokens, want: Want) -> Trace:
        self._check(tokens)
        layers = range(len(self.card.layers)) if want.layers is None else want.layers
        for layer in layers:
            if not 0 <= layer < len(self.card.layers):
                raise BadInput(f"Unknown layer {layer}. This model has layers 0 to {len(self.card.layers) - 1}.")
        if want.top_k < 0:
            raise BadInput(f"top_k must be 0 (none) or more, got {want.top_k}.")
        if not want.attention:
            return self._trace({}, "float32", "attention was not asked for.", 0.0)
        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        refuse_beyond_memory(
            self.estimate(len(tokens), want, tokens.decoder_from), len(tokens), input_device(self.loaded.module)
        )
        start = time.perf_counter()
        captured, precision = (self._capture if self.route.name == "interface" else self._maps)(tokens, want, layers)
        return self._trace(captured, precision, "this layer was not asked for.", time.perf_counter() - start)

    def estimate(self, count: int, want: Want, decoder_from: int | None = None) -> Estimate:
        """What a trace of `count` tokens will take; see Estimate. The formula is in estimate.py."""
        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        shapes, lengths = self._shapes(want), Lengths(count, decoder_from)
        level = choose_level(shapes, lengths)
        config = self.loaded.module.config.get_text_config()
        state = int(getattr(config, "hidden_size", 0))
        inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * state)
        held = kept_bytes(shapes, lengths, want, level)
        held += mask_bytes(shapes, lengths) + bias_bytes(shapes, lengths, level)
        seconds = float("nan") if self.pace is None else self.pace.seconds(shapes, lengths, want)
        precision = level.name if self.route.name == "interface" else self.card.dtype
        return Estimate(held, held + working_bytes(shapes, lengths, state, inner), seconds, precision)

    def _shapes(self, want: Want) -> list[LayerShape]:
        """Of the layers asked for."""
        return [shape for layer, shape in self.route.shapes.items() if want.layers is None or layer in want.layers]

    def _spans(self, tokens: Tokens) -> dict[int, tuple[Span, Span]]:
        """Of each layer of a model with encoder and decoder the tokens that are its queries and its keys."""
        lengths = Lengths.of(tokens)
        return {card.index: lengths.spans(card.stack) for card in self.card.layers if card.stack}

    def _capture(self, tokens: Tokens, want: Want, layers: Sequence[int]) -> tuple[dict[int, LayerCapture], str]:
        shapes, lengths = self._shapes(want), Lengths.of(tokens)
        level = choose_level(shapes, lengths)
        calls = {key: layer for key, layer in self.route.calls.items() if layer in set(layers)}
        collector = AttentionCollector(
            calls,
            want.thumbnail,
            half=level.number == 2,
            top_k=want.top_k,
            projections=self.route.projections if want.values else None,
            without=level.without,
            spans=self._spans(tokens),
            padding=tokens.padding,
            shelf=Shelf(kept_bytes(shapes, lengths, want, level)),
        )
        inputs = model_inputs(self.loaded.module, tokens, logits_at=[len(tokens) - 1])
        with attention_function.collecting(collector):
            run_forward(self.runner, inputs)
        return collector.captured, precision_of(collector.captured, level)

    def _maps(self, tokens: Tokens, want: Want, layers: Sequence[int]) -> tuple[dict[int, LayerCapture], str]:
        inputs = model_inputs(self.loaded.module, tokens, logits_at=[len(tokens) - 1], output_attentions=True)
        encoder = any(card.stack == ENCODER and card.heads for card in self.card.layers)
        maps = returned_maps(run_forward(self.runner, inputs), encoder=encoder)
        spans = self._spans(tokens)
        found = {}
        for layer, weights in zip(self.route.maps, maps, strict=True):
            if layer in layers:
                causal = self.card.causal and self.card.layers[layer].stack in ("", DECODER)
                shown = weights[0]
                if tokens.padding is not None:
                    shown = without_padding(shown, tokens.padding, spans.get(layer))
                capture = capture_map(shown, want.thumbnail, causal, top_k=want.top_k, values=want.values)
                found[layer] = placed(capture, spans.get(layer))
        return found, self.card.dtype

    def _trace(self, captured: dict[int, LayerCapture], precision: str, why: str, seconds: float) -> Trace:
        found = tuple(captured.get(index) for index in range(len(self.card.layers)))
        missing = {i: self.route.missing.get(i, why) for i, layer in enumerate(found) if layer is None}
        return Trace(found, missing, precision, seconds)

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        self._check(tokens)
        if isinstance(self.readout, Unavailable):
            raise Unavailable(str(self.readout))
        padded = [p for p in positions if tokens.padding is not None and tokens.padding[p]]
        if padded:
            raise BadInput(f"Position {padded[0]} is padding and predicts nothing. Choose a token of the text.")
        return lens_table(
            self.readout,
            self.loaded.module,
            tokens,
            positions=positions,
            top_k=top_k,
            targets=targets,
            sites=sites,
            label=self.label,
            causal=self.card.causal,
            runner=self.runner,
        )

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        if "generation" not in self.card.capabilities:
            raise Unavailable(self.card.missing["generation"])
        self._check(tokens)
        if tokens.padding is not None:
            raise BadInput("An answer follows the last token of the text: give the text without padding.")
        check_sampling(sampling, len(tokens) - (tokens.decoder_from or 0), self.card.positions, self.card.name)
        module, tokenizer = self.loaded.module, self.loaded.tokenizer
        rows = None if on_row is None else self._live_rows(tokens, on_row)
        new = generate_ids(module, tokenizer, tokens, sampling, on_token, cancelled, self.runner, rows)
        return continue_tokens(tokens, new, self.labels)

    def tool_format(self) -> str:
        if has_decoder(self.loaded.module):
            raise Unavailable(f"{self.card.name} cannot be used as an agent: its decoder writes one turn and no more.")
        return call_format(self.loaded.tokenizer, self.card.name)

    def tool_prompt(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Tokens:
        place: dict[str, Any] = {"positions": self.card.positions, "model": self.card.name}
        told = template_tools(tools)
        tokens = one_system_segment(
            tokenize_messages(self.loaded.tokenizer, self.labels, messages, tools=told, **place)
        )
        self._check(tokens)
        return tokens

    def say(self, tokens: Tokens, text: str, role: str) -> Tokens:
        return say(self.loaded.tokenizer, self.labels, tokens, text, role)

    def reply(self, tokens: Tokens, replies: Sequence[Reply]) -> Tokens:
        return reply(self.loaded.tokenizer, self.labels, tokens, replies, self.card.ends, self.card.name)

    def _live_rows(self, prompt: Tokens, on_row: Callable[[LiveRow], None]) -> LiveRows | None:
        """Who listens to the passes of an answer; None where there is no attention to hear.

        An encoder reads before the first pass and has no rows of the answer.
        """
        if "attention" not in self.card.capabilities:
            return None
        layers = self.card.layers
        if self.route.name == "interface":
            calls = {key: layer for key, layer in self.route.calls.items() if layers[layer].stack != ENCODER}
            return LiveRows(InterfaceRows(calls), layers, on_row)
        # the pass over the prompt returns all its maps, as for a trace
        estimate = self.estimate(len(prompt), Want(), prompt.decoder_from)
        refuse_beyond_memory(estimate, len(prompt), input_device(self.loaded.module))
        maps = [layer for layer in self.route.maps if layers[layer].stack != ENCODER]
        return LiveRows(MapRows(maps), layers, on_row)

    @property
    def reads_ahead(self) -> bool:
        return self._with_gradients().reads_ahead

    @property
    def stand_ins(self) -> Mapping[str, int]:
        names = ("eos", "pad", "unk", "mask", "bos")
        found = {name: getattr(self.loaded.tokenizer, f"{name}_token_id", None) for name in names}
        return {name: int(i) for name, i in found.items() if i is not None and 0 <= i < self.card.vocabulary}

    def embed(self, ids: Any, *, decoder: bool = False) -> Any:
        return self._with_gradients().embed(ids, decoder=decoder)

    def states(self, embeddings: Any, tokens: Tokens, positions: Sequence[int], *, after: Any = None) -> Any:
        self._check(tokens)
        return self._with_gradients().states(self.runner, embeddings, tokens, positions, after)

    def remember(self, embeddings: Any, tokens: Tokens, after: Any = None) -> Any:
        return self._with_gradients().remember(self.runner, embeddings, tokens, after)

    def inner_states(self, embeddings: Any, tokens: Tokens, positions: Sequence[int], layer: int) -> tuple[Any, Any]:
        self._check(tokens)
        found, layers = self._with_gradients(), len(self.card.layers)
        if not 0 <= layer < layers:
            raise BadInput(f"Unknown layer {layer}. This model has layers 0 to {layers - 1}.")
        if tokens.decoder_from is not None:
            raise Unavailable(
                f"{self.card.name} has an encoder and a decoder: none of its layers holds a state of every token."
            )
        if len(found.readout.blocks) != layers:
            raise Unavailable(
                f"{self.card.name}: its {layers} layers are not its {len(found.readout.blocks)} blocks one by one."
            )
        return found.inner_states(self.runner, embeddings, tokens, positions, layer)

    def states_and_maps(
        self, embeddings: Any, tokens: Tokens, positions: Sequence[int]
    ) -> tuple[Any, Mapping[int, Any]]:
        self._check(tokens)
        found = self._with_gradients()
        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        if tokens.decoder_from is not None:
            raise Unavailable(
                f"{self.card.name} has an encoder and a decoder: maps of the one, of the other and between them are "
                "not put together to one over all tokens."
            )
        return states_and_maps(found, self.runner, self.route, embeddings, tokens, positions)

    def relevance_rules(self) -> AbstractContextManager[list[Any]]:
        self._with_gradients()
        return relevance_rules()

    def unembed(self, states: Any) -> Any:
        return self._with_gradients().unembed(states)

    def variants(self, count: int) -> int:
        return self._with_gradients().variants(count)

    def _with_gradients(self) -> Gradients:
        if isinstance(self.gradients, Unavailable):
            raise Unavailable(str(self.gradients))
        return self.gradients

    def label(self, token_id: int) -> str:
        return self.labels.label(token_id)

    def module(self) -> Any:
        return self.loaded.module

    def _check(self, tokens: Tokens) -> None:
        """Refuses ids the model cannot take.

        Raises:
            BadInput: no tokens, ids outside the vocabulary, or more than the model has positions.
        """
        if len(tokens) == 0:
            raise BadInput("There are no tokens to run.")
        if tokens.decoder_from is None and has_decoder(self.loaded.module):
            raise BadInput(
                f"{self.card.name} has an encoder and a decoder: expected tokens of both (see Tokens.decoder_from), "
                f"got {len(tokens)} of one."
            )
        self._check_length(tokens)
        self._check_sound(tokens)
        self._check_ids(tokens.ids[0 if tokens.values is None else tokens.decoder_from :])
        if is_ahead(tokens):
            refuse_if_counted(self.loaded.module, self.runner, self.card.vocabulary, tokens)

    def _check_ids(self, ids: Ints) -> None:
        if not len(ids):
            raise BadInput("There are no ids to run.")
        highest, lowest = int(ids.max()), int(ids.min())
        if highest >= self.card.vocabulary or lowest < 0:
            wrong = highest if highest >= self.card.vocabulary else lowest
            raise BadInput(
                f"Token id {wrong} is outside the vocabulary of {self.card.name}, which has "
                f"{self.card.vocabulary} ids: the tokenizer belongs to another model."
            )

    def _check_sound(self, tokens: Tokens) -> None:
        sound = Sound.of(self.loaded.module)
        if sound is None and tokens.values is not None:
            raise BadInput(f"{self.card.name} reads text, not an array of numbers.")
        if sound is not None and tokens.values is None:
            raise BadInput(f"{self.card.name} hears: expected an array {sound.axes}, got text.")
        if sound is not None and tokens.values is not None and len(sound.source(tokens.values)) != tokens.decoder_from:
            raise BadInput(
                f"{self.card.name} makes {sound.tokens} tokens of the sound, got {tokens.decoder_from} before the "
                "decoder's."
            )

    def _check_length(self, tokens: Tokens) -> None:
        name, split = self.card.name, tokens.decoder_from
        parts = [(name, len(tokens), self.card.positions)]
        if split is not None:
            source = (f"the encoder of {name}", split, self.card.source_positions)
            parts = [source, (f"the decoder of {name}", len(tokens) - split, self.card.positions)]
        for reader, count, positions in parts:
            if count == 0:
                raise BadInput(f"There are no tokens for {reader}.")
            if positions is not None and count > positions:
                raise BadInput(f"{count} tokens are more than the {positions} positions of {reader}.")


# --------------------------------------------------------------------------------------------- card


def vocabulary_of(loaded: Loaded) -> int:
    """Ids the model takes."""
    return int(loaded.module.get_input_embeddings().weight.shape[0])


_TARGET_LIMITS = ("max_target_positions", "max_decoder_position_embeddings", "max_position_embeddings")
_SOURCE_LIMITS = ("max_source_positions", "max_encoder_position_embeddings", "max_position_embeddings")


def positions_of(loaded: Loaded) -> int | None:
    """Most tokens the model takes, or its decoder. Where positions are counted from the padding id on, those are not
    for use.
    """
    import torch

    module = loaded.module
    if has_decoder(module):
        return _limit(module.config, "decoder", _TARGET_LIMITS)
    limit = getattr(module.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or int(limit) <= 0:
        return None
    for name, part in module.named_modules():
        if (
            isinstance(part, torch.nn.Embedding)
            and name.endswith("position_embeddings")
            and part.padding_idx is not None
        ):
            return int(limit) - int(part.padding_idx) - 1
    return int(limit)


def _limit(config: Any, stack: str, names: tuple[str, ...]) -> int | None:
    """Most tokens that a stack takes, as its own configuration says or that of the whole; None = no limit."""
    for place in (getattr(config, stack, None), config):
        for name in names:
            limit = getattr(place, name, None)
            if limit is not None and int(limit) > 0:
                return int(limit)
    return None


def _card(
    loaded: Loaded, route: Route, readout: Readout | Unavailable, gradients: Gradients | Unavailable
) -> ModelCard:
    module = loaded.module
    name = type(module).__name__
    read = "text" if Sound.of(module) is None else "sound"
    missing = {"sensors": f"{name} reads {read}, not sensor values."}
    if route.name == "none":
        missing["attention"] = route.reason
    if isinstance(readout, Unavailable):
        missing["logits"] = str(readout)
    if isinstance(gradients, Unavailable):
        missing["gradients"] = str(gradients)
    causal = bool(module.can_generate()) if route.causal is None else route.causal
    fault = generation_fault(module, loaded.tokenizer) if causal else f"{name} does not continue a text."
    if fault is not None:
        missing["generation"] = fault
    parameter = next(module.parameters())
    return ModelCard(
        name=loaded.name,
        architecture=name,
        layers=route.cards,
        vocabulary=vocabulary_of(loaded),
        positions=positions_of(loaded),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=", ".join(shares(module)) if is_spread(module) else str(parameter.device),
        parameters=sum(p.numel() for p in module.parameters()),
        causal=causal,
        route=route.name,
        route_reason=route.reason,
        capabilities=CAPABILITIES - missing.keys(),
        missing=missing,
        notes=loaded.notes,
        weights_digest=loaded.digest,
        ends=() if "generation" in missing else tuple(end_ids(module, loaded.tokenizer)),
        source_positions=_limit(module.config, "encoder", _SOURCE_LIMITS) if has_decoder(module) else None,
    )
