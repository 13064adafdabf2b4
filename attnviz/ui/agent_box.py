"""The part of the left column that makes an answer an agent's: whether it may use tools, which, and how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from attnviz.agent import MAX_STEPS, NEW_TOKENS, withheld
from attnviz.hooks import ModelEntry
from attnviz.registry import Registry


@dataclass
class AgentBox:
    """The components, in the order in which `attnviz.ui.wish.asked` takes them."""

    acts: gr.Checkbox
    tools: gr.CheckboxGroup
    max_steps: gr.Number
    turn_length: gr.Number

    @property
    def asked(self) -> list[Any]:
        return [self.acts, self.tools, self.max_steps, self.turn_length]


def build_agent_box(registry: Registry, entry: ModelEntry | None, plain: Sequence[Any]) -> AgentBox:
    """Lay out the part inside the open Blocks. `plain`: what is of an answer without tools, and hidden with them."""
    acts = gr.Checkbox(label="Answer with tools", value=False, elem_id="app-agent", container=False)
    with gr.Column(scale=0, min_width=0, visible=False, elem_classes="app-acting") as acting:
        offered = [tool.name for tool in registry.tools.values() if withheld(tool) is None]
        tools = gr.CheckboxGroup(
            offered,
            value=usual_tools(registry, entry),
            label="Tools",
            info=not_offered(registry) or None,
            elem_id="app-tools",
        )
        with gr.Row():
            max_steps = gr.Number(
                MAX_STEPS, label="Most turns", precision=0, minimum=1, min_width=60, elem_id="app-steps"
            )
            turn_length = gr.Number(
                NEW_TOKENS, label="Tokens of a turn", precision=0, minimum=1, min_width=60, elem_id="app-turn-length"
            )
    acts.change(
        lambda on: [gr.update(visible=on), *(gr.update(visible=not on) for _ in plain)],
        acts,
        [acting, *plain],
        show_progress="hidden",
        api_visibility="private",
        queue=False,
    )
    return AgentBox(acts, tools, max_steps, turn_length)


def usual_tools(registry: Registry, entry: ModelEntry | None) -> list[str]:
    """Those that the model was trained with, else all that are offered here."""
    trained = entry.tools if entry is not None else ()
    return [t.name for t in registry.tools.values() if withheld(t) is None and (not trained or t.name in trained)]


def not_offered(registry: Registry) -> str:
    """Which tools are not there to be ticked, and why."""
    return " ".join(reason for tool in registry.tools.values() if (reason := withheld(tool)))
