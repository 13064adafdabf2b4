"""The attention view: exact encoding, marginals against a calculation by hand, payload size, and the real page."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import zlib
from typing import Any

import numpy as np
import pytest

from attnviz.hooks import AttentionPattern, BadInput, Finding, ShapeError
from attnviz.plugins.renderers import attention_grid as grid
from attnviz.plugins.renderers import csv_file
from attnviz.testing import sample_findings
from tests.renderers import samples
from tests.renderers.samples import PLAIN, finding, make_every, make_tokens, pattern, sample_attention

HOSTILE_LAYER = "<script>alert(1)</script>"


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
    assert view.payload["head"]["first_tokens"] == []


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


# ------------------------------------------------------------------------------------------------ rows and columns


def test_a_causal_map_of_the_last_rows_counts_the_keys_before_them() -> None:
    """Rows 2 and 3 of 4 see 3 and 4 keys; uniform rows have focus 0, and every key receives 1."""
    weights = np.array([[1 / 3, 1 / 3, 1 / 3, 0], [1 / 4] * 4], np.float32)
    result = dataclasses.replace(hand_made(), weights=weights, rows=(2, 4))
    may = grid.allowed(result)
    assert may.sum(axis=1).tolist() == [3, 4]
    np.testing.assert_allclose(grid.focus(weights, may), [0, 0], atol=1e-6)
    np.testing.assert_allclose(grid.received(weights, may), np.ones(4), rtol=1e-6)
    data = grid.render(finding(result, make_tokens(PLAIN[:4]))).payload["head"]
    assert (data["rows"], data["columns"]) == ([2, 4], [0, 4])


def test_sinks_are_left_out_of_the_columns_that_have_them() -> None:
    result = dataclasses.replace(
        hand_made(), weights=np.full((2, 2), 0.5, np.float32), rows=(4, 6), columns=(1, 3), causal=False, sinks=(0, 2)
    )
    assert grid.allowed(result).tolist() == [[True, False], [True, False]]


def test_rows_and_columns_outside_the_text_are_refused() -> None:
    result = dataclasses.replace(hand_made(), rows=(3, 6))
    with pytest.raises(ShapeError, match=r"queries.*0\.\.5.*\[3, 6\]"):
        grid.render(finding(result, make_tokens(PLAIN[:5])))


def test_first_tokens_are_those_of_the_stack_whose_keys_they_are() -> None:
    shown = sample_findings("attention_pattern")["cross"]  # source 0..4, decoder from 5 on
    assert grid.first_tokens(shown, range(0, 5)) == [0]
    assert grid.first_tokens(shown, range(5, 8)) == [5]
    assert grid.first_tokens(shown, range(2, 8)) == []  # not what is read first


def test_small_pictures_of_several_shapes_shrink_in_their_own_ratio() -> None:
    result = sample_findings("attention_pattern")["cross"].result
    big = np.zeros((3, 2, 40, 40), np.uint8)
    big[2, 0, 19, 39] = 200
    sizes = np.array([[40, 40], [20, 20], [20, 40]])
    pictures, used = grid.small_pictures(dataclasses.replace(result, thumbnails=big, thumbnail_sizes=sizes), 20)
    assert used == [[20, 20], [20, 20], [10, 20]]
    assert pictures.shape == (3, 2, 20, 20)
    assert pictures[2, 0, 9, 19] == 200
    assert (pictures > 0).sum() == 1


def test_the_share_of_a_learned_sink_reaches_page_and_file() -> None:
    shown = sample_findings("attention_pattern")["learned sink"]
    share = shown.result.sink_share
    payload = grid.render(shown).payload
    assert payload["head"]["sink"]["shape"] == [8]
    assert any("learned sink" in line for line in payload["head"]["info"])
    assert [[head["sink"] is not None for head in layer] for layer in payload["every"]] == [[False] * 3, [True] * 3]
    rows = list(csv.reader(io.StringIO(csv_file.to_text(shown))))[1:]
    sinks = [row for row in rows if row[2] == ""]
    assert [row[3] for row in sinks] == ["learned sink, no token"] * 8
    np.testing.assert_array_equal(np.array([row[4] for row in sinks], np.float32), share)
    totals = [sum(float(row[4]) for row in rows if row[0] == str(q)) for q in range(8)]
    np.testing.assert_allclose(totals, 1, atol=1e-6)


def test_files_name_the_tokens_of_rows_and_columns() -> None:
    shown = sample_findings("attention_pattern")["decoder"]
    labels, rows = shown.tokens.labels, list(csv.reader(io.StringIO(csv_file.to_text(shown))))[1:]
    assert [row[0] + row[2] for row in rows] == ["55", "65", "66", "75", "76", "77"]
    assert {csv_file.safe_cell(labels[int(row[0])]) for row in rows} == {row[1] for row in rows}


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


# ------------------------------------------------------------------------------------------------ long texts


def test_blocks_hold_their_largest_weight() -> None:
    weights = np.arange(20, dtype=np.float32).reshape(4, 5) / 20
    assert grid.block_of((4, 5), 20) == 1
    assert grid.block_of((4, 5), 19) == 2  # 2 × 3 blocks
    assert grid.block_of((4, 5), 5) == 3
    np.testing.assert_allclose(grid.largest_of_blocks(weights, 2) * 20, [[6, 8, 9], [16, 18, 19]])
    assert grid.largest_of_blocks(weights, 1) is weights


def long_pattern(count: int = 600) -> Finding:
    rng = np.random.default_rng(5)
    scores = np.where(np.tri(count, dtype=bool), rng.normal(0, 2, (count, count)), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    result = AttentionPattern(
        weights=weights,
        layer=0,
        head=0,
        thumbnails=samples.make_thumbnails(weights[None, None]),
        causal=True,
        visible=np.tri(count, dtype=bool) & ~np.tri(count, k=-200, dtype=bool),
    )
    return finding(result, make_tokens(samples.long_labels(count)))


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["z"])), np.uint8)
    size = np.dtype(packed["dtype"]).itemsize
    return planes.reshape(size, -1).T.copy().view(packed["dtype"]).reshape(packed["shape"])


def test_a_long_map_comes_in_blocks_and_its_parts_are_exact() -> None:
    shown = long_pattern()
    weights = shown.result.weights
    head = grid.render(shown).payload["head"]
    assert head["block"] == 2
    np.testing.assert_allclose(
        grid.decode(unpacked(head["codes"])), weights.reshape(300, 2, 300, 2).max(axis=(1, 3)), atol=5.0001e-5
    )
    assert (head["first_tokens"], head["rest"], head["window"]) == ([], None, None)
    part = grid.part(shown, {"rows": [100, 140], "columns": [20, 120]})
    np.testing.assert_allclose(grid.decode(unpacked(part["codes"])), weights[100:140, 20:120], atol=5.0001e-5)
    np.testing.assert_array_equal(unpacked(part["window"]), shown.result.visible[100:140, 20:120])
    whole = grid.render_file(shown).payload["head"]
    assert whole["block"] == 1
    np.testing.assert_allclose(grid.decode(unpacked(whole["codes"])), weights, atol=5.0001e-5)


@pytest.mark.parametrize(
    "what",
    [{}, {"rows": [0, 5]}, {"rows": [5, 5], "columns": [0, 1]}, {"rows": [0, 601], "columns": [0, 1]},
     {"rows": [True, 5], "columns": [0, 1]}, {"rows": "0:5", "columns": [0, 1]}, {"rows": [0.0, 5], "columns": [0, 1]}],
)  # fmt: skip
def test_a_part_that_is_none_is_refused(what: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=r"expected (rows|columns) \[start, stop\] within 0\.\.600"):
        grid.part(long_pattern(), what)


def test_too_much_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "CELLS_IN_PART", 99)
    with pytest.raises(BadInput, match="10 × 10 weights are too many"):
        grid.part(long_pattern(), {"rows": [0, 10], "columns": [0, 10]})


# ------------------------------------------------------------------------------------------------ the page


def readout(page: Any) -> str:
    return str(page.locator(".av-readout").inner_text())


def weight_told(page: Any) -> float:
    return float(readout(page).rpartition("weight ")[2].split()[0])


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
def test_a_cross_layer_names_the_tokens_of_its_own_rows_and_columns(open_page: Any) -> None:
    shown = sample_findings("attention_pattern")["cross"]
    weights, labels = shown.result.weights, shown.tokens.labels
    page = open_page(shown)
    assert page.locator(".av-detail h3").inner_text() == "Cross 0 · Head 1"
    assert page.locator(".av-row-name").all_inner_texts() == ["encoder 0", HOSTILE_LAYER, "cross 0"]
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    assert readout(page).startswith(f"query 7 “{labels[7]}” → key 0 “{labels[0]}” · weight {weights[2, 0]:.4f}")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert readout(page).startswith(f"query 6 “{labels[6]}” → key 1 “{labels[1]}” · weight {weights[1, 1]:.4f}")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.av-token[aria-pressed=true]').dataset.index === '6'")
    shaded = page.locator(".av-token").evaluate_all("all => all.map((e) => e.style.backgroundColor !== '')")
    assert shaded == [True] * 5 + [False] * 3
    page.locator(".av-token").nth(2).click()
    assert page.locator(".av-strip-bar .av-caption").inner_text().endswith("reads; it is no query of this layer")
    page.get_by_label("Shade").select_option("read_by")
    assert page.locator(".av-strip-bar .av-caption").inner_text() == "Who reads token 2 “${alert(1)}”"
    page.locator(".av-token").nth(6).hover()
    assert readout(page) == f"token 6 “{labels[6]}”: weight {weights[1, 2]:.4f} on token 2"


@pytest.mark.browser
def test_small_pictures_keep_their_shape(open_page: Any) -> None:
    page = open_page(sample_findings("attention_pattern")["cross"])
    shapes = page.locator(".av-head canvas").evaluate_all("all => all.map((c) => [c.height, c.width])")
    assert shapes == [[5, 5]] * 2 + [[3, 3]] * 2 + [[3, 5]] * 2
    boxes = page.locator(".av-head").evaluate_all("all => all.map((e) => [e.offsetWidth, e.offsetHeight])")
    assert len({tuple(box) for box in boxes}) == 1


@pytest.mark.browser
def test_a_learned_sink_is_a_column_of_its_own(open_page: Any) -> None:
    shown = sample_findings("attention_pattern")["learned sink"]
    share = shown.result.sink_share
    page = open_page(shown)
    page.locator(".av-heat").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert readout(page).endswith(f"→ learned sink, no token · share {share[7]:.4f}")
    page.keyboard.press("ArrowUp")
    assert readout(page).endswith(f"→ learned sink, no token · share {share[6]:.4f}")
    page.keyboard.press("ArrowRight")
    assert readout(page).endswith(f"→ learned sink, no token · share {share[6]:.4f}")  # there is nothing behind it
    page.keyboard.press("ArrowLeft")
    assert "key 7" in readout(page)
    page.get_by_label("without first token").check()
    page.locator(".av-heat").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    told = readout(page).partition("share ≈ ")[2].split()[0]
    assert float(told) == pytest.approx(share[7] / (1 - shown.result.weights[7, 0]), abs=1e-3)
    page.get_by_label("without first token").uncheck()
    page.locator('.av-head[data-layer="0"][data-head="1"]').click()
    page.wait_for_selector('#attnviz-view[data-shown="0.1"]')
    page.locator(".av-heat").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert "learned sink" not in readout(page)
    page.locator('.av-head[data-layer="1"][data-head="2"]').click()
    page.wait_for_selector('#attnviz-view[data-shown="1.2"]')
    page.locator(".av-heat").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    told = readout(page).partition("learned sink, no token · share ")[2]
    assert float(told) == pytest.approx(shown.result.every_sink_share[1, 2, 7], abs=5e-5)


@pytest.mark.browser
def test_a_file_of_blocks_says_so(open_page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "CELLS_IN_FILE", 20_000)
    shown = long_pattern()
    page = open_page(shown)
    assert (
        "drawn is the largest of each block of 5 × 5 tokens. The file does not hold"
        in page.locator(".av-notes").inner_text()
    )
    page.locator(".av-heat").focus()
    page.keyboard.press("Home")
    most = float(shown.result.weights[595:600, 0:5].max())
    told = readout(page)
    assert told.startswith("queries 595–599 → keys 0–4 · largest weight ")
    assert float(told.split()[-1]) == pytest.approx(most, abs=5e-5)
    assert page.locator(".av-strip-bar .av-caption").inner_text().endswith("the file holds no single weights")
    page.get_by_role("button", name="Zoom in at the selected token").click()
    assert int(page.locator(".av-zoom-value").inner_text().split()[0]) > 1000


@pytest.mark.browser
def test_parts_of_a_long_map_are_fetched_when_they_are_looked_at(
    open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "CELLS_IN_FILE", 20_000)
    shown = long_pattern()
    weights = shown.result.weights
    codes = json.dumps(grid.encode(weights).ravel().tolist())
    serving = f"""part: async ({{ rows, columns }}) => {{
        (window.asked = window.asked || []).push([rows, columns]);
        const all = {codes}, low = [], high = [];
        for (let q = rows[0]; q < rows[1]; q++) for (let k = columns[0]; k < columns[1]; k++) {{
          low.push(all[q * 600 + k] & 255);
          high.push(all[q * 600 + k] >> 8);
        }}
        const shape = [rows[1] - rows[0], columns[1] - columns[0]];
        return {{ codes: {{ z: low.concat(high), dtype: "uint16", shape }}, window: null }};
      }},"""
    text = re.sub(r"    part: \(\) => .*\n", lambda _: serving, samples_html(shown))
    text = text.replace(
        "async inflate(text) {", "async inflate(text) { if (Array.isArray(text)) return Uint8Array.from(text);"
    )
    text = text.replace("offline: true", "offline: false")
    page = open_page(re.sub(r"<meta http-equiv=[^>]*>", "", text))  # the script is no longer the one the policy names
    caption = page.locator(".av-strip-bar .av-caption")
    page.wait_for_function("!document.querySelector('.av-strip-bar .av-caption').textContent.includes('fetching')")
    assert page.evaluate("window.asked") == [[[599, 600], [0, 600]]]  # what the selected token reads
    assert caption.inner_text() == "What token 599 “·and” reads"
    page.locator(".av-token").nth(31).hover()
    assert weight_told(page) == pytest.approx(weights[599, 31], abs=5.0001e-5)
    assert readout(page).endswith(" from token 599")
    page.get_by_role("button", name="Zoom in at the selected token").click()
    page.wait_for_function("window.asked.length === 2")
    (top, bottom), (left, right) = page.evaluate("window.asked[1]")
    assert top % 64 == left % 64 == 0
    assert (bottom, right) == (600, 600)
    page.locator(".av-heat").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('.av-readout').textContent.includes('· weight ')")
    assert weight_told(page) == pytest.approx(weights[598, 597], abs=5.0001e-5)
    page.wait_for_timeout(400)
    assert page.evaluate("window.asked.length") == 2  # what is known is not asked for again
    page.get_by_label("Shade").select_option("read_by")
    page.wait_for_function("window.asked.length === 3")
    assert page.evaluate("window.asked[2]") == [[0, 600], [599, 600]]


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
