"""CP-LRP: it conserves or refuses, its rules are those of the papers, and nothing of it is left behind."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from attnviz.hooks import Unavailable
from attnviz.plugins.backends.relevance import relevance_rules
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import taken_from
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, random_run
from tests.backends.families import DECODERS, ENCODER_DECODERS

NAME = "cp_lrp"
SOURCE = 5  # tokens of the encoder
WITHOUT_BIASES = (
    *("llama", "mistral", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "smollm3", "mixtral", "qwen3_moe", "cohere"),
    *("granite", "deepseek_v3", "t5", "t5_gated", "umt5", "switch_transformers", "t5gemma"),
)
REFUSED = {  # what has no rule
    "bloom": "relevance adds up to",  # an activation with a gradient of its own
    "qwen3_next": "it computes with softplus",
    "mamba": "it computes with softplus",
    "rwkv": "it computes with exp",
}
TRANSLATORS = (
    *("t5", "t5_gated", "umt5", "bart", "marian", "mbart", "pegasus", "m2m_100", "switch_transformers", "t5gemma"),
)


def asked(family, model, **params):
    both = family in ENCODER_DECODERS
    tokens = replace(random_run(), decoder_from=SOURCE) if both else random_run()
    return answer(NAME, model, tokens, SOURCE + 1 if both else PROMPT, **params)


@pytest.mark.parametrize("family", [*DECODERS, *TRANSLATORS])
def test_every_family_conserves_or_is_refused(family, models):
    model = models(family)
    if family in REFUSED:
        with pytest.raises(Unavailable, match=REFUSED[family]):
            asked(family, model)
        return
    result = asked(family, model)
    plain = answer("input_x_gradient", model, target_function="logit") if family in DECODERS else None
    if plain is not None:
        np.testing.assert_allclose(result.target_values, plain.target_values, atol=1e-5)
        assert np.abs(result.scores - plain.scores).max() > 0.01  # the rules change something
    np.testing.assert_allclose(result.scores.sum(1) - result.target_values, result.delta, atol=1e-5)
    if family in WITHOUT_BIASES:
        assert np.abs(result.delta).max() <= 1e-5 * max(1, np.abs(result.target_values).max())
        assert any("this model adds none" in line for line in result.info)
    else:
        assert np.abs(result.delta).max() > 1e-3
        assert any("Biases and position embeddings add" in line for line in result.info)


def test_the_gap_is_what_biases_add(exact):
    """GPT-2 has biases and position embeddings, this Llama has none."""
    result = answer(NAME, exact)
    if type(exact.module()).__name__ == "LlamaForCausalLM":
        np.testing.assert_allclose(result.scores.sum(1), result.target_values, rtol=1e-9)
        return
    (line,) = [line for line in result.info if line.startswith("Biases and position embeddings add")]
    low, high = (float(line.split()[i]) for i in (5, 7))
    assert (low, high) == (float(f"{-result.delta.max():.3g}"), float(f"{-result.delta.min():.3g}"))


# --------------------------------------------------------------------------------------------- against patched modules


def patched_llama(module, ids, place):
    """Embeddings and their gradient of the logit of the token that comes next, of a Llama rewritten with the rules."""
    import torch
    from transformers.models.llama import modeling_llama

    def norm(self, states):
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (states * scale.detach())

    def mlp(self, states):
        gate = self.gate_proj(states)
        shown = gate * torch.sigmoid(gate).detach()
        product = shown * self.up_proj(states)
        half = (shown * self.up_proj(states).detach() + shown.detach() * self.up_proj(states)) / 2
        return self.down_proj(product.detach() + half - half.detach())

    def attend(module, query, key, value, mask, scaling, **kwargs):
        repeat = query.shape[1] // key.shape[1]
        scores = (query @ key.repeat_interleave(repeat, 1).transpose(-1, -2)) * scaling
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1).detach()
        return (weights @ value.repeat_interleave(repeat, 1)).transpose(1, 2).contiguous(), None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
        patch.setattr(modeling_llama.LlamaMLP, "forward", mlp)
        patch.setattr(modeling_llama.ALL_ATTENTION_FUNCTIONS, "get_interface", lambda *args: attend)
        embeddings = module.get_input_embeddings()(torch.tensor(ids[None].copy())).detach().requires_grad_()
        logit = module(inputs_embeds=embeddings, use_cache=False).logits[0, -1, place]
        (gradient,) = torch.autograd.grad(logit, embeddings)
    return (embeddings * gradient)[0].sum(-1).detach(), float(logit.detach())


@pytest.mark.parametrize("single", ["llama"], indirect=True)
def test_relevance_is_that_of_modules_rewritten_with_the_rules(single):
    tokens, result = random_run(), answer(NAME, single)
    for row, value, target in zip(result.scores, result.target_values, range(PROMPT, COUNT), strict=True):
        expected, logit = patched_llama(single.module(), tokens.ids[:target], int(tokens.ids[target]))
        np.testing.assert_allclose(row[:target], expected, atol=1e-5)
        assert value == pytest.approx(logit, abs=1e-5)
        assert not row[target:].any()


# --------------------------------------------------------------------------------------------- the rules by hand


def back(function, *inputs):
    """Relevance of each input for the sum of the outcome, what was added, and the sum."""
    import torch

    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in inputs]
    with relevance_rules() as constants:
        value = function(*leaves).sum()
    found = torch.autograd.grad(value, [*leaves, *constants], materialize_grads=True)
    parts = [(leaf.detach() * gradient) for leaf, gradient in zip([*leaves, *constants], found, strict=True)]
    added = sum(float(part.sum()) for part in parts[len(leaves) :])
    return [part.tolist() for part in parts[: len(leaves)]], added, float(value.detach())


def test_a_product_is_shared_by_halves():
    assert back(lambda a, b: a * b, 3.0, 4.0)[0] == [6.0, 6.0]


def test_an_activation_keeps_its_relevance():
    import torch
    from torch.nn import functional

    for activation in (functional.silu, functional.gelu, functional.relu, lambda x: torch.clamp(x, max=1.0)):
        (relevance,), added, _ = back(activation, [-2.0, 0.0, 0.5, 3.0])
        outcome = activation(torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64))
        np.testing.assert_allclose(relevance, outcome, rtol=1e-12)
        assert added == 0


def test_what_is_added_is_noted():
    import torch
    from torch.nn import functional

    weight, bias = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    (relevance,), added, value = back(lambda x: 1 - (functional.linear(x, weight, bias) + 7), [3.0, 4.0])
    assert relevance == [-6.0, 0.0]
    assert added == 1 - 5 - 7
    assert value == 1 - (6 + 5 + 7)


def test_norms_keep_their_scale():
    import torch
    from torch.nn import functional

    weight, bias = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.5, 0.25, 1.0]).double()
    x = torch.tensor([1.0, 2.0, 6.0]).double()  # mean 3, variance 14/3
    scale = 1 / (14 / 3 + 1e-5) ** 0.5
    (relevance,), added, _ = back(lambda x: functional.layer_norm(x, (3,), weight, bias), x.tolist())
    slopes = weight * scale - (weight * scale).mean()  # of the sum, with the scale held
    np.testing.assert_allclose(relevance, x * slopes, rtol=1e-12)
    assert added == pytest.approx(1.75)
    (relevance,), added, _ = back(lambda x: functional.rms_norm(x, (3,), weight, 1e-5), x.tolist())
    np.testing.assert_allclose(relevance, x * weight / (41 / 3 + 1e-5) ** 0.5, rtol=1e-12)
    assert added == 0


def test_attention_weights_are_constants():
    import torch
    from torch.nn import functional

    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 4, 3, generator=draw, dtype=torch.float64).tolist() for _ in range(3))
    found, _, value = back(lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True), q, k, v)
    assert not np.any(found[0])
    assert not np.any(found[1])
    assert np.sum(found[2]) == pytest.approx(value)


# --------------------------------------------------------------------------------------------- nothing left behind


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "gpt_oss", "deepseek_v3", "t5gemma"])
def test_a_pass_under_the_rules_is_the_same_bit_for_bit(family, models):
    import torch

    model, both = models(family), family in ENCODER_DECODERS
    tokens = replace(random_run(), decoder_from=SOURCE) if both else random_run()
    parts = [model.embed(tokens.ids[: tokens.decoder_from])]
    parts += [model.embed(tokens.ids[SOURCE:], decoder=True)] if both else []
    embeddings = torch.cat(parts)[None].requires_grad_()
    positions = list(range(SOURCE, COUNT))
    plain = model.unembed(model.states(embeddings, tokens, positions))
    with model.relevance_rules():
        ruled = model.unembed(model.states(embeddings, tokens, positions))
    assert torch.equal(plain, ruled)


@pytest.mark.parametrize("fails", [False, True])
def test_gradients_and_hooks_afterwards_are_as_before(fails, models, monkeypatch):
    import torch

    model = models("llama")
    before = answer("saliency", model).scores
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.forward) for m in model.module().modules()]
    answer(NAME, model)
    if fails:
        with pytest.raises(ValueError, match="in the middle"), model.relevance_rules():
            raise ValueError("in the middle")
    after = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.forward) for m in model.module().modules()]
    assert after == hooks
    assert not torch.overrides._get_current_function_mode_stack()
    np.testing.assert_array_equal(answer("saliency", model).scores, before)


def test_threads_with_and_without_rules_do_not_meet(models):
    model = models("llama")
    expected, wrong = {name: answer(name, model).scores for name in (NAME, "saliency")}, []

    def work(names):
        for name in names:
            if not np.array_equal(answer(name, model).scores, expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(names * 4,)) for names in ([NAME, "saliency"], ["saliency", NAME])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --------------------------------------------------------------------------------------------- as the other methods


def test_all_targets_at_once_are_one_by_one(exact):
    together = answer(NAME, exact)
    for place, target in enumerate(range(PROMPT, COUNT)):
        alone = answer(NAME, exact, first=target, last=target)
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], rtol=1e-6, atol=1e-12)


def test_a_target_of_several_tokens_is_the_sum(exact):
    words, tokens = answer(NAME, exact, targets="word"), answer(NAME, exact)
    starts = [span.index - PROMPT for span in words.targets]
    for name in ("scores", "target_values", "delta"):
        summed = np.add.reduceat(getattr(tokens, name), starts, axis=0)
        np.testing.assert_allclose(getattr(words, name), summed, rtol=1e-6, atol=1e-12)


def test_a_contrast_is_conserved_too(exact):
    result = answer(NAME, exact, target_function="contrast", contrast="t")
    np.testing.assert_allclose(result.scores.sum(1) - result.target_values, result.delta, atol=1e-9)
    assert result.scores.any()


def test_an_operation_that_loses_relevance_is_refused(models, monkeypatch):
    import torch
    from transformers.models.llama.modeling_llama import LlamaMLP

    plain = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: torch.square(plain(self, x)))
    with pytest.raises(Unavailable, match="LlamaForCausalLM has an operation that no rule of CP-LRP is known for"):
        answer(NAME, models("llama"))


def test_a_rule_is_found():
    """Of the fake model all is linear: relevance is input × gradient."""
    request = fake_request(analysis(NAME), FakeModel(), "abcabcab", first=5)
    result = analysis(NAME).run(request)
    for row, target in zip(result.scores, result.targets, strict=True):
        assert np.flatnonzero(row).tolist() == [taken_from(request.tokens.ids, target.index - 1)]
    assert np.abs(result.delta).max() > 1


def test_the_analysis_keeps_the_contract():
    check_analysis(analysis(NAME), fake_request(analysis(NAME), targets="word"))
