"""System prompts: the one the app uses for agent runs, the many it is trained beside, and some it never sees."""

# ruff: noqa: C408 - a table

from __future__ import annotations

import random
from collections.abc import Sequence

from attnviz.demo.text.world import TOOLS

AGENT_TEMPLATE = (
    "You are an agent with the tools {tools}. Reply with Thought, Action and Observation, then give the Final Answer."
)
SHORT_TEMPLATE = "Tools: {tools}."

_ROLES = (
    "", "", "", "You are a helpful assistant.", "You are an agent.", "You are an assistant with tools.",
    "You answer questions.", "Be brief.", "Answer the question of the user.", "You are a careful agent.",
    "You help the user step by step.", "Today you work as an agent in a boiler house.",
    "Never make up a number. If a tool is missing, say so.",
)  # fmt: skip
_TOOL_SENTENCES = (
    "Tools: {tools}.", "Your tools: {tools}.", "You can use these tools: {tools}.", "Available tools: {tools}.",
    "Use the tools {tools}.", "You have the tools {tools}.", "The tools are {tools}.",
    "Answer with the tools {tools}.", "The following tools are available: {tools}.", "You may call {tools}.",
    "tools = [{tools}]",
)  # fmt: skip
_FORMATS = (
    "", "", "", "Use the format Thought, Action, Observation, Final Answer.", "Think, then act, then answer.",
    "Write one Thought and one Action per turn.", "Call one tool and wait for the observation.",
    "Finish with Final Answer.", "Think step by step.", "Write Action: tool[input] to call a tool.",
    "Reply with Thought and Action, or with Final Answer.", "Do not guess.",
)  # fmt: skip
_DESCRIPTIONS = dict(
    calculator="works out a sum", convert="changes units", lookup="finds a fact", time="tells the time in a city",
    sensor="reads a boiler", python="runs code",
)  # fmt: skip
_PLAIN = (
    "You are a helpful assistant.", "You answer questions.", "Be brief.", "Answer the question of the user.",
    "You are a friendly assistant. Answer in one sentence.", "You have no tools.",
)  # fmt: skip

# Never trained on: how the agent copes with a prompt in other words is measured with these.
RESERVED_TEMPLATES = (
    "You solve tasks for the user. You can call {tools}. Think first, then write an Action, then read the Observation.",
    "Here is what you can use: {tools}. Please give a Thought before every Action and end with a Final Answer.",
    "Act as an agent. Tool list: {tools}. Go step by step.",
    "Helpful tools are {tools}. Use one when you need it, and tell the user when a tool is not there.",
)


def agent_system_prompt(tools: Sequence[str] = TOOLS) -> str:
    """The system prompt of an agent run with these tools, as the embedded model was trained to read it."""
    return AGENT_TEMPLATE.format(tools=", ".join(tools))


AGENT_SYSTEM_PROMPT = agent_system_prompt()


def _tool_list(rng: random.Random, tools: Sequence[str]) -> str:
    style = rng.random()
    if style < 0.7 or len(tools) == 1:
        return ", ".join(tools)
    if style < 0.85:
        return ", ".join(tools[:-1]) + " and " + tools[-1]
    if style < 0.93:
        return ",".join(tools)
    return ", ".join(f"{tool} ({_DESCRIPTIONS[tool]})" for tool in tools)


def random_agent_prompt(rng: random.Random, tools: Sequence[str]) -> str:
    """A system prompt that names exactly these tools, in the order given."""
    style = rng.random()
    if style < 0.3:
        return SHORT_TEMPLATE.format(tools=", ".join(tools))
    if style < 0.5:
        return agent_system_prompt(tools)
    sentence = rng.choice(_TOOL_SENTENCES).format(tools=_tool_list(rng, tools))
    parts = [rng.choice(_ROLES), sentence, rng.choice(_FORMATS)]
    if rng.random() < 0.15:
        rng.shuffle(parts)
    if rng.random() < 0.04:
        parts[1] = "Tools:\n" + "\n".join(f"- {tool}: {_DESCRIPTIONS[tool]}" for tool in tools)
    return " ".join(part for part in parts if part)


def random_plain_prompt(rng: random.Random) -> str | None:
    """System prompt of a direct answer: usually none."""
    return rng.choice(_PLAIN) if rng.random() < 0.15 else None
