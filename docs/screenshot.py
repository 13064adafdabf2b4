"""The picture of the README: starts the app, opens it in Chromium, writes docs/attnviz.png.

python docs/screenshot.py [ADDRESS-QUERY] [FILE]
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
QUERY = "?tab=Attention&layer=2&head=1&theme=light"
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str, seconds: float = 60) -> None:
    """Return when the address answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main(query: str = QUERY, file: str = str(ROOT / "docs" / "attnviz.png")) -> None:
    """Take the picture of the page that `query` opens."""
    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    port = free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
            page = browser.new_page(viewport={"width": 1360, "height": 860})
            page.goto(f"http://127.0.0.1:{port}/{query}")
            page.wait_for_selector(".app-part [data-ready='1']", timeout=60_000)
            page.wait_for_timeout(500)
            page.screenshot(path=file)
            browser.close()
    finally:
        app.terminate()
        app.wait(10)


if __name__ == "__main__":
    main(*sys.argv[1:])
