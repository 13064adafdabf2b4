"""Starting the app: address, port in use, folders that cannot be written to, what stays off."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from attnviz.errors import BadInput
from attnviz.ui import launch

ROOT = Path(__file__).parents[2]


def test_a_port_in_use_is_one_line_and_code_2():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {**os.environ, "GRADIO_SERVER_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(
            [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Address already in use. Choose another port with --port." in done.stderr


@pytest.mark.parametrize("text", ["", "abc", "0", "70000", "-1"])
def test_a_wrong_port(monkeypatch, text):
    monkeypatch.setenv("GRADIO_SERVER_PORT", text)
    with pytest.raises(BadInput, match="expected a port"):
        launch.default_port()


def test_address(monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert launch.default_host() == "127.0.0.1"
    monkeypatch.setenv("SPACE_ID", "somebody/attnviz")
    assert launch.default_host() == "0.0.0.0"


def test_what_stays_off():
    code = (
        "import sys\n"
        "from attnviz.ui import launch\n"
        "assert 'gradio' not in sys.modules\n"
        "launch.prepare()\n"
        "from attnviz.registry import load_registry\n"
        "from attnviz.session import Session\n"
        "options = launch.launch_options(Session(load_registry(safe=True)))\n"
        "print(options['ssr_mode'], options['run_history'], options['enable_monitoring'], options['share'])\n"
        "import os; print(os.environ['GRADIO_ANALYTICS_ENABLED'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False"] * 5, done.stderr


def test_what_the_page_is_made_of_is_plain_data():
    """Gradio takes any word in quotes or backticks of a script for the name of an event, also that of a property."""
    code = (
        "from attnviz.registry import load_registry\n"
        "from attnviz.session import Session\n"
        "from attnviz.ui.build import build_app\n"
        "def strange(value, path):\n"
        "    if isinstance(value, dict):\n"
        "        return [found for key in value for found in strange(value[key], f'{path}/{key}')]\n"
        "    if isinstance(value, (list, tuple)):\n"
        "        return [found for inner in value for found in strange(inner, path)]\n"
        "    return [] if value is None or isinstance(value, (str, int, float)) else [path]\n"
        "parts = build_app(Session(load_registry())).config['components']\n"
        "print([path for p in parts if p['type'] != 'state' for path in strange(p['props'], p['type'])])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_importing_the_app_writes_no_files():
    folder = ROOT / "attnviz" / "ui" / "components"
    subprocess.run([sys.executable, "-c", "import attnviz.ui.build"], cwd=ROOT, check=True, timeout=60)
    assert not list(folder.glob("*.pyi"))
