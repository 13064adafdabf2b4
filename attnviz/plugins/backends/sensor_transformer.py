"""A transformer over sensors: the last values of each sensor are one token, as in iTransformer (Liu et al. 2024).

Attention goes from sensor to sensor. This file imports torch, so only functions import it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from attnviz.hooks import ModelError, ModelSpec
from attnviz.plugins.backends.loading import Loaded, choose_device, choose_dtype, digest_files
from attnviz.plugins.backends.sensor_tokens import SensorConfig, read_config


class SensorTransformer(torch.nn.Module):  # type: ignore[misc]  # torch does not type it
    """[B, time, sensor] in the units of the sensors -> [B, sensor] the next value of each, in the same units."""

    def __init__(self, config: SensorConfig) -> None:
        super().__init__()
        count = len(config.sensors)
        self.config = config
        self.register_buffer("means", torch.tensor(config.means), persistent=False)
        self.register_buffer("deviations", torch.tensor(config.deviations), persistent=False)
        self.embed = torch.nn.Linear(config.window, config.width)
        self.identity = torch.nn.Parameter(0.3 * torch.randn(count, config.width))  # which sensor a token is
        self.blocks = torch.nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = torch.nn.LayerNorm(config.width)
        self.head = torch.nn.Parameter(0.05 * torch.randn(count, config.width))  # one for each sensor
        self.bias = torch.nn.Parameter(torch.zeros(count))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        usual = (values - self.means) / self.deviations
        states = self.embed(usual.transpose(1, 2)) + self.identity  # [B, S, D]
        for block in self.blocks:
            states = block(states)
        predicted = (self.norm(states) * self.head).sum(-1) + self.bias  # [B, S]
        return predicted * self.deviations + self.means


class Block(torch.nn.Module):  # type: ignore[misc]  # torch does not type it
    """Attention between sensors, then an MLP on each, both around a residual stream."""

    def __init__(self, config: SensorConfig) -> None:
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.mlp_norm = torch.nn.LayerNorm(config.width)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(config.width, config.mlp), torch.nn.GELU(), torch.nn.Linear(config.mlp, config.width)
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.attention(self.attention_norm(states))
        return states + self.mlp(self.mlp_norm(states))


class Attention(torch.nn.Module):  # type: ignore[misc]  # torch does not type it
    """Every sensor looks at every sensor."""

    def __init__(self, config: SensorConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.queries_keys_values = torch.nn.Linear(config.width, 3 * config.width)
        self.output = torch.nn.Linear(config.width, config.width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        parts = self.queries_keys_values(states).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # [B, H, S, D_h]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


def load_folder(spec: ModelSpec) -> Loaded:
    """The model in a folder: config.json and model.safetensors.

    Raises:
        ModelError: files that are missing, broken, or do not fit one another.
        BadInput: an unknown or absent device or data type.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(spec.source).expanduser()
    config, file = read_config(folder / "config.json"), folder / "model.safetensors"
    device = choose_device(spec.device)
    module = SensorTransformer(config)
    try:
        tensors: dict[str, Any] = load_file(str(file))
        module.load_state_dict(tensors)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file}: expected weights in safetensors, got: {error}.") from error
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{file}: the weights do not fit the configuration beside them: {said}") from error
    module = module.to(device, choose_dtype(spec.dtype, device, config)).eval().requires_grad_(False)
    return Loaded(spec.source, module, None, digest_files([file]))
