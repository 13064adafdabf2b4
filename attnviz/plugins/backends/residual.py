"""The residual stream of a model: its blocks, and what went in and out of any module during one forward pass."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Passage:
    """One pass through a module: what was kept of the first tensor given and of the first returned, if any."""

    module: torch.nn.Module
    inside: torch.Tensor | None
    outside: torch.Tensor | None


def find_blocks(module: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The transformer blocks: the outermost list of `count` modules. Empty when there is none."""
    import torch

    lists = [(name, m) for name, m in module.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not lists:
        return []
    return list(min(lists, key=lambda item: item[0].count("."))[1])


@contextmanager
def recording(
    modules: Sequence[torch.nn.Module], keep: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[list[Passage]]:
    """Records every pass of this thread through `modules`, in order of leaving; other threads are not recorded.

    `keep` copies what is wanted of a tensor at once: some models add to their own states in place later on. The hooks
    are gone afterwards, also when the body raises.
    """
    passages: list[Passage] = []
    entered: list[torch.Tensor | None] = []
    thread = threading.get_ident()

    def kept(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        tensor = _first_tensor(args, kwargs)
        return None if tensor is None else keep(tensor)

    def enter(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == thread:
            entered.append(kept(args, kwargs))

    def leave(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if threading.get_ident() == thread:
            passages.append(Passage(module, entered.pop(), kept((output,), {})))

    handles: list[Any] = []
    try:
        for module in modules:
            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        yield passages
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    import torch

    given = [*args, *([kwargs["hidden_states"]] if "hidden_states" in kwargs else [])]
    for value in given:
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], torch.Tensor):
            return value[0]
    return None
