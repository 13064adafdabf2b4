"""Gradients through the backend's models, against plain torch and finite differences."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest

from attnviz.hooks import BadInput, ModelError, ModelSpec, Unavailable
from attnviz.plugins.backends import gradients, nnsight
from tests.backends.families import ENCODER_DECODERS, ENCODERS, FAMILIES, SOURCE, load, random_module, random_tokens

WITHOUT = {
    "albert": "its transformer blocks were not found",
    "bert_base": "no output over a vocabulary",
    "bart_base": "no output over a vocabulary",
    "whisper": "reads numbers (input_features): there are no embeddings of tokens",
}
WITH = [name for name in FAMILIES if name not in WITHOUT]
COUNT = 24


@pytest.fixture(scope="module")
def built(tokenizers_by_kind):
    """family -> (the backend's model, the module it was given)."""
    models = {}

    def build(family):
        if family not in models:
            module = random_module(family)
            models[family] = (load(family, module, tokenizers_by_kind["bytes"]), module)
        return models[family]

    return build


def embedded(model, tokens):
    import torch

    split = tokens.decoder_from
    if split is None:
        return model.embed(tokens.ids)
    return torch.cat([model.embed(tokens.ids[:split]), model.embed(tokens.ids[split:], decoder=True)])


def gradient_of(model, tokens, position, target):
    """[T, d] of the log-probability of `target` at `position`."""
    import torch

    embeddings = embedded(model, tokens)[None].requires_grad_()
    states = model.states(embeddings, tokens, [position])
    value = torch.log_softmax(model.unembed(states)[0, 0], -1)[target]
    return torch.autograd.grad(value, embeddings)[0][0]


def plain_gradient(module, tokens, position, target):
    """The same through transformers' own logits with eager attention, from ids: by what the embedding layers return."""
    import torch

    split, made = tokens.decoder_from, []
    lengths = {len(tokens.ids[:split]), len(tokens.ids[split:])}
    parts = [module] if split is None else [module.get_encoder(), module.get_decoder()]

    def take(layer, given, output):
        if output.shape[1] not in lengths:
            return output  # padding that the model puts behind the source by itself
        made.append(output.detach().requires_grad_())
        return made[-1]

    layers = dict.fromkeys(part.get_input_embeddings() for part in parts)
    hooks = [layer.register_forward_hook(take) for layer in layers]
    ids = torch.tensor(tokens.ids[None].copy())
    given = {"input_ids": ids[:, :split]} | ({} if split is None else {"decoder_input_ids": ids[:, split:]})
    logits = module(**given, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    value = torch.log_softmax(logits[0, position - (split or 0)].float(), -1)[target]
    return torch.cat(torch.autograd.grad(value, made), dim=1)[0]


@pytest.mark.parametrize("family", WITH)
def test_gradients_are_those_of_transformers_own_logits(family, built):
    model, module = built(family)
    assert "gradients" in model.card.capabilities
    tokens = random_tokens(module)
    for position in (tokens.decoder_from or 0, 15, COUNT - 1):
        found, expected = gradient_of(model, tokens, position, 7), plain_gradient(module, tokens, position, 7)
        assert float(expected.abs().max()) > 1e-4
        assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("family", WITH)
def test_what_reads_ahead_is_known(family, built):
    """Causal: gradients to later tokens are exactly 0. Others: they are not."""
    model, module = built(family)
    later = gradient_of(model, random_tokens(module), 15, 7)[16:]
    assert model.reads_ahead == (family in ENCODERS)
    assert bool(later.any()) == model.reads_ahead


@pytest.mark.parametrize("family", [name for name in ENCODER_DECODERS if name not in WITHOUT])
def test_a_decoder_depends_on_the_source(family, built):
    model, module = built(family)
    gradient = gradient_of(model, random_tokens(module), COUNT - 1, 7)
    assert bool(gradient[:SOURCE].any())
    assert bool(gradient[SOURCE:].any())


@pytest.mark.parametrize(("family", "why"), WITHOUT.items())
def test_without_a_readout_the_card_says_why(family, why, built):
    model = built(family)[0]
    assert why in model.card.missing["gradients"]
    with pytest.raises(Unavailable, match=re.escape(why)):
        model.embed([1])


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "phi"])
def test_gradients_are_finite_differences(family, tokenizers_by_kind, exact_norms):
    """(f(x + h·u) − f(x − h·u)) / 2h along a random direction, in float64."""
    import torch

    model = load(family, random_module(family).double(), tokenizers_by_kind["bytes"])
    tokens = random_tokens()
    gradient = gradient_of(model, tokens, 15, 7)
    assert gradient.dtype == torch.float64
    embeddings = model.embed(tokens.ids)
    step = 1e-5 * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        both = torch.stack([embeddings + step, embeddings - step])
        values = torch.log_softmax(model.unembed(model.states(both, tokens, [15]))[:, 0], -1)[:, 7]
    expected = float((gradient * step).sum())
    assert abs(float(values[0] - values[1]) / 2 - expected) <= 1e-6 * abs(expected)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gpt_oss", "mamba", "gptj"])
def test_a_batch_equals_its_members_alone(family, built):
    import torch

    model, tokens = built(family)[0], random_tokens()
    embeddings = torch.stack([model.embed(tokens.ids), model.embed(tokens.ids[::-1].copy())])
    with torch.no_grad():
        together = model.states(embeddings, tokens, [3, 9])
        alone = torch.cat([model.states(part, tokens, [3, 9]) for part in embeddings.split(1)])
    assert float((together - alone).abs().max()) <= 1e-5 * max(1.0, float(alone.abs().max()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_half_precision_gives_scores_in_float32(family, tokenizers_by_kind):
    import torch

    module = random_module(family).to(torch.bfloat16)
    model = load(family, module, tokenizers_by_kind["bytes"])
    tokens = random_tokens()
    states = model.states(model.embed(tokens.ids)[None], tokens, [3])
    assert states.dtype == torch.bfloat16
    assert model.unembed(states).dtype == torch.float32
    assert gradient_of(model, tokens, 15, 7).isfinite().all()


def fingerprint(module):
    return [
        (name, part.training, len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks))
        for name, part in module.named_modules()
    ] + [(name, p.requires_grad, p.grad is None) for name, p in module.named_parameters()]


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_nothing_is_left_behind(family, built):
    import torch

    model, module = built(family)
    tokens = random_tokens()
    with torch.no_grad():
        before = model.unembed(model.states(model.embed(tokens.ids)[None], tokens, range(COUNT)))
    inside, outside = fingerprint(model.module()), fingerprint(module)
    assert all(p.requires_grad for p in module.parameters())
    gradient_of(model, tokens, 15, 7)
    with pytest.raises(IndexError):
        model.states(model.embed(tokens.ids)[None], tokens, [COUNT])
    assert (fingerprint(model.module()), fingerprint(module)) == (inside, outside)
    with torch.no_grad():
        after = model.unembed(model.states(model.embed(tokens.ids)[None], tokens, range(COUNT)))
    assert torch.equal(before, after)


def test_four_threads_at_once(built):
    model, tokens = built("llama")[0], random_tokens()
    expected = [gradient_of(model, tokens, position, 7) for position in range(4, 12)]
    wrong = []

    def work(offset):
        for turn in range(8):
            place = (turn + offset) % 8
            if not (gradient_of(model, tokens, 4 + place, 7) == expected[place]).all():
                wrong.append(place)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_idle_model_computes_with_gradients_switched_off(built):
    """Parameters take none, so a plain forward pass builds no graph."""
    import torch

    model = built("llama")[0]
    assert not model.module()(input_ids=torch.arange(1, 9)[None]).logits.requires_grad


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_inside_nnsight_traces(family, model_folder, loaded):
    traced, plain = nnsight.load(ModelSpec(str(model_folder(family)))), loaded(family)
    tokens = plain.tokenize("What is 25 * 37?")
    found, expected = gradient_of(traced, tokens, 5, 7), gradient_of(plain, tokens, 5, 7)
    assert float((found - expected).abs().max()) <= 1e-6


# --------------------------------------------------------------------------------------------- memory


def test_what_a_pass_keeps_is_what_was_counted(built):
    """Counted anew at three times the length of the check."""
    for family in ("gpt2", "llama", "gptj"):
        found = built(family)[0].gradients
        held = gradients._kept(family, found, gradients._probe(found.module, 200, 48))
        assert held == pytest.approx(found.linear * 48 + found.square * 48**2, rel=0.25)


def test_what_does_not_fit_is_refused_before_it_runs(built, monkeypatch):
    model = built("llama")[0]
    needed = model.gradients.linear * 100
    monkeypatch.setattr(gradients, "free_bytes", lambda: int(needed * 8.5))
    assert model.variants(100) == 4  # half of the free memory is used
    monkeypatch.setattr(gradients, "free_bytes", lambda: int(needed * 1.9))
    with pytest.raises(ModelError, match=r"Gradients over 100 tokens need about .* use a shorter prompt"):
        model.variants(100)
    monkeypatch.setattr(gradients, "free_bytes", lambda: None)
    assert model.variants(100) == 1


def test_running_out_of_memory_is_one_line(built, monkeypatch):
    import torch

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model, tokens = built("llama")[0], random_tokens()
    monkeypatch.setattr(model.module(), "forward", fail)
    with pytest.raises(ModelError, match="too little free memory for gradients over 24 tokens: use a shorter prompt"):
        model.states(model.embed(tokens.ids)[None], tokens, [3])


# --------------------------------------------------------------------------------------------- what cannot be had


def test_a_model_that_takes_no_embeddings_says_so(tokenizers_by_kind, monkeypatch):
    module = random_module("gpt2")
    forward = type(module).forward

    def ids_only(self, input_ids=None, inputs_embeds=None, **options):
        if inputs_embeds is not None:
            raise ValueError("give me\nids")
        return forward(self, input_ids, **options)

    monkeypatch.setattr(type(module), "forward", ids_only)
    model = load("gpt2", module, tokenizers_by_kind["bytes"])
    assert model.card.missing["gradients"] == (
        "GPT2LMHeadModel cannot be run from embeddings with gradients: give me ids"
    )


def test_embeddings_that_are_not_all_of_the_input_are_noticed(tokenizers_by_kind, monkeypatch):
    """A model that adds something of its own to ids, and not to embeddings."""
    module = random_module("llama")
    forward = type(module).forward

    def more(self, input_ids=None, inputs_embeds=None, **options):
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids) * 2
        return forward(self, inputs_embeds=inputs_embeds, **options)

    monkeypatch.setattr(type(module), "forward", more)
    model = load("llama", module, tokenizers_by_kind["bytes"])
    assert "run from embeddings its logits differ by" in model.card.missing["gradients"]


def test_ids_are_checked(built):
    import dataclasses

    model, tokens = built("llama")[0], random_tokens()
    wrong = dataclasses.replace(tokens, ids=np.full(COUNT, 10_000))
    with pytest.raises(BadInput, match="outside the vocabulary"):
        model.states(model.embed(tokens.ids)[None], wrong, [3])
