"""The other interactive views in a real browser: what is on the page equals the numbers, by pointer and by keyboard."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from attnviz.hooks import BadInput, ShapeError, TokenMatrix
from attnviz.plugins.renderers import lens_grid, token_matrix
from attnviz.plugins.renderers.token_strip import token_strip_payload
from tests.renderers.samples import (
    PLAIN,
    finding,
    make_tokens,
    sample_heads,
    sample_lens,
    sample_matrix,
    sample_scores,
)


def readout(page: Any, within: str = "") -> str:
    return str(page.locator(f"{within} .av-readout").first.inner_text())


def test_strip_payload_needs_one_score_per_token() -> None:
    tokens = make_tokens(PLAIN)
    assert token_strip_payload(tokens, None)["scores"] is None
    with pytest.raises(ShapeError, match=r"\[16\].*\[3\]"):
        token_strip_payload(tokens, None, np.zeros(3))


def test_lens_refuses_positions_outside_the_text_and_unnamed_ids() -> None:
    shown = sample_lens(PLAIN)
    far = dataclasses.replace(shown.result, positions=shown.result.positions + 1)
    with pytest.raises(ShapeError, match=r"0\.\.15"):
        lens_grid.render(dataclasses.replace(shown, result=far))
    with pytest.raises(BadInput, match="no text for the ids"):
        lens_grid.render(dataclasses.replace(shown, result=dataclasses.replace(shown.result, labels={})))


def test_matrix_refuses_positions_outside_the_text() -> None:
    matrix = TokenMatrix(scores=np.zeros((1, 1)), rows=np.array([16]), columns=np.array([0]), unit="share")
    with pytest.raises(ShapeError, match=r"rows.*0\.\.15"):
        token_matrix.render(finding(matrix, make_tokens(PLAIN)))


@pytest.mark.browser
def test_head_map_by_keyboard(open_page: Any) -> None:
    shown = sample_heads(PLAIN)
    page = open_page(shown)
    page.locator(".av-cell").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    value = float(shown.result.metrics["entropy"][1, 1])
    assert readout(page) == f"Layer 1, head 1: entropy {value:.4f} (bits)"
    page.keyboard.press("Enter")
    assert page.locator(".av-block h3").first.inner_text() == "Layer 1 · Head 1"
    assert page.locator('.av-cell[aria-selected="true"]').count() == 1
    assert f"{value:.4f}" in page.locator(".av-facts").inner_text()
    page.keyboard.press("ArrowDown")
    assert readout(page) == "Layer 2, head 1: no attention"
    assert page.locator(".av-cell.av-none").count() == 4


@pytest.mark.browser
def test_head_map_lists_the_tokens_that_receive_most(open_page: Any) -> None:
    shown = sample_heads(PLAIN)
    page = open_page(shown)
    page.get_by_label("Colour").select_option("focus")
    assert page.locator("h3").first.inner_text() == "Focus of every head"
    received = shown.result.received.mean(axis=0)
    best = int(received.argmax())
    first = page.locator('.av-bars[aria-label="Most read tokens"] .av-bar-row').first
    assert first.inner_text().split()[0] == str(best)
    assert f"{received[best]:.3f}" in first.inner_text()
    page.get_by_role("button", name="Layer 3: 0.2000").click()
    best = int(shown.result.received[3].argmax())
    assert first.inner_text().split()[0] == str(best)
    assert page.locator(".av-badge", has_text="sink").count() <= 1


@pytest.mark.browser
def test_lens_shows_the_position_before_the_chosen_token(open_page: Any) -> None:
    shown = sample_lens(PLAIN)
    lens = shown.result
    page = open_page(shown)
    assert page.locator("#attnviz-view").get_attribute("data-column") == "14"
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    share = float(np.exp(lens.top_logprobs[-1, 4, 0]))
    assert f"{share * 100:.2f} %" in readout(page)
    page.keyboard.press("Enter")
    assert page.locator(".av-predictions h3").inner_text() == "Before token 5 “·the” was read"
    model = page.locator(".av-site").first
    assert model.locator("strong").inner_text() == "model"
    shares = [f"{float(np.exp(x)) * 100:.2f} %" for x in lens.top_logprobs[-1, 4]]
    assert model.locator(".av-guess-share").all_inner_texts() == shares
    assert f"rank {lens.target_rank[-1, 4]}" in model.inner_text() or lens.target_rank[-1, 4] == 0
    assert page.locator(".av-site").count() == len(lens.sites)
    assert page.locator(".av-settled strong").inner_text() == lens.sites[lens.settles_at[4]]


@pytest.mark.browser
def test_lens_pins_and_draws_trajectories(open_page: Any) -> None:
    shown = sample_lens(PLAIN)
    lens = shown.result
    page = open_page(shown)
    page.get_by_role("button", name="Pin", exact=True).click()
    page.locator(".av-heat").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Pin", exact=True).click()
    assert page.locator(".av-trace polyline").count() == 2
    page.locator(".av-trace").focus()
    page.keyboard.press("ArrowLeft")
    told = readout(page, ".av-traces")
    assert told.startswith(f"{lens.sites[-2]}: ")
    for column in (14, 13):
        share = float(np.exp(lens.target_logprob[-2, column]))
        assert f"{share * 100:.2f} %" in told
    page.get_by_role("button", name="Unpin").first.click()
    assert page.locator(".av-trace polyline").count() == 1


@pytest.mark.browser
def test_lens_modes_colours_and_self_check(open_page: Any) -> None:
    page = open_page(sample_lens(PLAIN))
    for colour in ("target", "entropy", "kl", "rank", "probability"):
        page.get_by_label("Colour").select_option(colour)
    page.get_by_role("button", name="heat map", exact=True).click()
    assert page.locator(".av-check-ok").inner_text() == "✓ self-check: max |difference| 2.4e-6"
    bad = open_page(sample_lens(PLAIN, ok=False), width=390, dark=True)
    assert "failed" in bad.locator(".av-check-bad").inner_text()
    assert bad.locator('[role="alert"].av-check').count() == 1


@pytest.mark.browser
def test_token_strip_selects_and_says_exact_scores(open_page: Any) -> None:
    page = open_page(sample_scores(PLAIN))
    assert page.locator(".av-turn").evaluate_all("all => all.map((e) => e.dataset.role)") == [
        "system",
        "user",
        "answer",
    ]
    page.locator(".av-token").nth(15).focus()
    page.keyboard.press("ArrowLeft")
    assert readout(page) == "token 14 “.”, id 14: 1.8000 change of log-probability (nats)"
    page.keyboard.press("Enter")
    assert page.locator('.av-token[aria-pressed="true"]').get_attribute("data-index") == "14"
    page.keyboard.press("Home")
    assert readout(page).startswith("token 0 “<s>”, id 0: -1.0000")
    page.locator(".av-token").nth(3).hover()
    assert readout(page) == "token 3 “·sat”, id 3: no value"


@pytest.mark.browser
def test_token_matrix_reads_cells_and_shades_sources(open_page: Any) -> None:
    shown = sample_matrix(PLAIN)
    page = open_page(shown)
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert readout(page).endswith(f"{shown.result.scores[3, 1]:.4f} share of the row")
    page.keyboard.press("Enter")
    assert page.locator(".av-caption").first.inner_text() == "Sources of target 14 “.”"


@pytest.mark.browser
def test_controls_have_names_and_one_tab_stop_per_group(open_page: Any) -> None:
    for shown in (sample_heads(PLAIN), sample_lens(PLAIN), sample_scores(PLAIN), sample_matrix(PLAIN)):
        page = open_page(shown)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, [tabindex="0"]')].filter((e) =>
                !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).length"""
        )
        assert nameless == 0
        assert page.locator('.av-tokens [tabindex="0"]').count() <= 1
        assert page.locator('.av-map-grid [tabindex="0"]').count() <= 1
