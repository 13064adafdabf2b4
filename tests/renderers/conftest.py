"""A finding of every kind, and pages that show one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attnviz.hooks import Finding
from tests.renderers.samples import SAMPLES


@pytest.fixture(params=sorted(SAMPLES))
def sample(request: pytest.FixtureRequest) -> Finding:
    """One finding of each kind."""
    return SAMPLES[request.param]()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """open_page(finding, width, dark) -> a page showing the offline file. No console error, no request, at the end."""
    from attnviz.plugins.renderers.html_page import page as html_text

    problems: list[str] = []
    contexts = []

    def open_one(shown: Finding | str, *, width: int = 1360, height: int = 1000, dark: bool = False) -> Any:
        file = tmp_path / f"page{len(contexts)}.html"
        text = shown if isinstance(shown, str) else html_text(shown)
        file.write_text(text, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        contexts.append(context)
        opened = context.new_page()
        opened.set_default_timeout(15000)
        opened.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        opened.on("pageerror", lambda error: problems.append(f"pageerror {error}"))
        opened.on("dialog", lambda d: (problems.append(f"dialog {d.message}"), d.dismiss()))
        allowed = (file.as_uri(), "data:", "blob:")
        opened.on("request", lambda r: None if r.url.startswith(allowed) else problems.append(f"request {r.url}"))
        opened.goto(file.as_uri())
        opened.wait_for_selector('#attnviz-view[data-ready="1"]')
        return opened

    open_one.problems = problems  # type: ignore[attr-defined]
    yield open_one
    for context in contexts:
        context.close()
    assert not problems, problems
