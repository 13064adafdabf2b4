"""The same numbers inside a trace as without one, on every kind of decoder and on encoders."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from attnviz.hooks import ModelError, ModelSpec, Sampling, Want
from attnviz.plugins.backends import hf, nnsight
from attnviz.plugins.backends.attention_function import collecting
from tests.backends.families import FAMILIES, WANT, inputs_of, patterns, random_module, random_tokens
from tests.backends.test_every_family import Broken, Editor, same_in_four_threads, state_of

ATTENDING = [name for name, family in FAMILIES.items() if family.attending and name != "whisper"]
INTERFACE = [name for name in ATTENDING if FAMILIES[name].route == "interface"]


def test_a_model_that_hears_is_refused(tokenizers_by_kind):
    with pytest.raises(ModelError, match="hears, and nnsight runs models on text"):
        nnsight.load(ModelSpec("whisper", objects=(random_module("whisper"), tokenizers_by_kind["bytes"])))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "whisper"])
def test_a_trace_changes_no_number(family, tokenizers_by_kind):
    module = random_module(family)
    tokens = random_tokens(module)
    spec = ModelSpec(family, objects=(module, tokenizers_by_kind["bytes"]))
    plain, traced = hf.load(spec), nnsight.load(spec)
    assert traced.card.route == FAMILIES[family].route
    assert (traced.card.layers, traced.card.missing) == (plain.card.layers, plain.card.missing)
    assert traced.card.capabilities == plain.card.capabilities
    if "attention" in plain.card.capabilities:
        same_attention(plain.trace(tokens, Want()), traced.trace(tokens, Want()))
    for sites in sites_of(plain):
        question = {"positions": [(tokens.decoder_from or 0) + 3, 20], "top_k": 4, "targets": [5, -1], "sites": sites}
        same_table(plain.lens(tokens, **question), traced.lens(tokens, **question))
    if "generation" in plain.card.capabilities:
        for sampling in (Sampling(4), Sampling(4, temperature=1.2, top_p=0.9, repetition_penalty=1.3, seed=4)):
            expected = plain.generate(tokens, sampling)
            np.testing.assert_array_equal(traced.generate(tokens, sampling).ids, expected.ids)


def sites_of(model):
    if "logits" not in model.card.capabilities:
        return []
    return ["blocks", "sublayers"] if model.readout.attention else ["blocks"]


def same_attention(plain, traced):
    assert traced.precision == plain.precision
    assert traced.missing == plain.missing
    for a, b in zip(plain.layers, traced.layers, strict=True):
        if a is None:
            assert b is None
            continue
        for head in range(a.heads):
            np.testing.assert_allclose(b.pattern(head), a.pattern(head), atol=1e-5)
        assert (a.queries, a.keys) == (b.queries, b.keys)
        for name in ("entropy", "row_max", "distance", "column_sum", "allowed", "seen_by", "thumbnail"):
            np.testing.assert_allclose(getattr(b, name), getattr(a, name), atol=1e-5, rtol=0)


def same_table(plain, traced):
    assert traced.sites == plain.sites
    assert traced.self_check.ok == plain.self_check.ok
    np.testing.assert_array_equal(traced.top_ids, plain.top_ids)
    for name in ("top_logprobs", "entropy", "kl_model_lens", "kl_lens_model", "jensen_shannon", "target_logprob"):
        np.testing.assert_allclose(getattr(traced, name), getattr(plain, name), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def traced(built):
    """family -> the model behind nnsight, with the weights of `built`; made once."""
    models = {}

    def make(family, tokenizers_by_kind):
        if family not in models:
            spec = ModelSpec(family, objects=(built(family)[1], tokenizers_by_kind["bytes"]))
            models[family] = nnsight.load(spec)
        return models[family]

    return make


@pytest.mark.parametrize("family", ATTENDING)
def test_nothing_stays_after_a_trace_or_after_one_that_broke(family, traced, tokenizers_by_kind):
    model = traced(family, tokenizers_by_kind)
    module = model.module()
    tokens = random_tokens(module)
    first, before = model.trace(tokens, WANT), state_of(module)

    def fail(*args):
        raise Broken

    parts = [part for part in module.modules() if not list(part.children())]
    handle = parts[len(parts) // 2].register_forward_hook(fail)
    try:
        with pytest.raises(Broken):
            model.trace(tokens, WANT)
    finally:
        handle.remove()
    again = model.trace(tokens, WANT)
    assert state_of(module) == before
    for one, two in zip(first.layers, again.layers, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(patterns(one), patterns(two))


@pytest.mark.parametrize("family", ATTENDING)
def test_four_threads_trace_what_one_does(family, traced, tokenizers_by_kind):
    same_in_four_threads(traced(family, tokenizers_by_kind))


@pytest.mark.parametrize("family", INTERFACE)
def test_another_pattern_inside_a_trace_gives_other_predictions(family, traced, tokenizers_by_kind):
    model = traced(family, tokenizers_by_kind)
    tokens = random_tokens(model.module())

    def output(editor=None):
        held = contextlib.nullcontext() if editor is None else collecting(editor)
        with held, model.envoy.trace(inputs_of(tokens)):
            found = model.envoy.output.save()
        return found[0][0].detach()

    plain = output()
    for layer in FAMILIES[family].attending:
        same, flat = (Editor(layer, model.route.calls, flat=flat) for flat in (False, True))
        assert float((output(same) - plain).abs().max()) <= 1e-5
        assert float((output(flat) - plain).abs().max()) > 1e-4
        assert same.edited == flat.edited == 1
