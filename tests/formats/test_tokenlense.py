"""Files by TokenLense's schema, with its own writer's habits, are read as what they say; ours are by that schema."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from attnviz.hooks import Attribution, BadInput, Finding
from attnviz.plugins.formats import tokenlense
from attnviz.testing import check_format, sample_finding


def token(text, number):
    return {"token": text, "token_id": number, "clean_token": text.lstrip("Ġ").strip()}


def by_hand():
    """Two inputs, three outputs, as its own gradient method writes them: zeros where a token comes too late."""
    return {
        "metadata": {
            "timestamp": "2025-03-01T10:00:00.123456",
            "llm_id": "meta-llama/Llama-3.2-1B",
            "llm_version": "Llama-3.2-1B",
            "prompt": "The text that was generated",
            "generation_params": {"max_new_tokens": 1024},
            "version": "1.1.0",
            "attribution_method": "gradient",
        },
        "data": {
            "input_tokens": [token("The", 791), token("Ġcat", 8415)],
            "output_tokens": [token("Ġsat", 7731), token("ä¼", 19526), token("Ċ", 198)],
            "association_matrix": [[1, 3, 0, 0], [0.5, 0.25, 0.25, 0], [2, 0, 4, 2]],
            "normalized_association": [[0.33, 1, -0.41, -0.41], [0, 0, 0, -0.41], [1, -0.09, 1, 0.5]],
            "attribution_source": "unknown",
            "raw_dimensions": [3, 4],
        },
    }


def read(data, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(data))
    return tokenlense.read(tmp_path / "a.json")


def test_the_schema_by_hand(tmp_path):
    found = read(by_hand(), tmp_path)
    assert found.tokens.labels == ("The", " cat", " sat", "‹E4 BC›", "\n")
    assert found.tokens.ids.tolist() == [791, 8415, 7731, 19526, 198]
    assert found.generated_from == 2
    assert [t.index for t in found.result.targets] == [2, 3, 4]
    assert [s.index for s in found.result.sources] == [0, 1, 2, 3]
    assert found.result.scores.tolist() == [[1, 3, 0, 0], [0.5, 0.25, 0.25, 0], [2, 0, 4, 2]]
    assert (found.model, found.result.method) == ("meta-llama/Llama-3.2-1B", "gradient")
    assert not found.result.signed


def test_normalised_values_are_computed_anew(tmp_path):
    found = read(by_hand(), tmp_path).result
    assert found.normalized.tolist() == [[0.25, 0.75, 0, 0], [0.5, 0.25, 0.25, 0], [0.25, 0, 0.5, 0.25]]


@pytest.mark.parametrize("width", [2, 4, 5])
@pytest.mark.parametrize("version", [None, "1.0.0", "1.1.0"])
def test_every_width_and_version(width, version, tmp_path):
    data = by_hand()
    rows = data["data"]["association_matrix"]
    data["data"]["association_matrix"] = [[*row, 0][:width] for row in rows]
    data["data"]["normalized_association"] = None
    data["data"]["raw_dimensions"] = None
    if version is None:
        del data["metadata"]["version"], data["metadata"]["attribution_method"]
    else:
        data["metadata"]["version"] = version
    found = read(data, tmp_path).result
    assert found.scores.tolist() == [row[: min(width, 4)] for row in rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"association_matrix": [[1, 3]] * 5}, "the axes are exchanged"),
        ({"association_matrix": [[1, 3]] * 2}, "expected 3 rows, one for each output token, got 2."),
        ({"association_matrix": [[1, 3, 0]] * 3}, "2, 4, 5 for 2 inputs and 3 outputs; got 3"),
        ({"association_matrix": [[1, 3], [1], [1]]}, "association_matrix 1: expected as many numbers in every row"),
        ({"association_matrix": [[1, 3, 9, 0]] * 3}, "The axes may be exchanged"),
        ({"association_matrix": [[1, 3, 0, 0, 9]] * 3}, "column of the last output"),
        ({"association_matrix": [[1, float("nan")]] * 3}, "expected a finite number, got nan"),
        ({"association_matrix": [[1, float("inf")]] * 3}, "expected a finite number, got inf"),
        ({"association_matrix": [[1, 1e39]] * 3}, "scores that float32 holds, got 1e+39 in row 0, column 1"),
        ({"association_matrix": [[1, 10**400]] * 3}, "float32 holds"),
        ({"association_matrix": [[1, "2"]] * 3}, "expected a number, got text"),
        ({"association_matrix": []}, "got 0"),
        ({"output_tokens": [], "association_matrix": []}, "at least one target and one source"),
        ({"input_tokens": [], "association_matrix": [[]] * 3}, "at least one target and one source"),
        ({"input_tokens": [{"token": 3, "token_id": 1}] * 2}, "input_tokens 0, token: expected text, got a number"),
        ({"input_tokens": [{"token": "a", "token_id": -2}] * 2}, "whole number from -1"),
        ({"input_tokens": [{"token": "a"}] * 2}, "expected the field 'token_id'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message, tmp_path):
    data = by_hand()
    data["data"].update(change)
    with pytest.raises(BadInput) as refusal:
        read(data, tmp_path)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_other_versions_are_refused(tmp_path):
    data = by_hand()
    data["metadata"]["version"] = "2.0.0"
    with pytest.raises(BadInput, match=r"version: expected 1.0.0 to 1.1.0, got '2.0.0'"):
        read(data, tmp_path)


def test_whatever_a_field_holds_the_answer_is_a_finding_or_one_line(tmp_path):
    changes = ("delete", None, {}, [], "x", "\ud800", -1, 1.5, 10**30, True, float("nan"), [[]])
    answers = []
    for part, fields in by_hand().items():
        for name in fields:
            for change in changes:
                data = copy.deepcopy(by_hand())
                if change == "delete":
                    del data[part][name]
                else:
                    data[part][name] = change
                try:
                    answers.append(read(data, tmp_path))
                except BadInput as error:
                    answers.append(str(error))
    assert all(isinstance(said, Finding) or (said.startswith("a.json") and "\n" not in said) for said in answers)
    assert min(sum(isinstance(said, kind) for said in answers) for kind in (Finding, str)) > 20


# --------------------------------------------------------------------------------------------- what we write


def test_what_is_written_is_the_schema(tmp_path):
    tokenlense.write(sample_finding("attribution"), tmp_path / "a.tokenlense.json")
    data = json.loads((tmp_path / "a.tokenlense.json").read_text())
    assert data.keys() == by_hand().keys()
    assert data["metadata"].keys() == by_hand()["metadata"].keys()
    assert data["data"].keys() == by_hand()["data"].keys()
    assert data["metadata"]["version"] == "1.1.0"
    assert (len(data["data"]["input_tokens"]), len(data["data"]["output_tokens"])) == (6, 2)
    assert data["data"]["output_tokens"][1] == {"token": ",;=1+1", "token_id": 107, "clean_token": ",;=1+1"}
    assert data["data"]["association_matrix"] == [
        [0.5, -0.25, 1.5, 0, -1, 0.75, 0],
        [-0.125, 0.5, 0, 2, -0.5, 0.375, 0.5],
    ]
    assert data["data"]["raw_dimensions"] == [2, 7]


def test_ours_come_back_bit_for_bit(tmp_path):
    sample = sample_finding("attribution")
    scores = np.zeros((2, 8), np.float32)
    scores[0, :6] = (1e-45, -3.4028235e38, 0.1, 1 / 3, 16777217, np.nextafter(np.float32(1), np.float32(2)))
    scores[1, :7] = np.random.default_rng(0).normal(size=7)
    sample = dataclasses.replace(sample, result=dataclasses.replace(sample.result, scores=scores))
    tokenlense.write(sample, tmp_path / "a.tokenlense.json")
    again = tokenlense.read(tmp_path / "a.tokenlense.json")
    assert isinstance(again.result, Attribution)
    assert again.result.scores.tobytes() == scores[:, :7].tobytes()
    assert again.result.targets == sample.result.targets
    assert again.result.sources == sample.result.sources[:7]
    assert (again.model, again.result.method) == (sample.model, "sample")


def test_missing_scores_cannot_be_written(tmp_path):
    sample = sample_finding("attribution")
    scores = sample.result.scores.copy()
    scores[0, 0] = np.nan
    sample = dataclasses.replace(sample, result=dataclasses.replace(sample.result, scores=scores))
    with pytest.raises(BadInput, match="cannot hold missing scores"):
        tokenlense.write(sample, tmp_path / "a.tokenlense.json")
    assert not list(tmp_path.iterdir())


def test_the_contract(tmp_path):
    check_format(tokenlense.attnviz_formats()[0], sample_finding("attribution"), tmp_path)
