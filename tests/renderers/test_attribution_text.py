"""The view of an attribution: what is on the page equals the numbers, by pointer, by keyboard, and from outside."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from attnviz.hooks import BadInput, Finding, Segment, Span
from attnviz.plugins.renderers import attribution_text
from tests.renderers.samples import (
    HOSTILE,
    PLAIN,
    finding,
    long_labels,
    make_tokens,
    sample_attribution,
    sample_scores,
)
from tests.ui.browsing import painted


def changed(shown: Finding, **changes: Any) -> Finding:
    return dataclasses.replace(shown, result=dataclasses.replace(shown.result, **changes))


def by_hand() -> Finding:
    """Two targets and four sources: rows of absolute sum 2 and 4."""
    scores = np.array([[1.0, -0.5, 0.5, 0.0], [-2.0, 0.0, 1.0, 1.0]], np.float32)
    spans = tuple(Span(i, i + 1, i, f"w{i}") for i in range(4))
    result = dataclasses.replace(
        sample_attribution(PLAIN).result,
        targets=(spans[3], Span(4, 5, 9, "next")),
        sources=spans,
        scores=scores,
        normalized=scores / np.array([[2.0], [4.0]], np.float32),
        target_values=np.array([-1.0, -0.5], np.float32),
        delta=np.array([0.001, -0.25], np.float32),
    )
    return finding(result, make_tokens(("w0", "w1", "w2", "w3")), params={"tolerance": 0.01}, generated_from=3)


# ------------------------------------------------------------------------------------------------ data


def test_another_kind_of_result_is_refused() -> None:
    with pytest.raises(BadInput, match="expected an attribution, got token_scores"):
        attribution_text.render(sample_scores())


def test_groups_keep_their_roles_and_the_start_of_the_answer() -> None:
    shown = sample_attribution(PLAIN)
    words = (Span(0, 1, 0, "<s>"), Span(1, 4, -1, "The cat sat"), Span(4, 9, -1, "on … the"), Span(9, 16, -1, "rest"))
    tokens = dataclasses.replace(shown.tokens, segments=(Segment("user", 1, 4), Segment("assistant", 9, 16)))
    result = dataclasses.replace(
        shown.result, sources=words, scores=shown.result.scores[:, :4], normalized=shown.result.normalized[:, :4]
    )
    payload = attribution_text.render(
        dataclasses.replace(shown, tokens=tokens, result=result, generated_from=9)
    ).payload
    assert payload["segments"] == [
        {"role": "user", "start": 1, "stop": 2},
        {"role": "assistant", "start": 3, "stop": 4},
    ]
    assert payload["generated_from"] == 3
    assert payload["sources"][1] == [1, 4, -1, "The cat sat"]


def test_the_tolerance_is_the_one_the_analysis_was_asked_for() -> None:
    shown = sample_attribution(PLAIN)
    found = [
        attribution_text.render(dataclasses.replace(shown, params=p)).payload["tolerance"]
        for p in ({}, {"tolerance": 1}, {"tolerance": "x"}, {"tolerance": True})
    ]
    assert found == [None, 1.0, None, None]


def test_many_scores_are_rounded_to_four_digits_and_it_is_said() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=5000) * 10.0 ** rng.integers(-6, 6, 5000)).astype(np.float32)
    scores[:3] = (0, np.nan, -1)
    rounded = attribution_text.rounded(scores)
    np.testing.assert_allclose(rounded, scores, rtol=2**-15)
    assert (rounded.view(np.uint32) & 0x1FF == 0)[2:].all()  # the low bits are free
    assert len(np.unique(np.abs(rounded))) > 4000
    small, large = sample_attribution(PLAIN), sample_attribution(long_labels(400), targets=200)
    assert attribution_text.ROUNDED not in attribution_text.render(small).payload["info"]
    assert attribution_text.ROUNDED in attribution_text.render(large).payload["info"]


# ------------------------------------------------------------------------------------------------ the page

TARGETS, SOURCES = ".av-targets .av-token", ".av-sources .av-token"


def title(page: Any) -> str:
    return str(page.locator("h3").first.inner_text())


def raw(page: Any) -> Any:
    page.get_by_label("Scale").select_option("raw")
    return page


def colours(page: Any, where: str) -> list[str]:
    painted(page)
    return list(page.locator(where).evaluate_all("all => all.map((e) => e.style.backgroundColor)"))


def lines(page: Any) -> list[tuple[int, int, float, bool]]:
    painted(page)
    found = page.locator(".av-lines path").evaluate_all(
        "all => all.map((p) => [+p.dataset.target, +p.dataset.source, +p.getAttribute('stroke-width'),"
        " p.hasAttribute('stroke-dasharray')])"
    )
    return [tuple(line) for line in found]


ORANGE, BLUE = "rgb(158, 62, 6)", "rgb(8, 64, 140)"  # the ends of the diverging map


@pytest.mark.browser
def test_a_target_shades_its_sources_and_says_its_numbers(open_page: Any) -> None:
    page = raw(open_page(by_hand()))
    assert title(page) == "Sources of target 4 “next” (would come next)"
    assert colours(page, SOURCES) == [BLUE, "", "rgb(246, 164, 90)", "rgb(246, 164, 90)"]  # −2, 0, 1, 1 of at most 2
    assert page.locator(".av-facts-line").inner_text() == (
        "log-probability -0.5000 · sum of scores 0.0000 nats · delta -0.25000 ✗ not within 0.01"
    )
    assert page.locator(".av-verdict").inner_text() == "Not within the tolerance of 0.01: 1 of 2 targets, marked ✗."
    assert page.locator(f"{TARGETS}.av-off").count() == 1
    page.locator(TARGETS).first.hover()
    assert colours(page, SOURCES) == ["rgb(246, 164, 90)", "rgb(171, 205, 232)", "rgb(248, 207, 170)", ""]
    assert title(page) == "Sources of target 3 “w3”"
    assert "sum of scores 1.0000 nats · delta 0.00100 ✓ within 0.01" in page.locator(".av-facts-line").inner_text()
    page.locator(SOURCES).nth(1).hover()
    assert (
        page.locator(".av-readout").inner_text() == "source 1 “w1”: 0.0000 nats, 0.00 % of the row for target 4 “next”"
    )
    painted(page)
    assert title(page) == "Targets of source 1 “w1”"
    page.mouse.move(5, 5)
    painted(page)
    assert title(page) == "Sources of target 4 “next” (would come next)"


@pytest.mark.browser
def test_the_scale_is_stated_and_switches_to_raw_scores(open_page: Any) -> None:
    page = open_page(by_hand())
    caption = page.locator(".av-legend-caption")
    assert "share of the row’s sum of absolute scores" in caption.inner_text()
    assert page.locator(".av-legend-scale span").all_inner_texts() == ["-0.500", "0", "0.500"]
    page.locator(TARGETS).first.click()
    assert colours(page, SOURCES)[0] == ORANGE  # 1 of 2 = 0.5, as large as any share
    raw(page)
    assert caption.inner_text() == "nats, linear, one scale for all targets; orange towards, blue (dashed) against"
    assert page.locator(".av-legend-scale span").all_inner_texts() == ["-2.000", "0", "2.000"]
    assert colours(page, SOURCES)[0] == "rgb(246, 164, 90)"


@pytest.mark.browser
def test_only_the_strongest_lines_are_drawn_and_what_they_keep_is_said(open_page: Any) -> None:
    page = raw(open_page(by_hand()))
    assert page.locator(".av-kept").inner_text() == "3 lines of 3 keep 100.0 % of this target’s total |score|."
    slider = page.get_by_label("Largest number of lines")
    slider.fill("2")
    assert page.locator(".av-kept").inner_text() == "2 lines of 3 keep 75.0 % of this target’s total |score|."
    assert lines(page) == [(1, 2, 3.5, False), (1, 0, 7.0, True)]  # width 7 for the largest score, dashed if against
    slider.fill("0")
    assert lines(page) == []
    assert page.locator(".av-kept").inner_text() == "0 lines of 3 keep 0.0 % of this target’s total |score|."
    slider.fill("10")
    page.locator(SOURCES).nth(2).click()
    assert page.locator(".av-kept").inner_text() == "2 lines of 2 keep 100.0 % of this source’s total |score|."
    assert [line[:2] for line in lines(page)] == [(0, 2), (1, 2)]
    assert colours(page, TARGETS) == ["rgb(248, 207, 170)", "rgb(246, 164, 90)"]


@pytest.mark.browser
def test_a_lock_holds_until_it_is_released(open_page: Any) -> None:
    page = open_page(sample_attribution(PLAIN))
    page.locator(TARGETS).nth(1).click()
    locked = colours(page, SOURCES)
    page.locator(TARGETS).nth(3).hover()
    assert colours(page, SOURCES) == locked
    assert title(page) == "Sources of target 12 “·the”"
    assert page.get_by_role("button", name="Unlock (Esc)").is_visible()
    page.keyboard.press("Escape")
    assert page.get_by_role("button", name="Unlock (Esc)").is_hidden()
    page.mouse.move(5, 5)
    page.locator(TARGETS).nth(3).hover()
    assert colours(page, SOURCES) != locked
    for _ in range(2):  # once locks, once more releases
        page.locator(TARGETS).nth(0).click()
    assert page.get_by_role("button", name="Unlock (Esc)").is_hidden()
    assert page.locator("#attnviz-view").get_attribute("data-locked") == ""


@pytest.mark.browser
def test_the_keyboard_moves_locks_and_releases(open_page: Any) -> None:
    shown = sample_attribution(PLAIN)
    page = open_page(shown)
    page.locator(f'{TARGETS}[tabindex="0"]').focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    values = shown.result.target_values
    assert page.locator(".av-readout").inner_text() == (
        f"target 12 “·the”: log-probability {values[1]:.4f}: delta 0.00010 ✓ within 0.01"
    )
    painted(page)
    assert title(page) == "Sources of target 12 “·the”"
    page.keyboard.press("Enter")
    assert page.locator("#attnviz-view").get_attribute("data-locked") == "target"
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    score, share = shown.result.scores[1, 1], shown.result.normalized[1, 1]
    assert page.locator(".av-readout").inner_text() == (
        f"source 1 “The”: {score:.4f} nats, {100 * share:.2f} % of the row for target 12 “·the”"
    )
    page.keyboard.press("Escape")
    assert page.locator("#attnviz-view").get_attribute("data-locked") == ""
    assert page.locator(".av-tokens [tabindex='0']").count() == 2  # one stop for targets, one for sources


@pytest.mark.browser
def test_a_chosen_token_is_the_row_of_a_target_or_a_mark_on_a_source(open_page: Any) -> None:
    page = open_page(sample_attribution(PLAIN))
    page.locator(SOURCES).nth(13).click()  # also a target
    page.keyboard.press("Escape")
    page.mouse.move(5, 5)
    painted(page)
    assert title(page) == "Sources of target 13 “·sun”"
    page.locator(SOURCES).nth(2).click()
    page.keyboard.press("Escape")
    page.mouse.move(5, 5)
    painted(page)
    assert title(page) == "Sources of target 13 “·sun”"
    assert page.locator(f'{SOURCES}[aria-pressed="true"]').get_attribute("data-index") == "2"


@pytest.mark.browser
def test_the_matrix_reads_the_same_numbers(open_page: Any) -> None:
    shown = sample_attribution(PLAIN)
    page = open_page(shown)
    page.get_by_role("button", name="Matrix").click()
    assert page.locator(".av-stage").is_hidden()
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    score, share = shown.result.scores[3, 1], shown.result.normalized[3, 1]
    assert page.locator(".av-readout").inner_text() == (
        f"target 14 “.” ← source 1 “The” · {score:.4f} nats, {100 * share:.2f} % of the row"
    )
    page.keyboard.press("Enter")
    assert title(page) == "Sources of target 14 “.”"
    page.get_by_role("button", name="Text").click()
    assert page.locator(".av-lines path").count() == 10
    page.locator("#attnviz-theme").click()
    page.get_by_role("button", name="Matrix").click()
    raw(page)


@pytest.mark.browser
def test_scores_without_sign_zeros_and_gaps(open_page: Any) -> None:
    shown = by_hand()
    plain = changed(shown, scores=np.abs(shown.result.scores), signed=False, delta=None, target_values=None)
    page = raw(open_page(plain))
    assert colours(page, SOURCES)[0] == "rgb(96, 14, 70)"  # the dark end of the sequential map
    assert not any(dashed for *_, dashed in lines(page))
    assert page.locator(".av-facts-line").inner_text() == "log-probability · sum of scores 4.0000 nats"
    assert page.locator(".av-verdict").inner_text() == ""
    empty = open_page(changed(shown, scores=np.zeros((2, 4)), normalized=np.zeros((2, 4))))
    assert colours(empty, SOURCES) == [""] * 4
    assert empty.locator(".av-legend").inner_text() == "All scores are 0."
    assert empty.locator(".av-kept").inner_text() == "No line: this target’s scores are all 0."
    gap = shown.result.scores.copy()
    gap[1, 0] = np.nan
    page = open_page(changed(shown, scores=gap))
    page.locator(TARGETS).nth(1).click()
    page.locator(SOURCES).first.hover()
    assert page.locator(".av-readout").inner_text() == "source 0 “w0”: no value for target 4 “next”"
    none = open_page(
        changed(
            shown,
            targets=(),
            **dict.fromkeys(("scores", "normalized"), np.zeros((0, 4))),
            target_values=None,
            delta=None,
        )
    )
    assert title(none) == "No targets"


@pytest.mark.browser
def test_a_long_text_draws_few_lines_and_keeps_its_numbers(open_page: Any) -> None:
    shown = sample_attribution(long_labels(2000), targets=200)
    page = open_page(shown)
    assert page.locator(SOURCES).count() == 2000
    page.get_by_label("Largest number of lines").fill("60")
    assert len(lines(page)) == 60
    row = np.abs(shown.result.scores[-1].astype(np.float64))
    kept = np.sort(row)[-60:].sum() / row.sum()
    assert page.locator(".av-kept").inner_text().startswith(f"60 lines of 1999 keep {100 * kept:.1f} %")
    page.locator(SOURCES).nth(3).hover()
    score = f"{shown.result.scores[-1, 3]:.4f} nats"
    assert page.locator(SOURCES).nth(3).get_attribute("aria-label").startswith(f"source 3 “·sat”: {score}")
    assert page.locator(SOURCES).nth(4).get_attribute("aria-label") is None  # named when it is looked at
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1360, False), (390, True)])
def test_hostile_texts_stay_text_wherever_they_are_said(open_page: Any, width: int, dark: bool) -> None:
    page = open_page(sample_attribution(HOSTILE, targets=12), width=width, dark=dark)
    for which in (TARGETS, SOURCES):
        for i in range(page.locator(which).count()):
            page.locator(which).nth(i).click()
    page.get_by_role("button", name="Matrix").click()
    assert page.locator("#attnviz-view img, #attnviz-view script, #attnviz-view iframe").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1360, 390])
def test_nothing_moves_away_under_the_pointer(open_page: Any, width: int) -> None:
    labels = ("<s>", "a very long label " * 8, *PLAIN[2:])
    page = open_page(sample_attribution(labels), width=width)
    stage = page.locator(".av-stage")
    before = stage.bounding_box()
    for which in (f"{SOURCES} >> nth=1", f"{SOURCES} >> nth=3", f"{TARGETS} >> nth=0", f"{TARGETS} >> nth=4"):
        page.locator(which).hover()
        painted(page)
        assert stage.bounding_box() == before
        page.locator(which).click()
        painted(page)
        assert stage.bounding_box() == before
        page.keyboard.press("Escape")


@pytest.mark.browser
def test_every_control_has_a_name(open_page: Any) -> None:
    page = open_page(sample_attribution(PLAIN))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, [tabindex="0"]')].filter((e) =>
            !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).length"""
    )
    assert nameless == 0
    assert page.locator(".av-targets").get_attribute("aria-label") == "5 targets; arrow keys move, Enter selects"
    assert page.locator(".av-sources").get_attribute("aria-label") == "16 sources; arrow keys move, Enter selects"
    assert (
        page.locator(f"{TARGETS} >> nth=0").get_attribute("aria-label").startswith("target 11 “·at”: log-probability")
    )
