"""What capturing attention costs over a plain forward pass: taskset -c 0 python bench/capture.py [--lengths 512 1024 …]

Rows, for two random models (the shape of GPT-2 small; the shape of Llama 3.2 1B with 4 layers and a small vocabulary):

* a plain forward pass with scaled dot-product attention, logits of the last position only
* the same pass with our capture: queries and keys, statistics of every row, thumbnails of every head; and with the
  8 largest weights of every row and the norms of values
* transformers' eager attention with output_attentions

Time is given as a ratio to the plain pass within this process, in CPU seconds (on an accelerator: synchronised wall
time); the least of several repeats, taken in turns. Memory is the peak above what was held before the pass, with what
the pass returns still held: resident set on Linux, torch's own count on CUDA; "?" where neither is known. On a CPU with
one thread every pass runs in a fork of its own, so that none finds the heap as another one left it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attnviz.hooks import ModelSpec, Tokens, Want
from attnviz.plugins.backends import hf
from attnviz.plugins.backends.forward import model_inputs, run_forward

MB = 1 << 20
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
WANTS = {"capture": Want(), "capture, top 8 keys, value norms": Want(top_k=8, values=True)}


# --------------------------------------------------------------------------------------------- models


def gpt2_small(positions: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_positions=positions))


def llama_1b(positions: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=2048,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        max_position_embeddings=positions,
    )
    return LlamaForCausalLM(config)


SHAPES: dict[str, Callable[[int], Any]] = {"gpt2-small": gpt2_small, "llama-1b": llama_1b}


def tokenizer() -> Any:
    """One token per byte; the models here are random, so any text will do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


def random_tokens(count: int, vocabulary: int) -> Tokens:
    ids = np.random.default_rng(0).integers(0, vocabulary, count)
    return Tokens(ids, ("x",) * count, np.full((count, 2), -1), np.zeros(count, bool), "")


# --------------------------------------------------------------------------------------------- measuring


@dataclass
class Cost:
    """Least time of the repeats so far, their wall time, and the largest peak of memory (None: not known)."""

    seconds: float = math.inf
    wall: float = math.inf
    peak: float | None = None


def resident(name: str) -> float | None:
    """VmRSS or VmHWM in bytes; None where the system does not tell."""
    if not STATUS.is_file():
        return None
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next((int(words[1]) * 1024.0 for words in lines if words[0] == name + ":"), None)


def start_peak(device: str) -> float | None:
    """Frees what can be freed, sets the peak back and returns what is held now."""
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        CLEAR.write_text("5")
    except OSError:
        return None
    return resident("VmRSS")


def end_peak(device: str) -> float | None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated())
    return resident("VmHWM")


def measure(call: Callable[[], object], cost: Cost, device: str, fork: bool) -> None:
    wall, seconds, peak = in_a_fork(call, device) if fork else once(call, device)
    cost.wall = min(cost.wall, wall)
    cost.seconds = min(cost.seconds, seconds)
    if peak is not None:
        cost.peak = max(cost.peak or 0.0, peak)


def in_a_fork(call: Callable[[], object], device: str) -> tuple[float, float, float | None]:
    """What `once` gives, in a child process that starts with the heap of this one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(once(call, device)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        found = answer.read()
    os.waitpid(child, 0)
    if not found:
        raise SystemExit("A pass ended its process: too little memory?")
    wall, seconds, peak = json.loads(found)
    return wall, seconds, peak


def once(call: Callable[[], object], device: str) -> tuple[float, float, float | None]:
    """Wall time, CPU time (wall time on an accelerator), peak memory above what was held before."""
    before = start_peak(device)
    wall, cpu = time.perf_counter(), time.process_time()
    held = call()
    after = end_peak(device)  # on an accelerator this waits for the work to end
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    del held
    peak = None if before is None or after is None else after - before
    return wall, wall if device.startswith("cuda") else cpu, peak


def free_bytes(device: str) -> float:
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info()[0])
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.is_file() else []
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("MemAvailable")), math.inf)


# --------------------------------------------------------------------------------------------- rows


def rows(model: Any, plain: Any, tokens: Tokens) -> dict[str, Callable[[], object]]:
    """Title -> what is measured. `plain` is a module of the same weights, without attnviz."""

    def forward(implementation: str, **options: Any) -> object:
        plain.set_attn_implementation(implementation)
        return run_forward(plain, model_inputs(plain, tokens, logits_at=[len(tokens) - 1], **options))

    found: dict[str, Callable[[], object]] = {"plain forward (SDPA)": lambda: forward("sdpa")}
    for title, want in WANTS.items():
        found[title] = lambda want=want: model.trace(tokens, want)
    found["eager, output_attentions"] = lambda: forward("eager", output_attentions=True)
    return found


def eager_bytes(config: Any, count: int) -> float:
    """All maps, and the scores, the softmax and its copy of the layer at work."""
    return 4.0 * config.num_attention_heads * count**2 * (config.num_hidden_layers + 3)


def table(model: Any, plain: Any, count: int, repeats: int, device: str, skip_eager: bool, fork: bool) -> None:
    tokens = random_tokens(count, model.card.vocabulary)
    calls = rows(model, plain, tokens)
    needed, free = eager_bytes(plain.config, count), free_bytes(device)
    refused = ""
    if skip_eager or needed > 0.8 * free:
        eager = calls.popitem()[0]
        reason = "left out" if skip_eager else f"not run: needs {needed / MB:.0f} MB of {free / MB:.0f} MB free"
        refused = f"  {eager:<44} {reason}"
    costs = {title: Cost() for title in calls}
    for _ in range(repeats):
        for title, call in calls.items():
            measure(call, costs[title], device, fork)
    base = next(iter(costs.values()))
    for title, cost in costs.items():
        peak = over = "?"
        if cost.peak is not None and base.peak is not None:
            peak, over = f"{cost.peak / MB:.0f}", f"{(cost.peak - base.peak) / MB:+.0f}"
        print(
            f"  {title:<44} {cost.seconds:8.3f} s  ×{cost.seconds / base.seconds:.2f}   wall {cost.wall:8.3f} s"
            f"   peak {peak:>6} MB ({over} MB over plain)",
            flush=True,
        )
    if refused:
        print(refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-eager", action="store_true", help="leave the eager row out")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    fork = options.device == "cpu" and options.threads == 1 and hasattr(os, "fork")
    for shape in options.shapes:
        torch.manual_seed(0)
        plain = SHAPES[shape](max(options.lengths)).eval().to(options.device)
        model = hf.load(ModelSpec(shape, objects=(plain, tokenizer())))
        model.trace(random_tokens(64, model.card.vocabulary), Want())  # first calls load code
        for count in options.lengths:
            print(f"{shape}, {count} tokens, {options.device}, {options.threads} threads", flush=True)
            table(model, plain, count, options.repeats, options.device, options.no_eager, fork)


if __name__ == "__main__":
    main()
