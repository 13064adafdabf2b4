"""The Runs tab: saving, a run of another process, searching, opening, links, renaming, deleting, files in and out."""

import base64
import dataclasses
import json
import re
import sys

import pytest

import attnviz
from attnviz.errors import BadInput
from attnviz.runfile import SavedRun
from attnviz.store import CATEGORIES, RunStore
from attnviz.testing.samples import HOSTILE
from attnviz.ui.runs_tab import Shelf
from tests.ui.browsing import open_tab, query, selection
from tests.ui.conftest import ROOT, start, stop

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def app(home):

    running = start(
        [sys.executable, str(ROOT / "tests" / "ui" / "serve_rules.py"), "{port}"], home, ATTNVIZ_HOME=str(home)
    )
    yield running
    stop(running)


@pytest.fixture
def store(home):
    store = RunStore(home / "runs")
    for run in store.list(limit=0):
        store.delete(run.id)
    return store


@pytest.fixture(scope="module")
def run():
    return attnviz.load("demo").generate("Once upon a time", max_new_tokens=6)


@pytest.fixture
def runs(new_page, store):
    """The page with its Runs tab open."""
    page = new_page("?tab=Runs", ready=False)
    page.locator(".app-runs-list").wait_for(timeout=30_000)
    return page


def cards(page):
    return page.locator(".app-run")


def wait_cards(page, count):
    page.wait_for_function("n => document.querySelectorAll('.app-run').length === n", arg=count, timeout=20_000)


def test_a_run_is_saved_listed_opened_and_linked(new_page, store):
    page = new_page(width=2200)  # room for all tabs
    page.locator("#app-save").click()
    page.get_by_text("Saved as").wait_for()
    (kept,) = store.list()
    open_tab(page, "Runs")
    wait_cards(page, 1)
    assert cards(page).locator(".app-badge").inner_text() == kept.category
    before = page.evaluate("window.attnviz.run.tokens")
    again = new_page(f"?run={kept.id}&tab=Heads")
    assert again.evaluate("window.attnviz.run.tokens") == before
    assert query(again)["run"] == kept.id
    assert query(again)["tab"] == "Heads"
    assert again.locator("#app-prompt textarea").input_value() == kept.prompt
    cards(page).locator(".app-run-open").click()
    page.wait_for_function("id => window.attnviz.run && window.attnviz.run.id === id", arg=kept.id)
    page.wait_for_function("new URLSearchParams(location.search).get('tab') === 'Attention'")
    assert selection(page)["token"] == len(before) - 1


def test_a_run_of_another_process_appears_and_is_found(runs, store, run):
    runs.get_by_text("Nothing is saved yet").wait_for()
    run.save(store=store, category="Creative", title="A tale")
    wait_cards(runs, 1)
    run.save(store=store, category="Math", title="Another tale")
    wait_cards(runs, 2)
    assert cards(runs).first.locator(".app-run-title").inner_text() == "Another tale"
    runs.locator(".app-runs-category").select_option("Creative")
    wait_cards(runs, 1)
    badge = cards(runs).locator(".app-badge")
    colour = tuple(int(CATEGORIES["Creative"][i : i + 2], 16) for i in (1, 3, 5))
    assert badge.evaluate("node => getComputedStyle(node).backgroundColor") == f"rgb{colour}"
    runs.locator(".app-runs-category").select_option("")
    wait_cards(runs, 2)
    runs.locator(".app-runs-search").fill('upon "')
    runs.get_by_text("No saved run fits.").wait_for()
    runs.locator(".app-runs-search").fill("another UPON")
    wait_cards(runs, 1)


def test_a_run_is_renamed_and_deleted_only_when_asked_twice(runs, store, run):
    kept = run.save(store=store, title="A tale")
    wait_cards(runs, 1)
    runs.locator(".app-run-rename").click()
    runs.locator(".app-runs-title").fill("Of a time")
    runs.locator(".app-runs-title").press("Enter")
    runs.get_by_role("button", name="Of a time").wait_for()
    assert store.find(kept.id).title == "Of a time"
    runs.locator(".app-run-delete").click()
    runs.locator(".app-run-no").click()
    assert store.count() == 1
    runs.locator(".app-run-delete").click()
    runs.locator(".app-run-yes").click()
    runs.get_by_text("Nothing is saved yet").wait_for()
    assert store.count() == 0


def test_files_go_out_and_come_in(runs, store, run, tmp_path):
    run.save(store=store, title="A tale")
    wait_cards(runs, 1)
    for button, suffix in ((".app-run-export", ".safetensors"), (".app-run-trajectory", ".json")):
        with runs.expect_download(timeout=30_000) as waiting:
            runs.locator(button).first.click()
        assert waiting.value.suggested_filename == f"a-tale{suffix}"
        waiting.value.save_as(tmp_path / f"file{suffix}")
    runs.locator("#app-runs input[type=file]").set_input_files(tmp_path / "file.safetensors")
    wait_cards(runs, 2)
    runs.locator("#app-runs input[type=file]").set_input_files(tmp_path / "file.json")
    wait_cards(runs, 3)
    (tmp_path / "bad.json").write_text(json.dumps({"a": 1}))
    runs.locator("#app-runs input[type=file]").set_input_files(tmp_path / "bad.json")
    runs.locator(".app-runs-said.app-is-wrong").wait_for()
    assert "/" not in runs.locator(".app-runs-said").inner_text()
    cards(runs).first.locator(".app-run-open").click()
    runs.wait_for_function("window.attnviz.run && window.attnviz.run.ids && window.attnviz.run.ids[0] === -1")
    runs.wait_for_selector(".app-panel [data-ready='1']")


def test_hostile_texts_are_shown_as_texts(runs, store, run):

    saved = SavedRun(dataclasses.replace(run.run, model=HOSTILE[2]), run.model.card, run.captured)
    for text in HOSTILE:
        store.add(saved, prompt=text, response=text, title=text, category=text[:30])
    wait_cards(runs, len(HOSTILE))
    shown = runs.locator(".app-run-title").all_inner_texts()
    assert sorted(shown) == sorted(HOSTILE)


def test_a_link_to_no_saved_run_says_so(new_page):
    page = new_page(f"?run={'0' * 24}", ready=False)
    page.get_by_text(re.compile("There is no saved run")).wait_for()


# --------------------------------------------------------------------------------------------- without a browser


def test_where_runs_are_private_a_browser_sees_its_own(tmp_path, run):
    shelf = Shelf(run.model.session, RunStore(tmp_path), private=True)
    mine, other = {"key": "a" * 32}, {"key": "b" * 32}
    kept = shelf.keep(run, "Math", mine)
    assert [r["id"] for r in shelf.listed(mine)["runs"]] == [kept.id]
    assert (shelf.listed(other)["runs"], shelf.listed(other)["count"]) == ([], 0)
    assert "owner" not in json.dumps(shelf.listed(mine))
    for act in (shelf.rename, shelf.delete):
        with pytest.raises(BadInput, match="There is no saved run"):
            act({**other, "id": kept.id, "title": "x"})
    with pytest.raises(BadInput, match="keeps no key"):
        shelf.listed({})

    file = shelf.export({**other, "id": kept.id})  # who has the link may read
    shelf.take({**other, "name": "../../x.safetensors", "base64": file["base64"]})
    assert base64.b64decode(file["base64"])
    assert len(shelf.listed(other)["runs"]) == 1
    shelf.rename({**mine, "id": kept.id, "title": "mine"})
    shelf.delete({**mine, "id": kept.id})
    assert shelf.listed(mine)["runs"] == []
