"""Norms of what heads pass on, against the attention output taken apart head by head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from attnviz.hooks import ModelSpec, Tokens, Want
from attnviz.plugins.backends import hf
from attnviz.plugins.backends.attention_function import collecting
from attnviz.plugins.backends.forward import model_inputs, run_forward
from attnviz.plugins.backends.value_norms import Projection, find_projection, value_norms

TEXT = "The cat sat on the mat and what is 25 * 37?"
FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "cohere", "bert", "t5", "bart", "marian"]


@dataclass
class Values:
    """Keeps the values [H_kv, K, D_v] of every attention module, and computes nothing."""

    seen: dict = field(default_factory=dict)

    def attend(self, call):
        self.seen[id(call.module)] = call.value[0].clone()


def passed(model, parts, tokens):
    """The values of each layer, and what each of `parts` returned."""
    returned, values, module = {}, Values(), model.module()
    handles = [p.register_forward_hook(lambda m, args, out: returned.update({id(m): out})) for p in parts]
    try:
        with collecting(values):
            run_forward(module, model_inputs(module, tokens))
    finally:
        for handle in handles:
            handle.remove()
    layers = {layer: values.seen[key] for (key, _), layer in model.route.calls.items()}
    return [layers[i] for i in sorted(layers)], [returned[id(part)] for part in parts]


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_times_projected_values_add_up_to_the_attention_output(family, loaded):
    model = loaded(family)
    tokens = model.tokenize(TEXT)
    trace = model.trace(tokens, Want(values=True))
    projections = [model.route.projections[i] for i in range(len(trace.layers))]
    values, outputs = passed(model, [p.module for p in projections], tokens)
    for layer, projection, value, output in zip(trace.layers, projections, values, outputs, strict=True):
        assert isinstance(projection, Projection)
        matrix = projection.matrix().double().numpy().reshape(layer.heads, value.shape[2], -1)  # [H, D_v, d]
        repeat = layer.heads // len(value)
        added = 0.0
        for head in range(layer.heads):
            vectors = value[head // repeat].double().numpy() @ matrix[head]  # [K, d]
            added = added + layer.pattern(head) @ vectors
            np.testing.assert_allclose(layer.value_norm[head], np.linalg.norm(vectors, axis=1), atol=1e-5)
        bias = getattr(projection.module, "bias", None)
        added = added + (0.0 if bias is None else bias.detach().numpy())
        np.testing.assert_allclose(added, output[0], atol=1e-5)


def test_conv1d_of_gpt2_is_stored_the_other_way_round_than_linear(loaded):
    assert not loaded("gpt2").route.projections[0].transposed
    assert loaded("llama").route.projections[0].transposed


def test_values_come_only_when_asked_for(loaded):
    model = loaded("llama")
    layer = model.trace(model.tokenize(TEXT), Want()).layer(0)
    assert layer.value_norm is None
    assert not layer.absent


def test_maps_without_values_say_so(loaded):
    model = loaded("gpt_neo")
    layer = model.trace(model.tokenize(TEXT), Want(values=True)).layer(0)
    assert layer.value_norm is None
    assert "without its values" in layer.absent["value_norm"]


def test_a_gate_before_the_projection_is_a_reason(tokenizers_by_kind):
    import torch
    import transformers

    config = transformers.Qwen3NextConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        intermediate_size=32, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=8,
        linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, layer_types=["full_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    model = hf.load(ModelSpec("gated", objects=(module, tokenizers_by_kind["bytes"])))
    ids = np.arange(9)
    tokens = Tokens(ids, ("x",) * 9, np.full((9, 2), -1), np.zeros(9, bool), "")
    layer = model.trace(tokens, Want(values=True)).layer(0)
    assert "there is a gate" in layer.absent["value_norm"]


def test_norms_by_hand():
    """Two heads share the value (3, 4); head 0 passes it on as it is, head 1 only its second number, doubled."""
    import torch

    linear = torch.nn.Linear(4, 2, bias=False)
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 2.0]])  # [H·D_v, d]
    linear.weight.data = matrix.T.clone()
    found = value_norms(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), Projection(linear, transposed=True), heads=2)
    np.testing.assert_allclose(found, [[5, 0], [8, 0]], atol=1e-6)


def test_norms_of_vectors_that_nearly_vanish():
    """A value along the direction that the matrix shrinks by 1e-5: in float32 its square would be lost."""
    import torch

    linear = torch.nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1e-5]])
    found = value_norms(torch.tensor([[[0.0, 1.0]]]), Projection(linear, transposed=True), heads=1)
    np.testing.assert_allclose(found, [[1e-5]], rtol=1e-5)


def test_a_projection_that_adds_something_else_is_refused():
    import torch

    from attnviz.plugins.backends.residual import Passage

    linear, output = torch.nn.Linear(6, 5), torch.randn(2, 4, 3)
    given = output.transpose(0, 1).flatten(1)
    with torch.no_grad():
        returned = linear(given)
    assert find_projection([Passage(linear, given[None], returned[None])], output) == Projection(linear, True)
    assert "not a plain matrix product" in find_projection([Passage(linear, given, returned + 1)], output)
    assert "No projection" in find_projection([Passage(linear, given + 1, returned)], output)
