"""The rules of layer-wise relevance propagation, put under a forward pass as its gradient.

Bach et al. 2015 ("On Pixel-Wise Explanations …"); for transformers Ali et al. 2022 ("XAI for Transformers: Better
Explanations through Conservative Propagation"), gates and activations as in Achtibat et al. 2024 ("AttnLRP"). With
these rules the relevance of a tensor is the tensor times its gradient, and a pass is a linear map of what goes in:

    softmax, sigmoid, tanh, erf    constants: they say how much passes on, not what (attention weights, routers, gates)
    rsqrt, sqrt, and the scale of layer_norm and rms_norm    constants
    relu, silu, gelu, clamp, and the soft-cap of logits    output / input, a constant
    a · b of two signals           half of the relevance to each
    queries and keys of scaled_dot_product_attention    constants, so that its weights are

Everything else keeps its gradient, but for exp, log and softplus (state-space models), which are refused: there is no
rule for them, and what they lose can be little.

The rules hold for operations, not for modules: a TorchFunctionMode changes what the running thread's operations hand
back in a backward pass, and leaves their results as they are. Nothing is set in a module. Whether the rules were enough
is seen by adding up (see PropagatesRelevance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from attnviz.hooks import Unavailable
from attnviz.plugins.backends.forward import at_least_float32
from attnviz.plugins.backends.readout import soft_capped

if TYPE_CHECKING:
    import torch

Rule = Callable[..., Any]


@contextmanager
def relevance_rules() -> Iterator[list[Any]]:
    """See PropagatesRelevance."""
    from torch.overrides import TorchFunctionMode

    constants: list[torch.Tensor] = []
    rules = _rules(constants)

    class Following(TorchFunctionMode):  # type: ignore[misc]  # torch does not type it
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            if not _any_signal((*args, *given.values())):
                return _without_gradient(func, func(*args, **given))
            rule: Rule = rules.get(func, _as_it_is)
            return rule(func, *args, **given)

    with Following():
        yield constants


def _as_it_is(func: Rule, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _any_signal(values: Sequence[Any]) -> bool:
    return any(_any_signal(value) if isinstance(value, (tuple, list)) else _is_signal(value) for value in values)


def _is_signal(value: Any) -> bool:
    """Whether it comes from the embeddings: what else takes a gradient is a parameter, or cut off from one."""
    import torch

    return isinstance(value, torch.Tensor) and value.requires_grad and not isinstance(value, torch.nn.Parameter)


def _without_gradient(func: Rule, found: Any) -> Any:
    """What was made of parameters that take gradients, as a constant; not what is made to take one."""
    import torch

    return found.detach() if _is_signal(found) and func is not torch.Tensor.requires_grad_ else found


def _going_back_through(path: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` as it is, with the gradient of `path`: what is added is exactly 0."""
    exact = path.to(value.dtype)
    return value.detach() + (exact - exact.detach())


def _rules(constants: list[torch.Tensor]) -> dict[Any, Rule]:
    """Operation -> what runs in its place, where a signal goes in. `constants` takes what is added on the way."""
    import torch
    from torch.nn import functional

    def constant(func: Rule, *args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs).detach()

    def ratio(func: Rule, signal: Any, *args: Any, **kwargs: Any) -> Any:
        value = func(signal.detach().clone(), *args, **kwargs)  # of a copy: some write over what they are given
        return _going_back_through(signal * _divided(value, signal.detach()), value)

    def product(func: Rule, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        if not (_is_signal(a) and _is_signal(b)):
            return func(a, b, *args, **kwargs)
        path = (a * b.detach() + a.detach() * b) / 2
        return _going_back_through(path, func(a.detach().clone(), b.detach(), *args, **kwargs))

    def total(func: Rule, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        return func(noted(a, b), noted(b, a), *args, **kwargs)

    def total_in_place(func: Rule, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        return func(a, noted(b, a), *args, **kwargs)

    def noted(value: Any, signal: torch.Tensor) -> Any:
        """A constant that is added to a signal, as a tensor that a gradient can be taken of."""
        if isinstance(value, (int, float)) and value != 0:
            exact = torch.float64 if signal.dtype == torch.float64 else torch.float32
            value = torch.tensor(float(value), dtype=exact)
        if not isinstance(value, torch.Tensor) or _is_signal(value) or not value.is_floating_point():
            return value
        constants.append(value.detach().requires_grad_())
        return constants[-1]

    def linear(func: Rule, signal: Any, weight: Any, bias: Any = None) -> Any:
        return func(signal, weight, noted(bias, signal))

    def added_product(func: Rule, start: Any, *factors: Any, **kwargs: Any) -> Any:
        return func(noted(start, start), *factors, **kwargs)

    def layer_norm(
        func: Rule, signal: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
    ) -> Any:
        axes = tuple(range(-len(shape), 0))
        exact = at_least_float32(signal)
        path = exact - exact.mean(axes, keepdim=True)
        path = path * torch.rsqrt(path.detach().pow(2).mean(axes, keepdim=True) + eps)
        path = path if weight is None else path * weight.detach()
        path = path if bias is None else path + noted(bias, signal)
        return _going_back_through(path, func(signal.detach(), shape, weight, bias, eps, *rest))

    def rms_norm(func: Rule, signal: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
        axes = tuple(range(-len(shape), 0))
        exact = at_least_float32(signal)
        least = torch.finfo(signal.dtype).eps if eps is None else eps
        path = exact * torch.rsqrt(exact.detach().pow(2).mean(axes, keepdim=True) + least)
        path = path if weight is None else path * weight.detach()
        return _going_back_through(path, func(signal.detach(), shape, weight, eps))

    def unknown(func: Rule, *args: Any, **kwargs: Any) -> Any:
        raise Unavailable(
            f"Relevance cannot be passed back through this model: it computes with {func.__name__}, for which CP-LRP "
            "has no rule. Choose another method."
        )

    def attention(func: Rule, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        return func(query.detach(), key.detach(), value, *args, **kwargs)

    tensor = torch.Tensor
    table: dict[Rule, tuple[Any, ...]] = {
        constant: (
            *(torch.softmax, tensor.softmax, functional.softmax, torch.sigmoid, tensor.sigmoid, functional.sigmoid),
            *(torch.tanh, tensor.tanh, functional.tanh, torch.erf, tensor.erf),
            *(torch.rsqrt, tensor.rsqrt, torch.sqrt, tensor.sqrt),
        ),
        ratio: (
            *(functional.relu, torch.relu, tensor.relu, functional.silu, functional.gelu),
            *(torch.clamp, tensor.clamp, soft_capped),
        ),
        product: (torch.mul, tensor.mul, tensor.__mul__, tensor.__rmul__, tensor.__imul__),
        total: (
            *(torch.add, tensor.add, tensor.__add__, tensor.__radd__),
            *(torch.sub, tensor.sub, tensor.__sub__, tensor.__rsub__),
        ),
        total_in_place: (tensor.__iadd__, tensor.add_, tensor.__isub__, tensor.sub_),
        linear: (functional.linear,),
        added_product: (torch.addmm, torch.baddbmm, tensor.baddbmm),
        layer_norm: (functional.layer_norm, torch.layer_norm),
        rms_norm: (functional.rms_norm, torch.rms_norm),
        attention: (functional.scaled_dot_product_attention,),
        unknown: (torch.exp, tensor.exp, torch.log, tensor.log, functional.softplus),
    }
    return {operation: rule for rule, operations in table.items() for operation in operations}


def _divided(value: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """value / by, and 0 where there is nothing to divide by."""
    import torch

    return torch.where(by == 0, 0, value / torch.where(by == 0, 1, by))
