"""Our scores against those of Inseq: the same weights, ids, baseline and steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.attribution.asking import PROMPT, answer, random_run
from tests.backends.conftest import byte_level_tokenizer
from tests.backends.families import load, random_module
from tests.oracles.inseq_runs import attribute, scores

pytest.importorskip("inseq")
pytestmark = [pytest.mark.oracles, pytest.mark.filterwarnings("ignore")]  # warnings of Inseq are its own affair

BASE = 2  # </s>
SPLIT, SOURCE_PROMPT = 7, 9  # of a model with encoder and decoder: its first token of the decoder, and of the answer
STEPS = 20
METHODS = {
    "saliency": ({}, {"aggregation": "abs_sum"}, "sum"),  # Inseq: absolute values, and no sum yet
    "input_x_gradient": ({}, {}, "sum"),
    "integrated_gradients": ({"n_steps": STEPS}, {"steps": STEPS, "baseline": "eos"}, "sum"),
    "occlusion": ({}, {"removal": "eos"}, "sum"),
    "attention": ({}, {}, "mean"),
}
"""Method -> options there, options here, and how what Inseq returns becomes one number."""


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bart", "t5"])
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_inseq(method, family, precision):
    theirs, ours, how = METHODS[method]
    import torch

    def module():
        return random_module(family).to(getattr(torch, precision)).eval()

    tokens, first = random_run(), PROMPT
    if family in ("bart", "t5"):
        tokens, first = replace(tokens, decoder_from=SPLIT), SOURCE_PROMPT
    result = answer(method, load(family, module(), byte_level_tokenizer()), tokens, first, **ours)
    sequence = attribute(module(), byte_level_tokenizer(), method, tokens, first, BASE, **theirs)
    expected, size = scores(sequence, result.scores.shape[1], how)
    found = result.scores
    if method == "occlusion":
        found = np.abs(found)  # there it has no sign
        size = np.abs(result.target_values).max()  # a score is a difference of two such numbers
    assert np.abs(expected).max() > 1e-3 * size
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * size)
