"""Train the embedded language model from nothing: `python -m attnviz.demo.train --out DIR`.

Deterministic: the same seed, one thread and the same library versions give the same bytes. The recipe is a number of
steps, never a time. Language comes first and repetition second, because repetition alone forms no induction heads.
Hidden matrices are trained by Muon (Jordan et al. 2024), the rest by AdamW.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attnviz.demo.repetition import BOS_ID, FIRST_ORDINARY_ID, Repetition
from attnviz.demo.text.stream import MISSING_SHARE, Document, draw
from attnviz.demo.tokenizer import POSITIONS, save_tokenizer, train_tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END_ID, PAD_ID = 2, 0


@dataclass(frozen=True)
class Stage:
    """A part of the training with its own mixture; the optimizers start afresh."""

    steps: int
    agent_share: float  # of the texts
    repetition_share: float  # of all sequences
    constant_share: float = 1.0  # of its steps at the full learning rate; then linear down to the floor
    rate: float = 1.0  # factor on both learning rates
    missing_share: float = MISSING_SHARE  # of the agent runs
    decision_weight: float = 1.0  # of the word that tells whether the tool is there, in the final form
    final_form: bool = False  # texts as the finished model is to write them, see text.draw


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bytes, but for library versions."""

    stages: tuple[Stage, ...] = (
        Stage(1000, agent_share=0.62, repetition_share=0.12),
        Stage(1200, agent_share=0.58, repetition_share=0.25),
        Stage(4800, agent_share=0.58, repetition_share=0.15, constant_share=0.4),
        Stage(1300, agent_share=0.6, repetition_share=0.12, constant_share=0.1, rate=0.5, final_form=True),
        Stage(700, 0.66, 0.08, constant_share=0.3, rate=0.5, missing_share=0.35, decision_weight=20.0, final_form=True),
        Stage(500, 0.66, 0.08, constant_share=0.2, rate=0.5, missing_share=0.35, decision_weight=20.0, final_form=True),
    )
    seed: int = 0
    batch_tokens: int = 2048
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    warm_up: int = 60  # steps
    floor: float = 0.02  # factor on the learning rates at the very end

    def scaled(self, steps: int) -> Recipe:
        """The same recipe in that many steps altogether."""
        total = sum(stage.steps for stage in self.stages)
        stages = [replace(stage, steps=round(stage.steps * steps / total)) for stage in self.stages]
        stages[-1] = replace(stages[-1], steps=steps - sum(stage.steps for stage in stages[:-1]))
        return replace(self, stages=tuple(stages))

    def rate(self, step: int, stage: Stage) -> float:
        """Factor on the learning rates at this step of a stage."""
        progress = step / stage.steps
        fall = 1.0 if progress < stage.constant_share else (1 - progress) / (1 - stage.constant_share)
        return stage.rate * min(1.0, (step + 1) / self.warm_up) * max(self.floor, fall)


@dataclass(frozen=True)
class Sequence:
    """One row of a batch."""

    ids: list[int]
    weights: list[float]  # of each id as a target


def new_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    """The shipped configuration with random weights: 1.3 million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=352, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=POSITIONS, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, initializer_range=0.02,
        bos_token_id=BOS_ID, eos_token_id=END_ID, pad_token_id=PAD_ID,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, document: Document) -> Sequence:
    """Each piece is tokenised on its own, as it is when a tool's answer is appended to an agent run."""
    ids: list[int] = []
    weights: list[float] = []
    pieces = document.pieces
    encoded = tokenizer.backend_tokenizer.encode_batch([piece.text for piece in pieces], add_special_tokens=False)
    for piece, encoding in zip(pieces, encoded, strict=True):
        ids += encoding.ids
        weights += [float(piece.weight)] * len(encoding.ids)
    return Sequence(ids, weights)


def new_repetition(tokenizer: PreTrainedTokenizerFast, documents: int = 4000) -> Repetition:
    """Repetition in the vocabulary of this tokenizer, with frequencies counted on that many texts."""
    rng, counts = random.Random(99), Counter[int]()
    for _ in range(documents):
        counts.update(encode(tokenizer, draw(rng, agent_share=0.6, final_form=False)).ids)
    frequent = sorted(token for token in counts if token >= FIRST_ORDINARY_ID)
    digits = tokenizer.convert_tokens_to_ids([str(digit) for digit in range(10)])
    return Repetition(len(tokenizer), digits, frequent, [counts[token] ** 0.4 for token in frequent])


def batches(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerFast,
    repetition: Repetition,
    stage: Stage,
    batch_tokens: int,
) -> Iterator[list[Sequence]]:
    """Sequences of like length together, so that little is padding; one text per row."""
    while True:
        pool: list[Sequence] = []
        tokens = 0
        while tokens < 16 * batch_tokens:
            if rng.random() < stage.repetition_share:
                sequence = Sequence(*repetition.draw(rng))
            else:
                document = draw(
                    rng,
                    agent_share=stage.agent_share,
                    missing_share=stage.missing_share,
                    decision_weight=stage.decision_weight,
                    final_form=stage.final_form,
                )
                sequence = encode(tokenizer, document)
            pool.append(sequence)
            tokens += len(sequence.ids)
        pool.sort(key=lambda sequence: len(sequence.ids) + rng.random())
        ready: list[list[Sequence]] = [[]]
        for sequence in pool:
            if ready[-1] and len(sequence.ids) * (len(ready[-1]) + 1) > batch_tokens:
                ready.append([])
            ready[-1].append(sequence)
        rng.shuffle(ready)
        yield from ready


def padded(batch: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [B, T] and weights [B, T], padded on the right with weight 0."""
    import torch

    width = max(len(sequence.ids) for sequence in batch)
    ids, weights = torch.full((len(batch), width), PAD_ID), torch.zeros(len(batch), width)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        weights[row, : len(sequence.ids)] = torch.tensor(sequence.weights)
    return ids, weights


def weighted_loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy; logits are made only where the weight is not zero. Padding needs no mask:
    it stands on the right, where a causal model does not look."""
    import torch

    targets, weights = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    kept = weights > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state  # [B, T-1, D]
        logits = model.lm_head(hidden.flatten(0, 1)[kept])  # [N, V]
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[kept], reduction="none")
    return (losses * weights[kept]).sum() / weights[kept].sum()


def optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embeddings, AdamW for embeddings and norms."""
    import torch

    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(
            hidden,
            lr=recipe.muon_rate,
            momentum=0.95,
            weight_decay=0.05,
            adjust_lr_fn="original",
        ),
        torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def train(recipe: Recipe, out: Path, *, checkpoint_every: int = 0) -> None:
    """Train by the recipe and write the model's folder. One thread: two would give other bytes."""
    import torch

    torch.set_num_threads(1)
    started, tokens, done = time.perf_counter(), 0, 0
    tokenizer = train_tokenizer()
    repetition = new_repetition(tokenizer)
    model = new_model(len(tokenizer), recipe.seed).train()
    rng = random.Random(recipe.seed)
    for stage in recipe.stages:
        chosen = optimizers(model, recipe)
        scheduled = [(group, group["lr"]) for optimizer in chosen for group in optimizer.param_groups]
        source = batches(rng, tokenizer, repetition, stage, recipe.batch_tokens)
        average = None
        for step in range(stage.steps):
            for group, rate in scheduled:
                group["lr"] = rate * recipe.rate(step, stage)
            ids, weights = padded(next(source))
            loss = weighted_loss(model, ids, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in chosen:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            tokens, done = tokens + ids.numel(), done + 1
            average = loss.item() if average is None else 0.97 * average + 0.03 * loss.item()
            if done % 100 == 0:
                print(f"step {done}  loss {average:.4f}  {time.perf_counter() - started:.0f} s", flush=True)
            if checkpoint_every and done % checkpoint_every == 0:
                save(model, tokenizer, out / f"step-{done}")
    model.eval()
    agreement = float16_agreement(model, tokenizer)
    save(model, tokenizer, out)
    write_recipe(recipe, out, tokens=tokens, seconds=time.perf_counter() - started, agreement=agreement)


def float16_agreement(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, documents: int = 200) -> float:
    """Share of positions where the weights rounded to float16 predict the same token as the trained float32 ones."""
    import copy

    import torch

    rounded = copy.deepcopy(model).half().float()
    rng, same, total = random.Random(7), 0, 0
    with torch.inference_mode():
        for _ in range(documents):
            ids = torch.tensor([encode(tokenizer, draw(rng, agent_share=0.6)).ids])
            equal = model(ids).logits.argmax(-1) == rounded(ids).logits.argmax(-1)
            same, total = same + int(equal.sum()), total + equal.numel()
    return same / total


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights in float16, configuration, generation defaults and tokenizer."""
    import copy

    from transformers import GenerationConfig

    stored = copy.deepcopy(model).half()
    stored.generation_config = GenerationConfig(
        bos_token_id=BOS_ID, eos_token_id=END_ID, pad_token_id=PAD_ID, max_new_tokens=96, do_sample=False
    )
    stored.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def digest(file: Path) -> str:
    """SHA-256 of the file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_recipe(recipe: Recipe, out: Path, *, tokens: int, seconds: float, agreement: float) -> None:
    """recipe.json: how these very weights came about."""
    import torch
    import transformers

    facts = {
        "recipe": asdict(recipe),
        "tokens": tokens,
        "seconds": round(seconds),
        "threads": 1,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "float16_agreement": agreement,
        "weights_sha256": digest(out / "model.safetensors"),
    }
    (out / "recipe.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    from attnviz.demo import LANGUAGE

    parser = argparse.ArgumentParser(prog="python -m attnviz.demo.train", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=LANGUAGE, help="folder to write (default: the shipped one)")
    parser.add_argument("--steps", type=int, help="steps altogether (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-every", type=int, default=0, help="also write OUT/step-N every so many steps")
    options = parser.parse_args(arguments)
    recipe = Recipe(seed=options.seed)
    if options.steps is not None:
        if options.steps < len(recipe.stages):
            parser.error(f"--steps: expected at least {len(recipe.stages)}, got {options.steps}")
        recipe = recipe.scaled(options.steps)
    train(recipe, options.out, checkpoint_every=options.checkpoint_every)


if __name__ == "__main__":
    main()
