"""Backend "nnsight": the models of backend "hf", run inside nnsight traces, so that its edits show in the pictures.

With device "ndif" the trace runs on NDIF, a service that holds large models, and no weights are loaded here.

nnsight is imported when the first model is loaded: importing it patches torch and mounts `save` on every object.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from attnviz.hooks import Backend, Model, ModelError, ModelSpec, hookimpl
from attnviz.plugins.backends import hf
from attnviz.plugins.backends.placement import SPREAD

if importlib.util.find_spec("nnsight") is None:
    raise ModuleNotFoundError("No module named 'nnsight'", name="nnsight")


@hookimpl
def attnviz_backends() -> list[Backend]:
    """The one backend of this file."""
    summary = "the same models run by nnsight, so that its edits show; hub models on NDIF with device ndif"
    return [Backend(name="nnsight", summary=summary, handles=handles, load=load, rank=30)]


def handles(spec: ModelSpec) -> str | None:
    """None if this backend can load `spec`, else why not. Reads no weights and imports no framework."""
    if spec.device == SPREAD:
        return "a model that accelerate has spread cannot be traced by nnsight"
    return _not_on_ndif(spec) if spec.device == "ndif" else hf.handles(spec)


def _not_on_ndif(spec: ModelSpec) -> str | None:
    """Why NDIF cannot run it, or None."""
    expected = "NDIF runs models of the Hugging Face hub: expected a hub id"
    if spec.objects is not None:
        return f"{expected}, got a model in memory"
    reason = hf.handles(replace(spec, device="auto"))
    if reason is None and Path(spec.source).expanduser().exists():
        return f"{expected}, got the folder {spec.source}"
    return reason


def load(spec: ModelSpec) -> Model:
    """Loads and checks the model as backend "hf" does, then puts it under nnsight; or has NDIF run it.

    Raises:
        ModelError: files that are missing, broken or incomplete; no key for NDIF.
        BadInput: an unknown or absent device or data type.
    """
    reason = handles(spec)
    if reason is not None:
        raise ModelError(f"Cannot load the model: {reason}.")
    if spec.device == "ndif":
        from attnviz.plugins.backends.ndif_model import load as load_from_ndif

        return load_from_ndif(spec)
    from attnviz.plugins.backends.nnsight_model import load as load_nnsight

    return load_nnsight(spec)
