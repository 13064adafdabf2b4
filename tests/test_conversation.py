"""The next turn of a conversation: exact ids, what the chat template writes between turns, and what is refused."""

import numpy as np
import pytest

import attnviz
from attnviz.conversation import next_turn, reply
from attnviz.errors import BadInput, Unavailable
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.testing import fake_backend
from tests.agent.stand_ins import BROKEN, ENDS, NO_TOOLS, scripted

FRANCE, SPIDER = "What is the capital of France?", "How many legs does a spider have?"


@pytest.fixture(scope="module")
def model():
    return Session(load_registry(safe=True)).load("demo")


@pytest.fixture(scope="module")
def first(model):
    return model.generate(messages=[{"role": "user", "content": FRANCE}])


def test_every_id_of_the_turns_before_stays_and_so_does_its_attention(first):
    second = attnviz.reply(first, SPIDER, max_new_tokens=6)
    third = reply(second, "And an ant?", max_new_tokens=6)
    for before, after in ((first, second), (second, third)):
        count = len(before.tokens)
        assert after.tokens.ids[:count].tolist() == before.tokens.ids.tolist()
        assert after.tokens.labels[:count] == before.tokens.labels
        assert after.tokens.segments[: len(before.tokens.segments)] == before.tokens.segments
        assert np.abs(after.attention(3, 1)[:count, :count] - before.attention(3, 1)).max() < 1e-5
    assert [s.role for s in third.tokens.segments] == ["user", "answer"] * 3
    assert third.generated_from == third.tokens.segments[-1].start


def test_a_click_on_a_token_of_any_turn_shows_what_predicted_it(first, model):
    """Greedy answers: at the position before each of their tokens the last layer of the lens has that token on top."""
    run = reply(first, SPIDER, max_new_tokens=6)
    table = run.analyze("logit_lens").result
    row_of = {int(position): row for row, position in enumerate(table.positions)}
    written = [at for s in run.tokens.segments if s.role == "answer" for at in range(s.start, s.stop)]
    assert len(written) > 12
    for at in written:
        assert int(table.top_ids[-1, row_of[at - 1], 0]) == int(run.tokens.ids[at])


@pytest.mark.parametrize("kind", ["hermes", "llama", "mistral"])
def test_a_conversation_is_what_the_template_writes_for_all_of_it(kind):
    said = [" Hello." if kind == "mistral" else "Hello.", " Yes." if kind == "mistral" else "Yes."]
    model = scripted(kind, said)
    run = reply(model.generate(messages=[{"role": "user", "content": "Hi <b>"}]), "Are you <|im_end|> there?")
    tokenizer = model.session.model(model.spec).loaded.tokenizer
    mark = "MARK"  # the name of a control token is letters where the user says it, so it is put in afterwards
    messages = [("user", "Hi <b>"), ("assistant", "Hello."), ("user", f"Are you {mark} there?"), ("assistant", "Yes.")]
    text = tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in messages], tokenize=False)
    assert "".join(run.tokens.labels) == text.rstrip("\n").replace(mark, "<|im_end|>")
    user = run.tokens.segments[2]
    assert user.role == "user"
    assert not run.tokens.special[user.start : user.stop].any()
    assert "".join(run.tokens.labels[user.start : user.stop]) == "Are you <|im_end|> there?"


def test_an_answer_that_was_cut_off_is_ended_as_the_template_ends_it():
    model = scripted("hermes", ["Once upon a time…", "Yes."], template=NO_TOOLS)
    before = model.generate(messages=[{"role": "user", "content": "A story"}], max_new_tokens=7)
    assert (before.answer, before.run.ended) == ("Once up", "length")
    after = reply(before, "Go on")
    between = "".join(after.tokens.labels[len(before.tokens) : after.generated_from])
    assert between == "<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n"
    assert after.tokens.labels[len(before.tokens)] == ENDS["hermes"]


def test_a_plain_text_goes_on_as_plain_text_on_a_new_line(model):
    before = model.generate("The cat sat", max_new_tokens=5)
    after = reply(before, "The dog", max_new_tokens=5)
    assert after.tokens.ids[: len(before.tokens)].tolist() == before.tokens.ids.tolist()
    assert after.text.startswith(before.text + "\nThe dog")
    assert [s.role for s in after.tokens.segments] == ["text", "answer", "text", "answer"]


def test_each_turn_has_its_own_settings(first):
    cut = reply(first, SPIDER, max_new_tokens=2, temperature=1.0, seed=5)
    assert (cut.run.sampling.max_new_tokens, cut.run.sampling.seed, cut.run.ended) == (2, 5, "length")
    again = reply(first, SPIDER, max_new_tokens=2, temperature=1.0, seed=5)
    assert again.tokens.ids.tolist() == cut.tokens.ids.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  \n", "empty"), (None, "expected a text, got NoneType"), ("\ud800", "surrogate"), ("a " * 600, "512")],
)
def test_what_cannot_be_said_is_refused(first, text, expected):
    with pytest.raises(BadInput, match=expected) as refused:
        reply(first, text)
    assert "\n" not in str(refused.value)


def test_a_template_that_breaks_is_told_in_one_line():
    model = scripted("hermes", ["Hello."], template=NO_TOOLS)
    before = model.generate(messages=[{"role": "user", "content": "Hi"}])
    model.session.model(model.spec).loaded.tokenizer.chat_template = BROKEN
    with pytest.raises(BadInput) as refused:
        reply(before, "Hi again")
    assert "\n" not in str(refused.value)


def test_a_model_that_cannot_continue_says_so():
    backend = fake_backend()
    registry = load_registry(safe=True)
    registry = registry.__class__({backend.name: backend}, registry.analyses, {}, {}, {}, {})
    run = Session(registry).load("fake").generate("abab", max_new_tokens=2)
    with pytest.raises(Unavailable, match="cannot continue a conversation by tokens"):
        reply(run, "and")


def test_an_encoder_with_a_decoder_writes_one_turn(first, model):
    import dataclasses

    tokens = dataclasses.replace(first.tokens, decoder_from=2, segments=())
    with pytest.raises(Unavailable, match="one turn"):
        next_turn(model.session.model(model.spec), "t5", tokens, "Hi")
