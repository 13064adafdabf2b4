"""Every family that predicts the next token: later sources exactly 0, all targets at once equal one at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attnviz.hooks import BadInput
from tests.attribution.asking import COUNT, PROMPT, answer, random_run
from tests.backends.families import DECODERS

SOURCE = 5  # tokens of the encoder
TRANSLATORS = ("t5", "bart", "marian", "umt5")
METHODS = {
    "saliency": {"aggregation": "l2"},
    "integrated_gradients": {"steps": 4, "aggregation": "l2"},
    "occlusion": {"removal": "bos", "target_function": "logit"},
}


@pytest.mark.parametrize("family", DECODERS)
def test_later_sources_are_nothing_and_targets_do_not_disturb_one_another(family, models):
    model = models(family)
    for name, params in METHODS.items():
        together = answer(name, model, **params)
        assert np.isfinite(together.scores).all()
        size = float(np.abs(together.scores).max())
        assert size > 0
        for place, target in enumerate(range(PROMPT, COUNT)):
            assert not together.scores[place, target:].any()
        alone = answer(name, model, first=PROMPT + 1, last=PROMPT + 1, **params)
        np.testing.assert_allclose(together.scores[1, : PROMPT + 1], alone.scores[0], atol=1e-4 * size)


@pytest.mark.parametrize("family", TRANSLATORS)
@pytest.mark.parametrize("name", METHODS)
def test_of_encoder_and_decoder_the_source_and_earlier_targets_are_sources(family, name, models):
    """Token 5 is the decoder's start; 6 is the first that is predicted."""
    model, tokens = models(family), replace(random_run(), decoder_from=SOURCE)
    result = answer(name, model, tokens, SOURCE + 1, **METHODS[name])
    assert [t.index for t in result.targets] == list(range(SOURCE + 1, COUNT))
    assert len(result.sources) == COUNT - 1
    for row, target in zip(result.scores, range(SOURCE + 1, COUNT), strict=True):
        assert row[:SOURCE].any()
        assert row[SOURCE:target].any()
        assert not row[target:].any()
    alone = answer(name, model, tokens, SOURCE + 1, first=8, last=8, **METHODS[name])
    size = float(np.abs(result.scores).max())
    np.testing.assert_allclose(result.scores[2, :8], alone.scores[0], atol=1e-4 * size)
    with pytest.raises(BadInput, match=f"expected a token from {SOURCE + 1} to"):
        answer(name, model, tokens, SOURCE + 1, first=SOURCE)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_of_encoder_and_decoder_a_path_is_complete(family, models):
    result = answer("integrated_gradients", models(family), replace(random_run(), decoder_from=SOURCE), SOURCE + 1)
    assert np.abs(result.delta).max() <= 0.01


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_replaced_source_is_what_the_encoder_reads(family, models):
    import torch

    model, tokens = models(family), replace(random_run(), decoder_from=SOURCE)
    result = answer("occlusion", model, tokens, SOURCE + 1, removal="bos", target_function="logit")
    ids = torch.tensor(tokens.ids[None].copy())
    read = [ids[:, :SOURCE], ids[:, :SOURCE].clone()]
    read[1][0, 2] = model.stand_ins["bos"]
    with torch.no_grad():
        logits = [model.module()(input_ids=part, decoder_input_ids=ids[:, SOURCE:]).logits[0] for part in read]
    for place, target in enumerate(range(SOURCE + 1, COUNT)):
        expected = float((logits[0] - logits[1])[target - 1 - SOURCE, int(tokens.ids[target])])
        assert result.scores[place, 2] == pytest.approx(expected, abs=1e-4)


def test_a_start_token_cannot_be_dropped(models):
    tokens = replace(random_run(), decoder_from=SOURCE)
    with pytest.raises(BadInput, match="nothing is left to predict a target from"):
        answer("occlusion", models("t5"), tokens, SOURCE + 1, removal="drop")
