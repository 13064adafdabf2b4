"""Head roles against planted heads, hand-computed sets of keys, and loops over every query and key."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from attnviz.demo import LANGUAGE
from attnviz.hooks import BadInput, HeadScores, Trace, Unavailable, from_jsonable, to_jsonable
from attnviz.plugins.analyses import head_roles, random_tokens, role_nulls, roles
from attnviz.plugins.analyses.head_roles import RANDOM, ROLES, THIS_RUN
from attnviz.plugins.analyses.roles import Sample
from attnviz.testing import FakeModel, capture, capture_map, check_analysis, fake_request, random_trace

ANALYSIS = head_roles.attnviz_analyses()[0]
TEXT = "the cat sat on the mat and the dog sat on the cat, then it ran off to the tree near the barn"
WINDOW = 4


def on(trace, text=TEXT, **params):
    """Result over a trace of our own, with the tokens of a text cut to its length."""
    queries = len(next(layer for layer in trace.layers if layer is not None).allowed)
    request = fake_request(ANALYSIS, text=text[: queries - 1], **params)
    return ANALYSIS.run(dataclasses.replace(request, captured=trace))


def line_of(result, title):
    return next(line for line in result.info if line.startswith(f"{title}: "))


# --------------------------------------------------------------------------------------------- which keys


def test_keys_by_hand():
    """Ids a b a b b a, after a control token."""
    ids = np.array([-1, 7, 8, 7, 8, 8, 7])
    keys = roles.keys_of_ids(ids, slice(0, 7))
    found = {role: [np.flatnonzero(row).tolist() for row in keys[role]] for role in keys}
    assert found["duplicate_token"] == [[], [], [], [1], [2], [2, 4], [1, 3]]
    # after the copies: a→b at 2; b→a at 3; b→a at 3 and b→b at 5, which is the query itself; a→b at 2 and 4
    assert found["induction"] == [[], [], [], [2], [3], [3], [2, 4]]


def test_control_tokens_are_nobodys_copies():
    tokens = FakeModel().tokenize([{"role": "user", "content": "aa"}, {"role": "user", "content": "b"}])
    ids = roles.comparable(tokens)
    assert (ids < 0).sum() == tokens.special.sum() == 4  # <bos>, <user>, <user>, <assistant>
    assert len(np.unique(ids)) == len(ids) - 1  # only "a" comes twice


def looked_for(role, ids, q, count):
    """Keys of a role, straight from its definition."""
    if role == "previous_token":
        return {q - 1}
    if role == "first_token":
        return {0}
    if role == "self":
        return {q}
    if role == "local_window":
        return {k for k in range(count) if abs(q - k) <= WINDOW}
    copies = {j for j in range(q) if ids[j] == ids[q] and ids[q] < 256}
    return copies if role == "duplicate_token" else {j + 1 for j in copies if j + 1 < q}


def slow_scores(layer, ids, role):
    """[H] score and the score of a uniform head, one query at a time; None where the role never applies."""
    count = len(ids)
    hidden = layer.hidden()
    rows, uniform = [], []
    for q in range(2, count):
        seen = {k for k in range(count) if hidden is None or not hidden[q, k]}
        keys = looked_for(role, ids, q, count) & seen
        if not keys or keys == seen:
            continue
        rows.append([sum(float(layer.pattern(head)[q, k]) for k in keys) for head in range(layer.heads)])
        uniform.append(len(keys) / len(seen))
    return (np.mean(rows, axis=0), np.mean(uniform)) if rows else None


TRACES = {
    "full": {},
    "sliding windows": {"windows": (None, 7)},
    "grouped queries": {"heads": (4, 4), "kv_heads": (2, 1)},
    "both ways": {"causal": False},
    "a layer without attention": {"heads": (2, 2, 2), "missing": (1,)},
    "layers with different numbers of heads": {"heads": (2, 4)},
}


@pytest.mark.parametrize("options", TRACES.values(), ids=TRACES.keys())
def test_random_traces_by_brute_force(options):
    trace = random_trace(20, seed=3, **options)
    result = on(trace)
    ids = fake_request(ANALYSIS, text=TEXT[:19]).tokens.ids
    for role, (index, layer) in itertools.product(ROLES, enumerate(trace.layers)):
        values = result.metrics[role][index]
        expected = None if layer is None else slow_scores(layer, ids, role)
        if expected is None:
            assert np.isnan(values).all()
            continue
        score, uniform = expected
        np.testing.assert_allclose(values[: layer.heads], score, atol=1e-6, err_msg=role)
        assert np.isnan(values[layer.heads :]).all()
        null = result.metrics[f"{role}_null"][index, : layer.heads]
        if role not in roles.BY_ID:
            np.testing.assert_allclose(null, uniform, rtol=1e-6, err_msg=role)
        effect = result.metrics[f"{role}_effect"][index, : layer.heads]
        np.testing.assert_allclose(effect, (score - null) / (1 - null), atol=1e-5, err_msg=role)


# --------------------------------------------------------------------------------------------- nulls


def test_family_wise_by_hand():
    """Best heads of three draws: 5, 2, 1. At least 2 is reached by two, and by the observation itself: 3 of 4."""
    draws = np.array([[[5.0, 0.0]], [[np.nan, 2.0]], [[1.0, 0.5]]])  # [3, 1, 2]
    chance = role_nulls.family_wise(np.array([[6.0, 2.0]]), draws)
    np.testing.assert_array_equal(chance, [[1 / 4, 3 / 4]])
    assert np.isnan(role_nulls.family_wise(np.array([[np.nan]]), draws[:, :, :1])).all()


def test_probabilities_add_up_to_the_usual_level():
    assert set(role_nulls.CHANCE) == set(ROLES)
    assert sum(role_nulls.CHANCE.values()) == pytest.approx(0.05)
    assert min(role_nulls.CHANCE.values()) > 1 / (role_nulls.DRAWS + 1)
    assert min(role_nulls.CHANCE.values()) > 1 / 2**random_tokens.PAIRS


def test_keys_elsewhere_by_hand():
    """Row [.1 .2 .3 .4 | hidden]: two keys from place 0, ½, ¾ on are .1+.2, .3+.4, .4+.1."""
    patterns = np.array([[[0.1, 0.2, 0.3, 0.4, 0.0]]])
    keys, seen = np.array([[1, 0, 1, 0, 1]], bool), np.array([[1, 1, 1, 1, 0]], bool)
    drawn = role_nulls.mass_elsewhere(patterns, keys, seen, np.array([[0.0], [0.5], [0.99]]))
    np.testing.assert_allclose(drawn, [[0.3], [0.7], [0.5]])


def test_keys_elsewhere_give_every_key_its_turn():
    """Over all places the mean is what a uniform head gives, for any head: here 2 of 5 keys."""
    patterns = np.random.default_rng(0).dirichlet(np.ones(5), (3, 1))  # [3, 1, 5]
    keys, seen = np.array([[1, 1, 0, 0, 0]], bool), np.ones((1, 5), bool)
    drawn = role_nulls.mass_elsewhere(patterns, keys, seen, (np.arange(5)[:, None] + 0.5) / 5)
    np.testing.assert_allclose(drawn.mean(axis=0), 2 / 5)


def test_shuffled_ids_keep_what_must_stay():
    ids = np.array([9, -2, 7, 7, 8, -6, 8, 5])
    drawn = role_nulls.shuffled_ids(ids)
    assert (drawn[:, [0, 1, 5]] == ids[[0, 1, 5]]).all()
    assert all(sorted(row) == sorted(ids) for row in drawn.tolist())
    assert len({tuple(row) for row in drawn.tolist()}) == 30  # 5! / (2!·2!): all orders come up
    np.testing.assert_array_equal(drawn, role_nulls.shuffled_ids(ids))


@pytest.mark.parametrize("windows", [None, (6, None)])
def test_shuffled_null_by_brute_force(windows):
    """The mean over the very same shuffles, one query at a time, with the attention as it is."""
    trace = random_trace(16, heads=(2, 2), windows=windows, seed=1)
    ids = roles.comparable(fake_request(ANALYSIS, text=TEXT[:15]).tokens)
    found = role_nulls.by_id_shuffled(Sample(ids, trace))
    shuffled = [np.where(row < 0, 300 - row, row) for row in role_nulls.shuffled_ids(ids)]  # control ids stay apart
    for role, (index, layer) in itertools.product(roles.BY_ID, enumerate(trace.layers)):
        patterns = np.stack([layer.pattern(head) for head in range(2)]).astype(np.float64)
        hidden = layer.hidden()
        scores = []
        for row in shuffled:
            keys = [{k for k in looked_for(role, row, q, 16) if not hidden[q, k]} for q in range(2, 16)]
            masses = [patterns[:, q, list(k)].sum(axis=1) for q, k in enumerate(keys, start=2) if k]
            if masses:
                scores.append(np.mean(masses, axis=0))
        np.testing.assert_allclose(found[role].null[index], np.mean(scores, axis=0), atol=1e-5)


def test_flipped_signs_by_brute_force():
    differences = np.random.default_rng(0).normal(0.3, 0.5, (4, 2, 3))
    observed, draws = role_nulls.signs_flipped(differences)
    assert len(draws) == 15
    spread = np.sqrt((differences**2).sum(axis=0)) + 2 * role_nulls.LITTLE
    np.testing.assert_allclose(observed, differences.sum(axis=0) / spread)
    every = [np.tensordot(signs, differences, axes=1) / spread for signs in itertools.product((1, -1), repeat=4)]
    np.testing.assert_allclose(np.sort(draws.sum(axis=(1, 2))), np.sort([d.sum() for d in every[1:]]), atol=1e-12)


def test_the_null_of_the_first_token_is_every_other_key():
    """Corrected weight of each key, by loops: what it receives over what a uniform head would give it."""
    trace = random_trace(12, heads=(3,), seed=2)
    layer = trace.layers[0]
    received = []
    for k in range(12):
        rows = list(range(max(2, k), 12))
        if len(rows) >= role_nulls.SEEN * 10:  # ten queries, from 2 on, see the first key
            uniform = sum(1 / (q + 1) for q in rows)
            received.append([sum(float(layer.pattern(h)[q, k]) for q in rows) / uniform for h in range(3)])
    expected = [(1 + sum(max(other) >= first for other in received[1:])) / len(received) for first in received[0]]
    found = role_nulls.by_position([Sample(np.arange(12), trace)], WINDOW)["first_token"]
    assert found.draws == len(received) - 1
    np.testing.assert_allclose(found.chance, [expected])


# --------------------------------------------------------------------------------------------- planted heads


def test_planted_heads_get_their_roles_on_a_text():
    """Layer 0 of the fake model: previous token, first token, uniform, induction."""
    result = check_analysis(ANALYSIS, fake_request(ANALYSIS, text=TEXT))
    assert {place: found for place, found in result.roles.items() if place[0] == "0"} == {
        "0.0": ("previous_token",),
        "0.1": ("first_token",),
        "0.3": ("induction",),
    }
    assert result.metrics["previous_token"][0, 0] == pytest.approx(1)
    assert result.metrics["induction"][0, 3] > 0.95  # but for "aa", where what follows the copy is the query itself
    assert "L0H3 " in line_of(result, "Induction")
    assert np.isnan(result.metrics["self"][2]).all()


def test_planted_heads_get_their_roles_on_random_tokens():
    """The head that looks for copies rests on the first token while there are none, so it has both roles."""
    result = check_analysis(ANALYSIS, fake_request(ANALYSIS, text="a", ground=RANDOM))
    found = {place: roles for place, roles in result.roles.items() if place[0] == "0"}
    assert found == {"0.0": ("previous_token",), "0.1": ("first_token",), "0.3": ("first_token", "induction")}
    assert result.metrics["induction"][0, 3] == pytest.approx(1)
    assert result.metrics["induction_null"][0, 3] == pytest.approx(0, abs=1e-6)
    assert "Not active in layers 1" in line_of(result, "Induction")  # its window is narrower than the repetition


def one_hot(keys):
    """[S, S] a head that gives all its weight to one key a row."""
    pattern = np.zeros((len(keys), len(keys)))
    pattern[np.arange(len(keys)), keys] = 1
    return pattern


def test_self_duplicate_and_local_heads():
    tokens = fake_request(ANALYSIS, text=TEXT).tokens
    count = len(tokens)
    copies = [max([j for j in range(q) if tokens.ids[j] == tokens.ids[q]], default=0) for q in range(count)]
    near = np.tril(np.ones((count, count))) - np.tril(np.ones((count, count)), -WINDOW - 1)
    heads = [one_hot(range(count)), one_hot(copies), near / near.sum(axis=1, keepdims=True)]
    uniform = np.tril(np.ones((count, count))) / np.arange(1, count + 1)[:, None]
    result = on(Trace(layers=(capture_map(np.stack([*heads, uniform])),)))
    assert result.roles == {"0.0": ("self",), "0.1": ("duplicate_token",), "0.2": ("local_window",)}
    assert "every" not in line_of(result, "Local window")


def test_a_head_that_looks_a_fixed_distance_back_is_no_induction_head():
    """On repeated tokens it hits the token after the copy, but it does so on unrepeated ones as well."""
    length = random_tokens.LENGTH

    class Fixed(FakeModel):
        def trace(self, tokens, want):
            back = [max(q - length + 1, 0) for q in range(len(tokens))]
            return Trace(layers=(capture_map(one_hot(back)[None], edge=want.thumbnail),))

    result = ANALYSIS.run(fake_request(ANALYSIS, Fixed(), TEXT, ground=RANDOM))
    assert result.metrics["induction"][0, 0] == 1
    assert result.metrics["induction_null"][0, 0] == 1
    assert np.isnan(result.metrics["induction_effect"][0, 0])  # there is no room above the null
    assert "induction" not in result.roles.get("0.0", ())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("options", [{}, {"causal": False}, {"windows": (None, 6, 12)}])
def test_random_heads_have_no_role(seed, options):
    trace = random_trace(60, heads=(4, 4, 4), seed=seed, **options)
    assert on(trace).roles == {}


class Random(FakeModel):
    """Another random trace for every text."""

    def trace(self, tokens, want):
        return random_trace(len(tokens), heads=(4, 4), seed=int(tokens.ids.sum()))


def test_random_heads_have_no_role_on_random_tokens():
    result = ANALYSIS.run(fake_request(ANALYSIS, Random(), TEXT, ground=RANDOM))
    assert result.roles == {}
    assert "no head is labelled; highest L" in line_of(result, "Induction")


# --------------------------------------------------------------------------------------------- what never occurs


def test_roles_that_cannot_occur_are_not_active():
    result = ANALYSIS.run(fake_request(ANALYSIS, text="abcdefgh"))
    for title in ("Duplicate token", "Induction"):
        assert "not active on this input" in line_of(result, title)
    assert np.isnan(result.metrics["induction"]).all()
    assert not any({"induction", "duplicate_token"} & set(found) for found in result.roles.values())
    assert "too short to tell" in line_of(result, "First token")
    assert "Previous token: " in line_of(result, "Previous token")


def test_a_text_of_one_letter_has_no_role_by_id():
    """All ids are the same: shuffling changes nothing, so nothing is above it."""
    result = ANALYSIS.run(fake_request(ANALYSIS, text="a" * 50))
    np.testing.assert_allclose(result.metrics["duplicate_token"], result.metrics["duplicate_token_null"], atol=1e-5)
    assert not any({"induction", "duplicate_token"} & set(found) for found in result.roles.values())


def test_of_two_tokens_nothing_can_be_said():
    result = ANALYSIS.run(fake_request(ANALYSIS, text="a"))
    assert all(np.isnan(values).all() for values in result.metrics.values())
    assert all("not active on this input" in line_of(result, title) for title in head_roles.TITLES.values())


def test_a_learned_sink_and_padding_are_taken_as_they_are():
    rng = np.random.default_rng(0)
    visible = np.ones((12, 12), bool)
    visible[:, :3] = False
    q, k = rng.normal(size=(2, 12, 4)), rng.normal(size=(2, 12, 4))
    layer = capture(q, k, visible=visible, sinks=np.array([0.0, 2.0]))
    result = on(Trace(layers=(layer,)))
    for role in ("previous_token", "self", "local_window"):
        score, uniform = slow_scores(layer, fake_request(ANALYSIS, text=TEXT[:11]).tokens.ids, role)
        np.testing.assert_allclose(result.metrics[role][0], score, atol=1e-6)
        np.testing.assert_allclose(result.metrics[f"{role}_null"][0], uniform, rtol=1e-6)
    assert "not active on this input" in line_of(result, "First token")  # it is hidden from everyone


def test_long_texts_are_measured_on_every_nth_query():
    count = 600
    keys = [max(q - 1, 0) for q in range(count)]
    trace = Trace(layers=(capture_map(one_hot(keys)[None]),))
    before = random_tokens._bare(FakeModel(), [256], special=True)
    tokens = random_tokens._tokens(FakeModel(), before, [65 + q % 26 for q in range(count - 1)])
    request = fake_request(ANALYSIS, text="a")
    request = dataclasses.replace(request, run=dataclasses.replace(request.run, tokens=tokens), captured=trace)
    result = ANALYSIS.run(request)
    assert result.metrics["previous_token"][0, 0] == 1
    rows = range(2, count, 3)
    np.testing.assert_allclose(result.metrics["previous_token_null"][0, 0], np.mean([1 / (q + 1) for q in rows]))
    assert any("One query row in 3" in line for line in result.info)


# --------------------------------------------------------------------------------------------- random tokens


def test_pairs_of_random_tokens():
    model = FakeModel()
    pairs = random_tokens.draw_pairs(model, model.card, model.tokenize("a"))
    assert len(pairs) == random_tokens.PAIRS
    length = random_tokens.LENGTH
    for pair in pairs:
        repeated, unrepeated = pair.repeated.ids, pair.unrepeated.ids
        assert repeated[0] == unrepeated[0] == 256  # <bos>, which the fake model puts before a text
        np.testing.assert_array_equal(repeated[1 : length + 1], repeated[length + 1 :])
        np.testing.assert_array_equal(repeated[: length + 1], unrepeated[: length + 1])
        assert len(set(unrepeated.tolist())) == 2 * length + 1
        assert unrepeated[1:].max() < 128  # bytes that are text by themselves; no control tokens
    again = random_tokens.draw_pairs(model, model.card, model.tokenize("a"))
    assert all((a.unrepeated.ids == b.unrepeated.ids).all() for a, b in zip(pairs, again, strict=True))


def test_too_few_positions_for_random_tokens():
    model = FakeModel()
    short = dataclasses.replace(model.card, positions=41)
    assert len(random_tokens.draw_pairs(model, short, model.tokenize("a"))[0].repeated) == 41
    with pytest.raises(Unavailable, match="has 16 positions"):
        random_tokens.draw_pairs(model, dataclasses.replace(model.card, positions=16), model.tokenize("a"))


# --------------------------------------------------------------------------------------------- results


def test_roles_of_a_result_survive_json_and_name_heads_that_exist():
    scores = {"metrics": {"self": np.zeros((2, 3), np.float32)}, "units": {"self": "share"}}
    result = HeadScores(**scores, roles={"1.2": ("self", "induction")})
    again = from_jsonable("head_scores", json.loads(json.dumps(to_jsonable(result))))
    assert again.roles == {"1.2": ("self", "induction")}
    for wrong in ("1", "L1.2", "2.0", "0.3", "-1.0"):
        with pytest.raises(BadInput, match=r'expected "layer\.head" within 2 layers of 3 heads'):
            HeadScores(**scores, roles={wrong: ("self",)})


# --------------------------------------------------------------------------------------------- the embedded model

PROMPTS = (
    "What is the capital of France? And what is the capital of Japan? Tom has 48 apples and gives away 19 apples. "
    "How many apples are left? Tom has 48 apples.",
    "Write a Python function that adds two numbers. Max is taller than Ida. Leo is taller than Max. Who is shortest?",
)


@pytest.fixture(scope="module")
def session():
    from attnviz.registry import load_registry
    from attnviz.session import Session

    return Session(load_registry())


@pytest.mark.parametrize(("ground", "prompt"), [(THIS_RUN, 0), (THIS_RUN, 1), (RANDOM, 0)])
def test_the_embedded_model_has_previous_token_and_induction_heads(session, ground, prompt):
    result = session.load(str(LANGUAGE)).trace(PROMPTS[prompt]).analyze("head_roles", ground=ground).result
    for role in ("previous_token", "induction"):
        places = [tuple(map(int, place.split("."))) for place, found in result.roles.items() if role in found]
        assert places
        for place in places:
            assert result.metrics[role][place] > result.metrics[f"{role}_null"][place] + 0.3
        if ground == RANDOM:
            assert max(result.metrics[role][place] for place in places) > 0.8


def shuffled_weights(seed):
    """The embedded model with the entries of every weight tensor in another order."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(LANGUAGE).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in module.parameters():
            order = torch.randperm(weights.numel(), generator=generator)
            weights.copy_(weights.flatten()[order].view_as(weights))
    return module, AutoTokenizer.from_pretrained(LANGUAGE)


@pytest.mark.parametrize("seed", [100, 101, 102])  # not among those the bounds were chosen on
def test_the_embedded_model_with_its_weights_shuffled_has_none(session, seed):
    model = session.load(shuffled_weights(seed))
    for ground, prompt in ((THIS_RUN, 0), (THIS_RUN, 1), (RANDOM, 0)):
        result = model.trace(PROMPTS[prompt]).analyze("head_roles", ground=ground).result
        assert result.roles == {}, (ground, prompt)
