from __future__ import annotations

import threading

import numpy as np
import pytest

from attnviz.hooks import BadInput, ModelError, Sampling, Unavailable, Want

TEXT = "The cat sat on"


def greedy_by_hand(module, ids, count, penalty=1.0):
    """argmax of the whole forward pass, again and again."""
    import torch

    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].clone()
        for seen in set(ids):
            logits[seen] = logits[seen] * penalty if logits[seen] < 0 else logits[seen] / penalty
        ids.append(int(logits.argmax()))
        if ids[-1] == 2:
            break
    return ids


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "gemma2", "gpt_neo"])
@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_greedy_is_argmax_step_by_step(family, penalty, loaded, eager):
    model = loaded(family)
    prompt = model.tokenize(TEXT)
    streamed: list[int] = []
    run = model.generate(prompt, Sampling(max_new_tokens=9, repetition_penalty=penalty), streamed.append)
    expected = greedy_by_hand(eager(family), prompt.ids.tolist(), 9, penalty)
    assert run.ids.tolist() == expected
    assert streamed == expected[len(prompt) :]
    assert [(s.role, s.start, s.stop) for s in run.segments] == [
        ("text", 0, len(prompt)),
        ("answer", len(prompt), len(run)),
    ]
    assert run.labels[: len(prompt)] == prompt.labels
    assert run.text.startswith(prompt.text)


def test_attention_of_an_answer_equals_the_step_by_step_rows(loaded, eager):
    """One pass over prompt and answer gives each step's last row."""
    import torch

    model = loaded("llama")
    prompt = model.tokenize(TEXT)
    run = model.generate(prompt, Sampling(max_new_tokens=5, repetition_penalty=1.5))
    trace = model.trace(run, Want())
    for stop in range(len(prompt), len(run) + 1):
        with torch.no_grad():
            out = eager("llama")(input_ids=torch.tensor(run.ids[None, :stop].copy()), output_attentions=True)
        found = trace.attention(2, 1, slice(stop - 1, stop))[0]
        np.testing.assert_allclose(found[:stop], out.attentions[2][0, 1, -1].numpy(), atol=1e-5)


def test_a_seed_repeats_a_sample_and_leaves_the_global_generator_alone(loaded):
    import torch

    model = loaded("gpt2")
    prompt = model.tokenize(TEXT)
    state = torch.random.get_rng_state()
    answers = [model.generate(prompt, Sampling(12, 1.3, 0.9, seed=s)).ids.tolist() for s in (7, 7, 8)]
    assert answers[0] == answers[1] != answers[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_samples_follow_the_tempered_nucleus():
    """Logits ln(8, 4, 2, 1, 1) at temperature 1: p = .5 .25 .125 .0625 .0625; the nucleus of 0.7 is the first two."""
    import torch

    from attnviz.plugins.backends.generation import _Choice, nucleus

    scores = torch.log(torch.tensor([[8.0, 4.0, 2.0, 1.0, 1.0]]))
    choice = _Choice.of(Sampling(1, 1.0, 0.7, seed=1), torch.device("cpu"))
    np.testing.assert_allclose(nucleus(scores.softmax(-1), 0.7)[0], [0.5, 0.25, 0, 0, 0], atol=1e-6)
    draws = [int(choice(torch.tensor([[0]]), scores).argmax()) for _ in range(3000)]
    assert set(draws) == {0, 1}
    assert abs(np.mean(draws) - 1 / 3) < 0.03  # 3.5 standard deviations
    hot = _Choice.of(Sampling(1, 2.0, 1.0, seed=1), torch.device("cpu"))
    draws = [int(hot(torch.tensor([[0]]), scores).argmax()) for _ in range(3000)]
    expected = np.sqrt([8, 4, 2, 1, 1]) / np.sqrt([8, 4, 2, 1, 1]).sum()
    np.testing.assert_allclose(np.bincount(draws, minlength=5) / 3000, expected, atol=0.035)


def test_the_end_token_stops_and_adds_no_text(loaded, monkeypatch):
    model = loaded("gpt2")
    prompt = model.tokenize(TEXT)
    free = model.generate(prompt, Sampling(max_new_tokens=6, repetition_penalty=2.0))
    third = int(free.ids[len(prompt) + 2])
    monkeypatch.setattr(model.module().generation_config, "eos_token_id", [third, 2])
    run = model.generate(prompt, Sampling(max_new_tokens=6, repetition_penalty=2.0))
    assert run.ids.tolist() == free.ids[: len(prompt) + 3].tolist()


@pytest.mark.parametrize("seed", [3, 5])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_stop_text_ends_the_answer_where_it_is_complete(family, seed, loaded):
    """The first token after which the answer contains the text; the ids before it stay as they are."""
    model = loaded(family)
    prompt = model.tokenize(TEXT)
    free = model.generate(prompt, Sampling(24, 1.5, seed=seed))
    start, ends = len(prompt.text), free.offsets[len(prompt) :, 1]
    whole = free.text[start:]
    pieces = {whole[at : at + size] for size in (1, 2, 3) for at in range(len(whole))}
    once = sorted(piece for piece in pieces if piece.isascii() and whole.count(piece) == 1)
    for piece in once[::3]:
        heard: list[int] = []
        run = model.generate(prompt, Sampling(24, 1.5, seed=seed, stop=("never said", piece)), heard.append)
        count = int(np.flatnonzero(ends >= start + whole.index(piece) + len(piece))[0]) + 1
        assert run.ids.tolist() == free.ids[: len(prompt) + count].tolist()
        assert heard == run.ids[len(prompt) :].tolist()
    assert len(once) > 5


def test_a_stop_text_in_the_prompt_stops_nothing(loaded):
    model = loaded("gpt2")
    prompt = model.tokenize(TEXT)
    sampling = Sampling(max_new_tokens=5, repetition_penalty=2.0, stop=(TEXT,))
    assert len(model.generate(prompt, sampling)) == len(prompt) + 5


def test_the_card_lists_the_ids_that_end_an_answer(loaded):
    assert loaded("gpt2").card.ends == (2,)
    assert loaded("bert").card.ends == ()


def test_cancelling_stops_soon(loaded):
    model = loaded("llama")
    prompt = model.tokenize(TEXT)
    streamed: list[int] = []
    run = model.generate(prompt, Sampling(max_new_tokens=60), streamed.append, lambda: len(streamed) >= 3)
    assert 3 <= len(streamed) <= 4
    assert len(run) == len(prompt) + len(streamed)
    nothing = model.generate(prompt, Sampling(max_new_tokens=60), None, lambda: True)
    assert nothing.ids.tolist() == prompt.ids.tolist()


def test_settings_of_the_model_files_do_not_leak_in(loaded, monkeypatch):
    model = loaded("gpt2")
    prompt = model.tokenize(TEXT)
    plain = model.generate(prompt, Sampling(max_new_tokens=6)).ids.tolist()
    config = model.module().generation_config
    for name, value in {"do_sample": True, "temperature": 3.0, "top_k": 2, "repetition_penalty": 5.0}.items():
        monkeypatch.setattr(config, name, value)
    assert model.generate(prompt, Sampling(max_new_tokens=6)).ids.tolist() == plain


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_a_cache_the_model_files_ask_for_changes_nothing(family, loaded, monkeypatch):
    model = loaded(family)
    prompt, sampling = model.tokenize(TEXT), Sampling(max_new_tokens=9, repetition_penalty=2.0)
    plain, rows = [], []
    answer = model.generate(prompt, sampling, on_row=plain.append)
    monkeypatch.setattr(model.module().generation_config, "cache_implementation", "static")
    assert model.generate(prompt, sampling, on_row=rows.append).ids.tolist() == answer.ids.tolist()
    for row, expected in zip(rows, plain, strict=True):
        np.testing.assert_array_equal(row.weights, expected.weights)


def test_rows_come_right_after_their_token(loaded):
    model = loaded("llama")
    prompt, heard = model.tokenize(TEXT), []
    sampling = Sampling(max_new_tokens=3, repetition_penalty=2.0)
    answer = model.generate(prompt, sampling, heard.append, on_row=heard.append)
    tokens, rows = heard[::2], heard[1::2]
    assert tokens == answer.ids[len(prompt) :].tolist() == [row.id for row in rows]
    assert [row.weights.shape for row in rows] == [(3, 4, len(prompt) + n) for n in range(3)]
    assert [row.position for row in rows] == [len(prompt) + n for n in range(3)]
    with pytest.raises(ValueError, match="read-only"):
        rows[0].weights[0] = 0


def test_rows_of_two_threads_do_not_mix(loaded):
    model = loaded("llama")
    texts, found = [TEXT, "Once upon a time there was"], {}

    def answer(text):
        rows = []
        model.generate(model.tokenize(text), Sampling(20, repetition_penalty=2.0), on_row=rows.append)
        found.setdefault(text, []).append(rows)

    for text in texts:
        answer(text)
    threads = [threading.Thread(target=answer, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for alone, together in found.values():
        for row, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(row.weights, expected.weights)


def test_maps_of_a_prompt_that_do_not_fit_are_refused_before(loaded, monkeypatch):
    """Only where rows are taken from whole maps, and only with a listener."""
    monkeypatch.setattr("attnviz.plugins.backends.estimate.free_bytes", lambda: 1000)
    sampling = Sampling(max_new_tokens=2)
    for family, refused in (("gpt_neo", True), ("llama", False)):
        model = loaded(family)
        prompt = model.tokenize(TEXT)
        assert len(model.generate(prompt, sampling)) > len(prompt)
        if refused:
            with pytest.raises(ModelError, match=r"The attention of .* tokens needs about"):
                model.generate(prompt, sampling, on_row=print)
        else:
            assert len(model.generate(prompt, sampling, on_row=lambda row: None)) > len(prompt)


@pytest.mark.parametrize(
    ("sampling", "words"),
    [
        (Sampling(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (Sampling(temperature=-1), "temperature must be 0"),
        (Sampling(temperature=float("nan")), "temperature must be 0"),
        (Sampling(top_p=0), "top_p must be above 0"),
        (Sampling(top_p=1.5), "top_p must be above 0"),
        (Sampling(repetition_penalty=0), "repetition_penalty must be above 0"),
        (Sampling(max_new_tokens=128), "128 positions and the prompt takes .* leaves 1[0-9][0-9]"),
    ],
)
def test_settings_out_of_range_are_refused(sampling, words, loaded):
    model = loaded("llama")
    with pytest.raises(BadInput, match=words):
        model.generate(model.tokenize(TEXT), sampling)


def test_a_full_prompt_leaves_no_room(loaded):
    model = loaded("llama")
    prompt = model.tokenize("x" * 127)
    assert len(prompt) == 128
    with pytest.raises(BadInput, match="no room for an answer"):
        model.generate(prompt, Sampling(max_new_tokens=1))


def test_an_encoder_does_not_generate(loaded):
    model = loaded("bert")
    with pytest.raises(Unavailable, match="BertForMaskedLM does not continue a text"):
        model.generate(model.tokenize("the cat"), Sampling())
