"""A module of the same weights that another library may hook, switch and mark as it likes."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from attnviz.hooks import AnalysisRequest, AttnvizError, BadInput, ModelError, Unavailable

if TYPE_CHECKING:
    import torch


def twin(module: torch.nn.Module, attention: str = "sdpa") -> Any:
    """A module of its own configuration, hooks, buffers and parameters, that take gradients; the numbers of the
    parameters are the very same memory."""
    import torch

    shared: dict[int, Any] = {}
    for parameter in module.parameters():
        if type(parameter) is torch.nn.Parameter:
            shared[id(parameter)] = torch.nn.Parameter(parameter.detach(), parameter.is_floating_point())
        else:
            shared[id(parameter)] = parameter  # of a kind of its own (quantised)
    found: Any = copy.deepcopy(module, shared)
    try:
        found.set_attn_implementation(attention)
    except ValueError:  # a family that has no such way of its own
        found.set_attn_implementation("eager")
    return found.eval()


def block(module: torch.nn.Module, request: AnalysisRequest, layer: int) -> torch.nn.Module:
    """The block of a layer, in the one list of as many modules as the model has layers.

    Raises:
        BadInput: no such layer.
        Unavailable: there is no such list, or there are several.
    """
    import torch

    layers = len(request.card.layers)
    if not 0 <= layer < layers:
        raise BadInput(f"Unknown layer {layer}. This model has layers 0 to {layers - 1}.")
    lists = [part for part in module.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == layers]
    if len(lists) != 1:
        raise Unavailable(f"{request.card.name}: its {layers} layers are not one list of blocks.")
    found: torch.nn.Module = lists[0][layer]
    return found


@contextmanager
def left_to(library: str, method: str, request: AnalysisRequest) -> Iterator[None]:
    """Runs a method of another library: its warnings and its log are not heard, its random numbers follow the seed
    of the request and leave those of everybody else as they were, what it raises becomes one line.

    Raises:
        ModelError: what went wrong there, in its words.
    """
    import torch

    log = logging.getLogger(library.lower())
    level, state, drawn = log.level, np.random.get_state(), random.getstate()
    device, seed = request.card.device, request.params["seed"]
    devices = [torch.device(device)] if device.startswith("cuda") else []
    try:
        with torch.random.fork_rng(devices), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            log.setLevel(logging.CRITICAL)
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    except AttnvizError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{library}: {method} needs more memory than the device has: use a shorter prompt.") from error
    except Exception as error:  # broad on purpose: another library may fail on an architecture in any way
        said = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"{library}: {method} failed on {request.card.architecture}: {said[:200]}") from error
    finally:
        log.setLevel(level)
        np.random.set_state(state)
        random.setstate(drawn)
