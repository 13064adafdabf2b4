"""The documentation is true: its Python runs, its commands exist, and every hook appears with its exact signature."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz.hooks import descriptors, specs

ROOT = Path(attnviz.__file__).parent.parent
HOOKS = [name for name in dir(specs) if name.startswith("attnviz_")]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / name).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def run(arguments, folder):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_the_readme_has_python_and_commands():
    assert blocks("README.md", "python")
    assert blocks("README.md", "sh")


@pytest.mark.parametrize("code", [*blocks("README.md", "python"), *blocks("docs/saved-runs.md", "python")])
def test_python_in_the_readme_runs(code, tmp_path):
    run([sys.executable, "-W", "error", "-c", code], tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "docs/sensors.md",
        *(f"attnviz/demo/sensors/shipped/{name}/README.md" for name in ("combustion", "thermal_command")),
        "attnviz/demo/sensors/shipped/predictive_maintenance/README.md",
    ],
)
def test_python_about_sensors_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for code in blocks(name, "python"):
        exec(compile(code, name, "exec"), {})


def commands():
    pages = [*blocks("README.md", "sh"), *blocks("docs/saved-runs.md", "sh")]
    lines = [line.split("#")[0].strip() for block in pages for line in block.splitlines()]
    return [line for line in lines if line.startswith("attnviz ") and "serve" not in line]


@pytest.mark.parametrize("line", commands())
def test_commands_in_the_readme_run(line, tmp_path):
    run([sys.executable, "-m", *shlex.split(line)], tmp_path)


def test_the_readme_states_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert "pip install -r requirements.txt && python app.py" in text
    assert "pip install -r requirements-dev.txt && python -m pytest" in text


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_with_its_signature(name):
    signature = str(inspect.signature(getattr(specs, name))).replace("'", "")
    assert f"{name}{signature}" in (ROOT / "plugins" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("kind", descriptors.Param.TYPES)
def test_every_parameter_type_is_documented(kind):
    assert f"`{kind}`" in (ROOT / "plugins" / "README.md").read_text("utf-8")


def test_links_and_pictures_exist():
    pages = ("agent", "model-card", "saved-runs", "sensors")
    for name in ("README.md", "CONTRIBUTING.md", "plugins/README.md", *(f"docs/{page}.md" for page in pages)):
        folder = (ROOT / name).parent
        for target in re.findall(r"\]\(([^)#]+?)\)", (ROOT / name).read_text("utf-8")):
            if "://" not in target:
                assert (folder / target).exists(), f"{name}: {target}"
