"""Tools of strangers: the one of the plugin guide, dropped in, and arguments against schemas."""

import re
from pathlib import Path

import pytest

import attnviz
from attnviz.agent import run_agent
from attnviz.agent.arguments import check_schema, checked_arguments, text_argument
from attnviz.errors import BadInput, PluginError
from attnviz.hooks import Tool
from attnviz.registry import load_one, load_registry
from attnviz.session import Session
from attnviz.testing import check_plugin
from tests.agent.stand_ins import scripted

ROOT = Path(attnviz.__file__).parent.parent


@pytest.fixture(scope="module")
def guide():
    """The tool of plugins/README.md as a drop-in file."""
    section = (ROOT / "plugins" / "README.md").read_text("utf-8").split("## Tool\n")[1]
    return re.search(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[1]


def test_the_tool_of_the_guide_is_short_and_keeps_the_contract(guide, tmp_path):
    assert len([line for line in guide.splitlines() if line.strip()]) <= 15
    (tmp_path / "price.py").write_text(guide, "utf-8")
    registry = load_one(tmp_path / "price.py")
    assert check_plugin(tmp_path / "price.py", registry) == []
    assert "price" in registry.tools


def test_dropped_in_it_is_called_by_an_agent(guide, tmp_path, monkeypatch):
    (tmp_path / "price.py").write_text(guide, "utf-8")
    monkeypatch.setenv("ATTNVIZ_PLUGIN_FOLDER", str(tmp_path))
    (price,) = [tool for tool in load_registry().tools.values() if tool.name == "price"]
    call = '<tool_call>\n{"name": "price", "arguments": {"item": "pear"}}\n</tool_call>'
    done = run_agent(scripted("hermes", [call, "0.70 euros."]), "What is a pear?", tools=[price])
    assert (done.steps[1].text, done.answer) == ("0.70 euros", "0.70 euros.")


def test_in_the_text_format_its_arguments_are_an_object_or_its_one_text(guide, tmp_path):
    (tmp_path / "price.py").write_text(guide, "utf-8")
    price = load_one(tmp_path / "price.py").tools["price"]
    assert text_argument(price, "pear") == {"item": "pear"}
    model = Session(load_registry(safe=True)).load("demo")
    named = Tool("lookup", price.summary, price.parameters, price.run)
    done = run_agent(model, "What is the capital of France?", tools=[named])
    assert done.steps[2].text == "error: no price of capital of France; there are apple, pear"


def tool(properties, required=(), **more):
    return Tool("it", "It.", {"type": "object", "properties": properties, "required": list(required), **more}, str)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string"}, ["", "x"], [1, None, True, [], {}]),
        ({"type": "integer"}, [1, -3, 2.0], [1.5, True, "1", float("nan"), None]),
        ({"type": "number"}, [1, 1.5], [True, "1", float("inf")]),
        ({"type": "boolean"}, [True, False], [0, 1, "true"]),
        ({"type": "null"}, [None], [0, ""]),
        ({"type": ["string", "null"]}, ["x", None], [1]),
        ({"enum": ["a", 1]}, ["a", 1, 1.0], ["b", True, 2]),
        ({"const": 1}, [1], [True, 2]),
        ({"minimum": 1, "maximum": 3}, [1, 3, 2.5, "text is no number"], [0, 3.1]),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 3}, [2], [1, 3]),
        ({"minLength": 1, "maxLength": 2}, ["a", "ab"], ["", "abc"]),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
            [[1], [1, 2]],
            [[], [1, 2, 3], ["a"]],
        ),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, [{"a": "x"}], [{}, {"a": 1}]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"x": 1}], [{"x": "1"}]),
        ({"type": "object", "additionalProperties": False}, [{}], [{"x": 1}]),
        (False, [], [1]),
        (True, [1, "x"], []),
    ],
)
def test_arguments_are_checked_against_the_schema(schema, good, bad):
    one = tool({"x": schema}, ["x"])
    check_schema(one)
    for value in good:
        assert checked_arguments(one, {"x": value}) == {"x": value}
    for value in bad:
        with pytest.raises(BadInput) as caught:
            checked_arguments(one, {"x": value})
        assert str(caught.value).startswith("x")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [{"pattern": "a"}, {"oneOf": []}, {"$ref": "#/x"}, {"format": "date"}, {"type": "text"}, {"items": {"not": {}}}, 3],
)
def test_what_would_not_be_checked_is_refused(schema):
    with pytest.raises(PluginError):
        check_schema(tool({"x": schema}))


@pytest.mark.parametrize(
    ("properties", "required", "text", "expected"),
    [
        ({"a": {"type": "string"}}, ["a"], "25 * 37", {"a": "25 * 37"}),
        ({"a": {"type": "string"}}, ["a"], '{"b": 1}', {"a": '{"b": 1}'}),
        ({"a": {"type": "integer"}}, ["a"], "7", {"a": 7}),
        ({"a": {"type": "array"}}, ["a"], "[1, 2]", {"a": [1, 2]}),
        ({"a": {"type": "integer"}}, ["a"], "seven", {"a": "seven"}),
        ({"a": {"type": "string"}, "b": {"type": "string"}}, ["a"], "x", {"a": "x"}),
        ({"a": {"type": "integer"}, "b": {"type": "integer"}}, ["a", "b"], '{"a": 1, "b": 2}', {"a": 1, "b": 2}),
        ({}, [], "", {}),
    ],
)
def test_the_one_text_of_a_call_becomes_arguments(properties, required, text, expected):
    assert text_argument(tool(properties, required), text) == expected


@pytest.mark.parametrize("text", ["1, 2", '{"a": 1', ""])
def test_a_text_for_several_arguments_is_refused(text):
    with pytest.raises(BadInput, match="it: expected"):
        text_argument(tool({"a": {"type": "integer"}, "b": {"type": "integer"}}, ["a", "b"]), text)
