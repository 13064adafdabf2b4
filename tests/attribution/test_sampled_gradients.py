"""SmoothGrad and GradientSHAP, against plain loops over the same draws, saliency, and rules that are known."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.plugins.analyses.attribution import engine as engines
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, aggregate
from attnviz.plugins.analyses.attribution.sampling import NOISE, PLACE, generator
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import taken_from
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, random_run, value_of
from tests.backends.families import SOURCE, random_tokens

METHODS = ("smooth_grad", "gradient_shap")
SEED, SAMPLES = 3, 5


def few(name, model, **params):
    return answer(name, model, samples=SAMPLES, seed=SEED, **params)


def gradient(model, embeddings, target):
    """[n, d] of one target by its definition."""
    import torch

    leaves = embeddings[None].clone().requires_grad_()
    value = value_of(model, leaves, random_run(), target)
    return torch.autograd.grad(value.sum(), leaves)[0][0]


def drawn_noise(model, share, count):
    """[S, n, d]"""
    import torch

    whole = model.embed(random_run().ids)
    shape = (count, whole.shape[1])
    scale = share * float(whole.numpy().std())
    return scale * torch.tensor(np.stack([generator(SEED, s, NOISE).standard_normal(shape) for s in range(SAMPLES)]))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_smooth_grad_is_the_mean_of_gradients_near_by(exact, how):
    result = few("smooth_grad", exact, noise=0.3, aggregation=how)
    for row, target in zip(result.scores, range(PROMPT, COUNT), strict=True):
        embeddings = exact.embed(random_run().ids[:target])
        vectors = [gradient(exact, embeddings + e, target) for e in drawn_noise(exact, 0.3, target)]
        expected = aggregate(sum(vectors) / SAMPLES, how)
        np.testing.assert_allclose(row[:target], expected, rtol=1e-6, atol=1e-12)
        assert not row[target:].any()


def test_smooth_grad_is_the_slope_of_the_mean_near_by(exact):
    """By finite differences of the mean over the same noise."""
    import torch

    target, step = PROMPT, 1e-5
    embeddings, tokens = exact.embed(random_run().ids[:target]), random_run()
    near = embeddings + drawn_noise(exact, 0.3, target)
    row = few("smooth_grad", exact, noise=0.3, aggregation="sum", last=target).scores[0]
    with torch.no_grad():
        for source in range(target):
            way = torch.zeros_like(embeddings)
            way[source] = step
            up, down = (value_of(exact, near + sign * way, tokens, target).mean() for sign in (1, -1))
            assert float(up - down) / (2 * step) == pytest.approx(row[source], rel=1e-5, abs=1e-8)


def test_smooth_grad_without_noise_is_saliency(exact):
    for how in AGGREGATIONS:
        result, plain = few("smooth_grad", exact, noise=0, aggregation=how), answer("saliency", exact, aggregation=how)
        np.testing.assert_allclose(result.scores, plain.scores, rtol=1e-9, atol=1e-13)  # a norm makes some sums 0
    np.testing.assert_allclose(result.target_values, plain.target_values, rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_gradient_shap_is_its_formula(exact, share):
    result = few("gradient_shap", exact, noise=share)
    for place, target in enumerate(range(PROMPT, COUNT)):
        embeddings, near = exact.embed(random_run().ids[:target]), drawn_noise(exact, share, target)
        vectors, starts = [], []
        for sample in range(SAMPLES):
            drawn = generator(SEED, sample, PLACE)
            at, start = drawn.random(), exact.embed(drawn.integers(0, exact.card.vocabulary, target))
            found = gradient(exact, start + at * (embeddings + near[sample] - start), target)
            vectors.append(found * (embeddings - start))
            starts.append(float(value_of(exact, start[None], random_run(), target)))
        expected = (sum(vectors) / SAMPLES).sum(-1)
        np.testing.assert_allclose(result.scores[place, :target], expected, rtol=1e-6, atol=1e-12)
        assert not result.scores[place, target:].any()
        gap = float(expected.sum()) - (result.target_values[place] - np.mean(starts))
        assert result.delta[place] == pytest.approx(gap, rel=1e-6, abs=1e-9)


def test_the_gap_of_gradient_shap_closes_with_more_samples(exact):
    """400 samples leave a twentieth of the spread that one has, of differences of a few nats."""
    many = answer("gradient_shap", exact, samples=400, last=PROMPT)
    single = [answer("gradient_shap", exact, samples=1, seed=seed, last=PROMPT).delta[0] for seed in range(20)]
    assert abs(many.delta[0]) < 4 * np.std(single) / 400**0.5


@pytest.mark.parametrize("name", METHODS)
def test_all_targets_at_once_are_one_by_one(exact, name):
    together = few(name, exact, noise=0.2)
    for place, target in enumerate(range(PROMPT, COUNT)):
        alone = few(name, exact, noise=0.2, first=target, last=target)
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_batches_change_nothing_and_another_seed_does(exact, name, monkeypatch):
    whole = few(name, exact, noise=0.2)
    monkeypatch.setattr(engines, "_TOKENS", 2 * (COUNT - 1))  # two samples at once
    np.testing.assert_allclose(few(name, exact, noise=0.2).scores, whole.scores, rtol=1e-9, atol=1e-15)
    other = answer(name, exact, samples=SAMPLES, seed=SEED + 1, noise=0.2)
    assert np.abs(other.scores - whole.scores).max() > 1e-3 * np.abs(whole.scores).max()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_models_with_encoder_and_decoder(models, name, family):
    tokens = random_tokens(models(family).module())
    assert tokens.decoder_from == SOURCE
    result = few(name, models(family), tokens=tokens, prompt=None, first=SOURCE + 1, last=SOURCE + 3)
    for row, target in zip(result.scores, result.targets, strict=True):
        assert row[: target.index].all()
        assert not row[target.index :].any()


@pytest.mark.parametrize("name", METHODS)
def test_the_token_that_an_answer_is_made_of_comes_first(name):
    found = fake_request(analysis(name), FakeModel(), "one two three one two", first=2)
    result = analysis(name).run(found)
    for row, target in zip(result.scores, result.targets, strict=True):
        source = taken_from(found.tokens.ids, target.index - 1)
        assert np.abs(row).argmax() == source
        assert not np.delete(row, source).any()


def test_a_linear_model_leaves_no_gap():
    """Logits are linear in the embeddings: every sample is complete by itself, whatever its place on the way."""
    result = analysis("gradient_shap").run(
        fake_request(analysis("gradient_shap"), FakeModel(), "one two three one", first=2, target_function="logit")
    )
    np.testing.assert_allclose(result.delta, 0, atol=1e-5)
    assert np.abs(result.scores).max() > 1


@pytest.mark.parametrize("name", METHODS)
def test_analyses_keep_the_contract(name):
    check_analysis(analysis(name), fake_request(analysis(name), targets="word", samples=3))
