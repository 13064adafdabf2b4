"""attnviz's own files of attributions come back as what they were; anything else is refused in one line."""

import copy
import json

import numpy as np
import pytest

from attnviz.hooks import BadInput, Finding
from attnviz.plugins.formats import result_json
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.testing import sample_finding


@pytest.fixture(scope="module")
def session():
    return Session(load_registry(safe=True))


@pytest.fixture
def saved(session, tmp_path):
    return session.save(sample_finding("attribution"), tmp_path / "a.json")


def test_what_was_saved_comes_back(session, saved):
    sample, found = sample_finding("attribution"), session.read_attribution(saved)
    assert found.to_json() == saved.read_text()
    assert found.tokens.segments == sample.tokens.segments
    np.testing.assert_array_equal(found.tokens.offsets, sample.tokens.offsets)
    for name in ("scores", "normalized", "target_values", "delta"):
        np.testing.assert_array_equal(getattr(found.result, name), getattr(sample.result, name).astype(np.float32))


def test_missing_scores_come_back(session, saved):
    data = json.loads(saved.read_text())
    data["result"]["scores"][0][0] = None
    saved.write_text(json.dumps(data))
    assert np.isnan(session.read_attribution(saved).result.scores[0, 0])


def test_source_and_target_of_two_stacks(saved):
    data = json.loads(saved.read_text())
    for number, token in enumerate(data["tokens"]):
        token["role"] = "source" if number < 5 else "target"
    saved.write_text(json.dumps(data))
    assert result_json.read(saved).tokens.decoder_from == 5


def test_other_results_are_refused(session, tmp_path):
    path = session.save(sample_finding("table"), tmp_path / "t.json")
    with pytest.raises(BadInput, match="attnviz: a result of kind 'table'"):
        session.read_attribution(path)
    with pytest.raises(BadInput, match="kind: expected 'attribution', got 'table'"):
        session.read_attribution(path, format="attnviz")


def places(value, way=()):
    """The way to every value inside a JSON value; of a list to the first and the last."""
    if way:
        yield way
    chosen = value.items() if isinstance(value, dict) else []
    if isinstance(value, list) and value:
        chosen = {0: value[0], len(value) - 1: value[-1]}.items()
    for key, item in chosen:
        yield from places(item, (*way, key))


CHANGES = ("delete", None, [[]], "\ud800", -1, 10**30, True, float("nan"))


def test_whatever_a_field_holds_the_answer_is_a_finding_or_one_line(session, saved):
    data, answers = json.loads(saved.read_text()), []
    for way in places(data):
        for change in CHANGES:
            new = copy.deepcopy(data)
            inner = new
            for key in way[:-1]:
                inner = inner[key]
            if change == "delete":
                del inner[way[-1]]
            else:
                inner[way[-1]] = change
            saved.write_text(json.dumps(new))
            try:
                answers.append(result_json.read(saved))
            except BadInput as error:
                answers.append(str(error))
    assert all(isinstance(said, Finding) or (said.startswith("a.json") and "\n" not in said) for said in answers)
    assert min(sum(isinstance(said, kind) for said in answers) for kind in (Finding, str)) > 100
    for found in answers:
        if isinstance(found, Finding):
            session.render(found, "json")
