"""Layering as it really is at run time: what importing each part loads."""

import ast
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz.plugins import BUILTIN

ROOT = Path(attnviz.__file__).parent.parent
OPTIONAL = {f"attnviz.plugins.analyses.{name}_methods": name for name in ("captum", "inseq")}
MISSING = {module for module, package in OPTIONAL.items() if importlib.util.find_spec(package) is None}
HEAVY = ("torch", "transformers", "gradio", "nnsight", "accelerate", "plotly", "matplotlib", "PIL")


def loaded_by(statement: str) -> set[str]:
    """Heavy packages in sys.modules after the statement ran in a process of its own."""
    code = f"{statement}\nimport sys\nprint(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import attnviz",
        "import attnviz.errors, attnviz.types, attnviz.tokens, attnviz.hooks, attnviz.provenance",
        "import attnviz.registry, attnviz.session, attnviz.testing, attnviz.__main__",
        "from attnviz.registry import load_registry; load_registry()",
        "import attnviz.bench.command, attnviz.bench.view, attnviz.bench.processes",
        "import attnviz.demo.text",
        *(f"import {module}" for module in BUILTIN if module not in MISSING),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement):
    assert loaded_by(statement) == set()


def test_listing_plugins_loads_nothing_heavy():
    code = "import runpy, sys; sys.argv = ['attnviz', 'plugins', '--json']\n"
    code += "try: runpy.run_module('attnviz', run_name='__main__')\nexcept SystemExit: pass\n"
    code += f"print(*[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_only_the_app_imports_gradio():
    importers = {
        path.relative_to(ROOT).parts[1] for path in (ROOT / "attnviz").rglob("*.py") if "gradio" in imports(path)
    }
    assert importers <= {"ui"}


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions and as text given to import_module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            found |= {str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found


def test_every_module_that_implements_a_hook_is_listed_as_built_in():
    package = importlib.import_module("attnviz.plugins")
    names = [m.name for m in pkgutil.walk_packages(package.__path__, "attnviz.plugins.") if not m.ispkg]
    implementing = {n for n in names if "@hookimpl" in Path(importlib.util.find_spec(n).origin).read_text("utf-8")}
    assert implementing == set(BUILTIN)


def test_the_drop_in_example_stays_small_and_free_of_gradio():
    text = (ROOT / "plugins" / "head_distance.py").read_text("utf-8")
    assert len(text.splitlines()) <= 25
    assert "gradio" not in text


def test_layers_are_kept():
    done = subprocess.run([_beside_python("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def _beside_python(name: str) -> str:
    return str(Path(sys.executable).parent / name)
