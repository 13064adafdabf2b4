"""Tables, summary and sentences, checked against numbers worked out by hand."""

import csv
import io
import math
from dataclasses import replace

import pytest

from attnviz.bench.insights import insights
from attnviz.bench.statistics import deviation, mean, pairs
from attnviz.bench.summary import summary
from attnviz.bench.tables import TABLES, aggregated_rows, csv_text, method_rows, prompt_rows
from tests.bench.samples import HOSTILE, benchmark


def by_pair(rows):
    return {(row["model"], row["attribution_method"]): row for row in rows}


def test_mean_and_deviation():
    assert mean([]) is None
    assert deviation([1.0]) is None
    assert mean([1.0, 2.0, 6.0]) == 3
    assert deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_one_row_for_each_model_and_method():
    found = by_pair(method_rows(benchmark()))
    fast = found["A", "fast"]
    assert list(fast)[:17] == [
        *("model", "attribution_method", "successful_prompts", "total_prompts", "success_rate", "model_loading_time"),
        *("attribution_time", "average_prompt_time", "total_time", "platform", "cpu_model", "cpu_cores", "memory_gb"),
        *("gpu_info", "cuda_available", "mps_available", "torch_version"),
    ]
    assert (fast["successful_prompts"], fast["total_prompts"], fast["success_rate"]) == (3, 3, 100)
    assert (fast["attribution_time"], fast["average_prompt_time"], fast["total_time"]) == (6, 2, 11)
    assert fast["tokens_per_second"] == pytest.approx((10 / 1 + 20 / 2 + 30 / 3) / 3), "the mean, not the last prompt"
    assert (fast["cpu_seconds"], fast["peak_memory_mb"], fast["completeness_delta"]) == (12, 300, None)
    partial, failed = found["B", "fast"], found["B", "slow"]
    assert partial["success_rate"] == pytest.approx(200 / 3)
    assert (partial["attribution_time"], partial["total_time"], partial["failures"]) == (8, 15, "attribution: 1")
    assert (failed["success_rate"], failed["average_prompt_time"], failed["tokens_per_second"]) == (0, None, None)
    assert found["A", "slow"]["completeness_delta"] == 0.03
    assert found["A", "slow"]["comprehensiveness"] == 0.5


def test_one_row_for_each_cell():
    rows = prompt_rows(benchmark())
    assert len(rows) == 12
    assert list(rows[0])[:11] == [
        *("model", "attribution_method", "prompt_id", "token_count", "output_token_count", "attribution_time"),
        *("tokens_per_second", "prompt_text", "success", "device", "gpu_info"),
    ]
    assert rows[1]["tokens_per_second"] == 10
    failed = rows[8]
    assert (failed["success"], failed["error_stage"], failed["tokens_per_second"]) == ("False", "attribution", None)


def test_every_measure_over_prompts():
    fast = by_pair(aggregated_rows(benchmark()))["A", "fast"]
    assert (fast["attribution_time_mean"], fast["attribution_time_sum"], fast["attribution_time_std"]) == (2, 6, 1)
    assert (fast["token_count_mean"], fast["token_count_sum"]) == (20, 60)
    assert fast["peak_memory_mb_max"] == 300
    assert fast["completeness_delta_max"] is None
    assert by_pair(aggregated_rows(benchmark()))["B", "slow"]["attribution_time_mean"] is None


@pytest.mark.parametrize("name", TABLES)
def test_tables_do_not_depend_on_the_order_of_computing(name):
    found = benchmark()
    turned = replace(found, cells=tuple(sorted(found.cells, key=lambda c: (c.prompt, c.method, c.model))))
    rows, other = TABLES[name](found), TABLES[name](turned)
    assert sorted(rows, key=str) == sorted(other, key=str)


def test_hostile_text_comes_back_as_it_was_and_runs_in_no_spreadsheet():
    for row in csv.DictReader(io.StringIO(csv_text(prompt_rows(benchmark())), newline="")):
        assert row["prompt_text"].startswith(f"'{HOSTILE}")
        assert row["error"] in ("", f"'{HOSTILE}")


def test_the_summary():
    text = summary(benchmark())
    assert text.startswith("Attribution benchmark - 2026-01-01 00:00:00 UTC\n\nTotal prompts: 3\nCells: 12 of 12\n")
    assert "A / fast\n  Success rate: 100.0% (3/3)\n  Model loading: 5 s\n  Attribution: 6 s, 12 CPU s\n" in text
    assert "B / slow\n  Success rate: 0.0% (0/3)\n" in text
    assert "Comprehensiveness: 0.5 (random orders: 0.2)" in text
    assert "Failed at attribution, prompt 3: =cmd()" in text
    assert "Not finished" not in text
    assert "Not finished" in summary(replace(benchmark(), cells=benchmark().cells[:5]))


def test_sentences_say_what_the_figures_show():
    said = {insight.title: insight for insight in insights(pairs(benchmark()))}
    assert said["Performance range"].text == (
        "slow on A takes 5.0 times as long as fast on A: 10 s against 2 s a prompt, on average."
    )
    # slow on A never varies; fast varies by 1/2 on A and not at all on B, so 0.25 on average
    assert "slow takes the most even time" in said["Most consistent method"].text
    assert "is 0.00, that of the others 0.25" in said["Most consistent method"].text
    assert said["Failures"].text == "fast on B: 1 of 3 (1 at attribution); slow on B: 3 of 3 (3 at attribution)."
    assert said["Best overall method"].text == "Fastest on 1 of 1 model: fast.", "nothing competes with it on B"
    assert "slow is furthest above a random order in comprehensiveness, by 0.300" in said["Most faithful method"].text
    assert said["Most faithful method"].text.endswith("Not above a random order: fast.")
    assert {insight.figure for insight in said.values()} == {
        *("Time per method", "Errors by stage", "Faithfulness against time"),
    }


def test_nothing_is_said_of_nothing():
    assert insights(pairs(replace(benchmark(), cells=()))) == []
