"""Conversations and agents as wishes: what is made of them, what an address says, and what the Python code gives."""

import dataclasses
import json
from pathlib import Path

import pytest

from attnviz.errors import AttnvizError, BadInput
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.ui.background import Job
from attnviz.ui.going_on import Made, go_on, next_wish
from attnviz.ui.python_code import reproduce
from attnviz.ui.wish import Acting, Wish, address_of, asked, make_run, may_act, wish_of_address

PLUGINS = Path(__file__).parent / "plugins"
FRANCE, SPIDER, ANT = "What is the capital of France?", "How many legs does a spider have?", "And an ant?"


@pytest.fixture(scope="module")
def session():
    return Session(load_registry(folder=PLUGINS, entry_points=False))


def wish(prompt=FRANCE, **chosen):
    return dataclasses.replace(Wish("demo", "", prompt, True, 8, 0.0, None, "auto", "auto", ""), **chosen)


def conversation(session, *wishes):
    """The run of these wishes, each but the first said after the one before, and the wish that all of it is."""
    made, whole = Made(), wishes[0]
    run = make_run(session, whole, Job())
    for one in wishes[1:]:
        made.keep(run, whole)
        whole = next_wish(session, run.id, one, made.find(run.id))
        run = go_on(session, run.id, whole, Job())
    made.keep(run, whole)
    return run, made.find(run.id)


@pytest.mark.parametrize(
    "chosen", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8}, {"format": "text", "length": 3}]
)
def test_the_address_of_a_conversation_makes_it_again(session, chosen):
    run, whole = conversation(session, *(wish(text, **chosen) for text in (FRANCE, SPIDER, ANT)))
    again = wish_of_address(address_of(whole, run), session)
    assert (again, whole.then) == (whole, (SPIDER, ANT))
    assert make_run(session, again, Job()).tokens.ids.tolist() == run.tokens.ids.tolist()


@pytest.mark.parametrize(
    ("first", "then"), [({}, {"length": 5}), ({}, {"temperature": 1.0, "seed": 1}), ({"stop": (" of",)}, {})]
)
def test_a_conversation_whose_settings_changed_says_that_its_address_cannot_make_it_again(session, first, then):
    run, whole = conversation(session, wish(**first), wish(SPIDER, **then), wish(ANT, **then))
    address = address_of(whole, run)
    assert address == {"model": "demo", "turns": "3"}
    with pytest.raises(BadInput, match="conversation of 3 turns that an address cannot make again"):
        wish_of_address(address, session)


def test_a_conversation_that_is_not_known_here_still_goes_on(session):
    run = session.load("demo").generate(messages=[{"role": "user", "content": FRANCE}], max_new_tokens=8)
    whole = next_wish(session, run.id, wish(SPIDER), None)
    assert (whole.prompt, whole.then, whole.alike) == (FRANCE, (SPIDER,), False)
    assert go_on(session, run.id, whole, Job()).tokens.ids[: len(run.tokens)].tolist() == run.tokens.ids.tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"agent": Acting(("calculator",))}, "anew"),
        ({"answer": False}, "tick Generate an answer"),
        ({"model": "fake"}, "with demo"),
    ],
)
def test_what_a_conversation_cannot_go_on_with_is_refused(session, given, expected):
    run = make_run(session, wish(), Job())
    with pytest.raises(BadInput, match=expected):
        next_wish(session, run.id, wish(SPIDER, **given), None)


def test_there_has_to_be_an_answer_to_go_on_from(session):
    with pytest.raises(BadInput, match="nothing to go on from"):
        next_wish(session, "", wish(), None)
    with pytest.raises(BadInput, match="no answer to go on from"):
        next_wish(session, make_run(session, wish(answer=False), Job()).id, wish(), None)


def agent(prompt="What is 25 * 37?", **chosen):
    return wish(prompt, agent=Acting(("calculator", "lookup"), 4), length=100, **chosen)


@pytest.mark.parametrize("chosen", [{}, {"temperature": 0.1, "seed": 2}])
def test_the_address_of_an_agent_asks_it_again(session, chosen):
    run = make_run(session, agent(**chosen), Job())
    assert run.run.trajectory.answer == "25 * 37 = 925"
    again = wish_of_address(address_of(agent(**chosen), run), session)
    assert again == agent(**chosen)
    assert make_run(session, again, Job()).tokens.ids.tolist() == run.tokens.ids.tolist()


@pytest.mark.parametrize(
    "wishes", [[agent()], [wish(), wish(SPIDER)], [wish("The cat", format="text"), wish("a dog")], [agent(), wish()]]
)
def test_the_python_code_makes_the_very_run(session, monkeypatch, capsys, wishes):
    run, _ = conversation(session, *wishes)
    finding = session.analyze(run, "attention_stats", {})
    monkeypatch.setattr("attnviz.load", session.load)
    exec(compile(reproduce(run, session.registry, "attention_stats", finding.params), "code", "exec"), {})
    assert json.loads(capsys.readouterr().out)["provenance"] == finding.provenance


def test_a_link_lets_only_tools_of_attnviz_act(session):
    registry = session.registry
    assert may_act(Acting(("calculator", "python")), registry, set())
    assert not may_act(Acting(("calculator", "echo")), registry, set())
    assert may_act(Acting(("echo",)), registry, {"echo"})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ({"agent": "many"}, "agent"),
        ({"agent": "3", "tools": "calculater"}, "calculator"),
        ({"then": "x"}, "expected a list"),
        ({"then": '["", "a"]'}, "expected a list"),
        ({"then": "[1]"}, "expected a list"),
    ],
)
def test_an_address_that_cannot_be_followed_is_refused(session, url, expected):
    with pytest.raises(AttnvizError, match=expected):
        wish_of_address(url, session)


@pytest.mark.parametrize(
    ("tools", "most", "expected"),
    [
        ([], 10, "at least one"),
        (None, 10, "at least one"),
        (["calculator"], None, "Most turns"),
        (["echo"], 0.5, "got"),
    ],
)
def test_an_agent_needs_tools_and_turns(tools, most, expected):
    given = ("demo", "", "ab", True, 3, 0.0, "", "auto", "auto", "", "auto", "", 1.0, 1.0)
    with pytest.raises(BadInput, match=expected):
        asked(*given, True, tools, most, 256)
    assert asked(*given, False, tools, most, 256).agent is None


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({"stop": ("x",)}, "Stop texts"), ({"format": "text"}, "as a message"), ({"model": "fake"}, "fake")],
)
def test_what_an_agent_cannot_use_is_told_in_one_line(session, chosen, expected):
    with pytest.raises(AttnvizError, match=expected) as refused:
        make_run(session, agent(**chosen), Job())
    assert "\n" not in str(refused.value)


def test_a_conversation_with_an_answer_that_was_cancelled_is_not_in_its_address(session):
    before, first = conversation(session, wish())
    whole, job = next_wish(session, before.id, wish(SPIDER), first), Job()
    job.cancelled.set()
    run = go_on(session, before.id, whole, job)
    assert (run.run.ended, run.tokens.ids[: len(before.tokens)].tolist()) == ("cancelled", before.tokens.ids.tolist())
    assert address_of(whole, run) == {"model": "demo", "turns": "2"}


def test_on_a_public_server_the_reason_stands_where_a_tool_is_not_offered(session, monkeypatch):
    from attnviz.ui.agent_box import not_offered, usual_tools

    entry = session.registry.models["demo"]
    assert not_offered(session.registry) == ""
    assert "python" in usual_tools(session.registry, entry)
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    assert "The tool python is not offered on a public server" in not_offered(session.registry)
    assert set(usual_tools(session.registry, entry)) == set(entry.tools) - {"python"}
