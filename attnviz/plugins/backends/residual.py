"""The residual stream of a model: its blocks, and what went in and out of any module during one forward pass.

Hooks are put on once, when a model is loaded, and do nothing until the running context records. Putting them on and
off for each request would not be safe: torch looks a hook up twice in one call, and fails if another thread took it
off in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Passage:
    """One pass through a module: what was kept of the first tensor given and of the first returned, if any."""

    module: torch.nn.Module
    inside: torch.Tensor | None
    outside: torch.Tensor | None


@dataclass
class _Recorder:
    modules: frozenset[int]
    keep: Callable[[torch.Tensor], torch.Tensor]
    passages: list[Passage] = field(default_factory=list)
    entered: list[torch.Tensor | None] = field(default_factory=list)

    def kept(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
        tensor = _first_tensor(args, kwargs)
        return None if tensor is None else self.keep(tensor)


_recorder: ContextVar[_Recorder | None] = ContextVar("attnviz_recorder", default=None)


def find_blocks(module: torch.nn.Module, count: int) -> list[torch.nn.Module]:
    """The transformer blocks: the outermost list of `count` modules. Empty when there is none."""
    import torch

    lists = [(name, m) for name, m in module.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not lists:
        return []
    return list(min(lists, key=lambda item: item[0].count("."))[1])


def watch(modules: Sequence[torch.nn.Module]) -> list[Any]:
    """Makes `modules` recordable; returns the handles of the hooks. Only for a module that no other thread runs yet."""
    handles: list[Any] = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(_enter, with_kwargs=True))
        handles.append(module.register_forward_hook(_leave, with_kwargs=True))
    return handles


@contextmanager
def watched(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """`watch` for as long as the body runs."""
    handles = watch(modules)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording(
    modules: Sequence[torch.nn.Module], keep: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[list[Passage]]:
    """Records every pass of this context through `modules` (watched ones), in order of leaving.

    `keep` copies what is wanted of a tensor at once: some models add to their own states in place later on.
    """
    recorder = _Recorder(frozenset(id(module) for module in modules), keep)
    token = _recorder.set(recorder)
    try:
        yield recorder.passages
    finally:
        _recorder.reset(token)


def _enter(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    recorder = _recorder.get()
    if recorder is not None and id(module) in recorder.modules:
        recorder.entered.append(recorder.kept(args, kwargs))


def _leave(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    recorder = _recorder.get()
    if recorder is not None and id(module) in recorder.modules:
        recorder.passages.append(Passage(module, recorder.entered.pop(), recorder.kept((output,), {})))


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    import torch

    given = [*args, *([kwargs["hidden_states"]] if "hidden_states" in kwargs else [])]
    for value in given:
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], torch.Tensor):
            return value[0]
    return None
