"""What attribution costs beside Inseq and Captum: PYTHONPATH=. taskset -c 0 python bench/attribution.py [METHOD …]

Needs requirements-oracles.txt. A random model in the shape of GPT-2 small, a prompt of 64 tokens, 16 targets (--prompt,
--targets), the log-probability of each target explained by every token before it, in float32. Nothing is downloaded.

Time is CPU time of this process with one thread, the least of --repeats, taken in turns (the machine may be busy with
other work); memory the peak above the loaded model. Every call runs in a fork of its own. On an accelerator (--device
cuda) time is synchronised wall time, memory torch's own count, and there are no forks.

"apart" is the largest difference from our scores, as a share of the largest score. Integrated gradients are compared at
one completeness error (--tolerance, nats): ours find their steps themselves; the others get the fewest steps of
Gauss–Legendre, their own rule, that keep all targets within it, which is found beforehand and not counted.

Rows of Captum: its plain methods, one target after another, each over what comes before it; "language model": what it
has for language models, of the prompt only (LLMGradientAttribution; LLMAttribution with forward_in_tokens=False).
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from capture import MB, Cost, gpt2_small, measure, random_tokens, tokenizer
from numpy.typing import NDArray

import attnviz
from attnviz.hooks import AnalysisRequest, Attribution, ModelSpec, Run, Tokens
from attnviz.plugins.analyses.attribution.other_module import twin
from attnviz.plugins.backends import hf
from attnviz.registry import load_registry
from tests.oracles.inseq_runs import attribute, scores

LETTERS = 94  # ids of the tokenizer that are printable, so that Captum reads them again from their text
STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 50, 64, 96, 128, 192, 256, 384, 512)
TEXT = "Once upon a time, there was a little girl who lived in a house near the woods. One day she"
OTHERS = ("Inseq", "Captum", "Captum, language model")
OURS: dict[str, dict[str, Any]] = {
    "saliency": {"aggregation": "abs_sum"},
    "input_x_gradient": {},
    "integrated_gradients": {"baseline": "eos"},
    "occlusion": {"removal": "eos"},
    "attention": {},
}
"""Method -> what we are asked for, so that the same number comes out as elsewhere."""
Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Case:
    """One model and one run: `plain` is the module without attnviz, `base` the id that is compared with."""

    plain: Any
    words: Any
    model: Any
    tokens: Tokens
    first: int
    base: int

    @property
    def targets(self) -> range:
        return range(self.first, len(self.tokens))


# --------------------------------------------------------------------------------------------- whose


def ours(case: Case, method: str, **params: Any) -> Attribution:
    analysis = load_registry(safe=True).analyses[method]
    run = Run("bench", ModelSpec("bench"), "bench", case.tokens, case.first)
    captured = case.model.trace(case.tokens, analysis.want) if "attention" in analysis.requires else None
    chosen = analysis.resolve({**OURS[method], **params})
    found = analysis.run(AnalysisRequest(run, case.model.card, case.model, chosen, captured))
    assert isinstance(found, Attribution)
    return found


def inseqs(case: Case, method: str, **options: Any) -> Scores:
    case.plain.set_attn_implementation("eager" if method == "attention" else "sdpa")
    found = attribute(case.plain, case.words, method, case.tokens, case.first, case.base, **options)
    return scores(found, len(case.tokens) - 1, "mean" if method == "attention" else "sum")[0]


def captums(case: Case, method: str, **options: Any) -> Scores:
    """Plain, a target at a time."""
    import torch
    from captum import attr

    case.plain.set_attn_implementation("sdpa")
    ids = torch.tensor(np.array(case.tokens.ids), device=case.plain.device)
    layer, rows = case.plain.get_input_embeddings(), np.zeros((len(case.targets), len(ids) - 1))
    for row, target in enumerate(case.targets):
        given = layer(ids[None, :target]).detach()
        other = layer(torch.full_like(ids[None, :target], case.base)).detach()

        def explained(embeddings: Any, target: int = target) -> Any:
            return case.plain(inputs_embeds=embeddings).logits[:, -1].log_softmax(-1)[:, ids[target]]

        if method == "saliency":
            found = attr.Saliency(explained).attribute(given, abs=True)
        elif method == "input_x_gradient":
            found = attr.InputXGradient(explained).attribute(given)
        elif method == "integrated_gradients":
            found = attr.IntegratedGradients(explained).attribute(given, other, method="gausslegendre", **options)
        else:
            found = attr.Occlusion(explained).attribute(given, (1, given.shape[-1]), baselines=other)[..., :1]
        rows[row, :target] = found[0].sum(-1).detach().cpu().numpy()
    return rows


def captums_language_model(case: Case, method: str) -> Scores:
    """[R, prompt]"""
    import torch
    from captum import attr

    case.plain.set_attn_implementation("sdpa")
    ids = torch.tensor(np.array(case.tokens.ids))
    given = attr.TextTokenInput(case.words.decode(ids[: case.first]), case.words, baselines=case.base)
    layer = case.plain.get_input_embeddings()
    if method == "input_x_gradient":
        theirs: Any = attr.LLMGradientAttribution(attr.LayerGradientXActivation(case.plain, layer), case.words)
        found = theirs.attribute(given, target=ids[case.first :])
    else:
        theirs = attr.LLMAttribution(attr.FeatureAblation(case.plain), case.words)
        found = theirs.attribute(given, target=ids[case.first :], forward_in_tokens=False)
    return np.asarray(found.token_attr.detach().cpu().numpy())


def reads_the_same(case: Case) -> bool:
    """Whether the prompt, as text, becomes the same tokens again; Captum takes text."""
    prompt = case.tokens.ids[: case.first].tolist()
    return list(case.words(case.words.decode(prompt))["input_ids"]) == prompt


def rows(case: Case, method: str, tolerance: float) -> dict[str, Callable[[], Scores]]:
    """Title -> what is measured; ours first."""
    integrated = method == "integrated_gradients"
    options = {"n_steps": steps_of_others(case, tolerance)} if integrated else {}
    params = {"tolerance": tolerance} if integrated else {}
    found: dict[str, Callable[[], Scores]] = {
        "attnviz": lambda: ours(case, method, **params).scores,
        "Inseq": partial(inseqs, case, method, **options),
    }
    if method != "attention":
        found["Captum"] = partial(captums, case, method, **options)
    if method in ("input_x_gradient", "occlusion") and reads_the_same(case):
        found["Captum, language model"] = partial(captums_language_model, case, method)
    return found


def steps_of_others(case: Case, tolerance: float) -> int:
    """The fewest of STEPS with which Gauss–Legendre keeps every target within the tolerance; says what ours take."""
    found = ours(case, "integrated_gradients", tolerance=tolerance)
    said = next(line for line in found.info if "steps" in line)
    print(f"  completeness error, largest of all targets: ours {worst(found):.2g} nats. {said}")
    for steps in STEPS:
        other = ours(case, "integrated_gradients", steps=steps)
        if worst(other) <= tolerance:
            print(f"  Gauss–Legendre: {worst(other):.2g} nats with {steps} steps, what the others are given")
            return steps
    raise SystemExit(f"Even {STEPS[-1]} steps miss a completeness error of {tolerance:g}.")


def worst(found: Attribution) -> float:
    assert found.delta is not None
    return float(np.abs(found.delta).max())


# --------------------------------------------------------------------------------------------- table


def table(case: Case, method: str, options: argparse.Namespace, fork: bool) -> None:
    print(method, flush=True)
    calls = {t: c for t, c in rows(case, method, options.tolerance).items() if t in ("attnviz", *options.against)}
    with tempfile.TemporaryDirectory() as folder:
        files = {title: Path(folder) / f"{number}.npy" for number, title in enumerate(calls)}
        costs = {title: Cost() for title in calls}
        for _ in range(options.repeats):
            for title, call in calls.items():
                measure(partial(kept, call, files[title]), costs[title], options.device, fork)
        found = {title: np.load(file) for title, file in files.items()}
    base, size = costs["attnviz"], np.abs(found["attnviz"]).max()
    for title, cost in costs.items():
        theirs = found[title]
        shown = found["attnviz"][:, : theirs.shape[1]]
        if title == "Inseq" and method == "occlusion":
            shown = np.abs(shown)  # there it has no sign
        peak = "?" if cost.peak is None else f"{cost.peak / MB:.0f}"
        print(
            f"  {title:<24} {cost.seconds:8.2f} s  ×{cost.seconds / base.seconds:<6.1f} peak {peak:>6} MB"
            f"   apart {np.abs(theirs - shown).max() / size:.1e}",
            flush=True,
        )


def kept(call: Callable[[], Scores], file: Path) -> None:
    np.save(file, call())


def random_case(options: argparse.Namespace) -> Case:
    """Random weights in the shape of GPT-2 small, random letters."""
    count = options.prompt + options.targets
    plain, words = gpt2_small(count).eval().to(options.device), tokenizer()
    words.add_special_tokens({"eos_token": "Ā"})  # the byte 0, which is no text
    model = hf.load(ModelSpec("gpt2-small", objects=(plain, words)))
    return Case(plain, words, model, random_tokens(count, LETTERS), options.prompt, words.eos_token_id)


def trained_case(options: argparse.Namespace) -> Case:
    """The embedded model, a text and what it makes of it."""
    loaded = attnviz.load("demo", device=options.device)
    run = loaded.generate(TEXT, max_new_tokens=options.targets).run
    model: Any = loaded.session.model(loaded.spec)
    assert run.generated_from is not None
    return Case(
        twin(model.module()), model.loaded.tokenizer, model, run.tokens, run.generated_from, model.stand_ins["eos"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(OURS)}; all if none is given")
    parser.add_argument("--model", choices=("gpt2-small", "demo"), default="gpt2-small")
    parser.add_argument("--against", nargs="+", choices=OTHERS, default=list(OTHERS))
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument(
        "--tolerance", type=float, default=0.01, help="completeness error of integrated gradients, nats"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if unknown := sorted(set(options.methods) - set(OURS)):
        parser.error(f"unknown method {unknown[0]!r}: expected one of {', '.join(OURS)}")
    import torch

    warnings.simplefilter("ignore")  # of Inseq and Captum, their own affair
    logging.getLogger("inseq").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    case = trained_case(options) if options.model == "demo" else random_case(options)
    case.plain.requires_grad_(False)
    fork = options.device == "cpu" and sys.platform != "win32"
    print(f"{options.model}, {case.first} + {len(case.targets)} tokens, {options.device}, 1 thread", flush=True)
    for method in options.methods or OURS:
        table(case, method, options, fork)


if __name__ == "__main__":
    main()
