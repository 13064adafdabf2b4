"""Figures of faithfulness against plain forward passes and loops, and on a model whose truth is known."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest

from attnviz.hooks import Analysis, AnalysisRequest, Attribution, BadInput, Faithfulness, Unavailable, UnknownName
from attnviz.plugins.analyses.attribution.faithfulness import COLUMNS, settings
from attnviz.plugins.analyses.attribution.faithfulness_figures import BETTER, SHARES, TAU, area, steps, taken
from attnviz.plugins.analyses.attribution.shapley import random_orders
from attnviz.testing import FakeModel, check_analysis, fake_request, with_analyses
from attnviz.testing.fake import distribution, taken_from
from tests.attribution.asking import COUNT, PROMPT, REGISTRY, analysis, answer, random_run, request
from tests.attribution.test_engine import ReadsAhead
from tests.attribution.test_occlusion import plain

NAME = "faithfulness"
TARGETS = range(PROMPT, COUNT)
FIGURES = list(BETTER)


def judged(model, tokens=None, prompt=PROMPT, **params):
    result = analysis(NAME).run(request(NAME, model, tokens, prompt, **params))
    assert isinstance(result, Faithfulness)
    return result


def block(result, target):
    """figure -> (value, random mean, random sd, beaten) of one target."""
    rows = [row for row in result.rows if row[0].split()[0] == str(target)]
    assert [row[1] for row in rows] == FIGURES
    return {row[1]: row[3:7] for row in rows}


def with_start(tokens):
    """The first token is a control token."""
    special = np.zeros(COUNT, bool)
    special[0] = True
    return dataclasses.replace(tokens, special=special)


# --------------------------------------------------------------------------------------------- by hand and by loops


def test_a_share_is_rounded_up_to_whole_sources():
    assert [taken(share, 7) for share in SHARES] == [1, 1, 1, 2, 4]
    assert [taken(share, 100) for share in SHARES] == [1, 5, 10, 20, 50]
    assert [taken(share, 2) for share in SHARES] == [1, 1, 1, 1, 1]
    assert [taken(share, 60) for share in SHARES] == [1, 3, 6, 12, 30]
    assert steps(7, 10).tolist() == [0, 1, 1, 2, 3, 4, 4, 5, 6, 6, 7]
    assert area(np.array([0, 0.5, 1]), np.array([1.0, 0.5, 0.0])) == 0.5


def probability(model, ids, removed, target, removal):
    """Of a target, after these ids without some of the tokens before it."""
    before = ids[:target]
    left = np.delete(before, removed) if removal == "drop" else before.copy()
    if removal != "drop":
        left[list(removed)] = model.stand_ins[removal]
    return math.exp(plain(model, left, ids[target]))


def tau_b(first, second):
    """Pair by pair."""
    concordant = discordant = ties_first = ties_second = 0
    for i in range(len(first)):
        for j in range(i):
            a, b = np.sign(first[i] - first[j]), np.sign(second[i] - second[j])
            concordant += a * b > 0
            discordant += a * b < 0
            ties_first += a == 0
            ties_second += b == 0
    pairs = len(first) * (len(first) - 1) // 2
    return (concordant - discordant) / math.sqrt((pairs - ties_first) * (pairs - ties_second))


def by_loops(p, sources, order, scores, points, signed):
    """All figures; p(removed) is the probability, `order` the sources with the best first."""
    whole, count = p([]), len(order)
    losses, gaps, found = [], [], {}
    for share in (0.01, 0.05, 0.1, 0.2, 0.5):
        k = math.ceil(share * count - 1e-9)
        losses.append(whole - p(order[:k]))
        gaps.append(whole - p(order[k:]))
        found[f"comprehensiveness {100 * share:g} %"] = losses[-1]
        found[f"sufficiency {100 * share:g} %"] = gaps[-1]
    found["comprehensiveness AOPC"], found["sufficiency AOPC"] = sum(losses) / 5, sum(gaps) / 5
    ks = [round(count * i / points) for i in range(points + 1)]
    for name, removed in (("deletion AUC", lambda k: order[:k]), ("insertion AUC", lambda k: order[k:])):
        found[name] = sum((b - a) / count * (p(removed(a)) + p(removed(b))) / 2 for a, b in pairwise(ks))
    lost = [whole - p([source]) for source in sources]
    found[TAU] = tau_b(scores, lost if signed else np.abs(lost))
    return found


@pytest.mark.parametrize(("method", "removal"), [("input_x_gradient", "eos"), ("saliency", "drop")])
def test_every_figure_is_what_plain_passes_give(exact, method, removal):
    """Of the method's ranking and of every random one, whose runs the targets share."""
    tokens, points = with_start(random_run()), 4
    result = judged(exact, tokens, method=method, removal=removal, points=points, orders=2, seed=3)
    scored = answer(method, exact, tokens)
    drawn = random_orders(3, 2, COUNT - 1)
    for row, target in zip(scored.scores, TARGETS, strict=True):
        sources = list(range(1, target))  # 0 is a control token
        known = {}

        def p(removed, target=target, known=known):
            key = tuple(sorted(removed))
            if key not in known:
                known[key] = probability(exact, tokens.ids, list(removed), target, removal)
            return known[key]

        best = sorted(sources, key=lambda j: (-row[j], j))
        expected = by_loops(p, sources, best, row[sources], points, scored.signed)
        others = []
        for order in drawn:
            mine = [int(j) for j in order if j in sources]
            ranks = [-mine.index(j) for j in sources]
            others.append(by_loops(p, sources, mine, ranks, points, scored.signed))
        for figure, numbers in block(result, target).items():
            chance = [other[figure] for other in others]
            won = [c > expected[figure] if BETTER[figure] == "lower" else c < expected[figure] for c in chance]
            spread = abs(chance[0] - chance[1]) / math.sqrt(2)
            wanted = (expected[figure], sum(chance) / 2, spread, sum(won) / 2)
            np.testing.assert_allclose(numbers, wanted, rtol=1e-6, atol=1e-9, err_msg=figure)


def test_means_are_over_the_targets(exact):
    result = judged(exact, orders=3)
    blocks = [block(result, target) for target in TARGETS]
    for row in result.rows[: len(FIGURES)]:
        assert row[0] == "mean of 4 targets"
        np.testing.assert_allclose(row[3], np.mean([b[row[1]][0] for b in blocks]), rtol=1e-12)
        np.testing.assert_allclose(row[4], np.mean([b[row[1]][1] for b in blocks]), rtol=1e-12)
    assert result.columns == COLUMNS
    assert len(result.rows) == 5 * len(FIGURES)


@pytest.mark.parametrize("removal", ["eos", "mean"])
def test_targets_together_are_targets_alone(exact, removal):
    """Random orders included: of fewer sources they are the same without those that are left out."""
    together = judged(exact, removal=removal, orders=2)
    for target in TARGETS:
        alone = judged(exact, removal=removal, orders=2, first=target, last=target)
        assert alone.rows[0][0].split()[0] == str(target)
        for figure, numbers in block(alone, target).items():
            np.testing.assert_allclose(block(together, target)[figure], numbers, rtol=1e-6, atol=1e-9)


def test_a_target_of_several_tokens_keeps_its_own(exact):
    """The word at 9..11: the probability of the whole; token 8 is a source of it, 9 and 10 are none."""
    tokens = random_run()
    result = judged(exact, method="occlusion", targets="word", orders=2, points=1)
    assert [(t.index, t.stop) for t in result.targets] == [(8, 9), (9, 12)]
    scored = answer("occlusion", exact, targets="word")
    row = scored.scores[1][:9]
    best = int(np.argmax(row))

    def whole(removed):
        ids = tokens.ids.copy()
        ids[removed] = exact.stand_ins["eos"]
        return math.exp(sum(plain(exact, ids[:t], tokens.ids[t]) for t in (9, 10, 11)))

    numbers = block(result, 9)
    assert numbers["comprehensiveness 1 %"][0] == pytest.approx(whole([]) - whole([best]), rel=1e-6)
    nothing = (whole([]) + whole(list(range(9)))) / 2
    for figure in ("deletion AUC", "insertion AUC"):
        np.testing.assert_allclose(numbers[figure][:3], (nothing, nothing, 0), rtol=1e-6, atol=1e-12)
    drawn = [next(int(j) for j in order if j < 9) for order in random_orders(0, 2, 11)]
    mean = np.mean([whole([]) - whole([j]) for j in drawn])
    assert numbers["comprehensiveness 1 %"][1] == pytest.approx(mean, rel=1e-6)


def test_occlusion_agrees_with_leave_one_out_in_full(exact):
    result = judged(exact, method="occlusion", number="log_probability", orders=2)
    assert [block(result, target)[TAU][0] for target in TARGETS] == [1.0] * 4
    with_signs = answer("occlusion", exact)
    best = with_signs.scores.max(axis=1)
    figures = [block(result, target)["comprehensiveness 1 %"][0] for target in TARGETS]
    np.testing.assert_allclose(figures, best, rtol=1e-9)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_of_encoder_and_decoder_both_are_taken_away(family, models):
    tokens = dataclasses.replace(random_run(), decoder_from=5)
    asked = {"method": "occlusion", "number": "log_probability", "orders": 2, "points": 3}
    result = judged(models(family), tokens, 6, **asked)
    scored = answer("occlusion", models(family), tokens, 6)
    for row, target in zip(scored.scores, range(6, COUNT), strict=True):
        assert block(result, target)["comprehensiveness 1 %"][0] == pytest.approx(float(row[:target].max()), abs=1e-4)


# --------------------------------------------------------------------------------------------- a truth that is known

TEXT = "abcdefghabcdefgh"


def backwards(request: AnalysisRequest) -> Attribution:
    found = analysis("occlusion").run(
        dataclasses.replace(request, params=analysis("occlusion").resolve(dict(request.params)))
    )
    return dataclasses.replace(found, method="backwards", scores=-found.scores)


BACKWARDS = Analysis(
    "backwards", "Backwards", "G", "", backwards, Attribution, frozenset({"gradients"}), analysis("occlusion").params
)


def of_the_rules(method, model=None, **params):
    """Judged on the fake model, whose prediction is made of one token."""
    found = fake_request(analysis(NAME), model or FakeModel(), TEXT, method=method, **{"last": len(TEXT), **params})
    found = with_analyses(found, {**REGISTRY.analyses, "backwards": BACKWARDS})
    return found, analysis(NAME).run(found)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "input_x_gradient"])
def test_a_method_that_knows_the_truth_gets_the_best_figures_there_are(method):
    """Without the one token that counts a probability p falls to q; nothing else moves it.

    Deletion falls at once: ((p + q)/2 + (m − 1)·q)/m. Insertion rises at once: ((p + q)/2 + (m − 1)·p)/m.
    """
    points = 1000  # every source is a step
    found, result = of_the_rules(method, first=11, orders=20, points=points)
    for target in range(11, len(TEXT) + 1):
        ids, m = found.tokens.ids, target - 1  # all but <bos>
        assert taken_from(ids, target - 1) > 0
        p, q = distribution(1, 2, int(ids[target]))[ids[target]], _without_it(int(ids[target]))
        numbers = block(result, target)
        for share in SHARES:
            assert numbers[f"comprehensiveness {100 * share:g} %"][0] == pytest.approx(p - q, rel=1e-5)
            assert numbers[f"sufficiency {100 * share:g} %"][0] == pytest.approx(0, abs=1e-6)
        assert numbers["deletion AUC"][0] == pytest.approx(((p + q) / 2 + (m - 1) * q) / m, rel=1e-5)
        assert numbers["insertion AUC"][0] == pytest.approx(((p + q) / 2 + (m - 1) * p) / m, rel=1e-5)
        assert numbers[TAU][0] == pytest.approx(1)
        source, drawn = taken_from(ids, target - 1), random_orders(0, 20, len(TEXT))
        for share in SHARES:  # an order is as good where the source is among its first
            first = [[j for j in order if 0 < j < target][: taken(share, m)] for order in drawn]
            late = np.mean([source not in best for best in first])
            assert numbers[f"comprehensiveness {100 * share:g} %"][3] == late
            assert numbers[f"comprehensiveness {100 * share:g} %"][1] == pytest.approx((1 - late) * (p - q), rel=1e-5)
        for figure in ("comprehensiveness AOPC", "deletion AUC", "insertion AUC", TAU):
            assert numbers[figure][3] > 0.8, figure


def _without_it(target_id):
    """What the rules leave of a target when <end> stands where it is taken from: the model then says <end>."""
    base = distribution(0, 2, 0) * 0.1
    return float(base[target_id] / (base.sum() + 0.9))


def test_a_ranking_from_behind_is_worse_than_chance():
    _, result = of_the_rules("backwards", first=11, orders=20)
    mean = {row[1]: row[3:7] for row in result.rows[: len(FIGURES)]}
    for figure in ("comprehensiveness AOPC", "sufficiency AOPC", "deletion AUC", "insertion AUC", TAU):
        value, chance, spread, beaten = mean[figure]
        worse = value - chance if BETTER[figure] == "lower" else chance - value
        assert worse > spread, figure
        assert beaten == 0, figure
    assert result.method == "backwards"


def test_a_model_that_reads_ahead_gets_runs_for_each_target():
    _, both = of_the_rules("occlusion", ReadsAhead(), first=11, orders=3)
    for target in (11, 14):
        asked = {"method": "occlusion", "first": target, "last": target, "orders": 3}
        found = fake_request(analysis(NAME), ReadsAhead(), TEXT, **asked)
        alone = analysis(NAME).run(with_analyses(found, REGISTRY.analyses))
        for figure, numbers in block(alone, target).items():
            np.testing.assert_allclose(block(both, target)[figure], numbers, rtol=1e-4, atol=1e-6, err_msg=figure)


# --------------------------------------------------------------------------------------------- what is promised


def test_random_orders_are_repeated_by_their_seed(exact):
    one, again, other = (judged(exact, orders=4, seed=seed) for seed in (1, 1, 2))
    assert one.rows == again.rows
    np.testing.assert_allclose([row[3] for row in one.rows], [row[3] for row in other.rows], rtol=1e-9)
    assert [row[4] for row in one.rows] != [row[4] for row in other.rows]


def test_curves_begin_with_the_run_and_end_with_nothing(exact):
    result = judged(exact, orders=3, points=5)
    assert result.shares.shape == (4, 6)
    np.testing.assert_array_equal(result.shares[:, [0, -1]], [[0, 1]] * 4)
    np.testing.assert_array_equal(result.deletion[:, 0], result.insertion[:, -1])
    np.testing.assert_array_equal(result.deletion[:, -1], result.insertion[:, 0])
    for curve, random in ((result.deletion, result.random_deletion), (result.insertion, result.random_insertion)):
        np.testing.assert_allclose(random[:, [0, -1]], curve[:, [0, -1]], rtol=1e-6)
    for target, shares, curve in zip(TARGETS, result.shares, result.deletion, strict=True):
        value = block(result, target)["deletion AUC"][0]
        np.testing.assert_allclose(area(shares.astype(float), curve.astype(float)), value, rtol=1e-5)


def test_what_is_done_is_said():
    found, result = of_the_rules("saliency", removal="bos", first=15, last=16)
    text = " ".join(result.info)
    assert "Judged: saliency" in text
    assert "replaced by '<bos>' (the bos token)" in text
    assert "Sources of a target: 14 to 15" in text
    assert "50 % = 7 to 8" in text
    assert result.removal == "replaced by '<bos>' (the bos token)"
    assert any("the shares 1 and 5 %" in line for line in result.warnings)
    assert any("not tell apart" in line for line in result.warnings)  # all but one score are 0
    check_analysis(analysis(NAME), found)
    _, other = of_the_rules("saliency", settings="target_function=entropy aggregation=sum", first=15)
    assert any("another number (entropy)" in line for line in other.warnings)
    assert "saliency (target_function=entropy aggregation=sum)" in other.info[0]


def test_settings_reach_the_method(exact):
    plain_one = judged(exact, method="saliency", orders=2)
    other = judged(exact, method="saliency", settings="aggregation=sum", orders=2)
    assert plain_one.rows != other.rows
    assert settings("a=1  b='x y' c=") == {"a": "1", "b": "x y", "c": ""}
    words = judged(exact, method="shapley", settings="orders=2", orders=2)  # words by default
    assert words.rows[-1][0] != plain_one.rows[-1][0] or words.info[2] != plain_one.info[2]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"method": "guess"}, "Unknown analysis 'guess'"),
        (
            {"method": "logit_lens"},
            "expected an attribution, such as .* logit_lens gives a result of kind 'lens_table'",
        ),
        ({"settings": "aggregation"}, "expected name=value, separated by spaces; got 'aggregation'"),
        ({"settings": "a='b"}, "No closing quotation"),
        ({"settings": "steps=3"}, "Unknown parameter of input_x_gradient 'steps'"),
        ({"first": 2, "last": 2}, "Target 2 .*: expected at least 2 sources before it .* got 1"),
        ({"sources": "turn"}, "Target 16 .*: expected at least 2 sources .*got 1"),
        ({"removal": "unk"}, "this model has no unk token"),
        ({"orders": 1}, "expected a whole number from 2"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(params, words):
    with pytest.raises(BadInput, match=words) as refused:
        of_the_rules(**{"method": "input_x_gradient", **params})
    assert "\n" not in str(refused.value)


def test_with_nothing_left_there_is_no_prediction(exact):
    with pytest.raises(BadInput, match="with every source dropped nothing is left"):
        judged(exact, removal="drop")


def test_control_tokens_are_no_sources(exact):
    tokens = dataclasses.replace(random_run(), special=np.ones(COUNT, bool))
    with pytest.raises(BadInput, match=r"Target 8 .* got 0"):
        judged(exact, tokens)


def test_what_a_model_lacks_is_said():
    with pytest.raises(Unavailable, match="gives no gradients: This model of rules has no gradients"):
        of_the_rules("occlusion", FakeModel(without=["gradients"]))
    model = FakeModel()
    model.card = dataclasses.replace(model.card, causal=False)
    with pytest.raises(Unavailable, match="does not predict the next token"):
        of_the_rules("occlusion", model)
    alone = fake_request(analysis(NAME), FakeModel(), TEXT)
    with pytest.raises(Unavailable, match="stands alone"):
        analysis(NAME).run(alone)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: {"scores": np.full_like(a.scores, np.nan)}, "scores that are no numbers"),
        (lambda a: {"targets": a.targets[::-1]}, "expected targets one after the other"),
        (lambda a: {"sources": tuple(dataclasses.replace(s, stop=99) for s in a.sources)}, "expected sources within"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(change, words):
    def spoiled(request):
        found = backwards(request)
        return dataclasses.replace(found, **change(found))

    found = fake_request(analysis(NAME), FakeModel(), TEXT, method="backwards", first=11, last=16)
    with pytest.raises(BadInput, match=words):
        analysis(NAME).run(with_analyses(found, {"backwards": dataclasses.replace(BACKWARDS, run=spoiled)}))


def test_an_unknown_method_lists_those_that_exist():
    with pytest.raises(UnknownName, match="saliency"):
        of_the_rules("salience")
