"""Where the weights of a module lie, also of one that accelerate has spread over devices, memory and disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SPREAD = "spread"
"""Name of the device that stands for all there are."""


def room() -> dict[int | str, int] | None:
    """Bytes that weights may take on each GPU (by number) and on "cpu"; None = what accelerate finds free."""
    return None


def spreading() -> tuple[dict[str, Any], str]:
    """Options of `from_pretrained` that spread a model, and the folder for weights that have to be written anew.

    Most weights on disk are read from the model's own files; those that are put together when a model is loaded, such
    as experts, are not in them as they are.
    """
    folder = tempfile.mkdtemp(prefix="attnviz-")
    return {"device_map": "auto", "max_memory": room(), "offload_folder": folder}, folder


def remove_with(module: torch.nn.Module, folder: str) -> None:
    """Removes the folder when the module is gone, at the latest when the program ends."""
    weakref.finalize(module, shutil.rmtree, folder, ignore_errors=True)


def _hooks(part: torch.nn.Module) -> Iterator[Any]:
    """accelerate's hooks of one module."""
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", [hook])


def is_spread(module: torch.nn.Module) -> bool:
    """Whether accelerate moves weights or states of this module while it runs."""
    return any(True for part in module.modules() for _ in _hooks(part))


def shared_stores(module: torch.nn.Module) -> dict[int, Any]:
    """What accelerate reads weights from, by identity: not to be copied with the module."""
    stores = [getattr(hook, "weights_map", None) for part in module.modules() for hook in _hooks(part)]
    return {id(store): store for store in stores if store is not None}


def run_device(part: torch.nn.Module) -> torch.device | None:
    """Where accelerate runs this part; None where it has no say."""
    import torch

    devices = [d for hook in _hooks(part) if (d := getattr(hook, "execution_device", None)) is not None]
    return torch.device(devices[0]) if devices else None


def tensor_of(module: torch.nn.Module, name: str) -> torch.Tensor:
    """The weight or buffer of this dotted name, read from where it lies if the module has a placeholder for it."""
    path, _, leaf = name.rpartition(".")
    found: torch.Tensor = getattr(module.get_submodule(path), leaf)
    if found.device.type != "meta":
        return found
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        for hook in _hooks(module.get_submodule(".".join(parts[:depth]))):
            store, rest = getattr(hook, "weights_map", None), ".".join(parts[depth:])
            if store is not None and rest in store:
                stored: torch.Tensor = store[rest]
                return stored
    return found


def shares(module: torch.nn.Module) -> dict[str, float]:
    """Place -> its share of the bytes of all weights."""
    places = getattr(module, "hf_device_map", {})
    sizes: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        prefixes = [".".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
        place = next((places[prefix] for prefix in prefixes if prefix in places), None)
        if place is None:
            place = "offloaded" if parameter.device.type == "meta" else parameter.device
        sizes[f"cuda:{place}" if isinstance(place, int) else str(place)] += parameter.numel() * parameter.element_size()
    return {place: size / sizes.total() for place, size in sizes.items()}


def in_words(module: torch.nn.Module) -> str:
    """A note for the card."""
    said = ", ".join(f"{share:.0%} on {place}" for place, share in shares(module).items())
    disk = "; what lies on disk is read in every pass" if "disk" in shares(module) else ""
    return f"weights spread by accelerate: {said}{disk}; one run at a time"
