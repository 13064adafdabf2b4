"""Labels, offsets, roles and exact continuation."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.hooks import (
    UNITS,
    BadInput,
    Segment,
    ShapeError,
    Span,
    StopTexts,
    TokenLabels,
    Tokens,
    UnknownName,
    continue_tokens,
    group_tokens,
    pool_pattern,
    show_bytes,
    tokenize_messages,
    tokenize_text,
)

CORPUS = ["The cat sat on the mat.", "Größe naïve façade 日本語 🙂", "What is 25 * 37?"] * 3
MARKS = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def wrap(core, **names):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


@pytest.fixture(scope="module")
def bytes_tokenizer():
    """Byte-level BPE, <s> before a plain text, with a chat template that writes <s> itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>", *MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = wrap(core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def pieces_tokenizer():
    """SentencePiece style: ▁ for a space, <0xE6> for other bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", "a", "b", "▁a", "ab", "▁ab"]
    core = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [("▁", "a"), ("a", "b"), ("▁", "ab"), ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return wrap(core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="module")
def words_tokenizer():
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sing", "##ing"]
    core = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return wrap(core, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


def read(tokenizer, prompt, positions=None) -> Tokens:
    labels = TokenLabels.of(tokenizer)
    function = tokenize_text if isinstance(prompt, str) else tokenize_messages
    return function(tokenizer, labels, prompt, positions=positions, model="the model")


# --------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain", "plain"),
        ("日".encode(), "日"),
        (b"\xe6\x97", "‹E6 97›"),
        (b" \xe6", " ‹E6›"),
        (b"\xa5x", "‹A5›x"),
        (b"\x80\x81", "‹80 81›"),
        (b"", ""),
    ],
)
def test_bytes_are_shown_never_replaced(data, shown):
    assert show_bytes(data) == shown


def test_byte_level_labels(bytes_tokenizer):
    tokens = read(bytes_tokenizer, "The cat 鯨 🦊")
    assert tokens.labels[0] == "<s>"
    joined = "".join(tokens.labels[1:])
    assert joined.startswith("The cat ")
    assert not any(mark in joined for mark in ("\ufffd", "Ġ", "Ċ", "▁"))
    assert "‹E9›" in tokens.labels
    assert any(label.startswith(" ") for label in tokens.labels)


def test_every_byte_has_a_label(bytes_tokenizer):
    """The 256 one-byte tokens: ASCII as it is, the others as their byte."""
    labels = TokenLabels.of(bytes_tokenizer)
    found = {labels.data(i) for i in range(len(bytes_tokenizer))}
    assert {bytes([byte]) for byte in range(256)} <= found
    one = {labels.data(i): labels.label(i) for i in range(len(bytes_tokenizer)) if len(labels.data(i) or b"") == 1}
    assert one[b"\n"] == "\n"
    assert one[b" "] == " "
    assert one[b"\xe6"] == "‹E6›"


def test_piece_labels(pieces_tokenizer):
    tokens = read(pieces_tokenizer, "ab é")
    assert tokens.labels == ("<s>", " ab", " ", "‹C3›", "‹A9›")
    labels = TokenLabels.of(pieces_tokenizer)
    assert labels.label(3 + ord("x")) == "x"
    assert labels.label(0) == "<unk>"


def test_word_piece_labels(words_tokenizer):
    tokens = read(words_tokenizer, "The cats singing")
    assert tokens.labels == ("[CLS]", "the", "cat", "s", "sing", "ing", "[SEP]")
    assert tokens.special.tolist() == [True, False, False, False, False, False, True]


def test_an_id_without_a_token_is_named_by_its_number(bytes_tokenizer):
    assert TokenLabels.of(bytes_tokenizer).label(99_999) == "‹id 99999›"


# --------------------------------------------------------------------------------------------- plain text


@pytest.mark.parametrize("text", ["The cat sat.", " two  spaces\n", "Größe 日本語 🙂🙃 end"])
def test_offsets_name_the_characters(text, bytes_tokenizer):
    tokens = read(bytes_tokenizer, text)
    assert tokens.text == text
    assert tokens.offsets[0].tolist() == [-1, -1]
    for label, (start, stop) in zip(tokens.labels[1:], tokens.offsets[1:], strict=True):
        assert 0 <= start < stop <= len(text)
        if "‹" not in label:
            assert text[start:stop] == label
    assert [(s.role, s.start, s.stop) for s in tokens.segments] == [("text", 0, len(tokens))]


def test_control_tokens_are_what_the_tokenizer_adds_by_itself(bytes_tokenizer):
    tokens = read(bytes_tokenizer, "The cat")
    assert tokens.ids.tolist() == bytes_tokenizer("The cat")["input_ids"]
    assert tokens.special.tolist() == [True, *[False] * (len(tokens) - 1)]


def test_a_control_token_written_in_the_text_keeps_its_place(bytes_tokenizer):
    tokens = read(bytes_tokenizer, "cat</s>")
    assert tokens.labels[-1] == "</s>"
    assert tokens.special[-1]
    assert tokens.offsets[-1].tolist() == [3, 7]


@pytest.mark.parametrize("text", ["", "   ", "\n\t "])
def test_nothing_to_read(text, bytes_tokenizer):
    with pytest.raises(BadInput, match="The prompt is empty"):
        read(bytes_tokenizer, text)


def test_only_control_tokens(bytes_tokenizer):
    with pytest.raises(BadInput, match=r"only control tokens \(<s> </s> <pad>\)"):
        read(bytes_tokenizer, "</s><pad>")


def test_half_a_surrogate_pair(bytes_tokenizer):
    with pytest.raises(BadInput, match=r"U\+D83D\) at character 3"):
        read(bytes_tokenizer, "ab \ud83d cd")


@pytest.mark.parametrize("prompt", [5, None, b"bytes"])
def test_no_text_at_all(prompt, bytes_tokenizer):
    with pytest.raises(BadInput, match="got"):
        tokenize_text(bytes_tokenizer, TokenLabels.of(bytes_tokenizer), prompt, positions=None, model="m")


@pytest.mark.parametrize("text", ["a" * 100_000, "the cat " * 12_500, "鯨" * 100_000])
def test_far_too_much_text_is_refused(text, bytes_tokenizer):
    count = len(bytes_tokenizer(text, verbose=False)["input_ids"])
    with pytest.raises(BadInput, match=f"has {count} tokens; the model has 512 positions"):
        read(bytes_tokenizer, text, positions=512)


def test_just_enough_room(bytes_tokenizer):
    count = len(read(bytes_tokenizer, "The cat sat."))
    assert len(read(bytes_tokenizer, "The cat sat.", positions=count)) == count
    with pytest.raises(BadInput, match="Shorten it by 1 tokens"):
        read(bytes_tokenizer, "The cat sat.", positions=count - 1)


class SlowTokenizer:
    """A tokenizer written in Python: words of a list, no offsets."""

    is_fast = False
    all_special_ids = (0,)
    chat_template = None
    words = ("<end>", "one", "▁two", "three")

    def __call__(self, text, add_special_tokens=True, verbose=True):
        ids = [1, 2, 3][: len(text.split())]
        return {"input_ids": [*ids, 0] if add_special_tokens else ids}

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}

    def convert_ids_to_tokens(self, index):
        return self.words[index]


def test_a_tokenizer_without_offsets():
    tokens = read(SlowTokenizer(), "one two")
    assert tokens.labels == ("one", " two", "<end>")
    assert (tokens.offsets == -1).all()
    assert tokens.special.tolist() == [False, False, True]


# --------------------------------------------------------------------------------------------- conversations

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": " What is 25 * 37? "},
    {"role": "assistant", "content": "user"},
    {"role": "tool", "content": "925"},
]


def test_a_conversation_goes_through_the_template(bytes_tokenizer):
    tokens = read(bytes_tokenizer, TALK)
    assert tokens.text == (
        "<s><|system|>Be kind.<|end|><|user|>What is 25 * 37?<|end|>"
        "<|assistant|>user<|end|><|tool|>925<|end|><|assistant|>"
    )
    expected = bytes_tokenizer.apply_chat_template(TALK, add_generation_prompt=True)
    assert tokens.ids.tolist() == list(getattr(expected, "input_ids", expected["input_ids"]))
    assert tokens.labels.count("<s>") == 1
    roles = {segment.role: "".join(tokens.labels[segment.start : segment.stop]) for segment in tokens.segments}
    assert roles == {
        "system": "Be kind.", "user": "What is 25 * 37?", "assistant": "user", "observation": "925",
    }  # fmt: skip


def test_roles_where_the_template_looks_at_the_content(bytes_tokenizer):
    """The mark trick cannot work here; the contents are found one after another."""
    import copy

    tokenizer = copy.deepcopy(bytes_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if '?' in m['content'] %}Q: {% else %}S: {% endif %}{{ m['content'] }}\n{% endfor %}"
    )
    tokens = read(tokenizer, [{"role": "system", "content": "cat"}, {"role": "user", "content": "cat?"}])
    assert tokens.text == "S: cat\nQ: cat?\n"
    found = [(s.role, "".join(tokens.labels[s.start : s.stop])) for s in tokens.segments]
    assert found == [("system", " cat"), ("user", " cat?")]


def test_no_chat_template(words_tokenizer):
    with pytest.raises(BadInput, match="the model has no chat template"):
        read(words_tokenizer, [{"role": "user", "content": "the cat"}])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('Roles must\n alternate') }}", "Roles must alternate"),
        ("{% for %}", "cannot write this conversation"),
        ("{{ messages[7]['content'] }}", "cannot write this conversation"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_fails_gives_one_line(template, words, bytes_tokenizer):
    import copy

    tokenizer = copy.deepcopy(bytes_tokenizer)
    tokenizer.chat_template = template
    with pytest.raises(BadInput, match=words) as caught:
        read(tokenizer, TALK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "conversation is empty"),
        ([{"role": "user", "content": "  "}], "no message has any text"),
        (["hello"], "Message 0: expected"),
        ([{"role": "user"}], "Message 0: expected"),
        ([{"role": "user", "content": 5}], "Message 0: content must be text, got int"),
        ([{"role": "user", "content": "a \ud83d"}], "Message 0: .*U\\+D83D"),
        ({"role": "user", "content": "x"}, "expected a list of messages"),
    ],
)
def test_messages_that_cannot_be_used(messages, words, bytes_tokenizer):
    with pytest.raises(BadInput, match=words):
        read(bytes_tokenizer, messages)


# --------------------------------------------------------------------------------------------- answers


def split_character(tokenizer, character: str) -> list[int]:
    labels = TokenLabels.of(tokenizer)
    single = {labels.data(i): i for i in range(len(tokenizer))}
    return [single[bytes([byte])] for byte in character.encode()]


def test_an_answer_continues_ids_labels_text_and_offsets(bytes_tokenizer):
    prompt = read(bytes_tokenizer, "The cat")
    answer = bytes_tokenizer(" sat é.", add_special_tokens=False)["input_ids"]
    fox = split_character(bytes_tokenizer, "🦊")
    run = continue_tokens(prompt, [*answer, *fox, 2], TokenLabels.of(bytes_tokenizer))
    assert run.ids.tolist() == [*prompt.ids.tolist(), *answer, *fox, 2]
    assert run.text == "The cat sat é.🦊"
    assert run.text == bytes_tokenizer.decode(run.ids.tolist(), skip_special_tokens=True)
    assert run.labels[-5:] == ("‹F0›", "‹9F›", "‹A6›", "‹8A›", "</s>")
    assert run.offsets[-5:].tolist() == [[14, 15]] * 4 + [[-1, -1]]
    for label, (start, stop) in zip(run.labels, run.offsets.tolist(), strict=True):
        if start >= 0 and "‹" not in label:
            assert run.text[start:stop] == label
    assert (run.segments[-1].role, run.segments[-1].start, run.segments[-1].stop) == ("answer", len(prompt), len(run))
    assert run.segments[:-1] == prompt.segments


def test_an_answer_cut_in_a_character_shows_its_bytes(bytes_tokenizer):
    prompt = read(bytes_tokenizer, "The cat")
    run = continue_tokens(prompt, split_character(bytes_tokenizer, "🦊")[:2], TokenLabels.of(bytes_tokenizer))
    assert run.labels[-2:] == ("‹F0›", "‹9F›")
    assert run.text == "The cat\ufffd"
    assert run.offsets[-2:].tolist() == [[7, 8], [7, 8]]


def test_an_answer_in_pieces(pieces_tokenizer):
    prompt = read(pieces_tokenizer, "ab")
    names = pieces_tokenizer.get_vocab()
    run = continue_tokens(prompt, [names["▁a"], names["<0xC3>"], names["<0xA9>"]], TokenLabels.of(pieces_tokenizer))
    assert run.text == "ab aé"
    assert run.labels[-3:] == (" a", "‹C3›", "‹A9›")
    assert run.offsets[-3:].tolist() == [[2, 4], [4, 5], [4, 5]]


def test_an_answer_of_words(words_tokenizer):
    prompt = read(words_tokenizer, "the cat")
    run = continue_tokens(prompt, [6, 7, 3, 5], TokenLabels.of(words_tokenizer))  # cat ##s [SEP] the
    assert run.text == "the cat cats the"
    spans = run.offsets[-4:].tolist()
    assert [run.text[a:b] if a >= 0 else None for a, b in spans] == [" cat", "s", None, " the"]


def test_an_empty_answer(bytes_tokenizer):
    prompt = read(bytes_tokenizer, "The cat")
    run = continue_tokens(prompt, [], TokenLabels.of(bytes_tokenizer))
    assert run.ids.tolist() == prompt.ids.tolist()
    assert run.text == prompt.text
    np.testing.assert_array_equal(run.offsets, prompt.offsets)


@pytest.mark.parametrize("kind", ["bytes_tokenizer", "pieces_tokenizer", "words_tokenizer"])
def test_stop_texts_are_found_with_the_token_that_completes_them(kind, request):
    """Against `continue_tokens` of every beginning of the answer: random ids, texts cut from the answer at random."""
    tokenizer = request.getfixturevalue(kind)
    labels, random = TokenLabels.of(tokenizer), np.random.default_rng(0)
    prompt = read(tokenizer, "ab" if kind == "pieces_tokenizer" else "the cat")
    split = split_character(tokenizer, "🦊") if kind == "bytes_tokenizer" else []
    lengths = set()
    for _ in range(60):
        ids = [
            *random.integers(0, len(tokenizer), 10).tolist(),
            *split,
            *random.integers(0, len(tokenizer), 5).tolist(),
        ]
        grown = [continue_tokens(prompt, ids[:n], labels).text[len(prompt.text) :] for n in range(1, len(ids) + 1)]
        start, length = random.integers(0, len(grown[-1])), random.integers(1, 6)
        text = grown[-1][start : start + length]
        if "\ufffd" in text:
            continue
        texts = [text, "never in it"]
        expected = next(n for n, said in enumerate(grown) if text in said)
        stops = StopTexts(texts, prompt, labels)
        assert next(n for n, i in enumerate(ids) if stops.add(i)) == expected
        lengths.add(len(text))
    assert lengths >= {1, 2, 3}


def test_half_a_character_is_no_text_to_stop_at(bytes_tokenizer):
    """ä is C3 A4, ö is C3 B6: the first byte of ä is no ö, and a control token's name is no text."""
    prompt, labels = read(bytes_tokenizer, "The cat"), TokenLabels.of(bytes_tokenizer)
    stops = StopTexts(["ö", "</s>"], prompt, labels)
    added = [*split_character(bytes_tokenizer, "ä"), bytes_tokenizer.convert_tokens_to_ids("</s>")]
    assert [stops.add(i) for i in added] == [False] * 3
    assert [stops.add(i) for i in split_character(bytes_tokenizer, "ö")][-1]
    assert not StopTexts([], prompt, labels).add(5)


# --------------------------------------------------------------------------------------------- units


def spelt(pieces, *, segments=(), special=(), unplaced=()):
    """Tokens of these texts, one after another."""
    stops = np.cumsum([0 if i in unplaced else len(piece) for i, piece in enumerate(pieces)])
    spans = [(-1, -1) if i in unplaced else (stops[i] - len(p), stops[i]) for i, p in enumerate(pieces)]
    return Tokens(
        ids=np.arange(10, 10 + len(pieces)),
        labels=tuple(pieces),
        offsets=np.array(spans, np.int64).reshape(-1, 2),
        special=np.isin(np.arange(len(pieces)), special),
        text="".join(p for i, p in enumerate(pieces) if i not in unplaced),
        segments=tuple(segments),
    )


def grouped(tokens, unit):
    return [(span.index, span.stop, span.label) for span in group_tokens(tokens, unit)]


def test_tokens_by_themselves():
    tokens = spelt(["<s>", "a", "b"], unplaced=[0], special=[0])
    assert group_tokens(tokens, "token") == (Span(0, 1, 10, "<s>"), Span(1, 2, 11, "a"), Span(2, 3, 12, "b"))


def test_words_by_hand():
    tokens = spelt(["<s>", "The", " sm", "all", "-", "ish", " cat", ",", " ", " 9", "2", "?", "!"], unplaced=[0])
    assert grouped(tokens, "word") == [
        (0, 1, "<s>"), (1, 2, "The"), (2, 6, " small-ish"), (6, 7, " cat"), (7, 8, ","), (8, 11, "  92"),
        (11, 13, "?!"),
    ]  # fmt: skip
    assert [span.id for span in group_tokens(tokens, "word")] == [10, 11, -1, 16, 17, -1, -1]
    assert [span.label for span in group_tokens(tokens, "word", 3, 7)] == ["all-ish", " cat"]


def test_sentences_by_hand():
    pieces = ["It", " is", " 3", ".", "5", ".", " Is", " it", "?", '"', "\n", "Yes", "。", "好", "…", " end"]
    assert grouped(spelt(pieces), "sentence") == [
        (0, 6, "It is 3.5."), (6, 10, ' Is it?"'), (10, 11, "\n"), (11, 13, "Yes。"), (13, 15, "好…"), (15, 16, " end"),
    ]  # fmt: skip


def test_turns_and_what_lies_between_them():
    pieces = ["<user>", "Hi", " there", "<end>", "\n", "<bot>", "Yes", "!"]
    tokens = spelt(pieces, segments=[Segment("user", 1, 3), Segment("answer", 6, 8)], special=[0, 3, 5])
    assert grouped(tokens, "turn") == [(0, 1, "<user>"), (1, 3, "user"), (3, 6, "<end>\n<bot>"), (6, 8, "answer")]


def test_no_group_crosses_from_the_prompt_into_the_answer():
    """A word, or a sentence, that the answer goes on with."""
    tokens = spelt(["Par", "is", " is"], segments=[Segment("text", 0, 1), Segment("answer", 1, 3)])
    assert grouped(tokens, "word") == [(0, 1, "Par"), (1, 2, "is"), (2, 3, " is")]
    assert grouped(tokens, "sentence") == [(0, 1, "Par"), (1, 3, "is is")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी भाषा", ["हिन्दी", " भाषा"]),  # vowel signs are part of a word
        ("don’t stop", ["don’t", " stop"]),
        ("I ❤\ufe0f you", ["I", " ❤\ufe0f", " you"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ],
)
def test_a_word_keeps_what_combines(text, words):
    assert [label for _, _, label in grouped(spelt(list(text)), "word")] == words


def test_parts_of_a_character_stay_together(bytes_tokenizer):
    labels = TokenLabels.of(bytes_tokenizer)
    prompt = tokenize_text(bytes_tokenizer, labels, "a 🙂", positions=None, model="m")
    answer = continue_tokens(prompt, bytes_tokenizer(" 本 b", add_special_tokens=False)["input_ids"], labels)
    for unit in UNITS:
        spans = group_tokens(answer, unit)
        assert [i for span in spans for i in range(span.index, span.stop)] == list(range(len(answer)))
    assert [label for _, _, label in grouped(answer, "word")][-2:] == [" 本", " b"]
    assert " 🙂" in [label for _, _, label in grouped(answer, "word")]


def test_units_that_cannot_be_had_are_refused():
    lost = spelt(["a", "b"], unplaced=[0, 1])
    with pytest.raises(BadInput, match="no places in a text"):
        group_tokens(lost, "word")
    assert len(group_tokens(lost, "turn")) == 1
    with pytest.raises(UnknownName, match="sentence"):
        group_tokens(lost, "paragraph")


def test_rows_of_a_pooled_pattern_still_sum_to_one():
    """Groups {0, 1} and {2}: the mean of rows 0 and 1, summed over columns 0 and 1."""
    pattern = np.array([[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]])
    spans = (Span(0, 2, -1, "ab"), Span(2, 3, 1, "c"))
    np.testing.assert_allclose(pool_pattern(pattern, spans, spans), [[1, 0], [0.7, 0.3]])
    alone = tuple(Span(i, i + 1, i, "x") for i in range(3))
    np.testing.assert_allclose(pool_pattern(pattern, alone, spans), [[1, 0], [1, 0], [0.7, 0.3]])
    with pytest.raises(ShapeError, match="Groups of keys"):
        pool_pattern(pattern, alone, spans[:1])
