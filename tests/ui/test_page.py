"""The page in a real browser: first screen, linked selection, tabs, controls, errors in place, keyboard, widths."""

import re
from urllib.parse import urlencode

import pytest

from tests.ui.browsing import open_tab, panel, query, selection, wait_query

pytestmark = pytest.mark.browser


def head_button(page, layer, head):
    return panel(page, "attention_pattern").locator(f"[data-layer='{layer}'][data-head='{head}']").first


# ---- first screen


def test_the_first_screen_shows_a_finished_run(page):
    assert page.locator("#app-strip .app-token").count() > 10
    assert page.locator("#app-prompt textarea").input_value() == "one two one two"
    status = page.locator("#app-status").inner_text()
    assert "3 layers × 4 heads" in status
    assert re.search(r"Tokens\s*\d+ \+ \d+", status)
    assert "Provenance" in status
    wait_query(page, model="fake", tab="Attention", layer=0, head=0)


def test_only_the_open_tab_is_computed(page, app):
    page.wait_for_timeout(300)
    before = [line for line in app.calls() if line.startswith("counted")]
    open_tab(page, "Own tab")
    page.wait_for_selector("#app-panel-counted [data-ready='1']")
    after = [line for line in app.calls() if line.startswith("counted")]
    assert (before, after) == ([], ["counted 1"])
    open_tab(page, "Attention")
    open_tab(page, "Own tab")
    page.wait_for_timeout(500)
    assert [line for line in app.calls() if line.startswith("counted")] == ["counted 1"]


def test_a_second_visitor_gets_cached_results(new_page, app):
    for _ in range(2):
        page = new_page()
        open_tab(page, "Own tab")
        page.wait_for_selector("#app-panel-counted [data-ready='1']")
    assert "cached" in page.locator("#app-status").inner_text()


# ---- linked selection


def test_a_head_moves_everything(page):
    head_button(page, 1, 2).click()
    wait_query(page, layer=1, head=2)
    page.wait_for_function(
        "document.querySelector('#app-panel-attention_pattern [data-shown]').dataset.shown === '1.2'"
    )
    selects = panel(page, "attention_pattern").locator(".app-linked select")
    assert [selects.nth(i).input_value() for i in range(2)] == ["1", "2"]
    open_tab(page, "Toy")
    page.wait_for_function("document.querySelector('.toy p')?.textContent.startsWith('L1H2')")


def test_a_token_moves_everything(page):
    page.locator("#app-strip .app-token").nth(5).click()
    wait_query(page, token=5)
    assert page.locator("#app-strip [aria-selected=true]").get_attribute("data-index") == "5"
    open_tab(page, "Tables")
    panel(page, "follow").locator("td").nth(2).wait_for()
    assert panel(page, "follow").locator("td").all_inner_texts() == ["0", "0", "5"]
    page.locator("#app-strip .app-token").nth(2).click()
    page.wait_for_function("[...document.querySelectorAll('#app-panel-follow td')][2]?.textContent === '2'")


def test_rows_of_the_answer_and_of_positions(page):
    attention = panel(page, "attention_pattern")
    count = page.locator("#app-strip .app-token").count()
    answer = page.locator("#app-strip .app-generated").count()
    rows = attention.get_by_role("combobox", name="Rows")
    rows.fill("answer")
    rows.press("Enter")
    last = f"rows {count - answer - 1} to {count - 2} of {count} tokens, which predict the answer"
    attention.locator(".av-info", has_text=last).wait_for()
    rows.fill("2:5")
    rows.press("Enter")
    attention.locator(".av-info", has_text=f"rows 2 to 4 of {count} tokens").wait_for()
    attention.locator(".av-heat").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert attention.locator(".av-detail > .av-readout").inner_text().startswith("query 3 ")
    head_button(page, 1, 2).click()
    page.wait_for_selector("#app-panel-attention_pattern [data-shown='1.2']")
    attention.locator(".av-info", has_text=f"Layer 1, head 2: nothing was averaged, rows 2 to 4 of {count}").wait_for()
    rows.fill("nonsense")
    rows.press("Enter")
    attention.locator(".app-notice", has_text="expected all, answer, or positions such as").wait_for()


def test_a_run_of_512_tokens_sends_at_most_300_kilobytes(page):
    received = []
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.dataReceived", lambda event: received.append(event["dataLength"]))
    page.locator("#app-answer input").uncheck()
    page.locator("#app-prompt textarea").fill("one two three six " * 28 + "seven")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("#app-strip .app-token").nth(508).wait_for(timeout=60_000)
    count = page.locator("#app-strip .app-token").count()
    panel(page, "attention_pattern").locator(".av-info", has_text=f"{count} tokens").wait_for(timeout=60_000)
    page.wait_for_timeout(500)
    print(f"{sum(received)} bytes")
    assert 10_000 < sum(received) <= 300_000


def test_reload_restores(page):
    head_button(page, 1, 3).click()
    page.locator("#app-strip .app-token").nth(4).click()
    wait_query(page, layer=1, head=3, token=4)
    open_tab(page, "Tables")
    page.get_by_role("radio", name="Labels").check()
    wait_query(page, tab="Tables", analysis="label_table")
    page.reload()
    panel(page, "label_table").locator("td").first.wait_for()
    assert selection(page) == {"layer": 1, "head": 3, "token": 4}
    assert query(page)["analysis"] == "label_table"
    open_tab(page, "Attention")
    page.wait_for_function(
        "document.querySelector('#app-panel-attention_pattern [data-shown]')?.dataset.shown === '1.3'"
    )


def test_many_analyses_of_a_tab_are_a_list_that_unfolds(page):
    open_tab(page, "Many")
    panel(page, "many_0").locator("td").first.wait_for()
    assert page.get_by_role("tabpanel").get_by_role("radio").count() == 0
    page.get_by_label("Analysis").click()
    page.get_by_role("option", name="Number 7").click()
    panel(page, "many_7").locator("td").first.wait_for()
    wait_query(page, tab="Many", analysis="many_7")
    page.reload()
    panel(page, "many_7").locator("td").first.wait_for()
    assert panel(page, "many_0").is_hidden()


def test_a_link_opens_prompt_and_selection(new_page):
    link = {"model": "fake", "prompt": "xyxyxy", "answer": "0", "tab": "Toy", "layer": "1", "head": "0", "token": "2"}
    page = new_page("?" + urlencode(link))
    page.wait_for_function("document.querySelector('.toy p')?.textContent.startsWith('L1H0T2')")
    assert page.locator("#app-prompt textarea").input_value() == "xyxyxy"
    assert not page.locator("#app-answer input").is_checked()


@pytest.mark.parametrize(
    ("query_text", "expected"),
    [
        ("?layer=99", "asks for layer '99'. Here there are 3: 0 to 2"),
        ("?head=abc", "asks for head 'abc'"),
        ("?token=-1", "asks for token '-1'"),
        ("?tab=%3Cb%3E", "Unknown tab of the address '<b>'"),
        ("?answer=many", "expected a number"),
        ("?model=/etc/passwd", "'/etc/passwd', which is not on the menu. Press Run"),
        ("?format=verse", "Unknown format of the prompt"),
    ],
)
def test_a_wrong_address_is_answered_in_words(new_page, query_text, expected):
    page = new_page(query_text, ready=False)
    notice = page.locator("#app-run-notice .app-notice")
    notice.wait_for()
    assert expected in notice.inner_text()
    page.locator("#app-prompt textarea").fill("still alive")


def test_layers_go_by_their_names(page):
    page.evaluate("window.attnviz.setRun({...window.attnviz.run, layers: ['encoder 0', '<b>cross</b> 0', '2']})")
    select = panel(page, "attention_pattern").get_by_label("Layer")
    assert select.locator("option").all_inner_texts() == ["encoder 0", "<b>cross</b> 0", "2", "mean"]


# ---- controls


def test_a_control_recomputes_only_its_analysis(page, app):
    open_tab(page, "Own tab")
    page.wait_for_selector("#app-panel-counted [data-ready='1']")
    lines = len(app.calls())
    number = panel(page, "counted").locator("input[type=number]")
    number.fill("3")
    number.press("Enter")
    page.wait_for_function("window.attnviz.params('counted').factor === 3")
    assert set(app.calls()[lines:]) <= {"counted 3"}


def test_a_word_instead_of_an_index(page):
    open_tab(page, "Tables")
    panel(page, "follow").locator("td").first.wait_for()
    panel(page, "follow").get_by_label("Layer").select_option("mean")
    page.wait_for_function("document.querySelector('#app-panel-follow td')?.textContent === 'mean'")
    panel(page, "follow").get_by_label("Layer").select_option("1")
    page.wait_for_function("document.querySelector('#app-panel-follow td')?.textContent === '1'")
    wait_query(page, layer=1)


def test_the_switch_between_pictures(page):
    open_tab(page, "Toy")
    page.wait_for_selector(".toy[data-ready='1']")
    panel(page, "toy").get_by_role("button", name="Text", exact=True).click()
    panel(page, "toy").locator("pre.app-text").wait_for()
    assert "one two" in panel(page, "toy").locator("pre.app-text").inner_text()
    panel(page, "toy").get_by_role("button", name="Toy view").click()
    page.wait_for_selector(".toy[data-ready='1']")


def test_an_example_runs(page):
    page.locator(".app-example").nth(1).click()
    wait_query(page, prompt="abcabc", category="Knowledge")
    assert page.locator("#app-prompt textarea").input_value() == "abcabc"


def test_run_with_another_prompt_and_without_answer(page):
    page.locator("#app-prompt textarea").fill("hello hello")
    page.get_by_label("Generate an answer").uncheck()
    page.get_by_role("button", name="Run", exact=True).click()
    wait_query(page, prompt="hello hello", answer="0")
    page.wait_for_selector("#app-panel-attention_pattern [data-ready='1']")
    assert "+" not in page.locator("#app-status .app-item").nth(1).inner_text()


# ---- what goes wrong


def test_an_error_keeps_the_previous_result(page):
    open_tab(page, "Errors")
    page.wait_for_selector("#app-panel-broken .toy[data-ready='1']")
    panel(page, "broken").get_by_label("Divide").check()
    error = panel(page, "broken").get_by_role("alert")
    error.wait_for()
    assert "Unexpected error: ZeroDivisionError: no number <b>here</b>" in error.inner_text()
    assert panel(page, "broken").locator(".toy").count() == 1
    panel(page, "broken").get_by_label("Divide").uncheck()
    error.wait_for(state="detached")


def test_a_refusal_is_shown_as_it_is(page, app):
    open_tab(page, "Errors")
    page.get_by_role("radio", name="Refuses").check()
    error = panel(page, "refuses").get_by_role("alert")
    error.wait_for()
    assert error.inner_text() == "This analysis wants another text. Type one."
    open_tab(page, "Plugins")
    page.locator("#app-failures").get_by_text("this plugin is <b>broken</b>").wait_for()


def test_a_failed_run_keeps_the_previous_one(page):
    page.locator("#app-prompt textarea").fill("")
    page.get_by_role("button", name="Run", exact=True).click()
    error = page.locator("#app-run-notice").get_by_role("alert")
    error.wait_for()
    assert "Nothing to run" in error.inner_text()
    assert page.locator("#app-strip .app-token").count() > 10


def test_progress_and_cancel(page):
    open_tab(page, "Slow")
    page.locator("#app-panel-slow .app-progress").wait_for()
    page.get_by_text(re.compile(r"step \d+ of 30")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled. What was there stays.").wait_for()
    page.locator("#app-panel-slow .app-progress").wait_for(state="detached")


def test_nothing_of_an_earlier_run_stays_under_a_new_one(page):
    open_tab(page, "Errors")
    page.wait_for_selector("#app-panel-broken .toy[data-ready='1']")
    panel(page, "broken").get_by_label("Divide").check()
    panel(page, "broken").get_by_role("alert").wait_for()
    assert panel(page, "broken").locator(".toy").count() == 1
    page.locator("#app-prompt textarea").fill("another prompt that fails")
    page.get_by_role("button", name="Run", exact=True).click()
    panel(page, "broken").locator(".toy").wait_for(state="detached")
    assert "ZeroDivisionError" in panel(page, "broken").get_by_role("alert").inner_text()
    assert "Provenance" not in page.locator("#app-status").inner_text()


def test_cancel_in_the_middle_of_a_new_run_leaves_nothing_of_the_earlier_one(page):
    open_tab(page, "Slow")
    panel(page, "slow").locator("td").first.wait_for()
    page.locator("#app-prompt textarea").fill("one that is cancelled")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("#app-panel-slow .app-progress").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled before the picture of this run was there.").wait_for()
    assert panel(page, "slow").locator("td").count() == 0
    assert page.locator("#app-panel-slow .app-progress").count() == 0


def test_clear_ends_what_is_under_way(page):
    open_tab(page, "Slow")
    page.locator("#app-prompt textarea").fill("one that is cleared away")
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator("#app-panel-slow .app-progress").wait_for()
    page.get_by_role("button", name="Clear").click()
    page.get_by_text("Cleared. Press Run for a new result.").wait_for()
    page.wait_for_timeout(4000)  # longer than the analysis takes
    assert page.locator("#app-strip .app-token").count() == panel(page, "slow").locator("td").count() == 0
    assert page.get_by_text("Cleared. Press Run for a new result.").count() == 1


def test_clear_removes_results(page):
    page.get_by_role("button", name="Clear").click()
    page.locator("#app-strip .app-token").first.wait_for(state="detached")
    page.locator("#app-panel-attention_pattern [data-ready]").wait_for(state="detached")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_selector("#app-panel-attention_pattern [data-ready='1']")


def test_an_analysis_a_model_cannot_do_says_why(page):
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="Blind model").click()
    page.get_by_role("button", name="Run", exact=True).click()
    notice = panel(page, "attention_pattern").locator(".app-is-info")
    notice.wait_for()
    assert "Needs attention: This model of rules has no attention." in notice.inner_text()


def test_an_expired_run_offers_to_run_again(page):
    answer = page.evaluate(
        """async () => {
            const config = window.gradio_config;
            const part = config.components.find((c) => (c.props.server_fns || []).includes("python_code"));
            const ask = (data) => fetch("/gradio_api/component_server", {method: "POST",
                headers: {"content-type": "application/json"},
                body: JSON.stringify({session_hash: "x", component_id: part.id, fn_name: "python_code", data})}
            ).then((r) => r.json());
            return [await ask({run: "gone", analysis: "toy", params: {}}), await ask("x"), await ask({run: 1}),
                    await ask({run: window.attnviz.run.id, analysis: "nope", params: {}}),
                    await ask({run: window.attnviz.run.id, analysis: "toy", params: {layer: 77}})];
        }"""
    )
    assert "no longer in memory" in answer[0]["error"]
    assert "one object" in answer[1]["error"]
    assert "Expected run" in answer[2]["error"]
    assert "Unknown analysis 'nope'" in answer[3]["error"]
    assert "Unknown layer 77" in answer[4]["error"]


# ---- the model


def model_card(page):
    return page.locator("#app-card")


def test_a_model_is_looked_at_without_a_prompt_and_without_touching_the_run(page):
    page.locator("#app-prompt textarea").fill("")
    page.get_by_label("Seed").fill("not a number")
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="Blind model").click()
    page.get_by_role("button", name="Look at the model").click()
    page.get_by_text("Looked at, not run: the tokens above are of fake.").wait_for()
    wait_query(page, tab="Model", model="fake")
    assert page.locator("#app-strip .app-token").count() > 10
    facts = page.get_by_role("table", name="About the model")
    assert facts.get_by_role("rowheader", name="No attention").count() == 1
    analyses = page.get_by_role("table", name="Analyses")
    assert [h.inner_text() for h in analyses.get_by_role("columnheader").all()] == ["Analysis", "Name", "Available"]
    row = analyses.get_by_role("row").filter(has_text="attention_pattern")
    assert "Needs attention: This model of rules has no attention." in row.inner_text()
    layers = page.get_by_role("table", name="Layers", exact=True).get_by_role("rowheader")
    assert [h.inner_text() for h in layers.all()] == ["0", "1", "2"]


def test_after_a_run_the_tab_shows_its_model(page):
    open_tab(page, "Model")
    page.get_by_text("fake · 3 layers × 4 heads").first.wait_for()
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="Blind model").click()
    page.get_by_role("button", name="Run", exact=True).click()
    model_card(page).get_by_text("blind · 3 layers").wait_for()
    assert "Looked at" not in model_card(page).inner_text()
    page.get_by_role("button", name="Clear").click()
    model_card(page).get_by_text("Choose a model and press").wait_for()


def test_a_link_opens_the_tab(new_page):
    page = new_page("?tab=Model", ready=False)
    model_card(page).get_by_text("fake · 3 layers").wait_for()
    assert page.get_by_role("tab", name="Model", exact=True).get_attribute("aria-selected") == "true"
    page.locator("#app-estimates").get_by_text("This model does not say.").first.wait_for()


def test_a_model_that_cannot_be_loaded_leaves_what_was_there(page):
    open_tab(page, "Model")
    page.get_by_label("Model").first.click()
    page.get_by_role("option", name="Another model…").click()
    page.get_by_label("Hub id or folder").fill("no such <b>model</b>")
    page.get_by_role("button", name="Look at the model").click()
    error = page.locator("#app-run-notice").get_by_role("alert")
    error.wait_for()
    assert "No backend can load 'no such <b>model</b>'" in error.inner_text()
    assert "fake · 3 layers" in model_card(page).inner_text()


def test_other_lengths_are_estimated_and_bad_ones_refused(page):
    open_tab(page, "Model")
    lengths = page.get_by_label("Tokens", exact=True)
    lengths.fill("300, 600")
    lengths.press("Enter")
    page.get_by_role("rowheader", name="600").wait_for()
    rows = page.get_by_role("table", name="What a run takes").get_by_role("row")
    assert "More than the 512 positions of this model." in rows.nth(2).inner_text()
    lengths.fill("some")
    page.get_by_role("button", name="Estimate").click()
    page.get_by_text("Tokens: expected whole numbers such as 128, 1024; got 'some'.").wait_for()
    assert rows.count() == 3


# ---- hostile text

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> ${alert(3)} {{constructor.constructor('alert(4)')()}} `x`"
)


def test_hostile_prompts_stay_text(new_page):
    page = new_page("?" + urlencode({"prompt": HOSTILE, "category": HOSTILE, "answer": "0"}))
    assert page.locator("#app-prompt textarea").input_value() == HOSTILE
    for tab in ("Heads", "Logit lens", "Pulls", "Toy", "Own tab", "Errors", "Tables", "Model", "Benchmark", "Plugins"):
        open_tab(page, tab)
        page.wait_for_timeout(250)
    open_tab(page, "Tables")
    page.get_by_role("radio", name="Labels").check()
    panel(page, "label_table").locator("td").first.wait_for()
    assert page.locator("#app-main img, #app-main script").count() == 0
    assert page.locator("#app-strip").inner_text().replace("\n", "").replace("·", " ").count("<script>") == 1


# ---- looks


def test_dark(new_page):
    page = new_page("?__theme=dark")
    assert page.evaluate("document.body.classList.contains('dark')")
    open_tab(page, "Toy")
    page.wait_for_selector(".toy[data-ready='1']")
    page.get_by_role("button", name="Light or dark").click()
    page.wait_for_function("document.querySelector('.toy').dataset.dark === 'false'")


@pytest.mark.parametrize("tab", ["Attention", "Heads", "Logit lens", "Tables", "Model", "Benchmark", "Plugins"])
def test_narrow(new_page, tab):
    page = new_page("?" + urlencode({"tab": tab}), width=390, height=844, ready=False)
    page.locator("#app-strip .app-token").first.wait_for()
    page.wait_for_timeout(600)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_keyboard(page):
    page.locator("#app-strip [aria-selected=true]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    wait_query(page, token=2)
    head_button(page, 0, 0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    wait_query(page, layer=1, head=1)
    page.get_by_role("button", name="Export").first.click()
    page.keyboard.press("Escape")
    assert page.locator(".app-drawer").count() == 0
    assert page.evaluate("document.activeElement.textContent") == "Export"
