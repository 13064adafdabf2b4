"""The machine a benchmark runs on, as system_info.json has it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from attnviz.bench.meter import peak_is_known
from attnviz.provenance import versions


def system_info(processes: int = 1) -> dict[str, Any]:
    """What is known of this machine; None for what it does not say."""
    import torch

    has_gpu = bool(torch.cuda.is_available())
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if has_gpu else []
    return {
        "hostname": platform.node(),
        "platform": platform.system(),
        "platform_version": platform.release(),
        "processor": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "memory_total_gb": _memory_gb(),
        "gpu_info": ", ".join(cards) or None,
        "cuda_version": torch.version.cuda,
        "torch_version": torch.__version__,
        "torch_cuda_available": has_gpu,
        "torch_mps_available": bool(torch.backends.mps.is_available()),
        "torch_threads": torch.get_num_threads(),
        "processes": processes,
        "python_version": platform.python_version(),
        "versions": dict(versions()),
        "peak_memory": "measured" if has_gpu or peak_is_known() else "this system does not say it",
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 2)
    except (AttributeError, OSError, ValueError):
        return None
