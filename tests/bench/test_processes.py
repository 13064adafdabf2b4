"""The same command in two processes gives the same tables."""

import pytest

from attnviz.bench.processes import Crew, crew
from attnviz.errors import BadInput
from tests.bench.files import results, without_times

ASKED = ("--models", "good,broken,strict", "--methods", "ramp_method,refuses_method,steep_method", "--limit", "5")


def test_two_processes_give_the_tables_of_one(world, start):
    one, two = world.folder / "one", world.folder / "two"
    assert world.run(*ASKED, "--out", one)[0] == 0
    assert world.loads() == ["good", "broken", "strict"]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "attnviz")
    process = start(*ASKED, "--out", two, launcher=launcher)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out == ""
    assert sorted(world.loads()[3:]) == sorted(["good", "broken", "strict"] * 2), "both processes had work"
    assert without_times(two) == without_times(one)
    assert results(two) == results(one)
    assert '"processes": 2' in (two / "system_info.json").read_text()
    assert err.count("45 of 45 done") == 1


def test_alone_everything_is_mine():
    alone = Crew()
    assert alone.leads
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.gathered([1]) == [1]
    assert alone.told_by_first("x") == "x"


def test_a_number_of_processes_that_is_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(BadInput, match="expected a number of processes"):
        crew()


def test_processes_that_do_not_meet_are_refused(monkeypatch):
    class Lonely:
        num_processes, process_index = 1, 0

        def __init__(self, **options):
            pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState", Lonely)
    with pytest.raises(BadInput, match="2 processes were started, but accelerate joined 1"):
        crew()
