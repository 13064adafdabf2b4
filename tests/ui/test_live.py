"""An answer in the making: it grows, says what its newest token was chosen from, and may be cancelled."""

import re
from urllib.parse import urlencode

import pytest

from tests.ui.browsing import query, wait_query

pytestmark = pytest.mark.browser

PROMPT = "the cat sat on the mat. the cat"


def asking(model="talker", prompt=PROMPT, answer=40):
    return "?" + urlencode({"model": model, "prompt": prompt, "answer": answer, "format": "text"})


def tokens(page, where):
    return page.locator(f"{where} .app-token").all_text_contents()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def wait_for_answer(page, count):
    page.wait_for_function(
        "count => document.querySelectorAll('#app-live [data-role=answer] .app-token').length >= count", arg=count
    )


def test_an_answer_grows_with_what_its_newest_token_was_chosen_from(new_page):
    page = new_page(asking(answer=15), ready=False)
    wait_for_answer(page, 3)
    state = page.evaluate(
        """() => {
            const tokens = [...document.querySelectorAll("#app-live .app-token")];
            return {
                newest: tokens.findIndex((t) => t.classList.contains("app-newest")),
                shades: tokens.map((t) => Number(t.style.getPropertyValue("--shade"))),
                titles: tokens.map((t) => t.title),
                line: document.querySelector(".app-live-line").textContent,
                strip: document.querySelector("#app-strip").offsetParent !== null,
            };
        }"""
    )
    newest = state["newest"]
    assert newest == len(state["titles"]) - 1 >= len(PROMPT) + 3
    assert state["titles"][newest] == f"token {newest}"
    weights = [float(re.search(r"· ([\d.]+) %", title)[1]) for title in state["titles"][:newest]]
    assert sum(weights) == pytest.approx(100, abs=0.05 * newest + 0.5)  # each is rounded to a tenth
    top = max(weights[1:])
    assert state["shades"][1:newest] == pytest.approx([(weight / top) ** 0.5 for weight in weights[1:]], abs=0.03)
    assert f"token {newest}, " in state["line"]
    assert "mean over all 8 heads of the 2 layers that have one (1 more has none)" in state["line"]
    assert "Sinks are in: the first token has" in state["line"]
    assert not state["strip"]
    page.wait_for_selector(".app-panel [data-ready='1']")
    assert page.locator("#app-live .app-token").count() == 0
    assert len(tokens(page, "#app-strip")) == 1 + len(PROMPT) + 15
    assert re.search(r"Ended by\s*length", page.locator("#app-status").inner_text())


def test_without_attention_the_answer_grows_and_the_line_says_why(new_page):
    page = new_page(asking("blind-talker", answer=8), ready=False)
    wait_for_answer(page, 2)
    line = page.locator(".app-live-line").inner_text()
    assert "What it was chosen from is not shown. This model of rules has no attention." in line
    page.locator("#app-strip .app-token").first.wait_for()
    assert page.locator("#app-live .app-token").count() == 0


def test_cancel_keeps_the_answer_so_far(new_page):
    page = new_page(asking(), ready=False)
    wait_for_answer(page, 4)
    press(page, "Cancel")
    page.get_by_text(re.compile("The answer so far is kept: \\d+ tokens")).wait_for()
    kept = int(re.search(r"kept: (\d+)", page.locator("#app-side").inner_text())[1])
    assert 4 <= kept < 40
    assert page.locator("#app-live .app-token").count() == 0
    assert len(tokens(page, "#app-strip")) == 1 + len(PROMPT) + kept
    assert re.search(r"Ended by\s*cancelled", page.locator("#app-status").inner_text())
    page.wait_for_selector("#app-panel-attention_pattern [data-ready='1']")  # its picture
    wait_query(page, answer=kept)
    said = tokens(page, "#app-strip")
    page.get_by_role("button", name="Show Python").first.click()
    page.get_by_text(f"max_new_tokens={kept}").wait_for()
    page.reload()
    page.wait_for_selector(".app-panel [data-ready='1']")
    assert tokens(page, "#app-strip") == said
    assert query(page)["answer"] == str(kept)


def test_the_run_before_stays_until_there_is_a_new_one(new_page):
    page = new_page(asking(answer=3))
    before = tokens(page, "#app-strip")
    page.locator("#app-length input").fill("40")
    press(page, "Run")
    wait_for_answer(page, 2)
    assert "Below: the run before, until this answer is complete." in page.locator(".app-live-line").inner_text()
    assert page.locator("#app-panel-attention_pattern [data-ready='1']").count() == 1
    press(page, "Clear")
    page.get_by_text("Cleared. Press Run for a new result.").wait_for()
    page.wait_for_timeout(1000)
    assert tokens(page, "#app-strip") == tokens(page, "#app-live") == []
    page.locator("#app-length input").fill("3")
    press(page, "Run")
    page.wait_for_selector(".app-panel [data-ready='1']")
    assert tokens(page, "#app-strip") == before


def test_a_failure_in_the_middle_leaves_what_was_there(new_page):
    page = new_page(asking(answer=3))
    before = tokens(page, "#app-strip")
    page.locator("#app-prompt textarea").fill("fail soon")
    page.locator("#app-length input").fill("40")
    press(page, "Run")
    wait_for_answer(page, 2)
    page.get_by_text("The device went away. Press Run again.").wait_for()
    assert tokens(page, "#app-live") == []
    assert tokens(page, "#app-strip") == before
    assert page.locator("#app-strip").is_visible()


def test_hostile_text_stays_text_while_it_grows(new_page):
    hostile = "<img src=x onerror=alert(2)> ${alert(3)} {{constructor.constructor('alert(4)')()}}"
    page = new_page(asking(prompt=hostile, answer=12), ready=False)
    wait_for_answer(page, 2)
    assert "".join(tokens(page, "#app-live")).startswith("<bos>" + hostile.replace(" ", "·"))
    assert page.locator("#app-live img").count() == 0
    page.wait_for_selector(".app-panel [data-ready='1']")


@pytest.mark.parametrize("width", [390, 1360])
def test_it_fits_the_page(new_page, width):
    page = new_page(asking(prompt=PROMPT * 6, answer=width // 100 + 8), width=width, ready=False)
    wait_for_answer(page, 2)
    widths = page.evaluate(
        "(() => { const s = document.querySelector('.app-live');"
        " return [document.documentElement.scrollWidth, s.scrollWidth - s.clientWidth, s.scrollTop + s.clientHeight, "
        " s.scrollHeight]; })()"
    )
    assert widths[0] <= width
    assert widths[1] == 0
    assert widths[2] >= widths[3] - 30  # its end is in sight
    page.wait_for_selector(".app-panel [data-ready='1']")


def test_a_stop_text_of_the_address_ends_the_answer_and_stands_in_its_field(new_page):
    """By rule the answer to "abab" is "abab…"; a second stop text is typed."""
    page = new_page("?" + urlencode({"model": "fake", "prompt": "abab", "format": "text", "stop": "never\\n\nba"}))
    field = page.locator("#app-stop textarea")
    assert field.input_value() == "never\\n\nba"
    assert tokens(page, "#app-strip") == ["<bos>", *"abab", *"aba"]
    assert re.search(r"Ended by\s*stop text", page.locator("#app-status").inner_text())
    field.fill("b\n")
    press(page, "Run")
    page.wait_for_function("document.querySelectorAll('#app-strip .app-token').length === 7")
    wait_query(page, stop="b")
    field.fill("\\boxed")
    press(page, "Run")
    page.get_by_text("Stop texts: expected").wait_for()
