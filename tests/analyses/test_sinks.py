"""What counts as a sink, and what does not."""

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import BadInput, Trace
from attnviz.plugins.analyses.sinks import MULTIPLE, SHARE, find_sinks, without_sinks
from attnviz.testing import FakeModel, capture_map, random_trace

COUNT = 32
TEXT = "x" * (COUNT - 1)


def tokens(special_first=True):
    found = FakeModel().tokenize(TEXT)
    return found if special_first else dataclasses.replace(found, special=np.zeros(COUNT, bool))


def uniform(count=COUNT):
    return np.tril(np.ones((count, count))) / np.arange(1, count + 1)[:, None]


def sink_at(position, mass=0.9):
    """A uniform head that gives `mass` to one position from there on."""
    weights = uniform()
    weights[position:] *= 1 - mass
    weights[position:, position] += mass
    return weights


def previous():
    weights = np.eye(COUNT, k=-1)
    weights[0, 0] = 1
    return weights


def maps(*heads):
    return Trace(layers=(capture_map(np.stack(heads)),))


def test_a_planted_sink_is_found():
    found = find_sinks(maps(sink_at(5), uniform(), uniform(), sink_at(5)), tokens())
    assert found.detected == (5,)
    assert found.listed == (0,)
    assert found.positions == (0, 5)


def test_the_multiple_by_hand():
    """Key 5 of 32 gets 27 rows of 0.9 + 0.1/n: about 24.5, against a uniform sum of 1/6 + … + 1/32 = 1.775."""
    expected = sum(1 / n for n in range(6, 33))
    got = sum(0.9 + 0.1 / n for n in range(6, 33))
    assert got / expected > MULTIPLE
    assert find_sinks(maps(sink_at(5)), tokens()).detected == (5,)


def test_too_few_heads_are_no_sink():
    heads = [sink_at(5)] + [uniform()] * 4
    assert 1 / len(heads) < SHARE
    assert find_sinks(maps(*heads), tokens()).detected == ()


@pytest.mark.parametrize("head", [uniform(), previous(), np.eye(COUNT)], ids=["uniform", "previous token", "self"])
def test_heads_without_a_resting_place_have_no_sink(head):
    """The last keys are seen by so few queries that these heads give them many times the uniform weight."""
    assert find_sinks(maps(head), tokens()).detected == ()


def test_random_heads_have_no_sink():
    assert find_sinks(random_trace(COUNT, heads=(4, 4, 4)), tokens()).detected == ()


def test_bos_is_listed_wherever_it_stands():
    found = FakeModel().tokenize("abc")
    ids, special = found.ids.copy(), found.special.copy()
    ids[2], special[2] = ids[0], True
    again = dataclasses.replace(found, ids=ids, special=special)
    assert find_sinks(Trace(layers=(capture_map(uniform(4)[None]),)), again).listed == (0, 2)


def test_the_first_of_tokens_that_all_see_each_other_is_listed_only_as_control_token():
    both_ways = Trace(layers=(capture_map(np.full((1, COUNT, COUNT), 1 / COUNT), causal=False),))
    assert find_sinks(both_ways, tokens(special_first=False)).listed == ()
    assert find_sinks(both_ways, tokens()).listed == (0,)
    assert find_sinks(maps(uniform()), tokens(special_first=False)).listed == (0,)


def test_the_description_says_how():
    text = find_sinks(maps(sink_at(5)), tokens()).describe()
    assert "positions 5" in text
    assert "4 times" in text
    assert "25%" in text


def test_without_any_attention_there_is_a_reason():
    trace = Trace(layers=(None,), missing={0: "a state-space layer"})
    with pytest.raises(BadInput, match="a state-space layer"):
        find_sinks(trace, tokens())


def test_removing_a_column_by_hand():
    pattern = np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.2, 0.6]], np.float32)
    expected = [[0, 0, 0], [0, 1, 0], [0, 0.25, 0.75]]  # row 0 saw nothing else
    np.testing.assert_allclose(without_sinks(pattern, (0,)), expected, rtol=1e-6)
    assert pattern[0, 0] == 1  # the input stays
