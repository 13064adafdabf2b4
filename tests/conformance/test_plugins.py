"""Every registered plugin keeps its promises: those of this project, of `plugins/`, and any that is installed."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz.hooks import ModelSpec
from attnviz.plugins.formats import sensor_data
from attnviz.registry import load_one, load_registry
from attnviz.testing import (
    FakeModel,
    FakeSensors,
    check_analysis,
    check_backend,
    check_format,
    check_plugin,
    check_registry,
    check_renderer,
    check_tool,
    fake_request,
    sample_finding,
    sample_findings,
)
from attnviz.testing.plugins import CONTENTS
from attnviz.types import result_types

ROOT = Path(attnviz.__file__).parent.parent
EXAMPLE = ROOT / "plugins" / "attnviz-example"
REGISTRY = load_registry()
OF_A_MODULE = ("captum", "inseq")  # they need a torch module, which a FakeModel is not: tests/oracles checks them
ANALYSES = [analysis for name, analysis in REGISTRY.analyses.items() if name not in OF_A_MODULE]
PLUGINS = [plugin.name for plugin in REGISTRY.plugins if not plugin.name.endswith("_methods")]
SAMPLES = [(kind, name) for kind in result_types() for name in sample_findings(kind)]
PAIRS = [(r, *s) for r in REGISTRY.renderers.values() for s in SAMPLES if s[0] in [kind.kind for kind in r.accepts]]


def named(descriptors):
    return [pytest.param(descriptor, id=descriptor.name) for descriptor in descriptors]


def test_the_registry_is_whole():
    check_registry(REGISTRY)


@pytest.mark.parametrize("name", PLUGINS)
def test_every_plugin_passes_the_check_of_the_command_line(name):
    assert check_plugin(name, REGISTRY) == []


def test_every_analysis_can_run_on_a_fake_model():
    """Else the checks below would leave it out without a word."""
    able = [model.card.capabilities for model in (FakeModel(), FakeSensors())]
    assert [a.name for a in ANALYSES if not any(a.requires <= each for each in able)] == []


@pytest.mark.parametrize("analysis", named(ANALYSES))
def test_analyses(analysis):
    check_analysis(analysis, fake_request(analysis, analyses=REGISTRY.analyses))


@pytest.mark.parametrize("analysis", named(ANALYSES))
def test_analyses_with_every_switch_on(analysis):
    switches = {param.name: True for param in analysis.params if param.type == "bool"}
    words = {param.name: param.choices[-1] for param in analysis.params if param.choices}
    request = fake_request(analysis, analyses=REGISTRY.analyses, **switches, **words)
    run = dataclasses.replace(request.run, generated_from=len(request.tokens) - 2)  # some words ask for the answer
    check_analysis(analysis, dataclasses.replace(request, run=run))


@pytest.mark.parametrize("analysis", named(a for a in ANALYSES if "attention" in a.requires))
@pytest.mark.parametrize("text", ["a", "日本語 naïve"])
def test_analyses_of_short_and_foreign_texts(analysis, text):
    check_analysis(analysis, fake_request(analysis, analyses=REGISTRY.analyses, text=text))


@pytest.mark.parametrize(
    ("renderer", "kind", "name"), [pytest.param(r, k, n, id=f"{r.name}-{k}-{n}") for r, k, n in PAIRS]
)
def test_renderers(renderer, kind, name):
    check_renderer(renderer, sample_findings(kind)[name])


@pytest.mark.parametrize("analysis", named(ANALYSES))
def test_what_analyses_make_is_drawn(analysis):
    """Real results, not only samples, by every renderer that accepts them."""
    request = fake_request(analysis, analyses=REGISTRY.analyses)
    result = analysis.run(request)
    for renderer in REGISTRY.renderers.values():
        if isinstance(result, renderer.accepts):
            finding = sample_finding(result.kind)
            check_renderer(renderer, _finding_of(finding, request, result))


def _finding_of(finding, request, result):
    return dataclasses.replace(finding, tokens=request.tokens, result=result, generated_from=None)


@pytest.mark.parametrize("format", named(REGISTRY.formats.values()))
def test_formats(format, tmp_path):
    check_format(format, CONTENTS[format.content], tmp_path)


CALLS = {
    "calculator": {"expression": "25 * 37"},
    "convert": {"request": "12 km to miles"},
    "currency": {"request": "250 EUR to USD"},
    "lookup": {"topic": "capital of France"},
    "time": {"city": "Oslo"},
    "sensor": {"reading": "boiler 7 oxygen"},
    "python": {"code": "sorted([3, 1])"},
}
"""What is asked of each tool; the weather is not asked for without a network."""


@pytest.mark.parametrize("tool", named(tool for tool in REGISTRY.tools.values() if tool.name != "weather"))
def test_tools(tool):
    check_tool(tool, **CALLS[tool.name])


EMBEDDED = [entry for entry in REGISTRY.models.values() if Path(entry.source).is_dir()]


@pytest.mark.parametrize("entry", named(EMBEDDED))
def test_embedded_models(entry):
    backends = [b for b in REGISTRY.backends.values() if b.handles(ModelSpec(entry.source)) is None]
    assert backends
    prompts = [sensor_data.read(file).array[:32] for _, file in entry.data] or ["What is 25 * 37?"]
    for backend in backends:
        check_backend(backend, ModelSpec(entry.source), prompts[0])


def test_the_installable_example_keeps_the_contract_and_passes_its_own_test():
    path = EXAMPLE / "attnviz_example.py"
    assert check_plugin(path, load_one(path)) == []
    paths = [str(EXAMPLE), str(ROOT)]
    code = (
        f"import sys; sys.path[:0] = {paths}; import pytest; sys.exit(pytest.main(['tests', '-p', 'no:cacheprovider']))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "plugins" / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_the_code_of_the_plugin_guide_runs_and_keeps_the_contract(code, tmp_path):
    path = tmp_path / "from_the_guide.py"
    path.write_text(code, "utf-8")
    if "@hookimpl" not in code:
        exec(compile(code, str(path), "exec"), {})
        return
    registry = load_one(path)
    assert check_plugin(path, registry) == []
    assert sum(1 for line in code.splitlines() if line.strip()) <= 10
