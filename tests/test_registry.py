"""Discovery, checking and indexing of plugins: what goes wrong is recorded with its reason, and the rest is loaded."""

import importlib.util
import pickle
import sys
import textwrap

import pytest

from attnviz.registry import CHOOSE, load_one, load_registry

GOOD = """
from attnviz.hooks import Analysis, Table, hookimpl

def run(request):
    return Table(columns=("a",), rows=((1,),))

@hookimpl
def attnviz_analyses():
    return [Analysis(name="{name}", title="T", group="New group", summary="s", run=run, produces=Table)]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Writes drop-in files; only they are loaded."""
    monkeypatch.setattr("attnviz.registry.BUILTIN", ())
    monkeypatch.delenv(CHOOSE, raising=False)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        return tmp_path

    return write


def load(path, **options):
    return load_registry(folder=path, entry_points=False, **options)


def only_failure(registry):
    assert len(registry.failures) == 1, registry.failures
    return registry.failures[0]


def test_built_ins_load_without_a_failure():
    registry = load_registry(safe=True)
    assert registry.failures == ()
    optional = [name for name in ("captum", "inseq") if importlib.util.find_spec(name) is None]
    assert [f.plugin for f in registry.unavailable] == [f"analyses.{name}_methods" for name in optional]
    for name, found in zip(optional, registry.unavailable, strict=True):
        assert found.reason.endswith(f"pip install {name}")
    assert {p.origin for p in registry.plugins} == {"built-in"}


def test_a_file_in_the_folder_gets_a_tab(folder):
    registry = load(folder(mine=GOOD.format(name="mine")))
    assert registry.groups()["New group"][0].name == "mine"
    assert ("analyses", "mine") in registry.plugins[-1].provides
    assert registry.plugins[-1].origin == "folder"


def test_the_folder_never_enters_sys_path_and_the_module_is_importable_by_its_flat_name(folder):
    path = folder(mine=GOOD.format(name="mine"))
    before = list(sys.path)
    registry = load(path)
    assert sys.path == before
    assert pickle.loads(pickle.dumps(registry.analyses["mine"].run)) is registry.analyses["mine"].run


def test_dataclasses_with_postponed_annotations_work_in_a_drop_in(folder):
    source = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    assert load(folder(mine=source + GOOD.format(name="mine"))).failures == ()


@pytest.mark.parametrize("error", ["1 / 0", "raise SystemExit(3)", "def broken(:"])
def test_a_plugin_that_fails_at_import_is_recorded_and_the_next_one_loads(folder, error):
    registry = load(folder(bad=error, mine=GOOD.format(name="mine")))
    failure = only_failure(registry)
    assert (failure.plugin, failure.stage) == ("bad", "import")
    assert "mine" in registry.analyses


def test_a_misspelt_hook_names_the_near_miss(folder):
    failure = only_failure(load(folder(bad=GOOD.format(name="x").replace("attnviz_analyses", "attnviz_analysis"))))
    assert failure.stage == "register"
    assert "attnviz_analysis is not a hook. Did you mean attnviz_analyses?" in failure.reason


def test_a_hook_without_its_marker_is_an_error(folder):
    failure = only_failure(load(folder(bad=GOOD.format(name="x").replace("@hookimpl", ""))))
    assert "attnviz_analyses has no @hookimpl" in failure.reason


def test_a_hook_with_arguments_is_an_error(folder):
    source = GOOD.format(name="x").replace("attnviz_analyses()", "attnviz_analyses(registry)")
    assert only_failure(load(folder(bad=source))).stage == "register"


def test_a_file_without_hooks_is_an_error(folder):
    assert "implements no hook" in only_failure(load(folder(bad="x = 1"))).reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("return 3", "returned int, expected a list"),
        ("yield 1 / 0", "ZeroDivisionError"),
        ("return ['x']", "returned a str, expected Analysis"),
        ("return [Analysis(name='Bad Name', title='', group='', summary='', run=run, produces=Table)]", "Bad Name"),
    ],
)
def test_a_hook_that_fails_is_recorded_and_the_others_of_the_plugin_are_kept(folder, body, reason):
    source = """
    from attnviz.hooks import Analysis, ModelEntry, Table, hookimpl
    def run(request): ...
    @hookimpl
    def attnviz_models():
        return [ModelEntry(name="kept", title="", source="x", size="", licence="")]
    @hookimpl
    def attnviz_analyses():
        BODY
    """.replace("BODY", body)
    registry = load(folder(bad=source))
    assert reason in only_failure(registry).reason
    assert "kept" in registry.models


def test_a_duplicate_name_names_both_sources(folder):
    path = folder(one=GOOD.format(name="same"), two=GOOD.format(name="same"))
    failure = only_failure(load(path))
    assert (failure.plugin, failure.stage) == ("two", "duplicate")
    assert str(path / "one.py") in failure.reason
    assert str(path / "two.py") in failure.reason


def test_a_missing_package_makes_a_plugin_unavailable_with_the_pip_line(folder):
    registry = load(folder(needs="import surely_not_installed.part"))
    assert registry.failures == ()
    assert "pip install surely_not_installed" in registry.unavailable[0].reason


def test_plugins_can_be_chosen_and_blocked(folder, monkeypatch):
    path = folder(one=GOOD.format(name="one"), two=GOOD.format(name="two"))
    for choice, expected in {"one": {"one"}, "-one": {"two"}, "": set(), "one,two": {"one", "two"}}.items():
        monkeypatch.setenv(CHOOSE, choice)
        registry = load(path)
        assert {"one", "two"} & set(registry.analyses) == expected
        assert {f.plugin for f in registry.unavailable} == {"one", "two"} - expected
    monkeypatch.setenv(CHOOSE, "twoo")
    assert "Did you mean 'two'?" in only_failure(load(path)).reason


def test_safe_mode_loads_built_ins_only(folder):
    assert "mine" not in load(folder(mine=GOOD.format(name="mine")), safe=True).analyses


def test_private_files_and_projects_are_not_plugins(folder):
    path = folder(_private="1 / 0")
    (path / "project").mkdir()
    (path / "project" / "pyproject.toml").write_text("")
    assert load(path).failures == ()


def test_a_package_in_the_folder_may_import_its_own_parts(folder):
    path = folder()
    (path / "pack").mkdir()
    (path / "pack" / "part.py").write_text("NAME = 'packed'")
    (path / "pack" / "__init__.py").write_text("from .part import NAME\n" + GOOD.format(name="packed"))
    registry = load(path)
    assert registry.failures == ()
    assert "packed" in registry.analyses


def test_one_plugin_can_be_loaded_alone(folder):
    path = folder(mine=GOOD.format(name="mine"), other=GOOD.format(name="other"))
    registry = load_one(path / "mine.py")
    assert "mine" in registry.analyses
    assert "other" not in registry.analyses


@pytest.mark.parametrize(
    "descriptor",
    [
        'Analysis("x", "T", ["g"], "s", print, HeadScores)',
        'Analysis("x", None, "g", "s", print, HeadScores)',
        'Analysis("x", "T", "g", "s", print, None)',
        'Analysis("x", "T", "g", "s", print, HeadScores, requires="attention")',
        'Renderer("x", "T", HeadScores, "text", print)',
        'Renderer("x", "T", (5,), "text", print)',
        'ModelEntry("x", "T", None, "s", "l")',
        'ModelEntry("x", "T", "x", "s", "l", examples=("a", "b"))',
    ],
)
def test_a_descriptor_of_wrong_types_is_a_recorded_failure(tmp_path, descriptor):
    kind = {"A": "analyses", "R": "renderers", "M": "models"}[descriptor[0]]
    body = f"from attnviz.hooks import *\n\n@hookimpl\ndef attnviz_{kind}():\n    return [{descriptor}]\n"
    (tmp_path / "odd.py").write_text(body, "utf-8")
    registry = load_registry(folder=tmp_path, entry_points=False)
    assert [(f.plugin, f.stage) for f in registry.failures] == [("odd", "hook")]
    assert "x" not in getattr(registry, kind)


def test_requires_may_be_any_collection_of_names():
    from attnviz.hooks import Analysis, HeadScores

    assert Analysis("x", "T", "g", "s", print, HeadScores, requires=["logits"]).requires == frozenset({"logits"})


def test_a_module_that_cannot_be_asked_for_its_hooks_is_recorded(tmp_path):
    body = "def __getattr__(name):\n    raise RuntimeError('no')\ndef __dir__():\n    return ['attnviz_tools']\n"
    (tmp_path / "odd.py").write_text(body, "utf-8")
    failure = load_registry(folder=tmp_path, entry_points=False).failures[0]
    assert (failure.plugin, failure.stage, failure.reason) == ("odd", "register", "RuntimeError: no")


def test_a_plugin_folder_that_is_not_there_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNVIZ_PLUGIN_FOLDER", str(tmp_path / "typo"))
    failure = load_registry(entry_points=False).failures[0]
    assert (failure.plugin, failure.source) == ("typo", str(tmp_path / "typo"))
    assert "No such file or directory" in failure.reason


def test_odd_files_are_failures_and_the_rest_loads(tmp_path):
    (tmp_path / "bytes.py").write_bytes(b'x = "\xff"')
    (tmp_path / "loop.py").symlink_to("loop.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "mark.py").write_bytes(
        b"\xef\xbb\xbffrom attnviz.hooks import hookimpl\n@hookimpl\ndef attnviz_tools():\n    return []\n"
    )
    registry = load_registry(folder=tmp_path, entry_points=False)
    assert {f.plugin for f in registry.failures} == {"bytes", "loop", "folder"}
    assert "mark" in {p.name for p in registry.plugins}
