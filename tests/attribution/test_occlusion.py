"""Taking sources away, against plain forward passes over what is left."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import BadInput, Segment
from attnviz.plugins.analyses.attribution import engine as engines
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import taken_from
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, random_run, request, value_of

NAME = "occlusion"
TARGETS = range(PROMPT, COUNT)


def plain(model, ids, target_id):
    """log p of an id after these ids."""
    import torch

    with torch.no_grad():
        logits = model.module()(input_ids=torch.tensor(np.asarray(ids)[None].copy())).logits[0, -1]
    return float(torch.log_softmax(logits, -1)[target_id])


def test_replacing_is_a_forward_pass_over_other_ids(exact):
    tokens = random_run()
    stand_in = exact.stand_ins["eos"]
    result = answer(NAME, exact)
    assert result.scores.shape == (4, COUNT - 1)
    for row, target in zip(result.scores, TARGETS, strict=True):
        base = plain(exact, tokens.ids[:target], tokens.ids[target])
        for source in range(target):
            ids = np.where(np.arange(target) == source, stand_in, tokens.ids[:target])
            np.testing.assert_allclose(row[source], base - plain(exact, ids, tokens.ids[target]), rtol=1e-6, atol=1e-9)
        assert not row[target:].any()


def test_dropping_is_a_forward_pass_over_what_is_left(exact):
    """Also of the token that predicts: the one before it predicts then."""
    tokens = random_run()
    result = answer(NAME, exact, removal="drop")
    for row, target in zip(result.scores, TARGETS, strict=True):
        base = plain(exact, tokens.ids[:target], tokens.ids[target])
        for source in range(target):
            left = np.delete(tokens.ids[:target], source)
            np.testing.assert_allclose(row[source], base - plain(exact, left, tokens.ids[target]), rtol=1e-6, atol=1e-9)
        assert not row[target:].any()


@pytest.mark.parametrize("removal", ["auto", "drop", "mean"])
def test_all_targets_at_once_are_one_by_one(exact, removal):
    together = answer(NAME, exact, removal=removal)
    for place, target in enumerate(TARGETS):
        alone = answer(NAME, exact, removal=removal, first=target, last=target)
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gpt_oss", "mamba", "qwen3_next", "gptj"])
def test_every_kind_of_model(family, models):
    """In float32; nothing before a source changes, exactly."""
    model = models(family)
    for removal in ("auto", "drop"):
        result = answer(NAME, model, removal=removal, first=2)
        later = np.arange(COUNT - 1)[None, :] >= np.arange(2, COUNT)[:, None]
        assert not result.scores[later].any()
        assert np.isfinite(result.scores).all()
        assert result.scores[~later].any()
        alone = answer(NAME, model, removal=removal, first=9, last=9)
        np.testing.assert_allclose(result.scores[7, :9], alone.scores[0], atol=2e-5)


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "gptj", "qwen3_next"]
)
def test_what_comes_before_is_read_once_and_gives_the_same(family, models, monkeypatch):
    """In batches of two, each going on from what came before it, against whole passes. Windows are 6 tokens here."""
    model, tokens = models(family), random_run(16, 20)
    assert model.gradients.continues == (family != "qwen3_next")
    whole = answer(NAME, model, tokens, 16, first=9)
    lengths, states = [], type(model).states

    def counted(self, embeddings, *args, **options):
        lengths.append(embeddings.shape[1])
        return states(self, embeddings, *args, **options)

    monkeypatch.setattr(type(model), "states", counted)
    monkeypatch.setattr(engines, "_TOKENS", 2 * 19)
    found = answer(NAME, model, tokens, 16, first=9)
    size = float(np.abs(whole.scores).max())
    np.testing.assert_allclose(found.scores, whole.scores, atol=1e-5 * max(1.0, size))
    expected = [19, *range(19, 0, -2)] if model.gradients.continues else [19] * 11
    assert lengths == expected


@pytest.mark.parametrize("removal", ["auto", "drop"])
def test_a_group_is_taken_away_as_a_whole(exact, removal):
    import torch

    tokens = random_run()
    result = answer(NAME, exact, removal=removal, sources="word", targets="word", first=9)
    assert [(s.index, s.stop) for s in result.sources] == [(0, 3), (3, 6), (6, 8), (8, 9), (9, 11)]
    whole = sum(plain(exact, tokens.ids[:t], tokens.ids[t]) for t in (9, 10, 11))
    without = 0.0
    for target in (9, 10, 11):
        ids = tokens.ids[:target]
        inside = (np.arange(target) >= 3) & (np.arange(target) < 6)
        left = ids[~inside] if removal == "drop" else np.where(inside, exact.stand_ins["eos"], ids)
        without += plain(exact, left, tokens.ids[target])
    assert result.scores.shape == (1, 5)
    assert result.scores[0, 1] == pytest.approx(whole - without, rel=1e-6)
    assert result.target_values[0] == pytest.approx(whole, rel=1e-9)
    assert torch.is_tensor(exact.embed([1]))


def test_change_of_the_whole_prediction(exact):
    """kl: the divergence, in bits, that taking a source away makes; never negative."""
    import torch

    tokens, target = random_run(), COUNT - 1
    result = answer(NAME, exact, target_function="kl", first=target)
    assert (result.scores[0] >= 0).all()
    assert result.target_values[0] == pytest.approx(0, abs=1e-12)
    ids = np.where(np.arange(target) == 5, exact.stand_ins["eos"], tokens.ids[:target])
    p, q = (
        torch.log_softmax(exact.unembed(exact.states(exact.embed(given)[None], tokens, [target - 1]))[0, 0], -1)
        for given in (tokens.ids[:target], ids)
    )
    assert result.scores[0, 5] == pytest.approx(float((p.exp() * (p - q)).sum() / np.log(2)), rel=1e-6)


def test_a_source_that_is_all_there_is_cannot_be_dropped(models):
    model = models("llama")
    with pytest.raises(BadInput, match=r"without the source .* nothing is left to predict a target from"):
        answer(NAME, model, removal="drop", first=1)
    one = dataclasses.replace(random_run(), segments=(Segment("text", 0, COUNT),))
    with pytest.raises(BadInput, match="Choose smaller sources, or replace them"):
        answer(NAME, model, one, removal="drop", sources="turn")
    assert answer(NAME, model, one, sources="turn").scores.any()
    with pytest.raises(BadInput, match="has no mask token"):
        answer(NAME, model, removal="mask")


def test_numbers_are_those_of_the_run(exact):
    result = answer(NAME, exact)
    tokens = random_run()
    expected = [float(value_of(exact, exact.embed(tokens.ids[:t])[None], tokens, t)) for t in TARGETS]
    np.testing.assert_allclose(result.target_values, expected, rtol=1e-9)
    assert result.signed
    assert result.unit == "nats"
    assert any("replaced by '</s>' (the eos token)" in line for line in result.info)


def test_the_token_that_an_answer_is_made_of_comes_first():
    asked = fake_request(analysis(NAME), FakeModel(), "one two three one two", first=2, target_function="kl")
    result = analysis(NAME).run(asked)
    for row, target in zip(result.scores, result.targets, strict=True):
        source = taken_from(asked.tokens.ids, target.index - 1)
        assert not np.delete(row, source).any()
        assert row[source] > 0


@pytest.mark.parametrize("removal", ["auto", "drop"])
def test_it_keeps_the_contract(removal):
    check_analysis(analysis(NAME), fake_request(analysis(NAME), removal=removal, sources="word"))


def test_progress_is_told(models):
    said = []
    asked = request(NAME, models("llama"), removal="drop")
    analysis(NAME).run(dataclasses.replace(asked, progress=lambda share, what: said.append((share, what))))
    assert said[0] == (0.0, "source 1 of 11")
    assert len(said) == 11
