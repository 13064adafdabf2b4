"""Files of every kind of result: same bytes twice, escaped, restorable."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from attnviz.hooks import Finding, from_jsonable, to_jsonable
from attnviz.plugins.renderers import html_page, json_file
from tests.renderers.samples import HOSTILE, SAMPLES


def test_json_restores_the_result(sample: Finding) -> None:
    text = json_file.to_text(sample)
    envelope = json.loads(text)
    assert {"analysis", "params", "model", "tokens", "result", "provenance"} <= set(envelope)
    assert envelope["tokens"]["labels"] == list(sample.tokens.labels)
    again = from_jsonable(envelope["kind"], envelope["result"])
    assert type(again) is type(sample.result)
    for field in dataclasses.fields(again):
        np.testing.assert_equal(
            to_jsonable(getattr(again, field.name)), to_jsonable(getattr(sample.result, field.name))
        )


def test_json_says_nothing_of_time_or_cache(sample: Finding) -> None:
    later = dataclasses.replace(sample, seconds=3.5, cached=True, run="another-run")
    assert json_file.to_text(later) == json_file.to_text(sample)


def test_json_is_one_line_of_ascii(sample: Finding) -> None:
    text = json_file.to_text(sample)
    assert text.isascii()
    assert "\n" not in text


def test_html_is_the_same_twice(sample: Finding) -> None:
    assert html_page.page(sample) == html_page.page(sample)


def test_html_holds_no_foreign_markup(sample: Finding) -> None:
    text = html_page.page(sample)
    head, _, rest = text.partition('<script type="application/json" id="attnviz-data">')
    data, _, tail = rest.partition("</script>")
    assert "<" not in data
    assert json.loads(data)["about"]["title"] == sample.title
    assert "<b>result" not in head
    assert tail.count("</script>") == 1
    assert "default-src 'none'" in head
    assert "http://" not in head + tail
    assert "https://" not in head + tail


@pytest.mark.browser
@pytest.mark.parametrize("kind", sorted(SAMPLES))
@pytest.mark.parametrize(("width", "dark"), [(1360, False), (1360, True), (390, False)])
def test_page_shows_hostile_text_as_text(open_page: Any, kind: str, width: int, dark: bool) -> None:
    page = open_page(SAMPLES[kind](), width=width, dark=dark)
    assert page.locator("#attnviz-view img, #attnviz-view script, #attnviz-view iframe").count() == 0
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#attnviz-theme").click()
    assert page.evaluate("document.body.classList.contains('dark')") is not dark
    assert page.locator("#attnviz-text").text_content() == "".join(HOSTILE)
