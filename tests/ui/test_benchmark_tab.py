"""The Benchmark tab in a browser: folders that are there, one that is typed, broken ones, text that stays text."""

import os
import sys

import pytest

from tests.bench.samples import HOSTILE, benchmark, write
from tests.ui.browsing import open_tab, wait_query
from tests.ui.conftest import HERE, start, stop

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two benchmarks and one that is broken, in the home of the app."""
    home = tmp_path_factory.mktemp("home")
    found = benchmark()
    for number, name in enumerate(("broken", "partial", "whole")):
        place = write(home / "benchmarks" / name, found)
        os.utime(place / "plan.json", (number, number))
    (home / "benchmarks/partial/B/method_slow/cells/00003.json").unlink()
    (home / "benchmarks/broken/A/method_fast/cells/00001.json").write_text('{"half": ')
    return home


@pytest.fixture(scope="module")
def app(tmp_path_factory, home):
    folder = tmp_path_factory.mktemp("app")
    running = start([sys.executable, str(HERE / "serve_rules.py"), "{port}"], folder, ATTNVIZ_HOME=str(home))
    yield running
    stop(running)


def typed(page, folder):
    box = page.locator("#app-benchmark-other input, #app-benchmark-other textarea")
    box.fill(str(folder))
    box.press("Enter")


def test_the_latest_opens_with_cards_figures_and_errors(page):
    open_tab(page, "Benchmark")
    page.wait_for_selector("#app-benchmark [data-ready='1'] .bm-card")
    wait_query(page, tab="Benchmark")
    assert page.locator("#app-benchmark .bm-card-value").all_inner_texts() == ["66.7 %", "2 s", "10 s", "10 tokens/s"]
    assert page.locator("#app-benchmark-folder input").input_value().endswith("whole")
    assert page.locator("#app-benchmark img").count() == 0
    assert HOSTILE.split("\n")[0] in page.locator("#app-benchmark .bm-table").last.inner_text()
    page.locator("#app-benchmark").get_by_role("button", name="slow", exact=True).click()
    assert page.locator("#app-benchmark .bm-card-value").all_inner_texts()[2] == "4 s"


def test_another_folder_a_broken_and_a_foreign_one(page, home):
    open_tab(page, "Benchmark")
    page.wait_for_selector("#app-benchmark .bm-card")
    typed(page, home / "benchmarks" / "partial")
    page.get_by_text("11 of 12 attributions are there so far.").wait_for()
    typed(page, home / "benchmarks" / "broken")
    page.get_by_text("cells/00001.json: expected JSON, got a broken file").wait_for()
    assert page.get_by_text("11 of 12 attributions are there so far.").is_visible(), "what was there stays"
    page.locator("#app-benchmark-folder input").click()
    page.get_by_role("option", name="whole").click()
    page.get_by_text("11 of 12 attributions are there so far.").wait_for(state="hidden")
    assert page.locator("#app-benchmark-other input, #app-benchmark-other textarea").input_value() == ""
    typed(page, home)
    page.get_by_text("expected the folder of a benchmark, with a file plan.json").wait_for()


def test_an_address_opens_the_tab(new_page):
    page = new_page("?tab=Benchmark", ready=False)
    page.wait_for_selector("#app-benchmark .bm-card")
    assert page.get_by_role("tab", name="Benchmark", exact=True).get_attribute("aria-selected") == "true"
