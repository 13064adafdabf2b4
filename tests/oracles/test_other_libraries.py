"""The analyses that ask Inseq and Captum: the same scores as theirs, and nothing left behind."""

from __future__ import annotations

import logging
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest

from attnviz.hooks import BadInput, ModelError, Unavailable
from attnviz.testing import check_analysis
from tests.attribution.asking import PROMPT, analysis, answer, random_run, request
from tests.backends.conftest import byte_level_tokenizer
from tests.backends.families import load, random_module
from tests.oracles.inseq_runs import attribute

inseq = pytest.importorskip("inseq")
captum_methods = pytest.importorskip("attnviz.plugins.analyses.captum_methods")
inseq_methods = pytest.importorskip("attnviz.plugins.analyses.inseq_methods")
pytestmark = [pytest.mark.oracles, pytest.mark.filterwarnings("ignore:.*deprecated.*")]

NOT_OFFERED = {
    "lime", "reagent", "dummy", "discretized_integrated_gradients", "layer_integrated_gradients", "layer_deeplift",
}  # fmt: skip
SPLIT, SOURCE_PROMPT = 7, 9
FAILS = {
    ("value_zeroing", "gpt2"),  # it looks for a name in the source of the layer that is not there any more
    ("value_zeroing", "llama"),
    ("value_zeroing", "bart"),
    ("sequential_integrated_gradients", "bart"),
    ("sequential_integrated_gradients", "t5"),
    ("layer_gradient_x_activation", "bart"),
    ("layer_gradient_x_activation", "t5"),
}


def asked(family):
    """A model, a run, its first target."""
    model, tokens, first = load(family, random_module(family), byte_level_tokenizer()), random_run(), PROMPT
    if family in ("bart", "t5"):
        tokens, first = replace(tokens, decoder_from=SPLIT), SOURCE_PROMPT
    return model, tokens, first


def state(module):
    """All that a library could have changed."""
    return (
        {name: (p.data_ptr(), p.requires_grad, p.grad) for name, p in module.named_parameters()},
        {name: (type(part), part.training, len(part._forward_hooks), len(part._forward_pre_hooks), len(vars(part)))
         for name, part in module.named_modules()},
        module.config.to_dict(),
        {name: float(p.detach().double().sum()) for name, p in module.named_parameters()},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["captum", "inseq"])
def test_what_every_analysis_promises(name):
    model, tokens, first = asked("gpt2")
    check_analysis(analysis(name), request(name, model, tokens, first, samples=12))


def test_every_method_of_inseq_is_offered_or_refused_for_a_reason():
    assert set(inseq_methods.METHODS) | NOT_OFFERED == set(inseq.list_feature_attribution_methods())
    assert not set(inseq_methods.METHODS) & NOT_OFFERED
    for name in NOT_OFFERED:
        assert name in inseq_methods.__doc__


@pytest.mark.parametrize("family", ["gpt2", "llama", "bart", "t5"])
@pytest.mark.parametrize("method", inseq_methods.METHODS)
def test_scores_of_inseq_come_back_and_nothing_stays(method, family):
    model, tokens, first = asked(family)
    options = {"method": method, "samples": 8, "baseline": "eos"}
    before, ids = state(model.module()), tokens.ids.tolist()
    if (method, family) in FAILS:
        with pytest.raises((ModelError, Unavailable), match=rf"^Inseq: {method} [^\n]*$"):
            answer("inseq", model, tokens, first, **options)
    else:
        result = answer("inseq", model, tokens, first, **options)
        samples = inseq_methods.METHODS[method].samples
        if method != "gradient_shap":  # which is random
            given = {samples: 8} if samples else {}
            theirs = attribute(random_module(family).eval(), byte_level_tokenizer(), method, tokens, first, 2, **given)
            parts = [t for t in (theirs.source_attributions, theirs.target_attributions) if t is not None]
            flat = np.concatenate([t.double().nan_to_num().numpy().reshape(*t.shape[:2], -1) for t in parts])
            flat = flat[: result.scores.shape[1]]
            vectors = inseq_methods.METHODS[method].vectors
            expected = (flat.sum(-1) if vectors else flat.mean(-1)).T
            size = np.abs(flat).sum(-1).max() / (1 if vectors else flat.shape[-1])
            if method == "occlusion":
                size = np.abs(answer("occlusion", model, tokens, first).target_values).max()
            np.testing.assert_allclose(result.scores, expected, rtol=0, atol=1e-5 * size)
        assert result.scores.any()
        assert any(method in line for line in result.info)
    assert state(model.module()) == before
    assert tokens.ids.tolist() == ids


def test_the_number_that_is_asked_for_is_what_inseq_explains():
    model, tokens, first = asked("gpt2")
    for function in ("logit", "probability", "log_probability", "entropy"):
        ours = answer("input_x_gradient", model, tokens, first, target_function=function)
        theirs = answer("inseq", model, tokens, first, target_function=function, method="input_x_gradient")
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5 * np.abs(ours.scores).max())
        assert theirs.unit == ours.unit
    ours = answer("input_x_gradient", model, tokens, first, target_function="contrast", contrast="a")
    theirs = answer("inseq", model, tokens, first, target_function="contrast", contrast="a", method="input_x_gradient")
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5 * np.abs(ours.scores).max())


@pytest.mark.parametrize("unit", ["word", "turn"])
def test_targets_and_sources_of_several_tokens(unit):
    model, tokens, first = asked("gpt2")
    for method, other in (("input_x_gradient", {}), ("saliency", {"aggregation": "l2"})):
        ours = answer(method, model, tokens, first, targets=unit, sources=unit, **other)
        theirs = answer("inseq", model, tokens, first, method=method, targets=unit, sources=unit, **other)
        if method == "input_x_gradient":
            np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5 * np.abs(ours.scores).max())
        assert theirs.scores.shape == ours.scores.shape


def test_the_token_that_would_come_next_can_be_asked_for():
    model, tokens, _ = asked("gpt2")
    ours = answer("input_x_gradient", model, tokens, None)
    theirs = answer("inseq", model, tokens, None, method="input_x_gradient")
    assert theirs.targets == ours.targets
    np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-5 * np.abs(ours.scores).max())


@pytest.mark.parametrize(
    ("method", "same", "params"),
    [
        ("feature_ablation", "occlusion", {"removal": "eos"}),
        ("layer_gradient_x_activation", "layer_gradient_x_activation", {"layer": 1}),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_captum_does_what_we_do_by_another_name(method, same, params, family):
    model, tokens, first = asked(family)
    ours = answer(same, model, tokens, first, **params)
    theirs = answer("captum", model, tokens, first, method=method, sources="token", baseline="eos", layer=1)
    np.testing.assert_allclose(theirs.scores, ours.scores, rtol=0, atol=1e-5 * np.abs(ours.target_values).max())


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_captums_samples_come_near_the_shapley_values(family):
    """Efficiency holds for each order by itself; a fit over all sets that were drawn comes near."""
    model, tokens, first = asked(family)
    options = {"sources": "word", "baseline": "eos"}
    ours = answer("shapley", model, tokens, first, **options)
    theirs = answer("captum", model, tokens, first, method="shapley_value_sampling", samples=25, **options)
    np.testing.assert_allclose(theirs.scores.sum(1), ours.scores.sum(1), atol=1e-4)
    fitted = answer("captum", model, tokens, first, method="kernel_shap", samples=1000, **options)
    size = np.abs(ours.scores).max()
    assert np.abs(theirs.scores - ours.scores).max() < 0.3 * size
    assert np.abs(fitted.scores - ours.scores).max() < 0.2 * size


def test_layers_of_captum_add_up():
    """To the difference between run and baseline, as integrated gradients do; conductance by 1/steps only."""
    model, tokens, first = asked("gpt2")
    ours = answer("integrated_gradients", model, tokens, first, baseline="eos", steps=64)
    options = {"baseline": "eos", "sources": "token", "layer": 1}
    whole = answer("captum", model, tokens, first, method="layer_integrated_gradients", samples=64, **options)
    np.testing.assert_allclose(whole.scores.sum(1), ours.scores.sum(1), atol=1e-4)
    few, many = (
        answer("captum", model, tokens, first, method="layer_conductance", samples=samples, **options)
        for samples in (64, 256)
    )
    gap = few.scores.sum(1) - ours.scores.sum(1)
    np.testing.assert_allclose(few.delta, gap, atol=1e-4)
    assert (np.abs(many.delta) < np.abs(few.delta) / 3).all()


@pytest.mark.parametrize("method", captum_methods.METHODS)
def test_captum_leaves_nothing_behind(method):
    import torch

    model, tokens, first = asked("gpt2")
    before = state(model.module())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    drawn = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    filters, levels = list(warnings.filters), [logging.getLogger(name).level for name in ("captum", "inseq")]
    one = answer("captum", model, tokens, first, method=method, samples=12, layer=1)
    assert (torch.rand(1), np.random.rand(), random.random()) == drawn
    again = answer("captum", model, tokens, first, method=method, samples=12, layer=1)
    np.testing.assert_array_equal(one.scores, again.scores)
    assert state(model.module()) == before
    assert warnings.filters == filters
    assert [logging.getLogger(name).level for name in ("captum", "inseq")] == levels
    for row, target in enumerate(one.targets):
        late = [source.index >= target.stop - 1 for source in one.sources]
        assert not one.scores[row, late].any()


def test_what_fails_is_one_line(monkeypatch):
    import captum.attr

    model, tokens, first = asked("gpt2")
    with pytest.raises(BadInput, match=r"Unknown layer 9\. This model has layers 0 to 2"):
        answer("captum", model, tokens, first, method="layer_conductance", layer=9)
    with pytest.raises(BadInput, match=r"Unknown layer 9\. This model has layers 0 to 2"):
        answer("inseq", model, tokens, first, method="layer_gradient_x_activation", layer=9)
    with pytest.raises(Unavailable, match="has an encoder and a decoder"):
        answer("captum", *asked("t5"), method="layer_conductance", layer=0)

    def broken(*args, **options):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(captum.attr.KernelShap, "attribute", broken)
    with pytest.raises(ModelError, match=r"^Captum: kernel_shap failed on GPT2LMHeadModel: two lines$"):
        answer("captum", model, tokens, first, method="kernel_shap")
