"""Faithfulness under an attribution: computed when asked for, of what is shown, and gone with it."""

import dataclasses

import pytest

from attnviz.hooks import Analysis, Attribution, Param
from attnviz.plugins.analyses.attribution import faithfulness
from attnviz.session import Session
from attnviz.ui import faithful
from tests.ui.browsing import open_tab, panel
from tests.ui.test_parts import session_over_rules

PROMPT = [{"role": "user", "content": "one two one two"}]


def figures(session, **asked):
    run = session.load("fake").generate(messages=PROMPT)
    return faithful.figures(session.analyze(run, "faithfulness", asked))


def test_what_differs_from_the_defaults_is_handed_on():
    params = (Param("way", "text", ""), Param("factor", "int", 1), Param("layer", "layer", "mean", choices=("mean",)))
    analysis = Analysis("a", "A", "G", "", print, Attribution, params=params)
    assert faithful.settings(analysis, {"way": "", "factor": 1, "layer": "mean"}) == ""
    text = faithful.settings(analysis, {"way": " it's $(x)", "factor": 3, "layer": 0})
    found = faithfulness.settings(text)
    assert found == {"way": " it's $(x)", "factor": "3", "layer": "0"}
    assert analysis.resolve(found) == {"way": " it's $(x)", "factor": 3, "layer": 0}


def test_of_every_target_there_are_the_figures_that_sum_up():
    found = figures(session_over_rules(), method="pulls")
    assert [len(one["rows"]) for one in found["targets"]] == [5] * 4
    assert found["targets"][0]["name"] == "mean of 3 targets"
    names = [row[0] for row in found["targets"][0]["rows"]]
    assert names[:2] == ["comprehensiveness AOPC", "sufficiency AOPC"]
    assert not any("%" in name for name in names)


def test_without_the_analysis_or_an_attribution_there_is_no_place():
    session = session_over_rules()
    assert faithful.faithful(session, session.analysis("logit_lens")) is None
    assert faithful.faithful(session, session.analysis("pulls")) is not None
    pulls = {"pulls": session.analysis("pulls")}
    assert faithful.faithful(Session(dataclasses.replace(session.registry, analyses=pulls)), pulls["pulls"]) is None


def shown(pulls):
    return pulls.locator(".app-faithful-home tbody td:nth-child(3)").all_inner_texts()


def expected(target, **asked):
    rows = figures(session_over_rules(), method="pulls", **asked)["targets"][target]["rows"]
    return ["–" if row[2] is None else f"{float(f'{row[2]:.3g}'):g}" for row in rows]


@pytest.mark.browser
def test_it_is_asked_for_shown_and_gone_with_the_picture(page):
    open_tab(page, "Pulls")
    pulls = panel(page, "pulls")
    pulls.locator(".av-attribution[data-ready='1']").wait_for()
    place = pulls.locator(".app-faithful-home .app-part")
    place.get_by_role("button", name="Faithfulness").click()
    pulls.locator(".app-faithful-home [data-state='ready']").wait_for()
    assert shown(pulls) == expected(0)
    assert "Judged: pulls" in place.inner_text()
    place.get_by_label("Target").select_option(index=2)
    assert shown(pulls) == expected(2)
    way = pulls.get_by_label("Way")
    way.click()
    page.get_by_role("option", name="mean", exact=True).click()
    page.wait_for_function("window.attnviz.params('pulls').way === 'mean'")
    pulls.locator(".app-faithful-home [data-state='offer']").wait_for()
    assert shown(pulls) == []
    place.get_by_role("button", name="Faithfulness").click()
    pulls.locator(".app-faithful-home [data-state='ready']").wait_for()
    assert "Judged: pulls (way=mean)" in place.inner_text()
    assert shown(pulls) == expected(2, settings="way=mean")


@pytest.mark.browser
def test_it_says_how_far_it_is_and_cancel_brings_the_offer_back(new_page):
    page = new_page("?model=talker&prompt=one+two+one+two&tab=Pulls&answer=0&format=text")
    pulls = panel(page, "pulls")
    pulls.locator(".av-attribution[data-ready='1']").wait_for()
    place = pulls.locator(".app-faithful-home")
    place.get_by_role("button", name="Faithfulness").click()
    place.get_by_role("progressbar").wait_for()
    page.get_by_role("button", name="Cancel").click()
    place.locator("[data-state='offer']").wait_for()
    page.get_by_text("Cancelled. What was there stays.").wait_for()
    assert place.get_by_role("progressbar").count() == 0
    assert pulls.locator(".av-attribution").count() == 1
