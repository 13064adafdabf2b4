"""Every number of sensor importance against arithmetic, brute force or finite differences; a model that is known."""

import dataclasses

import numpy as np
import pytest

import attnviz
from attnviz.demo.sensors.presets import PROCESSES
from attnviz.demo.sensors.train import Recipe, held_out
from attnviz.errors import BadInput, Unavailable, UnknownName
from attnviz.hooks import Reference
from attnviz.plugins.analyses import sensor_importance
from attnviz.plugins.analyses.sensors.judgement import Fit, correlations, of_history, verdict
from attnviz.testing import FakeSensors, fake_request

(ANALYSIS,) = sensor_importance.attnviz_analyses()
SERIES = np.random.default_rng(7).normal(size=(9, 8, 4))
HERE, REFERENCE = SERIES[0], Reference(SERIES[1:])
USUAL = SERIES[1:].mean(axis=(0, 1))
MODEL = FakeSensors()


def asked(values=HERE, reference=REFERENCE, model=MODEL, **params):
    return fake_request(ANALYSIS, model, values, reference, **params)


def found(*args, **params):
    return ANALYSIS.run(asked(*args, **params))


# ------------------------------------------------------------------------------------------------ occlusion


def test_occlusion_is_what_the_formula_of_the_model_says():
    """level = 2 b(t) − 3 c(t−1): without b it changes by 2 |b − usual b|."""
    result = found(output="level")
    b, c = abs(2 * (HERE[-1, 1] - USUAL[1])), abs(3 * (HERE[-2, 2] - USUAL[2]))
    np.testing.assert_allclose(result.occlusion, [0, b, c, 0], rtol=1e-6)
    np.testing.assert_allclose(result.occlusion_outputs, [[0, b, c, 0]], rtol=1e-6)


def test_occlusion_of_all_outputs_and_inputs_is_the_mean_over_them():
    result = found(output="all", inputs="reference", window=3)
    changes = np.zeros((2, 4))
    windows = np.zeros((3, 4))
    for values in SERIES[1:]:
        before = MODEL.predict(values[None])[0]
        for sensor in range(4):
            other = values.copy()
            other[:, sensor] = USUAL[sensor]
            changes[:, sensor] += np.abs(MODEL.predict(other[None])[0] - before) / 8
            for window, steps in enumerate((slice(0, 3), slice(3, 6), slice(6, 8))):
                other = values.copy()
                other[steps, sensor] = USUAL[sensor]
                windows[window, sensor] += np.abs(MODEL.predict(other[None])[0] - before).mean() / 8
    np.testing.assert_allclose(result.occlusion_outputs, changes, rtol=1e-6)
    np.testing.assert_allclose(result.occlusion, changes.mean(axis=0), rtol=1e-6)
    assert result.windows.tolist() == [[0, 3], [3, 6], [6, 8]]
    np.testing.assert_allclose(result.occlusion_windows, windows, rtol=1e-6)
    assert (result.inputs, result.outputs) == (8, ("level", "alarm"))
    assert not result.occlusion_windows[:2, [0, 1]].any()  # a and b count at the last step only


def test_what_is_usual_comes_from_the_reference_else_from_training_else_from_the_input_itself():
    class Trained(FakeSensors):
        def series(self, tokens):
            return dataclasses.replace(super().series(tokens), means=np.array([0.0, 5.0, 0.0, 0.0]))

    trained = found(reference=None, model=Trained(), output="level")
    assert trained.occlusion[1] == pytest.approx(abs(2 * (HERE[-1, 1] - 5)), rel=1e-6)
    alone = found(reference=None, output="level")
    assert alone.occlusion[1] == pytest.approx(abs(2 * (HERE[-1, 1] - HERE[:, 1].mean())), rel=1e-6)
    assert any("compared with its own mean over this input" in line for line in alone.warnings)
    assert found(model=Trained(), output="level").occlusion[1] == found(output="level").occlusion[1]


# ------------------------------------------------------------------------------------------------ gradients


def test_gradient_x_input_is_what_finite_differences_give():
    result = found(output="alarm", window=4)
    step, slopes = 1e-5, np.zeros((8, 4))
    for place in np.ndindex(8, 4):
        moved = np.zeros((8, 4))
        moved[place] = step
        both = MODEL.predict(np.stack([HERE + moved, HERE - moved]))[:, 1]
        slopes[place] = (both[0] - both[1]) / (2 * step)
    product = slopes * (HERE - USUAL)
    np.testing.assert_allclose(result.gradient_x_input, np.abs(product.sum(axis=0)), atol=1e-6)
    expected = np.abs(np.stack([product[:4].sum(axis=0), product[4:].sum(axis=0)]))
    np.testing.assert_allclose(result.gradient_windows, expected, atol=1e-6)


def test_integrated_gradients_are_what_each_term_of_the_formula_moved():
    """alarm = tanh a + b², term by term: the way of a sensor from usual to its value moves its own term."""
    result = found(output="alarm", points=400)
    a, b = np.tanh(HERE[-1, 0]) - np.tanh(USUAL[0]), HERE[-1, 1] ** 2 - USUAL[1] ** 2
    np.testing.assert_allclose(result.integrated_gradients, [abs(a), abs(b), 0, 0], atol=1e-4)


def test_a_gap_of_integrated_gradients_is_said():
    far = HERE.copy()
    far[-1, 0] = 60.0  # tanh is flat nearly all of the way
    lines = found(values=far, output="alarm", points=1, reference=Reference(SERIES[1:] * [1, 0, 0, 0])).warnings
    assert any("do not add up" in line for line in lines)
    assert not any("do not add up" in line for line in found(output="alarm").warnings)


# ------------------------------------------------------------------------------------------------ attention


def maps(values):
    """[L, H, S, S]"""
    request = asked(values)
    trace = MODEL.trace(request.tokens, ANALYSIS.want)
    return np.array([[layer.pattern(head) for head in range(layer.heads)] for layer in trace.layers], np.float64)


def test_attention_is_the_mean_column_of_all_maps():
    """Four keys that everybody sees: a uniform head gives each 4 · ¼."""
    result = found()
    every = maps(HERE)
    np.testing.assert_allclose(result.attention, every.sum(axis=2).mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(result.weights, every.mean(axis=(0, 1)), rtol=1e-5)
    assert result.attention.mean() == pytest.approx(1)


def test_attention_for_an_output_that_is_a_sensor_is_that_of_its_row():
    class Own(FakeSensors):
        """Predicts the next values of b and of d."""

        def series(self, tokens):
            return dataclasses.replace(super().series(tokens), outputs=("next b", "d"))

    every = maps(HERE)
    result = found(model=Own(), output="next b")
    np.testing.assert_allclose(result.attention, 4 * every[:, :, 1].mean(axis=(0, 1)), rtol=1e-5)
    result = found(model=Own(), output="all")
    np.testing.assert_allclose(result.attention, 2 * every[:, :, [1, 3]].sum(axis=2).mean(axis=(0, 1)), rtol=1e-5)


def test_the_null_is_that_of_shuffled_time():
    result = found(shuffles=5, seed=3)
    rng, statistics = np.random.default_rng(3), []
    for _ in range(5):
        statistics.append(maps(HERE[rng.permutation(8)]).sum(axis=2).mean(axis=(0, 1)))
    np.testing.assert_allclose(result.null, np.mean(statistics, axis=0), rtol=1e-5)
    np.testing.assert_allclose(result.null_sd, np.std(statistics, axis=0, ddof=1), rtol=1e-4)
    still = found(values=np.tile(HERE[:1], (8, 1)))
    np.testing.assert_allclose(still.null, still.attention, rtol=1e-6)  # nothing to shuffle
    np.testing.assert_allclose(still.null_sd, 0, atol=1e-7)
    assert any("Constant over time in every input that is explained: a, b, c, d" in line for line in still.warnings)


def test_tokens_that_are_time_steps_have_no_attention_between_sensors():
    request = asked()
    tokens = dataclasses.replace(request.tokens, axis="time")
    request = dataclasses.replace(request, run=dataclasses.replace(request.run, tokens=tokens))
    result = ANALYSIS.run(request)
    assert np.isnan(result.attention).all()
    assert np.isnan(result.null).all()
    assert result.weights is None
    assert result.absent["attention"].startswith("Tokens of this model are time steps")
    assert np.isnan(result.rank_correlation["attention_occlusion"])
    assert "no attention between sensors" in result.verdict
    np.testing.assert_array_equal(result.occlusion, found().occlusion)


# ------------------------------------------------------------------------------------------------ judgement


def test_attention_that_shuffling_leaves_as_it_is_is_said_to_know_no_history():
    """a − 1 = (.5, −.5, 0), Σ(a − 1)² = .5; n − 1 = (.5, −.4, −.1): share .45 / .5 = 90 %; half of it: 45 %."""
    attention, null = np.array([1.5, 0.5, 1.0]), np.array([1.5, 0.6, 0.9])
    assert "look the same on shuffled time (90% of its difference from uniform remains" in of_history(attention, null)
    assert of_history(attention, 1 + (null - 1) / 2) == ""
    assert of_history(attention, 2 - null) == ""  # as far from uniform, but for the other sensors
    assert of_history(np.ones(3), np.ones(3)) == ""
    assert of_history(np.full(3, np.nan), np.full(3, np.nan)) == ""


def test_the_verdict_says_that_shuffled_time_is_routed_alike():
    still = found(values=np.tile(HERE[:1], (8, 1)))  # nothing to shuffle
    assert "which sensors are read, not which history matters" in still.verdict
    assert "(100% of its difference from uniform remains" in still.verdict


def test_rank_correlations_are_those_of_the_ranks():
    """Ranks 1 2 3 4 and 1 3 2 4: ρ = 1 − 6·(1 + 1)/(4·15) = 0.8."""
    numbers = {
        "occlusion": np.array([1.0, 2.0, 3.0, 4.0]),
        "attention": np.array([1.0, 3.0, 2.0, 9.0]),
        "gradient_x_input": np.array([4.0, 3.0, 2.0, 1.0]),
        "integrated_gradients": np.full(4, np.nan),
    }
    rho = correlations(numbers)
    assert rho["attention_occlusion"] == pytest.approx(0.8)
    assert rho["gradient_x_input_occlusion"] == -1
    assert np.isnan(rho["integrated_gradients_occlusion"])


MANY = np.random.default_rng(8).normal(size=(60, 8, 4))


def test_fit_is_one_minus_the_share_of_the_variance_that_is_left():
    predicted = MODEL.predict(MANY)
    outcomes = predicted + np.random.default_rng(0).normal(0, 0.1, predicted.shape)
    outcomes[0, 1] = np.nan
    result = found(output="all", reference=Reference(MANY, outcomes))
    left = ((outcomes[:, 0] - predicted[:, 0]) ** 2).sum() / ((outcomes[:, 0] - outcomes[:, 0].mean()) ** 2).sum()
    known = outcomes[1:, 1]
    left2 = ((known - predicted[1:, 1]) ** 2).sum() / ((known - known.mean()) ** 2).sum()
    np.testing.assert_allclose(result.fit, [1 - left, 1 - left2], rtol=1e-6)
    assert result.trusted == "occlusion"


def test_a_model_that_does_not_predict_is_not_believed():
    noise = np.random.default_rng(1).normal(size=(60, 2))
    result = found(reference=Reference(MANY, noise))
    assert result.trusted == ""
    few = found(reference=Reference(SERIES[1:], noise[:8]))
    assert few.trusted == "occlusion"
    assert any("over the 8 outcomes of the reference: too few to judge by, 50 are asked for" in x for x in few.info)
    assert result.verdict.startswith("Believe none of them")
    poor, good = found(model=FakeSensors(fit=[0.5, 0.6])), found(model=FakeSensors(fit=[0.95, 0.96]))
    assert (poor.trusted, good.trusted) == ("", "occlusion")
    assert "as published with the model" in "".join(good.info)
    assert "not known" in found().verdict


def test_fit_is_measured_against_what_can_be_attained():
    """R² .68 of an attainable .93 is an undertrained model; .92 of .93 is as good as it gets."""
    agrees = dict.fromkeys(("attention_occlusion", "integrated_gradients_occlusion"), 0.95)
    attainable = np.array([0.933])
    assert verdict(Fit(np.array([0.68]), attainable, "x"), agrees)[0] == ""
    assert verdict(Fit(np.array([0.92]), attainable, "x"), agrees)[0] == "occlusion"
    assert verdict(Fit(np.array([0.85]), None, "x"), agrees)[0] == ""
    _, words = verdict(Fit(np.array([0.92]), attainable, "x"), {**agrees, "integrated_gradients_occlusion": 0.1})
    assert "do not confirm it" in words


def test_the_known_drivers_come_first_and_the_distractor_counts_for_nothing():
    result = found(inputs="reference", output="level")
    assert [name for name, _ in result.ranked("occlusion")[:2]] == ["c", "b"]
    assert result.occlusion[3] == result.integrated_gradients[3] == 0
    assert result.rank_correlation["integrated_gradients_occlusion"] == pytest.approx(1)
    assert any("not for regulatory figures" in line for line in result.warnings)


@pytest.mark.parametrize("preset", attnviz.sensor_presets(), ids=lambda preset: preset.name)
def test_occlusion_finds_the_true_drivers_of_the_embedded_models(preset):
    """Against the published truth: of a sensor with k drivers the k highest are these, and their order is the true one.

    True strength is a mean squared change, so occlusion is squared before it is compared.
    """
    process = PROCESSES[preset.name]
    windows = held_out(process, Recipe().window)[::20]
    values = process.measured(windows)
    model = attnviz.load(preset.model)
    reference = Reference(values[:, :-1].astype(np.float32), values[:, -1])
    run = model.trace(array=reference.inputs[0], names=preset.sensors, reference=reference)
    result = run.analyze("sensor_importance", inputs="reference", points=4, shuffles=2).result
    strength, parents = process.strength(windows[:, :-1]), process.parents()
    hits, agreement = [], []
    for sensor in process.driven:
        scores = result.occlusion_outputs[result.outputs.index(f"next {preset.sensors[sensor]}")]
        best = np.argsort(-scores)[: parents[sensor].sum()]
        hits.append(parents[sensor][best].mean())
        agreement.append(np.corrcoef(scores**2, strength[sensor])[0, 1])
    assert np.mean(hits) >= 0.95
    assert np.mean(agreement) >= 0.95
    assert result.rank_correlation["integrated_gradients_occlusion"] >= 0.9
    assert result.trusted == "occlusion"
    assert np.nanmean(result.fit) > 0.6
    itself = "a sensor also counts for its own next value"
    assert any(itself in line for line in result.warnings)
    one = run.analyze("sensor_importance", output=result.outputs[0], points=4, shuffles=2).result
    assert not any(itself in line for line in one.warnings)


# ------------------------------------------------------------------------------------------------ bad input


class Mixed(FakeSensors):
    """Outputs in different units."""

    def series(self, tokens):
        return dataclasses.replace(super().series(tokens), output_units=("m", "bar"))


def test_outputs_in_different_units_are_made_comparable_or_kept_apart():
    spread = MODEL.predict(SERIES[1:]).std(axis=0)
    result = found(model=Mixed(), output="")
    np.testing.assert_allclose(
        result.occlusion_outputs * spread[:, None], found(output="all").occlusion_outputs, rtol=1e-6
    )
    assert result.units["occlusion"] == "standard deviations of the output"
    alone = found(model=Mixed(), reference=None)
    assert (alone.outputs, alone.units["occlusion"]) == (("level",), "m")
    assert any("the first of 2 in different units" in line for line in alone.info)
    with pytest.raises(BadInput, match="output: expected one name, got 'all'"):
        found(model=Mixed(), reference=None, output="all")


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(UnknownName, match=r"Unknown output 'levels'. Did you mean 'level'"):
        found(output="levels")
    with pytest.raises(BadInput, match="inputs: expected a reference"):
        found(reference=None, inputs="reference")
    with pytest.raises(BadInput, match="outcomes: expected 2 columns, one for each output of the model, got 3"):
        found(reference=Reference(SERIES[1:], np.zeros((8, 3))))
    with pytest.raises(BadInput, match="expected inputs of which predictions differ"):
        found(model=Mixed(), reference=Reference(np.ones((3, 8, 4))))
    with pytest.raises(BadInput, match="Parameter shuffles: expected a whole number from 2"):
        found(shuffles=1)
    request = asked()
    deep = dataclasses.replace(request.tokens, values=np.zeros((2, 8, 4)), reference=None)
    with pytest.raises(Unavailable, match="Sensors are columns of"):
        ANALYSIS.run(dataclasses.replace(request, run=dataclasses.replace(request.run, tokens=deep)))
