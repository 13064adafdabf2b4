"""One app per test module; pages that fail on console errors and on requests to other hosts."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url, process, seconds=180):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"The app ended with code {process.returncode}.")
        try:
            urllib.request.urlopen(url, timeout=20).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"The app did not answer within {seconds} s.")


def start(command, folder, **environment):
    """A running app: url, log of the analyses, and what it wrote."""
    port = free_port()
    log, said = folder / "calls.log", folder / "output.log"
    log.touch()
    own = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **own, "ATTNVIZ_TEST_LOG": str(log), "GRADIO_SERVER_PORT": str(port), **environment}
    with said.open("w") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in command], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process)
    except BaseException:
        process.kill()
        print(said.read_text())
        raise
    return SimpleNamespace(
        url=url, port=port, process=process, calls=lambda: log.read_text().splitlines(), output=said.read_text
    )


def stop(app):
    app.process.terminate()
    try:
        app.process.wait(5)
    except subprocess.TimeoutExpired:
        app.process.kill()
        app.process.wait()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    running = start([sys.executable, str(HERE / "serve_rules.py"), "{port}"], tmp_path_factory.mktemp("app"))
    yield running
    stop(running)


@pytest.fixture
def new_page(browser, app):
    """Opens pages on the app; fails the test if one of them had an error or asked another host."""
    contexts, problems = [], []

    def open_page(query="", *, width=1360, height=900, ready=True, expected_errors=(), url=None, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(8_000)
        base = url or app.url

        def heard(message):
            if message.type == "error" and not any(e in message.text for e in expected_errors):
                problems.append(f"console: {message.text}")

        page.on("console", heard)
        page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((base, "data:", "blob:"))
                else problems.append(f"asked another host: {request.url}")
            ),
        )
        page.goto(f"{base}/{query}")
        if ready:
            page.wait_for_selector(".app-panel [data-ready='1']")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def page(new_page):
    return new_page()
