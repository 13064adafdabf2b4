"""What an agent did, as data: what is refused, and that it survives JSON and pickling."""

import json
import pickle

import pytest

from attnviz.errors import BadInput
from attnviz.types import AgentStep, ModelCall, Trajectory, to_jsonable

STEPS = (
    AgentStep("thought", "Hm.", 5, 8, 0, seconds=0.25),
    AgentStep("action", "add[1]", 8, 12, 0, "add", {"text": "1", "inner": {"list": [1, 2]}}),
    AgentStep("observation", "error: é", 12, 15, 0, "add", failed=True, note="cut to 7 of 9 characters"),
    AgentStep("answer", "1", 15, 18, 1),
)
CALLS = (ModelCall(5, 12, 0.5, "stop text"), ModelCall(15, 18, 0.25, "end token"))


def trajectory(**changes):
    given = {
        "question": "?", "steps": STEPS, "calls": CALLS, "tools": ("add",), "format": "text", "max_steps": 10,
        "ended": "answer", "seconds": 1.5,
    }  # fmt: skip
    return Trajectory(**{**given, **changes})


def test_it_knows_its_answer_and_what_was_written():
    assert trajectory().answer == "1"
    assert trajectory().tokens_written == 7 + 3
    assert trajectory(steps=STEPS[:3], ended="steps").answer == ""


def test_it_survives_json_and_pickling():
    one = trajectory()
    data = json.loads(json.dumps(to_jsonable(one)))
    assert Trajectory.from_jsonable(data) == one
    assert pickle.loads(pickle.dumps(one)) == one


def test_arguments_cannot_be_changed():
    with pytest.raises(TypeError):
        STEPS[1].arguments["text"] = "2"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AgentStep("dream", "", 0, 1, 0), "Unknown kind of step 'dream'"),
        (lambda: AgentStep("thought", "", 3, 1, 0), "span of tokens"),
        (lambda: ModelCall(3, 1), "span of tokens"),
        (lambda: trajectory(ended="bored"), "Unknown end of an agent 'bored'"),
        (lambda: trajectory(steps=STEPS[::-1]), "one after another"),
        (lambda: trajectory(calls=CALLS[:1]), "a step of call 1, but there are 1 calls"),
    ],
)
def test_what_does_not_fit_together_is_refused(make, words):
    with pytest.raises(BadInput, match=words):
        make()


def changed(path, value):
    data = json.loads(json.dumps(to_jsonable(trajectory())))
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["ended"], None, "missing fields ended"),
        (["more"], 1, "Unknown field of Trajectory 'more'"),
        (["steps"], "none", "expected a list"),
        (["steps", 0], 7, "expected an object"),
        (["steps", 0, "start"], "5", "AgentStep.start: expected int"),
        (["steps", 0, "start"], True, "AgentStep.start: expected int"),
        (["steps", 1, "arguments"], [1], "expected Mapping"),
        (["calls", 0, "seconds"], "long", "ModelCall.seconds"),
        (["max_steps"], 1.5, "expected int"),
    ],
)
def test_a_file_that_does_not_hold_one_is_refused_in_one_line(path, value, words):
    with pytest.raises(BadInput, match=words) as caught:
        Trajectory.from_jsonable(changed(path, value))
    assert "\n" not in str(caught.value)
