"""Backend "hf": every text model that transformers reads from a folder, from the hub, or from memory."""

from __future__ import annotations

import importlib.util

from attnviz.hooks import Backend, Model, ModelSpec, hookimpl


@hookimpl
def attnviz_backends() -> list[Backend]:
    """The one backend of this file."""
    summary = "transformers models: a local folder, a hub id, or a (module, tokenizer) pair"
    return [Backend(name="hf", summary=summary, handles=handles, load=load, weights_digest=weights_digest, rank=10)]


def handles(spec: ModelSpec) -> str | None:
    """None if this backend can load `spec`, else why not. Reads no weights and imports no framework."""
    if spec.device == "ndif":
        return "the device ndif belongs to backend nnsight"
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed: pip install {package}"
    from attnviz.plugins.backends.loading import not_loadable

    return not_loadable(spec)


def weights_digest(spec: ModelSpec) -> str | None:
    """Digest of the weights of a local folder, as on the card of the loaded model; None for anything else."""
    from attnviz.plugins.backends.loading import weights_digest as digest

    return digest(spec)


def load(spec: ModelSpec) -> Model:
    """Loads and checks the model.

    Raises:
        ModelError: files that are missing, broken or incomplete.
        BadInput: an unknown or absent device or data type.
    """
    from attnviz.plugins.backends.hf_model import load as load_hugging_face
    from attnviz.plugins.backends.sound_model import hearing
    from attnviz.plugins.backends.spread import one_at_a_time

    return hearing(one_at_a_time(load_hugging_face(spec)))
