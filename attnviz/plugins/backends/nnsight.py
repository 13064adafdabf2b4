"""Backend "nnsight": the models of backend "hf", run inside nnsight traces, so that its edits show in the pictures.

nnsight is imported when the first model is loaded: importing it patches torch and mounts `save` on every object.
"""

from __future__ import annotations

import importlib.util

from attnviz.hooks import Backend, Model, ModelError, ModelSpec, hookimpl
from attnviz.plugins.backends import hf

if importlib.util.find_spec("nnsight") is None:
    raise ModuleNotFoundError("No module named 'nnsight'", name="nnsight")


@hookimpl
def attnviz_backends() -> list[Backend]:
    """The one backend of this file."""
    summary = "the same models run by nnsight: what is edited with nnsight shows in the pictures"
    return [Backend(name="nnsight", summary=summary, handles=handles, load=load, rank=30)]


def handles(spec: ModelSpec) -> str | None:
    """None if this backend can load `spec`, else why not. Reads no weights and imports no framework."""
    if spec.device == "ndif":
        return "attnviz does not run models on NDIF; it has nnsight run them on this machine (device cpu, cuda, mps)"
    return hf.handles(spec)


def load(spec: ModelSpec) -> Model:
    """Loads and checks the model as backend "hf" does, then puts it under nnsight.

    Raises:
        ModelError: files that are missing, broken or incomplete.
        BadInput: an unknown or absent device or data type.
    """
    reason = handles(spec)
    if reason is not None:
        raise ModelError(f"Cannot load the model: {reason}.")
    from attnviz.plugins.backends.nnsight_model import load as load_nnsight

    return load_nnsight(spec)
