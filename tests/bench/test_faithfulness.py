"""Faithfulness in a benchmark is what the analysis says of the same run."""

import pytest

import attnviz
from attnviz.bench.faithfulness import FIGURES
from tests.bench.files import results, rows


def test_the_figures_are_those_of_the_analysis(world):
    out, prompts = world.folder / "b", world.folder / "p.csv"
    prompts.write_text("full_prompt\nWhat is 7 + 8?\n")
    asked = ("--methods", "saliency,attention", "--prompts", prompts, "--max-new-tokens", "3", "--faithfulness")
    given = ("-p", "saliency.aggregation=l2", "-p", "faithfulness.orders=3", "-p", "faithfulness.seed=5")
    assert world.run(*asked, *given, "--out", out)[0] == 0
    model = attnviz.load("demo")
    run = model.generate(messages=[{"role": "user", "content": "What is 7 + 8?"}], max_new_tokens=3)
    for row, settings in zip(rows(out, "prompt_timing_results.csv"), ("aggregation=l2", ""), strict=True):
        method = row["attribution_method"]
        judged = run.analyze("faithfulness", method=method, settings=settings, orders=3, seed=5).result
        means = {r[1]: (r[3], r[4]) for r in judged.rows if r[0] == "mean of 3 targets"}
        for name, figure in FIGURES.items():
            got = float(row[name]), float(row[f"{name}_random"])
            assert got == pytest.approx(means[figure], rel=1e-5, abs=1e-7), (method, name)
        assert float(row["faithfulness_time"]) > 0
    assert results(out)["demo/method_saliency/data/00001.json"]["params"]["aggregation"] == "l2"
    table = rows(out, "method_timing_results.csv")[0]
    assert table["comprehensiveness"] == rows(out, "prompt_timing_results.csv")[0]["comprehensiveness"]


def test_what_cannot_be_judged_is_a_failure_of_faithfulness(world):
    out, prompts = world.folder / "b", world.folder / "p.csv"
    prompts.write_text("full_prompt\na\n")  # <bos> is a control token, so the first target has one source
    asked = ("--models", "good", "--methods", "ramp_method", "--format", "text", "--max-new-tokens", "1")
    code, err = world.run(*asked, "--prompts", prompts, "--faithfulness", "--out", out)
    assert code == 2
    assert "The first failed at faithfulness: Target 2" in err
    row = rows(out, "prompt_timing_results.csv")[0]
    assert (row["success"], row["error_stage"]) == ("False", "faithfulness")
    assert float(row["attribution_time"]) > 0
    assert rows(out, "method_timing_results.csv")[0]["average_prompt_time"] == ""


def test_parameters_that_follow_the_method_are_refused(world):
    out = world.folder / "b"
    asked = ("--models", "good", "--methods", "ramp_method", "--faithfulness", "--out", out)
    code, err = world.run(*asked, "-p", "faithfulness.method=saliency")
    assert (code, "it follows the method that is judged" in err) == (2, True)
    code, err = world.run("--models", "good", "--methods", "ramp_method", "-p", "faithfulness.orders=3", "--out", out)
    assert (code, "with a method of ramp_method" in err) == (2, True)
