"""A benchmark that is killed or interrupted goes on and ends with the tables of one that was not."""

import signal
import time

import pytest

from tests.bench.files import prompts_file, results, rows, without_times

ASKED = ("--models", "good", "--methods", "slow_method,ramp_method", "--max-new-tokens", "2")


def cells(folder):
    return sorted(folder.rglob("cells/*.json"))


def stopped_in_the_middle(process, out, with_signal):
    """What it said, and how it ended, when it got the signal with some but not all cells done."""
    end = time.monotonic() + 120
    while len(cells(out)) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(with_signal)
    return process.communicate(timeout=60)[1], process.returncode


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_with_the_same_tables(world, start, with_signal):
    out, whole, prompts = world.folder / "b", world.folder / "whole", prompts_file(world.folder / "p.csv", 10)
    asked = (*ASKED, "--prompts", prompts)
    err, code = stopped_in_the_middle(start(*asked, "--out", out), out, with_signal)
    before = {path: path.read_bytes() for path in cells(out)}
    assert 3 <= len(before) < 20
    if with_signal is signal.SIGINT:
        assert code == 130
        assert len(err.strip().splitlines()) == 1
        assert "the same command goes on with the rest" in err
    else:
        assert code == -signal.SIGKILL
    assert not (out / "summary.txt").exists()
    assert world.run("--out", out, "--report")[0] == 0
    assert len(rows(out, "prompt_timing_results.csv")) == len(before)

    assert world.run(*asked, "--out", out)[0] == 0
    assert {path: path.read_bytes() for path in before} == before, "what was done is done"
    assert world.run(*asked, "--out", whole)[0] == 0
    assert without_times(out) == without_times(whole)
    assert results(out) == results(whole)
    assert not list(out.rglob(".*"))
