"""Descriptors: what a parameter takes, and what a plugin may not declare."""

import math

import pytest

from attnviz.errors import BadInput, PluginError, UnknownName
from attnviz.hooks import Analysis, Backend, Format, ModelEntry, Param, Renderer, Table, Tool

INT = Param("top_k", "int", default=5, minimum=1, maximum=20)
FLOAT = Param("share", "float", default=0.5, minimum=0, maximum=1)
FREE = Param("number", "float")
BOOL = Param("flag", "bool", default=False)
CHOICE = Param("sites", "choice", default="blocks", choices=("blocks", "sublayers"))
TEXT = Param("target", "text", default="next token")
LAYER = Param("layer", "layer", choices=("mean",))
TOKEN = Param("token", "token")


@pytest.mark.parametrize(
    ("param", "value", "expected"),
    [
        (INT, 3, 3),
        (INT, "3", 3),
        (INT, " 3 ", 3),
        (INT, 3.0, 3),
        (INT, "20", 20),
        (INT, None, 5),
        (FLOAT, "0.25", 0.25),
        (FLOAT, 1, 1.0),
        (FLOAT, "1e-3", 0.001),
        (FREE, None, None),
        (FREE, "-2.5", -2.5),
        (BOOL, True, True),
        (BOOL, "no", False),
        (BOOL, "True", True),
        (BOOL, 1, True),
        (BOOL, "off", False),
        (CHOICE, "sublayers", "sublayers"),
        (TEXT, "", ""),
        (TEXT, " dog", " dog"),
        (LAYER, "mean", "mean"),
        (LAYER, "2", 2),
        (LAYER, 2.0, 2),
        (LAYER, None, None),
        (TOKEN, 7, 7),
    ],
)
def test_values_are_taken(param, value, expected):
    found = param.parse(value)
    assert found == expected
    assert type(found) is type(expected)


HUGE = "9" * 400  # larger than a float


@pytest.mark.parametrize(
    ("param", "value"),
    [
        *((INT, v) for v in ("x", "", 2.5, "2.5", 0, 21, True, "nan", "inf", math.nan, -math.inf, HUGE, [], {})),
        *((FLOAT, v) for v in ("x", 1.01, -0.01, math.nan, "nan", "inf", math.inf, "1e999", True, [1])),
        *((FREE, v) for v in (math.nan, math.inf, "-inf", HUGE, int(HUGE))),
        *((BOOL, v) for v in ("maybe", "", 2, 0.5, [])),
        *((CHOICE, v) for v in ("Blocks", "", 1, True)),
        *((TEXT, v) for v in (1, True, b"a", ["a"])),
        *((LAYER, v) for v in ("median", "-1", -1, 2.5, True, "nan", math.nan, math.inf, [])),
        *((TOKEN, v) for v in ("mean", -1, 1.5, False, "1.5")),
    ],
    ids=lambda v: v.name if isinstance(v, Param) else repr(v)[:20],
)
def test_values_are_refused_in_words(param, value):
    with pytest.raises(BadInput) as refusal:
        param.parse(value)
    assert param.name in str(refusal.value)
    assert "xpected" in str(refusal.value) or "Known" in str(refusal.value)


def test_a_refusal_says_what_was_expected_and_what_came():
    with pytest.raises(BadInput, match="Parameter top_k: expected a whole number from 1 to 20, got 0"):
        INT.parse(0)
    with pytest.raises(BadInput, match="Parameter layer: expected a layer index from 0 or 'mean', got 'median'"):
        LAYER.parse("median")
    with pytest.raises(UnknownName, match="Did you mean 'blocks'"):
        CHOICE.parse("block")


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "Top K", "type": "int"},
        {"name": "x", "type": "integer"},
        {"name": "x", "type": "choice", "choices": ("a",)},
        {"name": "x", "type": "choice", "choices": ("a",), "default": "b"},
    ],
)
def test_params_that_cannot_be(arguments):
    with pytest.raises(PluginError):
        Param(**arguments)


def test_a_default_out_of_bounds_is_refused():
    with pytest.raises(BadInput, match="got 30"):
        Param("x", "int", default=30, maximum=20)


def test_titles():
    assert Param("top_k", "int").title == "Top k"
    assert Param("top_k", "int", label="Tokens").title == "Tokens"
    assert [p.linked for p in (LAYER, TOKEN, INT)] == [True, True, False]


def analysis(**changes):
    good = {"name": "a", "title": "A", "group": "G", "summary": "", "run": print, "produces": Table}
    return Analysis(**{**good, **changes})


def test_an_analysis_resolves_its_parameters():
    found = analysis(params=(INT, LAYER, TEXT))
    assert found.resolve({"top_k": "7"}) == {"top_k": 7, "layer": None, "target": "next token"}
    with pytest.raises(UnknownName, match=r"parameter of a 'topk'\. Did you mean 'top_k'"):
        found.resolve({"topk": 7})
    with pytest.raises(BadInput, match="top_k"):
        found.resolve({"top_k": 99})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Logit lens"}, "expected lower-case letters"),
        ({"name": ""}, "expected lower-case letters"),
        ({"run": 3}, "expected a function, got int"),
        ({"requires": frozenset({"atention"})}, "Did you mean 'attention'"),
        ({"params": (INT, INT)}, "appears twice"),
    ],
)
def test_analyses_that_cannot_be(change, message):
    with pytest.raises(PluginError, match=message):
        analysis(**change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Renderer("r", "R", (Table,), "hologram", print), "not one of"),
        (lambda: Renderer("r", "R", (Table,), "script", print), "only a script view, has a script"),
        (lambda: Renderer("r", "R", (Table,), "text", print, script="x"), "only a script view, has a script"),
        (lambda: Renderer("r", "R", (Table,), "text", print, suffixes=("txt",)), "start with a dot"),
        (lambda: Backend("b", "", None, print), "expected a function"),
        (lambda: Format("f", "", "conversation", (".json",)), "expected read or write, got neither"),
        (lambda: Tool("t", "", {"type": "string"}, print), 'of type "object"'),
        (lambda: ModelEntry("a b", "", "", "", ""), "expected letters, digits"),
    ],
)
def test_descriptors_that_cannot_be(make, message):
    with pytest.raises(PluginError, match=message):
        make()
