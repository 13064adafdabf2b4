"""Byte-level BPE of the embedded language model: 1 024 tokens, one token per digit, trained on the training stream.

Any text goes in and comes out unchanged, because the alphabet is the 256 bytes. `tokenizer(text)` puts the
beginning-of-text token first, as every training text had it; `apply_chat_template` brings its own and adds no second
one. Pieces of a conversation are tokenised with `add_special_tokens=False`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from attnviz.demo.text.stream import BOS, END, ROLES, draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"
SPECIAL = (PAD, BOS, END, *ROLES.values())
VOCABULARY = 1024
POSITIONS = 512

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _texts(documents: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(documents):
        for piece in draw(rng, agent_share=0.6, final_form=False).pieces:
            text = piece.text
            for special in SPECIAL:
                text = text.replace(special, "")
            if text:
                yield text


def train_tokenizer(documents: int = 30_000, seed: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer trained on that many documents of the training stream."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=10,
        show_progress=False,
    )
    # Sorted, because equal counts are otherwise ranked by order of arrival.
    bpe.train_from_iterator(sorted(_texts(documents, seed)), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES.values()),
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
        padding_side="left",  # for generation in batches; training pads on the right by itself
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save_pretrained(folder)
