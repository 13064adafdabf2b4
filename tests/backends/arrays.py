"""Models that read numbers, as tiny random configurations and modules, and what they are checked against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
    stacks   it has an encoder, a decoder and cross-attention, of as many layers each
    scale    of random weights: attention is far from uniform and from a single key, and states stay of order 1
    """

    kind: str
    auto: str
    options: Mapping[str, Any]
    shape: tuple[int, ...]
    tokens: int
    heads: int = 4
    layers: int = 3
    stacks: bool = False
    scale: float = 0.15


PAST = {
    "context_length": 24, "prediction_length": 8, "lags_sequence": [1, 2, 3], "num_time_features": 2, "d_model": 32,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
}  # fmt: skip
STATIC = {
    "input_size": 2, "num_static_categorical_features": 1, "cardinality": [3], "embedding_dimension": [4],
    "num_static_real_features": 1,
}  # fmt: skip
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
    "time_series": NumberFamily(
        "time_series_transformer", "TimeSeriesTransformerForPrediction", PAST, (35, 3), 32, layers=2, stacks=True
    ),
    "time_series_static": NumberFamily(
        "time_series_transformer",
        "TimeSeriesTransformerModel",
        {**PAST, **STATIC},
        (35, 6),
        32,
        layers=2,
        stacks=True,
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


def run_eager(module: Any, family: str, values: Any) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Maps [n·H, Q, K] of every layer, and the first thing returned."""
    import torch

    with torch.no_grad():
        output = module(**arguments(family, values), output_attentions=True)
    names = ("encoder_attentions", "decoder_attentions", "cross_attentions", "attentions")
    maps = [weights for name in names for weights in getattr(output, name, None) or ()]
    return [weights.flatten(0, 1).numpy() for weights in maps], first(output)


def arguments(family: str, values: Any) -> dict[str, Any]:
    """Arguments of the module for one input."""
    import torch

    given = torch.tensor(values[None])
    if FAMILIES[family].kind == "time_series_transformer":
        return past_and_future(FAMILIES[family], given)
    return {"pixel_values" if FAMILIES[family].shape == PIXELS else "past_values": given}


def past_and_future(made: NumberFamily, given: Any) -> dict[str, Any]:
    """Columns: values, two time features, then a category and a constant where there are any. 27 rows are past."""
    import torch

    values = int(made.options.get("input_size", 1))
    numbers = given[..., 0] if values == 1 else given[..., :values]
    times = given[..., values : values + 2]
    found = {
        "past_values": numbers[:, :27],
        "past_time_features": times[:, :27],
        "past_observed_mask": torch.ones_like(numbers[:, :27]),
        "future_values": numbers[:, 27:],
        "future_time_features": times[:, 27:],
    }
    if given.shape[-1] > values + 2:
        found["static_categorical_features"] = given[:, 0, values + 2 : values + 3].long()
        found["static_real_features"] = given[:, 0, values + 3 :]
    return found


def example(family: str, seed: int = 0) -> np.ndarray[Any, Any]:
    """An array the family can take."""
    made = FAMILIES[family]
    values = numbers(*made.shape, seed=seed)
    if made.options.get("num_static_real_features"):
        values[:, -2:] = [1, 0.5]
    return values


def first(output: Any) -> np.ndarray[Any, Any]:
    """The first tensor returned."""
    found = output if hasattr(output, "shape") else next(iter(output.values() if hasattr(output, "values") else output))
    return np.asarray(found if hasattr(found, "shape") else found[0])


def own_maps(
    module: Any, values: Any, batch: int | None = 0
) -> tuple[list[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """What nn.MultiheadAttention itself returns as maps [H, Q, K], in order of the calls; and the module's output."""
    import torch
    from torch import nn

    maps: list[np.ndarray[Any, Any]] = []
    call = nn.MultiheadAttention.forward

    def ask(self: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = call(self, *args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
        maps.append(weights.flatten(0, -3).numpy())
        return output, None if not kwargs.get("need_weights", True) else weights.mean(-3)

    twin, fused = copy.deepcopy(module), torch.backends.mha.get_fastpath_enabled()
    for part in twin.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.forward = partial(ask, part)
    given = torch.tensor(values) if batch is None else torch.tensor(values).unsqueeze(batch)
    torch.backends.mha.set_fastpath_enabled(False)  # it would not come by the layers
    try:
        with torch.no_grad():
            twin(given)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    with torch.no_grad():
        return maps, first(module(given))


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
            if name not in layer.absent
        ),
        outputs=max(apart(idle, output), apart(captured, output)),
    )


def apart(found: Any, expected: Any) -> float:
    assert np.shape(found) == np.shape(expected), (np.shape(found), np.shape(expected))
    return float(np.abs(np.asarray(found, np.float64) - expected).max())


def torch_encoder(batch_first: bool = True, layers: int = 2, width: int = 16, **options: Any) -> Any:
    """An nn.TransformerEncoder with random weights."""
    from torch import nn

    layer = nn.TransformerEncoderLayer(width, 4, 32, batch_first=batch_first, **options)
    return perturbed(nn.TransformerEncoder(layer, layers, enable_nested_tensor=batch_first))


def forward(given: Mapping[str, Any] | Any) -> Callable[[Any], Any]:
    """Runs a module on these arguments."""
    import torch

    def run(module: Any) -> Any:
        with torch.no_grad():
            return module(**given) if isinstance(given, Mapping) else module(given)

    return run
