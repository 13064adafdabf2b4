"""A hub model that NDIF runs: configuration and tokenizer are here, the weights never are.

Fiotto-Kaufman et al. 2024, "NNsight and NDIF". What is measured is reduced inside the trace (remote_code.py), so
statistics travel and not maps [L, H, T, T] or logits [T, V]; maps travel within MAPS_BUDGET.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from attnviz.hooks import (
    CAPABILITIES,
    BadInput,
    Estimate,
    Floats,
    LayerCapture,
    LensTable,
    LiveRow,
    ModelCard,
    ModelError,
    ModelSpec,
    Sampling,
    StopTexts,
    TokenLabels,
    Tokens,
    Unavailable,
    Want,
    continue_tokens,
)
from attnviz.plugins.backends import remote_code
from attnviz.plugins.backends.capture import visible_counts
from attnviz.plugins.backends.estimate import LayerShape, in_words
from attnviz.plugins.backends.forward import tolerance
from attnviz.plugins.backends.generation import check_sampling, end_ids, generation_settings
from attnviz.plugins.backends.hf_model import HuggingFaceModel, positions_of, vocabulary_of
from attnviz.plugins.backends.lens import Columns, check_request, check_vocabulary, kept_tokens, positions_at_once
from attnviz.plugins.backends.live_rows import live_row
from attnviz.plugins.backends.loading import Loaded, is_causal_language_model, load_description, quiet
from attnviz.plugins.backends.ndif_service import Cancelled, Service, find_key
from attnviz.plugins.backends.nnsight_model import import_nnsight
from attnviz.plugins.backends.outline import Outline, read_outline
from attnviz.plugins.backends.route import Route
from attnviz.plugins.backends.stacks import Lengths

MAPS_BUDGET = 32 << 20  # bytes of maps that travel for one trace
_TRIED = "tried against a stand-in for NDIF on this machine only, never against the service itself"
_AWAY = "The weights are on NDIF, and this machine has none"
_NO_VALUES = "NDIF gives the maps of a model, and attnviz does not ask it for the values beside them."


def load(spec: ModelSpec) -> NdifModel:
    """Reads configuration and tokenizer, and looks at the model on the meta device. Asks nothing of NDIF yet.

    Raises:
        ModelError: no key, files that are missing or broken, a model that is none for this.
        BadInput: a data type was asked for, which NDIF decides.
    """
    if spec.dtype != "auto":
        raise BadInput(f"NDIF decides the data type of a model: expected dtype auto, got {spec.dtype}.")
    key = find_key()
    config, tokenizer, generation = load_description(spec)
    if getattr(config, "is_encoder_decoder", False) or not is_causal_language_model(config):
        named = (getattr(config, "architectures", None) or [config.model_type])[0]
        raise ModelError(f"{spec.source}: of models on NDIF attnviz reads causal language models, and this is {named}.")
    envoy = _build(spec, config, tokenizer)
    module = envoy._module
    module.generation_config = generation or module.generation_config
    loaded = Loaded(spec.source, module, tokenizer, "")
    outline = read_outline(module)
    card = _card(loaded, outline, config)
    route = Route(card.route, card.route_reason, outline.cards, outline.missing, causal=True)
    readout = Unavailable(f"{_AWAY}.")
    gradients = Unavailable(card.missing["gradients"])
    labels, service = TokenLabels.of(tokenizer), Service(envoy, key)
    return NdifModel(card, loaded, route, readout, labels, outline, service, gradients=gradients)


def _build(spec: ModelSpec, config: Any, tokenizer: Any) -> Any:
    """The nnsight model, on the meta device. bfloat16, as some kernels of mixtures of experts know no other type."""
    import torch

    nnsight = import_nnsight()
    for module in remote_code.TRAVELLING:
        nnsight.register(module)
    try:
        with quiet():
            envoy = nnsight.TransformersModel(
                spec.source,
                revision=spec.revision,
                config=config,
                tokenizer=copy.deepcopy(tokenizer),  # nnsight sets padding on its own, and marks it
                task="text-generation",
                attn_implementation="eager",
                dtype=torch.bfloat16,
            )
    except (ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{spec.source}: it cannot be built as a causal language model: {reason}") from error
    envoy.kwargs = {}  # what it was built from; it would travel with every job
    envoy._module.eval()
    return envoy


@dataclass(frozen=True)
class NdifModel(HuggingFaceModel):
    """As HuggingFaceModel towards its users; `loaded.module` is on the meta device and is never run on numbers."""

    outline: Outline
    service: Service

    def module(self) -> Any:
        raise Unavailable(f"{_AWAY}.")

    def estimate(self, count: int, want: Want, decoder_from: int | None = None) -> Estimate:
        """Bytes that travel and are kept; how long NDIF takes cannot be known."""
        if "attention" not in self.card.capabilities:
            raise Unavailable(self.card.missing["attention"])
        places = self._places(range(len(self.card.layers)) if want.layers is None else want.layers)
        maps = self._map_bytes(places, count)
        shapes = [LayerShape(place.heads, place.heads, 1) for place in places.values()]
        size = sum(shape.statistics_bytes(Lengths(count), want) for shape in shapes) + (
            maps if maps <= MAPS_BUDGET else 0
        )
        return Estimate(size, 2 * size, float("nan"), "the type NDIF holds the model in")

    def _places(self, layers: Sequence[int]) -> dict[int, Any]:
        return {layer: self.outline.attention[layer] for layer in sorted(layers) if layer in self.outline.attention}

    def _map_bytes(self, places: Mapping[int, Any], count: int) -> int:
        return sum(4 * place.heads * count**2 for place in places.values())

    def _inputs(self, logits_at: Sequence[int]) -> dict[str, Any]:
        """What the model is called with beside the ids; plain values that can be sent."""
        accepted = inspect.signature(type(self.loaded.module).forward).parameters
        inputs: dict[str, Any] = {"return_dict": True}
        if "attention_mask" in accepted:
            inputs["attention_mask"] = None  # made there
        if "use_cache" in accepted:
            inputs["use_cache"] = False
        if "logits_to_keep" in accepted:
            inputs["logits_to_keep"] = list(logits_at)
        return inputs

    # ---- attention

    def _maps(self, tokens: Tokens, want: Want, layers: Sequence[int]) -> tuple[dict[int, LayerCapture], str]:
        places = self._places(layers)
        if not places:
            return {}, "float32"
        size = self._map_bytes(places, len(tokens))
        kept = size <= MAPS_BUDGET
        found = self._ask_for_layers(tokens, places, {"thumbnail": want.thumbnail, "top_k": want.top_k, "maps": kept})
        absent = {"value_norm": _NO_VALUES} if want.values else {}
        if not kept:
            absent["q"] = (
                f"Maps of {len(tokens)} tokens would be {in_words(size)}, and at most {in_words(MAPS_BUDGET)} travel "
                "from NDIF: look at single heads, ask for fewer layers, or use a shorter prompt"
            )
        masks = [mask.numpy() for mask in found["masks"]]
        captures = {layer: _capture(numbers, masks, absent) for layer, numbers in found["layers"].items()}
        return captures, next(iter(found["layers"].values()))["dtype"]

    def _ask_for_layers(self, tokens: Tokens, places: Mapping[int, Any], wanted: Mapping[str, Any]) -> Any:
        """{"layers": {layer: layer_numbers}, "masks": [[Q, K] bool]}."""
        nnsight, ids, envoy = import_nnsight(), _ids(tokens), self.service.envoy
        layers = [(layer, envoy.get(place.path), place.part) for layer, place in places.items()]
        windows = {layer: self.card.layers[layer].window for layer in places}
        numbers, run = remote_code.layer_numbers, partial(remote_code.forward, envoy, self._inputs([len(tokens) - 1]))
        job = self.service.job("eager")
        with self.service.sending(), envoy.trace(input_ids=ids, fn=run, backend=job) as tracer:
            found = nnsight.save({"layers": {}, "masks": []})
            for layer, attention, part in layers:  # in the order in which the model comes to them
                given = attention.inputs
                weights = attention.output[part]
                found["layers"][layer] = numbers(
                    attention._module, weights, given, found["masks"], wanted, windows[layer]
                )
            tracer.stop()
        return self.service.result(job)

    def _check(self, tokens: Tokens) -> None:
        if tokens.padding is not None:
            raise BadInput("A run on NDIF takes no padding: give the text alone.")
        super()._check(tokens)

    def attention_map(self, tokens: Tokens, layer: int, head: int) -> Floats:
        """[Q, K] the map of one head, asked for on its own.

        Raises:
            BadInput: no such layer or head.
            Unavailable: one map alone is more than MAPS_BUDGET.
        """
        self._check(tokens)
        place = self.outline.attention.get(layer)
        if place is None:
            raise BadInput(f"Layer {layer} has no attention.")
        if not 0 <= head < place.heads:
            raise BadInput(f"Unknown head {head}. Layer {layer} has heads 0 to {place.heads - 1}.")
        size = 4 * len(tokens) ** 2
        if size > MAPS_BUDGET:
            raise Unavailable(
                f"The map of one head over {len(tokens)} tokens is {in_words(size)}, and at most "
                f"{in_words(MAPS_BUDGET)} travel from NDIF: use a shorter prompt."
            )
        nnsight, ids, envoy = import_nnsight(), _ids(tokens), self.service.envoy
        attention, part = envoy.get(place.path), place.part
        run, job = partial(remote_code.forward, envoy, self._inputs([len(tokens) - 1])), self.service.job("eager")
        with self.service.sending(), envoy.trace(input_ids=ids, fn=run, backend=job) as tracer:
            found = nnsight.save(attention.output[part][0, head].float().cpu())  # noqa: F841  by its name
            tracer.stop()
        return np.asarray(self.service.result(job).numpy())

    # ---- logit lens

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        self._check(tokens)
        if "logits" not in self.card.capabilities:
            raise Unavailable(self.card.missing["logits"])
        check_request(tokens, positions, top_k, targets, sites)
        check_vocabulary(top_k, targets, self.card.vocabulary)
        sublayers = sites == "sublayers"
        if sublayers and not self.outline.added:
            raise Unavailable(
                f"{self.card.architecture}: its blocks do not add attention and MLP to one residual stream, so there "
                'is no state after attention. Use sites="blocks".'
            )
        names = ["embedding"]
        for index in range(len(self.outline.blocks)):
            names += [f"attention {index}", f"block {index}"] if sublayers else [f"block {index}"]
        kept = kept_tokens(top_k, self.card.vocabulary)
        wanted = {
            "positions": [int(p) for p in positions],
            "targets": [int(t) for t in targets],
            "kept": kept,
            "step": positions_at_once(len(names)),
            "scale": self.outline.scale,
            "softcap": self.outline.softcap,
        }
        found = self._ask_for_lens(tokens, wanted, sublayers)
        self._check_lens(found)
        columns = Columns(len(names), len(positions), kept)
        columns.fill(slice(None), found)
        return columns.table((*names[:-1], "model"), positions, top_k, targets, self.label, f"torch.{found['dtype']}")

    def _ask_for_lens(self, tokens: Tokens, wanted: Mapping[str, Any], sublayers: bool) -> Any:
        nnsight, ids, envoy, outline = import_nnsight(), _ids(tokens), self.service.envoy, self.outline
        added = [envoy.get(path) for path in outline.added] if sublayers else [None] * len(outline.blocks)
        parts = list(zip([envoy.get(path) for path in outline.blocks], added, strict=True))
        chain, multiplier = [envoy.get(path) for path in outline.chain], outline.multiplier
        rows, numbers, at = remote_code.rows_of, remote_code.lens_of, wanted["positions"]
        states: list[Any] = []
        run, job = partial(remote_code.forward, envoy, self._inputs(at)), self.service.job(_usual(self.loaded.module))
        with self.service.sending(), envoy.trace(input_ids=ids, fn=run, backend=job) as tracer:
            for block, attention in parts:
                before = rows(block.input, at)
                if not states:
                    states.append(before)
                if attention is not None:
                    states.append(before + rows(attention.output, at) * multiplier)
                states.append(rows(block.output, at))
            found = nnsight.save(numbers(states, tracer.result.logits[0], chain, wanted))  # noqa: F841  by its name
        return self.service.result(job)

    def _check_lens(self, found: Mapping[str, Any]) -> None:
        """Raises Unavailable: the last site is not the model itself, so the shapes have misled."""
        import torch

        limit = tolerance(getattr(torch, found["dtype"])) * max(1.0, found["largest"])
        if not found["max_abs_diff"] <= limit:
            raise Unavailable(
                f"{self.card.architecture}: final norm and unembedding do not give the model's logits "
                f"(off by {found['max_abs_diff']:.2g})."
            )

    # ---- generation

    def generate(
        self,
        tokens: Tokens,
        sampling: Sampling,
        on_token: Callable[[int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        on_row: Callable[[LiveRow], None] | None = None,
    ) -> Tokens:
        """As Model.generate; the ids come all at once, when NDIF has finished. Cancelled, there is no answer at all.

        Stop texts are looked for here, so up to max_new_tokens are generated there. Rows of attention are asked for
        afterwards, in a job of their own; none are given where they would be more than MAPS_BUDGET.
        """
        if "generation" not in self.card.capabilities:
            raise Unavailable(self.card.missing["generation"])
        self._check(tokens)
        check_sampling(sampling, len(tokens), self.card.positions, self.card.name)
        if cancelled is not None and cancelled():
            return tokens
        try:
            new = self._ask_for_answer(tokens, sampling, cancelled)
        except Cancelled:
            return tokens
        answer = continue_tokens(tokens, new, self.labels)
        rows = self._rows_of_answer(answer, len(new)) if on_row is not None else {}
        for position, token_id in enumerate(new, len(tokens)):
            if on_token is not None:
                on_token(token_id)
            if on_row is not None and rows:
                given = {layer: part[:, position - len(tokens), :position] for layer, part in rows.items()}
                on_row(live_row(given, self.card.layers, Lengths(position), token_id))
        return answer

    def _rows_of_answer(self, answer: Tokens, new: int) -> dict[int, Any]:
        """Layer -> [H, new, T] weights of the queries that the last `new` tokens were chosen from; {} beyond budget."""
        places = self._places(range(len(self.card.layers)))
        size = sum(4 * place.heads * new * len(answer) for place in places.values())
        if "attention" not in self.card.capabilities or not new or size > MAPS_BUDGET:
            return {}
        nnsight, ids, envoy = import_nnsight(), _ids(answer), self.service.envoy
        layers = [(layer, envoy.get(place.path), place.part) for layer, place in places.items()]
        first, stop = len(answer) - new - 1, len(answer) - 1
        run, job = partial(remote_code.forward, envoy, self._inputs([stop])), self.service.job("eager")
        with self.service.sending(), envoy.trace(input_ids=ids, fn=run, backend=job) as tracer:
            found = nnsight.save({})
            for layer, attention, part in layers:
                found[layer] = attention.output[part][0, :, first:stop].float().cpu()
            tracer.stop()
        rows: dict[int, Any] = self.service.result(job)
        return rows

    def _ask_for_answer(self, tokens: Tokens, sampling: Sampling, cancelled: Callable[[], bool] | None) -> list[int]:
        nnsight, ids, envoy = import_nnsight(), _ids(tokens), self.service.envoy
        names = ("temperature", "top_p", "repetition_penalty", "seed")
        settings = generation_settings(self.loaded.module, self.loaded.tokenizer, sampling.max_new_tokens)
        run = partial(remote_code.answer, envoy, settings, {name: getattr(sampling, name) for name in names})
        job = self.service.job(_usual(self.loaded.module))
        with self.service.sending(), envoy.trace(input_ids=ids, fn=run, backend=job) as tracer:
            found = nnsight.save(tracer.result)  # noqa: F841  by its name
        new = [int(token_id) for token_id in self.service.result(job, cancelled)]
        texts = StopTexts(sampling.stop, tokens, self.labels)
        last = next((place for place, token_id in enumerate(new) if texts.add(token_id)), len(new))
        return new[: last + 1]


def _usual(module: Any) -> str:
    """The attention function for passes that need no maps."""
    return "sdpa" if getattr(module, "_supports_sdpa", False) else "eager"


def _ids(tokens: Tokens) -> Any:
    import torch

    return torch.tensor(tokens.ids[None].copy(), dtype=torch.long)


def _capture(numbers: Mapping[str, Any], masks: Sequence[Any], absent: Mapping[str, str]) -> LayerCapture:
    """A LayerCapture from what `layer_numbers` gave."""
    names = ("entropy", "row_max", "distance", "column_sum", "thumbnail", "top_weights", "top_keys", "weights", "sinks")
    arrays = {name: numbers[name].numpy() for name in names if numbers.get(name) is not None}
    visible = None if numbers["visible"] is None else masks[numbers["visible"]]
    queries, keys = arrays["entropy"].shape[1], arrays["column_sum"].shape[1]
    allowed, seen_by = visible_counts(queries, keys, numbers["causal"], visible)
    return LayerCapture(
        q=None,
        k=None,
        scale=1.0,
        causal=numbers["causal"],
        allowed=allowed,
        seen_by=seen_by,
        visible=visible,
        absent=dict(absent),
        **arrays,
    )


def _card(loaded: Loaded, outline: Outline, config: Any) -> ModelCard:
    name = type(loaded.module).__name__
    missing = {
        "sensors": f"{name} reads text, not sensor values.",
        "gradients": f"{_AWAY}; attnviz asks NDIF for single forward passes only.",
        "interventions": f"{_AWAY}; write an nnsight trace of your own for an edit.",
        "norms of values": _NO_VALUES,
    }
    reason = "transformers' eager maps, reduced to statistics inside the trace on NDIF"
    attends = bool(outline.attention)
    if not attends:
        reason = missing["attention"] = f"{name} returns no attention maps over tokens."
    elif _usual(loaded.module) != "eager" and not loaded.module._can_set_attn_implementation():
        attends = False
        reason = missing["attention"] = f"{name} cannot be switched to eager attention where it runs, on NDIF."
    if isinstance(outline.chain, str):
        missing["logits"] = outline.chain
    notes = (
        f"runs on NDIF through nnsight; {_TRIED}",
        f"maps travel up to {in_words(MAPS_BUDGET)} a run; beyond that the statistics, and single heads when asked for",
        "every trace, lens and answer is a job of its own; roles of heads on random tokens take one for each text",
    )
    parameters = sum(p.numel() for p in loaded.module.parameters())
    dtype = getattr(config, "dtype", None)
    return ModelCard(
        name=loaded.name,
        architecture=name,
        layers=outline.cards,
        vocabulary=vocabulary_of(loaded),
        positions=positions_of(loaded),
        dtype=str(dtype).removeprefix("torch.") if dtype else "not stated",
        device="ndif",
        parameters=parameters,
        causal=True,
        route="eager" if attends else "none",
        route_reason=reason,
        capabilities=CAPABILITIES - missing.keys(),
        missing=missing,
        notes=notes,
        ends=tuple(end_ids(loaded.module, loaded.tokenizer)),
    )
