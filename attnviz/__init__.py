"""attnviz: see how a transformer came to its answer.

    import attnviz
    model = attnviz.load("demo")
    run = model.trace("What is 25 * 37?")
    run.attention(layer=2, head=3)            # float32 numpy [query, key]
    run.analyze("logit_lens", top_k=5).save("lens.html")

Importing this package loads neither torch nor gradio.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnviz.model_card import Description
    from attnviz.session import LoadedModel, Session

__all__ = ["default_session", "describe", "load"]


@lru_cache(maxsize=1)
def default_session() -> Session:
    """The session behind `attnviz.load`, over all plugins that are found; made on first use."""
    from attnviz.registry import load_registry
    from attnviz.session import Session

    return Session(load_registry())


def load(source: Any = "demo", **options: Any) -> LoadedModel:
    """Load a model: "demo", a hub id, a folder, a (module, tokenizer) pair, or a torch module that reads numbers.

    Options: backend ("auto", "hf"), revision, dtype ("auto", "float32" …), device ("auto", "cpu", "cuda" …).

    Raises:
        attnviz.errors.AttnvizError: nothing can load it; the message says why.
    """
    return default_session().load(source, **options)


def describe(model: LoadedModel, tokens: Iterable[int] = (128, 1024, 4096)) -> Description:
    """What is known of a loaded model before any run: print it, or take its fields.

    Args:
        tokens: lengths of the runs whose memory and time are estimated.

    Raises:
        attnviz.errors.BadInput: a length that is no whole number from 1.
    """
    from attnviz.model_card import describe

    return describe(model, tokens)
