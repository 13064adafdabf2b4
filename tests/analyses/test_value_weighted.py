"""Attention times the length of what is passed on."""

import dataclasses

import numpy as np
import pytest

from attnviz.hooks import BadInput, Unavailable, Want
from attnviz.plugins.analyses import value_weighted
from attnviz.testing import FakeModel, capture_map, fake_request

ANALYSIS = value_weighted.attnviz_analyses()[0]
TEXT = "abcdefg"  # 8 tokens with <bos>; the value of key k has the norm k + 1


def matrix(trace=None, **params):
    request = fake_request(ANALYSIS, FakeModel(), TEXT, **params)
    return ANALYSIS.run(request if trace is None else dataclasses.replace(request, captured=trace))


def test_the_previous_token_head_by_hand():
    """Weight 1 on key q - 1, whose norm is q; the first query looks at itself, norm 1."""
    result = matrix(layer=0, head=0)
    expected = np.diag(np.arange(1.0, 8), k=-1)
    expected[0, 0] = 1
    np.testing.assert_allclose(result.scores, expected, atol=1e-5)
    assert result.rows.tolist() == result.columns.tolist() == list(range(8))
    assert "length" in result.unit


def test_a_mean_over_heads_by_hand():
    """Last row: 7 from the previous token, 1 from the first, (k + 1)/8 from the uniform head, 1 from induction."""
    result = matrix(layer=0, head="mean")
    expected = np.arange(1, 9) / 8 / 4
    expected[6] += 7 / 4
    expected[0] += 2 / 4
    np.testing.assert_allclose(result.scores[7], expected, atol=1e-5)
    assert any("mean over its 4 heads" in line for line in result.info)
    assert any("cancel one another" in line for line in result.warnings)


def test_what_sinks_hold_of_the_weight_and_of_the_length():
    """The uniform head: key 0 has the weight Σ 1/n of 8 rows, at the norm 1."""
    weight = np.array([sum(1 / n for n in range(k + 1, 9)) for k in range(8)])
    share, length = weight[0] / 8, weight[0] / (weight * np.arange(1, 9)).sum()
    line = next(line for line in matrix(layer=0, head=2).info if line.startswith("Sinks"))
    assert line.endswith(f"They hold {share:.0%} of the weight and {length:.0%} of the length shown here.")


@pytest.mark.parametrize(
    ("params", "message"),
    [({"layer": 2}, "Layer 2 has no attention"), ({"layer": 3}, "Unknown layer 3"), ({"head": 4}, "heads 0 to 3")],
)
def test_what_does_not_exist_is_refused(params, message):
    with pytest.raises(BadInput, match=message):
        matrix(**params)


def test_a_layer_without_values_says_why():
    model = FakeModel()
    trace = model.trace(model.tokenize(TEXT), Want())
    with pytest.raises(Unavailable, match="this backend does not give it"):
        matrix(trace)
    maps = capture_map(np.tril(np.full((1, 8, 8), 1 / 8)))
    gated = dataclasses.replace(maps, absent={"value_norm": "There is a gate."})
    with pytest.raises(Unavailable, match=r"not known\. There is a gate\."):
        matrix(dataclasses.replace(trace, layers=(gated, None), missing={1: "none"}))


def test_the_analysis_asks_for_values():
    assert ANALYSIS.want == Want(values=True)
