"""Shapley values against every order one by one, the model's own logits, and games whose values are known."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest

from attnviz.hooks import BadInput
from attnviz.plugins.analyses.attribution import engine as engines
from attnviz.plugins.analyses.attribution.shapley import EXACT, of_all_sets, of_orders, random_orders
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import taken_from
from tests.attribution.asking import COUNT, PROMPT, analysis, answer, random_run, value_of
from tests.backends.families import SOURCE, random_tokens


class KnownGame:
    """Glove game and others, without a model: worth [B, 1] by a rule over sets."""

    def __init__(self, players, rule):
        self.players, self.rule = players, rule

    def worth(self, coalitions):
        return np.array([[float(self.rule(set(np.flatnonzero(row).tolist())))] for row in coalitions])


# the first owns a left glove, the others a right one each; a pair is worth 1
GLOVES = KnownGame(3, lambda owners: 0 in owners and len(owners) > 1)


def test_the_glove_game_by_hand():
    np.testing.assert_allclose(of_all_sets(GLOVES).scores, [[2 / 3, 1 / 6, 1 / 6]], rtol=1e-12)
    every = np.array(list(permutations(range(3))))
    found = of_orders(GLOVES, every)
    np.testing.assert_allclose(found.scores, [[2 / 3, 1 / 6, 1 / 6]], rtol=1e-12)
    # gains of the first: 0 twice, 1 four times; sample variance 4/15
    assert found.error == pytest.approx((4 / 15 / 6) ** 0.5)


def test_every_set_is_every_order():
    """A game without structure: 5 players, the formula against all 120 orders."""
    worth = np.random.default_rng(0).normal(size=1 << 5)
    game = KnownGame(5, lambda owners: worth[sum(1 << player for player in owners)])
    orders = np.array(list(permutations(range(5))))
    assert len(orders) == factorial(5)
    np.testing.assert_allclose(of_all_sets(game).scores, of_orders(game, orders).scores, rtol=1e-9)


def test_orders_of_fewer_players_are_those_of_more():
    more, fewer = random_orders(0, 6, 9), random_orders(0, 6, 4)
    assert [[p for p in order if p < 4] for order in more.tolist()] == fewer.tolist()
    assert len({tuple(order) for order in more.tolist()}) == 6


def stand_in(model):
    return next(iter(model.stand_ins.items()))


def test_scores_are_the_mean_over_all_orders(exact):
    """Four sources of a run, each order played by hand on whole logits."""
    import torch

    target, name, token = 4, *stand_in(exact)
    tokens, embeddings = random_run(), exact.embed(random_run().ids[:4])
    start = exact.embed(np.full(4, token))
    expected = np.zeros(4)
    with torch.no_grad():
        for order in permutations(range(4)):
            variant = start.clone()
            before = float(value_of(exact, variant[None], tokens, target))
            for source in order:
                variant[source] = embeddings[source]
                after = float(value_of(exact, variant[None], tokens, target))
                expected[source] += (after - before) / 24
                before = after
    result = answer("shapley", exact, first=target, last=target, sources="token", baseline=name)
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("kind", ["eos", "mean"])
@pytest.mark.parametrize(("count", "tolerance"), [(9, 1e-6), (24, 1e-5)])
def test_scores_add_up(models, kind, count, tolerance):
    """Every set, and sampled: to the difference between the run and the baseline in the model's own numbers."""
    model, tokens = models("llama"), random_run(count - 2, count)
    sampled = count - 1 > EXACT
    result = answer("shapley", model, tokens, count - 2, sources="token", baseline=kind, orders=3)
    assert any("3 random orders of 23 sources" in line for line in result.info) == sampled
    assert any("standard error" in line for line in result.warnings) == sampled
    everything = model.embed(np.arange(model.card.vocabulary))
    for row, target in zip(result.scores, range(count - 2, count), strict=True):
        away = everything[model.stand_ins["eos"]] if kind == "eos" else everything.double().mean(0).float()
        ends = [model.embed(tokens.ids[:target]), away.expand(target, -1)]
        full, empty = (float(value_of(model, end[None], tokens, target)) for end in ends)
        assert float(row.sum(dtype=np.float64)) == pytest.approx(full - empty, abs=tolerance * max(1, abs(full)))
        assert not row[target:].any()
    assert np.abs(result.delta).max() < tolerance


@pytest.mark.parametrize("count", [COUNT, 20])
def test_all_targets_at_once_are_one_by_one(exact, count):
    tokens = random_run(count - 3, count)
    asked = {"sources": "token", "orders": 4}
    together = answer("shapley", exact, tokens, count - 3, **asked)
    for place, target in enumerate(range(count - 3, count)):
        alone = answer("shapley", exact, tokens, count - 3, first=target, last=target, **asked)
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], rtol=1e-6, atol=1e-9)
        assert not together.scores[place, target:].any()


def test_batches_change_nothing(exact, monkeypatch):
    whole = answer("shapley", exact)
    monkeypatch.setattr(engines, "_TOKENS", 3 * (COUNT - 1))
    np.testing.assert_allclose(answer("shapley", exact).scores, whole.scores, rtol=1e-9, atol=1e-12)


def test_sources_are_words_unless_others_are_asked_for(exact):
    """A word comes and goes as a whole, so that its value is no sum over its tokens."""
    words, tokens = answer("shapley", exact, last=PROMPT), answer("shapley", exact, last=PROMPT, sources="token")
    assert [(s.index, s.stop) for s in words.sources] == [(0, 3), (3, 6), (6, 8)]
    np.testing.assert_allclose(words.scores.sum(), tokens.scores.sum(), rtol=1e-9)
    assert abs(words.scores[0, 0] - tokens.scores[0, :3].sum()) > 1e-6


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_models_with_encoder_and_decoder(models, family):
    tokens = random_tokens(models(family).module())
    result = answer(
        "shapley", models(family), tokens, None, sources="token", orders=2, first=SOURCE + 1, last=SOURCE + 2
    )
    for row, target in zip(result.scores, result.targets, strict=True):
        assert row[: target.index].all()
        assert not row[target.index :].any()


def test_only_the_token_that_an_answer_is_made_of_has_a_value():
    found = fake_request(analysis("shapley"), FakeModel(), "abcabcab", first=2, sources="token", baseline="eos")
    result = analysis("shapley").run(found)
    for row, target in zip(result.scores, result.targets, strict=True):
        source = taken_from(found.tokens.ids, target.index - 1)
        assert np.abs(row).argmax() == source
        np.testing.assert_allclose(np.delete(row, source), 0, atol=1e-6)


def test_a_baseline_that_the_model_does_not_have_is_refused():
    with pytest.raises(BadInput, match=r"no unk token to compare with\. It has: eos, bos, mean"):
        analysis("shapley").run(fake_request(analysis("shapley"), FakeModel(), baseline="unk"))


def test_the_analysis_keeps_the_contract():
    check_analysis(analysis("shapley"), fake_request(analysis("shapley"), targets="word"))
    check_analysis(analysis("shapley"), fake_request(analysis("shapley"), target_function="kl", orders=2))
