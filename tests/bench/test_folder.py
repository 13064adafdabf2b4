"""What is read back from a folder is checked, field by field."""

import json
import os
from dataclasses import asdict

import pytest

from attnviz.bench.folder import benchmarks, cell_path, read_benchmark, read_plan, result_path
from attnviz.bench.plan import PlannedModel, file_name
from attnviz.bench.records import Cell, read_record
from attnviz.errors import BadInput
from tests.bench.samples import benchmark, plan, write


@pytest.fixture
def folder(tmp_path):
    """A folder with all of the benchmark that is made by hand."""
    return write(tmp_path / "b", benchmark())


def test_what_is_written_is_read(folder):
    assert read_benchmark(folder) == benchmark()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attribution_time", -1),
        ("attribution_time", "1"),
        ("attribution_time", True),
        ("token_count", 1.5),
        ("token_count", -1),
        ("success", "yes"),
        ("success", None),
        ("error_stage", "sleeping"),
        ("error_stage", "saving"),
        ("error", 5),
        ("device", ["cpu"]),
        ("model", "another"),
        ("prompt", 2),
        ("comprehensiveness", "much"),
    ],
)
def test_a_cell_that_none_can_be_is_refused_in_one_line(folder, name, value):
    path = folder / "A/method_fast/cells/00001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(BadInput, match=r"b/A/method_fast/cells/00001\.json: expected") as refused:
        read_benchmark(folder)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"a": NaN}', "\x00", '{"model": "A"}'])
def test_a_cell_that_is_no_record_is_refused(folder, text):
    (folder / "A/method_fast/cells/00001.json").write_text(text)
    with pytest.raises(BadInput, match=r"cells/00001\.json: expected"):
        read_benchmark(folder)


def test_a_field_more_or_less_is_refused():
    good = asdict(benchmark().cells[0])
    assert read_record(Cell, good, "x") == benchmark().cells[0]
    with pytest.raises(BadInput, match="with the fields of Cell"):
        read_record(Cell, {**good, "more": 1}, "x")
    with pytest.raises(BadInput, match="as attribution_time, got nan"):
        read_record(Cell, {**good, "attribution_time": float("nan")}, "x")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], "other"),
        (["digest"], "0"),
        (["started"], None),
        (["plan"], []),
        (["plan", "models"], []),
        (["plan", "models", 0, "folder"], "../../etc"),
        (["plan", "models", 0, "source"], 5),
        (["plan", "methods", 0, "params"], None),
        (["plan", "prompts", 0, "id"], 7),
        (["plan", "prompts", 0, "text"], None),
        (["plan", "max_new_tokens"], "many"),
        (["plan", "faithfulness"], True),
    ],
)
def test_a_changed_plan_is_refused_in_one_line(folder, path, value):
    file = folder / "plan.json"
    data = json.loads(file.read_text())
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    file.write_text(json.dumps(data))
    with pytest.raises(BadInput, match=r"b/plan\.json: expected a plan") as refused:
        read_plan(folder)
    assert "\n" not in str(refused.value)


def test_no_folder_and_a_foreign_one_are_refused(tmp_path):
    for place in (tmp_path / "none", tmp_path):
        with pytest.raises(BadInput, match="expected the folder of a benchmark"):
            read_plan(place)


def test_a_plan_keeps_its_digest_and_every_change_has_another():
    assert plan().digest == plan().digest
    assert len({plan().digest, plan(format="text").digest, plan(max_new_tokens=3).digest}) == 3
    assert plan().differs_from(plan(format="text", max_new_tokens=3)) == ["format", "max_new_tokens"]


@pytest.mark.parametrize("name", ["org/name", "..", ".", "a b", "…", "x" * 300, "C:\\models", "CON/../x"])
def test_names_of_files_stay_within_the_folder(tmp_path, name):
    plain = file_name(name)
    assert plain == file_name(plain)
    model = PlannedModel(name, plain, name)
    for path in (cell_path(tmp_path, model, "m", 1), result_path(tmp_path, model, "m", 1)):
        assert path.resolve().is_relative_to(tmp_path)
        assert len(path.relative_to(tmp_path).parts) == 4


def test_benchmarks_are_found_the_latest_first(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNVIZ_HOME", str(tmp_path))
    assert benchmarks() == []
    (tmp_path / "benchmarks" / "other").mkdir(parents=True)
    for name, seconds in (("old", 100), ("new", 200)):
        file = write(tmp_path / "benchmarks" / name, benchmark()) / "plan.json"
        os.utime(file, (seconds, seconds))
    assert [path.name for path in benchmarks()] == ["new", "old"]
