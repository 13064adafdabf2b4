"""Which models read numbers instead of token ids, told without loading one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnviz.hooks import ModelSpec

PICTURES = (
    "vit", "deit", "beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_msn", "clip_vision_model",
    "siglip_vision_model", "ijepa",
)  # fmt: skip
"""Model types of transformers that take pixel_values and attend over all patches of a picture."""
SERIES = ("patchtst", "time_series_transformer")
SENSORS = "attnviz_sensors"
"""The model type of this project's own sensor transformer, which is none of transformers."""
_WINDOWS = "it attends within windows that move over the picture from layer to layer, so there is no map over patches"
UNREADABLE = {
    "informer": "its ProbSparse layers compute a few queries only and give no map of attention",
    "autoformer": "its layers correlate whole series and give no map of attention",
    "patchtsmixer": "it mixes by MLPs and has no attention over time",
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "vit_mae": "it leaves out patches at random, so each run attends over other ones",
}
"""Model types that read numbers and cannot be shown, and why."""
NUMBERS = frozenset((*PICTURES, *SERIES, *UNREADABLE, SENSORS))


def why_no_text(spec: ModelSpec) -> str | None:
    """Why this is none for a backend that reads text, as far as its type tells; else None."""
    kind = model_type(spec)
    if kind in NUMBERS:
        name = spec.source if spec.objects is None else type(spec.objects[0]).__name__
        return f"{name} ({kind}) reads numbers, not text"
    if spec.objects is not None and spec.objects[1] is None:
        return f"{type(spec.objects[0]).__name__} came without a tokenizer"
    return None


def model_type(spec: ModelSpec) -> str | None:
    """What transformers calls the architecture; None where that is not known without the hub."""
    if spec.objects is not None:
        return model_type_of(spec.objects[0])
    try:
        config: Any = json.loads(_config_file(spec).read_text("utf-8"))
    except (OSError, RuntimeError, ValueError):  # no such file, "~" of nobody, no JSON: others say so
        return None
    found = config.get("model_type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None


def model_type_of(module: Any) -> str | None:
    """The same of a module in memory; None where it has no configuration."""
    return getattr(getattr(module, "config", None), "model_type", None)


def _config_file(spec: ModelSpec) -> Path:
    """In the folder of the model, or in the local cache of the hub."""
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return path / "config.json"
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(spec.source, "config.json", revision=spec.revision)
    return Path(cached) if isinstance(cached, str) else path / "config.json"


def is_module(value: object) -> bool:
    """Whether this is a module of torch; imports nothing."""
    return "torch.nn.modules.module.Module" in _classes(value)


def is_transformers(value: object) -> bool:
    """Whether this is a model of transformers; imports nothing."""
    return "transformers.modeling_utils.PreTrainedModel" in _classes(value)


def _classes(value: object) -> set[str]:
    return {f"{cls.__module__}.{cls.__name__}" for cls in type(value).__mro__}
