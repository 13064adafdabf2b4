"""Files and Python code of a view, as a user gets them."""

import csv
import io
import json

import pytest

from tests.ui.browsing import open_tab, panel

pytestmark = pytest.mark.browser


def download(page, analysis, suffix):
    if not panel(page, analysis).locator(".app-files").count():
        panel(page, analysis).get_by_role("button", name="Export").click()
    with page.expect_download() as waiting:
        panel(page, analysis).locator(f"[data-suffix='{suffix}']").click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def test_every_format_of_a_pattern(page):
    page.evaluate("window.attnviz.select({layer: 1, head: 2})")
    page.wait_for_function(
        "document.querySelector('#app-panel-attention_pattern [data-shown]').dataset.shown === '1.2'"
    )
    name, content = download(page, "attention_pattern", ".json")
    document = json.loads(content)
    assert name.startswith("attention_pattern-")
    assert document["params"]["layer"] == 1
    assert document["params"]["head"] == 2
    rows = document["result"]["weights"]
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in rows)
    _, content = download(page, "attention_pattern", ".csv")
    assert len(list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))) > len(rows)
    _, content = download(page, "attention_pattern", ".png")
    assert content.startswith(b"\x89PNG")
    _, content = download(page, "attention_pattern", ".svg")
    assert b"<svg" in content
    _, content = download(page, "attention_pattern", ".html")
    assert content.lower().startswith(b"<!doctype html>")


def test_the_status_line_gives_the_provenance_of_the_head_in_sight(page):
    for layer, head in ((0, 3), (1, 1), (0, 3)):
        page.evaluate(f"window.attnviz.select({{layer: {layer}, head: {head}}})")
        shown = (
            f"document.querySelector('#app-panel-attention_pattern [data-shown]').dataset.shown === '{layer}.{head}'"
        )
        page.wait_for_function(shown)
        document = json.loads(download(page, "attention_pattern", ".json")[1])
        assert (document["params"]["layer"], document["params"]["head"]) == (layer, head)
        mark = page.locator("#app-status .app-provenance").get_attribute("title").split("\n")[0]
        assert mark == document["provenance"]


def test_a_format_that_does_not_exist_is_refused(page):
    answer = page.evaluate(
        """async () => {
            const parts = window.gradio_config.components;
            const part = parts.find((c) => (c.props.server_fns || []).includes("export_file"));
            const request = {run: window.attnviz.run.id, analysis: "attention_pattern", params: {}, suffix: ".exe"};
            const body = {session_hash: "x", component_id: part.id, fn_name: "export_file", data: request};
            const options = {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body)};
            return (await fetch("/gradio_api/component_server", options)).json();
        }"""
    )
    assert "Unknown file format '.exe'" in answer["error"]


def test_show_python_follows_the_selection(page):
    open_tab(page, "Toy")
    page.wait_for_selector(".toy[data-ready='1']")
    panel(page, "toy").get_by_role("button", name="Show Python").click()
    code = panel(page, "toy").locator("pre.app-python")
    code.wait_for()
    assert code.inner_text().splitlines()[2] == "model = attnviz.load('fake', backend='rules')"
    assert "messages=[{'role': 'user', 'content': 'one two one two'}], max_new_tokens=40" in code.inner_text()
    assert "run.analyze('toy', layer=0, head=0)" in code.inner_text()
    page.locator(".toy [data-at='1.3']").click()
    page.wait_for_function(
        "document.querySelector('#app-panel-toy pre.app-python')?.textContent.includes(\"layer=1, head=3\")"
    )
