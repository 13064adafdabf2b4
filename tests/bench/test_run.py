"""A benchmark from the command line to its tables: what is loaded, what fails where, what is resumed."""

import json

import pytest

from attnviz.bench.folder import read_benchmark
from attnviz.bench.view import report
from tests.bench.files import prompts_file, results, rows, without_times


def test_models_times_methods_times_prompts_with_one_load_each(world):
    out, prompts = world.folder / "b", prompts_file(world.folder / "p.csv", 3)
    code, err = world.run(
        "--models", "good,strict", "--methods", "ramp_method,steep_method", "--prompts", prompts, "--out", out
    )
    assert code == 0
    assert world.loads() == ["good", "strict"]
    assert "12 of 12 done" in err
    table = rows(out, "prompt_timing_results.csv")
    assert [(r["model"], r["attribution_method"], r["prompt_id"]) for r in table] == [
        (model, method, str(prompt))
        for model in ("good", "strict")
        for method in ("ramp_method", "steep_method")
        for prompt in (1, 2, 3)
    ]
    assert {r["success"] for r in table} == {"True"}
    assert {r["output_token_count"] for r in table} == {"16"}
    # <bos>, and of the model with a chat template <user> and <assistant> beside the bytes
    assert [r["token_count"] for r in table[:3]] == [str(len("prompt number 0 of 3") + 3)] * 3
    assert [r["token_count"] for r in table[6:9]] == [str(len("prompt number 0 of 3") + 1)] * 3
    assert {float(r["completeness_delta"]) for r in table} == {0.5}
    assert all(float(r["attribution_time"]) > 0 for r in table)
    tops = [float(r["tokens_per_second"]) * float(r["attribution_time"]) for r in table[:3]]
    assert tops == pytest.approx([23] * 3)


def test_every_file_is_there_and_results_are_what_run_prints(world):
    out = world.folder / "b"
    assert world.run("--models", "good", "--methods", "ramp_method", "--limit", "2", "--out", out)[0] == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("plan.json", "system_info.json", "summary.txt", "report.html", "good"),
        *("method_timing_results.csv", "prompt_timing_results.csv", "prompt_aggregated_results.csv"),
    }
    found = results(out)
    assert set(found) == {f"good/method_ramp_method/data/0000{i}.json" for i in (1, 2)}
    assert all(result["kind"] == "attribution" and result["model"] == "good" for result in found.values())
    system = json.loads((out / "system_info.json").read_text())
    assert {"cpu_cores", "memory_total_gb", "torch_version", "torch_cuda_available", "hostname"} <= set(system)


def test_failures_are_counted_by_stage_and_never_as_success(world):
    out = world.folder / "b"
    prompts = world.folder / "p.csv"
    prompts.write_text("full_prompt\nTell me\nWhy?\n")
    models, methods = "good,broken,mute,strict", "ramp_method,refuses_method,stumbles_method"
    code, err = world.run("--models", models, "--methods", methods, "--prompts", prompts, "--out", out)
    assert code == 0
    assert "21 of the attributions of this run failed" in err
    failed = {(r["model"], r["attribution_method"], r["prompt_id"]): r for r in rows(out, "prompt_timing_results.csv")}
    at = {key: row["error_stage"] for key, row in failed.items()}
    assert at["good", "ramp_method", "1"] == ""
    assert at["good", "refuses_method", "1"] == "attribution"
    assert at["broken", "ramp_method", "2"] == "model_loading"
    assert at["mute", "ramp_method", "1"] == "generation"
    assert at["strict", "ramp_method", "1"] == ""
    assert at["strict", "ramp_method", "2"] == "tokenization"
    assert failed["broken", "ramp_method", "1"]["error"] == "The weights of broken are gone. Download them again."
    assert failed["good", "refuses_method", "1"]["error"] == "This method needs another model."
    assert failed["good", "stumbles_method", "1"]["error"].startswith("KeyError: ")
    assert all((row["success"] == "True") == (row["error_stage"] == "") for row in failed.values())
    assert world.loads() == ["good", "broken", "mute", "strict"]
    rates = {(r["model"], r["attribution_method"]): r for r in rows(out, "method_timing_results.csv")}
    assert rates["strict", "ramp_method"]["success_rate"] == "50.0"
    assert rates["strict", "ramp_method"]["failures"] == "tokenization: 1"
    assert rates["broken", "ramp_method"]["success_rate"] == "0.0"
    assert rates["broken", "ramp_method"]["average_prompt_time"] == ""
    assert "Traceback" in (out / "good/method_stumbles_method/cells/00001.json").read_text()
    assert "Failed at model_loading, prompt 1: The weights of broken are gone." in (out / "summary.txt").read_text()


def test_nothing_that_succeeds_is_an_error_in_one_line(world):
    code, err = world.run("--models", "broken", "--methods", "ramp_method", "--limit", "1", "--out", world.folder / "b")
    assert code == 2
    assert "No attribution succeeded. The first failed at model_loading: The weights of broken are gone." in err


def test_a_result_that_cannot_be_saved_is_a_failure_of_saving(world):
    out = world.folder / "b"
    place = out / "good" / "method_ramp_method"
    assert world.run("--models", "good", "--methods", "ramp_method,steep_method", "--limit", "1", "--out", out)[0] == 0
    (place / "cells" / "00001.json").unlink()
    (place / "data" / "00001.json").unlink()
    (place / "data").rmdir()
    (place / "data").write_text("in the way")
    assert world.run("--out", out)[0] == 0
    row = rows(out, "prompt_timing_results.csv")[0]
    assert (row["success"], row["error_stage"]) == ("False", "saving")


def test_the_same_command_again_computes_nothing_and_writes_the_same_files(world):
    out = world.folder / "b"
    asked = ("--models", "good", "--methods", "ramp_method", "--limit", "2", "--out", out)
    world.run(*asked)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert world.run(*asked)[0] == 0
    assert world.run("--out", out)[0] == 0
    assert world.run("--out", out, "--report")[0] == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert world.loads() == ["good"]


def test_what_is_missing_is_computed_and_the_tables_are_those_of_one_go(world):
    whole, parts = world.folder / "whole", world.folder / "parts"
    asked = ("--models", "good,strict", "--methods", "ramp_method,steep_method", "--limit", "3")
    world.run(*asked, "--out", whole)
    world.run(*asked, "--out", parts)
    for gone in ("good/method_steep_method/cells/00002.json", "strict/method_ramp_method/cells/00003.json"):
        (parts / gone).unlink()
    (parts / "good/method_steep_method/cells/.00002.json.0123").write_text("half a")
    assert world.run("--out", parts, "--report")[0] == 0
    assert "Not finished" in (parts / "summary.txt").read_text()
    assert len(rows(parts, "prompt_timing_results.csv")) == 10
    assert world.run(*asked, "--out", parts)[0] == 0
    assert without_times(parts) == without_times(whole)
    assert results(parts) == results(whole)
    assert not list(parts.rglob(".*"))


def test_an_answer_that_changed_is_not_mixed_with_the_first(world, monkeypatch):
    out = world.folder / "b"
    world.run("--models", "fickle", "--methods", "ramp_method,steep_method", "--limit", "1", "--out", out)
    (out / "fickle/method_steep_method/cells/00001.json").unlink()
    monkeypatch.setenv("BENCH_TEST_OTHER_ANSWER", "1")
    assert world.run("--out", out)[0] == 0
    row = rows(out, "prompt_timing_results.csv")[1]
    assert row["error_stage"] == "generation"
    assert row["error"].startswith("The answer differs from the one that ramp_method attributed")


def test_retry_tries_failures_again_and_nothing_else(world):
    out = world.folder / "b"
    world.run("--models", "good", "--methods", "ramp_method,refuses_method", "--limit", "1", "--out", out)
    kept = (out / "good/method_ramp_method/cells/00001.json").read_bytes()
    tried = (out / "good/method_refuses_method/cells/00001.json").stat().st_mtime_ns
    assert world.run("--out", out, "--retry")[0] == 0
    assert (out / "good/method_ramp_method/cells/00001.json").read_bytes() == kept
    assert (out / "good/method_refuses_method/cells/00001.json").stat().st_mtime_ns > tried


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "steep_method", "--limit", "2"], "holds a benchmark of another plan (other methods)"),
        (["--methods", "ramp_method", "--limit", "1"], "another plan (other prompts)"),
        (["--methods", "ramp_method", "--limit", "2", "--device", "cpu"], "another plan (other loading)"),
    ],
)
def test_a_folder_of_another_plan_is_refused(world, arguments, said):
    out = world.folder / "b"
    world.run("--models", "good", "--methods", "ramp_method", "--limit", "2", "--out", out)
    code, err = world.run("--models", "good", *arguments, "--out", out)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "logit_lens"], "Unknown method of attribution 'logit_lens'"),
        (["--methods", "ramp_method,ramp_method"], "'ramp_method' is named twice"),
        (["--methods", ""], "expected names separated by commas"),
        (["--models", "good,,strict"], "expected names separated by commas"),
        (["-p", "saliency=1"], "expected METHOD.NAME=VALUE"),
        (["-p", "occlusion.removal"], "expected METHOD.NAME=VALUE"),
        (["-p", "shapley.seed=1"], "with a method of attention, saliency"),
        (["-p", "integrated_gradients.steps=none"], "Parameter steps: expected a whole number"),
        (["-p", "saliency.nothing=1"], "Unknown parameter of saliency 'nothing'"),
        (["--max-new-tokens", "0"], "expected a number from 1"),
        (["--prompts", "none.csv"], "none.csv: cannot be read"),
        (["--format", "morse"], "invalid choice"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(world, arguments, said):
    out = world.folder / "b"
    code, err = world.run("--out", out, *arguments)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_a_folder_with_other_files_is_refused(world):
    out = world.folder / "b"
    out.mkdir()
    (out / "holiday.txt").write_text("photos")
    code, err = world.run("--out", out)
    assert code == 2
    assert "got one with other files" in err
    code, err = world.run("--out", out, "--report")
    assert code == 2
    assert "expected the folder of a benchmark" in err


def test_parameters_reach_the_method_they_name(world):
    out, prompts = world.folder / "b", world.folder / "p.csv"
    prompts.write_text("full_prompt\nabab\n")
    asked = ("--models", "good", "--methods", "saliency,smooth_grad", "--prompts", prompts, "--max-new-tokens", "2")
    given = ("-p", "smooth_grad.samples=2", "-p", "smooth_grad.sources=word")
    assert world.run(*asked, *given, "--out", out)[0] == 0
    found = results(out)
    assert found["good/method_smooth_grad/data/00001.json"]["params"]["samples"] == 2
    assert found["good/method_smooth_grad/data/00001.json"]["params"]["sources"] == "word"
    assert found["good/method_saliency/data/00001.json"]["params"]["sources"] == "token"


def test_the_report_is_the_same_for_the_same_records(world):
    out = world.folder / "b"
    world.run("--models", "good", "--methods", "ramp_method", "--limit", "1", "--out", out)
    assert report(read_benchmark(out)) == report(read_benchmark(out)) == (out / "report.html").read_text()
