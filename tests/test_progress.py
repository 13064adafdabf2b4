"""How far work is: shares that never go back and end at 1, the time left, and an end when the asker wants it."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import threading

import pytest

import attnviz.session as session_module
from attnviz.__main__ import main
from attnviz.hooks import Analysis, Attribution, Table
from attnviz.progress import Line, Pace, Steps
from attnviz.registry import Registry, load_registry
from attnviz.session import Session
from attnviz.testing import fake_backend
from attnviz.ui.background import Cancelled, Job, watched
from tests.backends.conftest import byte_level_tokenizer
from tests.backends.families import random_module

TEXT = "abcabcab"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


class EnoughError(Exception):
    """What an asker raises."""


@pytest.fixture
def run():
    return on_fake(load_registry(safe=True).analyses)


def on_fake(analyses):
    """A run of a model of rules in a session that knows these analyses."""
    registry = Registry({"fake": fake_backend()}, dict(analyses), {}, {}, {}, {})
    return Session(registry).load("fake").trace(TEXT)


# --------------------------------------------------------------------------------------------- shares and words


def test_a_share_never_goes_back_and_never_goes_beyond():
    said = []
    steps = Steps(lambda share, what: said.append((share, what)))
    for share in (0.0, 0.5, 0.2, 0.6, 7.0):
        steps(share, "x")
    assert [share for share, _ in said] == [0.0, 0.5, 0.5, 0.6, 1.0]


def test_what_the_asker_raises_is_raised_at_every_word():
    def enough(share, what):
        raise EnoughError("once")

    steps = Steps(enough)
    for _ in range(2):
        with pytest.raises(EnoughError, match="once"):
            steps(0.5, "x")


def test_time_left_by_hand():
    """A quarter of the work took 4 s after 10 s of loading: 12 s are left, 9 s of them 3 s later."""
    clock = Clock()
    pace = Pace(clock)
    assert pace.put("loading") == "loading"
    clock.now = 10.0
    pace.said(0.0)
    clock.now = 14.0
    pace.said(0.25)
    assert pace.put("step 2 of 4") == "step 2 of 4, about 12 s left"
    clock.now = 17.0
    assert pace.put("step 2 of 4") == "step 2 of 4, about 9 s left"
    clock.now = 25.5
    assert pace.put("step 2 of 4") == "step 2 of 4"  # less than a second, or longer than it should
    pace.said(0.1)
    assert pace.put("a long way") == "a long way, about 2 min left"
    pace.said(0.0)
    assert pace.put("again") == "again"


def test_a_line_on_a_terminal_is_written_over_and_goes_away(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    clock, terminal = Clock(), Terminal()
    with Line(terminal, clock) as line:
        line(0.0, "step 1 of 4")
        clock.now = 0.05
        line(0.25, "too soon")
        clock.now = 10.0
        line(0.5, "hostile \x1b[2J\n" + "long " * 20)
    first, second, last = terminal.getvalue().split("\x1b[K")[:3]
    assert first == "\rattnviz: step 1 of 4"
    assert second == "\r" + "attnviz: hostile  [2J long long long long"[:39]
    assert last == "\r"
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_nothing_is_written_where_there_is_no_terminal():
    stream = io.StringIO()
    with Line(stream) as line:
        line(0.0, "step 1 of 4")
    assert stream.getvalue() == ""


# --------------------------------------------------------------------------------------------- in Python


ANALYSES = load_registry(safe=True).analyses
LONG = [
    *("integrated_gradients", "occlusion", "shapley", "smooth_grad", "gradient_shap", "saliency", "cp_lrp"),
    *("gradient_x_attention", "layer_gradient_x_activation", "faithfulness"),
]


@pytest.mark.parametrize("name", [name for name, found in ANALYSES.items() if "sensors" not in found.requires])
def test_progress_is_monotone_and_complete_and_changes_nothing(run, name):
    said = []
    found = run.analyze(name, on_progress=lambda share, what: said.append((share, what)))
    shares = [share for share, _ in said]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert all(isinstance(what, str) and what for _, what in said)
    silent = on_fake(ANALYSES).analyze(name)
    assert silent.provenance == found.provenance
    again = []
    assert run.analyze(name, on_progress=lambda share, what: again.append((share, what))).cached
    assert again == [(1.0, "Found in memory")]


@pytest.mark.parametrize("name", LONG)
def test_an_asker_ends_the_work_by_raising(run, name):
    """Right away, in the middle, or at the end; what went before stays, and the next request is answered."""
    before = run.analyze("attention_stats")

    def until(last):
        said = []

        def tell(share, what):
            said.append(share)
            if share >= last:
                raise EnoughError(what)

        with pytest.raises(EnoughError):
            run.analyze(name, on_progress=tell)
        return said

    assert len(until(0.0)) == 1
    middle = until(0.3)
    assert all(share < 0.3 for share in middle[:-1])
    assert middle[-1] >= 0.3
    assert run.model.session.failures == []
    assert run.analyze("attention_stats").result is before.result
    assert isinstance(run.analyze(name).result, ANALYSES[name].produces)
    assert not session_module._LISTENING


def test_nothing_stays_behind_on_a_module():
    """Of a real one: hooks, modes and numbers are as before, whenever the work ends."""
    import torch

    pair = (random_module("llama", vocabulary=320), byte_level_tokenizer())
    run = Session(load_registry(safe=True)).load(pair).trace("the cat sat on the mat")
    module = run.model.session.model(run.model.spec).module()
    expected = run.analyze("saliency").result.scores.tobytes()
    hooks = [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()]
    for name in ("integrated_gradients", "gradient_x_attention", "cp_lrp", "occlusion"):
        for count in (0, 1, 2):
            left = iter(range(count))

            def tell(share, what, left=left):
                if next(left, None) is None:
                    raise EnoughError

            with pytest.raises(EnoughError):
                run.analyze(name, first=1, last=5, on_progress=tell)
    assert [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in module.modules()] == hooks
    assert torch.is_grad_enabled()
    assert not torch.overrides._get_current_function_mode_stack()
    assert run.model.trace("the cat sat on the mat").analyze("saliency").result.scores.tobytes() == expected


def with_analysis(function, gpu, *names):
    names = names or ("own",)
    return on_fake({name: Analysis(name, name, "Test", "x", function, produces=Table, gpu=gpu) for name in names})


@pytest.mark.parametrize("gpu", [False, True])
def test_an_analysis_cannot_keep_going_by_catching_what_was_raised(gpu):
    def swallows(request):
        for step in range(5):
            try:
                request.progress(step / 5, f"step {step}")
            except Exception:
                continue
        return Table(columns=("x",), rows=(), info=("x",))

    run = with_analysis(swallows, gpu)

    def tell(share, what):
        if what.startswith("step"):
            raise EnoughError

    with pytest.raises(EnoughError):
        run.analyze("own", on_progress=tell)
    assert run.model.session.failures == []
    assert run.analyze("own").result.columns == ("x",)


def test_an_analysis_that_is_asked_by_another_speaks_under_its_title(run):
    said = []
    run.analyze("faithfulness", method="saliency", on_progress=lambda share, what: said.append((share, what)))
    assert (0.0, "Saliency: target 1 of 1") in said
    assert [share for share, _ in said] == sorted(share for share, _ in said)

    def enough(share, what):
        if what.startswith("Occlusion:"):
            raise EnoughError

    with pytest.raises(EnoughError):
        run.analyze("faithfulness", method="occlusion", on_progress=enough)
    assert run.model.session.failures == []


@pytest.mark.parametrize("gpu", [False, True])
def test_an_error_of_the_analysis_is_still_its_own(gpu):
    def fails(request):
        request.progress(0.5, "half")
        raise ZeroDivisionError("no number")

    run = with_analysis(fails, gpu)
    with pytest.raises(ZeroDivisionError):
        run.analyze("own", on_progress=lambda share, what: None)
    (failure,) = run.model.session.failures
    assert "no number" in failure.reason


def test_loading_is_said(monkeypatch):
    """Of a saved run the model is loaded when an analysis first needs it."""
    session = Session(load_registry(safe=True))
    entry = session.registry.models["demo"]
    run = session.adopt("demo", entry.first_run)
    assert session.loaded(run.run.spec) is None
    said = []
    run.analyze("saliency", on_progress=lambda share, what: said.append((share, what)))
    assert said[0] == (0.0, "Loading demo")
    assert said[1][1].startswith("target 1 of")  # nothing else is said while it loads


def test_who_waits_for_another_analysis_of_the_run_is_told_and_may_go():
    going, entered = threading.Event(), threading.Event()

    def waits(request):
        entered.set()
        assert going.wait(30)
        return Table(columns=("x",), rows=(), info=("x",))

    run = with_analysis(waits, True, "own", "other")
    first = threading.Thread(target=run.analyze, args=("own",))
    first.start()
    assert entered.wait(30)
    said = []

    def tell(share, what):
        said.append((share, what))
        raise EnoughError

    try:
        with pytest.raises(EnoughError):
            run.analyze("other", on_progress=tell)
    finally:
        going.set()
        first.join()
    assert said == [(0.0, "Waiting for another analysis of this run")]
    assert run.analyze("other").result.columns == ("x",)


# --------------------------------------------------------------------------------------------- across the device


def _in_a_process(on_device, task, answer):
    answer.put(pickle.dumps(on_device(pickle.loads(task))))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_where_the_device_is_another_process_the_work_is_done_without_progress(monkeypatch):
    """As on ZeroGPU: a fork for every call, task and result pickled. What is told there is heard by nobody here."""

    def counts(request):
        for step in range(3):
            request.progress(step / 3, f"step {step}")
        return Table(columns=("tokens",), rows=((len(request.tokens),),), info=("x",))

    here, forks = session_module.on_device, multiprocessing.get_context("fork")

    def forked(task):
        answer = forks.Queue()
        child = forks.Process(target=_in_a_process, args=(here, pickle.dumps(task), answer))
        child.start()
        found = pickle.loads(answer.get(timeout=30))
        child.join()
        return found

    monkeypatch.setattr(session_module, "on_device", forked)
    said = []
    found = with_analysis(counts, True).analyze("own", on_progress=lambda share, what: said.append((share, what)))
    assert found.result.rows == ((len(TEXT) + 1,),)
    assert said == [(0.0, "Reading the model"), (1.0, "Done")]


def test_a_task_that_nobody_listens_to_is_done(run):
    session = run.model.session
    task = session_module.Task(session.id, run.run, "saliency", session.analysis("saliency").resolve({}), asker="gone")
    _, result = session_module.on_device(pickle.loads(pickle.dumps(task)))
    assert isinstance(result, Attribution)


# --------------------------------------------------------------------------------------------- the page


def test_cancel_ends_an_analysis_at_its_next_step():
    job, seen, steps = Job(pause=0.01), [], threading.Event()

    def work(job):
        for step in range(1000):
            job.step(step / 1000, f"step {step}")
            seen.append(step)
            steps.set()
            if step:
                assert job.cancelled.wait(30)

    notices = watched(work, job)
    assert next(notices)["kind"] == "progress"
    assert steps.wait(30)
    notices.close()
    assert job.done.wait(30)
    assert len(seen) <= 2
    with pytest.raises(Cancelled):
        job.step(0.5, "x")


def test_the_page_says_how_long_it_will_take():
    clock = Clock()
    job, told, go = Job(pause=0.01), threading.Event(), threading.Event()
    job.pace = Pace(clock)

    def work(job):
        job.step(0.0, "step 1 of 4")
        clock.now = 2.0
        job.step(0.25, "step 2 of 4")
        told.set()
        assert go.wait(30)

    notices = watched(work, job)
    next(notices)
    assert told.wait(30)
    assert next(notices) == {"kind": "progress", "text": "step 2 of 4, about 6 s left", "share": 0.25}
    go.set()
    assert job.done.wait(30)
    assert all(notice["kind"] == "progress" for notice in notices)


# --------------------------------------------------------------------------------------------- the command line


def test_the_command_line_rewrites_one_line_and_nothing_of_it_goes_to_the_output(monkeypatch, capsys):
    monkeypatch.setenv("ATTNVIZ_PLUGINS", "")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    assert main(["run", "saliency", "--text", "25 * 37 = 925", "-p", "first=2"]) == 0
    written = terminal.getvalue()
    assert written.startswith("\rattnviz: Loading demo\x1b[K")
    assert "target 1 of" in written
    assert written.endswith("\r\x1b[K")
    assert "\n" not in written
    assert capsys.readouterr().out.startswith("{")


def test_ctrl_c_in_the_middle_is_130_and_one_line(monkeypatch, capsys):
    monkeypatch.setenv("ATTNVIZ_PLUGINS", "")

    def interrupted(self, share, what):
        if share > 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Line, "__call__", interrupted)
    assert main(["run", "saliency", "--text", "25 * 37 = 925", "-p", "first=2"]) == 130
    out, err = capsys.readouterr()
    assert (out, err) == ("", "attnviz: stopped.\n")
