"""Models that read numbers, as tiny random configurations and modules, and what they are checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attnviz.hooks import Model, ModelSpec, Want
from attnviz.plugins.backends import arrays
from attnviz.plugins.backends.loading import quiet
from tests.backends.families import TOP_K, brute_force, patterns

WANT = Want(thumbnail=10, top_k=TOP_K)
SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
PICTURE = {**SIZES, "image_size": 32, "patch_size": 8}
SERIES = {
    "num_input_channels": 3, "context_length": 36, "patch_length": 8, "patch_stride": 4, "d_model": 64, "ffn_dim": 96,
    "num_attention_heads": 4, "num_hidden_layers": 3, "prediction_length": 8,
}  # fmt: skip


@dataclass(frozen=True)
class NumberFamily:
    """A configuration of transformers, and what the model's card must say.

    shape    of one input;  tokens  what becomes of it;  heads  of each layer
    scale    of random weights: attention is far from uniform and from a single key, and states stay of order 1
    """

    kind: str
    auto: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    tokens: int
    heads: int = 4
    layers: int = 3
    scale: float = 0.15


PIXELS = (3, 32, 32)
GENTLE = 0.13  # its norms divide by stored variances, which are 1, and so do not hold states down
FAMILIES = {
    "vit": NumberFamily("vit", "AutoModelForImageClassification", PICTURE, PIXELS, 17),
    "vit_base": NumberFamily("vit", "AutoModel", PICTURE, PIXELS, 17),
    "deit": NumberFamily("deit", "DeiTForImageClassificationWithTeacher", PICTURE, PIXELS, 18),
    "beit": NumberFamily("beit", "AutoModelForImageClassification", PICTURE, PIXELS, 17),
    "beit_relative": NumberFamily(
        "beit", "AutoModelForImageClassification", {**PICTURE, "use_relative_position_bias": True}, PIXELS, 17
    ),
    "dinov2": NumberFamily("dinov2", "AutoModelForImageClassification", PICTURE, PIXELS, 17),
    "dinov2_registers": NumberFamily("dinov2_with_registers", "AutoModel", PICTURE, PIXELS, 21),
    "dinov3": NumberFamily("dinov3_vit", "AutoModel", {**PICTURE, "num_register_tokens": 2}, PIXELS, 19),
    "vit_msn": NumberFamily("vit_msn", "AutoModel", PICTURE, PIXELS, 17),
    "clip_vision": NumberFamily("clip_vision_model", "AutoModel", PICTURE, PIXELS, 17),
    "siglip_vision": NumberFamily("siglip_vision_model", "AutoModel", PICTURE, PIXELS, 16),
    "ijepa": NumberFamily("ijepa", "AutoModel", PICTURE, PIXELS, 16),
    "patchtst": NumberFamily("patchtst", "PatchTSTForPrediction", SERIES, (36, 3), 8, 12, scale=GENTLE),
    "patchtst_cls": NumberFamily(
        "patchtst",
        "PatchTSTForClassification",
        {**SERIES, "use_cls_token": True, "num_targets": 2},
        (36, 3),
        9,
        12,
        scale=GENTLE,
    ),
}


def random_module(family: str) -> Any:
    """A module whose every parameter is random, large enough that attention is far from uniform."""
    import transformers

    made = FAMILIES[family]
    with quiet():
        config = transformers.AutoConfig.for_model(made.kind, **made.options)
        cls = getattr(transformers, made.auto)
        build = cls.from_config if hasattr(cls, "from_config") else cls._from_config
        module = build(config, attn_implementation="eager")
    return perturbed(module, made.scale, len(family))


def perturbed(module: Any, scale: float = 0.15, seed: int = 0) -> Any:
    """The module with random weights, norms and biases, in evaluation mode."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(scale * noise)
            elif "norm" in name.lower():
                parameter.add_(0.3 * noise)
            else:
                parameter.add_(0.1 * noise)
    return module.eval()


def numbers(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def load(module: Any, example: Any = None) -> Model:
    """The backend's model around a module."""
    return arrays.load(ModelSpec(type(module).__name__, objects=(module, example)))


def spread(maps: Any) -> list[np.ndarray[Any, Any]]:
    """Maps [n, H, Q, K] of transformers as [n·H, Q, K]."""
    return [weights.flatten(0, 1).numpy() for weights in maps]


def run_eager(module: Any, family: str, values: Any) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Maps [n·H, T, T] of every layer, and the first thing returned."""
    import torch

    name = "pixel_values" if FAMILIES[family].shape == PIXELS else "past_values"
    with torch.no_grad():
        output = module(**{name: torch.tensor(values[None])}, output_attentions=True)
    return spread(output.attentions), first(output)


def first(output: Any) -> np.ndarray[Any, Any]:
    """The first tensor returned."""
    found = output if hasattr(output, "shape") else next(iter(output.values() if hasattr(output, "values") else output))
    return np.asarray(found if hasattr(found, "shape") else found[0])


@dataclass(frozen=True)
class Differences:
    """Largest absolute differences of maps, of statistics, and of what the module returns while it is captured."""

    maps: float
    statistics: float
    outputs: float


def compare(
    model: Any, values: Any, maps: list[np.ndarray[Any, Any]], output: Any, forward: Callable[[Any], Any]
) -> Differences:
    """The backend's model against maps and output of the module itself. `forward` runs the model's own module."""
    from attnviz.plugins.backends.arrays_route import SideBySide
    from attnviz.plugins.backends.capture import AttentionCollector

    layers = [layer for layer in model.trace(model.tokenize_values(values), WANT).layers if layer is not None]
    pairs = list(zip(layers, maps, strict=True))
    collector = SideBySide(AttentionCollector(model.route.calls, WANT.thumbnail))
    idle = first(forward(model.module()))
    with model.route.capturing(collector):
        captured = first(forward(model.module()))
    return Differences(
        maps=max(apart(patterns(layer), weights) for layer, weights in pairs),
        statistics=max(
            apart(getattr(layer, name), expected)
            for layer, weights in pairs
            for name, expected in brute_force(weights).items()
        ),
        outputs=max(apart(idle, output), apart(captured, output)),
    )


def apart(found: Any, expected: Any) -> float:
    assert np.shape(found) == np.shape(expected), (np.shape(found), np.shape(expected))
    return float(np.abs(np.asarray(found, np.float64) - expected).max())
