"""report.html in a browser: figures, filters, and text that must stay text."""

import json

import pytest

from attnviz.bench.view import report, view_data
from tests.bench.samples import HOSTILE, benchmark

pytestmark = pytest.mark.browser


@pytest.fixture
def page(browser, tmp_path):
    """The report, opened as a file; fails on errors, dialogs and requests."""
    file = tmp_path / "report.html"
    file.write_text(report(benchmark()), encoding="utf-8")
    problems = []
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(8_000)
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda r: None if r.url.startswith("file:") else problems.append(r.url))
    opened.goto(file.as_uri())
    opened.wait_for_selector(".bm-view[data-ready='1']")
    yield opened
    context.close()
    assert not problems


def cards(page):
    return dict(
        zip(
            page.locator(".bm-card-title").all_text_contents(),
            page.locator(".bm-card-value").all_text_contents(),
            strict=True,
        )
    )


def test_cards_figures_and_text_that_stays_text(page):
    assert cards(page) == {
        "Success rate": "66.7 %",
        "Fastest": "2 s",
        "Slowest": "10 s",
        "Best throughput": "10 tokens/s",
    }
    titles = page.locator(".bm-figure h3").all_text_contents()
    assert titles == [
        *("Insights", "Time per method", "Prompt tokens per second", "Memory"),
        *("Faithfulness against time", "Errors by stage"),
    ]
    assert page.locator("img").count() == 0
    assert (
        "</script><img src=x onerror=alert(1)>${alert(1)}{{constructor}}" in page.locator(".bm-table").last.inner_text()
    )
    assert "a <b>fast</b> one" in page.locator("#attnviz-facts").inner_text()
    assert page.locator(".bm-scatter circle").count() == 3


def test_a_filter_changes_what_is_compared(page):
    page.get_by_role("button", name="slow", exact=True).click()
    assert cards(page)["Slowest"] == "4 s"
    assert page.locator(".bm-scatter circle").count() == 2
    page.get_by_role("button", name="B", exact=True).click()
    assert cards(page)["Success rate"] == "100.0 %"
    page.get_by_role("button", name="A", exact=True).click()
    assert cards(page)["Success rate"] == "100.0 %", "the last one stays"


def test_bars_are_grouped_sorted_and_scaled(page):
    groups = page.locator(".bm-bars").first.locator(".bm-group")
    widths = "[...document.querySelectorAll('.bm-bars')[0].querySelectorAll('.bm-fill')].map((e) => e.style.width)"
    assert groups.all_text_contents() == ["fast", "slow"]
    assert page.evaluate(widths) == ["20%", "40%", "100%", "0px"]
    page.get_by_label("Group by").select_option("model")
    assert groups.all_text_contents() == ["A", "B"]
    page.get_by_label("Scale").first.select_option("log")
    assert page.evaluate(widths)[1] == "100%"
    assert float(page.evaluate(widths)[0].strip("%")) == pytest.approx(100 * 0.3 / (0.3 + 0.69897), rel=1e-3)


def test_data_of_the_view_can_be_written_as_json():
    data = json.loads(json.dumps(view_data(benchmark()), allow_nan=False))
    assert data["errors"][0] == {
        "stage": "attribution",
        "model": "B",
        "method": "fast",
        "error": HOSTILE,
        "prompts": [3],
        "count": 1,
    }
    assert data["errors"][1]["prompts"] == [1, 2, 3]
