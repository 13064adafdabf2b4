"""Logit lens against a full softmax at every site, made from the modules by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attnviz.hooks import BadInput, ShapeError, Unavailable, UnknownName

TEXT = "The cat sat on the mat and what is 25 * 37?"
FAMILIES = ["gpt2", "llama", "gemma2", "granite", "cohere", "bert"]


def states_and_readout(family, module, ids):
    """[N, T, d] residual stream (embedding, block outputs) and a function to logits, written out per family."""
    import torch

    seen = []
    blocks = {"gpt2": lambda: module.transformer.h, "bert": lambda: module.bert.encoder.layer}
    stack = blocks.get(family, lambda: module.model.layers)()
    hooks = [stack[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))]
    hooks += [
        b.register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out)) for b in stack
    ]
    with torch.no_grad():
        logits = module(input_ids=torch.tensor(ids[None].copy())).logits[0].double().numpy()
    for hook in hooks:
        hook.remove()

    def readout(x):
        if family == "bert":
            return module.cls(x)
        if family == "gpt2":
            return module.lm_head(module.transformer.ln_f(x))
        z = module.lm_head(module.model.norm(x))
        if family == "gemma2":
            return 3.0 * torch.tanh(z / 3.0)
        return z / 4.0 if family == "granite" else z * 0.25 if family == "cohere" else z

    with torch.no_grad():
        rows = np.stack([readout(s[0]).double().numpy() for s in seen])
    assert np.abs(rows[-1] - logits).max() < 1e-5
    rows[-1] = logits
    return rows


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def run(model, tokens, positions, targets, top_k=3, sites="blocks"):
    return model.lens(tokens, positions=positions, top_k=top_k, targets=targets, sites=sites)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_column_is_that_of_a_full_softmax(family, loaded, eager, monkeypatch):
    from attnviz.plugins.backends import lens

    monkeypatch.setattr(lens, "_ROWS", 12)  # several chunks
    model = loaded(family)
    tokens = model.tokenize(TEXT)
    positions = list(range(2, len(tokens)))
    targets = [*tokens.ids[3:].tolist(), -1]
    table = run(model, tokens, positions, targets)
    logits = states_and_readout(family, eager(family), tokens.ids)[:, positions]  # [N, P, V]
    lp = log_softmax(logits)
    p, model_p = np.exp(lp), np.exp(lp[-1])
    middle = np.log((p + model_p) / 2)
    bits = np.log(2)

    assert table.sites == ("embedding", "block 0", "block 1", "model")
    assert table.self_check.ok
    assert table.self_check.max_abs_diff <= 1e-5
    np.testing.assert_allclose(table.top_logprobs, -np.sort(-lp, axis=-1)[:, :, :3], atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(lp, table.top_ids, 2), table.top_logprobs, atol=1e-4)
    np.testing.assert_allclose(table.entropy, -(p * lp).sum(-1) / bits, atol=1e-4)
    np.testing.assert_allclose(table.kl_model_lens, (model_p * (lp[-1] - lp)).sum(-1) / bits, atol=1e-4)
    np.testing.assert_allclose(table.kl_lens_model, (p * (lp - lp[-1])).sum(-1) / bits, atol=1e-4)
    shannon = ((p * (lp - middle)).sum(-1) + (model_p * (lp[-1] - middle)).sum(-1)) / 2 / bits
    np.testing.assert_allclose(table.jensen_shannon, shannon, atol=1e-4)
    np.testing.assert_allclose(table.total_variation, np.abs(p - model_p).sum(-1) / 2, atol=1e-4)
    for name in ("kl_model_lens", "kl_lens_model", "jensen_shannon", "total_variation"):
        assert (getattr(table, name)[-1] == 0).all()
        assert (getattr(table, name) >= 0).all()
    assert (table.total_variation <= 1).all()
    assert (table.jensen_shannon <= 1).all()

    for column, target in enumerate(targets):
        if target < 0:
            assert (table.target_rank[:, column] == -1).all()
            assert np.isnan(table.target_logprob[:, column]).all()
        else:
            ranks = (logits[:, column] > logits[:, column, [target]]).sum(-1)
            assert np.abs(table.target_rank[:, column] - ranks).max() <= 1  # float32 ties against float64
            np.testing.assert_allclose(table.target_logprob[:, column], lp[:, column, target], atol=1e-4)
    assert set(table.labels) == set(table.top_ids.ravel().tolist()) | {t for t in targets if t >= 0}
    assert all(table.labels[i] == model.label(i) for i in table.labels)


def test_settling_is_the_first_site_from_which_the_choice_stays():
    from attnviz.plugins.backends.lens import _settles

    agrees = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)  # [N, P]
    assert _settles(agrees).tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_settling_on_a_model(family, loaded):
    model = loaded(family)
    tokens = model.tokenize(TEXT)
    table = run(model, tokens, range(len(tokens)), [-1] * len(tokens), top_k=5)
    for column in range(len(tokens)):
        top = table.top_ids[-1, column, 0]
        steady = [all(table.top_ids[s:, column, 0] == top) for s in range(4)]
        among = [all((table.top_ids[s:, column] == top).any(-1)) for s in range(4)]
        assert table.settles_at[column] == steady.index(True)
        assert table.settles_in_top5[column] == among.index(True)


def test_states_after_attention(loaded, eager):
    """Llama: the input of post_attention_layernorm is the stream after attention."""
    import torch

    model, module = loaded("llama"), eager("llama")
    tokens = model.tokenize(TEXT)
    table = run(model, tokens, [4], [-1], sites="sublayers")
    assert table.sites == (
        "embedding", "attention 0", "block 0", "attention 1", "block 1", "attention 2", "model",
    )  # fmt: skip
    seen = []
    hook = module.model.layers[1].post_attention_layernorm.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        module(input_ids=torch.tensor(tokens.ids[None].copy()))
        hook.remove()
        expected = torch.log_softmax(module.lm_head(module.model.norm(seen[0][0, 4])), -1).sort(descending=True)
    np.testing.assert_allclose(table.top_logprobs[3, 0], expected.values[:3], atol=1e-4)
    assert table.top_ids[3, 0].tolist() == expected.indices[:3].tolist()


def test_blocks_without_one_residual_stream_have_no_state_after_attention(loaded):
    model = loaded("bert")
    tokens = model.tokenize(TEXT)
    with pytest.raises(Unavailable, match="no state after attention"):
        run(model, tokens, [4], [-1], sites="sublayers")


def test_a_model_without_logits_has_no_lens(loaded):
    model = loaded("bert_base")
    assert "not a language model" in model.card.missing["logits"]
    with pytest.raises(Unavailable, match="not a language model"):
        run(model, model.tokenize(TEXT), [1], [-1])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_readout_that_does_not_give_the_logits_is_refused(family, model_folder):
    """A model that does something of its own between final norm and unembedding."""
    import torch

    from attnviz.hooks import ModelSpec
    from attnviz.plugins.backends.hf import load

    model = load(ModelSpec(str(model_folder(family))))
    module = model.loaded.module
    head = module.lm_head.forward
    module.lm_head.forward = lambda x: head(x) if x.ndim == 2 else head(x * 1.01)
    from attnviz.plugins.backends.readout import find_readout

    with pytest.raises(Unavailable, match="do not give the model's logits"):
        find_readout(module, model.card.vocabulary)
    # the same fault after loading shows in the self-check of every table
    table = run(model, model.tokenize(TEXT), [3], [-1])
    assert not table.self_check.ok
    assert table.self_check.max_abs_diff > 1e-3
    assert table.warnings
    assert isinstance(module, torch.nn.Module)


def test_requests_that_do_not_fit_are_refused(loaded):
    model = loaded("llama")
    tokens = model.tokenize(TEXT)
    with pytest.raises(BadInput, match=f"position {len(tokens)} is outside"):
        run(model, tokens, [len(tokens)], [-1])
    with pytest.raises(BadInput, match="at least one position"):
        run(model, tokens, [], [])
    with pytest.raises(ShapeError):
        run(model, tokens, [1, 2], [-1])
    with pytest.raises(BadInput, match="top_k"):
        run(model, tokens, [1], [-1], top_k=0)
    with pytest.raises(BadInput, match="vocabulary"):
        run(model, tokens, [1], [-1], top_k=10_000)
    with pytest.raises(BadInput, match="target id 99999"):
        run(model, tokens, [1], [99_999])
    with pytest.raises(UnknownName, match="blocks, sublayers"):
        run(model, tokens, [1], [-1], sites="mlp")
    with pytest.raises(BadInput, match="outside the vocabulary"):
        run(model, replace(tokens, ids=tokens.ids + 10_000), [1], [-1])
