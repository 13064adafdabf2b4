"""One Chromium for all browser tests of a run; one thread for numbers, also in the programs that tests start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

# Before torch is imported. The models of the tests are tiny, and two threads that wait for each other on a busy machine
# are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
        stop("No Chromium found (apt-get install chromium); or name it in CHROMIUM.")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        stop("playwright is not installed.")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()
