"""Tiny random models in folders, each with a tokenizer built here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attnviz.hooks import ModelSpec
from tests.backends.families import FAMILIES, load, random_module

CORPUS = [
    "The cat sat on the mat and the dog sat on the log.",
    "What is 25 * 37? The answer is 925, said the teacher.",
    "Once upon a time there was a little house by the sea.",
    "Größe, naïve, façade, 日本語 and 中文 and emoji 🙂 in one line.",
] * 3

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKS = ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def byte_level_tokenizer(*, template: str | None = None, size: int = 320) -> Any:
    """Byte-level BPE that puts <s> before a plain text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", *MARKS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer


def sentencepiece_tokenizer() -> Any:
    """Pieces with ▁ for a space and <0xE6> for bytes outside the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{b:02X}>" for b in range(256)], "▁", "a", "b", "c", "▁a", "ab", "▁ab"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab"), ("▁a", "b")]
    merges = [m for m in merges if "".join(m) in vocabulary]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def wordpiece_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?*"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "##ing"]
    pieces += [*letters, *["##" + c for c in letters if c != "s"]]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """family -> folder with configuration, safetensors and tokenizer; written once."""
    written: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in written:
            template = CHAT_TEMPLATE if family == "llama" else None
            tokenizer = wordpiece_tokenizer() if "bert" in family else byte_level_tokenizer(template=template)
            path = tmp_path_factory.mktemp(family)
            random_module(family, len(tokenizer)).save_pretrained(path)
            tokenizer.save_pretrained(path)
            written[family] = path
        return written[family]

    return folder


@pytest.fixture(scope="session")
def loaded(model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """family -> the model behind the contract; loaded once."""
    from attnviz.plugins.backends.hf import load

    models: dict[str, Any] = {}

    def model(family: str) -> Any:
        if family not in models:
            models[family] = load(ModelSpec(str(model_folder(family))))
        return models[family]

    return model


@pytest.fixture(scope="session")
def eager(model_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """family -> the same weights as transformers itself loads them, with eager attention: the reference."""
    import transformers

    modules: dict[str, Any] = {}

    def module(family: str) -> Any:
        if family not in modules:
            auto = getattr(transformers, FAMILIES[family].auto)
            transformers.utils.logging.disable_progress_bar()
            modules[family] = auto.from_pretrained(model_folder(family), attn_implementation="eager").eval()
            transformers.utils.logging.enable_progress_bar()
        return modules[family]

    return module


@pytest.fixture(scope="session")
def tokenizers_by_kind() -> dict[str, Any]:
    return {
        "bytes": byte_level_tokenizer(),
        "chat": byte_level_tokenizer(template=CHAT_TEMPLATE),
        "spaces": sentencepiece_tokenizer(),
        "words": wordpiece_tokenizer(),
    }


@pytest.fixture
def exact_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama's norm in the type it is given: its own goes through float32, also in a float64 model."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: Any, states: Any) -> Any:
        variance = states.pow(2).mean(-1, keepdim=True)
        return self.weight * states * torch.rsqrt(variance + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.fixture(scope="session")
def built(tokenizers_by_kind: dict[str, Any]) -> Callable[[str], tuple[Any, Any]]:
    """family -> (the backend's model, a module of the same weights with eager attention); built once."""
    models: dict[str, tuple[Any, Any]] = {}

    def build(family: str) -> tuple[Any, Any]:
        if family not in models:
            module = random_module(family)
            models[family] = (load(family, module, tokenizers_by_kind["bytes"]), module)
        return models[family]

    return build
