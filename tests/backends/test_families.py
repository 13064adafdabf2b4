"""Further architectures, from memory: maps, lens and generation against transformers itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from attnviz.hooks import ModelSpec, Sampling, Tokens, Want
from attnviz.plugins.backends import hf

V = 200
BASE = {
    "vocab_size": V,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**BASE, **ENDS, "num_key_value_heads": 2}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
OPT = {"ffn_dim": 96, "word_embed_proj_dim": 64}
BLOOM = {"vocab_size": V, "hidden_size": 64, "n_layer": 3, "n_head": 4}
LATENT = {
    "moe_intermediate_size": 32, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 16, "num_key_value_heads": 4,
}  # fmt: skip

# name: (class, configuration, its arguments, route, layers with attention)
FAMILIES = {
    "qwen3": ("AutoModelForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 16}, "interface", [0, 1, 2]),
    "gpt_neox": ("AutoModelForCausalLM", "GPTNeoXConfig", {**BASE, **ENDS}, "interface", [0, 1, 2]),
    "opt": ("AutoModelForCausalLM", "OPTConfig", {**BASE, **ENDS, **OPT}, "interface", [0, 1, 2]),
    "mixtral": ("AutoModelForCausalLM", "MixtralConfig", {**GROUPED, **EXPERTS}, "interface", [0, 1, 2]),
    "gpt_oss": (
        "AutoModelForCausalLM",
        "GptOssConfig",
        {**GROUPED, **EXPERTS, "head_dim": 16, "sliding_window": 8, "num_hidden_layers": 2},
        "interface",
        [0, 1],
    ),
    "deepseek_v3": ("AutoModelForCausalLM", "DeepseekV3Config", {**BASE, **ENDS, **LATENT}, "interface", [0, 1, 2]),
    "qwen3_next": (
        "AutoModelForCausalLM",
        "Qwen3NextConfig",
        {**GROUPED, **LINEAR, "head_dim": 16, "num_hidden_layers": 4},
        "interface",
        [3],
    ),
    "bloom": ("AutoModelForCausalLM", "BloomConfig", {**BLOOM, **ENDS}, "eager", [0, 1, 2]),
    "falcon": ("AutoModelForCausalLM", "FalconConfig", {**BASE, **ENDS}, "eager", [0, 1, 2]),
    "roberta": ("AutoModelForMaskedLM", "RobertaConfig", {**BASE, "pad_token_id": 0}, "interface", [0, 1, 2]),
    "albert": (
        "AutoModelForMaskedLM",
        "AlbertConfig",
        {**BASE, "pad_token_id": 0, "embedding_size": 32},
        "interface",
        [0, 1, 2],
    ),
}


def random_module(family):
    import torch
    import transformers

    auto, config, options, *_ = FAMILIES[family]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        configured = getattr(transformers, config)(**options)
        module = getattr(transformers, auto).from_config(configured, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(0.15 * noise)
            else:
                parameter.add_(noise if "sink" in name else 0.2 * noise)
    return module


@pytest.fixture(scope="module")
def tokens():
    ids = np.random.default_rng(0).integers(3, V, 24)
    return Tokens(ids, ("x",) * 24, np.full((24, 2), -1), np.zeros(24, bool), "x" * 24)


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, tokens, tokenizers_by_kind):
    import torch

    *_, route, with_attention = FAMILIES[family]
    module = random_module(family)
    model = hf.load(ModelSpec(family, objects=(module, tokenizers_by_kind["bytes"])))
    assert model.card.route == route
    with torch.no_grad():
        output = module(input_ids=torch.tensor(tokens.ids[None].copy()), output_attentions=True)
    trace = model.trace(tokens, Want())
    assert [i for i, layer in enumerate(trace.layers) if layer is not None] == with_attention
    assert [c.index for c in model.card.layers if c.heads] == with_attention
    for index, expected in zip(with_attention, output.attentions, strict=True):
        layer = trace.layer(index)
        maps = np.stack([layer.pattern(head) for head in range(layer.heads)])
        np.testing.assert_allclose(maps, expected[0], atol=1e-5)
        np.testing.assert_allclose(layer.column_sum, expected[0].sum(1), atol=2e-5)
        assert (layer.sinks is not None) == (family == "gpt_oss")
    if family != "albert":
        table = model.lens(tokens, positions=[3, 20], top_k=4, targets=[5, -1], sites="blocks")
        assert table.self_check.ok
        expected = torch.log_softmax(output.logits[0, [3, 20]], -1)
        np.testing.assert_allclose(table.top_logprobs[-1], expected.topk(4).values, atol=1e-4)
    if model.card.causal:
        answer = model.generate(tokens, Sampling(max_new_tokens=3)).ids[len(tokens) :]
        assert answer[0] == int(output.logits[0, -1].argmax())
