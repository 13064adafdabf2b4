"""How the embedded language model does it: previous-token and induction heads, their removal, copying, logit lens.

Previous-token and induction scores follow Olsson et al. 2022: mean attention to the token before, and to the token
after the earlier copy, on a repeated random sequence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from attnviz.demo.behaviour import Writer
from attnviz.demo.repetition import BOS_ID, FIRST_ORDINARY_ID
from attnviz.demo.text import agent
from attnviz.demo.text.prompts import AGENT_SYSTEM_PROMPT
from attnviz.demo.text.stream import END, STOP, conversation, draw_held_out

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

Head = tuple[int, int]  # layer, head


@dataclass(frozen=True)
class RepeatedTokens:
    """Random tokens written twice after the beginning-of-text token."""

    ids: torch.Tensor  # [B, 1 + 2N]
    length: int  # N

    @classmethod
    def draw(cls, vocabulary: int, *, length: int = 25, rows: int = 32, seed: int = 0) -> RepeatedTokens:
        import torch

        generator = torch.Generator().manual_seed(seed)
        half = torch.randint(FIRST_ORDINARY_ID, vocabulary, (rows, length), generator=generator)
        return cls(torch.cat([torch.full((rows, 1), BOS_ID), half, half], 1), length)

    def second_copy(self, model: LlamaForCausalLM) -> float:
        """Share of tokens of the second copy, but for its first one, that the model foretells."""
        import torch

        with torch.inference_mode():
            guesses = model(self.ids, use_cache=False).logits[:, self.length + 1 : -1].argmax(-1)
        return float((guesses == self.ids[:, self.length + 2 :]).float().mean())

    def head_scores(self, model: LlamaForCausalLM) -> tuple[torch.Tensor, torch.Tensor]:
        """Previous-token and induction score of every head, each [L, H]."""
        import torch

        attention = patterns(model, self.ids)  # [L, B, H, Q, K]
        every = torch.arange(2, self.ids.shape[1])
        second = torch.arange(self.length + 1, self.ids.shape[1])
        previous = attention[..., every, every - 1].mean((1, 3))
        # Query q reads a token whose earlier copy stands at q - N; what followed that copy stands at q - N + 1.
        induction = attention[..., second, second - self.length + 1].mean((1, 3))
        return previous, induction


def patterns(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Attention patterns [L, B, H, Q, K]."""
    import torch

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            return torch.stack(model(ids, output_attentions=True, use_cache=False).attentions)
    finally:
        model.set_attn_implementation(before)


def strongest(scores: torch.Tensor, count: int) -> list[Head]:
    """The heads with the highest scores, the highest first; scores [L, H]."""
    heads = scores.shape[1]
    return [(int(i) // heads, int(i) % heads) for i in scores.flatten().topk(count).indices]


@contextmanager
def removed(model: LlamaForCausalLM, heads: Iterable[Head]) -> Iterator[None]:
    """While open, these heads contribute nothing: their slice of the input of the output projection is zero."""
    width = model.config.head_dim

    def silence(head: int) -> Callable[..., tuple[torch.Tensor]]:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            mixed = inputs[0].clone()  # [B, T, H * width]
            mixed[..., head * width : (head + 1) * width] = 0
            return (mixed,)

        return hook

    handles = [
        model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(silence(head)) for layer, head in heads
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Repeating:
    """Figures on repeated random tokens."""

    second_copy: float
    long_copy: float  # the same with 100 tokens, longer than any unit trained on
    previous_token: float
    induction: float
    previous_heads: list[Head]
    induction_heads: list[Head]
    without_induction: float  # second copy without the three strongest induction heads
    without_random: float  # the worst of five draws of three heads that are neither of the above


def repeating(model: LlamaForCausalLM) -> Repeating:
    """All that concerns repetition."""
    tokens = RepeatedTokens.draw(model.config.vocab_size)
    previous, induction = tokens.head_scores(model)
    induction_heads, previous_heads = strongest(induction, 3), strongest(previous, 2)
    with removed(model, induction_heads):
        without_induction = tokens.second_copy(model)
    layers, heads = previous.shape
    others = [(x, y) for x in range(layers) for y in range(heads) if (x, y) not in {*induction_heads, *previous_heads}]
    rng, without_random = random.Random(0), []
    for _ in range(5):
        with removed(model, rng.sample(others, 3)):
            without_random.append(tokens.second_copy(model))
    return Repeating(
        second_copy=tokens.second_copy(model),
        long_copy=RepeatedTokens.draw(model.config.vocab_size, length=100, rows=8).second_copy(model),
        previous_token=float(previous.max()),
        induction=float(induction.max()),
        previous_heads=previous_heads,
        induction_heads=induction_heads,
        without_induction=without_induction,
        without_random=min(without_random),
    )


@dataclass(frozen=True)
class Copying:
    """Figures on the way from an observation into the answer."""

    heads: list[Head]
    attention: float  # of the strongest head: mean weight from where an answer digit is foretold to that observed digit
    lens: list[float]  # share of answer digits that are top-1, after the embedding and after each layer


def copying(writer: Writer, *, runs: int = 60, seed: int = 21) -> Copying:
    """How a random observation gets into the answer of an agent run. The first digit is left out: its place is
    foretold by form alone."""
    import torch

    model, rng = writer.model, random.Random(seed)
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    attention, right, digits = torch.zeros(layers, heads), torch.zeros(layers + 1), 0
    for _ in range(runs):
        expression = draw_held_out(rng, agent.arithmetic).steps[0].argument
        observed = str(rng.randint(100, 9999))
        prompt = "".join(piece.text for piece in conversation(f"What is {expression}?", AGENT_SYSTEM_PROMPT))
        thought = f"Thought: This needs calculator. I should use the calculator for {expression}."
        called = f"{prompt}{thought}\nAction: calculator[{expression}]\n{STOP}"
        answered = f"{called} {observed}\nThought: I know the answer now.\nFinal Answer: {expression} ="
        source, target = len(writer.ids(called)), len(writer.ids(answered))  # where " " + digits begin
        ids = torch.tensor([writer.ids(f"{answered} {observed}{END}")])
        pattern = patterns(model, ids)[:, 0]  # [L, H, Q, K]
        lens = lens_top(model, ids)  # [L + 1, T]
        for k in range(1, len(writer.ids(f" {observed}"))):
            attention += pattern[:, :, target + k - 1, source + k]
            right += lens[:, target + k - 1] == ids[0, target + k]
            digits += 1
    attention /= digits
    return Copying(strongest(attention, 3), float(attention.max()), [round(float(x) / digits, 3) for x in right])


def lens_top(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Top-1 token of the logit lens after the embedding and after each layer, [L + 1, T], for one row of ids."""
    import torch

    with torch.inference_mode():
        states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
        # The last of the hidden states has been through the final norm already.
        normed = [model.model.norm(state) for state in states[:-1]] + [states[-1]]
        return torch.stack([model.lm_head(state)[0].argmax(-1) for state in normed])
