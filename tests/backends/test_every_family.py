"""What holds of every family: the captured attention is the one the model uses, threads do not meet, nothing stays."""

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from attnviz.plugins.backends.attention_function import collecting, explicit_attention
from tests.backends.families import FAMILIES, WANT, inputs_of, patterns, random_tokens

ATTENDING = [name for name, family in FAMILIES.items() if family.attending]
INTERFACE = [name for name in ATTENDING if FAMILIES[name].route == "interface"]


class Editor:
    """Puts a pattern of its own in place of one layer's: that of queries that are all 0, so the same for every key."""

    def __init__(self, layer, calls, *, flat):
        self.layer, self.calls, self.flat, self.counts, self.edited = layer, calls, flat, Counter(), 0

    def attend(self, call):
        key = (id(call.module), self.counts[id(call.module)])
        self.counts[id(call.module)] += 1
        if self.calls.get(key) != self.layer:
            return None
        self.edited += 1
        return explicit_attention(replace(call, query=call.query * 0) if self.flat else call)


def output_of(model, editor=None):
    import torch

    tokens = random_tokens(model.module())
    with torch.no_grad():
        if editor is None:
            return model.module()(**inputs_of(tokens))[0][0]
        with collecting(editor):
            return model.module()(**inputs_of(tokens))[0][0]


@pytest.mark.parametrize("family", INTERFACE)
def test_another_pattern_gives_other_predictions(family, built):
    model = built(family)[0]
    plain = output_of(model)
    for layer in FAMILIES[family].attending:
        same, flat = (Editor(layer, model.route.calls, flat=flat) for flat in (False, True))
        assert float((output_of(model, same) - plain).abs().max()) <= 1e-5
        assert float((output_of(model, flat) - plain).abs().max()) > 1e-4
        assert same.edited == flat.edited == 1


def state_of(module):
    """All that a capture could leave behind."""
    parts = [
        (
            len(part._forward_hooks),
            len(part._forward_pre_hooks),
            len(part._backward_hooks),
            part.training,
            type(part),
        )
        for part in module.modules()
    ]
    tensors = [(p.requires_grad, p.grad, p.data_ptr()) for p in (*module.parameters(), *module.buffers())]
    return parts, tensors, module.config._attn_implementation, module.config.to_dict()


class Broken(Exception):
    """Raised in the middle of a forward pass."""


@pytest.mark.parametrize("family", ATTENDING)
def test_nothing_stays_after_a_pass_or_after_one_that_broke(family, built):
    import torch

    model = built(family)[0]
    module, tokens = model.module(), random_tokens(model.module())
    before, default = state_of(module), torch.get_default_dtype()
    first = model.trace(tokens, WANT)
    assert state_of(module) == before

    def fail(*args):
        raise Broken

    parts = [part for part in module.modules() if not list(part.children())]
    handle = parts[len(parts) // 2].register_forward_hook(fail)
    try:
        with pytest.raises(Broken):
            model.trace(tokens, WANT)
    finally:
        handle.remove()
    assert state_of(module) == before
    assert torch.get_default_dtype() == default
    again = model.trace(tokens, WANT)
    for one, two in zip(first.layers, again.layers, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            np.testing.assert_array_equal(patterns(one), patterns(two))


@pytest.mark.parametrize("family", ATTENDING)
def test_four_threads_give_what_one_gives(family, built):
    same_in_four_threads(built(family)[0])


def same_in_four_threads(model):
    tokens = random_tokens(model.module())
    expected = model.trace(tokens, WANT)
    found, failures = [], []

    def work():
        try:
            found.append(model.trace(tokens, WANT))
        except Exception as error:  # any at all is a failure, and belongs to the test
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(found) == 4
    for trace in found:
        for one, two in zip(expected.layers, trace.layers, strict=True):
            if one is not None:
                np.testing.assert_allclose(patterns(two), patterns(one), atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_a_collector_goes_with_a_copied_context_and_not_with_a_bare_thread(family, built):
    model = built(family)[0]
    seen = []
    for copied in (True, False):
        editor = Editor(FAMILIES[family].attending[0], model.route.calls, flat=True)
        with collecting(editor):
            run, given = (contextvars.copy_context().run, (output_of, model)) if copied else (output_of, (model,))
            thread = threading.Thread(target=run, args=given)
            thread.start()
            thread.join()
        seen.append(editor.edited)
    assert seen == [1, 0]
