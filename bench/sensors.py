"""What the visualizer costs at 12 layers × 12 heads × 512 positions: taskset -c 0 python bench/sensors.py

An encoder of PyTorch of width 768 with random weights reads [512, 768]. CPU seconds of one thread, the least of several
repeats; memory is the peak above what was held before, resident set on Linux, with what is returned still held. Printed
beside what is claimed for such a visualizer elsewhere: extraction 100 ms, summary 50 ms, PNG 200 ms, 1.5 GB for the
attention of the whole.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HEADS, POSITIONS, WIDTH = 12, 12, 512, 768
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MOST_SUMMARY, MOST_PNG, MOST_RATIO = 0.020, 0.150, 1.25


def encoder(layers: int, positions: int) -> Any:
    import torch

    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, batch_first=True, dropout=0.0)
    return torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()


def resident(peak: bool) -> float:
    """MB; NaN where it is not known."""
    if not STATUS.exists():
        return float("nan")
    name = "VmHWM" if peak else "VmRSS"
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def measured(act: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """(CPU seconds, the least; MB at the peak above what was held before)."""
    least, most = float("inf"), 0.0
    for _ in range(repeats):
        gc.collect()
        before = resident(peak=False)
        if CLEAR.exists():
            ctypes.CDLL(None).malloc_trim(0)  # else what earlier calls freed hides what this one takes
            before = resident(peak=False)
            CLEAR.write_text("5")
        start = time.process_time()
        kept = act()
        least = min(least, time.process_time() - start)
        most = max(most, resident(peak=True) - before)
        del kept
    return least, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--positions", type=int, default=POSITIONS)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    from attnviz import AttentionVisualizer, ExportFormat

    model = encoder(options.layers, options.positions)
    values = np.random.default_rng(0).normal(size=(options.positions, WIDTH)).astype(np.float32)
    given = torch.tensor(values)[None]
    visualizer = AttentionVisualizer(model, enable_caching=False)
    visualizer.extract_attention_weights(values)  # loads and checks the model

    def plain() -> Any:
        with torch.inference_mode():
            return model(given)

    rows: dict[str, dict[str, float]] = {}

    def add(name: str, act: Callable[[], Any], repeats: int, **more: float) -> None:
        seconds, peak = measured(act, repeats)
        rows[name] = {"ms": 1000 * seconds, "peak_mb": peak, **more}

    add("plain forward", plain, options.repeats)
    for name, every in (("extraction, heads averaged", False), ("extraction, all heads", True)):
        kept = visualizer.extract_attention_weights(values, return_all_heads=every)
        size, trace = kept.weights.nbytes / 2**20, kept.origins[0].trace.nbytes / 2**20
        del kept
        extract = lambda every=every: visualizer.extract_attention_weights(values, return_all_heads=every)  # noqa: E731
        add(name, extract, options.repeats, array_mb=size, trace_mb=trace)
    weights = visualizer.extract_attention_weights(values)
    add("summary", lambda: visualizer.get_attention_summary(weights), 10)
    summary = visualizer.get_attention_summary(weights)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ExportFormat:
            target = Path(folder) / f"summary.{kind.value}"
            visualizer.export_visualization(summary, kind, target)  # fonts and modules are loaded once
            add(f"{kind.value} file", lambda k=kind, t=target: visualizer.export_visualization(summary, k, t), 5)
    ratio = rows["extraction, heads averaged"]["ms"] / rows["plain forward"]["ms"]
    if options.json:
        print(json.dumps({"rows": rows, "extraction_over_forward": ratio}))
        return
    report(rows, ratio)


def report(rows: dict[str, dict[str, float]], ratio: float) -> None:
    claims = {"extraction, all heads": "100 ms, 1.5 GB", "summary": "50 ms", "png file": "200 ms"}
    print(f"{'':28}{'CPU ms':>10}{'peak MB':>10}{'array MB':>10}{'trace MB':>10}  claimed elsewhere")
    for name, row in rows.items():
        more = "".join(f"{row[key]:10.1f}" if key in row else " " * 10 for key in ("array_mb", "trace_mb"))
        print(f"{name:28}{row['ms']:10.1f}{row['peak_mb']:10.1f}{more}  {claims.get(name, '')}")
    print(f"extraction (heads averaged) over the plain forward: {ratio:.2f} (asked for: at most {MOST_RATIO})")
    for name, most in (("summary", MOST_SUMMARY), ("png file", MOST_PNG)):
        print(f"{name}: {rows[name]['ms']:.1f} ms (asked for: at most {1000 * most:.0f} ms)")


if __name__ == "__main__":
    main()
