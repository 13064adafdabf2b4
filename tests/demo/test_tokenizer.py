"""The tokenizer: any text survives, pieces and whole agree, the chat template is the trained format."""

import random

import pytest
from transformers import AutoTokenizer

from attnviz.demo.text import AGENT_SYSTEM_PROMPT, draw
from attnviz.demo.text.stream import conversation
from attnviz.demo.tokenizer import SPECIAL, VOCABULARY, save_tokenizer, train_tokenizer

TEXTS = [
    "What is 25 * 37?",
    "Ünïcödé, naïve façade",
    "漢字かな交じり文",
    "Привет, мир",
    "مرحبا بالعالم",
    "🙂👩‍👩‍👧 ½ −3 × 4 ÷ 5",
    "\n\ttab  two  spaces. ",
    "don't , stop . ? !",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(), folder)
    return AutoTokenizer.from_pretrained(folder)


def test_vocabulary(tokenizer):
    assert len(tokenizer) == VOCABULARY
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(6))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer("2024", add_special_tokens=False).input_ids == tokenizer.convert_tokens_to_ids(list("2024"))


def test_training_is_deterministic(tokenizer):
    assert train_tokenizer().backend_tokenizer.to_str() == train_tokenizer().backend_tokenizer.to_str()


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer(text).input_ids == [1, *ids]  # plain text gets the beginning-of-text token
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_pieces_and_whole_give_the_same_tokens(tokenizer):
    rng = random.Random(5)
    for _ in range(2000):
        document = draw(rng, agent_share=0.6)
        whole = tokenizer(document.text, add_special_tokens=False).input_ids
        pieces = [i for p in document.pieces for i in tokenizer(p.text, add_special_tokens=False).input_ids]
        assert pieces == whole
        assert tokenizer.decode(whole) == document.text
        assert len(whole) <= 512


@pytest.mark.parametrize("system", [None, AGENT_SYSTEM_PROMPT, "Tools: time, calculator."])
def test_chat_template_is_the_trained_format(tokenizer, system):
    messages = [{"role": "user", "content": "What is 25 * 37?"}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    trained = "".join(piece.text for piece in conversation("What is 25 * 37?", system))
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == trained
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == tokenizer(trained, add_special_tokens=False).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
