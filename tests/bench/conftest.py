"""Benchmarks over models and methods of rules, in this process and in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import attnviz
from attnviz.__main__ import main

ROOT = Path(attnviz.__file__).parent.parent
PLUGINS = Path(__file__).parent / "plugins"


@pytest.fixture
def world(tmp_path, monkeypatch, capfd):
    """Runs `attnviz bench` in this process; knows the environment for other processes and what was loaded."""
    log = tmp_path / "loads.log"
    log.touch()
    settings = {"ATTNVIZ_PLUGIN_FOLDER": str(PLUGINS), "ATTNVIZ_PLUGINS": "bench_world", "BENCH_TEST_LOG": str(log)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def run(*arguments):
        code = main(["bench", *(str(argument) for argument in arguments)])
        return code, capfd.readouterr().err

    def loads():
        return log.read_text().split()[1::2]

    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return SimpleNamespace(run=run, loads=loads, environment={**os.environ, **settings, **own}, folder=tmp_path)


@pytest.fixture
def start(world):
    """Begins `attnviz bench` in a process of its own."""
    begun = []

    def begin(*arguments, launcher=("-m", "attnviz")):
        command = [sys.executable, *launcher, "bench", *(str(argument) for argument in arguments)]
        process = subprocess.Popen(
            command, cwd=world.folder, env=world.environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        begun.append(process)
        return process

    yield begin
    for process in begun:
        process.kill()
        process.communicate()
