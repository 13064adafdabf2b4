"""An analysis that asks another one about its run."""

from __future__ import annotations

import dataclasses

import pytest

from attnviz.hooks import Analysis, BadInput, Param, PluginError, Table, Unavailable, UnknownName
from attnviz.registry import Registry, load_registry
from attnviz.session import Session
from attnviz.testing import FakeModel, fake_backend

TIMES = (Param("times", "int", 1),)


class Asked:
    """Counts how often it is run."""

    def __init__(self):
        self.count = 0

    def __call__(self, request):
        self.count += 1
        return Table(columns=("times", "layers"), rows=((request.params["times"], len(request.trace.layers)),))


def asks(name, **params):
    def run(request):
        found = request.analyze(name, **params)
        return Table(columns=("asked", *found.columns), rows=tuple((name, *row) for row in found.rows))

    return run


def analysis(name, run, *, requires=(), gpu=True, params=()):
    return Analysis(name, name, "G", "", run, Table, frozenset(requires), params, gpu=gpu)


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def run(asked):
    analyses = [
        analysis("asked", asked, requires=("attention",), params=TIMES, gpu=False),
        analysis("asks", asks("asked", times="3")),
        analysis("asks_wrongly", asks("asked", time=3)),
        analysis("asks_itself", asks("asks_itself")),
        analysis("asks_back", asks("asks_forth")),
        analysis("asks_forth", asks("asks_back")),
        analysis("asks_nobody", asks("nobody")),
        analysis("asks_too_much", asks("sensors_only")),
        analysis("sensors_only", asks("asked"), requires=("sensors",)),
        analysis("not_on_the_device", asks("asked"), gpu=False),
    ]
    backend = fake_backend()
    registry = Registry({backend.name: backend}, {a.name: a for a in analyses}, {}, {}, {}, {})
    return Session(registry).load("fake").trace("one two")


def test_the_other_is_answered_over_the_same_run_with_checked_parameters(run, asked):
    found = run.analyze("asks")
    assert found.result.rows == (("asked", 3, 3),)
    assert asked.count == 1


def test_a_result_that_is_there_is_not_computed_again(run, asked):
    run.analyze("asked", times=3)
    assert run.analyze("asks").result.rows == (("asked", 3, 3),)
    assert asked.count == 1


def test_maps_that_were_captured_for_the_other_are_kept(run, monkeypatch):
    counted = []
    trace = FakeModel.trace
    monkeypatch.setattr(FakeModel, "trace", lambda *given: (counted.append(1), trace(*given))[1])
    run.analyze("asks")
    run.analyze("asked")
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("asks_wrongly", UnknownName, "Unknown parameter of asked 'time'. .*Known: times"),
        ("asks_nobody", UnknownName, "Unknown analysis 'nobody'. .*Known: asked, "),
        ("asks_itself", BadInput, "asks_itself cannot answer itself: asks_itself asks asks_itself"),
        ("asks_back", BadInput, "asks_back cannot answer itself: asks_back asks asks_forth asks asks_back"),
        ("asks_too_much", Unavailable, "sensors_only is not available for fake. Needs sensors: "),
        ("not_on_the_device", PluginError, "not_on_the_device asks others, so it has to say gpu=True"),
    ],
)
def test_what_cannot_be_asked_is_said(run, name, error, words):
    with pytest.raises(error, match=words) as refused:
        run.analyze(name)
    assert "\n" not in str(refused.value)
    assert run.analyze("asks").result.rows


def test_faithfulness_of_itself_is_refused():
    backend = fake_backend()
    registry = load_registry()
    session = Session(dataclasses.replace(registry, backends={backend.name: backend}))
    run = session.load("fake").generate("one two one two", max_new_tokens=2)
    with pytest.raises(BadInput, match="faithfulness cannot answer itself"):
        run.analyze("faithfulness", method="faithfulness")
    found = run.analyze("faithfulness", method="attention")
    assert found.result.method == "attention"
