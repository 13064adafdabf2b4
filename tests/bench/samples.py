"""A benchmark made by hand: two models, two methods, three prompts; numbers that can be followed."""

from attnviz.bench.folder import Benchmark, write_cell, write_json, write_loaded, write_plan
from attnviz.bench.plan import Plan, PlannedMethod, PlannedModel
from attnviz.bench.prompts import Prompt
from attnviz.bench.records import Cell, Loaded

HOSTILE = '=cmd()|"</script><img src=x onerror=alert(1)>${alert(1)}{{constructor}}"\n,;'
TIMES = {("A", "fast"): (1.0, 2.0, 3.0), ("A", "slow"): (10.0, 10.0, 10.0), ("B", "fast"): (4.0, 4.0, None)}


def cell(model, method, prompt, time):
    """Tokens are ten times the number of the prompt; the third prompt of B fails, and all of slow on B."""
    if time is None:
        return Cell(model, method, prompt, False, "attribution", HOSTILE, token_count=10 * prompt, device="cpu")
    return Cell(
        model,
        method,
        prompt,
        True,
        token_count=10 * prompt,
        output_token_count=4,
        answer="0" * 64,
        generation_time=0.5,
        attribution_time=time,
        cpu_seconds=2 * time,
        peak_memory_mb=100.0 * prompt,
        completeness_delta=0.01 * prompt if method == "slow" else None,
        comprehensiveness=0.5 if method == "slow" else 0.1,
        comprehensiveness_random=0.2,
        sufficiency=0.05,
        sufficiency_random=0.3,
        faithfulness_time=1.0,
        device="cpu",
    )


def plan(**changes):
    """The plan of it."""
    options = {
        "models": (PlannedModel("A", "A", "A"), PlannedModel("B", "B", "./B")),
        "methods": (PlannedMethod("fast", {}, "1"), PlannedMethod("slow", {"steps": None}, "1")),
        "prompts": tuple(Prompt(i, f"{HOSTILE} {i}") for i in (1, 2, 3)),
        "loading": {"backend": "auto", "revision": None, "dtype": "auto", "device": "auto"},
        "faithfulness": {"removal": "unk"},
    }
    return Plan(**{**options, **changes})


def benchmark():
    """All of it."""
    cells = [
        cell(model, method, prompt, TIMES.get((model, method), (None,) * 3)[prompt - 1])
        for model in ("A", "B")
        for method in ("fast", "slow")
        for prompt in (1, 2, 3)
    ]
    loaded = {
        name: Loaded(name, True, "", seconds, seconds, "FakeModel", 7, "float32", "cpu")
        for name, seconds in (("A", 5.0), ("B", 7.0))
    }
    system = {"platform": "Linux", "cpu_model": "a <b>fast</b> one", "cpu_cores": 2, "torch_cuda_available": False}
    return Benchmark(plan(), "2026-01-01 00:00:00 UTC", tuple(cells), loaded, system)


def write(place, found):
    """A folder that holds a benchmark."""
    write_plan(place, found.plan, found.started)
    models = {model.name: model for model in found.plan.models}
    for made in found.cells:
        write_cell(place, models[made.model], made)
    for name, loaded in found.loaded.items():
        write_loaded(place, models[name], loaded)
    write_json(place / "system_info.json", found.system)
    return place
