"""`python app.py` as a stranger starts it: the embedded model, all plugins, and a home that cannot be written to."""

import sys

import pytest

from tests.ui.browsing import open_tab, panel, wait_query
from tests.ui.conftest import start, stop

pytestmark = pytest.mark.browser
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "file").touch()
    home = str(folder / "file" / "home")  # below a file: nobody can make it
    running = start([sys.executable, "app.py"], folder, HOME=home, XDG_CACHE_HOME=home, ATTNVIZ_PLUGINS="")
    yield running
    stop(running)


def strip(page):
    return "".join(page.locator("#app-strip .app-token").all_inner_texts()).replace("·", " ")


def test_the_first_screen_is_a_finished_run_of_the_embedded_model(page):
    assert page.locator("#app-prompt textarea").input_value() == QUESTION
    assert ANSWER.replace(" ", "") in strip(page).replace(" ", "")
    assert "6 layers × 4 heads" in page.locator("#app-status").inner_text()
    assert panel(page, "attention_pattern").locator("[data-layer='5'][data-head='3']").count() == 1


def test_every_tab_and_every_analysis_opens(page):
    page.set_default_timeout(30_000)  # the first of them loads the model
    for tab in ("Logit lens", "Heads", "Attention"):
        open_tab(page, tab)
        menu = page.get_by_role("tabpanel").filter(visible=True).locator(".app-menu label")
        for entry in menu.all() or [None]:
            if entry is not None:
                entry.click()
            page.wait_for_selector(".app-panel:visible [data-ready='1']")
            assert page.locator(".app-is-error:visible").count() == 0
    open_tab(page, "Plugins")
    assert page.get_by_text("analyses.logit_lens").first.is_visible()


def test_the_answer_settles_in_the_lens(new_page):
    page = new_page("?tab=Logit+lens")
    assert "self-check" in panel(page, "logit_lens").inner_text()
    wait_query(page, tab="Logit lens")


def test_another_question(page):
    page.set_default_timeout(30_000)
    page.locator("#app-prompt textarea").fill("How many legs does a spider have?")
    page.get_by_role("button", name="Run", exact=True).click()
    letters = "document.querySelector('#app-strip').textContent.replace(/[^a-z]/g, '')"
    page.wait_for_function(f"{letters}.includes('spiderhas')")  # of the answer, not of the question
    assert "8" in strip(page)


@pytest.mark.parametrize(("prompt", "says"), [("", "empty"), ("a " * 2000, "512")])
def test_bad_input_is_said_in_place_and_the_result_stays(page, prompt, says):
    page.set_default_timeout(30_000)
    before = strip(page)
    page.locator("#app-prompt textarea").fill(prompt)
    page.get_by_role("button", name="Run", exact=True).click()
    notice = page.locator(".app-is-error").first
    notice.wait_for()
    assert says in notice.inner_text()
    assert strip(page) == before
