"""How soon the app answers, shows its first result, and switches heads; beside a bare gradio app on the same machine.

    python bench/startup.py [--runs 3]

Prints a table. Needs playwright and Chromium ($CHROMIUM, else `chromium` on the path).

    first answer    start of the process to the first HTTP answer, ours and bare, taken in turn; median and ratio
    first result    first HTTP answer to the painted first result, in a browser that is already open
    head switch     click on a head that was seen before to its painted picture; median of 20
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import os, sys
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
import gradio as gr
with gr.Blocks(analytics_enabled=False) as app:
    gr.Markdown("bare")
app.launch(server_port=int(sys.argv[1]), quiet=True, ssr_mode=False, run_history=False, enable_monitoring=False)
"""
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SWITCHES = 20


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    answers: dict[str, list[float]] = {"app": [], "bare": []}
    for _ in range(runs):
        for name, command in (("bare", [sys.executable, "-c", BARE]), ("app", [sys.executable, "app.py"])):
            with served(command) as (_, seconds):
                answers[name].append(seconds)
    app, bare = (statistics.median(answers[name]) for name in ("app", "bare"))
    results, switches = zip(*(in_browser() for _ in range(runs)), strict=True)
    result, switch = statistics.median(results), statistics.median(s for many in switches for s in many)
    rows = [
        ("first answer, bare gradio", f"{bare:.2f} s", ""),
        ("first answer, app.py", f"{app:.2f} s", ""),
        ("ratio", f"{app / bare:.2f}", "1.3"),
        ("first answer to painted first result", f"{result:.2f} s", "2 s"),
        ("head switch, warm", f"{switch * 1000:.0f} ms", "50 ms"),
    ]
    print(f"{'what':<40}{'measured':>12}{'goal':>8}")
    for what, measured, goal in rows:
        print(f"{what:<40}{measured:>12}{goal:>8}")
    return 0


@contextmanager
def served(command: list[str]) -> Iterator[tuple[str, float]]:
    """A running server: its address, and the seconds until it answered."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    process = subprocess.Popen([*command, *([str(port)] if "-c" in command else [])], cwd=ROOT, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    url = f"http://127.0.0.1:{port}/"
    try:
        while True:
            if process.poll() is not None:
                raise SystemExit(f"{command} ended with code {process.returncode}.")
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.02)
        yield url, time.perf_counter() - started
    finally:
        process.terminate()
        process.wait()


def in_browser() -> tuple[float, list[float]]:
    """Seconds from the first answer to the first result, and of warm head switches."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1360, "height": 900})
        with served([sys.executable, "app.py"]) as (url, _):
            answered = time.perf_counter()
            page.goto(url)
            page.wait_for_selector(".app-panel [data-ready='1']", timeout=60_000)
            first = time.perf_counter() - answered
            switches = head_switches(page)
        browser.close()
    return first, switches


def head_switches(page: Any) -> list[float]:
    """Seconds of clicks between two heads that were both seen before, click to painted frame."""
    return [ms / 1000 for ms in page.evaluate(
        """async (count) => {
            const view = document.querySelector(".app-panel [data-shown]");
            const buttons = [0, 1].map((h) => view.querySelector(`[data-layer='0'][data-head='${h}']`));
            const shown = (key) => new Promise((done) => {
                const look = () => view.dataset.shown === key
                    ? requestAnimationFrame(() => setTimeout(done)) : setTimeout(look);
                look();
            });
            const times = [];
            for (let i = 0; i < count + 2; i++) {
                const at = (i + 1) % 2, start = performance.now();
                buttons[at].click();
                await shown(`0.${at}`);
                if (i >= 2) times.push(performance.now() - start);
                await new Promise((done) => setTimeout(done, 30));
            }
            return times;
        }""", SWITCHES)]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
