"""A finding of every kind, and a real browser for the pages."""

from __future__ import annotations

import os
import shutil
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


FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """A Chromium on this machine, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A running Chromium. Skips where there is none, fails if REQUIRE_BROWSER=1."""
    stop = pytest.fail if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip
    path = chromium()
    if path is None:
        stop("No Chromium found; install one, or name it in CHROMIUM.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        stop("playwright is not installed.")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


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
