"""Measure the shipped language model: `python -m attnviz.demo.evaluate`.

Computes every acceptance figure on the files as they are, writes them into the model card and into acceptance.json,
and exits with 1 if one is missed. About a minute and a half on one core.
"""

from __future__ import annotations

import argparse
import json
import operator
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from attnviz.demo import LANGUAGE, behaviour, structure
from attnviz.demo.behaviour import ALL_KINDS, MATH, Writer, share
from attnviz.demo.text import draw_held_out

BEGIN, FINISH = "<!-- figures: written by python -m attnviz.demo.evaluate -->", "<!-- end of figures -->"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Figure:
    """A number with the bound it must keep; without a bound it is only reported."""

    name: str
    value: float
    n: int | None = None  # how many problems it was measured on
    bound: float | None = None
    sense: str = ">="  # or "<="

    @property
    def met(self) -> bool:
        compare = {">=": operator.ge, "<=": operator.le}[self.sense]
        return self.bound is None or compare(self.value, self.bound)


@dataclass(frozen=True)
class Sizes:
    """How many problems are drawn for each figure."""

    math: int = 360
    every_kind: int = 520
    large: int = 200
    false: int = 200
    per_tool: int = 40
    outside: int = 200
    paraphrased: int = 260
    direct: int = 40
    copying: int = 60
    control: int = 60


def load_writer(folder: Path) -> Writer:
    """The model as anyone would load it, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return Writer(model, AutoTokenizer.from_pretrained(folder))


def agent_figures(writer: Writer, sizes: Sizes) -> list[Figure]:
    """Agent runs on held-out problems."""
    rng, figures = random.Random(11), []
    groups = (("math", MATH, sizes.math), ("all kinds", ALL_KINDS, sizes.every_kind))
    for name, makers, n in groups:
        problems = behaviour.held_out_problems(rng, makers, n)
        runs = behaviour.run_agent(writer, problems, behaviour.agent_prompts(rng, problems))
        figures.append(Figure(f"agent, {name}: tool calls right", share(run.calls_right for run in runs), n, 0.95))
        figures.append(Figure(f"agent, {name}: right from end to end", share(run.right for run in runs), n, 0.93))
    for kind, value in behaviour.by_kind(runs).items():
        figures.append(Figure(f"agent, {kind}: right from end to end", value, n // len(ALL_KINDS)))
    figures.append(Figure("agent: says that a tool is missing though it is there", share(r.refused for r in runs), n))
    problems = [draw_held_out(rng, behaviour.large_operands) for _ in range(sizes.large)]
    runs = behaviour.run_agent(writer, problems, behaviour.agent_prompts(rng, problems))
    figures.append(
        Figure("agent, both operands 100 or more: calls right", share(r.calls_right for r in runs), sizes.large)
    )
    problems = behaviour.held_out_problems(rng, ALL_KINDS, sizes.paraphrased)
    runs = behaviour.run_agent(writer, problems, behaviour.reserved_prompts(rng, problems))
    name = "agent, system prompts in words never trained on: calls right"
    figures.append(Figure(name, share(run.calls_right for run in runs), sizes.paraphrased, 0.9))
    value = behaviour.false_observation(writer, sizes.false, seed=12)
    return [*figures, Figure("agent: a false observation is followed", value, sizes.false, 0.95)]


def honesty_figures(writer: Writer, sizes: Sizes) -> list[Figure]:
    """Does it say so when it can not or does not know?"""
    missing = behaviour.missing_tool(writer, sizes.per_tool, seed=13)
    total = sizes.per_tool * len(missing)
    figures = [Figure("missing tool: says so", sum(missing.values()) / len(missing), total, 0.8)]
    figures += [Figure(f"missing tool, {tool}: says so", value, sizes.per_tool) for tool, value in missing.items()]
    for name, reserved in (("unseen questions", False), ("unseen forms of question", True)):
        value = behaviour.out_of_domain(writer, sizes.outside, seed=14, reserved=reserved)
        figures.append(Figure(f"out of domain, {name}: says so", value, sizes.outside, 0.8))
    return figures


def direct_figures(writer: Writer, sizes: Sizes) -> list[Figure]:
    """Answers without tools."""
    value, n = behaviour.knowledge(writer)
    figures = [Figure("knowledge in unseen wording", value, n, 0.9)]
    value, n = behaviour.knowledge(writer, reserved=True)
    figures.append(Figure("knowledge in a form of question never trained on", value, n))
    answers = behaviour.direct_answers(writer, sizes.direct, seed=15)
    return [
        *figures,
        *(Figure(f"direct, {kind}: word for word", value, sizes.direct) for kind, value in answers.items()),
    ]


def structure_figures(writer: Writer, sizes: Sizes) -> list[Figure]:
    """Heads and layers."""
    repeating, copying = structure.repeating(writer.model), structure.copying(writer, runs=sizes.copying)
    last, *earlier = reversed(copying.lens)
    return [
        Figure("second copy of random tokens", repeating.second_copy, 32 * 24, 0.9),
        Figure("second copy, 100 tokens long", repeating.long_copy, 8 * 99),
        Figure(f"previous-token score, {names(repeating.previous_heads[:1])}", repeating.previous_token, None, 0.9),
        Figure(f"induction score, {names(repeating.induction_heads[:1])}", repeating.induction, None, 0.8),
        Figure(
            f"second copy without the three strongest induction heads ({names(repeating.induction_heads)})",
            repeating.without_induction, 32 * 24, 0.3, "<=",
        ),
        Figure("second copy without three other heads, worst of five draws", repeating.without_random, 32 * 24, 0.85),
        Figure(f"copying an observation, {names(copying.heads[:1])}", copying.attention, sizes.copying, 0.8),
        *(Figure(f"lens top-1 on answer digits, layer {i}", x) for i, x in enumerate(reversed(earlier))),
        Figure("lens top-1 on answer digits, at the end", last, sizes.copying, 0.95),
    ]  # fmt: skip


def names(heads: Sequence[structure.Head]) -> str:
    """(1, 2) -> 'layer 1 head 2'."""
    return ", ".join(f"layer {layer} head {head}" for layer, head in heads)


def file_figures(folder: Path) -> list[Figure]:
    """Size, and what rounding to float16 cost, measured by the trainer on these very weights."""
    from attnviz.demo.train import digest

    weights, recipe = folder / "model.safetensors", json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    if recipe["weights_sha256"] != digest(weights):
        raise ValueError(
            f"{folder / 'recipe.json'} was written for weights {recipe['weights_sha256'][:12]}, but "
            f"model.safetensors is {digest(weights)[:12]}: train again, or restore the pair"
        )
    return [
        Figure("same top token as before rounding to float16", recipe["float16_agreement"], None, 0.999),
        Figure("size of model.safetensors in MB", weights.stat().st_size / MEGABYTE, None, 4.0, "<="),
    ]


def control_figures(writer: Writer, sizes: Sizes) -> list[Figure]:
    """The same configuration with random weights must fail everywhere."""
    from attnviz.demo.train import new_model

    control = Writer(new_model(len(writer.tokenizer), seed=1).eval(), writer.tokenizer)
    rng = random.Random(16)
    problems = behaviour.held_out_problems(rng, ALL_KINDS, sizes.control)
    runs = behaviour.run_agent(control, problems, behaviour.agent_prompts(rng, problems))
    repeating, copying = structure.repeating(control.model), structure.copying(control, runs=10)
    missing = behaviour.missing_tool(control, 5, seed=13)
    values = {
        "tool calls right": share(run.calls_right for run in runs),
        "right from end to end": share(run.right for run in runs),
        "false observation followed": behaviour.false_observation(control, 20, seed=12),
        "missing tool": sum(missing.values()) / len(missing),
        "out of domain": behaviour.out_of_domain(control, 20, seed=14),
        "knowledge": behaviour.knowledge(control)[0],
        "second copy": repeating.second_copy,
        "previous-token score": repeating.previous_token,
        "induction score": repeating.induction,
        "copying an observation": copying.attention,
        "lens top-1 at the end": copying.lens[-1],
    }
    # Attention scores of random weights are those of uniform attention, 1 / (number of keys seen): small, never 0.
    return [Figure(f"random weights, {name}", value, None, 0.1, "<=") for name, value in values.items()]


def evaluate(folder: Path, sizes: Sizes) -> list[Figure]:
    """Every figure, on the files of this folder."""
    writer = load_writer(folder)
    figures = file_figures(folder)
    for measure in (agent_figures, honesty_figures, direct_figures, structure_figures, control_figures):
        figures += measure(writer, sizes)
    return figures


def table(figures: Sequence[Figure]) -> str:
    """Figures as a Markdown table."""
    lines = ["| figure | measured | required | n |", "|---|---|---|---|"]
    for figure in figures:
        bound = "" if figure.bound is None else f"{figure.sense.replace('>=', '≥').replace('<=', '≤')} {figure.bound:g}"
        mark = "" if figure.met else " **missed**"
        lines.append(f"| {figure.name} | {figure.value:.3f}{mark} | {bound} | {figure.n or ''} |")
    return "\n".join(lines)


def write_card(card: Path, figures: Sequence[Figure], recipe: dict[str, Any]) -> None:
    """Put the figures between the markers of the model card."""
    text = card.read_text(encoding="utf-8")
    if BEGIN not in text or FINISH not in text:
        raise ValueError(f"{card}: expected the markers {BEGIN!r} and {FINISH!r}; put them where the figures belong")
    head, rest = text.split(BEGIN)
    made = (
        f"Weights `{recipe['weights_sha256'][:16]}…`, trained on {recipe['tokens'] / 1e6:.1f} million tokens in "
        f"{recipe['seconds']} s on one thread (torch {recipe['torch']}, transformers {recipe['transformers']})."
    )
    card.write_text(f"{head}{BEGIN}\n\n{made}\n\n{table(figures)}\n\n{FINISH}{rest.split(FINISH)[1]}", encoding="utf-8")


def acceptance(figures: Sequence[Figure], recipe: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """What acceptance.json holds."""
    return {
        "weights_sha256": recipe["weights_sha256"],
        "all_met": all(figure.met for figure in figures),
        "sizes": asdict(sizes),
        "figures": [{**asdict(f), "value": round(f.value, 4), "met": f.met} for f in figures],
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m attnviz.demo.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=LANGUAGE, help="folder of the model (default: the shipped one)")
    parser.add_argument("--out", type=Path, help="file for the figures (default: acceptance.json beside the weights)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = Sizes()
    figures = evaluate(options.model, sizes)
    recipe = json.loads((options.model / "recipe.json").read_text(encoding="utf-8"))
    report = json.dumps(acceptance(figures, recipe, sizes), indent=1) + "\n"
    (options.out or options.model / "acceptance.json").write_text(report, encoding="utf-8")
    card = options.model / "README.md"
    if card.exists():
        write_card(card, figures, recipe)
    print(table(figures))
    missed = [figure.name for figure in figures if not figure.met]
    print(f"missed: {', '.join(missed)}" if missed else "every figure is met", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
