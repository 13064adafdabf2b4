"""Write the example data of every process: `python -m attnviz.demo.sensors.examples`. The same bytes each time."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from attnviz.demo.sensors import SHIPPED
from attnviz.demo.sensors.presets import PROCESSES
from attnviz.demo.sensors.process import Process

SEED = 2026  # of a simulation that nothing is trained or measured on
STEPS = 240


def example_csv(process: Process) -> str:
    """One run of the process in the units of its sensors, a row for each minute."""
    measured = process.measured(process.simulate(1, STEPS, SEED))[0]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("time", *process.names))
    for minute, row in enumerate(measured.tolist()):
        cells = (f"{value:.{sensor.digits}f}" for value, sensor in zip(row, process.sensors, strict=True))
        writer.writerow((minute, *cells))
    return text.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m attnviz.demo.sensors.examples", description=summary)
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder to write into (default: the shipped one)")
    options = parser.parse_args(arguments)
    for process in PROCESSES.values():
        file = options.out / process.name / "example.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(example_csv(process), encoding="utf-8")


if __name__ == "__main__":
    main()
