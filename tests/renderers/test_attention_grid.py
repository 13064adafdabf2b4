"""The attention view: exact encoding, marginals against a calculation by hand, payload size, and the real page."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from attnviz.hooks import AttentionPattern, BadInput, ShapeError
from attnviz.plugins.renderers import attention_grid as grid
from tests.renderers import samples
from tests.renderers.samples import PLAIN, finding, make_every, make_tokens, pattern, sample_attention


def test_encoding_gives_the_rounded_decimals_of_every_weight() -> None:
    rng = np.random.default_rng(0)
    weights = np.concatenate([10.0 ** rng.uniform(-8, 0, 5000), [0.0, 1e-4, 1e-3, 0.99996, 1.0]]).astype(np.float32)
    back = grid.decode(grid.encode(weights))
    exact = weights.astype(np.float64)
    assert np.abs(back - exact).max() <= 5.0001e-5
    large = exact >= 1e-3
    assert all(f"{a:.4f}" == f"{b:.4f}" for a, b in zip(back[large], exact[large], strict=True))
    middle = (exact >= 1e-4) & ~large
    assert all(f"{a:.5f}" == f"{b:.5f}" for a, b in zip(back[middle], exact[middle], strict=True))
    small = exact < 1e-4
    assert all(f"{a:.6f}" == f"{b:.6f}" for a, b in zip(back[small], exact[small], strict=True))


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_encoding_refuses_what_is_no_weight(bad: float) -> None:
    with pytest.raises(BadInput, match="0 to 1"):
        grid.encode(np.array([[bad]], np.float32))


def hand_made() -> AttentionPattern:
    # row 2 is uniform over 3 keys (focus 0), row 1 sits on key 0 (focus 1), row 0 sees one key (no focus)
    weights = np.array([[1, 0, 0], [1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    return AttentionPattern(
        weights=weights, layer=0, head=0, thumbnails=np.full((1, 1, 2, 2), 9, np.uint8), causal=True
    )


def test_marginals_by_hand() -> None:
    result = hand_made()
    may = grid.allowed(result)
    np.testing.assert_allclose(grid.focus(result.weights, may), [np.nan, 1, 0], atol=1e-6)
    # key 0 gets 1 + 1 + 1/3 where a uniform head gives 1 + 1/2 + 1/3; key 1 gets 1/3 of 1/2 + 1/3; key 2 all of 1/3
    np.testing.assert_allclose(
        grid.received(result.weights, may), [(7 / 3) / (11 / 6), (1 / 3) / (5 / 6), 1.0], rtol=1e-6
    )


def test_a_uniform_head_receives_one_everywhere() -> None:
    weights = np.tri(7) / np.arange(1, 8)[:, None]
    np.testing.assert_allclose(grid.received(weights, np.tri(7, dtype=bool)), np.ones(7), rtol=1e-6)


def test_a_window_counts_only_what_it_shows() -> None:
    """Window 2: rows see 1, 2, 2 keys; a uniform head of that window receives 1.0 everywhere and has focus 0."""
    band = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], bool)
    weights = (band / band.sum(axis=1, keepdims=True)).astype(np.float32)
    picture = np.full((2, 1, 2, 2), 9, np.uint8)
    result = AttentionPattern(
        weights=weights, layer=1, head=0, thumbnails=picture, causal=True, visible=band,
        every=np.stack([np.eye(3), weights])[:, None].astype(np.float16),
        every_visible=np.stack([np.tri(3, dtype=bool), band]),
    )  # fmt: skip
    may = grid.allowed(result)
    np.testing.assert_allclose(grid.received(weights, may), [1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(grid.focus(weights, may), [np.nan, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(grid.allowed(result, 0), np.tri(3, dtype=bool))
    np.testing.assert_array_equal(grid.allowed(result, 1), band)


def test_sinks_left_out_count_for_nothing() -> None:
    result = hand_made()
    without = AttentionPattern(
        weights=np.array([[0, 0, 0], [0, 1, 0], [0, 0.5, 0.5]], np.float32),
        layer=0,
        head=0,
        thumbnails=result.thumbnails,
        causal=True,
        sinks=(0,),
    )
    may = grid.allowed(without)
    assert may.sum(axis=1).tolist() == [0, 1, 2]
    np.testing.assert_allclose(grid.focus(without.weights, may), [np.nan, np.nan, 0], atol=1e-6)
    np.testing.assert_allclose(grid.received(without.weights, may), [np.nan, 1, 1], rtol=1e-6)
    view = grid.render(finding(without, make_tokens(("a", "b", "c"))))
    assert view.payload["first_tokens"] == []


def test_starts_on_log_only_where_the_head_rests_on_its_first_token() -> None:
    count = 12
    every = make_every(1, 1, count)
    every[0, 0] = np.tri(count) / np.arange(1, count + 1)[:, None]
    tokens = make_tokens(PLAIN[:count])
    assert grid.render(finding(pattern(every), tokens)).payload["transform"] == "sqrt"
    every[0, 0] = 0
    every[0, 0, :, 0] = 1
    assert grid.render(finding(pattern(every), tokens)).payload["transform"] == "log10"


def test_thumbnails_shrink_by_the_largest_value() -> None:
    big = np.zeros((1, 1, 64, 64), np.uint8)
    big[0, 0, 63, 5] = 200
    small = grid.shrink(big, 32)
    assert small.shape == (1, 1, 32, 32)
    assert small[0, 0, 31, 2] == 200
    assert (small > 0).sum() == 1


def test_wrong_token_count_is_refused() -> None:
    every = make_every(1, 1, 6)
    with pytest.raises(ShapeError, match=r"\[5\].*\[6\]"):
        grid.render(finding(pattern(every), make_tokens(PLAIN[:5])))


def test_payload_at_512_tokens_stays_under_300_kilobytes() -> None:
    count = 512
    every = make_every(12, 12, count)
    tokens = make_tokens(samples.long_labels(count))
    worst = 0
    for layer, head in [(0, 0), (3, 5), (7, 1), (11, 11), (5, 3), (8, 8)]:
        view = grid.render(finding(pattern(every, layer, head), tokens))
        worst = max(worst, len(json.dumps(view.payload)))
    print(f"largest payload {worst} bytes")
    assert worst <= 300_000


# ------------------------------------------------------------------------------------------------ the page


def readout(page: Any) -> str:
    return str(page.locator(".av-readout").inner_text())


@pytest.mark.browser
def test_keyboard_and_exact_values(open_page: Any) -> None:
    shown = sample_attention()
    page = open_page(shown)
    weights = shown.result.weights
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    assert readout(page).endswith(f"weight {weights[15, 0]:.4f}")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert readout(page).endswith(f"weight {weights[14, 1]:.4f}")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.av-token[aria-pressed=true]').dataset.index === '14'")
    page.keyboard.press("End")
    assert "not visible" in readout(page)


@pytest.mark.browser
def test_heads_switch_by_arrow_keys_and_say_so(open_page: Any) -> None:
    page = open_page(sample_attention())
    page.locator(".av-head").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('#attnviz-view[data-shown="1.1"]')
    assert page.locator(".av-detail h3").inner_text() == "Layer 1 · Head 1"
    assert page.locator('.av-head[aria-selected="true"]').get_attribute("aria-label") == "Layer 1, head 1"
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Layer 1, head 1"


@pytest.mark.browser
def test_a_head_that_is_not_in_the_file_is_said_not_drawn(open_page: Any) -> None:
    every = make_every(4, 4, 16)
    page = open_page(finding(pattern(every, 1, 2), make_tokens(PLAIN)))
    page.locator(".av-head").first.click()
    page.wait_for_selector(".av-problem:not([hidden])")
    assert "not in this file" in page.locator(".av-problem").inner_text()
    assert page.locator(".av-detail h3").inner_text() == "Layer 1 · Head 2"
    assert page.locator('.av-head[aria-selected="true"]').get_attribute("aria-label") == "Layer 1, head 2"


@pytest.mark.browser
def test_layers_without_attention_give_their_reason(open_page: Any) -> None:
    every = make_every(3, 2, 16)
    result = pattern(every, 0, 0)
    thumbnails = result.thumbnails.copy()
    thumbnails[1] = 0
    thumbnails[2, 1] = 0
    missing = AttentionPattern(
        weights=result.weights, layer=0, head=0, thumbnails=thumbnails, causal=True, missing={1: "linear <b>layer</b>"}
    )
    page = open_page(finding(missing, make_tokens(PLAIN)))
    assert page.locator(".av-missing").inner_text() == "no attention: linear <b>layer</b>"
    assert page.locator(".av-head").count() == 4
    assert page.locator(".av-head:disabled").get_attribute("title") == "Layer 2 has no head 1"


@pytest.mark.browser
def test_keys_outside_the_window_are_said_to_be_hidden(open_page: Any) -> None:
    rows, columns = np.arange(16)[:, None], np.arange(16)
    window = (columns <= rows) & (columns > rows - 3)
    weights = np.where(window, 1 / window.sum(axis=1, keepdims=True), 0).astype(np.float32)
    result = AttentionPattern(
        weights=weights,
        layer=0,
        head=0,
        thumbnails=samples.make_thumbnails(weights[None, None]),
        causal=True,
        visible=window,
    )
    page = open_page(finding(result, make_tokens(PLAIN)))
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    assert readout(page).endswith("the key lies outside the window of this layer")
    page.keyboard.press("End")
    assert readout(page).endswith("weight 0.3333")


@pytest.mark.browser
def test_switching_heads_twice_asks_once_and_drops_stale_answers(browser: Any, tmp_path: Any) -> None:
    """A host that answers slowly, and the first request last."""
    every = make_every(2, 2, 16)
    shown = finding(pattern(every, 0, 0), make_tokens(PLAIN))
    answers = json.dumps(
        {
            f"{layer}.{head}": grid.head_data(every[layer, head], layer, head, shown)
            for layer in (0, 1)
            for head in (0, 1)
        }
    )
    slow = """fetch: (wanted) => new Promise((resolve) => {
        window.asked = (window.asked || []).concat([`${wanted.layer}.${wanted.head}`]);
        const wait = {"0.1": 300, "1.0": 60, "1.1": 10}[`${wanted.layer}.${wanted.head}`];
        setTimeout(() => resolve(ANSWERS[`${wanted.layer}.${wanted.head}`]), wait);
      }),""".replace("ANSWERS", answers)
    text = samples_html(shown)
    text = re.sub(r"    fetch: \(\) => .*\n", lambda _: slow, text)
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text)  # the script is no longer the one the policy names
    (tmp_path / "slow.html").write_text(text, encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "slow.html").as_uri())
    page.wait_for_selector('#attnviz-view[data-ready="1"]')
    for layer, head in ((0, 1), (1, 0), (1, 1)):
        page.locator(f'.av-head[data-layer="{layer}"][data-head="{head}"]').click()
    page.wait_for_selector('#attnviz-view[data-shown="1.1"]')
    page.wait_for_timeout(500)
    assert page.locator(".av-detail h3").inner_text() == "Layer 1 · Head 1"
    page.locator('.av-head[data-layer="0"][data-head="1"]').click()
    page.locator('.av-head[data-layer="0"][data-head="0"]').click()
    page.wait_for_selector('#attnviz-view[data-shown="0.0"]')
    assert page.evaluate("window.asked") == ["0.1", "1.0", "1.1"]
    page.close()


@pytest.mark.browser
def test_switching_between_heads_that_were_seen(open_page: Any) -> None:
    count = 512
    every = make_every(12, 12, count)
    keep = AttentionPattern(
        weights=every[3, 5],
        layer=3,
        head=5,
        thumbnails=samples.make_thumbnails(every),
        causal=True,
        every=None,
    )
    shown = finding(keep, make_tokens(samples.long_labels(count)))
    html = samples_html(shown)
    # a second head in the file, as if it had been saved with all heads
    other = json.dumps(grid.head_data(every[3, 6], 3, 6, shown))
    lacking = ",".join(["null"] * 6)
    html = re.sub(r'"every": null', lambda _: f'"every": [null,null,null,[{lacking},{other}]]', html)
    page = open_page(html)
    for head in ("6", "5", "6"):
        page.locator(f'.av-head[data-layer="3"][data-head="{head}"]').click()
        page.wait_for_selector(f'#attnviz-view[data-shown="3.{head}"]')
        assert page.locator(".av-detail h3").inner_text() == f"Layer 3 · Head {head}"


def samples_html(shown: Any) -> str:
    from attnviz.plugins.renderers.html_page import page as html_text

    return html_text(shown)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1360, False), (1360, True), (390, False)])
def test_scales_zoom_and_shading_on_every_screen(open_page: Any, width: int, dark: bool) -> None:
    page = open_page(sample_attention(), width=width, dark=dark)
    for scale in ("linear", "sqrt", "power", "log10"):
        page.get_by_label("Colour").select_option(scale)
        assert "scale" in page.locator(".av-legend-caption").inner_text()
    page.get_by_label("without first token").check()
    assert "renormalised" in page.locator(".av-legend-caption").inner_text()
    page.get_by_label("Shade").select_option("read_by")
    assert "Who reads" in page.locator(".av-strip-bar .av-caption").inner_text()
    for _ in range(14):
        page.get_by_role("button", name="Zoom in").click()
    assert page.locator(".av-zoom-value").inner_text() == "1000 %"
    page.get_by_role("button", name="Fit to the window").click()
    for _ in range(14):
        page.get_by_role("button", name="Zoom out").click()
    assert page.locator(".av-zoom-value").inner_text() == "20 %"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
