"""One pass for all targets, against one target at a time, plain torch, and rules that are known."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from attnviz.hooks import BadInput, ModelError, Unavailable, UnknownName, group_tokens
from attnviz.plugins.analyses.attribution import engine as engines
from attnviz.plugins.analyses.attribution.hidden_axis import AGGREGATIONS, aggregate
from attnviz.plugins.analyses.attribution.target_functions import UNITS
from attnviz.testing import FakeModel, check_analysis, fake_request
from attnviz.testing.fake import taken_from
from tests.attribution.asking import (
    COUNT,
    PROMPT,
    analysis,
    answer,
    engine,
    random_run,
    request,
    value_of,
    without_answer,
)

GRADIENTS = ("saliency", "input_x_gradient", "gradient_norm")


def all_gradients(found):
    import torch

    return torch.stack([g[0] for g in found.gradients(found.embeddings[None])[1]])


# --------------------------------------------------------------------------------------------- the engine


@pytest.mark.parametrize("function", ["log_probability", "logit", "probability", "entropy"])
def test_gradients_are_those_of_one_target_at_a_time(exact, function):
    import torch

    found, tokens = engine(exact, target_function=function), random_run()
    together = all_gradients(found)  # [R, n, d]
    assert together.shape == (COUNT - PROMPT, COUNT - 1, found.embeddings.shape[1])
    for row, target in zip(together, range(PROMPT, COUNT), strict=True):
        embeddings = exact.embed(tokens.ids[:target])[None].requires_grad_()
        (alone,) = torch.autograd.grad(value_of(exact, embeddings, tokens, target, function).sum(), embeddings)
        assert float((row[:target] - alone[0]).abs().max()) <= 1e-6 * float(alone.abs().max())
        assert not row[target:].any()  # exactly 0


def test_values_are_those_of_the_model(exact):
    tokens = random_run()
    for function in ("log_probability", "logit", "probability", "entropy"):
        result = answer("saliency", exact, target_function=function)
        expected = [
            float(value_of(exact, exact.embed(tokens.ids[:t])[None], tokens, t, function)) for t in range(PROMPT, COUNT)
        ]
        np.testing.assert_allclose(result.target_values, expected, rtol=1e-9)


def test_a_gradient_is_a_finite_difference(exact):
    import torch

    found = engine(exact)
    step = 1e-5 * torch.randn(found.embeddings.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    up, down = found.values(torch.stack([found.embeddings + step, found.embeddings - step]))
    expected = (all_gradients(found) * step).sum((1, 2))
    np.testing.assert_allclose((up - down) / 2, expected, rtol=1e-6)


def test_batches_and_pieces_of_the_vocabulary_change_nothing(exact, monkeypatch):
    import torch

    found = engine(exact)
    variants = torch.stack([found.embeddings * scale for scale in (1, 0.5, 2, 0.1, 3)])
    whole, gradients = found.values(variants), all_gradients(found)
    monkeypatch.setattr(engines, "_LOGITS", 200 * 2)
    monkeypatch.setattr(engines, "_TOKENS", 2 * (COUNT - 1))
    small = engine(exact)
    assert small.batch == 2
    assert float((small.values(variants) - whole).abs().max()) <= 1e-12
    assert float((all_gradients(small) - gradients).abs().max()) <= 1e-12
    alone = torch.cat([found.values(variant[None]) for variant in variants])
    assert float((alone - whole).abs().max()) <= 1e-6


def test_a_contrast_with_itself_is_exactly_nothing(exact):
    label = "t"
    token = exact.tokenize(label).ids[-1]
    tokens = random_run()
    ids = np.array(tokens.ids)
    ids[COUNT - 1] = token
    import dataclasses

    run = dataclasses.replace(tokens, ids=ids)
    assert len(exact.tokenize(label).ids) == 2  # <s>, and one token
    for name in GRADIENTS:
        result = answer(name, exact, run, target_function="contrast", contrast=label, first=COUNT - 1)
        assert not result.scores.any()
        assert not result.normalized.any()
        assert not result.target_values.any()
        assert answer(name, exact, run, target_function="contrast", contrast=label, first=COUNT - 2).scores[0].any()


def test_a_contrast_is_the_difference_of_two_logits(exact):
    label = "t"
    alternative, tokens = int(exact.tokenize(label).ids[-1]), random_run()
    result = answer("input_x_gradient", exact, target_function="contrast", contrast=label)
    plain = answer("input_x_gradient", exact, target_function="logit")
    import dataclasses

    other = dataclasses.replace(tokens, ids=np.where(np.arange(COUNT) == PROMPT, alternative, tokens.ids))
    against = answer("input_x_gradient", exact, other, target_function="logit", last=PROMPT)
    np.testing.assert_allclose(
        result.scores[0], (plain.scores[0] - np.pad(against.scores[0], (0, 3))), rtol=1e-6, atol=1e-12
    )
    assert any("minus that of 't'" in line for line in result.info)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gpt_oss", "mamba", "qwen3_next", "gptj"])
def test_all_targets_at_once_are_one_by_one_in_every_kind_of_model(family, models):
    """In float32, measured by the size of what is added up over the hidden axis. Later sources are exactly 0."""
    sizes = answer("input_x_gradient", models(family), aggregation="abs_sum").scores.max(1)
    together = answer("input_x_gradient", models(family))
    for place, target in enumerate(range(PROMPT, COUNT)):
        alone = answer("input_x_gradient", models(family), first=target, last=target)
        assert alone.sources == together.sources[:target]
        np.testing.assert_allclose(together.scores[place, :target], alone.scores[0], atol=1e-6 * sizes[place])
        assert not together.scores[place, target:].any()


def test_gradients_that_are_no_numbers_are_refused(exact, monkeypatch):
    found = engine(exact)
    unembed = type(exact).unembed
    monkeypatch.setattr(type(exact), "unembed", lambda self, states: unembed(self, states) * float("inf"))
    with pytest.raises(ModelError, match="no finite numbers in float64: load the model with dtype float32"):
        all_gradients(found)


def test_running_out_of_memory_is_one_line(exact, monkeypatch):
    import torch

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    found = engine(exact)
    monkeypatch.setattr(torch.autograd, "grad", fail)
    with pytest.raises(ModelError, match=f"attribution over {COUNT - 1} tokens: use a shorter prompt"):
        all_gradients(found)


def test_four_threads_get_the_same_numbers(models):
    model = models("llama")
    expected, wrong = {name: answer(name, model).scores for name in GRADIENTS}, []

    def work():
        for name in GRADIENTS * 3:
            if not np.array_equal(answer(name, model).scores, expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --------------------------------------------------------------------------------------------- hidden axis


def test_aggregations_by_hand():
    import torch

    vectors = torch.tensor([[3.0, -4.0], [1.0, 1.0]])
    expected = {"sum": [-1, 2], "mean": [-0.5, 1], "l2": [5, 2**0.5], "abs_sum": [7, 2], "max_abs": [4, 1]}
    assert set(expected) == set(AGGREGATIONS)
    for how, numbers in expected.items():
        np.testing.assert_allclose(aggregate(vectors, how), numbers, rtol=1e-6)
    assert aggregate(vectors.bfloat16(), "sum").dtype == torch.float32


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_methods_are_their_formulas(exact, how):
    found = engine(exact)
    gradients = all_gradients(found)
    result = answer("saliency", exact, aggregation=how)
    np.testing.assert_allclose(result.scores, aggregate(gradients, how), rtol=1e-9, atol=1e-15)
    assert result.signed == (how in ("sum", "mean"))
    times = answer("input_x_gradient", exact, aggregation=how)
    np.testing.assert_allclose(times.scores, aggregate(gradients * found.embeddings, how), rtol=1e-9, atol=1e-15)


def test_a_gradient_norm_is_the_length_of_the_gradient(exact):
    np.testing.assert_allclose(
        answer("gradient_norm", exact).scores, all_gradients(engine(exact)).norm(dim=-1), rtol=1e-9, atol=1e-15
    )


# --------------------------------------------------------------------------------------------- rows and columns


def test_rows_are_normalised_by_their_absolute_sum(exact):
    result = answer("input_x_gradient", exact)
    np.testing.assert_allclose(np.abs(result.normalized).sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(result.normalized[1], result.scores[1] / np.abs(result.scores[1]).sum(), rtol=1e-12)
    assert (result.scores < 0).any()


def test_targets_are_the_answer_unless_others_are_asked_for(models):
    model = models("llama")
    tokens = random_run()
    assert [t.index for t in answer("saliency", model).targets] == [8, 9, 10, 11]
    assert [t.id for t in answer("saliency", model).targets] == tokens.ids[8:].tolist()
    assert [t.index for t in answer("saliency", model, first=10).targets] == [10, 11]
    assert [t.index for t in answer("saliency", model, last=9).targets] == [8, 9]
    assert [t.index for t in answer("saliency", model, last=3).targets] == [3]
    assert [t.index for t in answer("saliency", model, first=2, last=3).targets] == [2, 3]
    assert [s.index for s in answer("saliency", model, first=2, last=3).sources] == [0, 1, 2]


def test_without_an_answer_it_is_what_would_come_next(models):
    import torch

    model, tokens = models("llama"), without_answer(random_run())
    result = answer("saliency", model, tokens, None)
    logits = model.module()(input_ids=torch.tensor(tokens.ids[None].copy())).logits[0, -1]
    expected = int(logits.argmax())
    assert [(t.index, t.stop, t.id) for t in result.targets] == [(COUNT, COUNT + 1, expected)]
    assert result.targets[0].label == model.label(expected)
    assert len(result.sources) == COUNT
    assert result.target_values[0] == pytest.approx(float(torch.log_softmax(logits, -1).max()), abs=1e-5)
    assert any("is not in the run: it is the model's own first choice" in line for line in result.info)
    both = answer("saliency", model, first=COUNT - 1, last=COUNT)
    assert [t.index for t in both.targets] == [COUNT - 1, COUNT]
    np.testing.assert_allclose(both.scores[1], result.scores[0], rtol=1e-4)


def test_groups_are_sums(exact):
    """Sources: scores of tokens summed. Targets: the function is the sum over tokens, so are gradients."""
    tokens, single = random_run(), answer("input_x_gradient", exact)
    words = answer("input_x_gradient", exact, targets="word", sources="word")
    sources = group_tokens(tokens, "word", 0, COUNT - 1)
    assert [(s.index, s.stop, s.label) for s in words.sources] == [(s.index, s.stop, s.label) for s in sources]
    assert [(t.index, t.stop) for t in words.targets] == [(8, 9), (9, 12)]  # the answer begins inside a word
    expected = np.add.reduceat(np.add.reduceat(single.scores, [0, 1], axis=0), [s.index for s in sources], axis=1)
    np.testing.assert_allclose(words.scores, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(words.target_values, np.add.reduceat(single.target_values, [0, 1]), rtol=1e-9)
    lengths = answer("gradient_norm", exact, targets="turn")
    gradients = all_gradients(engine(exact)).sum(0).norm(dim=-1)
    np.testing.assert_allclose(lengths.scores[0], gradients, rtol=1e-9)


# --------------------------------------------------------------------------------------------- one pass a target


class ReadsAhead(FakeModel):
    """Every state is moved a little by the last embedding it is given."""

    reads_ahead = True

    def states(self, embeddings, tokens, positions):
        return super().states(embeddings, tokens, positions) + 0.25 * embeddings[:, -1:]


def test_a_model_that_reads_ahead_gets_a_pass_for_each_target():
    """So a target's own embedding, and later ones, are not among what is read."""
    name, text = "input_x_gradient", "abcabcab"
    both = analysis(name).run(
        fake_request(analysis(name), ReadsAhead(), text, first=5, last=6, target_function="logit")
    )
    assert any("passes of its own" in line for line in both.info)
    assert both.scores.shape == (2, 6)
    for row, target in enumerate((5, 6)):
        alone = analysis(name).run(
            fake_request(analysis(name), ReadsAhead(), text, first=target, last=target, target_function="logit")
        )
        np.testing.assert_array_equal(both.scores[row, :target], alone.scores[0])
        assert both.target_values[row] == alone.target_values[0]
        assert not both.scores[row, target:].any()


# --------------------------------------------------------------------------------------------- a truth that is known


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_token_that_an_answer_is_made_of_comes_first(name):
    model = FakeModel()
    found = fake_request(analysis(name), model, "one two three one two", first=2)
    result = analysis(name).run(found)
    for row, target in zip(result.scores, result.targets, strict=True):
        source = taken_from(found.tokens.ids, target.index - 1)
        assert np.abs(row).argmax() == source
        assert not np.delete(row, source).any()


@pytest.mark.parametrize("name", GRADIENTS)
def test_analyses_keep_the_contract(name):
    for function in UNITS:
        if function in ("contrast", "kl"):
            continue
        check_analysis(analysis(name), fake_request(analysis(name), target_function=function, targets="word"))
    check_analysis(analysis(name), fake_request(analysis(name), target_function="contrast", contrast="q"))


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"first": COUNT + 1}, f"Parameter first: expected a token from 1 to 11 of this run, or 12 .* got {COUNT + 1}"),
        ({"last": 99}, "Parameter last: expected a token from 1 to 11"),
        ({"first": 9, "last": 8}, "Targets 9 to 8: first is after last"),
        ({"target_function": "contrast"}, "Parameter contrast: expected a text that is one token"),
        (
            {"target_function": "contrast", "contrast": "qqq"},
            "expected a text that is one token .* which is 3: 'q' 'q' 'q'",
        ),
        ({"first": 0}, "Parameter first: expected a whole number from 1, got 0"),
        ({"target_function": "kl"}, "Unknown value of parameter target_function 'kl'"),
        ({"aggregation": "median"}, "abs_sum, l2, max_abs, mean, sum"),
        ({"targets": "chapter"}, "sentence, token, turn, word"),
    ],
)
def test_what_does_not_fit_is_refused(params, message, models):
    with pytest.raises((BadInput, UnknownName), match=message):
        answer("saliency", models("llama"), **params)


def test_a_model_that_sees_all_at_once_is_refused(models):
    with pytest.raises(Unavailable, match="does not predict the next token"):
        answer("saliency", models("bert"))


def test_a_model_without_gradients_is_refused():
    model = FakeModel(without=["gradients"])
    with pytest.raises(Unavailable, match="gives no gradients: This model of rules has no gradients"):
        analysis("saliency").run(fake_request(analysis("saliency"), model))


def test_progress_is_told(models):
    import dataclasses

    said = []
    asked = dataclasses.replace(
        request("saliency", models("llama")), progress=lambda share, what: said.append((share, what))
    )
    analysis("saliency").run(asked)
    assert said == [(0.0, "target 1 of 4"), (0.25, "target 2 of 4"), (0.5, "target 3 of 4"), (0.75, "target 4 of 4")]
