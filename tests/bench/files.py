"""What the tests read from the folder of a benchmark."""

import csv
import json

TIMES = {
    *("model_loading_time", "attribution_time", "average_prompt_time", "total_time", "tokens_per_second"),
    *("cpu_seconds", "peak_memory_mb", "generation_time", "faithfulness_time"),
}


def rows(folder, table):
    """The rows of a CSV table."""
    with (folder / table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(folder):
    """All three tables, without what a clock or the machine says."""
    tables = {}
    for name in ("method_timing_results.csv", "prompt_timing_results.csv", "prompt_aggregated_results.csv"):
        kept = [
            {k: v for k, v in row.items() if not any(k == t or k.startswith(f"{t}_") for t in TIMES)}
            for row in rows(folder, name)
        ]
        tables[name] = kept
    return tables


def results(folder):
    """Every saved result by its place."""
    return {str(path.relative_to(folder)): json.loads(path.read_text()) for path in folder.rglob("data/*.json")}


def prompts_file(path, count=4):
    """A CSV file of prompts."""
    lines = [f"prompt number {i} of {count}" for i in range(count)]
    path.write_text("full_prompt\n" + "\n".join(lines) + "\n")
    return path
