"""The ranking of sensors and features: what reaches the page, and what the page does with it."""

import base64
import dataclasses
import zlib

import numpy as np
import pytest

from attnviz.errors import BadInput
from attnviz.plugins.renderers import ranked_features
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
    assert page.locator(".av-ranked-null").count() == 3
    rows.nth(1).click()
    assert page.locator('.av-ranked-row[aria-pressed="true"] .av-ranked-name').all_text_contents() == ["oxygen"]
    assert "occlusion 2.0000" in page.locator(".av-readout").text_content()
    page.locator("select").nth(1).select_option(label="attention, mean over layers and heads")
    page.locator(".av-ranked-map").hover()
    assert "→" in page.locator(".av-readout").text_content()
