"""Summaries of attention as files: what is written is read back; what is none is refused in one line."""

import dataclasses
import json

import numpy as np
import pytest

from attnviz.errors import BadInput
from attnviz.plugins.formats import attention_summary
from attnviz.testing import check_format, sample_finding

(FORMAT,) = attention_summary.attnviz_formats()
FINDING = sample_finding("attention_summary")


def test_what_is_written_is_read_back(tmp_path):
    check_format(FORMAT, FINDING, tmp_path)
    found = attention_summary.read(tmp_path / "content.json")
    assert (found.model, found.provenance) == (FINDING.model, FINDING.provenance)
    assert found.tokens.labels == FINDING.result.features
    for field in dataclasses.fields(found.result):
        if field.name != "weights":
            before, after = getattr(FINDING.result, field.name), getattr(found.result, field.name)
            np.testing.assert_equal(after, before)


def test_the_file_names_what_was_attended_and_the_limits_of_use(tmp_path):
    attention_summary.write(FINDING, tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert [each["importance"] for each in data["top_attended_features"]] == [0.5, 0.25, 0.125, 0.0625, 0.0625, 0, 0]
    assert data["feature_importance"][3] is None
    assert data["head_importance"]["2"] == [0.25, 0.25, None]
    assert data["notice"].startswith("For interpretation by people")
    assert attention_summary.handles(tmp_path / "a.json") is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("version", "9", r"version: expected '1.0', got '9'"),
        ("feature_importance", [1, 2], r"importance: expected shape \[8\], got \[2\]"),
        ("received", [[1]], "rows of 8 numbers, one for each feature"),
        ("feature_importance", "x", "expected a list"),
        ("attending", [1e300] * 8, "numbers that float32 holds"),
        ("head_importance", {}, "the field '0'"),
        ("head_importance", {"0": [1], "1": [1, 2], "2": [1]}, "as many numbers for every layer"),
        ("layers", None, "the field 'layers'|expected a list"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, name, value, words):
    attention_summary.write(FINDING, tmp_path / "a.json")
    data = json.loads((tmp_path / "a.json").read_text("utf-8"))
    (tmp_path / "a.json").write_text(json.dumps({**data, name: value}), "utf-8")
    with pytest.raises(BadInput, match=words):
        attention_summary.read(tmp_path / "a.json")


def test_other_results_and_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="got a result of kind 'table'"):
        attention_summary.write(sample_finding("table"), tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{}", "utf-8")
    assert "no fields" in attention_summary.handles(tmp_path / "b.json")
