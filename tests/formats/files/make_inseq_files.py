"""The Inseq files beside this script, written by Inseq itself: python make_inseq_files.py, with inseq 0.7.1 installed.

Two models of a few thousand random weights, made here, so that nothing is downloaded. inseq_0_5.json has the arrays of
the same scores as Inseq 0.5 wrote them: Inseq's own serializer, given numpy arrays instead of safetensors.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TEXTS = ["the cat sat on the mat", "the dog ran to the cat"] * 3
CONTROL = ["<pad>", "<s>", "</s>", "<unk>"]


def tokenizer(closing: bool) -> Any:
    """Byte-level BPE over two sentences; `closing`: every text ends with </s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=CONTROL, initial_alphabet=alphabet)
    )
    if closing:
        bpe.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), CONTROL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def make_models(folder: Path) -> None:
    """tiny-gpt2 and tiny-bart in a folder."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    torch.set_num_threads(1)
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    words = tokenizer(closing=False)
    words.save_pretrained(folder / "tiny-gpt2")
    config = GPT2Config(vocab_size=len(words), n_positions=64, n_embd=4, n_layer=2, n_head=2, **ids)
    GPT2LMHeadModel(config).save_pretrained(folder / "tiny-gpt2")
    tokenizer(closing=True).save_pretrained(folder / "tiny-bart")
    sizes = {"d_model": 4, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    layers = {f"{stack}_{what}": n for stack in ("encoder", "decoder") for what, n in _STACK.items()}
    seq2seq = BartConfig(
        vocab_size=len(words), max_position_embeddings=64, decoder_start_token_id=2, **sizes, **layers, **ids
    )
    BartForConditionalGeneration(seq2seq).save_pretrained(folder / "tiny-bart")


_STACK = {"layers": 1, "attention_heads": 2}


def attribute(model: str, method: str, *texts: Any, **options: Any) -> Any:
    """What Inseq makes of these texts."""
    import inseq

    loaded = inseq.load_model(model, method, device="cpu")
    return loaded.attribute(*texts, show_progress=False, **options)


def write_all(target: Path) -> None:
    """Every file, from models in the working folder."""
    pair = (["the cat", "the dog ran"], ["the cat sat on", "the dog ran to the"])
    saliency = attribute("tiny-gpt2", "saliency", *pair, step_scores=["probability"])
    saliency.save(target / "inseq_saliency.json", overwrite=True)
    saliency.save(target / "inseq_primitives.json", overwrite=True, use_primitives=True)
    saliency.save(target / "inseq_float8.json", overwrite=True, scores_precision="float8")
    saliency.save(target / "inseq_float16.json.gz", overwrite=True, scores_precision="float16", compress=True)
    one = ("the cat", "the cat sat on")
    for method in ("attention", "occlusion"):
        attribute("tiny-gpt2", method, *one).save(target / f"inseq_{method}.json", overwrite=True)
    both = ("the cat sat", "the dog ran")
    for name, attributed in (("encoder_decoder", True), ("encoder", False)):
        found = attribute("tiny-bart", "occlusion", *both, attribute_target=attributed)
        found.save(target / f"inseq_{name}.json", overwrite=True)
    write_0_5(saliency, target)


def write_0_5(found: Any, target: Path) -> None:
    """The way of 0.5: compact, gzipped as a whole, and as lists."""
    import copy

    from inseq.utils.serialization import json_advanced_dump

    old = copy.deepcopy(found)
    for sequence in old.sequence_attributions:
        sequence.target_attributions = sequence.target_attributions.numpy()
        sequence.step_scores = {name: scores.numpy() for name, scores in sequence.step_scores.items()}
    ways: dict[str, dict[str, bool]] = {
        "inseq_0_5.json": {"ndarray_compact": True},
        "inseq_0_5.json.gz": {"ndarray_compact": True, "compression": True},
        "inseq_0_5_lists.json": {"ndarray_compact": False},
    }
    for name, options in ways.items():
        packed = "compression" in options
        with open(target / name, "wb" if packed else "w") as file:
            json_advanced_dump(old, file, allow_nan=True, indent=4, sort_keys=True, use_primitives=False, **options)


def main() -> None:
    """Make the models in a folder of their own, write the files beside this script."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        make_models(Path(folder))
        os.chdir(folder)  # so that the files name the models, not a folder of this machine
        write_all(HERE)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
