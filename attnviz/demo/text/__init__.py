"""Text of the embedded language model: a small closed world, its problems, and how they are put into words.

Pure standard library: importing this loads neither torch nor transformers.
"""

from attnviz.demo.text.examples import EXAMPLES, Example
from attnviz.demo.text.problem import Problem, Step
from attnviz.demo.text.prompts import AGENT_SYSTEM_PROMPT, agent_system_prompt
from attnviz.demo.text.stream import STOP, Document, Piece, draw, draw_held_out

__all__ = [
    "AGENT_SYSTEM_PROMPT",
    "EXAMPLES",
    "STOP",
    "Document",
    "Example",
    "Piece",
    "Problem",
    "Step",
    "agent_system_prompt",
    "draw",
    "draw_held_out",
]
