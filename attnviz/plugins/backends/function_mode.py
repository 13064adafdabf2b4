"""PyTorch's attention functions, watched while one module runs.

A module that is no transformers model calls torch.nn.functional: scaled_dot_product_attention, or, through
nn.MultiheadAttention and nn.TransformerEncoderLayer, multi_head_attention_forward. While a TorchFunctionMode of ours is
on, both come to a collector first; the layers' fused fast path, which gives no attention, is left by torch itself. The
mode holds for this thread and this forward pass only; nothing is set in the module or in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from attnviz.hooks import ModelError
from attnviz.plugins.backends.attention_function import Collector
from attnviz.plugins.backends.multihead import multi_head_answer, multi_head_call, named_arguments, plain_call

if TYPE_CHECKING:
    import torch

_running: ContextVar[list[torch.nn.Module] | None] = ContextVar("attnviz_running", default=None)


def follow(module: torch.nn.Module) -> None:
    """Lets `watching` know which part of `module` runs. Only for a module that no other thread runs yet.

    The hooks stay and do nothing unless this context watches; putting them on for each request would not be safe.
    """
    for part in module.modules():
        part.register_forward_pre_hook(_enter)
        part.register_forward_hook(_leave)


def _enter(module: torch.nn.Module, args: Any) -> None:
    running = _running.get()
    if running is not None:
        running.append(module)


def _leave(module: torch.nn.Module, args: Any, output: Any) -> None:
    running = _running.get()
    if running is not None:
        running.pop()


@contextmanager
def watching(collector: Collector) -> Iterator[None]:
    """Sends every call of PyTorch's attention functions in a followed module to `collector`."""

    def multi_head(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = named_arguments(args, kwargs)
        call = multi_head_call(_innermost(), given)
        heads = collector.attend(call)
        return None if heads is None else multi_head_answer(given, call, heads)

    def plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor | None:
        heads = collector.attend(plain_call(_innermost(), args, kwargs))
        query = kwargs["query"] if "query" in kwargs else args[0]
        return None if heads is None else heads.reshape(*query.shape[:-1], heads.shape[-1])

    token = _running.set([])
    try:
        with _mode(multi_head, plain):
            yield
    finally:
        _running.reset(token)


@contextmanager
def asking_for_maps(maps: list[torch.Tensor]) -> Iterator[None]:
    """Puts the map of every call, [H, Q, K] as PyTorch itself makes it, into `maps`.

    nn.MultiheadAttention returns it when it is asked to; scaled_dot_product_attention gives it as its output when the
    values are the identity.
    """
    import torch
    from torch.nn import functional

    def multi_head(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        given = named_arguments(args, kwargs)
        asked = {**given, "need_weights": True, "average_attn_weights": False}
        output, weights = functional.multi_head_attention_forward(**asked)
        assert weights is not None
        maps.append(weights if weights.ndim == 3 else weights.flatten(0, 1))
        if not given["need_weights"]:
            return output, None
        return output, weights.mean(dim=-3) if given["average_attn_weights"] else weights

    def plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        call = plain_call(_innermost(), args, kwargs)
        one = torch.eye(call.key.shape[2], dtype=call.value.dtype, device=call.value.device)
        weights = functional.scaled_dot_product_attention(
            call.query,
            call.key,
            one.expand(*call.key.shape[:2], -1, -1),
            attn_mask=call.mask,
            is_causal=call.causal,
            scale=call.scale,
            enable_gqa=call.query.shape[1] != call.key.shape[1],
        )
        maps.append(weights.flatten(0, 1))

    token = _running.set([])
    try:
        with _mode(multi_head, plain):
            yield
    finally:
        _running.reset(token)


Handler = Callable[[Sequence[Any], Mapping[str, Any]], Any]


def _mode(multi_head: Handler, plain: Handler) -> torch.overrides.TorchFunctionMode:
    """Asks a handler first; where that gives None, the function runs as usual."""
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    handlers = {functional.multi_head_attention_forward: multi_head, functional.scaled_dot_product_attention: plain}

    class Watch(TorchFunctionMode):  # type: ignore[misc]  # torch does not type it
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            handler = handlers.get(func)
            answer = None if handler is None else handler(args, kwargs or {})
            return func(*args, **(kwargs or {})) if answer is None else answer

    return Watch()


def _innermost() -> torch.nn.Module:
    running = _running.get()
    if not running:
        raise ModelError("An attention function was called outside of the module that is watched.")
    return running[-1]
