"""Two attributions beside each other, in a real browser: what is pointed at in one is shown in the other."""

import dataclasses

import numpy as np
import pytest

from attnviz.agreement import agreement
from attnviz.errors import BadInput
from attnviz.hooks import Param
from attnviz.ui import beside
from tests.ui.browsing import open_tab, painted, panel, wait_query
from tests.ui.test_parts import session_over_rules

pytestmark = pytest.mark.browser


@pytest.fixture
def pulls(page):
    open_tab(page, "Pulls")
    panel(page, "pulls").locator(".av-attribution[data-ready='1']").wait_for()
    return panel(page, "pulls")


def compare(pulls, with_):
    """Choose what the panel is compared with, by typing and Enter."""
    field = pulls.get_by_label("Compare with")
    field.fill(with_)
    field.press("Enter")


def side(pulls, which):
    return pulls.locator(".app-beside-view").nth(("left", "right").index(which))


def pressed(pulls, which, strip):
    painted(pulls.page)
    found = side(pulls, which).locator(f".{strip} .av-token[aria-pressed='true']")
    return found.evaluate_all("all => all.map((e) => Number(e.dataset.index))")


def figures(pulls):
    return pulls.locator(".app-agreement .app-figure strong").all_inner_texts()


def expected(other, row):
    """ρ and τ-b of a target, and the medians."""
    session = session_over_rules()
    run = session.load("fake").generate(messages=[{"role": "user", "content": "one two one two"}])
    first = session.analyze(run, "pulls", {})
    found = agreement(first, session.analyze(run, other, {}))
    numbers = [found.spearman[row], found.kendall[row], np.median(found.spearman), np.median(found.kendall)]
    return [f"{number:.3f}" for number in numbers]


def test_another_method_stands_beside_with_its_agreement(pulls):
    compare(pulls, "Tugs <b>")
    pulls.locator(".app-beside[data-ready='1']").wait_for()
    assert side(pulls, "left").locator("h3").first.inner_text() == "Pulls · fake"
    assert side(pulls, "right").locator("h3").first.inner_text() == "Tugs <b> · fake"
    assert pulls.locator(".app-beside-view").count() == 2
    assert figures(pulls) == expected("tugs", -1)
    assert "matched by position" in pulls.locator(".app-beside > .app-info").inner_text()
    side(pulls, "left").locator(".av-targets .av-token").first.hover()
    painted(pulls.page)
    assert figures(pulls) == expected("tugs", 0)


def test_what_is_pointed_at_in_one_is_shown_in_the_other(pulls):
    page = pulls.page
    compare(pulls, "Tugs <b>")
    pulls.locator(".app-beside[data-ready='1']").wait_for()
    side(pulls, "left").locator(".av-sources .av-token").nth(3).hover()
    assert pressed(pulls, "right", "av-sources") == [3]
    side(pulls, "right").locator(".av-targets .av-token").nth(1).hover()
    assert pressed(pulls, "left", "av-targets") == pressed(pulls, "right", "av-targets") == [1]
    side(pulls, "right").locator(".av-sources .av-token").nth(5).click()
    wait_query(page, token=5)
    for which in ("left", "right"):
        assert pressed(pulls, which, "av-sources") == [5]
        assert side(pulls, which).locator(".av-attribution").get_attribute("data-locked") == "source"
    page.keyboard.press("Escape")
    painted(page)
    for which in ("left", "right"):
        assert side(pulls, which).locator(".av-attribution").get_attribute("data-locked") == ""
    last = page.locator("#app-strip .app-token").count() - 1
    page.locator("#app-strip .app-token").nth(last - 2).click()
    assert pressed(pulls, "left", "av-targets") == pressed(pulls, "right", "av-targets") == [0]


def test_another_model_reads_the_same_text_with_other_tokens(pulls, app):
    page = pulls.page
    compare(pulls, "two")
    pulls.locator(".app-beside[data-ready='1']").wait_for()
    assert side(pulls, "right").locator("h3").first.inner_text() == "Pulls · two"
    assert "control tokens without characters are left out" in pulls.locator(".app-beside > .app-info").inner_text()
    count = page.locator("#app-strip .app-token").count()
    assert app.calls()[-1] == f"pulls copies 1 {count - 2}"  # two starts, but none of the four control tokens
    side(pulls, "left").locator(".av-sources .av-token").nth(20).hover()
    assert pressed(pulls, "right", "av-sources") == [19]
    side(pulls, "right").locator(".av-sources .av-token").nth(25).click()
    wait_query(page, token=26)
    assert pressed(pulls, "left", "av-sources") == [26]
    side(pulls, "right").locator(".av-sources .av-token").nth(1).click()  # <start> has no counterpart
    assert pressed(pulls, "right", "av-sources") == [1]
    assert pressed(pulls, "left", "av-sources") == [26]  # the mark of the page's selection


def test_shared_controls_hold_for_both_and_nothing_brings_one_back(pulls, app):
    compare(pulls, "Tugs <b>")
    pulls.locator(".app-beside[data-ready='1']").wait_for()
    factor = pulls.locator("input[type=number]")
    factor.fill("3")
    factor.press("Enter")
    pulls.page.wait_for_function("window.attnviz.params('pulls').factor === 3")
    assert [line.rsplit(" ", 1)[0] for line in app.calls()[-2:]] == ["pulls copies 3", "pulls mean 3"]
    compare(pulls, "nothing")
    pulls.locator(".app-beside").wait_for(state="detached")
    pulls.locator(".av-attribution[data-ready='1']").wait_for()
    assert pulls.locator(".av-attribution").count() == 1


@pytest.mark.parametrize(
    ("typed", "said"),
    [("blind", "has no attention"), ("no/such-model", "no/such-model is no folder")],
)
def test_what_cannot_be_compared_is_said_and_what_was_there_stays(pulls, typed, said):
    compare(pulls, typed)
    alert = pulls.get_by_role("alert")
    alert.wait_for(timeout=60_000)  # a backend may have to be imported first
    assert said in alert.inner_text()
    assert pulls.locator(".av-attribution").count() == 1


def test_what_belongs_to_the_question_is_asked_of_both():
    """The same name and the same default; token positions are carried over to the other model's tokens."""
    session = session_over_rules()
    run = session.load("fake").trace("abcd")
    shared, own = Param("first", "int", default=None), Param("size", "int", default=1)
    one = dataclasses.replace(session.analysis("pulls"), name="one", params=(shared, own))
    two = dataclasses.replace(one, name="two", params=(shared, dataclasses.replace(own, default=2)))
    params, here = {"first": 3, "size": 7}, run.tokens
    assert beside._question(one, two, params, here, here) == {"first": 3}
    there = session.load("two").trace("abcd").tokens
    assert beside._question(one, one, params, here, there) == {"first": 4, "size": 7}
    with pytest.raises(BadInput, match="token 0 has no counterpart"):
        beside._question(one, one, {**params, "first": 0}, here, there)


@pytest.mark.parametrize("data", [None, 3, {}, {"choice": 3}, {"given": {}}])
def test_what_a_page_says_in_the_wrong_form_is_nothing(data):
    assert beside.parse_against(data) == beside.NOTHING
    assert beside.parse_against({"choice": "x", "given": [1]}) == beside.Against("x")
    assert beside.parse_against({"choice": "x", "given": {"a": 1, "b": {"c": 2}}}) == beside.Against(
        "x", {"b": {"c": 2}}
    )


@pytest.mark.parametrize("choice", ["analysis:tugs", "model:two"])
def test_the_python_of_two_gives_the_same_agreement(monkeypatch, capsys, choice):
    from attnviz.ui.panels import ServerFunctions

    session = session_over_rules()
    run = session.load("fake").generate("abab", max_new_tokens=5)
    request = {"run": run.id, "analysis": "pulls", "params": {"factor": 2}, "against": {"choice": choice, "given": {}}}
    answer = ServerFunctions(session).python_code(request)
    monkeypatch.setattr("attnviz.load", session_over_rules().load)
    exec(compile(answer["text"], "code", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    other = session.load("two").reread(run) if choice == "model:two" else run
    name = "pulls" if choice == "model:two" else "tugs"
    found = agreement(session.analyze(run, "pulls", {"factor": 2}), session.analyze(other, name, {"factor": 2}))
    assert printed[1:] == str(found).splitlines()


def test_two_are_saved_as_one_offline_page(pulls, browser, tmp_path):
    page = pulls.page
    compare(pulls, "Tugs <b>")
    pulls.locator(".app-beside[data-ready='1']").wait_for()
    shown = figures(pulls)
    pulls.get_by_role("button", name="Export").click()
    with page.expect_download() as saved:
        pulls.locator("[data-suffix='.html']").click()
    path = tmp_path / "both.html"
    saved.value.save_as(path)
    problems = []
    context = browser.new_context(offline=True)
    offline = context.new_page()
    offline.on("pageerror", lambda error: problems.append(str(error)))
    offline.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    offline.goto(path.as_uri())
    offline.wait_for_selector("#attnviz-view[data-ready='1']")
    assert offline.locator(".app-agreement .app-figure strong").all_inner_texts() == shown
    assert offline.locator(".app-beside-view").count() == 2
    assert offline.title() == "Pulls beside Tugs <b>"
    offline.locator(".app-beside-view").first.locator(".av-sources .av-token").nth(3).hover()
    painted(offline)
    right = offline.locator(".app-beside-view").last.locator(".av-sources [aria-pressed='true']")
    assert right.get_attribute("data-index") == "3"
    offline.locator("#attnviz-theme").click()
    context.close()
    assert not problems


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1360, True)])
def test_widths_and_dark(new_page, width, dark):
    page = new_page("?tab=Pulls" + ("&__theme=dark" if dark else ""), width=width, ready=False)
    panel(page, "pulls").locator(".av-attribution[data-ready='1']").wait_for()
    compare(panel(page, "pulls"), "Tugs <b>")
    panel(page, "pulls").locator(".app-beside[data-ready='1']").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Light or dark").click()
    page.wait_for_timeout(200)
