"""A transformers model whose forward passes and generations run inside nnsight traces.

Fiotto-Kaufman et al. 2024, "NNsight and NDIF". Everything measured comes from the same code as in backend "hf"; a trace
adds what was put on the model with nnsight: its edits are part of every pass.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from attnviz.hooks import LensTable, ModelError, ModelSpec, Tokens
from attnviz.plugins.backends import hf_model
from attnviz.plugins.backends.forward import Runner
from attnviz.plugins.backends.hf_model import HuggingFaceModel
from attnviz.plugins.backends.loading import Loaded, quiet
from attnviz.plugins.backends.placement import is_spread
from attnviz.plugins.backends.sound import Sound

if TYPE_CHECKING:
    import torch

# importing nnsight gives every object an attribute `save`, and anyio refuses to make certain classes with an attribute
# that has no annotation: unless they are made before, no web request is answered any more
_BEFORE_NNSIGHT = ("anyio.abc", "anyio.streams.file", "anyio.streams.tls", "anyio._backends._asyncio")


def import_nnsight() -> ModuleType:
    """The only place that imports nnsight."""
    for name in _BEFORE_NNSIGHT if "nnsight" not in sys.modules else ():
        with contextlib.suppress(ModuleNotFoundError):  # nothing to protect where anyio is not installed
            importlib.import_module(name)
    return importlib.import_module("nnsight")


def load(spec: ModelSpec) -> NNsightModel:
    """Loads, looks at and checks a model, then wraps it. See loading.load_model for errors."""
    plain = hf_model.load(spec)
    if is_spread(plain.loaded.module):
        raise ModelError(f"{spec.source}: nnsight cannot trace a model that accelerate has spread: use backend hf.")
    if Sound.of(plain.loaded.module) is not None:
        raise ModelError(f'{plain.card.name} hears, and nnsight runs models on text: use backend "hf".')
    note = "runs inside nnsight traces, one at a time"
    card = replace(plain.card, notes=(*plain.card.notes, note))
    _take_gradients(plain.loaded.module)
    envoy = _wrap(plain.loaded)
    parts = (plain.loaded, plain.route, plain.readout, plain.labels)
    return NNsightModel(card, *parts, envoy, gradients=plain.gradients, pace=plain.pace)


def _take_gradients(module: torch.nn.Module) -> None:
    """Parameters take gradients again: traces of a user's own start from inner states, which need no input then."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)


def _wrap(loaded: Loaded) -> TracedRunner:
    nnsight = import_nnsight()
    generates = loaded.module.can_generate()
    with quiet():  # nnsight warns of modules called `output`; nothing here finds a module by its name
        envoy = nnsight.TransformersModel(
            loaded.module,
            tokenizer=copy.deepcopy(loaded.tokenizer),  # it sets padding on its own
            task="text-generation" if generates else "feature-extraction",
        )
    return TracedRunner(envoy, loaded.module, nnsight.save)


@dataclass(frozen=True)
class NNsightModel(HuggingFaceModel):
    """As HuggingFaceModel, with every pass inside a trace of `envoy`."""

    traced: TracedRunner

    @property
    def runner(self) -> Runner:
        return self.traced

    @property
    def envoy(self) -> Any:
        """The nnsight model, for edits and traces of your own.

        Edit it (`with model.envoy.edit(inplace=True)`) before the first run: results of a run are computed once.
        """
        return self.traced.envoy

    def lens(
        self, tokens: Tokens, *, positions: Sequence[int], top_k: int, targets: Sequence[int], sites: str
    ) -> LensTable:
        with self.alone():  # it also calls the norm and the unembedding, which a trace of another thread would hear
            return super().lens(tokens, positions=positions, top_k=top_k, targets=targets, sites=sites)

    def unembed(self, states: Any) -> Any:
        with self.alone():
            return super().unembed(states)

    def alone(self) -> AbstractContextManager[None]:
        """Keeps the model's other calls waiting while a trace of your own runs."""
        return self.traced.alone()


def _given(inputs: dict[str, Any]) -> dict[str, Any]:
    """What nnsight is told of the input: ids, or embeddings in their place."""
    return {name: inputs[name] for name in ("input_ids", "inputs_embeds") if name in inputs}


class TracedRunner:
    """Runs the module in traces, one at a time: an nnsight model serves a single trace."""

    def __init__(self, envoy: Any, module: Any, save: Callable[[Any], Any]) -> None:
        self.envoy = envoy
        self.module = module
        self.save = save
        self.lock = threading.RLock()

    def __call__(self, **inputs: Any) -> Any:
        return self._trace(self.module, inputs)

    def generate(self, **inputs: Any) -> Any:
        return self._trace(self.module.generate, inputs)

    def _trace(self, call: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        save = self.save

        def run(**assembled: Any) -> Any:
            return call(**inputs)  # exactly these: nnsight adds a mask where there is none

        with self.alone(), self.envoy.trace(**_given(inputs), fn=run) as tracer:
            result = save(tracer.result)
        return result  # noqa: RET504  nnsight runs the body of the `with`: it cannot return

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Waits for other threads.

        Raises:
            ModelError: this thread is inside a trace already (a listener of a generation that starts a run).
        """
        with self.lock:
            if self.envoy.interleaver.interleaving:
                raise ModelError(
                    "This model is in the middle of an nnsight trace: start the next run when it has ended."
                )
            yield
