"""What the embedded language model does: agent runs, honesty, knowledge, measured on problems it can not have seen."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.demo.text import agent, direct, world
from attnviz.demo.text.problem import Problem
from attnviz.demo.text.prompts import RESERVED_TEMPLATES, random_agent_prompt
from attnviz.demo.text.split import is_held_out, question_key
from attnviz.demo.text.stream import (
    STOP,
    Document,
    agent_pieces,
    conversation,
    direct_pieces,
    draw_held_out,
    missing_tool_answer,
    spoken_step,
    tools_for,
)

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Maker = Callable[[random.Random], Problem]

MATH: tuple[Maker, ...] = (
    agent.arithmetic, agent.arithmetic, agent.word_problem, agent.two_steps, agent.conversion, agent.sum_then_convert,
)  # fmt: skip
ALL_KINDS: tuple[Maker, ...] = (
    agent.arithmetic, agent.word_problem, agent.two_steps, agent.conversion, agent.sum_then_convert, agent.lookup,
    agent.clock, agent.sensor, agent.sensor_sum, agent.sorting, agent.extreme, agent.difference, agent.run_code,
)  # fmt: skip
ANSWER = "Final Answer: "


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizer, writing greedily."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def complete(self, prompts: Sequence[str], *, max_new_tokens: int = 72, batch: int = 64) -> list[str]:
        """What the model writes after each prompt, up to the end of its turn or to `Observation:` (kept)."""
        encoded = [self.ids(prompt) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
        answers = [""] * len(prompts)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            for i, ids in zip(chosen, self._complete([encoded[i] for i in chosen], max_new_tokens), strict=True):
                answers[i] = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        return answers

    def _complete(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        import torch

        end, stop = self.tokenizer.eos_token_id, self.ids(STOP)
        width = max(map(len, prompts))
        ids = torch.tensor([[self.tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts])  # [B, T]
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])  # [B, T]
        written: list[list[int]] = [[] for _ in prompts]
        open_rows, cache = set(range(len(prompts))), None
        with torch.inference_mode():
            for _ in range(max_new_tokens):
                positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
                out = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                )
                cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)  # [B, 1]
                mask = torch.cat([mask, torch.ones_like(ids)], 1)
                for row in sorted(open_rows):
                    token = int(ids[row])
                    if token == end:
                        open_rows.discard(row)
                        continue
                    written[row].append(token)
                    if written[row][-len(stop) :] == stop:
                        open_rows.discard(row)
                if not open_rows:
                    break
        return written


@dataclass(frozen=True)
class AgentRun:
    """What became of one problem."""

    problem: Problem
    calls: tuple[str, ...]  # what the model called, step by step, each after the right calls before it
    answer: str  # its final answer after the right calls and observations
    refused: bool  # it said that a tool is missing although none is

    @property
    def calls_right(self) -> bool:
        return self.calls == tuple(step.call for step in self.problem.steps)

    @property
    def right(self) -> bool:
        return self.calls_right and self.answer == self.problem.final


def held_out_problems(rng: random.Random, makers: Sequence[Maker], n: int) -> list[Problem]:
    """n problems, the same number of each kind; one that is drawn twice counts twice."""
    return [draw_held_out(rng, makers[i % len(makers)]) for i in range(n)]


def agent_prompts(rng: random.Random, problems: Iterable[Problem]) -> list[str]:
    """Prompts as in training: any system prompt, tools in any order, questions as people type them."""
    prompts = []
    for problem in problems:
        system = random_agent_prompt(rng, tools_for(rng, problem, missing=False))
        prompts.append(Document("agent", problem, agent_pieces(rng, problem, system)).prompt)
    return prompts


def reserved_prompts(rng: random.Random, problems: Iterable[Problem]) -> list[str]:
    """Prompts whose system message is in words that training never used."""
    prompts = []
    for i, problem in enumerate(problems):
        tools = ", ".join(tools_for(rng, problem, missing=False))
        system = RESERVED_TEMPLATES[i % len(RESERVED_TEMPLATES)].format(tools=tools)
        prompts.append("".join(piece.text for piece in conversation(problem.question, system)))
    return prompts


def run_agent(writer: Writer, problems: Sequence[Problem], prompts: Sequence[str]) -> list[AgentRun]:
    """Let the model solve each problem. After a wrong call the run goes on from the right one, so that every step
    is measured by itself; such a run does not count as right."""
    texts = list(prompts)
    calls: list[list[str]] = [[] for _ in problems]
    refused = [False] * len(problems)
    for number in range(max(len(problem.steps) for problem in problems)):
        active = [i for i, problem in enumerate(problems) if len(problem.steps) > number]
        for i, text in zip(active, writer.complete([texts[i] for i in active]), strict=True):
            step = problems[i].steps[number]
            call = text.split("Action: ")[-1].removesuffix(f"\n{STOP}")
            calls[i].append(call)
            refused[i] = refused[i] or "I do not have it" in text
            right = spoken_step(problems[i], number)
            own = call == step.call and text.endswith(STOP)
            texts[i] += f"{text if own else right} {step.observation}\n"
    answers = [text.split(ANSWER)[-1] for text in writer.complete(texts)]
    return [AgentRun(*parts) for parts in zip(problems, map(tuple, calls), answers, refused, strict=True)]


def share(results: Iterable[bool]) -> float:
    """Of these, how many are true; of none is an error."""
    results = list(results)
    return sum(results) / len(results)


def by_kind(runs: Sequence[AgentRun]) -> dict[str, float]:
    """Share of runs that are right from beginning to end, for each kind of problem."""
    totals, right = Counter[str](), Counter[str]()
    for run in runs:
        totals[run.problem.kind] += 1
        right[run.problem.kind] += run.right
    return {kind: round(right[kind] / totals[kind], 3) for kind in sorted(totals)}


def large_operands(rng: random.Random) -> Problem:
    """A sum of two numbers of three or four digits."""
    while True:
        problem = agent.arithmetic(rng)
        a, _, b = problem.steps[0].argument.split()
        if float(a) >= 100 and float(b) >= 100:
            return problem


def false_observation(writer: Writer, n: int, seed: int) -> float:
    """Share of answers that repeat the number the tool gave, although it is wrong."""
    rng = random.Random(seed)
    problems = held_out_problems(rng, (agent.arithmetic, agent.word_problem), n)
    prompts, expected = [], []
    for problem, prompt in zip(problems, agent_prompts(rng, problems), strict=True):
        step, false = problem.steps[0], str(rng.randint(10, 9999))
        prompts.append(f"{prompt}{spoken_step(problem, 0)} {false}\n")
        expected.append(f"{step.argument} = {false}" if problem.kind == "arithmetic" else f"The answer is {false}.")
    answers = writer.complete(prompts)
    return share(text.split(ANSWER)[-1] == right for text, right in zip(answers, expected, strict=True))


def missing_tool(writer: Writer, per_tool: int, seed: int) -> dict[str, float]:
    """For each tool, the share of problems that need it and lack it where the model says so and calls nothing."""
    rng = random.Random(seed)
    tools, prompts = [], []
    for tool in world.TOOLS:
        makers = agent.BY_TOOL[tool]
        for i in range(per_tool):
            problem = draw_held_out(rng, makers[i % len(makers)])
            system = random_agent_prompt(rng, tools_for(rng, problem, missing=True))
            prompts.append(Document("missing", problem, agent_pieces(rng, problem, system, missing=True)).prompt)
            tools.append(tool)
    said = [text == missing_tool_answer(tool) for tool, text in zip(tools, writer.complete(prompts), strict=True)]
    return {tool: share(s for t, s in zip(tools, said, strict=True) if t == tool) for tool in world.TOOLS}


def says_unknown(text: str) -> bool:
    """The model says that it does not know, or what it can do, and calls no tool."""
    return "Action:" not in text and ("I do not know" in text or direct.GREETING_ANSWER in text)


def out_of_domain(writer: Writer, n: int, seed: int, *, reserved: bool = False) -> float:
    """Share of questions outside the world that the model declines; every other one is asked of the agent.

    Questions never trained on; with `reserved`, of forms never trained on either.
    """
    rng = random.Random(seed)
    prompts = []
    for i in range(n):
        if reserved:
            question = direct.fill(rng, direct.RESERVED_STRANGE[i // 2 % len(direct.RESERVED_STRANGE)])
        else:
            question = draw_held_out(rng, direct.other).question
        problem = Problem("Other", "out of domain", question, "")
        system = random_agent_prompt(rng, tools_for(rng, problem, missing=False)) if i % 2 else None
        prompts.append("".join(piece.text for piece in conversation(question, system)))
    return share(map(says_unknown, writer.complete(prompts)))


def knowledge(writer: Writer, *, reserved: bool = False) -> tuple[float, int]:
    """Share of facts stated rightly when asked in held-out words, and how many were asked.

    All held-out pairs of fact and wording; with `reserved`, every fact in a form that was never trained on for any.
    """
    prompts, expected = [], []
    for relation in world.RELATIONS:
        for thing, truth in relation.facts.items():
            wordings = (relation.reserved,) if reserved else relation.wordings
            for wording in wordings:
                question = wording.format(x=thing)
                if reserved or is_held_out(question_key(question)):
                    prompts.append("".join(piece.text for piece in conversation(question, None)))
                    expected.append(relation.statement.format(x=thing, y=truth))
    answers = writer.complete(prompts)
    return share(text == right for text, right in zip(answers, expected, strict=True)), len(prompts)


DIRECT_KINDS: tuple[Maker, ...] = (
    agent.one_digit_declined, agent.needs_tool, direct.unknown_fact, direct.transitive, direct.sort_by_hand,
    direct.deduction, direct.comparison, direct.function, direct.snippet,
)  # fmt: skip


def direct_answers(writer: Writer, per_kind: int, seed: int) -> dict[str, float]:
    """Share of direct answers that are word for word right, by kind, on held-out problems."""
    rng = random.Random(seed)
    problems = held_out_problems(rng, DIRECT_KINDS, per_kind * len(DIRECT_KINDS))
    prompts = [Document("direct", p, direct_pieces(rng, p, None)).prompt for p in problems]
    answers = writer.complete(prompts, max_new_tokens=110)
    kinds = sorted({problem.kind for problem in problems})
    return {
        kind: round(share(text == p.final for p, text in zip(problems, answers, strict=True) if p.kind == kind), 3)
        for kind in kinds
    }
