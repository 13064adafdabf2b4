"""Every family of text models that is checked, as tiny random configurations, and what it is checked against.

Norm weights and biases are random as well: ones and zeros would hide a norm that is applied twice or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from attnviz.hooks import LayerCapture, Model, ModelSpec, Sampling, Tokens, Want
from attnviz.plugins.backends import hf
from attnviz.plugins.backends.attention_function import collecting
from attnviz.plugins.backends.capture import AttentionCollector
from attnviz.plugins.backends.loading import quiet
from attnviz.plugins.backends.sound import Sound
from attnviz.plugins.backends.stacks import has_decoder

VOCABULARY = 200
COUNT = 24  # tokens of the run that is compared
SOURCE = 14  # of them, those that an encoder reads where a decoder reads the rest
MELS = 10  # features of a frame of sound
PROMPT, ANSWER = 10, 8  # tokens of a prompt, and of what is generated after it
WINDOW = 6  # shorter than the run and than prompt and answer
TOP_K = 4
WANT = Want(thumbnail=10, top_k=TOP_K)

ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 128,
}  # fmt: skip
DECODER = {**BASE, **ENDS}
ENCODER = {**BASE, "pad_token_id": 0}
GROUPED = {**DECODER, "num_key_value_heads": 2}
CAPPED = {**GROUPED, "head_dim": 16, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}
EXPERTS = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
MANY_EXPERTS = {
    **GROUPED, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
}  # fmt: skip
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "shared_expert_intermediate_size": 32, "num_hidden_layers": 4,
}  # fmt: skip
LATENT = {
    "moe_intermediate_size": 32, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
SHORT = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, **ENDS}
NEO = {
    **ENDS, "hidden_size": 64, "num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]],
    "window_size": WINDOW, "max_position_embeddings": 128,
}  # fmt: skip
DISTIL = {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 128}
MODERN = {**DECODER, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8, "global_attn_every_n_layers": 3}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
STACK = {
    **CAPPED, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
    "attn_logit_softcapping": 5.0,
}  # fmt: skip
T5 = {
    "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4,
    "decoder_start_token_id": 0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, **ENDS,
}  # fmt: skip
BOTH = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "decoder_start_token_id": 2, "forced_eos_token_id": 2, **ENDS,
}  # fmt: skip

HEARS = {**BOTH, "num_mel_bins": MELS, "max_source_positions": SOURCE, "max_target_positions": 64}

CAUSAL, MASKED, BARE = "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel"
SEQ2SEQ = "AutoModelForSeq2SeqLM"
FULL, SLIDING = ("full",) * 3, ("sliding",) * 3
NO_ENCODER = ("none",) * 2 + ("full",) * 3 + ("cross",) * 3
STACKS = ("full",) * 5 + ("cross",) * 3  # encoder 0, 1; decoder 0, 1, 2; cross 0, 1, 2


@dataclass(frozen=True)
class Family:
    """A configuration, and what the model's card must say.

    kind     model type of transformers
    options  arguments of its configuration
    layers   kind of each layer;  window  of its sliding layers: a query sees keys nearer than this
    route    interface | eager | none
    auto     the class that makes the module
    """

    kind: str
    options: Mapping[str, Any]
    layers: tuple[str, ...] = FULL
    window: int | None = None
    route: str = "interface"
    auto: str = CAUSAL

    def config(self, vocabulary: int = VOCABULARY, **changes: Any) -> Any:
        import transformers

        options = {**self.options, **changes}
        for stack in {"encoder", "decoder"} & options.keys():  # a configuration of each
            options[stack] = {**options[stack], "vocab_size": vocabulary}
        with quiet():
            return transformers.AutoConfig.for_model(self.kind, vocab_size=vocabulary, **options)

    @property
    def attending(self) -> list[int]:
        """Layers that have maps."""
        return [index for index, kind in enumerate(self.layers) if kind in ("full", "sliding", "cross")]

    def layers_in_words(self) -> str:
        """Runs of layers of one kind, in order."""
        named = [kind if self.window is None or kind != "sliding" else f"sliding {self.window}" for kind in self.layers]
        runs = [(kind, len(list(run))) for kind, run in groupby(named)]
        return ", ".join(kind if count == 1 else f"{count} × {kind}" for kind, count in runs)


DECODERS = {
    "gpt2": Family("gpt2", SHORT),
    "llama": Family("llama", GROUPED),
    "mistral": Family("mistral", {**GROUPED, "sliding_window": WINDOW}, SLIDING, WINDOW),
    "qwen2": Family("qwen2", GROUPED),
    "qwen3": Family("qwen3", {**GROUPED, "head_dim": 16}),
    "gemma2": Family(
        "gemma2",
        {**CAPPED, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        ("sliding", "full", "sliding"),
        WINDOW,
    ),
    "gemma3": Family(
        "gemma3_text",
        {**CAPPED, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
        ("sliding", "sliding", "full"),
        WINDOW,
    ),
    "gpt_neox": Family("gpt_neox", DECODER),
    "gpt_neo": Family("gpt_neo", NEO, ("full", "sliding", "full"), WINDOW, "eager"),
    "gptj": Family("gptj", {**SHORT, "rotary_dim": 8}, route="eager"),
    "opt": Family("opt", {**DECODER, "ffn_dim": 96, "word_embed_proj_dim": 64}),
    "bloom": Family("bloom", {"hidden_size": 64, "n_layer": 3, "n_head": 4, **ENDS}, route="eager"),
    "phi": Family("phi", DECODER),
    "phi3": Family("phi3", GROUPED),
    "falcon": Family("falcon", DECODER, route="eager"),
    "falcon_alibi": Family("falcon", {**DECODER, "alibi": True}, route="eager"),
    "stablelm": Family("stablelm", GROUPED),
    "olmo2": Family("olmo2", GROUPED),
    "smollm3": Family("smollm3", GROUPED),
    "mixtral": Family("mixtral", EXPERTS),
    "qwen3_moe": Family("qwen3_moe", MANY_EXPERTS),
    "gpt_oss": Family(
        "gpt_oss",
        {**EXPERTS, "head_dim": 16, "sliding_window": WINDOW, "num_hidden_layers": 2},
        ("sliding", "full"),
        WINDOW,
    ),
    "cohere": Family("cohere", {**GROUPED, "logit_scale": 0.25}),
    "granite": Family("granite", {**GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5}),
    "deepseek_v3": Family("deepseek_v3", {**DECODER, **LATENT}),
    "qwen3_next": Family("qwen3_next", {**MANY_EXPERTS, **LINEAR}, ("linear", "linear", "linear", "full")),
    "mamba": Family(
        "mamba", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, **ENDS}, ("none",) * 2, route="none"
    ),
    "rwkv": Family("rwkv", {"hidden_size": 64, "num_hidden_layers": 2, **ENDS}, ("none",) * 2, route="none"),
}
ENCODERS = {
    "bert": Family("bert", ENCODER, auto=MASKED),
    "bert_base": Family("bert", ENCODER, auto=BARE),
    "roberta": Family("roberta", ENCODER, auto=MASKED),
    "distilbert": Family("distilbert", DISTIL, auto=MASKED),
    "modernbert": Family("modernbert", MODERN, ("full", "sliding", "sliding"), 5, auto=MASKED),
    "electra": Family("electra", {**ENCODER, "embedding_size": 64}, auto=MASKED),
    "deberta_v2": Family("deberta-v2", {**ENCODER, **RELATIVE}, route="eager", auto=MASKED),
    "albert": Family("albert", {**ENCODER, "embedding_size": 32}, auto=MASKED),
    "longformer": Family(
        "longformer", {**ENCODER, "attention_window": [8] * 3}, ("none",) * 3, route="none", auto=MASKED
    ),
}
ENCODER_DECODERS = {
    "t5": Family("t5", T5, STACKS, auto=SEQ2SEQ),
    "t5_gated": Family(
        "t5", {**T5, "tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}, STACKS, auto=SEQ2SEQ
    ),
    "umt5": Family("umt5", T5, STACKS, auto=SEQ2SEQ),
    "bart": Family("bart", BOTH, STACKS, auto=SEQ2SEQ),
    "bart_base": Family("bart", BOTH, STACKS, auto=BARE),
    "mbart": Family("mbart", BOTH, STACKS, auto=SEQ2SEQ),
    "marian": Family("marian", BOTH, STACKS, auto=SEQ2SEQ),
    "pegasus": Family("pegasus", BOTH, STACKS, auto=SEQ2SEQ),
    "m2m_100": Family("m2m_100", BOTH, STACKS, auto=SEQ2SEQ),
    "blenderbot": Family("blenderbot", BOTH, STACKS, auto=SEQ2SEQ),
    "switch_transformers": Family("switch_transformers", {**T5, "num_experts": 4}, STACKS, auto=SEQ2SEQ),
    "t5gemma": Family(
        "t5gemma",
        {"encoder": STACK, "decoder": STACK, **ENDS},
        ("sliding", "full", "sliding", "full", "cross", "cross"),
        WINDOW,
        auto=SEQ2SEQ,
    ),
    "whisper": Family("whisper", HEARS, STACKS, auto="AutoModelForSpeechSeq2Seq"),
    "led": Family("led", {**BOTH, "attention_window": [8, 8]}, NO_ENCODER, route="eager", auto=SEQ2SEQ),
    "longt5": Family("longt5", T5, NO_ENCODER, auto=SEQ2SEQ),
    "pegasus_x": Family("pegasus_x", BOTH, NO_ENCODER, auto=SEQ2SEQ),
}
FAMILIES = {**DECODERS, **ENCODERS, **ENCODER_DECODERS}


def random_module(family: str, vocabulary: int = VOCABULARY, **changes: Any) -> Any:
    """A module whose every parameter is random, large enough that attention is far from uniform."""
    import torch
    import transformers

    made = FAMILIES[family]
    with quiet():
        module = getattr(transformers, made.auto).from_config(
            made.config(vocabulary, **changes), attn_implementation="eager"
        )
    generator = torch.Generator().manual_seed(len(family))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and name.endswith(".q.weight"):  # T5: the division by √16 is in its weights
                parameter.copy_(0.15 / 4 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(0.15 * noise)
            elif "norm" in name.lower() or "ln_" in name:
                parameter.add_(0.3 * noise)
            elif "sink" in name:
                parameter.copy_(noise)
            elif family != "mamba":  # its vectors are logarithms of decay rates
                parameter.add_(0.1 * noise)
        for name, buffer in module.named_buffers():
            if name == "final_logits_bias":
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return module.eval()


def random_tokens(module: Any = None, count: int = COUNT, source: int = SOURCE) -> Tokens:
    """Ids without a text; of a module with encoder and decoder the first `source` are the encoder's.

    Of one that hears these are SOURCE pieces of noise instead.
    """
    sound = None if module is None else Sound.of(module)
    if sound is not None:
        count, source = count - source + SOURCE, SOURCE
    ids = np.random.default_rng(0).integers(3, VOCABULARY, count)
    blank, split = ("x",) * count, source if module is not None and has_decoder(module) else None
    values = None if sound is None else np.random.default_rng(1).normal(size=(MELS, 2 * SOURCE)).astype(np.float32)
    if values is not None:
        ids[:SOURCE] = -1
    return Tokens(ids, blank, np.full((count, 2), -1), np.zeros(count, bool), "x" * count, (), values, split)


def load(family: str, module: Any, tokenizer: Any) -> Model:
    """The backend's model around the weights of `module`."""
    return hf.load(ModelSpec(family, objects=(module, tokenizer)))


# --------------------------------------------------------------------------------------------- against eager attention


def inputs_of(tokens: Tokens, stop: int | None = None) -> dict[str, Any]:
    """What a module is given of a run, or of its first tokens; without masks, so that the module makes its own."""
    import torch

    def batch(ids: Any) -> Any:
        return torch.tensor(ids[None].copy())

    if tokens.decoder_from is None:
        return {"input_ids": batch(tokens.ids[:stop])}
    split = tokens.decoder_from
    target = {"decoder_input_ids": batch(tokens.ids[split:stop])}
    if tokens.values is not None:
        return {"input_features": batch(tokens.values), **target}
    return {"input_ids": batch(tokens.ids[:split]), **target}


def run_eager(
    module: Any, tokens: Tokens, stop: int | None = None
) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Maps [H, Q, K] of every layer that has one, and logits [T, V] (states [T, d] without an output head).

    Of a model with encoder and decoder T is the target, and the maps are those of encoder, decoder and cross layers.
    """
    import torch

    with torch.no_grad():
        output = module(**inputs_of(tokens, stop), output_attentions=True)
    names = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    found = [weights for name in names for weights in getattr(output, name, None) or ()]
    shapes = shapes_of(tokens, stop)
    maps = [weights[0].numpy() for weights in found if getattr(weights, "shape", (1,))[2:] in shapes]
    return maps, output[0][0].numpy()


def shapes_of(tokens: Tokens, stop: int | None) -> set[tuple[int, int]]:
    """[Q, K] of maps over tokens; what has another shape is none (windows, states)."""
    count = len(tokens.ids[:stop])
    if tokens.decoder_from is None:
        return {(count, count)}
    source, target = tokens.decoder_from, count - tokens.decoder_from
    return {(source, source), (target, target), (target, source)}


def brute_force(weights: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Statistics of a map [H, Q, K] as their definitions say, in float64; a distance only where Q = K."""
    maps = weights.astype(np.float64)
    logs = np.log2(maps, out=np.zeros_like(maps), where=maps > 0)
    found = {
        "entropy": -(maps * logs).sum(-1),
        "row_max": maps.max(-1),
        "column_sum": maps.sum(1),
        "top_weights": -np.sort(-maps, axis=-1)[..., :TOP_K],
    }
    if maps.shape[1] == maps.shape[2]:
        apart = np.abs(np.arange(maps.shape[1])[:, None] - np.arange(maps.shape[2])[None])
        found["distance"] = (maps * apart).sum(-1)
    return found


def patterns(layer: LayerCapture) -> np.ndarray[Any, Any]:
    """[H, Q, K] maps of a layer."""
    return np.stack([layer.pattern(head) for head in range(layer.heads)])


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences from eager attention; None where the model has no such number.

    logits      with our attention function, idle and capturing
    maps, statistics   of every layer
    lens        of its last row from the model's logits
    generated   tokens of a greedy answer, with and without penalty, all of them those of argmax step by step
    rows        of the answer's attention from that of each step
    """

    logits: float
    maps: float | None = None
    statistics: float | None = None
    lens: float | None = None
    generated: int | None = None
    rows: float | None = None


def compare(model: Any, module: Any) -> Differences:
    """The backend's model against a module of the same weights with eager attention."""
    tokens = random_tokens(module)
    maps, logits = run_eager(module, tokens)
    found: dict[str, Any] = {"logits": _compare_logits(model, tokens, logits)}
    if "attention" in model.card.capabilities:
        layers = [layer for layer in model.trace(tokens, WANT).layers if layer is not None]
        pairs = list(zip(layers, maps, strict=True))
        found["maps"] = max(_apart(patterns(layer), weights) for layer, weights in pairs)
        found["statistics"] = max(
            _apart(getattr(layer, name), expected)
            for layer, weights in pairs
            for name, expected in brute_force(weights).items()
        )
    if "logits" in model.card.capabilities:
        positions = range(tokens.decoder_from or 0, COUNT)
        table = model.lens(tokens, positions=positions, top_k=TOP_K, targets=[-1] * len(positions), sites="blocks")
        found["lens"] = table.self_check.max_abs_diff
    if "generation" in model.card.capabilities:
        found["generated"], found["rows"] = _compare_answer(model, module)
    return Differences(**found)


def _apart(found: Any, expected: Any) -> float:
    assert np.shape(found) == np.shape(expected), (np.shape(found), np.shape(expected))
    return float(np.abs(np.asarray(found, np.float64) - expected).max())


def _compare_logits(model: Any, tokens: Tokens, expected: np.ndarray[Any, Any]) -> float:
    import torch

    with torch.no_grad():
        idle = model.module()(**inputs_of(tokens))[0][0]
        with collecting(AttentionCollector(model.route.calls, WANT.thumbnail)):
            captured = model.module()(**inputs_of(tokens))[0][0]
    return max(_apart(idle, expected), _apart(captured, expected))


def _compare_answer(model: Any, module: Any) -> tuple[int, float | None]:
    """Tokens of the longest answer, and the largest difference of any row of one trace over prompt and answer.

    Step t is a pass of eager attention over the first t tokens, without a cache. Its last row chose token t; that of
    the step over all tokens is the last token's own. Once without and once with a penalty: without, some models of
    random weights say one token again and again. An encoder has no rows of the answer.
    """
    prompt, lengths, rows = random_tokens(module, PROMPT, PROMPT - 2), [], []
    split = prompt.decoder_from or 0
    for penalty in (1.0, 2.0):
        run = model.generate(prompt, Sampling(max_new_tokens=ANSWER, repetition_penalty=penalty))
        trace = model.trace(run, Want()) if "attention" in model.card.capabilities else None
        layers = [] if trace is None else [layer for layer in trace.layers if layer is not None]
        for stop in range(len(prompt), len(run) + 1):
            maps, logits = run_eager(module, run, stop)
            chosen = int(_penalised(logits[-1], run.ids[split:stop], penalty).argmax())
            assert stop == len(run) or run.ids[stop] == chosen, f"token {stop} is {run.ids[stop]}, argmax is {chosen}"
            for layer, weights in zip(layers, maps if layers else [], strict=True):
                at = stop - 1 - split
                if layer.queries == (0, prompt.decoder_from):
                    continue
                found = np.stack([layer.pattern(head, slice(at, at + 1))[0] for head in range(layer.heads)])
                later = found.shape[1] - weights.shape[2]  # keys that were not there yet
                rows.append(_apart(found, np.pad(weights[:, -1], ((0, 0), (0, later)))))
        lengths.append(len(run) - len(prompt))
        assert lengths[-1] == ANSWER or run.ids[-1] == ENDS["eos_token_id"], f"stopped after {lengths[-1]} tokens"
    return max(lengths), max(rows, default=None)


def _penalised(logits: np.ndarray[Any, Any], seen: Any, penalty: float) -> np.ndarray[Any, Any]:
    """Logits of tokens that were seen divided by the penalty, or times it if negative (Keskar et al. 2019)."""
    changed = logits.copy()
    for token in set(seen.tolist()):
        changed[token] *= penalty if changed[token] < 0 else 1 / penalty
    return changed
