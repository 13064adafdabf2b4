"""The same numbers inside a trace as without one, on every kind of decoder and on encoders."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from attnviz.hooks import ModelSpec, Sampling, Tokens, Want
from attnviz.plugins.backends import hf, nnsight

V = 200
BASE = {
    "vocab_size": V, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**BASE, "num_key_value_heads": 2}
WINDOW = {**GROUPED, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16}
EXPERTS = {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
MANY_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "shared_expert_intermediate_size": 32, "num_hidden_layers": 4,
}  # fmt: skip
LATENT = {
    "moe_intermediate_size": 32, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip
SHORT = {"vocab_size": V, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 2}
NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8}

# model type: (its arguments, route)
DECODERS = {
    "gpt2": (SHORT, "interface"),
    "llama": (GROUPED, "interface"),
    "mistral": ({**GROUPED, "sliding_window": 8}, "interface"),
    "qwen2": (GROUPED, "interface"),
    "qwen3": ({**GROUPED, "head_dim": 16}, "interface"),
    "qwen3_moe": ({**GROUPED, **MANY_EXPERTS, "head_dim": 16}, "interface"),
    "qwen3_next": ({**GROUPED, **MANY_EXPERTS, **LINEAR, "head_dim": 16}, "interface"),
    "gemma2": ({**WINDOW, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}, "interface"),
    "gemma3_text": ({**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}, "interface"),
    "gpt_neox": (BASE, "interface"),
    "opt": ({**BASE, "ffn_dim": 96, "word_embed_proj_dim": 64}, "interface"),
    "phi": (BASE, "interface"),
    "phi3": (GROUPED, "interface"),
    "stablelm": (GROUPED, "interface"),
    "olmo2": (GROUPED, "interface"),
    "smollm3": (GROUPED, "interface"),
    "mixtral": (EXPERTS, "interface"),
    "cohere": ({**GROUPED, "logit_scale": 0.25}, "interface"),
    "granite": ({**GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5}, "interface"),
    "gpt_oss": ({**EXPERTS, "head_dim": 16, "sliding_window": 8}, "interface"),
    "deepseek_v3": ({**BASE, **LATENT}, "interface"),
    "gpt_neo": ({**BASE, **NEO}, "eager"),
    "gptj": ({**SHORT, "rotary_dim": 8}, "eager"),
    "bloom": ({"vocab_size": V, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "eager"),
    "falcon": ({**BASE, "alibi": True}, "eager"),
    "mamba": ({"vocab_size": V, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}, "none"),
}
ENCODERS = {"bert": (BASE, "interface"), "deberta-v2": ({**BASE, "relative_attention": True}, "eager")}


def random_module(family):
    """Every parameter random; norms and biases too, so that one applied twice or left out shows."""
    import torch
    import transformers

    options, _ = (DECODERS | ENCODERS)[family]
    auto = transformers.AutoModelForMaskedLM if family in ENCODERS else transformers.AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = auto.from_config(transformers.AutoConfig.for_model(family, **options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.15 * noise)
            elif family != "mamba":
                parameter.add_(noise if "sink" in name else 0.2 * noise)
    return module


@pytest.fixture(scope="module")
def tokens():
    ids = np.random.default_rng(0).integers(3, V, 24)
    return Tokens(ids, ("x",) * 24, np.full((24, 2), -1), np.zeros(24, bool), "x" * 24)


@pytest.mark.parametrize("family", DECODERS | ENCODERS)
def test_a_trace_changes_no_number(family, tokens, tokenizers_by_kind):
    spec = ModelSpec(family, objects=(random_module(family), tokenizers_by_kind["bytes"]))
    plain, traced = hf.load(spec), nnsight.load(spec)
    assert traced.card.route == (DECODERS | ENCODERS)[family][1]
    assert (traced.card.layers, traced.card.missing) == (plain.card.layers, plain.card.missing)
    assert traced.card.capabilities == plain.card.capabilities
    if "attention" in plain.card.capabilities:
        same_attention(plain.trace(tokens, Want()), traced.trace(tokens, Want()))
    for sites in ("blocks", "sublayers") if plain.readout.attention else ("blocks",):
        question = {"positions": [3, 20], "top_k": 4, "targets": [5, -1], "sites": sites}
        same_table(plain.lens(tokens, **question), traced.lens(tokens, **question))
    if plain.card.causal:
        for sampling in (Sampling(4), Sampling(4, temperature=1.2, top_p=0.9, repetition_penalty=1.3, seed=4)):
            expected = plain.generate(tokens, sampling)
            np.testing.assert_array_equal(traced.generate(tokens, sampling).ids, expected.ids)


def same_attention(plain, traced):
    assert traced.precision == plain.precision
    assert traced.missing == plain.missing
    for a, b in zip(plain.layers, traced.layers, strict=True):
        if a is None:
            assert b is None
            continue
        for head in range(a.heads):
            np.testing.assert_allclose(b.pattern(head), a.pattern(head), atol=1e-5)
        for name in ("entropy", "row_max", "distance", "column_sum", "allowed", "seen_by", "thumbnail"):
            np.testing.assert_allclose(getattr(b, name), getattr(a, name), atol=1e-5, rtol=0)


def same_table(plain, traced):
    assert traced.sites == plain.sites
    assert traced.self_check.ok == plain.self_check.ok
    np.testing.assert_array_equal(traced.top_ids, plain.top_ids)
    for name in ("top_logprobs", "entropy", "kl_model_lens", "kl_lens_model", "jensen_shannon", "target_logprob"):
        np.testing.assert_allclose(getattr(traced, name), getattr(plain, name), atol=1e-5, rtol=0)
