"""The plugin API: everything a plugin imports from attnviz is here.

    from attnviz.hooks import Analysis, HeadScores, hookimpl

    @hookimpl
    def attnviz_analyses():
        return [Analysis(name="…", title="…", group="…", summary="…", run=run, produces=HeadScores)]

Built-in plugins use nothing else.
"""

from attnviz.errors import (
    AttnvizError,
    BadInput,
    ModelError,
    PluginError,
    ShapeError,
    Unavailable,
    UnknownName,
)
from attnviz.hooks.contracts import AnalysisRequest, Estimating, Message, Model
from attnviz.hooks.descriptors import (
    CAPABILITIES,
    Analysis,
    Backend,
    Format,
    ModelEntry,
    Param,
    Renderer,
    Tool,
)
from attnviz.hooks.markers import PROJECT, hookimpl, hookspec
from attnviz.tokens import TokenLabels, continue_tokens, show_bytes, tokenize_messages, tokenize_text
from attnviz.types import (
    AttentionPattern,
    Bools,
    Estimate,
    Finding,
    Floats,
    HeadScores,
    Ints,
    LayerCapture,
    LayerCard,
    LensTable,
    ModelCard,
    ModelSpec,
    Result,
    Run,
    Sampling,
    Segment,
    SelfCheck,
    Table,
    TokenMatrix,
    Tokens,
    TokenScores,
    Trace,
    View,
    Want,
    from_jsonable,
    to_jsonable,
)

__all__ = [
    "CAPABILITIES",
    "PROJECT",
    "Analysis",
    "AnalysisRequest",
    "AttentionPattern",
    "AttnvizError",
    "Backend",
    "BadInput",
    "Bools",
    "Estimate",
    "Estimating",
    "Finding",
    "Floats",
    "Format",
    "HeadScores",
    "Ints",
    "LayerCapture",
    "LayerCard",
    "LensTable",
    "Message",
    "Model",
    "ModelCard",
    "ModelEntry",
    "ModelError",
    "ModelSpec",
    "Param",
    "PluginError",
    "Renderer",
    "Result",
    "Run",
    "Sampling",
    "Segment",
    "SelfCheck",
    "ShapeError",
    "Table",
    "TokenLabels",
    "TokenMatrix",
    "TokenScores",
    "Tokens",
    "Tool",
    "Trace",
    "Unavailable",
    "UnknownName",
    "View",
    "Want",
    "continue_tokens",
    "from_jsonable",
    "hookimpl",
    "hookspec",
    "show_bytes",
    "to_jsonable",
    "tokenize_messages",
    "tokenize_text",
]
