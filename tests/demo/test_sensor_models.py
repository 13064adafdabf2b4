"""Simulated sensors and the models of them: the truth is what is written down, and the shipped files recover it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import attnviz
from attnviz.demo.sensors import SHIPPED, examples, recovery
from attnviz.demo.sensors.evaluate import MARKERS, Sizes, measure, table, truth_table
from attnviz.demo.sensors.evaluate import Figure as EvaluatedFigure
from attnviz.demo.sensors.presets import MODELS, PROCESSES, sensor_presets
from attnviz.demo.sensors.process import LONGEST_LAG, Process, Sensor, cut_windows
from attnviz.demo.sensors.train import Recipe, explained, held_out, train, untrained
from attnviz.hooks import ModelSpec
from attnviz.plugins.backends.arrays_model import load

NAMES = {  # of the three kinds of plant, as their operators call them
    "combustion": "fuel_flow air_flow oxygen_ppm co_ppm burner_temp efficiency nox_emission excess_air",
    "thermal_command": "supply_temp return_temp flow_rate supply_pressure return_pressure load_demand ambient_temp "
    "pump_speed",
    "predictive_maintenance": "vibration_x vibration_y vibration_z temperature pressure acoustic_emission "
    "electrical_current efficiency_ratio",
}
every_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@pytest.fixture(scope="module")
def models():
    return {name: load(ModelSpec(str(SHIPPED / name))) for name in PROCESSES}


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


# --------------------------------------------------------------------------------------------- the simulator


@every_process
def test_drivers_and_lags_are_what_is_written_down(process):
    """Each value of the past is changed alone; the sensors that come out otherwise are its children, at that lag."""
    windows = cut_windows(process.simulate(8, 40, seed=1), LONGEST_LAG, every=5)[:, :-1]
    before, names = process.expected(windows), process.names
    found = set()
    for lag in range(1, LONGEST_LAG + 1):
        for column, source in enumerate(names):
            changed = windows.copy()
            changed[:, -lag, column] += 0.5
            apart = np.abs(process.expected(changed) - before).max(axis=0)
            found |= {(names[row], source, lag) for row in np.flatnonzero(apart > 1e-6)}
    assert found == {(s.name, parent, lag) for s in process.sensors for parent, lag in s.parents}


@every_process
def test_a_step_is_the_law_and_noise_of_the_stated_size(process):
    values = process.simulate(40, 200, seed=3)
    left = np.concatenate(
        [values[:, t] - process.expected(values[:, t - LONGEST_LAG : t]) for t in range(LONGEST_LAG, 200)]
    )
    np.testing.assert_allclose(left.std(axis=0), process.noise, rtol=0.05)
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=0.03)
    correlation = np.corrcoef(left.T) - np.eye(len(process.sensors))
    assert np.abs(correlation).max() < 0.06  # of 7 360 values; noise that two sensors shared would hide the truth


@every_process
def test_every_sensor_has_its_name_and_a_unit(process):
    assert " ".join(process.names[:8]) == NAMES[process.name]
    assert all(sensor.unit for sensor in process.sensors)
    measured = process.measured(process.simulate(4, 100, seed=2))
    positive = [i for i, sensor in enumerate(process.sensors) if sensor.unit != "°C"]
    assert (measured[..., positive] > 0).all()


def test_strength_by_hand():
    """y = 2·x one step before: swapping x for another window's changes y by 2·(x' − x)."""
    law = {"x": lambda past: 0 * past("x", 1), "y": lambda past: 2 * past("x", 1)}
    sensors = (Sensor("x", "", (), 1.0, 0, 1), Sensor("y", "", (("x", 1),), 1.0, 0, 1))
    process = Process("pair", "Pair", sensors, lambda past: {name: f(past) for name, f in law.items()})
    windows = np.zeros((3, 4, 2), np.float32)
    windows[:, -1, 0] = [1, 3, 7]
    order = np.random.default_rng(0).permutation(3)
    expected = np.mean([(2 * (windows[j, -1, 0] - windows[i, -1, 0])) ** 2 for i, j in enumerate(order)])
    np.testing.assert_allclose(process.strength(windows, seed=0), [[0, 0], [expected, 0]])
    assert process.driven == (1,)
    np.testing.assert_array_equal(process.parents(), [[False, False], [True, False]])


def test_windows_by_hand():
    runs = np.arange(10, dtype=np.float32).reshape(1, 10, 1)
    cut = cut_windows(runs, 3, every=4)[..., 0]
    np.testing.assert_array_equal(cut, [[0, 1, 2, 3], [4, 5, 6, 7]])


# --------------------------------------------------------------------------------------------- measures of recovery


def test_measures_of_recovery_by_hand():
    sensors = (
        Sensor("a", "", (("a", 1),), 1.0, 0, 1),
        Sensor("b", "", (("a", 2),), 1.0, 0, 1),
        Sensor("copy", "", (("a", 1),), 1.0, 0, 1),
    )
    process = Process("three", "Three", sensors, dict, proxies=("copy",))
    scores = np.array([[9.0, 0, 0], [0.5, 3.0, 1.5], [5.0, 0, 1.0]])
    assert process.driven == (1, 2)
    assert recovery.hit_rate(process, scores) == 0.5  # of b the highest is b, of copy it is a
    assert recovery.proxy_share(process, scores) == 0.75  # of b alone: 1.5 of the 0.5 + 1.5 that others get
    strength = np.array([[1.0, 0, 0], [1.0, 6.0, 3.0], [1.0, 0, 0.2]])
    assert recovery.agreement(process, scores, strength) == pytest.approx(1.0)  # 2 × 0.5, 3, 1.5; and a line again
    by_step = np.zeros((3, 4, 3))
    by_step[0, 3, 0] = by_step[1, 1, 0] = by_step[2, 3, 0] = 1
    assert recovery.exact_lags(process, by_step) == pytest.approx(2 / 3)  # b's is at lag 3, not 2


class Linear:
    """y_s = Σ w[s, t, c] · x[t, c]: what every method must give is known."""

    def __init__(self) -> None:
        self.weights = np.random.default_rng(0).standard_normal((2, 3, 2))

    def predict(self, values):
        return np.einsum("stc,ntc->ns", self.weights, values)

    def prediction_gradients(self, values, outputs):
        return np.broadcast_to(self.weights[list(outputs)], (len(values), len(outputs), 3, 2))


def test_methods_on_a_linear_model_by_hand():
    model, means = Linear(), np.array([0.5, -1.0])
    values = np.random.default_rng(1).standard_normal((5, 3, 2))
    parts = model.weights * (values - means)[:, None]  # [N, S, time, C] what each number adds against its mean
    found = recovery.occlusion(model, values, means)
    np.testing.assert_allclose(found, (parts.sum(axis=2) ** 2).mean(axis=0))
    np.testing.assert_allclose(recovery.occlusion_by_step(model, values, means), (parts**2).mean(axis=0))
    np.testing.assert_allclose(recovery.gradient_times_input(model, values, means), np.abs(parts).sum(2).mean(0))
    np.testing.assert_allclose(recovery.integrated_gradients_by_step(model, values, means), np.abs(parts).mean(0))


# --------------------------------------------------------------------------------------------- training


@pytest.mark.usefixtures("threads")
def test_25_steps_twice_give_the_same_bytes(tmp_path):
    recipe = Recipe(steps=25, batch=32, chains=16, length=200)  # less data than the real one: a matter of time
    for name in ("first", "second"):
        train(PROCESSES["combustion"], recipe, tmp_path / name)
    first, second = (tmp_path / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "first/config.json").read_text("utf-8") == (tmp_path / "second/config.json").read_text("utf-8")
    other = tmp_path / "other"
    train(PROCESSES["combustion"], replace(recipe, seed=1), other)
    assert (other / "model.safetensors").read_bytes() != first.read_bytes()
    assert load(ModelSpec(str(other))).card.parameters == 70_732


def test_the_rate_rises_and_falls():
    recipe = Recipe(steps=1000, warm_up=100, floor=0.02)
    assert recipe.factor(0) == pytest.approx(0.01, rel=1e-4)
    assert recipe.factor(500) == pytest.approx(0.5)
    assert recipe.factor(999) == 0.02


# --------------------------------------------------------------------------------------------- the shipped files


@every_process
def test_the_card_holds_the_truth_and_the_figures_of_these_files(process):
    folder = SHIPPED / process.name
    card = (folder / "README.md").read_text("utf-8")
    report, recipe = (json.loads((folder / name).read_text("utf-8")) for name in ("acceptance.json", "recipe.json"))
    assert all(marker in card for marker in MARKERS)
    assert truth_table(process) in card
    assert report["all_met"] is True
    assert report["weights_sha256"] == recipe["weights_sha256"] == load(ModelSpec(str(folder))).card.weights_digest
    figures = [EvaluatedFigure(**{k: v for k, v in f.items() if k != "met"}) for f in report["figures"]]
    rows = table(figures).splitlines()
    assert all(row in card for row in rows)
    assert {f["name"] for f in report["figures"] if f["bound"] is not None} >= {
        "squared error / that of noise alone",
        "occlusion: drivers among the highest",
        "occlusion: Pearson with the true strength",
        "occlusion of single steps: lags exact",
        "random weights: bounds that are met",
    }


@every_process
def test_the_shipped_model_recovers_the_truth(process, models):
    windows = held_out(process, Recipe().window)[::9]
    found = measure(models[process.name], process, windows, Sizes(windows=64))
    assert found.error <= 1.1
    assert (found.hit, found.lags) == (1.0, 1.0)
    assert found.agreement >= 0.95
    assert found.proxy is None or found.proxy <= 0.02


@every_process
def test_the_shipped_fit_is_that_of_the_held_out_runs(process, models):
    model = models[process.name]
    windows = held_out(process, Recipe().window)
    fit, attainable = explained(model.module(), process, windows)
    series = model.series(model.tokenize_values(process.measured(windows[0, :-1])))
    np.testing.assert_allclose(series.fit, fit, atol=1e-3)
    np.testing.assert_allclose(series.attainable, attainable, atol=1e-3)
    assert (fit > attainable - 0.03).all()


def test_random_weights_miss_every_bound():
    process = PROCESSES["combustion"]
    control = load(ModelSpec("control", objects=(untrained(process, Recipe(seed=1)).eval(), None)))
    found = measure(control, process, held_out(process, 32)[::18], Sizes(windows=32))
    assert not any(found.met)
    assert len(found.met) == 5


@every_process
def test_example_data_are_written_by_the_program(process):
    shipped = (SHIPPED / process.name / "example.csv").read_text("utf-8")
    assert shipped == examples.example_csv(process)
    assert len(shipped.splitlines()) == 1 + examples.STEPS


def test_presets_name_their_sensors_and_models():
    presets = {preset.name: preset for preset in sensor_presets()}
    assert presets.keys() == PROCESSES.keys()
    session = attnviz.default_session()
    for name, preset in presets.items():
        assert preset.model == MODELS[name]
        entry = session.registry.models[preset.model]
        assert [file for _, file in entry.data] == [str(preset.example)]
        data = attnviz.read_sensors(preset.example)
        assert data.names == preset.sensors
        model = attnviz.load(preset.model)
        run = model.trace(array=data.array, names=data.names, times=data.times, window="last")
        count = len(preset.sensors)
        assert run.tokens.labels == run.tokens.columns == preset.sensors
        assert run.tokens.axis == "sensor"
        assert [run.attention(layer, head).shape for layer in (0, 1) for head in range(4)] == [(count, count)] * 8
        assert run.text.endswith("Rows: 208 to 239 of 240 (208 to 239)")
        np.testing.assert_array_equal(run.tokens.values, data.array[208:].astype(np.float32))
        assert session.model(run.run.spec).series(run.tokens).units == preset.units


def test_a_prediction_is_of_the_next_step():
    """On the example data, which nothing was trained or measured on, the next value is found as well as it can be."""
    process = PROCESSES["combustion"]
    data = attnviz.read_sensors(SHIPPED / "combustion" / "example.csv")
    model = load(ModelSpec(str(SHIPPED / "combustion")))
    starts = range(0, len(data.array) - 32)
    predicted = model.predict(np.stack([data.array[start : start + 32] for start in starts]))
    error = (predicted - data.array[32:]) / (process.noise * [sensor.scale for sensor in process.sensors])
    np.testing.assert_allclose((error**2).mean(), 1, atol=0.1)


# --------------------------------------------------------------------------------------------- broken files


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((SHIPPED / "combustion" / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": "64"}, "width: expected a whole number from 1, got '64'"),
        ({"heads": 5}, "a width that its 5 heads divide"),
        ({"units": ["kg/h"]}, "units: expected 12 texts"),
        ({"means": [float("nan")] * 12}, "means: expected 12 finite numbers"),
        ({"deviations": [0.0] * 12}, "deviations: expected numbers above 0"),
        ({"colour": "red"}, "unknown fields colour"),
        ({"width": 32}, "the weights do not fit the configuration"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change, message, folder):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | change), "utf-8")
    with pytest.raises(attnviz.errors.ModelError, match=message):
        load(ModelSpec(str(folder)))


def test_weights_that_are_none_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(attnviz.errors.ModelError, match="expected weights in safetensors"):
        load(ModelSpec(str(folder)))


def test_columns_that_the_model_does_not_read_are_named():
    model = attnviz.load("demo-sensors")
    data = attnviz.read_sensors(SHIPPED / "combustion" / "example.csv")
    names = list(data.names)
    with pytest.raises(attnviz.errors.BadInput, match=r"the data have no air_flow\.$"):
        model.trace(array=np.delete(data.array, 1, 1), names=[n for n in names if n != "air_flow"], window="last")
    with pytest.raises(attnviz.errors.BadInput, match="the data have no fuel_flow; the model has no gas"):
        model.trace(array=data.array, names=["gas", *names[1:]], window="last")
    with pytest.raises(attnviz.errors.BadInput, match="in this order; they came as pump_vibration, "):
        model.trace(array=data.array[:, ::-1], names=names[::-1], window="last")
    with pytest.raises(attnviz.errors.BadInput, match="reads numbers, not text"):
        model.trace("hello")
