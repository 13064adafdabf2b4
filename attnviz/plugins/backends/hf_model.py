"""A loaded transformers model behind the Model contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from attnviz.hooks import (
    CAPABILITIES,
    BadInput,
    Estimate,
    LayerCapture,
    LensTable,
    LiveRow,
    Message,
    ModelCard,
    ModelSpec,
    Sampling,
    TokenLabels,
    Tokens,
    Trace,
    Unavailable,
    Want,
    continue_tokens,
    tokenize_messages,
    tokenize_text,
)
from attnviz.plugins.backends import attention_function
from attnviz.plugins.backends.capture import AttentionCollector, Shelf, capture_map
from attnviz.plugins.backends.estimate import (
    LayerShape,
    Level,
    Pace,
    choose_level,
    kept_bytes,
    mask_bytes,
    measure_pace,
    refuse_beyond_memory,
    working_bytes,
)
from attnviz.plugins.backends.forward import Runner, input_device, model_inputs, run_forward
from attnviz.plugins.backends.generation import (
    LiveRows,
    check_sampling,
    end_ids,
    generate_ids,
    generation_fault,
)
from attnviz.plugins.backends.lens import lens_table
from attnviz.plugins.backends.live_rows import InterfaceRows, MapRows, watch_maps
from attnviz.plugins.backends.loading import Loaded, load_model, quiet
from attnviz.plugins.backends.readout import Readout, find_readout
from attnviz.plugins.backends.residual import watch
from attnviz.plugins.backends.route import Route, choose_route


def load(spec: ModelSpec) -> HuggingFaceModel:
    """Loads, looks at and checks a model. See loading.load_model for errors."""
    attention_function.register()
    loaded = load_model(spec)
    with quiet():  # families that lack something say so in warnings; the card says it in words
        route = choose_route(loaded.module, vocabulary_of(loaded))
        if route.name == "eager":
            watch_maps(loaded.module)
        readout = _readout(loaded)
        card = _card(loaded, route, readout)
    model = HuggingFaceModel(card, loaded, route, readout, TokenLabels.of(loaded.tokenizer))
    return replace(model, pace=_pace(model))


def _pace(model: HuggingFaceModel) -> Pace | None:
    """How fast it is, from two short captures; None for a model without attention."""

    def forward(count: int) -> Trace:
        ids = np.arange(count) % max(model.card.vocabulary - 1, 1) + 1
        return model.trace(Tokens(ids, ("",) * count, np.full((count, 2), -1), np.zeros(count, bool), ""), Want())

    return measure_pace(model.route.shapes, input_device(model.loaded.module), model.card.positions, forward)


def _readout(loaded: Loaded) -> Readout | Unavailable:
    """The readout, its modules watched; or why there is none."""
    try:
        found = find_readout(loaded.module, vocabulary_of(loaded))
    except Unavailable as reason:
        return reason
    watch([*found.blocks, *found.attention])
    return found


@dataclass(frozen=True)
class HuggingFaceModel:
    """The module belongs to attnviz. No call changes it: what is set at load (attention function, idle hooks) stays."""

    card: ModelCard
    loaded: Loaded
    route: Route
    readout: Readout | Unavailable
    labels: TokenLabels
    pace: Pace | None = field(default=None, kw_only=True)

    @property
    def runner(self) -> Runner:
        """What runs the module; other backends put their own way in its place."""
        module: Runner = self.loaded.module
        return module

    def tokenize(self, prompt: str | Sequence[Message]) -> Tokens:
        tokenizer = self.loaded.tokenizer
        place: dict[str, Any] = {"positions": self.card.positions, "model": self.card.name}
        if isinstance(prompt, str):
            tokens = tokenize_text(tokenizer, self.labels, prompt, **place)
        else:
            tokens = tokenize_messages(tokenizer, self.labels, prompt, **place)
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
        refuse_beyond_memory(self.estimate(len(tokens), want), len(tokens), input_device(self.loaded.module))
        start = time.perf_counter()
        captured, precision = (self._capture if self.route.name == "interface" else self._maps)(tokens, want, layers)
        return self._trace(captured, precision, "this layer was not asked for.", time.perf_counter() - start)

    def estimate(self, count: int, want: Want) -> Estimate:
        """What a trace of `count` tokens will take; see Estimate. The formula is in estimate.py."""
        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        shapes = self._shapes(want)
        level = choose_level(shapes, count)
        config = self.loaded.module.config.get_text_config()
        state = int(getattr(config, "hidden_size", 0))
        inner = int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * state)
        held = kept_bytes(shapes, count, want, level) + mask_bytes(shapes, count)
        seconds = float("nan") if self.pace is None else self.pace.seconds(shapes, count, want)
        precision = level.name if self.route.name == "interface" else self.card.dtype
        return Estimate(held, held + working_bytes(shapes, count, state, inner), seconds, precision)

    def _shapes(self, want: Want) -> list[LayerShape]:
        """Of the layers asked for."""
        return [shape for layer, shape in self.route.shapes.items() if want.layers is None or layer in want.layers]

    def _capture(self, tokens: Tokens, want: Want, layers: Sequence[int]) -> tuple[dict[int, LayerCapture], str]:
        shapes, count = self._shapes(want), len(tokens)
        level = choose_level(shapes, count)
        calls = {key: layer for key, layer in self.route.calls.items() if layer in set(layers)}
        collector = AttentionCollector(
            calls,
            want.thumbnail,
            half=level.number == 2,
            top_k=want.top_k,
            projections=self.route.projections if want.values else None,
            without=level.reason,
            shelf=Shelf(kept_bytes(shapes, count, want, level)),
        )
        inputs = model_inputs(self.loaded.module, tokens.ids, logits_at=[len(tokens) - 1])
        with attention_function.collecting(collector):
            run_forward(self.runner, inputs)
        return collector.captured, _precision(collector.captured, level)

    def _maps(self, tokens: Tokens, want: Want, layers: Sequence[int]) -> tuple[dict[int, LayerCapture], str]:
        inputs = model_inputs(self.loaded.module, tokens.ids, logits_at=[len(tokens) - 1], output_attentions=True)
        maps = run_forward(self.runner, inputs).attentions
        return {
            layer: capture_map(weights[0], want.thumbnail, self.card.causal, top_k=want.top_k, values=want.values)
            for layer, weights in zip(self.route.maps, (m for m in maps if m is not None), strict=True)
            if layer in layers
        }, self.card.dtype

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
        check_sampling(sampling, len(tokens), self.card.positions, self.card.name)
        module, tokenizer = self.loaded.module, self.loaded.tokenizer
        rows = None if on_row is None else self._live_rows(len(tokens), on_row)
        new = generate_ids(module, tokenizer, tokens, sampling, on_token, cancelled, self.runner, rows)
        return continue_tokens(tokens, new, self.labels)

    def _live_rows(self, count: int, on_row: Callable[[LiveRow], None]) -> LiveRows | None:
        """Who listens to the passes of an answer to `count` tokens; None where there is no attention to hear."""
        if "attention" not in self.card.capabilities:
            return None
        layers = len(self.card.layers)
        if self.route.name == "interface":
            return LiveRows(InterfaceRows(self.route.calls), layers, on_row)
        # the pass over the prompt returns all its maps, as for a trace
        refuse_beyond_memory(self.estimate(count, Want()), count, input_device(self.loaded.module))
        return LiveRows(MapRows(self.route.maps), layers, on_row)

    def label(self, token_id: int) -> str:
        return self.labels.label(token_id)

    def module(self) -> Any:
        return self.loaded.module

    def _check(self, tokens: Tokens) -> None:
        """Refuses ids the model cannot take.

        Raises:
            BadInput: no tokens, ids outside the vocabulary, or more than the model has positions.
        """
        count, positions = len(tokens), self.card.positions
        if count == 0:
            raise BadInput("There are no tokens to run.")
        if positions is not None and count > positions:
            raise BadInput(f"{count} tokens are more than the {positions} positions of {self.card.name}.")
        highest, lowest = int(tokens.ids.max()), int(tokens.ids.min())
        if highest >= self.card.vocabulary or lowest < 0:
            wrong = highest if highest >= self.card.vocabulary else lowest
            raise BadInput(
                f"Token id {wrong} is outside the vocabulary of {self.card.name}, which has "
                f"{self.card.vocabulary} ids: the tokenizer belongs to another model."
            )


def _precision(captured: dict[int, LayerCapture], level: Level) -> str:
    """The level that was chosen, and the layers whose numbers float16 cannot hold."""
    if level.number != 2:
        return level.name
    wide = [i for i, layer in sorted(captured.items()) if layer.q is None or layer.q.dtype.name == "float32"]
    if len(wide) == len(captured):
        return "float32"
    return "float16" if not wide else f"float16 (float32 in layers {', '.join(map(str, wide))})"


# --------------------------------------------------------------------------------------------- card


def vocabulary_of(loaded: Loaded) -> int:
    """Ids the model takes."""
    return int(loaded.module.get_input_embeddings().weight.shape[0])


def positions_of(loaded: Loaded) -> int | None:
    """Most tokens the model takes. Where positions are counted from the padding id on, those are not for use."""
    import torch

    config = loaded.module.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or int(limit) <= 0:
        return None
    for name, part in loaded.module.named_modules():
        if (
            isinstance(part, torch.nn.Embedding)
            and name.endswith("position_embeddings")
            and part.padding_idx is not None
        ):
            return int(limit) - int(part.padding_idx) - 1
    return int(limit)


def _card(loaded: Loaded, route: Route, readout: Readout | Unavailable) -> ModelCard:
    module = loaded.module
    name = type(module).__name__
    missing = {"sensors": f"{name} reads text, not sensor values."}
    if route.name == "none":
        missing["attention"] = route.reason
    if isinstance(readout, Unavailable):
        missing["logits"] = str(readout)
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
        device=str(parameter.device),
        parameters=sum(p.numel() for p in module.parameters()),
        causal=causal,
        route=route.name,
        route_reason=route.reason,
        capabilities=CAPABILITIES - missing.keys(),
        missing=missing,
        notes=loaded.notes,
        weights_digest=loaded.digest,
        ends=() if "generation" in missing else tuple(end_ids(module, loaded.tokenizer)),
    )
