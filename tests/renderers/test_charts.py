"""Charts show the numbers they are given, escape their texts, and refuse what plotly draws too slowly."""

from __future__ import annotations

import dataclasses
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


def test_curves_of_faithfulness_are_means_or_those_of_a_target() -> None:
    usual = sample_findings("faithfulness")["usual"]
    chart = json.loads(charts.faithfulness_chart(usual).payload.to_json())
    assert [line["y"] for line in chart["data"]] == [
        [0.75, 0.25, 0.125],
        [0.5625, 0.1875, 0.09375],
        [0.125, 0.25, 0.75],
        [0.09375, 0.1875, 0.5625],
    ]
    assert "updatemenus" not in chart["layout"]  # one target: nothing to choose
    assert "<img" not in json.dumps(chart)
    one = usual.result
    double = {
        name: np.concatenate([getattr(one, name), getattr(one, name) * 3])
        for name in ("deletion", "insertion", "random_deletion", "random_insertion")
    }
    shares = np.repeat(one.shares, 2, axis=0)
    two = dataclasses.replace(one, targets=one.targets * 2, shares=shares, **double)
    chart = json.loads(charts.faithfulness_chart(dataclasses.replace(usual, result=two)).payload.to_json())
    assert chart["data"][0]["y"] == [1.5, 0.5, 0.25]
    buttons = chart["layout"]["updatemenus"][0]["buttons"]
    assert [button["args"][0]["y"][0] for button in buttons] == [
        [1.5, 0.5, 0.25],
        [0.75, 0.25, 0.125],
        [2.25, 0.75, 0.375],
    ]
    assert all("<script" not in button["label"] for button in buttons)
    with pytest.raises(BadInput, match="expected faithfulness, got table"):
        charts.faithfulness_chart(sample_findings("table")["usual"])
