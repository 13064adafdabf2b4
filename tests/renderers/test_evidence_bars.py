"""The picture of an evidence ledger equals its numbers: by pointer, by keyboard, in still pictures."""

from __future__ import annotations

import dataclasses
from typing import Any
from xml.etree import ElementTree

import pytest

from attnviz.hooks import BadInput, LedgerSource, LedgerStep, ShapeError
from attnviz.plugins.renderers import evidence_bars
from attnviz.plugins.renderers.evidence_bars import looks
from attnviz.plugins.renderers.picture import figure_bytes
from tests.renderers.samples import HOSTILE, PLAIN, sample_ledger, sample_scores


def payload(**given: Any) -> Any:
    return evidence_bars.render(sample_ledger(PLAIN, **given)).payload


def test_steps_and_observations_come_in_the_order_of_the_run() -> None:
    told = [(e["kind"], e["text"], e["start"], e["stop"], e["step"], e["source"]) for e in payload()["entries"]]
    assert told == [
        ("thought", "the mat", 5, 7, 0, None),
        ("action", "and the", 7, 9, 1, None),
        ("observation", "cat looked", 9, 11, None, 1),
        ("answer", "the sun.", 12, 16, 2, None),
    ]


def test_numbers_that_are_not_there_are_null() -> None:
    assert payload()["effect"][2] == [-0.5, 0.25, 8.0, None]
    assert payload(effects=False)["effect"] is None
    assert payload(effects=False)["logprob"] is None


def test_observations_differ_in_colour_or_hatching() -> None:
    sources = [LedgerSource("observation", f"observation {n}", ((n, n + 1),)) for n in range(8)]
    found = looks([LedgerSource("question", "question", ((8, 9),)), *sources])
    assert len({(look.colour, look.hatched) for look in found}) == 9
    assert [look.short for look in found[:3]] == ["question", "obs. 1", "obs. 2"]


def test_spans_outside_the_text_and_other_results_are_refused() -> None:
    shown = sample_ledger(PLAIN)
    far = (LedgerSource("question", "question", ((1, 17),)), *shown.result.sources[1:])
    with pytest.raises(ShapeError, match=r"0\.\.16"):
        evidence_bars.render(dataclasses.replace(shown, result=dataclasses.replace(shown.result, sources=far)))
    with pytest.raises(BadInput, match="expected an evidence ledger, got token_scores"):
        evidence_bars.render(sample_scores(PLAIN))


def would_come_next() -> Any:
    shown = sample_ledger(PLAIN)
    ledger = shown.result
    step = (LedgerStep("text", "what would come next", 16, 17),)
    only = {name: getattr(ledger, name)[:1] for name in ("share", "uniform", "effect", "logprob")}
    return dataclasses.replace(shown, result=dataclasses.replace(ledger, steps=step, **only))


def test_a_step_may_be_the_token_that_would_come_next() -> None:
    shown = would_come_next()
    assert [(e["label"], e["text"]) for e in evidence_bars.render(shown).payload["entries"]] == [
        ("observation 1 ( cat)", "cat looked"),
        ("what would come next", ""),
    ]
    assert b"what would come next" in figure_bytes(shown, ".svg")


@pytest.mark.browser
def test_the_token_that_would_come_next_is_not_selected(open_page: Any) -> None:
    page = open_page(would_come_next())
    page.locator(".av-step-head").last.click()
    assert readout(page).startswith("what would come next, token 16")
    assert page.locator('.av-token[aria-pressed="true"], .av-of-step').count() == 0


@pytest.mark.parametrize("effects", [True, False])
def test_the_still_picture_prints_flags_steps_sources_and_numbers(effects: bool) -> None:
    tree = ElementTree.fromstring(figure_bytes(sample_ledger(PLAIN, effects=effects), ".svg"))
    said = [element.text for element in tree.iter() if element.tag.endswith("text")]
    assert "⚑ Observation 1 ( cat) was never used: it makes no difference." in said
    assert {"thought", "action", "observation 1 ( cat)", "own earlier text", "marks of the template"} <= set(said)
    assert {"50 %", "38 %", "75 %", "“cat looked”"} <= set(said)  # 0.375 = 38 %
    assert ({"8.0", "-0.5", "–"} <= set(said)) is effects
    whole = " ".join(text for text in said if text)
    assert ("effect of taking it away (nats)" in whole) is effects


def readout(page: Any) -> str:
    return str(page.locator(".av-readout").inner_text())


@pytest.mark.browser
def test_bars_tables_and_flags_show_the_numbers(open_page: Any) -> None:
    page = open_page(sample_ledger(PLAIN))
    assert page.locator(".av-flag").all_inner_texts() == [
        "Observation 1 ( cat) was never used: it makes no difference."
    ]
    assert page.locator(".av-step-head").count() == 4
    answer = page.locator(".av-step").last
    cells = [row.split("\t") for row in answer.locator("tbody tr").all_inner_texts()]
    assert [[cell.strip() for cell in row] for row in cells] == [
        ["question", "6.3 %", "25.0 %", "-0.5", "-0.13"],  # over four tokens
        ["observation 1 ( cat)", "12.5 %", "25.0 %", "0.3", "0.06"],
        ["own earlier text", "75.0 %", "37.5 %", "8.0", "2.00"],
        ["marks of the template", "6.3 %", "12.5 %", "–", "–"],
    ]
    widths = answer.locator(".av-looked .av-part").evaluate_all(
        "all => all.map((p) => p.getBoundingClientRect().width)"
    )
    inner = sum(widths)
    assert [width / inner for width in widths] == pytest.approx([0.0625, 0.125, 0.75, 0.0625], abs=0.005)
    thought = page.locator(".av-step").first
    assert thought.locator(".av-looked .av-part").count() == 3  # nothing of a source that cannot be seen
    assert thought.locator("tbody tr").nth(1).locator("td").all_inner_texts()[:2] == ["–", "–"]
    fills = answer.locator(".av-effect-fill").evaluate_all("all => all.map((f) => parseFloat(f.style.width))")
    assert fills == [6.25, 3.125, 100]  # of the largest of all steps, 8
    assert answer.locator(".av-effect-fill.av-more").count() == 1  # −0.5


@pytest.mark.browser
def test_a_chosen_step_selects_its_tokens(open_page: Any) -> None:
    page = open_page(sample_ledger(PLAIN))
    of_step = "all => all.map((t) => Number(t.dataset.index))"
    page.locator(".av-step-head").last.click()
    assert page.locator(".av-of-step").evaluate_all(of_step) == [12, 13, 14, 15]
    assert page.locator('.av-token[aria-pressed="true"]').evaluate_all(of_step) == [12]
    assert readout(page).startswith("answer")
    assert readout(page).endswith("tokens 12–15, log-probability -0.25 nats")
    page.locator(".av-token").nth(10).click()  # of the observation
    assert page.locator(".av-of-step").evaluate_all(of_step) == [9, 10]
    assert page.locator('.av-step-head[aria-pressed="true"] .av-step-text').inner_text() == "cat looked"
    page.locator(".av-token").nth(2).click()  # of no step: what was chosen stays
    assert page.locator(".av-of-step").evaluate_all(of_step) == [9, 10]


@pytest.mark.browser
def test_the_keyboard_goes_through_steps_and_their_sources(open_page: Any) -> None:
    page = open_page(sample_ledger(PLAIN))
    page.locator(".av-step-head").first.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert readout(page) == (
        "answer The ← observation 1 ( cat): 12.5 % of its attention, a uniform head 25.0 %; "
        "without it 0.25 nats less likely (0.06 a token)"
    )
    page.keyboard.press("ArrowLeft")
    assert readout(page).endswith("without it 0.50 nats more likely (-0.13 a token)")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.locator('.av-step-head[aria-pressed="true"]').count() == 1
    assert page.locator('.av-steps [tabindex="0"]').count() == 1
    page.keyboard.press("ArrowRight")
    assert "observation 1" in readout(page)
    assert readout(page).endswith("it cannot be seen from here")


@pytest.mark.browser
def test_without_effects_nothing_is_said_of_them(open_page: Any) -> None:
    page = open_page(sample_ledger(PLAIN, effects=False))
    assert page.locator(".av-effect").count() == 0
    assert page.locator("thead th").all_inner_texts()[:3] == ["source", "attention", "uniform head"]
    page.locator(".av-looked .av-part").first.hover()
    assert readout(page) == "thought ← question: 50.0 % of its attention, a uniform head 62.5 %"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1360, True), (390, False)])
def test_hostile_texts_stay_text(open_page: Any, width: int, dark: bool) -> None:
    page = open_page(sample_ledger(), width=width, dark=dark)
    assert page.locator("#attnviz-view img, #attnviz-view script").count() == 0
    assert HOSTILE[2] in page.locator(".av-flag").inner_text()
    assert HOSTILE[1] in page.locator(".av-step-kind").last.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
