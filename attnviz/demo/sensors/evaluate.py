"""Measure a shipped sensor model: `python -m attnviz.demo.sensors.evaluate`.

Computes every acceptance figure on the files as they are, through the same backend that users have, writes them into
the model card and into acceptance.json, and exits with 1 if one is missed. About a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.demo.evaluate import BEGIN, FINISH, Figure, table
from attnviz.demo.sensors import SHIPPED, recovery
from attnviz.demo.sensors.presets import PROCESSES
from attnviz.demo.sensors.process import Floats, Process
from attnviz.demo.sensors.train import HELD_OUT, Recipe, held_out, untrained
from attnviz.hooks import ModelSpec
from attnviz.plugins.backends.arrays_model import ArrayModel, load

MARKERS = (BEGIN.replace("demo.evaluate", "demo.sensors.evaluate"), FINISH)
BEST_HIT, BEST_AGREEMENT, BEST_LAGS, MOST_PROXY, MOST_ERROR = 0.95, 0.95, 0.95, 0.02, 1.1


@dataclass(frozen=True)
class Sizes:
    """How many windows are used for each figure."""

    windows: int = 256
    gradients: int = 64
    attention: int = 64


@dataclass(frozen=True)
class Measured:
    """What a model does with windows of a process it never saw."""

    error: float  # squared, relative to that of the law without its noise; mean over sensors
    hit: float
    agreement: float
    lags: float
    proxy: float | None  # None = the process has no proxy

    @property
    def met(self) -> tuple[bool, ...]:
        proxy = () if self.proxy is None else (self.proxy <= MOST_PROXY,)
        return (
            self.error <= MOST_ERROR,
            self.hit >= BEST_HIT,
            self.agreement >= BEST_AGREEMENT,
            self.lags >= BEST_LAGS,
            *proxy,
        )


def measure(model: ArrayModel, process: Process, windows: Floats, sizes: Sizes) -> Measured:
    """The figures that must be met, by occlusion. windows [N, window + 1, S], around 0."""
    values, means = _inputs(model, process, windows)
    strength = process.strength(windows[: sizes.windows, :-1])
    found = recovery.occlusion(model, values[: sizes.windows], means)
    steps = recovery.occlusion_by_step(model, values[: sizes.windows], means)
    return Measured(
        error=float(np.mean(_errors(model, process, windows))),
        hit=recovery.hit_rate(process, found),
        agreement=recovery.agreement(process, found, strength),
        lags=recovery.exact_lags(process, steps),
        proxy=recovery.proxy_share(process, found) if process.proxies else None,
    )


def _inputs(model: ArrayModel, process: Process, windows: Floats) -> tuple[Floats, Floats]:
    """What the model reads of windows, and the means that stand for a sensor that is left out."""
    values = process.measured(windows[:, :-1])
    means = model.series(model.tokenize_values(values[0])).means
    assert means is not None
    return values, means.astype(np.float32)


def _errors(model: ArrayModel, process: Process, windows: Floats) -> Floats:
    """[S] squared error relative to that of the law without its noise, which no model can beat in the long run."""
    measured = process.measured(windows)
    best = process.measured(process.expected(windows[:, :-1]))
    ours, least = (((found - measured[:, -1]) ** 2).mean(axis=0) for found in (model.predict(measured[:, :-1]), best))
    ratios: Floats = ours / least
    return ratios


def required_figures(found: Measured, windows: int, all_windows: int) -> list[Figure]:
    """The bounds."""
    figures = [
        Figure("squared error / that of noise alone", found.error, all_windows, MOST_ERROR, "<="),
        Figure("occlusion: drivers among the highest", found.hit, windows, BEST_HIT),
        Figure("occlusion: Pearson with the true strength", found.agreement, windows, BEST_AGREEMENT),
        Figure("occlusion of single steps: lags exact", found.lags, windows, BEST_LAGS),
    ]
    if found.proxy is not None:
        name = "occlusion: share of the proxy in what others get"
        figures.append(Figure(name, found.proxy, windows, MOST_PROXY, "<="))
    return figures


def other_methods(model: ArrayModel, process: Process, windows: Floats, sizes: Sizes) -> list[Figure]:
    """Without a bound: what the other methods find on the same windows."""
    values, means = _inputs(model, process, windows)
    strength = process.strength(windows[: sizes.windows, :-1])
    few, gradients = values[: sizes.attention], values[: sizes.gradients]
    steps = recovery.integrated_gradients_by_step(model, gradients, means)
    layers = recovery.attention_by_layer(model, few)
    methods = {
        "integrated gradients": (steps.sum(axis=1), sizes.gradients),
        "gradient × input": (recovery.gradient_times_input(model, gradients, means), sizes.gradients),
        "attention, mean over layers": (layers.mean(axis=0), sizes.attention),
        "attention, last layer": (layers[-1], sizes.attention),
    }
    figures = [Figure("integrated gradients: lags exact", recovery.exact_lags(process, steps), sizes.gradients)]
    for name, (scores, count) in methods.items():
        figures.append(Figure(f"{name}: drivers among the highest", recovery.hit_rate(process, scores), count))
        found = recovery.agreement(process, scores, strength)
        figures.append(Figure(f"{name}: Pearson with the true strength", found, count))
    return figures


def fit_figures(model: ArrayModel, process: Process, windows: Floats) -> list[Figure]:
    """R² of each sensor, with the R² that the noise leaves to any model."""
    values = process.measured(windows[:, :-1])
    series = model.series(model.tokenize_values(values[0]))
    assert series.fit is not None
    assert series.attainable is not None
    pairs = zip(series.sensors, series.fit, series.attainable, strict=True)
    return [Figure(f"R² of {name} (attainable: {best:.3f})", float(fit), len(windows)) for name, fit, best in pairs]


def control_figures(process: Process, windows: Floats, sizes: Sizes) -> list[Figure]:
    """The same configuration with random weights must miss every bound."""
    control = load(ModelSpec("untrained", objects=(untrained(process, Recipe(seed=1)).eval(), None)))
    found = measure(control, process, windows, sizes)
    figures = [
        Figure(f"random weights, {f.name}", f.value, f.n) for f in required_figures(found, sizes.windows, len(windows))
    ]
    return [*figures, Figure("random weights: bounds that are met", float(sum(found.met)), None, 0.0, "<=")]


def evaluate(folder: Path, process: Process, sizes: Sizes) -> list[Figure]:
    """Every figure, on the files of this folder."""
    model = load(ModelSpec(str(folder)))
    windows = held_out(process, Recipe().window)
    found = measure(model, process, windows, sizes)
    file = folder / "model.safetensors"
    return [
        *required_figures(found, sizes.windows, len(windows)),
        Figure("parameters", float(model.card.parameters), None, 200_000.0, "<="),
        Figure("size of model.safetensors in kB", file.stat().st_size / 1000, None, 300.0, "<="),
        *fit_figures(model, process, windows),
        *other_methods(model, process, windows, sizes),
        *control_figures(process, windows, sizes),
    ]


def write_card(card: Path, process: Process, figures: list[Figure], recipe: dict[str, Any]) -> None:
    """Put the truth and the figures between the markers of the model card.

    Raises:
        ValueError: the card has no markers.
    """
    text = card.read_text(encoding="utf-8")
    begin, finish = MARKERS
    if begin not in text or finish not in text:
        raise ValueError(f"{card}: expected the markers {begin!r} and {finish!r}; put them where the figures belong")
    head, rest = text.split(begin)
    made = (
        f"Weights `{recipe['weights_sha256'][:16]}…`, trained in {recipe['recipe']['steps']} steps on one thread "
        f"(torch {recipe['torch']})."
    )
    parts = (head + begin, truth_table(process), made, table(figures), finish + rest.split(finish)[1])
    card.write_text("\n\n".join(parts), encoding="utf-8")


def truth_table(process: Process) -> str:
    """Drivers and lags as a Markdown table."""
    lines = ["| sensor | unit | driven by (steps before) | own noise / own spread |", "|---|---|---|---|"]
    spread = process.simulate(64, 200, HELD_OUT).std(axis=(0, 1))
    for sensor, whole in zip(process.sensors, spread, strict=True):
        parents = ", ".join(f"{parent} ({lag})" for parent, lag in sensor.parents)
        proxy = "; drives nothing, goes with its driver" if sensor.name in process.proxies else ""
        lines.append(f"| {sensor.name} | {sensor.unit} | {parents}{proxy} | {sensor.noise / whole:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    import torch

    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m attnviz.demo.sensors.evaluate", description=summary)
    parser.add_argument("--process", choices=sorted(PROCESSES), default="combustion", help="what it reads (combustion)")
    parser.add_argument("--model", type=Path, help="folder of the model (default: the shipped one)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder, sizes = options.model or SHIPPED / options.process, Sizes()
    figures = evaluate(folder, PROCESSES[options.process], sizes)
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    report = {
        "weights_sha256": recipe["weights_sha256"],
        "all_met": all(figure.met for figure in figures),
        "sizes": asdict(sizes),
        "figures": [{**asdict(f), "value": round(f.value, 6), "met": f.met} for f in figures],
    }
    (folder / "acceptance.json").write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if (folder / "README.md").exists():
        write_card(folder / "README.md", PROCESSES[options.process], figures, recipe)
    print(table(figures))
    missed = [figure.name for figure in figures if not figure.met]
    print(f"missed: {', '.join(missed)}" if missed else "every figure is met", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
