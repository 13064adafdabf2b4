"""What a piece of work takes: wall seconds, CPU seconds of all threads, and the most memory it needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEGABYTE = 1_000_000


@dataclass
class Reading:
    """Filled in when the work is done. `peak_memory_mb`: None where the system does not say it."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_mb: float | None = None


@contextmanager
def measured(device: str = "cpu") -> Iterator[Reading]:
    """Measures its body. On a GPU the peak is that of its tensors, elsewhere that of the process's memory."""
    reading = Reading()
    on_gpu = device.startswith("cuda")
    known = _forget_gpu_peak() if on_gpu else _forget_peak()
    started, busy = time.perf_counter(), time.process_time()
    try:
        yield reading
    finally:
        reading.seconds, reading.cpu_seconds = time.perf_counter() - started, time.process_time() - busy
        if known:
            reading.peak_memory_mb = (_gpu_peak() if on_gpu else _peak()) / MEGABYTE


def peak_is_known() -> bool:
    """Whether the system says how much memory the process needed at most since a moment (Linux does)."""
    return _forget_peak()


def _forget_peak() -> bool:
    try:
        _RESET.write_text("5")  # sets the peak of resident memory back to what is resident now
    except OSError:
        return False
    return _STATUS.exists()


def _peak() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _forget_gpu_peak() -> bool:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return True


def _gpu_peak() -> int:
    import torch

    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated())
