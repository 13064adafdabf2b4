"""Plain modules of PyTorch against the maps and outputs that PyTorch itself gives."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from attnviz.hooks import BadInput, ModelError, Want
from attnviz.plugins.backends import function_mode
from attnviz.plugins.backends.arrays_route import Sizes
from tests.backends.arrays import apart, compare, first, forward, load, numbers, own_maps, perturbed
from tests.backends.arrays import torch_encoder as encoder
from tests.backends.families import patterns

LENGTH, WIDTH = 12, 16


class Block(nn.Module):
    """nn.MultiheadAttention as a module of the user's calls it."""

    def __init__(self, masks=None, call=None, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, **options)
        self.masks, self.call = masks or {}, call or {}

    def forward(self, x):
        output, weights = self.attention(x, x, x, **self.masks, **self.call)
        return output if weights is None else (output, weights)


def check(module, values, batch=0, example=None):
    """Maps and outputs ≤ 1e-5, statistics ≤ 2e-5."""
    model = load(module, example)
    maps, output = own_maps(module, values, batch)
    given = torch.tensor(values) if batch is None else torch.tensor(values).unsqueeze(batch)
    found = compare(model, values, maps, output, forward(given))
    assert found.maps <= 1e-5
    assert found.statistics <= 2e-5
    assert found.outputs <= 1e-5
    return model


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_an_encoder_of_pytorch(batch_first, norm_first):
    model = check(encoder(batch_first, norm_first=norm_first), numbers(LENGTH, WIDTH), 0 if batch_first else 1)
    assert [(layer.kind, layer.heads) for layer in model.card.layers] == [("full", 4)] * 2
    assert model.card.positions is None
    assert model.tokenize_values(numbers(5, WIDTH)).labels == ("t 0", "t 1", "t 2", "t 3", "t 4")
    assert any(note == "layers: 0 = layers.0.self_attn, 1 = layers.1.self_attn" for note in model.card.notes)


def test_one_layer_of_an_encoder():
    check(perturbed(nn.TransformerEncoderLayer(WIDTH, 2, 24, batch_first=True)), numbers(LENGTH, WIDTH))


def test_the_fused_path_of_pytorch_is_left_while_it_is_watched():
    """With gradients off the layer would run torch._transformer_encoder_layer_fwd, which gives no attention."""
    module = encoder(True)
    sizes = Sizes()
    function_mode.follow(module)
    with torch.inference_mode(), function_mode.watching(sizes):
        module(torch.tensor(numbers(1, LENGTH, WIDTH)))
    assert [(seen.queries, seen.keys, seen.heads) for seen in sizes.seen] == [(LENGTH, LENGTH, 4)] * 2


def test_multihead_attention_alone():
    module = perturbed(nn.MultiheadAttention(WIDTH, 4))
    model = load(module)
    x = torch.tensor(numbers(LENGTH, WIDTH))
    with torch.no_grad():
        expected = module(x, x, x, average_attn_weights=False)[1]
    found = patterns(model.trace(model.tokenize_values(x.numpy()), Want()).layer(0))
    assert apart(found, expected.numpy()) <= 1e-5


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)  # True = left out
DISTANCE = -0.3 * (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs().float()
PADDED = torch.arange(LENGTH) >= 9
PER_HEAD = torch.stack([DISTANCE * scale for scale in (0.0, 0.5, 1.0, 2.0)])
MASKS = {
    "none": {},
    "bool": {"attn_mask": CAUSAL},
    "infinities": {"attn_mask": torch.zeros(LENGTH, LENGTH).masked_fill(CAUSAL, float("-inf"))},
    "float": {"attn_mask": DISTANCE},
    "per head": {"attn_mask": PER_HEAD},
    "padding": {"key_padding_mask": PADDED[None]},
    "padding in float": {"key_padding_mask": torch.zeros(1, LENGTH).masked_fill(PADDED, float("-inf"))},
    "both": {"attn_mask": CAUSAL, "key_padding_mask": PADDED[None]},
    "hint": {"attn_mask": CAUSAL, "is_causal": True},
}
CALLS = {
    "no weights": {"need_weights": False},
    "mean": {"need_weights": True},
    "every head": {"need_weights": True, "average_attn_weights": False},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("masks", MASKS)
def test_masks_and_what_the_module_asks_for(masks, call):
    module = perturbed(Block(MASKS[masks], CALLS[call], batch_first=True))
    model = check(module, numbers(LENGTH, WIDTH), example=numbers(LENGTH, WIDTH, seed=1))
    layer = model.trace(model.tokenize_values(numbers(LENGTH, WIDTH)), Want()).layer(0)
    assert layer.causal == (masks in ("bool", "infinities", "both", "hint"))
    assert layer.allowed.tolist() == {
        "bool": list(range(1, 13)),
        "infinities": list(range(1, 13)),
        "hint": list(range(1, 13)),
        "padding": [9] * 12,
        "padding in float": [9] * 12,
        "both": [*range(1, 10), 9, 9, 9],
    }.get(masks, [12] * 12)


@pytest.mark.parametrize("call", CALLS)
def test_maps_a_module_asks_for_come_back_to_it(call):
    """What the module itself sees while it is watched is what it would see otherwise."""
    module = perturbed(Block(MASKS["float"], CALLS[call], batch_first=True))
    model = load(module, numbers(LENGTH, WIDTH))
    x = torch.tensor(numbers(1, LENGTH, WIDTH))
    from attnviz.plugins.backends.capture import AttentionCollector

    with torch.no_grad():
        expected = module(x)
        with model.route.capturing(AttentionCollector(model.route.calls, 10)):
            found = model.module()(x)
    assert isinstance(found, tuple) == isinstance(expected, tuple)
    for ours, theirs in zip(found, expected, strict=True):
        assert apart(ours, theirs.numpy()) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [{"bias": False}, {"kdim": WIDTH, "vdim": WIDTH}, {"dropout": 0.3}],
    ids=["no bias", "separate weights", "dropout"],
)
def test_ways_to_make_the_layer(options):
    module = perturbed(Block(batch_first=True, **options))
    if "kdim" in options:  # of the same size PyTorch would pack them
        assert module.attention._qkv_same_embed_dim
    check(module, numbers(LENGTH, WIDTH))


class Wide(nn.Module):
    """Keys and values that are wider than queries."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, kdim=2 * WIDTH, vdim=3 * WIDTH, batch_first=True)

    def forward(self, x):
        return self.attention(x, torch.cat([x, x], -1), torch.cat([x, x, x], -1), need_weights=False)[0]


class Unbatched(Block):
    def forward(self, x):
        if x.ndim != 2:
            raise ValueError(f"expected two axes, got {x.ndim}")
        return super().forward(x)


class Turned(nn.Module):
    """Takes [batch, time, width] and hands [time, batch, width] on."""

    def __init__(self):
        super().__init__()
        self.encoder = encoder(False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.head(self.encoder(x.transpose(0, 1)).mean(0))


def test_separate_widths_of_keys_and_values():
    module = perturbed(Wide())
    assert not module.attention._qkv_same_embed_dim
    check(module, numbers(LENGTH, WIDTH))


def test_a_module_without_a_batch_axis():
    check(perturbed(Unbatched()), numbers(LENGTH, WIDTH), batch=None)


def test_a_module_that_turns_its_axes():
    assert load(perturbed(Turned())).reading.batch == 0
    check(perturbed(Turned()), numbers(LENGTH, WIDTH))


ADDED = {
    "learned": ({"add_bias_kv": True}, ("learned key",)),
    "zero": ({"add_zero_attn": True}, ("zero key",)),
    "both": ({"add_bias_kv": True, "add_zero_attn": True}, ("learned key", "zero key")),
}


@pytest.mark.parametrize("masks", ["none", "bool", "float", "padding"])
@pytest.mark.parametrize(("options", "labels"), ADDED.values(), ids=ADDED)
def test_keys_that_the_layer_adds_are_tokens_of_the_run(options, labels, masks):
    """Their columns are those PyTorch returns behind the others; their rows see nothing."""
    values, added = numbers(LENGTH, WIDTH), len(labels)
    module = perturbed(Block(MASKS[masks], batch_first=True, **options))
    model = load(module, values)
    tokens = model.tokenize_values(values)
    assert tokens.labels[LENGTH:] == labels
    assert np.flatnonzero(tokens.special).tolist() == list(range(LENGTH, LENGTH + added))
    layer = model.trace(tokens, Want()).layer(0)
    (expected,), output = own_maps(module, values)
    assert expected.shape == (4, LENGTH, LENGTH + added)
    found = patterns(layer)
    assert apart(found[:, :LENGTH], expected) <= 1e-5
    assert not found[:, LENGTH:].any()
    assert layer.allowed[LENGTH:].tolist() == [0] * added
    assert layer.seen_by[LENGTH:].tolist() == [LENGTH] * added
    assert np.isnan(layer.distance).all()
    assert "added by the layer itself" in layer.absent["distance"]
    from attnviz.plugins.backends.arrays_route import SideBySide
    from attnviz.plugins.backends.capture import AttentionCollector

    with torch.no_grad(), model.route.capturing(SideBySide(AttentionCollector(model.route.calls, 10), added)):
        captured = first(model.module()(torch.tensor(values)[None]))
    assert apart(captured, output) <= 1e-5


class Shared(nn.Module):
    """One attention module, called three times."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x):
        for _ in range(3):
            x = x + self.attention(x, x, x)[0]
        return x


def test_one_module_called_three_times_is_three_layers():
    model = check(perturbed(Shared()), numbers(LENGTH, WIDTH))
    assert len(model.card.layers) == 3
    layers = model.trace(model.tokenize_values(numbers(LENGTH, WIDTH)), Want()).layers
    assert apart(patterns(layers[0]), patterns(layers[1])) > 0.01


# --------------------------------------------------------------------------------------------- scaled_dot_product


class Plain(nn.Module):
    """A layer of one's own around scaled_dot_product_attention."""

    def __init__(self, heads=4, kv_heads=4, axes=4, **options):
        super().__init__()
        self.heads, self.kv_heads, self.axes, self.options = heads, kv_heads, axes, options
        size = WIDTH // heads
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, kv_heads * size)
        self.v, self.o = nn.Linear(WIDTH, kv_heads * size), nn.Linear(WIDTH, WIDTH)

    def split(self, x, heads):
        x = x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, H, T, D]
        return {4: x, 3: x[0], 2: x[0, 0]}[self.axes]

    def forward(self, x):
        q, k, v = (
            self.split(f(x), n) for f, n in ((self.q, self.heads), (self.k, self.kv_heads), (self.v, self.kv_heads))
        )
        heads = functional.scaled_dot_product_attention(q, k, v, **self.options)
        heads = heads[(None,) * (4 - heads.ndim)]
        return self.o(heads.transpose(1, 2).flatten(2))


def by_hand(module, values):
    """[H, Q, K] softmax of the scores in float64, and the output."""
    x = torch.tensor(values)[None]
    options = module.options
    with torch.no_grad():
        q = module.q(x)[0].unflatten(-1, (module.heads, -1)).transpose(0, 1).double()
        k = module.k(x)[0].unflatten(-1, (module.kv_heads, -1)).transpose(0, 1).double()
        k = k.repeat_interleave(module.heads // module.kv_heads, 0)
        scores = q @ k.mT * options.get("scale", q.shape[-1] ** -0.5)
        if options.get("is_causal"):
            scores = scores.masked_fill(CAUSAL, float("-inf"))
        mask = options.get("attn_mask")
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        return [scores.softmax(-1).reshape(-1, LENGTH, LENGTH).numpy()], module(x).numpy()


PLAIN = {
    "plain": {},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.7},
    "bool": {"attn_mask": ~CAUSAL},  # True = seen, unlike nn.MultiheadAttention
    "float": {"attn_mask": DISTANCE},
    "per head": {"attn_mask": PER_HEAD},
    "grouped": {"kv_heads": 2, "enable_gqa": True},
    "three axes": {"axes": 3},
    "one head": {"heads": 1, "kv_heads": 1, "axes": 2},
}


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_scaled_dot_product_attention(options):
    module = perturbed(Plain(**options))
    values = numbers(LENGTH, WIDTH)
    model = load(module, values)
    found = compare(model, values, *by_hand(module, values), forward(torch.tensor(values)[None]))
    assert found.maps <= 1e-5
    assert found.statistics <= 2e-5
    assert found.outputs <= 1e-5
    assert model.card.layers[0].kv_heads == options.get("kv_heads", 4)
    assert model.card.causal == (options.get("is_causal", False) or options is PLAIN["bool"])


@pytest.mark.parametrize("module", [partial(Plain), partial(Block, batch_first=True)], ids=["own layer", "pytorch's"])
def test_norms_of_values_are_those_of_the_projection(module):
    """‖v_k W_O,h‖ from the weights, one head at a time."""
    made = perturbed(module())
    values = numbers(LENGTH, WIDTH)
    x = torch.tensor(values)
    with torch.no_grad():
        if isinstance(made, Plain):
            v, weight = made.v(x), made.o.weight
        else:
            own = made.attention
            v = functional.linear(x, own.in_proj_weight[2 * WIDTH :], own.in_proj_bias[2 * WIDTH :])
            weight = own.out_proj.weight
        expected = [(v[:, h * 4 : h * 4 + 4] @ weight[:, h * 4 : h * 4 + 4].T).norm(dim=-1).numpy() for h in range(4)]
    model = load(made)
    layer = model.trace(model.tokenize_values(values), Want(values=True)).layer(0)
    np.testing.assert_allclose(layer.value_norm, expected, rtol=1e-5)


# --------------------------------------------------------------------------------------------- positions and examples


class Positions(nn.Module):
    """Learned positions for exactly 20 steps."""

    def __init__(self):
        super().__init__()
        self.read, self.places, self.encoder = (
            nn.Linear(3, WIDTH),
            nn.Parameter(torch.zeros(1, 20, WIDTH)),
            encoder(True),
        )

    def forward(self, x):
        return self.encoder(self.read(x) + self.places)


class Convolved(nn.Module):
    """[channel, time] in patches of four: fewer positions than time steps."""

    def __init__(self):
        super().__init__()
        self.read, self.encoder = nn.Conv1d(3, WIDTH, 4, 4), encoder(True)

    def forward(self, x):
        return self.encoder(self.read(x).transpose(1, 2))


class Pooled(nn.Module):
    """An encoder, and a learned query that reads its states."""

    def __init__(self):
        super().__init__()
        self.encoder, self.query = encoder(True, 1), nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x):
        x = self.encoder(x)
        return self.attention(self.query, x, x)[0]


def test_the_number_of_learned_positions_is_found():
    model = check(perturbed(Positions()), numbers(20, 3))
    assert "[time, width] = [20, 3]" in model.card.notes[0]
    with pytest.raises(BadInput, match=r"expected shape \[time, width\] = \[20, 3\], got \[19, 3\]"):
        model.tokenize_values(numbers(19, 3))


def test_an_example_says_what_a_module_reads():
    module = perturbed(Convolved())
    with pytest.raises(ModelError, match=r"Convolved could not be run: .* Give an example beside it"):
        load(module)
    model = check(module, numbers(3, 40), example=numbers(3, 40, seed=1))
    assert model.tokenize_values(numbers(3, 40)).labels[-1] == "position 9"


def test_what_is_not_over_the_tokens_is_named_as_missing():
    model = load(perturbed(Pooled()))
    trace = model.trace(model.tokenize_values(numbers(LENGTH, WIDTH)), Want())
    assert list(trace.missing) == [1]
    assert "from 1 queries to 8 keys in an example of 8 tokens" in trace.missing[1]
    assert [layer.kind for layer in model.card.layers] == ["full", "none"]


# --------------------------------------------------------------------------------------------- refusals


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return (self.q(x) @ x.mT).softmax(-1) @ x


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return functional.scaled_dot_product_attention(self.q(x), x, x, dropout_p=0.5)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (ByHand, "ByHand gives no attention: it runs neither scaled_dot_product_attention nor multi_head"),
        (Dropping, "Dropping draws random numbers when it runs"),
        (partial(nn.Transformer, WIDTH, 4, 1, 1, 32), "Transformer reads two sequences, and a run has one"),
        (partial(nn.Linear, 4, 4), "Linear gives no attention"),
        (partial(nn.Embedding, 10, 4), "Embedding could not be run: there is no layer whose width says what it reads"),
        (nn.Identity, "Identity has no parameters"),
    ],
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_modules_that_cannot_be_shown_are_refused(module, why):
    with pytest.raises(ModelError, match=why) as refusal:
        load(module())
    assert "\n" not in str(refusal.value)


def test_a_row_that_sees_nothing_is_refused():
    hidden = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    hidden[3] = True
    with pytest.raises(BadInput, match=r"Query 3 may see no key, and nn.MultiheadAttention makes NaN of it"):
        load(Block({"attn_mask": hidden}, batch_first=True).eval(), numbers(LENGTH, WIDTH))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((LENGTH, WIDTH + 1), r"Input: expected shape \[time, width\] = \[any, 16\], got \[12, 17\]"),
        ((LENGTH,), r"got \[12\]"),
        ((1, LENGTH, WIDTH), r"got \[1, 12, 16\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(BadInput, match=message):
        load(encoder(True)).tokenize_values(numbers(*shape))


def test_a_module_that_stops_over_its_input_is_refused_in_one_line():
    model = load(perturbed(Fails(batch_first=True)))
    with pytest.raises(
        BadInput, match=r"Fails cannot read an array of shape \[5, 16\]; .* It said: too large"
    ) as refusal:
        model.tokenize_values(1000 * numbers(5, WIDTH))
    assert "\n" not in str(refusal.value)


# --------------------------------------------------------------------------------------------- nothing left behind


class Fails(Block):
    """Stops in the middle of a forward pass when its input is large."""

    def forward(self, x):
        output = super().forward(x)
        if float(x.abs().max()) > 100:
            raise RuntimeError("too large a number")
        return output


def test_nothing_is_left_behind_after_a_failure():
    model = load(perturbed(Fails(batch_first=True)), numbers(LENGTH, WIDTH))
    fine, wrong = (model.tokenize_values(numbers(LENGTH, WIDTH)) for _ in range(2))
    wrong = model.reading.tokens(1000 * numbers(LENGTH, WIDTH), LENGTH)
    before = patterns(model.trace(fine, Want()).layer(0))
    state = {id(part): (len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.module().modules()}
    for _ in range(2):
        with pytest.raises(BadInput, match="too large a number"):
            model.trace(wrong, Want())
        assert function_mode._running.get() is None
        assert torch.overrides._len_torch_function_stack() == 0
    assert state == {
        id(part): (len(part._forward_hooks), len(part._forward_pre_hooks)) for part in model.module().modules()
    }
    np.testing.assert_array_equal(patterns(model.trace(fine, Want()).layer(0)), before)


def test_the_users_module_is_not_touched():
    module = encoder(True).train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model = load(module)
    model.trace(model.tokenize_values(numbers(LENGTH, WIDTH)), Want())
    assert module.training
    assert not model.module().training
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())
    assert all((tensor == state[name]).all() for name, tensor in module.state_dict().items())
    pairs = zip(model.module().parameters(), module.parameters(), strict=True)
    assert all(own.data_ptr() == theirs.data_ptr() for own, theirs in pairs)


def test_four_threads_at_once():
    model = load(encoder(True))
    inputs = [numbers(10 + i, WIDTH, seed=i) for i in range(4)]
    expected = [patterns(model.trace(model.tokenize_values(x), Want()).layer(1)) for x in inputs]
    gate, found, failed = threading.Barrier(4), {}, []

    def work(index):
        gate.wait()
        try:
            for _ in range(5):
                trace = model.trace(model.tokenize_values(inputs[index]), Want())
                found.setdefault(index, []).append(patterns(trace.layer(1)))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    for index in range(4):
        assert len(found[index]) == 5
        for maps in found[index]:
            np.testing.assert_array_equal(maps, expected[index])


def test_layers_asked_for_and_the_estimate():
    model = load(encoder(True, 3))
    tokens = model.tokenize_values(numbers(LENGTH, WIDTH))
    trace = model.trace(tokens, Want(layers=(1,)))
    assert [layer is None for layer in trace.layers] == [True, False, True]
    assert trace.missing == dict.fromkeys((0, 2), "this layer was not asked for.")
    for want in (Want(), Want(top_k=3, values=True), Want(layers=(1,))):
        assert model.estimate(LENGTH, want).bytes == model.trace(tokens, want).nbytes
    with pytest.raises(BadInput, match="Unknown layer 3"):
        model.trace(tokens, Want(layers=(3,)))
