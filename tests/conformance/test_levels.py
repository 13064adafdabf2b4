"""Every analysis at every level of detail: what it works from is said with the result, or why it cannot work."""

import re

import numpy as np
import pytest

from attnviz.errors import Unavailable
from attnviz.plugins.backends import estimate
from attnviz.registry import load_registry
from attnviz.session import Session

TEXT = "The cat sat on the mat. What is the capital of France?"
REGISTRY = load_registry(safe=True)
NEEDS_ATTENTION = sorted(name for name, a in REGISTRY.analyses.items() if "attention" in a.requires)
BUDGETS = {"float32": (64 << 20, 2 << 30), "float16": (10, 2 << 30), "statistics": (10, 10)}
"""Bytes of queries and keys that are kept in float32, and in float16."""


@pytest.fixture(scope="module")
def runs():
    """Level -> a run whose attention was captured at it."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for level, (whole, half) in BUDGETS.items():
            patch.setattr(estimate, "FLOAT32_BUDGET", whole)
            patch.setattr(estimate, "FLOAT16_BUDGET", half)
            made[level] = Session(REGISTRY).load("demo").generate(TEXT, max_new_tokens=4)
            assert made[level].captured.precision.startswith("float16" if level == "float16" else "float32")
            for name in NEEDS_ATTENTION:  # what an analysis wants beside the usual is captured at this level, too
                try:
                    made[level].analyze(name)
                except Unavailable:
                    assert level == "statistics"
        yield made


@pytest.mark.parametrize("level", ["float32", "float16"])
@pytest.mark.parametrize("name", NEEDS_ATTENTION)
def test_the_level_is_said_with_the_result(runs, name, level):
    said = [line for line in runs[level].analyze(name).result.info if re.search(rf"\b{level}\b", line)]
    assert said, f"{name} does not say that it works from {level}"
    if level == "float16":  # and why no better
        assert "Queries and keys of" in said[0]
        assert "in float32, and at most 1 MB are kept so." in said[0]


@pytest.mark.parametrize("name", NEEDS_ATTENTION)
def test_without_maps_an_analysis_works_from_statistics_or_says_why_not_in_one_line(runs, name):
    why = r"Queries and keys of \d+ tokens would take 1 MB in float16, and at most 1 MB are kept: use a [a-z, ]+\.?"
    try:
        said = runs["statistics"].analyze(name).result.info
    except Unavailable as refused:
        said = (str(refused),)
    assert [line for line in said if re.search(rf"(no maps of this run|without queries and keys)\. {why}$", line)]
    assert not [line for line in said if "\n" in line]


def test_statistics_are_the_same_at_every_level(runs):
    found = [runs[level].analyze("attention_stats").result for level in BUDGETS]
    for name, values in found[0].metrics.items():
        for other in found[1:]:
            np.testing.assert_array_equal(other.metrics[name], values)
