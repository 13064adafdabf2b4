"""Which positions and targets the lens is asked for, and what is said about it."""

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import BadInput, SelfCheck, Unavailable
from attnviz.plugins.analyses import logit_lens
from attnviz.testing import FakeModel, fake_request
from attnviz.testing.fake import CERTAIN, VOCABULARY

ANALYSIS = logit_lens.attnviz_analyses()[0]
TEXT = "abcabd"  # <bos> a b c a b d


def lens(text=TEXT, model=None, generated_from=None, **params):
    request = fake_request(ANALYSIS, model, text, **params)
    run = dataclasses.replace(request.run, generated_from=generated_from)
    return ANALYSIS.run(dataclasses.replace(request, run=run))


@pytest.mark.parametrize(
    ("first", "last", "count", "generated_from", "expected"),
    [
        (None, None, 7, None, (0, 6)),  # short: everything
        (None, None, 64, None, (0, 63)),
        (None, None, 200, None, (136, 199)),  # long: the last 64
        (None, None, 200, 50, (49, 112)),  # long with an answer: from the position that predicts its first token
        (None, None, 200, 190, (189, 199)),
        (None, None, 200, 200, (199, 199)),  # nothing was generated
        (None, None, 200, 0, (0, 63)),
        (None, None, 30, 20, (0, 29)),  # short with an answer: everything
        (10, None, 200, None, (10, 73)),
        (None, 10, 200, None, (0, 10)),
        (None, 150, 200, None, (87, 150)),
        (0, 199, 200, None, (0, 199)),  # asked for: not cut
        (5, 5, 7, None, (5, 5)),
    ],
)
def test_positions(first, last, count, generated_from, expected):
    found = logit_lens._positions(first, last, count, generated_from)
    assert (found[0], found[-1]) == expected


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [(7, None, "expected a position from 0 to 6, got 7"), (None, 9, "got 9"), (4, 2, "first is after last")],
)
def test_positions_outside_the_run_are_refused(first, last, message):
    with pytest.raises(BadInput, match=message):
        lens(first=first, last=last)


def test_the_range_shown_is_said():
    shown = lens("x" * 100)
    assert shown.positions.tolist() == list(range(37, 101))
    assert "Positions 37 to 100 of 0 to 100; up to 64 are shown unless you set first and last." in shown.info


def test_targets_are_the_next_tokens():
    table = lens()
    ids = FakeModel().tokenize(TEXT).ids
    assert table.target_ids.tolist() == [*ids[1:], -1]
    assert table.target_rank[:, -1].tolist() == [-1] * 4 + [-1]


def test_known_probabilities_by_hand():
    """After "abcab" the model says c (it followed ab before); its share rises in equal steps from site to site."""
    table = lens(first=5, last=5, target="c")
    base = (ord("c") + 1) / (VOCABULARY * (VOCABULARY + 1) / 2)
    expected = [(1 - CERTAIN * i / 4) * base + CERTAIN * i / 4 for i in range(5)]
    np.testing.assert_allclose(np.exp(table.target_logprob[:, 0]), expected, rtol=1e-5)
    assert table.sites == ("embedding", "block 0", "block 1", "block 2", "model")
    assert table.target_rank[1:, 0].tolist() == [0, 0, 0, 0]
    assert table.target_rank[0, 0] == VOCABULARY - 1 - ord("c")  # ids above c are likelier in the base
    assert table.settles_at.tolist() == [1]
    # total variation from the model: half of Σ|difference| of two mixtures of the same two distributions
    distance = [CERTAIN * (1 - i / 4) * (1 - base) for i in range(5)]
    np.testing.assert_allclose(table.total_variation[:, 0], distance, atol=1e-6)


def test_a_typed_target_is_followed_everywhere():
    table = lens(target="d")
    assert set(table.target_ids.tolist()) == {ord("d")}
    assert "Target followed: 'd' (id 100) at every position." in table.info


@pytest.mark.parametrize(("text", "count"), [("dog", 3), ("é", 2)])
def test_a_target_of_several_tokens_is_refused(text, count):
    with pytest.raises(BadInput, match=f"one token of this model, got '{text}', which is {count}:"):
        lens(target=text)


def test_an_empty_target_is_the_next_token():
    assert lens(target="").target_ids.tolist() == lens().target_ids.tolist()


def test_sites_and_top_k_reach_the_model():
    table = lens(sites="sublayers", top_k=7)
    assert table.sites[1] == "attention 0"
    assert table.top_ids.shape == (7, 7, 7)


def test_a_failed_self_check_is_said_first():
    class Wrong(FakeModel):
        def lens(self, *args, **kwargs):
            table = super().lens(*args, **kwargs)
            return dataclasses.replace(table, self_check=SelfCheck(False, 3.5, 0.25), warnings=("from the backend",))

    warnings = lens(model=Wrong()).warnings
    assert warnings[0].startswith("Self-check failed")
    assert "3.5" in warnings[0]
    assert warnings[-1] == "from the backend"
    assert not any("failed" in line for line in lens().warnings)


def test_a_model_that_reads_both_ways_has_no_lens():
    model = FakeModel()
    model.card = dataclasses.replace(model.card, causal=False)
    with pytest.raises(Unavailable, match="does not predict the next token"):
        lens(model=model)


def test_bias_and_row_meaning_are_said():
    table = lens()
    assert any("biased" in line for line in table.warnings)
    assert any("Position p predicts token p + 1" in line for line in table.info)
