"""Vision and time-series models of transformers against their own eager attention."""

from __future__ import annotations

import copy
import runpy
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.hooks import BadInput, ModelError, ModelSpec, ShapeError, Unavailable, Want
from attnviz.plugins.backends import arrays, hf
from attnviz.registry import load_registry
from attnviz.session import Session
from tests.backends.arrays import (
    FAMILIES,
    arguments,
    compare,
    example,
    forward,
    load,
    numbers,
    random_module,
    run_eager,
)
from tests.backends.families import patterns

PICTURES = [name for name, family in FAMILIES.items() if len(family.shape) == 3]


@pytest.fixture(scope="module")
def built():
    """family -> (the backend's model, a module of the same weights with eager attention); built once."""
    models = {}

    def build(family):
        if family not in models:
            module = random_module(family)
            models[family] = (load(module), module)
        return models[family]

    return build


@pytest.mark.parametrize("family", FAMILIES)
def test_numbers_are_those_of_eager_attention(family, built):
    model, module = built(family)
    values = example(family, seed=3)
    found = compare(model, values, *run_eager(module, family, values), forward(arguments(family, values)))
    assert found.maps <= 1e-5
    assert found.statistics <= 2e-5
    assert found.outputs <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_says_what_is_read_and_what_is_missing(family, built):
    expected, card = FAMILIES[family], built(family)[0].card
    assert (card.route, card.vocabulary) == ("interface", 0)
    assert card.positions + (card.source_positions or 0) == expected.tokens
    kinds = ["full", "full", "cross"] if expected.stacks else ["full"]
    assert [layer.kind for layer in card.layers] == [kind for kind in kinds for _ in range(expected.layers)]
    assert {(layer.heads, layer.kv_heads) for layer in card.layers} == {(expected.heads, expected.heads)}
    assert card.causal == expected.stacks
    assert "transformers' eager maps" in card.route_reason
    assert any(str(list(expected.shape)) in note for note in card.notes)
    lacking = {"logits", "hidden_states", "generation", "gradients", "interventions"}
    assert set(card.missing) == (lacking | {"sensors"} if family in PICTURES else lacking)
    assert all(card.missing.values())


@pytest.mark.parametrize(
    ("family", "labels", "special"),
    [
        ("vit", ["CLS", "patch 0,0", "patch 0,1", "patch 0,2", "patch 0,3", "patch 1,0"], [0]),
        ("deit", ["CLS", "distillation", "patch 0,0"], [0, 1]),
        ("dinov3", ["CLS", "register 0", "register 1", "patch 0,0"], [0, 1, 2]),
        ("ijepa", ["patch 0,0", "patch 0,1"], []),
        ("patchtst", ["t 0–7", "t 4–11", "t 8–15"], []),
        ("patchtst_cls", ["CLS", "t 0–7", "t 4–11"], [0]),
        ("time_series", ["t 3", "t 4", "t 5"], []),
    ],
)
def test_tokens_are_named_for_people(family, labels, special, built):
    values = example(family)
    tokens = built(family)[0].tokenize_values(values)
    assert list(tokens.labels[: len(labels)]) == labels
    assert np.flatnonzero(tokens.special).tolist() == special
    assert (tokens.ids == -1).all()
    assert len(tokens) == FAMILIES[family].tokens
    np.testing.assert_array_equal(tokens.values, values)


def test_each_patch_is_where_its_name_says(built):
    """Only the embedding of the patch that is changed changes."""
    import torch

    module = built("vit")[1]
    values = numbers(3, 32, 32)
    tokens = built("vit")[0].tokenize_values(values)
    changed = values.copy()
    changed[:, 16:24, 8:16] += 1  # third row of patches, second column
    with torch.no_grad():
        before, after = (module.vit.embeddings(torch.tensor(v[None]))[0] for v in (values, changed))
    moved = np.flatnonzero((before != after).any(dim=-1).numpy())
    assert [tokens.labels[i] for i in moved] == ["patch 2,1"]


def test_a_series_that_patches_do_not_fill_loses_its_beginning():
    """38 steps in patches of 8, every 4: the first two steps are in none."""
    import torch
    import transformers

    options = {**FAMILIES["patchtst"].options, "context_length": 38}
    module = transformers.PatchTSTForPrediction(transformers.PatchTSTConfig(**options)).eval()
    labels = load(module).tokenize_values(numbers(38, 3)).labels
    assert (labels[0], labels[-1]) == ("t 2–9", "t 30–37")
    patches = module.model.patchifier(torch.arange(38.0)[None, :, None].expand(1, 38, 3))[0, 0]
    assert (patches[0].tolist(), patches[-1].tolist()) == (list(range(2, 10)), list(range(30, 38)))


def test_channels_are_never_averaged(built):
    """Head 4 · c + h is head h of channel c: a change of channel 1 changes heads 4 to 7 only."""
    model = built("patchtst")[0]
    values = numbers(36, 3)
    changed = values.copy()
    changed[:, 1] = changed[::-1, 1]
    before, after = (patterns(model.trace(model.tokenize_values(v), Want()).layer(1)) for v in (values, changed))
    differ = np.flatnonzero(np.abs(before - after).max(axis=(1, 2)) > 1e-6)
    assert differ.tolist() == [4, 5, 6, 7]
    assert any("head = 4 · channel + head" in note for note in model.card.notes)


OUTPUTS = {
    "vit": ("layers.1.attention", "o_proj"),
    "clip_vision": ("layers.1.self_attn", "out_proj"),
    "patchtst": ("layers.1.self_attn", "out_proj"),
}


@pytest.mark.parametrize("family", OUTPUTS)
def test_norms_of_values_are_those_of_the_projection(family, built):
    """‖v_k W_O,h‖ from the module's own weights, one key and head at a time."""
    import torch

    model, module = built(family)
    values = numbers(*FAMILIES[family].shape)
    attention_name, output_name = OUTPUTS[family]
    attention = next(part for name, part in module.named_modules() if name.endswith(attention_name))
    given = []
    hook = attention.v_proj.register_forward_hook(lambda part, args, output: given.append(output))
    run_eager(module, family, values)
    hook.remove()
    weight = getattr(attention, output_name).weight.detach()  # [d, H·D]
    heads = given[0].unflatten(-1, (4, -1)).permute(0, 2, 1, 3).flatten(0, 1)  # [n·H, K, D]
    expected = torch.stack(
        [(v @ weight[:, (i % 4) * 16 : (i % 4 + 1) * 16].T).norm(dim=-1) for i, v in enumerate(heads)]
    )
    layer = model.trace(model.tokenize_values(values), Want(values=True)).layer(1)
    np.testing.assert_allclose(layer.value_norm, expected.detach(), rtol=1e-5)


def test_past_and_future_are_one_run(built):
    """Rows 3 to 26 are read by the encoder, rows 27 to 34 by the decoder; rows 0 to 2 are only looked back at."""
    model = built("time_series")[0]
    tokens = model.tokenize_values(example("time_series"))
    assert (tokens.decoder_from, tokens.labels[23:25]) == (24, ("t 26", "t 27"))
    assert [(segment.role, segment.start, segment.stop) for segment in tokens.segments] == [
        ("source", 0, 24),
        ("target", 24, 32),
    ]
    trace = model.trace(tokens, Want())
    assert [layer.name for layer in model.card.layers] == [
        f"{stack} {n}" for stack in ("encoder", "decoder", "cross") for n in (0, 1)
    ]
    spans = [(layer.queries, layer.keys, layer.causal) for layer in trace.layers]
    assert spans[::2] == [((0, 24), (0, 24), False), ((24, 32), (24, 32), True), ((24, 32), (0, 24), False)]
    assert np.isnan(trace.layer(4).distance).all()
    assert "counted apart" in trace.layer(4).absent["distance"]
    assert model.estimate(32, Want(), 24).bytes == trace.nbytes


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (4, 3, 1.5, "Column 4 of the series: expected the same number in every row"),
        (4, slice(None), 3, "Column 4 of the series: expected a whole number from 0 to 2, got 3"),
        (4, slice(None), 0.5, "Column 4 of the series: expected a whole number from 0 to 2, got 0.5"),
        (5, 0, 9, "Column 5 of the series: expected the same number in every row"),
    ],
)
def test_what_stays_the_same_for_a_series_is_checked(column, row, value, message, built):
    values = example("time_series_static")
    values[row, column] = value
    with pytest.raises(BadInput, match=message):
        built("time_series_static")[0].tokenize_values(values)


# --------------------------------------------------------------------------------------------- loading


@pytest.fixture(scope="module")
def session():
    return Session(load_registry(entry_points=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    random_module("vit").save_pretrained(path)
    return path


def test_a_folder_goes_to_the_backend_that_reads_numbers(folder, session):
    assert "reads numbers, not text" in hf.handles(ModelSpec(str(folder)))
    model = session.load(folder)
    assert model.spec.backend == "arrays"
    assert model.card.weights_digest == arrays.weights_digest(ModelSpec(str(folder)))
    run = model.trace(array=numbers(3, 32, 32))
    expected = run_eager(random_module("vit"), "vit", numbers(3, 32, 32))[0]
    np.testing.assert_allclose(run.attention(1, 2), expected[1][2], atol=1e-5)


@pytest.mark.parametrize("pair", [True, False])
def test_a_module_alone_or_without_a_tokenizer(pair, session):
    module = random_module("patchtst")
    model = session.load((module, None) if pair else module)
    assert model.spec.backend == "arrays"
    assert model.trace(array=numbers(36, 3)).attention(0, 11).shape == (8, 8)


def test_the_users_module_is_not_touched():
    module = random_module("vit").train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    config = copy.deepcopy(module.config.to_dict())
    model = load(module)
    model.trace(model.tokenize_values(numbers(3, 32, 32)), Want())
    assert module.training
    assert module.config.to_dict() == config
    assert module.config._attn_implementation == "eager"
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    assert all((tensor == state[name]).all() for name, tensor in module.state_dict().items())
    assert model.module() is not module
    pairs = zip(model.module().parameters(), module.parameters(), strict=True)
    assert all(own.data_ptr() == theirs.data_ptr() for own, theirs in pairs)


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("informer", {"prediction_length": 4, "context_length": 8, "lags_sequence": [1], "num_time_features": 1},
         "InformerModel .informer. cannot be shown: its ProbSparse layers"),
        ("swin", {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1], "num_heads": [2]},
         "SwinModel .swin. cannot be shown: it attends within windows"),
        ("convnext", {"num_stages": 1, "hidden_sizes": [8], "depths": [1]},
         "ConvNextModel .convnext. is none of the models that it knows to read numbers"),
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 20},
         "MambaModel .mamba. is none of the models that it knows to read numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_refused_by_name(kind, options, why, session):
    import transformers

    module = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **options))
    with pytest.raises(ModelError, match=why):
        session.load(module)


def test_a_model_that_masks_at_random_is_refused():
    import transformers

    module = transformers.PatchTSTForPretraining(transformers.PatchTSTConfig(**FAMILIES["patchtst"].options))
    with pytest.raises(ModelError, match="PatchTSTForPretraining draws random numbers when it runs"):
        load(module)


def test_attention_over_channels_is_named_as_missing():
    import transformers

    options = {**FAMILIES["patchtst"].options, "channel_attention": True, "num_hidden_layers": 2}
    model = load(transformers.PatchTSTForPrediction(transformers.PatchTSTConfig(**options)))
    assert [layer.kind for layer in model.card.layers] == ["full", "none", "full", "none"]
    trace = model.trace(model.tokenize_values(numbers(36, 3)), Want())
    assert trace.missing == dict.fromkeys(
        (1, 3), "It attends in 8 sequences of 3 at once, where the model has 8 tokens."
    )
    assert trace.layer(2).heads == 12


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((3, 32, 31)),
            r"Picture: expected shape \[channel, height, width\] = \[3, 32, 32\], got \[3, 32, 31\]",
        ),
        (np.zeros((1, 3, 32, 32)), r"got \[1, 3, 32, 32\]"),
        (np.zeros(3), r"got \[3\]"),
        (np.full((3, 32, 32), np.nan), r"expected finite numbers, got nan at \[0, 0, 0\]"),
        (np.full((3, 32, 32), 1e300), r"expected finite numbers, got 1e\+300"),
        (np.zeros((3, 32, 32), complex), "expected an array of numbers, got one of complex128"),
        (np.full((3, 32, 32), "a"), "expected an array of numbers"),
        (np.zeros((0, 32, 32)), r"with numbers in it, got one of shape \[0, 32, 32\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(values, message, built):
    with pytest.raises(BadInput, match=f"(?i){message}") as refusal:
        built("vit")[0].tokenize_values(values)
    assert "\n" not in str(refusal.value)


def test_text_for_numbers_and_numbers_for_text_are_refused(built, folder, session):
    vit = session.load(folder)
    with pytest.raises(BadInput, match=r"reads numbers, not text: expected an array .* trace\(array=…\)"):
        vit.trace("a picture of a cat")
    with pytest.raises(Unavailable, match=r"cannot generate\. ViTForImageClassification reads numbers, not text"):
        vit.generate("a picture of a cat")
    with pytest.raises(BadInput, match="demo reads text, not an array of numbers"):
        attnviz.load("demo").trace(array=numbers(3, 32, 32))
    with pytest.raises(BadInput, match="got both a text and an array"):
        vit.trace("a", array=numbers(3, 32, 32))
    with pytest.raises(ShapeError, match="Series: expected shape"):
        built("patchtst")[0].trace(vit.tokenize(array=numbers(3, 32, 32)), Want())


def test_what_needs_a_vocabulary_says_why(folder, session):
    run = session.load(folder).trace(array=numbers(3, 32, 32))
    with pytest.raises(Unavailable, match=r"Logit lens is not available .* has no vocabulary"):
        run.analyze("logit_lens")
    with pytest.raises(Unavailable, match="reads numbers: there are no tokens to draw"):
        run.analyze("head_roles", ground="repeated random tokens")
    roles = run.analyze("head_roles").result
    assert np.isnan(roles.metrics["induction"]).all()
    assert np.isfinite(roles.metrics["previous_token"]).all()


def test_analyses_of_a_picture(folder, session):
    run = session.load(folder).trace(array=numbers(3, 32, 32))
    maps = np.stack([np.stack([run.attention(layer, head) for head in range(4)]) for layer in range(3)]).astype(float)
    pattern = run.analyze("attention_pattern", layer=2, head="mean").result
    np.testing.assert_allclose(pattern.weights, maps[2].mean(0), atol=1e-6)
    stats = run.analyze("attention_stats").result
    assert stats.sinks[0] == 0
    assert (stats.sinks == (0,)) or len(stats.sinks) < 17  # CLS is listed, patches only where they are found to be
    np.testing.assert_allclose(stats.metrics["mean_row_max"], maps.max(-1).mean(-1), atol=1e-5)
    rolled = np.eye(17)
    for layer in maps:
        mixed = (layer.mean(0) + np.eye(17)) / 2
        rolled = mixed / mixed.sum(-1, keepdims=True) @ rolled
    np.testing.assert_allclose(run.analyze("attention_rollout").result.scores, rolled, atol=1e-5)
    weighted = run.analyze("value_weighted_attention", layer=1, head=0).result
    norms = run.model.session.model(run.run.spec).trace(run.tokens, Want(values=True)).layer(1).value_norm
    np.testing.assert_allclose(weighted.scores, maps[1][0] * norms[0], atol=1e-5)


# --------------------------------------------------------------------------------------------- the page of families


ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_families_lists_what_is_tested():
    """Names, arrays and layers; the figures are those of the machine that wrote it."""
    part = (ROOT / "docs" / "families.md").read_text("utf-8").split("## Models that read numbers")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
    assert rows[0][:5] == ["model", "class", "array", "tokens", "layers × heads"]
    assert [row[0] for row in rows[2:]] == [*FAMILIES, "torch encoder"]
    assert [[row[2], row[3]] for row in rows[2:-1]] == [
        [" × ".join(map(str, family.shape)), str(family.tokens)] for family in FAMILIES.values()
    ]


@pytest.mark.parametrize("family", ["vit", "time_series", "torch encoder"])
def test_the_page_of_families_is_what_its_program_writes(family):
    program = runpy.run_path(str(ROOT / "docs" / "families.py"))
    cells = program["measure_numbers"](family)
    text = (ROOT / "docs" / "families.md").read_text("utf-8")
    assert any(line.startswith(f"| {' | '.join(cells[:5])} |") for line in text.splitlines())
    assert all(float(figure) <= 2e-5 for figure in cells[5:])
