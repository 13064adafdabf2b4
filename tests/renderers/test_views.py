"""The other interactive views in a real browser: what is on the page equals the numbers, by pointer and by keyboard."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from attnviz.hooks import BadInput, HeadScores, ShapeError, TokenMatrix
from attnviz.plugins.renderers import head_map, html_page, lens_grid, token_matrix
from attnviz.plugins.renderers._assets import pack
from attnviz.plugins.renderers.token_strip import token_strip_payload
from attnviz.testing import sample_findings
from tests.renderers.samples import (
    HOSTILE,
    PLAIN,
    finding,
    long_labels,
    make_tokens,
    sample_heads,
    sample_lens,
    sample_matrix,
    sample_roles,
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


def test_head_map_orders_roles_by_metric_and_heads_by_score() -> None:
    roles = head_map.render(sample_roles()).payload["roles"]
    assert [(role["name"], role["short"], role["heads"]) for role in roles[:2]] == [
        ("previous_token", "PT", [[2, 1], [0, 0]]),  # 0.95, 0.9
        ("self", "S", [[0, 1], [2, 1]]),  # 0.8, 0.7
    ]
    assert [role["name"] for role in roles[2:]] == [*HOSTILE[1:3], HOSTILE[7], HOSTILE[9]]
    metrics = head_map.render(sample_roles()).payload["metrics"]
    assert [(metric["base"], metric["group"]) for metric in metrics] == [
        ("previous_token", ""),
        ("self", ""),
        ("previous_token", "effect"),
        ("previous_token", "null"),
    ]
    assert head_map.render(sample_heads()).payload["roles"] == []


def test_initials_of_roles_differ() -> None:
    names = ["first_token", "far_token", "from the_token", "", "??", "self", "a_b_c_d", "élan vital"]
    assert list(head_map.initials(names).values()) == ["FT", "FT2", "FTT", "?", "?2", "S", "ABC", "ÉV"]


def test_a_companion_without_its_metric_stands_alone() -> None:
    alone = HeadScores(metrics={"side_effect": np.zeros((2, 2))}, units={"side_effect": "1"})
    metric = head_map.render(finding(alone, make_tokens(PLAIN))).payload["metrics"][0]
    assert (metric["title"], metric["group"]) == ("side effect", "")


@pytest.mark.browser
def test_head_map_labels_heads(open_page: Any) -> None:
    page = open_page(sample_roles(PLAIN))
    cells = page.locator(".av-cell")
    assert cells.nth(7).inner_text().split() == ["0.95", "PT", "S"]
    assert cells.nth(7).get_attribute("aria-label") == (
        "Layer 2, head 1: previous token 0.9500 (share of weight); roles: previous token, self"
    )
    assert page.locator(".av-cell .av-initials").count() == 3
    cells.nth(7).hover()
    assert page.locator(".av-tip div").all_inner_texts()[2:] == ["Role: previous token", "Role: self"]
    cells.nth(7).focus()
    assert readout(page).endswith("roles: previous token, self")
    chips = page.get_by_role("list", name="self", exact=True).get_by_role("button")
    assert chips.all_inner_texts() == ["L0 H1\n0.80", "L2 H1\n0.70"]
    chips.last.click()
    assert page.locator(".av-block h3").first.inner_text() == "Layer 2 · Head 1"
    assert page.locator('.av-chip[aria-pressed="true"]').count() == 2  # once per role
    assert cells.nth(7).get_attribute("aria-selected") == "true"
    assert page.locator(".av-wide dd").inner_text() == "previous token, self"
    rows = page.locator(".av-partners tbody tr")
    assert rows.count() == 1
    assert rows.locator("td").all_inner_texts() == ["0.9500", "0.9000", "0.5000"]  # (0.95 − 0.5) / (1 − 0.5) = 0.9


@pytest.mark.browser
def test_head_map_groups_effects_and_nulls_and_shows_signs(open_page: Any) -> None:
    shown = sample_roles(PLAIN)
    page = open_page(shown)
    groups = page.locator("optgroup").evaluate_all("all => all.map((g) => [g.label, g.textContent])")
    assert groups == [["Effect", "previous token"], ["Null", "previous token"]]
    page.get_by_label("Colour").select_option("previous_token_effect")
    assert page.locator("h3").first.inner_text() == "Previous token effect of every head"
    effect = shown.result.metrics["previous_token_effect"]
    assert effect.dtype == np.float32
    assert float(np.nanmin(effect)) == -1  # (0 − 0.5) / (1 − 0.5)
    assert page.locator(".av-legend-scale span").all_inner_texts() == ["-1.000", "0.000", "1.000"]
    below = page.locator(".av-cell").nth(8).evaluate("cell => cell.style.backgroundColor")
    assert below == "rgb(8, 64, 140)"  # the blue end of the diverging map
    plain = open_page(sample_heads(PLAIN))
    assert plain.locator("optgroup, .av-initials, .av-roles, .av-role-key, .av-partners, .av-wide").count() == 0


@pytest.mark.browser
def test_head_map_tells_no_value_from_no_attention(open_page: Any) -> None:
    page = open_page(sample_roles(PLAIN))
    page.get_by_label("Colour").select_option("self")
    page.locator(".av-cell").nth(8).focus()
    assert readout(page) == "Layer 2, head 2: self: no value"
    page.keyboard.press("ArrowUp")
    assert readout(page) == "Layer 1, head 2: no attention"
    assert page.locator(".av-key").inner_text() == "no attention or no value"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1360, False), (390, True)])
def test_hostile_role_names_stay_text(open_page: Any, width: int, dark: bool) -> None:
    page = open_page(sample_roles(), width=width, dark=dark)
    assert page.locator("#attnviz-view img, #attnviz-view script, #attnviz-view iframe").count() == 0
    titles = page.locator(".av-roles .av-role-name").evaluate_all("all => all.map((e) => e.textContent)")
    reordered = "a⟨U+2028⟩b⟨U+202E⟩evil"
    assert titles == ["previous token", "self", *HOSTILE[1:3], reordered, HOSTILE[9]]
    page.locator(".av-cell").first.click()
    assert page.locator(".av-wide dd").inner_text() == f"previous token, {HOSTILE[1]}, {HOSTILE[2]}"
    assert page.locator(".av-cell").first.locator(".av-initials").inner_text().split() == ["PT", "+2"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = page.locator(".av-cell .av-initials").evaluate_all(
        "all => all.filter((e) => e.scrollWidth > e.clientWidth || parseFloat(getComputedStyle(e).fontSize) < 9).length"
    )
    assert small == 0


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
def test_head_map_of_two_stacks_says_which_tokens_a_layer_does_not_read(open_page: Any) -> None:
    page = open_page(sample_findings("head_scores")["two stacks"])
    assert page.locator(".av-name-row").all_inner_texts() == ["encoder 0", "<script>alert(1)</script>", "cross 0"]
    rows = page.locator('.av-bars[aria-label="Most read tokens"] .av-bar-row')
    # token 4: mean of 1 (encoder) and 4 (cross); token 3: of 1 and 3; token 7: 2 (decoder)
    assert [row.split()[0] for row in rows.all_inner_texts()[:3]] == ["4", "3", "7"]
    assert "2.500" in rows.first.inner_text()
    page.get_by_role("button", name="Encoder 0: 0.5000").click()
    assert rows.count() == 5
    said = page.locator(".av-block .av-caption").last.inner_text()
    assert "Encoder 0 (3 tokens of the run are no keys of it)" in said
    page.locator(".av-cell").first.focus()
    assert readout(page).startswith("Encoder 0, head 0: entropy 0.5000 (bits)")


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


def test_blocks_hold_their_strongest_score_of_either_sign() -> None:
    scores = np.array([[1, -2, np.nan], [0.5, 1, np.nan], [-3, 3, -1]], np.float32)
    strongest = token_matrix.strongest_of_blocks(scores, 2)
    np.testing.assert_array_equal(strongest, [[-2, np.nan], [3, -1]])


def long_matrix() -> Any:
    rng = np.random.default_rng(6)
    positions = np.arange(600)
    scores = np.tril(rng.normal(0, 1, (600, 600))).astype(np.float32)
    return finding(
        TokenMatrix(scores=scores, rows=positions, columns=positions, unit="nats"), make_tokens(long_labels(600))
    )


def test_a_large_matrix_comes_in_blocks_and_its_rows_are_exact() -> None:
    shown = long_matrix()
    scores = shown.result.scores
    payload = token_matrix.render(shown).payload
    assert (payload["block"], payload["scores"]["shape"], payload["signed"]) == (2, [300, 300], True)
    assert payload["most"] == np.abs(scores).max()
    assert token_matrix.part(shown, {"rows": [7, 8]})["scores"] == pack(scores[7])
    assert token_matrix.render_file(shown).payload["block"] == 1
    for what in ({}, {"rows": [600, 601]}, {"rows": [3, 5]}):
        with pytest.raises(BadInput, match="Part of a ma"):
            token_matrix.part(shown, what)


@pytest.mark.browser
def test_a_large_matrix_fetches_the_row_that_is_looked_at(open_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_matrix, "CELLS_IN_FILE", 20_000)
    shown = long_matrix()
    scores = shown.result.scores
    text = html_page.page(shown)
    page = open_page(text)
    assert (
        "drawn is the strongest of each block of 5 × 5 tokens. The file does not hold"
        in page.locator(".av-notes").inner_text()
    )
    rows = json.dumps({i: token_matrix.part(shown, {"rows": [i, i + 1]}) for i in (300, 599)})
    text = re.sub(r"    part: \(\) => .*\n", lambda _: f"part: async ({{ rows }}) => ({rows})[rows[0]],", text)
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text.replace("offline: true", "offline: false"))
    page = open_page(text)
    page.wait_for_function("document.querySelectorAll('.av-caption')[0].textContent.endsWith('”')")
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    assert readout(page).endswith(f"{scores[599, 0]:.4f} nats")
    page.keyboard.press("ArrowUp")
    assert readout(page).startswith("targets 595–599 ← sources 0–4 · strongest ")
    page.locator(".av-token").nth(300).click()
    page.wait_for_function(
        "document.querySelectorAll('.av-caption')[0].textContent.startsWith('Sources of target 300')"
    )
    page.wait_for_function("document.querySelectorAll('.av-caption')[0].textContent.endsWith('”')")
    page.locator(".av-token").nth(20).hover()
    assert readout(page).endswith(f"{scores[300, 20]:.4f} for target 300")


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
