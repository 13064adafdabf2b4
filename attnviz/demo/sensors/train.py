"""Train a sensor model from nothing: `python -m attnviz.demo.sensors.train`.

Deterministic: the same seed, one thread and the same library versions give the same bytes. A fixed number of steps,
never a time; about a minute on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.demo.sensors import SHIPPED
from attnviz.demo.sensors.presets import PROCESSES
from attnviz.demo.sensors.process import Floats, Process, cut_windows
from attnviz.plugins.backends.sensor_tokens import SensorConfig

if TYPE_CHECKING:
    from attnviz.plugins.backends.sensor_transformer import SensorTransformer

TRAINING, HELD_OUT = 5, 999
"""Seeds of the simulations: what is trained on, and what is measured on."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes, but for library versions."""

    steps: int = 1500
    seed: int = 0
    window: int = 32
    batch: int = 256
    rate: float = 2e-3
    warm_up: int = 100  # steps
    floor: float = 0.02  # factor on the learning rate at the very end
    weight_decay: float = 0.01
    chains: int = 256
    length: int = 1200  # of each chain

    def factor(self, step: int) -> float:
        """On the learning rate: a line up, then half a cosine down."""
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return min(1.0, (step + 1) / self.warm_up) * max(self.floor, fall)


def untrained(process: Process, recipe: Recipe) -> SensorTransformer:
    """The shipped configuration with random weights."""
    import torch

    from attnviz.plugins.backends.sensor_transformer import SensorTransformer

    torch.manual_seed(recipe.seed)
    data = process.measured(process.simulate(recipe.chains, recipe.length, TRAINING)).reshape(-1, len(process.sensors))
    data = data.astype(np.float64)
    means, deviations = data.mean(axis=0), data.std(axis=0)
    config = SensorConfig(
        process.names,
        tuple(sensor.unit for sensor in process.sensors),
        tuple(round(float(mean), 4) for mean in means),
        tuple(round(float(deviation), 4) for deviation in deviations),
        recipe.window,
    )
    return SensorTransformer(config)


def train(process: Process, recipe: Recipe, out: Path) -> None:
    """Train by the recipe and write the model's folder. One thread: two would give other bytes."""
    import torch
    from safetensors.torch import save

    torch.set_num_threads(1)
    started, model = time.perf_counter(), untrained(process, recipe).train()
    data = torch.tensor(process.measured(process.simulate(recipe.chains, recipe.length, TRAINING)))
    noise = torch.tensor([sensor.noise * sensor.scale for sensor in process.sensors])
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
    rng, steps = np.random.default_rng(recipe.seed + 1), torch.arange(recipe.window + 1)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * recipe.factor(step)
        chains = torch.tensor(rng.integers(0, recipe.chains, recipe.batch))
        starts = torch.tensor(rng.integers(0, recipe.length - recipe.window, recipe.batch))
        series = data[chains[:, None], starts[:, None] + steps]  # [B, window + 1, S]
        loss = (((model(series[:, :-1]) - series[:, -1]) / noise) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}  squared error {loss.item():.3f} of what is noise", flush=True)
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (out / "model.safetensors").write_bytes(save(tensors))
    fit, attainable = explained(model, process, held_out(process, recipe.window))
    config = replace(model.config, fit=_rounded(fit), attainable=_rounded(attainable))
    _write_json(out / "config.json", asdict(config))
    _write_json(out / "recipe.json", _facts(recipe, out, time.perf_counter() - started))


def held_out(process: Process, window: int) -> Floats:
    """[N, window + 1, S], around 0, of simulations that were not trained on."""
    return cut_windows(process.simulate(64, 200, HELD_OUT), window, every=20)


def explained(model: Any, process: Process, windows: Floats) -> tuple[Floats, Floats]:
    """[S] R² of the model's next values, and of the best there can be, the law without its noise."""
    import torch

    measured = process.measured(windows)
    with torch.no_grad():
        predicted = model(torch.tensor(measured[:, :-1])).numpy()
    variance = measured[:, -1].var(axis=0)
    best = process.measured(process.expected(windows[:, :-1]))
    errors = [((found - measured[:, -1]) ** 2).mean(axis=0) for found in (predicted, best)]
    return 1 - errors[0] / variance, 1 - errors[1] / variance


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _write_json(file: Path, facts: dict[str, Any]) -> None:
    file.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _facts(recipe: Recipe, out: Path, seconds: float) -> dict[str, Any]:
    """How these very weights came about."""
    import torch

    return {
        "recipe": asdict(recipe),
        "seconds": round(seconds),
        "threads": 1,
        "torch": torch.__version__,
        "weights_sha256": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m attnviz.demo.sensors.train", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--process", choices=sorted(PROCESSES), default="combustion", help="what to simulate (combustion)"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: the shipped one)")
    parser.add_argument("--steps", type=int, help="steps (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    recipe = Recipe(seed=options.seed)
    if options.steps is not None:
        if options.steps < 1:
            parser.error(f"--steps: expected at least 1, got {options.steps}")
        recipe = replace(recipe, steps=options.steps)
    train(PROCESSES[options.process], recipe, options.out or SHIPPED / options.process)


if __name__ == "__main__":
    main()
