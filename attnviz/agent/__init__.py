"""Agents: a model that answers with tools, step by step; see docs/agent.md.

from attnviz.agent import run_agent

done = run_agent(model, "What is 25 * 37?")
done.answer, done.steps, done.run.analyze("attention_stats")
"""

from attnviz.agent.choosing import ALLOWED, is_public, withheld
from attnviz.agent.loop import MAX_STEPS, NEW_TOKENS, AgentRun, run_agent
from attnviz.agent.with_and_without import ToolComparison, compare_tools

__all__ = [
    "ALLOWED",
    "MAX_STEPS",
    "NEW_TOKENS",
    "AgentRun",
    "ToolComparison",
    "compare_tools",
    "is_public",
    "run_agent",
    "withheld",
]
