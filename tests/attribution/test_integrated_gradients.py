"""Completeness, the definition, a linear model, baselines."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.hooks import BadInput
from attnviz.plugins.analyses.attribution.engine import Engine
from attnviz.plugins.analyses.attribution.integrated_gradients import Path, _integrals
from attnviz.plugins.analyses.attribution.quadrature import gauss_legendre
from attnviz.plugins.analyses.attribution.question import ask
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import taken_from
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, engine, random_run, request, value_of
from tests.backends.conftest import byte_level_tokenizer
from tests.backends.families import load, random_module

NAME = "integrated_gradients"


def gaps(model, result, function, stand_in="eos"):
    """[R] relative completeness gap, from the model's own numbers at both ends."""
    tokens = random_run()
    found = []
    for row, target in zip(result.scores.astype(np.float64), range(PROMPT, COUNT), strict=True):
        ends = [model.embed(tokens.ids[:target]), model.embed([model.stand_ins[stand_in]] * target)]
        high, low = (float(value_of(model, end[None], tokens, target, function)) for end in ends)
        found.append(abs(row.sum() - (high - low)) / abs(high - low))
    return np.array(found)


@pytest.mark.parametrize("function", ["log_probability", "logit"])
def test_completeness_in_float64(exact, function):
    result = answer(NAME, exact, steps=64, target_function=function)
    assert gaps(exact, result, function).max() <= 1e-6
    assert np.abs(result.delta).max() <= 1e-6
    assert not result.warnings[:-1]


def test_completeness_in_float32(single):
    result = answer(NAME, single, steps=32)
    assert gaps(single, result, "log_probability").max() <= 1e-3


@pytest.mark.parametrize("function", ["log_probability", "probability", "kl", "entropy"])
def test_steps_are_found_for_the_tolerance(exact, function):
    for tolerance in (0.1, 1e-4):
        result = answer(NAME, exact, target_function=function, tolerance=tolerance)
        assert np.abs(result.delta).max() <= tolerance
        assert result.scores.any()
    assert any("found from forward passes" in line for line in result.info)


@pytest.mark.parametrize("how", ["sum", "l2", "max_abs"])
def test_it_is_its_definition(exact, how):
    """The mean gradient along the path from 400 plain gradients in the middles of equal steps (error ~ 1/400²)."""
    import torch

    tokens, target = random_run(), COUNT - 1
    run, empty = exact.embed(tokens.ids[:target]), exact.embed([exact.stand_ins["eos"]] * target)
    mean = 0
    for part in torch.tensor((np.arange(400) + 0.5) / 400).split(100):
        places = (empty + part[:, None, None] * (run - empty)).requires_grad_()
        mean = mean + torch.autograd.grad(value_of(exact, places, tokens, target).sum(), places)[0].sum(0) / 400
    vectors = mean * (run - empty)
    expected = {"sum": vectors.sum(-1), "l2": vectors.norm(dim=-1), "max_abs": vectors.abs().amax(-1)}[how]
    result = answer(NAME, exact, first=target, steps=64, aggregation=how)
    np.testing.assert_allclose(result.scores[0], expected, atol=2e-4 * float(expected.abs().max()))
    assert result.signed == (how == "sum")


def test_targets_of_different_need_share_nothing_but_the_model(exact):
    """One at a time gives what all at once give, whatever steps the others take."""
    together = answer(NAME, exact, tolerance=1e-3)
    for place, target in enumerate(range(PROMPT, COUNT)):
        alone = answer(NAME, exact, tolerance=1e-3, first=target, last=target)
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], rtol=1e-6, atol=1e-9)
        assert not together.scores[place, target:].any()


class Linear(FakeModel):
    """Logits are a fixed matrix times the sum of what is read."""

    def states(self, embeddings, tokens, positions):
        import torch

        return torch.stack([embeddings[:, : p + 1].sum(1) for p in positions], dim=1)

    def unembed(self, states):
        import torch

        return states @ torch.randn(261, 261, generator=torch.Generator().manual_seed(0), dtype=states.dtype)

    def embed(self, ids, *, decoder=False):
        return super().embed(ids).double() * 2.5


def test_a_linear_model_has_one_answer():
    """Against zeros: integrated gradients = input × gradient = taking a token away, whatever the path."""
    import torch

    model = Linear()
    asked = fake_request(analysis(NAME), model, "one two three", first=4, last=9, target_function="logit")
    found = Engine(model, ask(asked), 261)
    path = Path(found, torch.zeros_like(found.embeddings))
    scores, sums = _integrals(path, asked, np.full(6, 2), gauss_legendre)
    plain = analysis("input_x_gradient").run(
        fake_request(analysis("input_x_gradient"), model, "one two three", first=4, last=9, target_function="logit")
    )
    np.testing.assert_allclose(scores, plain.scores, rtol=1e-6, atol=1e-12)
    base, taken = found.values(found.embeddings[None])[0], []
    for j in range(len(found.embeddings)):
        without = found.embeddings.clone()
        without[j] = 0
        taken.append(base - found.values(without[None])[0])
    np.testing.assert_allclose(scores, torch.stack(taken, dim=1), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(sums, base, rtol=1e-6)


def test_a_baseline_of_zeros_is_refused():
    module = random_module("llama")
    module.get_input_embeddings().weight.data[2] = 0  # </s>
    model = load("llama", module, byte_level_tokenizer())
    with pytest.raises(BadInput, match=r"the embedding of the eos token is all zeros\. Choose another"):
        answer(NAME, model, baseline="eos", steps=4)
    assert any("'<pad>' (the pad token)" in line for line in answer(NAME, model, steps=4).info)  # the next in order
    with pytest.raises(BadInput, match=r"has no mask token to compare with\. It has: eos, pad, bos, mean"):
        answer(NAME, model, baseline="mask")


@pytest.mark.parametrize("baseline", ["eos", "pad", "bos", "mean"])
def test_every_baseline_is_complete_and_named(baseline, models):
    model = models("llama")
    result = answer(NAME, model, baseline=baseline)
    assert np.abs(result.delta).max() <= 0.01
    name = {"eos": "</s>", "pad": "<pad>", "bos": "<s>", "mean": "mean embedding of the vocabulary"}[baseline]
    assert any(line.startswith("Baseline: ") and name in line for line in result.info)


def test_a_token_that_is_the_baseline_has_nothing_to_say(models):
    import dataclasses

    model, tokens = models("llama"), random_run()
    ids = np.where(np.arange(COUNT) == 3, model.stand_ins["eos"], tokens.ids)
    result = answer(NAME, model, dataclasses.replace(tokens, ids=ids), baseline="eos", steps=8)
    assert not result.scores[:, 3].any()
    assert result.scores[:, 2].all()


def test_too_few_steps_are_said(models):
    result = answer(NAME, models("llama"), steps=1)
    assert np.abs(result.delta).max() > 0.01
    assert "miss completeness by more than 0.01" in result.warnings[0]
    assert "take more steps, or leave their number open" in result.warnings[0]


def test_words_as_sources_are_sums_of_tokens(exact):
    single, words = (answer(NAME, exact, steps=16, sources=unit) for unit in ("token", "word"))
    starts = [source.index for source in words.sources]
    np.testing.assert_allclose(words.scores, np.add.reduceat(single.scores, starts, axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(words.delta, single.delta, rtol=1e-6, atol=1e-12)


def test_the_token_that_an_answer_is_made_of_comes_first():
    asked = fake_request(analysis(NAME), FakeModel(), "one two three one two", first=2)
    result = analysis(NAME).run(asked)
    for row, target in zip(result.scores, result.targets, strict=True):
        source = taken_from(asked.tokens.ids, target.index - 1)
        assert not np.delete(row, source).any()
        assert row[source]


def test_it_keeps_the_contract():
    check_analysis(analysis(NAME), fake_request(analysis(NAME), aggregation="l2", sources="word", target_function="kl"))


def test_progress_is_told(models):
    import dataclasses

    said = []
    told = dataclasses.replace(
        request(NAME, models("llama"), steps=4), progress=lambda share, what: said.append((share, what))
    )
    analysis(NAME).run(told)
    assert said[0] == (0.0, "step 1 of 4")
    assert engine(models("llama")).batch >= 4
