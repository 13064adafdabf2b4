"""Backend "arrays": models that read numbers. Vision transformers, time series, and plain modules of PyTorch."""

from __future__ import annotations

import importlib.util

from attnviz.hooks import Backend, Model, ModelSpec, hookimpl
from attnviz.plugins.backends.number_models import (
    PICTURES,
    SENSORS,
    SERIES,
    UNREADABLE,
    is_module,
    is_transformers,
    model_type,
)


@hookimpl
def attnviz_backends() -> list[Backend]:
    """The one backend of this file."""
    summary = "models that read numbers: vision and time series of transformers, or any torch module, without tokenizer"
    return [Backend(name="arrays", summary=summary, handles=handles, load=load, weights_digest=weights_digest, rank=30)]


def handles(spec: ModelSpec) -> str | None:
    """None if this backend can load `spec`, else why not. Reads no weights and imports no framework."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install torch"
    return _not_a_module(spec) if spec.objects is not None else _not_a_folder(spec)


def _not_a_module(spec: ModelSpec) -> str | None:
    assert spec.objects is not None
    if len(spec.objects) != 2 or not is_module(spec.objects[0]):
        return f"expected a torch module, alone or beside an example, got {type(spec.objects[0]).__name__}"
    module, beside = spec.objects
    if hasattr(beside, "convert_ids_to_tokens"):
        return "it reads numbers, and a tokenizer was given"
    if not is_transformers(module):
        return None
    return _unknown(spec, type(module).__name__)


def _not_a_folder(spec: ModelSpec) -> str | None:
    if model_type(spec) is not None:
        return _unknown(spec, spec.source)
    from attnviz.plugins.backends.loading import not_loadable

    reason = not_loadable(spec)
    if reason is not None or spec.backend == "arrays":
        return reason  # asked for by name, it takes a hub id of which nothing is known yet
    return "of a hub id it is not known whether it reads numbers: name this backend if it does"


def _unknown(spec: ModelSpec, name: str) -> str | None:
    """Why a model of transformers is none for this backend, or None."""
    kind = model_type(spec)
    if kind in (*PICTURES, *SERIES, SENSORS):
        return None
    if kind in UNREADABLE:
        return f"{name} ({kind}) cannot be shown: {UNREADABLE[kind]}"
    return f"{name} ({kind}) is none of the models that it knows to read numbers: {', '.join((*PICTURES, *SERIES))}"


def weights_digest(spec: ModelSpec) -> str | None:
    """Digest of the weights of a local folder, as on the card of the loaded model; None for anything else."""
    from attnviz.plugins.backends.loading import weights_digest as digest

    return digest(spec)


def load(spec: ModelSpec) -> Model:
    """Loads and checks the model.

    Raises:
        ModelError: files that are missing or broken, or a module that gives no attention.
        BadInput: an unknown or absent device or data type.
    """
    from attnviz.plugins.backends.arrays_model import load as load_model

    return load_model(spec)
