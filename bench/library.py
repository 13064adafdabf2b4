"""What the library costs, as ratios within one run: python bench/library.py [--model demo] [--tokens 128]

* a bare interpreter against `import attnviz` and against listing all plugins (whole processes)
* a plain forward pass of the model against the one that captures the attention of every head
* the first analysis of a run against asking for it again
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import attnviz

PROCESSES = {
    "bare interpreter, import numpy": "import numpy",
    "import attnviz": "import attnviz",
    "list all plugins": "from attnviz.registry import load_registry; load_registry()",
}


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Median wall time of a call, after one that is not counted."""
    call()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def processes(repeats: int) -> None:
    base = None
    for title, code in PROCESSES.items():
        spent = seconds(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True), repeats)
        base = base or spent
        print(f"{title:<44} {spent * 1000:9.1f} ms   ×{spent / base:.2f}")


def forward(model: attnviz.session.LoadedModel, text: str, repeats: int) -> None:
    import torch

    from attnviz.hooks import Want

    inner = model.session.model(model.spec)
    tokens = model.tokenize(text)
    ids = torch.tensor(tokens.ids.copy())[None]

    def plain() -> None:
        with torch.inference_mode():
            inner.module()(input_ids=ids, use_cache=False)

    base = seconds(plain, repeats)
    captured = seconds(lambda: inner.trace(tokens, Want()), repeats)
    print(f"{f'plain forward, {len(tokens)} tokens':<44} {base * 1000:9.2f} ms   ×1.00")
    print(f"{'forward that captures every head':<44} {captured * 1000:9.2f} ms   ×{captured / base:.2f}")


def repeated(model: attnviz.session.LoadedModel, text: str, repeats: int) -> None:
    for name in ("attention_pattern", "attention_stats", "logit_lens"):
        run = model.trace(text)
        started = time.perf_counter()
        run.analyze(name)
        first = time.perf_counter() - started
        again = seconds(lambda name=name, run=run: run.analyze(name), repeats)
        print(f"{name + ', first':<44} {first * 1000:9.2f} ms")
        print(f"{name + ', again':<44} {again * 1000:9.3f} ms   ×{again / first:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    processes(options.repeats)
    model = attnviz.load(options.model)
    text = "Tom has 3 apples and gets 4 more. " * options.tokens
    spans = model.tokenize(text[: options.tokens * 2]).offsets
    text = text[: int(spans[min(options.tokens, len(spans)) - 1][1])]
    forward(model, text, options.repeats)
    repeated(model, text, options.repeats)


if __name__ == "__main__":
    main()
