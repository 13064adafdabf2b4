"""attnviz: see how a transformer came to its answer.

    import attnviz
    model = attnviz.load("demo")
    run = model.trace("What is 25 * 37?")
    run.attention(layer=2, head=3)            # float32 numpy [query, key]
    run.analyze("logit_lens", top_k=5).save("lens.html")

Importing this package loads neither torch nor gradio.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnviz.session import LoadedModel, Session

__all__ = ["default_session", "load"]


@lru_cache(maxsize=1)
def default_session() -> Session:
    """The session behind `attnviz.load`, over all plugins that are found; made on first use."""
    from attnviz.registry import load_registry
    from attnviz.session import Session

    return Session(load_registry())


def load(source: Any = "demo", **options: Any) -> LoadedModel:
    """Load a model: "demo", a hub id, a folder, or a (module, tokenizer) pair.

    Options: backend ("auto", "hf"), revision, dtype ("auto", "float32" …), device ("auto", "cpu", "cuda" …).

    Raises:
        attnviz.errors.AttnvizError: nothing can load it; the message says why.
    """
    return default_session().load(source, **options)
