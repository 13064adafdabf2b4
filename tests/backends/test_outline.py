"""What is read from shapes alone is what is found with the weights."""

from __future__ import annotations

import pytest

from attnviz.hooks import ModelError
from attnviz.plugins.backends.outline import read_outline
from attnviz.plugins.backends.readout import find_readout
from tests.backends.families import DECODERS, VOCABULARY, random_module

NOT_FROM_SHAPES = {
    "qwen3_next": "its linear attention looks at numbers",
    "mamba": "its states change their type on the way to the norm",
    "rwkv": "it has no attention maps",
}


def on_meta(family):
    """The module without weights, in bfloat16 as some kernels of mixtures of experts ask for."""
    import torch
    import transformers

    with torch.device("meta"):
        config = DECODERS[family].config()
        auto = transformers.AutoModelForCausalLM
        return auto.from_config(config, attn_implementation="eager", dtype=torch.bfloat16).eval()


@pytest.mark.parametrize("family", [f for f in DECODERS if f not in NOT_FROM_SHAPES])
def test_blocks_readout_and_maps(family):
    module = random_module(family)
    expected, found = find_readout(module, VOCABULARY), read_outline(on_meta(family))
    paths = {id(part): path for path, part in module.named_modules()}
    assert found.blocks == tuple(paths[id(part)] for part in expected.blocks)
    assert found.chain == tuple(paths[id(part)] for part in expected.chain)
    assert found.added == tuple(paths[id(part)] for part in expected.attention)
    assert (found.scale, found.softcap, found.multiplier) == (expected.scale, expected.softcap, expected.multiplier)
    assert [card.kind for card in found.cards] == list(DECODERS[family].layers)
    assert {card.window for card in found.cards if card.kind == "sliding"} <= {DECODERS[family].window}
    assert sorted(found.attention) == DECODERS[family].attending


def test_what_cannot_be_read_is_said():
    with pytest.raises(ModelError, match="how it is built cannot be read without its weights"):
        read_outline(on_meta("qwen3_next"))
    found = read_outline(on_meta("mamba"))
    assert found.attention == {}
    assert "was not found" in str(found.chain)
