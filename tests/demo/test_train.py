"""The trainer: the same seed gives the same bytes, and the pieces of the recipe do what they say."""

import json
import random
from dataclasses import replace

import pytest
import torch

from attnviz.demo.repetition import BOS_ID, Repetition
from attnviz.demo.text import draw
from attnviz.demo.tokenizer import train_tokenizer
from attnviz.demo.train import (
    Recipe,
    Stage,
    batches,
    digest,
    encode,
    new_model,
    new_repetition,
    padded,
    train,
    weighted_loss,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_25_steps_twice_give_the_same_bytes(tmp_path):
    recipe = replace(Recipe().scaled(25), batch_tokens=512)  # smaller batches than the real ones: a matter of time
    for name in ("first", "second"):
        train(recipe, tmp_path / name)
    assert digest(tmp_path / "first/model.safetensors") == digest(tmp_path / "second/model.safetensors")
    made = json.loads((tmp_path / "first/recipe.json").read_text(encoding="utf-8"))
    assert made["weights_sha256"] == digest(tmp_path / "first/model.safetensors")
    assert made["float16_agreement"] > 0.99


def test_rate_rises_stays_and_falls():
    recipe, stage = Recipe(), Stage(1000, 0.6, 0.1, constant_share=0.45)
    assert recipe.rate(0, stage) == pytest.approx(1 / 60)
    assert recipe.rate(59, stage) == recipe.rate(449, stage) == 1.0
    assert recipe.rate(725, stage) == pytest.approx(0.5)  # half way from 45 % to the end
    assert recipe.rate(999, stage) == recipe.floor
    assert recipe.rate(999, Stage(1000, 0.6, 0.1)) == 1.0


def test_scaled_keeps_the_proportions():
    recipe = Recipe(stages=(Stage(200, 0.6, 0.1), Stage(300, 0.5, 0.2))).scaled(25)
    assert [stage.steps for stage in recipe.stages] == [10, 15]
    assert [stage.repetition_share for stage in recipe.stages] == [0.1, 0.2]


def test_repetition_repeats_and_counts_only_the_copies():
    rng = random.Random(0)
    source = Repetition(1024, digits=list(range(20, 30)), frequent=[100, 200, 300], weights=[3.0, 2.0, 1.0])
    for _ in range(200):
        ids, weights = source.draw(rng)
        assert ids[0] == BOS_ID
        assert len(ids) == len(weights) <= 512
        first = weights.index(1.0)
        assert set(weights[first:]) == {1.0}
        counted = len(ids) - first
        for length in range(3, 91):  # the unit's length is the period of the counted part
            if ids[first:] == ids[first - length : len(ids) - length] and counted % length == 0:
                break
        else:
            pytest.fail("no period found")


def test_encoding_carries_the_weights(tokenizer):
    rng = random.Random(0)
    while (document := draw(rng, agent_share=1.0)).mode != "agent" or not document.problem.steps:
        pass
    sequence = encode(tokenizer, document)
    assert len(sequence.ids) == len(sequence.weights)
    spoken = [i for i, w in zip(sequence.ids, sequence.weights, strict=True) if w == 1.0]
    text = tokenizer.decode(spoken)
    assert text.startswith("Thought: ")
    assert text.endswith("<|end|>")
    assert tokenizer.decode([i for i, w in zip(sequence.ids, sequence.weights, strict=True) if w == 0.2]).startswith(
        "<|user|>"
    )


def test_batches_are_filled_and_padded_on_the_right(tokenizer):
    source = batches(random.Random(0), tokenizer, new_repetition(tokenizer, 200), Stage(1, 0.6, 0.2), 2048)
    used = total = 0
    for _ in range(30):
        batch = next(source)
        ids, weights = padded(batch)
        assert ids.shape == weights.shape
        assert (ids[:, 0] == BOS_ID).all()
        for row, sequence in enumerate(batch):
            assert ids[row, : len(sequence.ids)].tolist() == sequence.ids
            assert (weights[row, len(sequence.ids) :] == 0).all()
        used, total = used + sum(len(s.ids) for s in batch), total + ids.numel()
    assert used / total > 0.85


def test_loss_is_the_weighted_mean_of_the_models_own_logits(tokenizer):
    model = new_model(len(tokenizer), seed=0)
    ids = torch.tensor([[1, 30, 31, 32, 33], [1, 40, 41, 0, 0]])
    weights = torch.tensor([[0, 0.2, 0.2, 1, 1], [0, 1, 1, 0, 0]])
    with torch.no_grad():
        got = float(weighted_loss(model, ids, weights))
        logp = model(ids).logits.log_softmax(-1)
    terms = [(w, -logp[r, c - 1, ids[r, c]]) for r in range(2) for c in range(1, 5) if (w := weights[r, c]) > 0]
    expected = float(sum(w * x for w, x in terms) / sum(w for w, _ in terms))
    assert got == pytest.approx(expected, rel=2e-3)  # bfloat16 inside


def test_parameters(tokenizer):
    assert 1.2e6 < sum(p.numel() for p in new_model(len(tokenizer), 0).parameters()) < 1.5e6
