"""The ranking of sensors and features: what reaches the page, and what the page does with it."""

import base64
import dataclasses
import zlib

import numpy as np
import pytest

from attnviz.errors import BadInput
from attnviz.plugins.renderers import ranked_features
from attnviz.plugins.renderers._relations import relations
from attnviz.testing import sample_finding
from tests.renderers.samples import finding, make_tokens, sample_features, sample_sensors


def unpacked(packed):
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["z"])), np.uint8).reshape(4, -1)
    return planes.T.copy().view("<f4").reshape(packed["shape"])


def test_every_method_reaches_the_page_with_its_null_and_what_is_missing():
    data = ranked_features.render(sample_finding("sensor_importance")).payload
    result = sample_finding("sensor_importance").result
    methods = {method["title"]: method for method in data["methods"]}
    assert methods["occlusion"]["values"] == [0.5, 2.0, 0.0]
    assert methods["occlusion"]["trusted"] is True
    assert methods["attention"]["null"] == [0.75, 1.25, 1.0]
    assert methods["integrated gradients"]["values"] == [None] * 3
    assert methods["integrated gradients"]["why"] == result.absent["integrated_gradients"]
    assert data["verdict"] == result.verdict
    assert data["correlations"] == [["attention occlusion", 0.5], ["attention integrated gradients", None]]
    maps = {each["title"]: each for each in data["maps"]}
    np.testing.assert_array_equal(unpacked(maps["occlusion over time"]["cells"]), result.occlusion_windows.T)
    np.testing.assert_array_equal(unpacked(maps["occlusion by output"]["cells"]), result.occlusion_outputs.T)
    attention = maps["attention, mean over layers and heads"]
    np.testing.assert_array_equal(unpacked(attention["cells"]), result.weights)
    assert maps["occlusion over time"]["columns"] == ["steps 0 to 3", "steps 4 to 7"]


def test_a_large_map_is_the_largest_of_its_blocks():
    count = 1100
    shown = sample_features(tuple(f"s{i}" for i in range(count)), layers=1, heads=1)
    data = ranked_features.render(shown).payload["maps"][0]
    cells = unpacked(data["cells"])
    block = -(-count // len(cells))
    assert block == 3
    np.testing.assert_array_equal(cells[1, 2], shown.result.weights[3:6, 6:9].max())
    assert data["title"].endswith("largest of 3 × 3")
    assert data["rows"][1] == "s3"


def test_other_results_are_refused():
    with pytest.raises(BadInput, match="expected sensor_importance or attention_summary, got table"):
        ranked_features.render(sample_finding("table"))


def test_the_page_ranks_by_the_method_that_is_chosen(open_page):
    names = ("fuel", "air", "oxygen")
    result = dataclasses.replace(
        sample_sensors(names).result,
        occlusion=np.array([1, 3, 2], np.float32),
        attention=np.array([2, 0.5, 1], np.float32),
    )
    page = open_page(finding(result, make_tokens(names)))
    rows = page.locator(".av-ranked-row .av-ranked-name")
    assert rows.all_text_contents() == ["air", "oxygen", "fuel"]
    page.locator("select").nth(0).select_option(label="attention")
    assert rows.all_text_contents() == ["fuel", "oxygen", "air"]
    assert page.locator(".av-ranked-row .av-ranked-null").count() == 3
    rows.nth(1).click()
    assert page.locator('.av-ranked-row[aria-pressed="true"] .av-ranked-name').all_text_contents() == ["oxygen"]
    assert "occlusion 2.0000" in page.locator(".av-readout").text_content()
    page.locator("select").nth(1).select_option(label="attention, mean over layers and heads")
    page.locator(".av-ranked-map").hover()
    assert "→" in page.locator(".av-readout").text_content()


def test_flow_network_and_distribution_are_of_every_weight():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(20, 0.3), size=20)
    weights[3] = 0
    weights[3, 7] = 1
    found = relations(weights)
    assert len(found["edges"]) == 200
    largest = sorted((-weights[q, k], q, k) for q in range(20) for k in range(20))[:200]
    assert [(q, k) for q, k, _ in found["edges"]] == [(q, k) for _, q, k in largest]
    assert found["edges"][0] == [3, 7, 1.0]
    assert found["zeros"] == int((weights == 0).sum())
    assert sum(found["counts"]) == found["pairs"] - found["zeros"] == 400 - found["zeros"]
    assert found["total"] == pytest.approx(20)
    np.testing.assert_allclose(found["received"], weights.sum(axis=0))
    assert 10 ** found["uniform"] == pytest.approx(1 / 20)
    middle = found["from"] + (found["to"] - found["from"]) / 2
    assert sum(found["counts"][15:]) == (np.log10(weights[weights > 0]) >= middle).sum()


@pytest.mark.parametrize("weights", [np.zeros((3, 3)), np.full((4, 4), 0.25)])
def test_relations_without_any_weight_or_with_all_alike(weights):
    found = relations(weights)
    assert len(found["edges"]) == (weights > 0).sum()
    assert sum(found["counts"]) == (weights > 0).sum()
    assert found["to"] >= found["from"]


def test_measured_values_reach_the_page_in_their_units():
    names = ("fuel", "air", "oxygen")
    shown = sample_sensors(names)
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    result = dataclasses.replace(
        shown.result, sensor_units=("kg/h", "", "ppm"), usual=np.array([1, 2, 3.5], np.float32)
    )
    tokens = dataclasses.replace(make_tokens(names), values=values)
    data = ranked_features.render(finding(result, tokens)).payload["input"]
    np.testing.assert_array_equal(unpacked(data["cells"]), values.T)
    assert (data["units"], data["usual"]) == (["kg/h", "", "ppm"], [1.0, 2.0, 3.5])
    assert ranked_features.render(finding(result, make_tokens(names))).payload["input"] is None


def test_the_report_draws_relations_values_and_methods_and_follows_a_choice(open_page):
    names = ("<img src=x onerror=alert(1)>", "air", "oxygen")
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3)
    result = dataclasses.replace(
        sample_sensors(names).result,
        weights=np.array([[0.7, 0.3, 0], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32),
        sensor_units=("kg/h", "%", "ppm"),
    )
    page = open_page(finding(result, dataclasses.replace(make_tokens(names), values=values)))
    who = page.get_by_role("region", name="Who attends to whom")
    assert who.locator("path.av-edge").count() == 8  # of 9 weights, one is 0
    assert "8 strongest of 9 weights, mean over layers and heads: 100 %" in who.inner_text()
    who.locator("select").first.select_option("network")
    assert who.locator("circle.av-node").count() == 3
    who.locator("select").first.select_option("distribution")
    assert "uniform: 1 / 3" in who.inner_text()
    measured = page.get_by_role("region", name="Measured values")
    assert measured.locator("polyline").count() == 3
    page.get_by_role("region", name="Methods beside each other").get_by_role("button", name="air").click()
    assert measured.locator("polyline").count() == 1
    assert "air, %" in measured.inner_text()
    methods = page.get_by_role("region", name="Methods beside each other")
    assert methods.locator("thead th").count() == 1 + len(result.METHODS)
    assert methods.locator("tbody tr").count() == 3
    assert methods.locator("tr.av-chosen").count() == 1
