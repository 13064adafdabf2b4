"""Every backend on tiny random models: full, grouped-query and sliding-window attention, an encoder; and numbers."""

import numpy as np
import pytest

from attnviz.hooks import ModelSpec, Unavailable
from attnviz.registry import load_registry
from attnviz.testing import check_analysis, check_backend, fake_request

REGISTRY = load_registry()
OF_ONE_STACK = ("layer_gradient_x_activation", "gradient_x_attention", "evidence_ledger")
"""Analyses that need layers over every token; refused in words where encoder and decoder share them."""
BACKENDS = {name: backend for name, backend in REGISTRY.backends.items() if name not in ("arrays", "maps")}
SMALL = {
    "vocab_size": 257,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
HALVES = {"vocab_size": 257, "d_model": 32, "decoder_start_token_id": 256}  # encoder and decoder
FAMILIES = {
    "gpt2": {"vocab_size": 257, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {**SMALL, "num_key_value_heads": 2},
    "mistral": {**SMALL, "num_key_value_heads": 2, "sliding_window": 6},
    "bert": SMALL,
    "t5": {**HALVES, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 4},
    "marian": {
        **HALVES, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64, "pad_token_id": 0,
    },
}  # fmt: skip


def tokenizer():
    """One token per byte, <s> first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate([*names, "<s>"])}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    core.add_special_tokens(["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<s>")


def module(family):
    """Random weights, also in norms and biases: ones and zeros would hide a norm applied twice."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(family, **FAMILIES[family], bos_token_id=256, eos_token_id=256)
    torch.manual_seed(0)
    auto = {"bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM", "marian": "AutoModelForSeq2SeqLM"}
    model = getattr(transformers, auto.get(family, "AutoModelForCausalLM")).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.fixture(scope="module")
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, one_thread):
    return request.param, (module(request.param), tokenizer())


@pytest.mark.parametrize("backend", [pytest.param(b, id=b.name) for b in BACKENDS.values()])
def test_backends_keep_the_contract(backend, family):
    name, objects = family
    model = check_backend(backend, ModelSpec(f"tiny-{name}", objects=objects))
    for analysis in REGISTRY.analyses.values():
        if analysis.requires <= model.card.capabilities and (model.card.causal or "logits" not in analysis.requires):
            asked = fake_request(analysis, model, "one two one two", analyses=REGISTRY.analyses)
            if asked.tokens.decoder_from is not None and analysis.name in OF_ONE_STACK:
                with pytest.raises(Unavailable, match=f"{model.card.name} has an encoder and a decoder"):
                    analysis.run(asked)
            else:
                check_analysis(analysis, asked)


def test_a_backend_of_numbers_keeps_the_contract(one_thread):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    numbers = np.random.default_rng(0).standard_normal((9, 16))
    model = check_backend(REGISTRY.backends["arrays"], ModelSpec("tiny-encoder", objects=(encoder, None)), numbers)
    for analysis in REGISTRY.analyses.values():
        if analysis.requires <= model.card.capabilities:
            check_analysis(analysis, fake_request(analysis, model, numbers))
