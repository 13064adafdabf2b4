"""Charts show the numbers they are given, escape their texts, and refuse what plotly draws too slowly."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attnviz.hooks import BadInput, TokenMatrix
from attnviz.plugins.renderers import charts
from attnviz.testing import sample_findings
from tests.renderers.samples import (
    finding,
    long_labels,
    make_tokens,
    sample_heads,
    sample_matrix,
    sample_roles,
    sample_scores,
)


def test_values_reach_the_chart_and_missing_ones_are_gaps() -> None:
    shown = sample_scores()
    bars = json.loads(charts.token_chart(shown).payload.to_json())["data"][0]
    assert bars["y"][3] is None
    assert bars["y"][-1] == 2.0
    shown = sample_heads()
    box, *_, line = json.loads(charts.head_chart(shown).payload.to_json())["data"]
    assert box["y"][8:12] == [None] * 4
    assert box["y"][0] == float(shown.result.metrics["entropy"][0, 0])
    np.testing.assert_allclose([x for x in line["y"] if x is not None], [0.4, 0.6, 0.2], rtol=1e-6)


def test_heads_say_their_roles() -> None:
    box = json.loads(charts.head_chart(sample_roles()).payload.to_json())["data"][0]
    assert box["customdata"][7] == "1 (self, previous token)"
    assert box["customdata"][8] == 2
    assert json.loads(charts.head_chart(sample_heads()).payload.to_json())["data"][0]["customdata"] == [0, 1, 2, 3] * 4


def test_layers_have_their_names() -> None:
    chart = json.loads(charts.head_chart(sample_findings("head_scores")["two stacks"]).payload.to_json())
    assert chart["layout"]["xaxis"]["ticktext"] == ["encoder 0", "&lt;script&gt;alert(1…", "cross 0"]
    assert chart["data"][0]["text"][6] == "Cross 0"
    assert "ticktext" not in json.loads(charts.head_chart(sample_heads()).payload.to_json())["layout"]["xaxis"]


def test_texts_are_escaped() -> None:
    for view in (
        charts.head_chart(sample_heads()),
        charts.head_chart(sample_roles()),
        charts.token_chart(sample_scores()),
        charts.matrix_chart(sample_matrix()),
    ):
        text = view.payload.to_json()
        assert "<script" not in text
        assert "<b>" not in text.replace("\\u003c", "<")
        assert view.payload.layout.title.text == "A sample &lt;b&gt;result&lt;/b&gt; &amp; more"


def test_too_many_cells_are_refused() -> None:
    count = 300
    scores = np.zeros((count, count), np.float32)
    positions = np.arange(count)
    matrix = TokenMatrix(scores=scores, rows=positions, columns=positions, unit="share")
    with pytest.raises(BadInput, match="90000 cells"):
        charts.matrix_chart(finding(matrix, make_tokens(long_labels(count))))
