"""Pieces of the page without a browser: templates, places, controls, Python code, background work."""

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attnviz.errors import BadInput
from attnviz.hooks import Analysis, HeadScores, Param
from attnviz.testing import FakeModel
from attnviz.ui.place import address_selection, parse_place

ROOT = Path(__file__).parents[2]


def test_no_template_holds_data():
    code = (
        "import json\n"
        "from attnviz.registry import load_registry\n"
        "from attnviz.session import Session\n"
        "from attnviz.ui.build import build_app\n"
        "app = build_app(Session(load_registry(safe=True)))\n"
        "parts = [c['props'] for c in app.get_config_file()['components'] if c['type'] == 'html']\n"
        "print(json.dumps([[p['html_template'], p['css_template']] for p in parts]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    templates = ast.literal_eval(done.stdout)
    assert len(templates) > 10
    assert {tuple(pair) for pair in templates} == {('<div class="app-part"></div>', "")}


@pytest.mark.parametrize(
    "data",
    [None, 3, "x", [], {"tab": 3}, {"selection": [1]}, {"words": {"a": 3}}, {"shown": {1: 2}}, {"url": {"a": {}}}],
)
def test_a_place_of_the_wrong_form_is_empty(data):
    place = parse_place(data)
    assert (place.tab, dict(place.shown), dict(place.url)) == ("", {}, {})


def test_linked_values_come_from_words_then_selection():
    analysis = Analysis(
        "a", "A", "A", "A", lambda request: None, HeadScores,
        params=(Param("layer", "layer", choices=("mean",)), Param("head", "head"), Param("token", "token")),
    )  # fmt: skip
    place = parse_place({"selection": {"layer": 2, "head": -1, "token": True}, "words": {"a": {"layer": "mean"}}})
    assert place.linked(analysis) == {"layer": "mean"}


def test_the_selection_of_an_address():
    assert address_selection({"layer": "1", "head": "3", "token": "6"}, [4, 4, 0], 7) == {
        "layer": 1,
        "head": 3,
        "token": 6,
    }
    # the page keeps a head while a layer without attention is selected, and writes both into the address
    assert address_selection({"layer": "2", "head": "3"}, [4, 4, 0], 7) == {"layer": 2, "head": 3}
    for url in ({"layer": "3"}, {"layer": "2", "head": "4"}, {"layer": "0000000005"}, {"token": "7"}, {"head": "٣"}):
        with pytest.raises(BadInput, match="asks for"):
            address_selection(url, [4, 4, 0], 7)


def _ends_with(steps):
    value = []

    def outer():
        value.append((yield from steps))

    list(outer())
    return value[0]


def test_background_work_reports_raises_and_hears_of_cancel():
    import time

    from attnviz.ui.background import watched

    def work(job):
        job.report(0.5, "half")
        time.sleep(0.6)
        return 7

    steps = watched(work)
    assert next(steps) == {"kind": "progress", "text": "half", "share": 0.5}
    assert _ends_with(steps) == 7

    def failing(job):
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        next(watched(failing))

    jobs = []

    def long(job):
        jobs.append(job)
        job.cancelled.wait(5)

    steps = watched(long)
    next(steps)
    steps.close()
    assert jobs[0].cancelled.is_set()


def test_a_growing_answer_says_what_its_newest_token_was_chosen_from():
    """One layer of two heads, one without attention: the mean of (0.6, 0.1, 0.3) and (0.2, 0.7, 0.1)."""
    from attnviz.hooks import LiveRow
    from attnviz.ui.live import GrowingAnswer

    model = FakeModel()
    growing = GrowingAnswer(model.tokenize("ab"), model.card, model.label)
    assert growing.value()["weights"] is None
    growing.add(ord("c"))
    weights = np.full((2, 2, 3), np.nan, np.float32)
    weights[1] = [[0.6, 0.1, 0.3], [0.2, 0.7, 0.1]]
    growing.hear(LiveRow(3, ord("c"), weights))
    growing.add(ord("d"))  # its row has not come yet
    value = growing.value()
    assert (value["labels"], value["newest"]) == (["<bos>", "a", "b", "c"], 3)
    assert (value["weights"], value["heads"], value["layers"], value["without"]) == ([4000, 4000, 2000], 2, 1, 2)
    assert value["segments"] == [["prompt", 0, 3], ["answer", 3, 4]]
    assert (growing.pause, value["sinks"]) == (0.1, 0)


def test_what_learned_sinks_take_is_no_matter_of_rounding():
    """401 tokens of 0.003 %, which round to nothing, are 1.2 % together: 98.8 % are beside them."""
    from attnviz.hooks import LiveRow
    from attnviz.ui.live import GrowingAnswer

    model = FakeModel()
    growing = GrowingAnswer(model.tokenize("a" * 400), model.card, model.label)
    growing.add(ord("c"))
    growing.hear(LiveRow(401, ord("c"), np.full((1, 1, 401), 3e-5, np.float32)))
    value = growing.value()
    assert set(value["weights"]) == {0}
    assert value["sinks"] == 9880


def test_source_and_target_of_a_growing_answer_have_means_of_their_own():
    """Cross-attention sees the two tokens of the source, the decoder its own two; the encoder has no row."""
    from attnviz.hooks import LiveRow
    from attnviz.ui.live import mean_row

    weights = np.full((3, 2, 4), np.nan, np.float32)
    weights[1, :, 2:] = [[0.5, 0.5], [1.0, 0.0]]
    weights[2, :, :2] = [[0.2, 0.8], [0.4, 0.6]]
    mean, heads, layers = mean_row(LiveRow(4, 0, weights))
    np.testing.assert_allclose(mean, [0.3, 0.7, 0.75, 0.25], rtol=1e-6)
    assert (heads, layers) == (4, 2)
    weights[2] = np.nan  # nothing sees the source
    assert np.isnan(mean_row(LiveRow(4, 0, weights))[0][:2]).all()


def test_long_answers_are_told_less_often():
    from attnviz.ui.live import GrowingAnswer

    model = FakeModel()
    growing = GrowingAnswer(model.tokenize("a" * 400), model.card, model.label)
    growing.labels = ["x"] * 9599  # 10 000 tokens with <bos>: twice a second
    assert growing.pause == pytest.approx(0.5)


def session_over_rules():
    from attnviz.registry import load_registry
    from attnviz.session import Session

    return Session(load_registry(folder=ROOT / "tests" / "ui" / "plugins", entry_points=False))


@pytest.mark.parametrize("prompt", ["abc abc", 'it\'s "quoted" \\ ${x}', "zwölf\nZeilen"])
@pytest.mark.parametrize("form", ["text", "chat"])
@pytest.mark.parametrize("answer", [False, True])
def test_the_python_code_gives_the_same_numbers(monkeypatch, capsys, prompt, form, answer):
    import json

    from attnviz.ui.background import Job
    from attnviz.ui.python_code import reproduce
    from attnviz.ui.wish import Wish, make_run

    session = session_over_rules()
    wish = Wish("fake", "", prompt, answer, 9, 0.0, None, "auto", "auto", "", form)
    run = make_run(session, wish, Job())
    finding = session.analyze(run, "toy", {"layer": 1, "head": 2})
    code = reproduce(run, session.registry, "toy", finding.params)
    monkeypatch.setattr("attnviz.load", session_over_rules().load)
    exec(compile(code, "code", "exec"), {})
    printed = json.loads(capsys.readouterr().out)
    assert printed["provenance"] == finding.provenance


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"answer": False},
        {"temperature": 0.1234567, "seed": 9007199254740993},
        {"temperature": 1.0, "category": "Math", "format": "text", "backend": "rules", "device": "cpu"},
        {"stop": ("never\n", "\\n\t", " said ")},
        {"temperature": 0.5, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.25},
    ],
)
def test_an_address_asks_for_the_run_it_was_written_for(chosen):
    from attnviz.ui.background import Job
    from attnviz.ui.wish import Wish, address_of, make_run, wish_of_address

    session = session_over_rules()
    wish = dataclasses.replace(Wish("fake", "", "abab", True, 9, 0.0, None, "auto", "auto", ""), **chosen)
    run = make_run(session, wish, Job())
    again = wish_of_address(address_of(wish, run), session)
    expected = dataclasses.replace(wish, seed=run.run.sampling.seed if run.run.sampling else None)
    assert dataclasses.replace(again, length=9) == expected
    assert again.length == 9 or not wish.answer


@pytest.mark.parametrize(
    "url",
    [
        {"answer": "nan"}, {"answer": "inf"}, {"answer": "-5"}, {"answer": "1.5"}, {"seed": "nan"}, {"seed": "-1"},
        {"seed": "1.5"}, {"seed": "9" * 5000}, {"temperature": "hot"}, {"long": "9000"},
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_followed_is_refused(url):
    from attnviz.ui.wish import wish_of_address

    with pytest.raises(BadInput):
        wish_of_address(url, session_over_rules())


@pytest.mark.parametrize("seed", ["9" * 5000, "-1", "   ", "1.0", "٣"])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    from attnviz.ui.wish import asked

    with pytest.raises(BadInput, match="Seed: expected a whole number"):
        asked("fake", "", "ab", True, 3, 0.5, seed, "auto", "auto", "", "auto", "")


@pytest.mark.parametrize(
    ("field", "stops"),
    [
        ("", ()),
        ("\n\n", ()),
        ("Observation:\n User: ", ("Observation:", " User: ")),
        (r"\n\n", ("\n\n",)),
        (r"a\tb\\n", ("a\tb\\n",)),
        ("ends in a backslash\\\\\n", ("ends in a backslash\\",)),
    ],
)
def test_stop_texts_stand_one_on_a_line(field, stops):
    from attnviz.ui.wish import read_stops, write_stops

    assert read_stops(field) == stops
    assert read_stops(write_stops(stops)) == stops


@pytest.mark.parametrize("field", [r"\boxed", "a\\", "\\ "])
def test_a_backslash_that_means_nothing_is_refused(field):
    from attnviz.ui.wish import asked, wish_of_address

    with pytest.raises(BadInput, match="Stop texts: expected"):
        asked("fake", "", "ab", True, 3, 0.5, "", "auto", "auto", "", "auto", field)
    with pytest.raises(BadInput, match="Stop texts: expected"):
        wish_of_address({"stop": field}, session_over_rules())


@pytest.mark.parametrize("stop", [("ba",), ("never said", "\n")])
def test_the_python_code_stops_where_the_run_did(monkeypatch, stop):
    """The answer to "abab" by rule is "abab…"."""
    from attnviz.ui.background import Job
    from attnviz.ui.python_code import reproduce
    from attnviz.ui.wish import Wish, make_run

    session = session_over_rules()
    wish = Wish("fake", "", "abab", True, 9, 0.0, None, "auto", "auto", "", "text", stop)
    run = make_run(session, wish, Job())
    assert run.run.ended == ("stop text" if stop == ("ba",) else "length")
    again = {}
    monkeypatch.setattr("attnviz.load", session_over_rules().load)
    exec(reproduce(run, session.registry, "toy", {}).split("finding")[0], again)
    assert again["run"].tokens.ids.tolist() == run.tokens.ids.tolist()


@pytest.mark.parametrize("length", [None, float("nan"), float("inf"), 2.5, 0, -1, 1e9])
def test_a_length_that_is_no_whole_number_is_refused(length):
    from attnviz.ui.background import Job
    from attnviz.ui.wish import Wish, make_run

    with pytest.raises(BadInput, match=r"[Nn]ew.tokens: expected"):
        make_run(session_over_rules(), Wish("fake", "", "ab", True, length, 0.0, None, "auto", "auto", ""), Job())


def test_prompt_and_messages_of_a_run():
    from attnviz.hooks import ModelSpec, Run, Sampling
    from attnviz.ui.describe import messages_of, prompt_of

    model = FakeModel()
    said = model.tokenize([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}])
    answered = model.generate(said, Sampling(3))
    run = Run("id", ModelSpec("fake"), "fake", answered, generated_from=len(said))
    contents = [(m["role"], m["content"]) for m in messages_of(run)]
    assert contents == [("system", "be brief"), ("user", "hi")]
    plain = model.tokenize("abab")
    run = Run("id", ModelSpec("fake"), "fake", model.generate(plain, Sampling(2)), generated_from=len(plain))
    assert (prompt_of(run), messages_of(run)) == ("abab", [])
    unplaced = run.tokens.offsets.copy()
    unplaced[: len(plain)] = -1  # a slow tokenizer does not say where its tokens stand
    assert prompt_of(dataclasses.replace(run, tokens=dataclasses.replace(run.tokens, offsets=unplaced))) == "abab"
    assert np.array_equal(run.tokens.ids[: len(plain)], plain.ids)


def test_a_table_of_many_rows_says_that_it_shows_the_first():
    from attnviz.hooks import View
    from attnviz.ui.views import ROWS_SHOWN, view_value

    rows = tuple((i,) for i in range(ROWS_SHOWN + 1))
    drawn = view_value(View("table", (("n",), rows)), None)
    assert (len(drawn["rows"]), drawn["count"]) == (ROWS_SHOWN, ROWS_SHOWN + 1)


def test_an_analysis_cannot_take_the_name_of_an_endpoint():
    code = (
        "import dataclasses, json\n"
        "from attnviz.registry import load_registry\n"
        "from attnviz.session import Session\n"
        "from attnviz.ui.build import build_app\n"
        "registry = load_registry(safe=True)\n"
        "taken = dataclasses.replace(registry.analyses['attention_stats'], name='plugins')\n"
        "registry = dataclasses.replace(registry, analyses={'plugins': taken}, plugins=())\n"
        "found = build_app(Session(registry)).get_config_file()['dependencies']\n"
        "print(json.dumps([[d['api_name'], len(d['inputs'])] for d in found if d['api_visibility'] == 'public']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert dict(ast.literal_eval(done.stdout)) == {"plugins": 0, "models": 0, "model_info": 2, "plugins_1": 3}


@pytest.mark.parametrize(("text", "lengths"), [("128, 1024", [128, 1024]), (" 7;8 7", [7, 8])])
def test_lengths_are_typed_as_a_list(text, lengths):
    from attnviz.ui.model_tab import parse_counts

    assert parse_counts(text) == lengths


@pytest.mark.parametrize("text", ["", None, "many", "1.5", "-3", "0", "٣", "9" * 5000])
def test_lengths_that_are_none_are_refused(text):
    from attnviz.ui.model_tab import parse_counts

    with pytest.raises(BadInput, match="Tokens: expected"):
        parse_counts(text)


def test_a_plugin_that_fails_to_estimate_leaves_the_card(monkeypatch):
    from attnviz.ui import model_tab

    class Failing(FakeModel):
        def estimate(self, count, want, decoder_from=None):
            raise ZeroDivisionError

    model = session_over_rules().load("fake")
    monkeypatch.setattr(model.session, "model", lambda spec: Failing())
    assert "ZeroDivisionError" in model_tab.in_memory_estimates(model, "10")["blocks"][0]["text"]


def test_the_page_learns_every_renderer_once():
    from attnviz.hooks import Renderer, TokenScores
    from attnviz.ui.components.script_view import page_scripts

    text = 'const a = "</script><!--";'
    made = Renderer("mine", "Mine", (TokenScores,), "script", lambda f: None, script=text, style=".mine {}")
    found = page_scripts([made, dataclasses.replace(made, name="other")])
    assert (
        found.count("<script>") == found.count("</script>") == 5
    )  # the page, two beside each other, steps, 2 renderers
    assert found.count('window.attnviz.define("mine", ".mine {}", function (root, data, host) {') == 1
    assert found.count(r'const a = "\x3C/script>\x3C!--";') == 2
