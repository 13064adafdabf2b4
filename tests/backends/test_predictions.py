"""What models that read series predict, against the modules themselves; gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from attnviz.errors import BadInput, ShapeError, Unavailable
from attnviz.hooks import PredictsNumbers
from attnviz.plugins.backends.loading import quiet
from attnviz.registry import load_registry
from attnviz.session import Session
from tests.backends.arrays import FAMILIES as NUMBER_FAMILIES
from tests.backends.arrays import SERIES, arguments, example, load, numbers, past_and_future, perturbed, random_module


class SensorTokens(torch.nn.Module):
    """A token per column, as in an inverted transformer; answers with one number per column."""

    def __init__(self, steps: int, columns: int) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(steps, 16)
        self.place = torch.nn.Parameter(torch.zeros(columns, 16))
        self.attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = torch.nn.Linear(16, 1)

    def forward(self, values):
        states = self.embed(values.transpose(1, 2)) + self.place
        return self.head(states + self.attention(states, states, states)[0])[..., 0]


class Pooled(torch.nn.Module):
    """Looks at the whole batch: an input's answer depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)

    def forward(self, values):
        return self.layer(values).mean(1) + values.mean()


def encoder(batch_first):
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first)
    return perturbed(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def config(kind, name, **options):
    with quiet():
        made = transformers.AutoConfig.for_model(kind, **options)
        return perturbed(getattr(transformers, name)._from_config(made, attn_implementation="eager"), 0.13)


def direct(module, family, values):
    """The output of the user's own module for one input."""
    with torch.no_grad():
        return module(**arguments(family, values))


def differences(model, values, output, step):
    """[time, column] central differences of one output."""
    moved = []
    for place in np.ndindex(*values.shape):
        for sign in (1, -1):
            other = values.copy()
            other[place] += sign * step
            moved.append(other)
    found = model.predict(np.stack(moved))[:, output].reshape(*values.shape, 2)
    return (found[..., 0] - found[..., 1]) / (2 * step)


@pytest.mark.parametrize(
    ("family", "field"), [("patchtst", "prediction_outputs"), ("patchtst_cls", "prediction_logits")]
)
def test_predictions_of_a_patchtst_are_its_own(family, field):
    module = random_module(family)
    batch = np.stack([example(family), 1.5 * example(family) + 2])
    expected = np.concatenate([direct(module, family, one)[field].flatten(1).numpy() for one in batch])
    np.testing.assert_allclose(load(module).predict(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("PatchTSTForPrediction", {"loss": "nll", "distribution_output": "student_t"}),
        ("PatchTSTForPrediction", {"loss": "nll", "distribution_output": "normal"}),
        ("PatchTSTForRegression", {"num_targets": 2}),
        ("PatchTSTForRegression", {"num_targets": 2, "loss": "nll", "distribution_output": "normal"}),
    ],
)
def test_a_distribution_answers_with_its_mean(name, options):
    module = config("patchtst", name, **{**SERIES, **options})
    values = example("patchtst")
    with torch.no_grad():
        output = module(past_values=torch.tensor(values[None]))
    found = output[0]
    if module.distribution_output is not None:  # (…, loc, scale); the mean of a Student's t or a normal is its loc
        found = found[-2]
        if "Prediction" in name:  # the head's numbers are of the scaled series
            found = found * output.scale + output.loc
    np.testing.assert_allclose(load(module).predict(values[None]), found.flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distribution", ["student_t", "negative_binomial"])
def test_a_forecast_is_the_mean_of_the_distribution(distribution):
    options = {**NUMBER_FAMILIES["time_series"].options, "distribution_output": distribution}
    module = config("time_series_transformer", "TimeSeriesTransformerForPrediction", **options)
    model, family = load(module), "time_series"
    values = np.abs(example(family)).round() if distribution == "negative_binomial" else example(family)
    given = past_and_future(NUMBER_FAMILIES[family], torch.tensor(values[None]))
    with torch.no_grad():
        inner = module.model(**given)
        first, second, *rest = (p.numpy() for p in module.output_params(inner.last_hidden_state))
    loc, scale = inner.loc.numpy(), inner.scale.numpy()
    # Student's t has parameters df, loc, scale; a negative binomial of total count r and logits l has the mean r·exp(l)
    expected = second * scale + loc if rest else first * np.exp(second) * scale
    np.testing.assert_allclose(model.predict(values[None]), expected.reshape(1, -1), rtol=1e-4, atol=1e-5)


def test_predictions_have_names():
    model = load(random_module("patchtst"))
    names = model.series(model.tokenize_values(example("patchtst"))).outputs
    assert names[:4] == ("sensor 0 at t 36", "sensor 1 at t 36", "sensor 2 at t 36", "sensor 0 at t 37")
    assert len(names) == model.predict(example("patchtst")[None]).shape[1] == 8 * 3

    model = load(random_module("time_series"))
    series = model.series(model.tokenize_values(example("time_series")))
    assert series.sensors == ("sensor 0",)  # the other columns are features of the time
    assert series.outputs == tuple(f"sensor 0 at t {step}" for step in range(27, 35))

    session = Session(load_registry(entry_points=False))
    run = session.load(random_module("patchtst_cls")).trace(array=example("patchtst"), names=["a", "b", "c"])
    series = session.model(run.run.spec).series(run.tokens)
    assert series.sensors == ("a", "b", "c")
    assert series.outputs == ("logit of class 0", "logit of class 1")


@pytest.mark.parametrize("batch_first", [True, False])
def test_predictions_of_a_module_are_its_output(batch_first):
    module = encoder(batch_first)
    model, batch = load(module), numbers(3, 7, 16)
    with torch.no_grad():
        expected = [module(torch.tensor(one).unsqueeze(0 if batch_first else 1)) for one in batch]
    found = model.predict(batch)
    np.testing.assert_allclose(found, np.stack([one.numpy().ravel() for one in expected]), rtol=1e-4, atol=1e-5)
    names = model.series(model.tokenize_values(batch[0])).outputs
    assert len(names) == 7 * 16
    assert names[16 + 3] == "output 1, 3"
    np.testing.assert_allclose(found[0, 16 + 3], expected[0].squeeze()[1, 3], rtol=1e-4)


def test_inputs_that_a_module_mixes_are_asked_one_by_one():
    module = perturbed(Pooled())
    batch = numbers(3, 5, 16)
    with torch.no_grad():
        expected = torch.cat([module(torch.tensor(one[None])) for one in batch]).numpy()
        assert np.abs(module(torch.tensor(batch)).numpy() - expected).max() > 0.01
    np.testing.assert_allclose(load(module).predict(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["patchtst", "time_series"])
def test_gradients_are_those_of_finite_differences(family):
    module = random_module(family).double()
    model = load(module)
    batch = np.stack([example(family), 1.5 * example(family)]).astype(np.float64)
    found = model.prediction_gradients(batch, [5, 1])
    assert found.shape == (2, 2, *example(family).shape)
    assert found.dtype == np.float64
    for place, output in enumerate((5, 1)):
        np.testing.assert_allclose(found[1, place], differences(model, batch[1], output, 1e-6), rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(model.prediction_gradients(batch[1:], [1])[0, 0], found[1, 1])


def test_gradients_of_a_module():
    model = load(perturbed(SensorTokens(6, 4)).double(), numbers(6, 4))
    batch = numbers(2, 6, 4).astype(np.float64)
    found = model.prediction_gradients(batch, [2])
    np.testing.assert_allclose(found[1, 0], differences(model, batch[1], 2, 1e-6), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("steps", "columns"), [(6, 4), (5, 5)])
def test_tokens_that_are_columns_are_sensors(steps, columns):
    session = Session(load_registry(entry_points=False))
    model = session.load((perturbed(SensorTokens(steps, columns)), numbers(steps, columns)))
    assert "sensors" in model.card.capabilities
    assert "a token is a sensor, over the whole time: attention goes from sensor to sensor" in model.card.notes
    tokens = model.tokenize(array=numbers(steps, columns))
    assert tokens.axis == "sensor"
    assert tokens.labels == tuple(f"sensor {column}" for column in range(columns))
    names = [f"gauge {column}" for column in range(columns)]
    named = model.tokenize(array=numbers(steps, columns), names=names)
    assert named.labels == named.columns == tuple(names)


def test_tokens_that_are_steps_are_times():
    for model, shape in ((load(encoder(True)), (16, 16)), (load(random_module("patchtst")), (36, 3))):
        tokens = model.tokenize_values(numbers(*shape))
        assert tokens.axis == "time"
        assert all(label.startswith("t ") for label in tokens.labels)
    named = Session(load_registry(entry_points=False)).load(random_module("patchtst"))
    assert named.tokenize(array=numbers(36, 3), names=["a", "b", "c"]).labels[0] == "t 0–7"


def test_what_predicts_nothing_says_so():
    base = load(random_module("time_series_static"))
    with pytest.raises(Unavailable, match="TimeSeriesTransformerModel predicts nothing: it has no head"):
        base.predict(example("time_series_static")[None])
    picture = load(random_module("vit"))
    with pytest.raises(Unavailable, match="it reads pictures"):
        picture.predict(example("vit")[None])


def test_batches_that_do_not_fit_are_refused():
    model = load(random_module("patchtst"))
    assert isinstance(model, PredictsNumbers)
    with pytest.raises(ShapeError, match=r"expected shape \[time, channel\] = \[36, 3\], got \[36, 2\]"):
        model.predict(numbers(2, 36, 2))
    with pytest.raises(ShapeError, match="Batch: expected"):
        model.predict(numbers(36))
    with pytest.raises(BadInput, match=r"got one of shape \[0, 36, 3\]"):
        model.predict(np.zeros((0, 36, 3)))
    bad = numbers(2, 36, 3)
    bad[1, 2, 0] = np.nan
    with pytest.raises(BadInput, match=r"got nan at \[1, 2, 0\]"):
        model.predict(bad)
    with pytest.raises(BadInput, match=r"Unknown output 24\. This model predicts 24 numbers: 0 to 23"):
        model.prediction_gradients(numbers(1, 36, 3), [24])
