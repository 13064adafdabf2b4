"""Which rows of a series a model reads, and the names that go with them; in Python and on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from attnviz.__main__ import main
from attnviz.demo.sensors import SHIPPED
from attnviz.errors import BadInput, ShapeError
from attnviz.registry import load_registry
from attnviz.runfile import read_run
from attnviz.series import choose_rows, reference_windows
from attnviz.session import Session
from attnviz.types import Reference, SensorData
from tests.backends.arrays import numbers, perturbed, random_module

EXAMPLE = SHIPPED / "combustion" / "example.csv"


@pytest.fixture(scope="module")
def session():
    return Session(load_registry(entry_points=False))


@pytest.fixture(scope="module")
def encoder(session):
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    return session.load(perturbed(torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)))


@pytest.mark.parametrize(
    ("window", "steps", "expected"),
    [(None, 9, (0, 9)), (None, None, (0, 9)), ("first", 4, (0, 4)), ("last", 4, (5, 9)), ("2:6", 4, (2, 6)),
     ("2:9", None, (2, 9)), ("last", 9, (0, 9))],
)  # fmt: skip
def test_rows(window, steps, expected):
    rows = choose_rows(np.zeros((9, 2)), window, steps)
    assert (rows.start, rows.stop) == expected


@pytest.mark.parametrize(
    ("window", "steps", "message"),
    [
        (None, 4, r"reads 4 rows \(time steps\), got 9: choose them with window"),
        ("2:7", 4, "reads 4 rows .*, got 5 by window 2:7"),
        ("2:4", 4, "reads 4 rows .*, got 2 by window 2:4"),
        ("last", 10, "reads 10 rows .*, got 9: give more"),
        ("first", None, "the model reads any number of rows, so say which"),
        ("7:12", None, "Window 7:12: expected rows within 0:9"),
        ("4:4", None, "Window 4:4: expected rows within 0:9, the first before the last"),
        ("-4:", None, "Window: expected first, last or START:STOP, such as 0:32, got '-4:'"),
        (3, None, "Window: expected first, last or START:STOP, such as 0:32, got 3"),
    ],
)
def test_rows_that_are_not_there_are_refused(window, steps, message):
    with pytest.raises(BadInput, match=message):
        choose_rows(np.zeros((9, 2)), window, steps)


def test_a_batch_is_never_averaged(session):
    model = session.load(random_module("patchtst"))
    with pytest.raises(BadInput, match="got a batch of 2: give them one by one"):
        model.trace(array=numbers(2, 36, 3))
    with pytest.raises(ShapeError, match=r"expected shape \[time, channel\] = \[36, 3\], got \[35, 3\]"):
        model.trace(array=numbers(35, 3))


def test_a_single_number_is_refused(session):
    with pytest.raises(ShapeError, match=r"expected shape \[time, channel\] = \[36, 3\], got \[\]"):
        session.load(random_module("patchtst")).trace(array=np.float32(3))


def test_times_are_on_the_tokens_that_stand_for_them(encoder, session):
    times = [f"08:{minute:02}" for minute in range(9)]
    tokens = encoder.trace(array=numbers(9, 16), times=times, window="2:7").tokens
    assert tokens.labels == ("08:02", "08:03", "08:04", "08:05", "08:06")
    assert tokens.text == "Rows: 2 to 6 of 9 (08:02 to 08:06)"
    np.testing.assert_array_equal(tokens.values, numbers(9, 16)[2:7])
    patches = session.load(random_module("patchtst"))
    run = patches.trace(array=numbers(40, 3), names=["a", "b", "c"], times=[f"T{i}" for i in range(40)], window="last")
    assert run.tokens.labels[:2] == ("T4–T11", "T8–T15")
    assert run.text == "Columns: a, b, c. Rows: 4 to 39 of 40 (T4 to T39)"


@pytest.mark.parametrize("times", [["1", "2"], "123456789", list(range(9))])
def test_times_that_do_not_fit_are_refused(times, encoder):
    with pytest.raises(BadInput, match="Times: expected a text for each of the 9 rows of the series"):
        encoder.trace(array=numbers(9, 16), times=times)


def test_a_picture_has_no_window(session):
    with pytest.raises(BadInput, match="of a series \\[time, sensor\\], which this model does not read"):
        session.load(random_module("vit")).trace(array=numbers(3, 32, 32), window="last")


def test_three_names_for_512_columns_are_refused(encoder):
    with pytest.raises(BadInput, match="one for each of the 512 columns of the array, got 3"):
        encoder.trace(array=numbers(9, 512), names=["a", "b", "c"])


def test_two_windows_of_one_series_are_two_runs(encoder):
    first, second = (encoder.trace(array=numbers(9, 16), window=window) for window in ("0:5", "1:6"))
    assert first.analyze("attention_stats").provenance != second.analyze("attention_stats").provenance


def test_axis_and_columns_are_written_and_read_back(session, tmp_path):
    data = session.read_sensors(EXAMPLE)
    run = session.load("demo-sensors").trace(**data.of(None), window="last")
    run.write(tmp_path / "run.safetensors")
    read = read_run(tmp_path / "run.safetensors").run.tokens
    assert (read.axis, read.columns, read.labels) == ("sensor", data.names, data.names)


# --------------------------------------------------------------------------------------------- the reference


def test_a_reference_is_windows_over_all_rows():
    rows = np.arange(12.0).reshape(6, 2)
    found = reference_windows(SensorData(rows), 3, next_rows=True)
    np.testing.assert_array_equal(found.inputs, [rows[0:3], rows[1:4], rows[2:5]])
    np.testing.assert_array_equal(found.outcomes, rows[3:])
    assert len(reference_windows(SensorData(rows), 3, next_rows=False).inputs) == 4
    assert reference_windows(SensorData(rows), 6, next_rows=True).outcomes is None  # the file ends with the window
    long = reference_windows(SensorData(np.arange(2000.0).reshape(1000, 2)), 4, next_rows=False)
    np.testing.assert_array_equal(long.inputs[:, 0, 0], 2 * np.arange(0, 997, 15))  # 997 places, 15 apart


def test_series_of_a_batch_are_not_joined():
    rows = np.arange(20.0).reshape(2, 5, 2)
    found = reference_windows(SensorData(rows), 4, next_rows=True)
    np.testing.assert_array_equal(found.inputs, rows[:, :4])
    np.testing.assert_array_equal(found.outcomes, rows[:, 4])


def test_a_reference_shorter_than_the_input_is_refused():
    with pytest.raises(BadInput, match=r"Reference: expected 8 rows \(time steps\) or more, as the input has, got 5"):
        reference_windows(SensorData(np.ones((5, 2))), 8, next_rows=False)


# --------------------------------------------------------------------------------------------- the command line


def run(capsys, *arguments):
    code = main(["run", "attention_stats", *map(str, arguments), "--no-plugins"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_window_on_the_command_line(capsys):
    code, out, _ = run(capsys, "--model", "demo-sensors", "--array", EXAMPLE, "--window", "10:42")
    assert code == 0
    found = json.loads(out)
    assert found["text"].endswith("Rows: 10 to 41 of 240 (10 to 41)")
    assert [token["label"] for token in found["tokens"]][:2] == ["fuel_flow", "air_flow"]


def test_an_item_of_a_batch_on_the_command_line(capsys, tmp_path, session):
    array = np.stack([session.read_sensors(EXAMPLE).array[start : start + 32] for start in (0, 50)])
    np.save(tmp_path / "batch.npy", array)
    whole = ["--model", "demo-sensors", "--array", tmp_path / "batch.npy"]
    code, _, error = run(capsys, *whole)
    assert code == 2
    assert "expected 0 to 1 of a batch of 2 series, which are not averaged; got none" in error
    code, out, _ = run(capsys, *whole, "--item", "1")
    assert code == 0
    expected = session.load("demo-sensors").trace(array=array[1]).analyze("attention_stats")
    found = np.array(json.loads(out)["result"]["metrics"]["entropy"], float)
    np.testing.assert_allclose(found, expected.result.metrics["entropy"], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "The model reads 32 rows (time steps), got 240: choose them with window"),
        (["--window", "0:31"], "reads 32 rows (time steps), got 31 by window 0:31"),
        (["--window", "last", "--item", "0"], "Item 0: expected none, the data are one series"),
    ],
)
def test_bad_input_on_the_command_line_is_one_line(options, message, capsys):
    code, out, error = run(capsys, "--model", "demo-sensors", "--array", EXAMPLE, *options)
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_choices_without_an_array_are_refused(capsys):
    code, _, error = run(capsys, "--text", "hello", "--window", "last")
    assert code == 2
    assert "--window: expected together with --array, got no array" in error


def test_a_sensor_that_never_changes_can_be_kept(capsys, tmp_path):
    lines = EXAMPLE.read_text("utf-8").splitlines()[:33]
    stuck = [lines[0], *(",".join([*line.split(",")[:-1], "2.8"]) for line in lines[1:])]
    (tmp_path / "stuck.csv").write_text("\n".join(stuck))
    arguments = ["--model", "demo-sensors", "--array", tmp_path / "stuck.csv"]
    code, _, error = run(capsys, *arguments)
    assert code == 2
    assert "stuck.csv, column 13 (pump_vibration): expected a sensor that changes, got 2.8 in all 32 rows" in error
    assert run(capsys, *arguments, "--keep-constant")[0] == 0


def importance(capsys, *arguments):
    given = ["--model", "demo-sensors", "--array", EXAMPLE, "--window", "last", *arguments, "-p", "shuffles=2"]
    code = main(["run", "sensor_importance", *map(str, given), "-p", "output=next nox_emission", "--no-plugins"])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_reference_on_the_command_line_is_that_of_python(capsys, session):
    code, out, _ = importance(capsys, "--reference", EXAMPLE)
    assert code == 0
    data = session.read_sensors(EXAMPLE)
    usual = Reference.windows(data.array, 32, stride=208 // 64, next_rows=True)
    run = session.load("demo-sensors").trace(**data.of(None), window="last", reference=usual)
    expected = run.analyze("sensor_importance", output="next nox_emission", shuffles=2).result
    found = json.loads(out)["result"]
    np.testing.assert_allclose(np.array(found["occlusion"], float), expected.occlusion, rtol=1e-5)
    np.testing.assert_allclose(np.array(found["fit"], float), expected.fit, rtol=1e-5)
    assert f"Usual = mean over the {len(usual.inputs)} inputs of the reference." in found["info"]
    code, out, _ = importance(capsys)
    assert code == 0
    assert "Usual = mean over the data the model was trained on." in json.loads(out)["result"]["info"]


def test_a_reference_that_does_not_fit_is_refused_in_one_line(capsys, tmp_path):
    lines = EXAMPLE.read_text("utf-8").splitlines()
    other, short, narrow = (tmp_path / name for name in ("other.csv", "short.csv", "narrow.npy"))
    other.write_text("\n".join([lines[0].replace("air_flow", "wind"), *lines[1:]]), "utf-8")
    short.write_text("\n".join(lines[:21]), "utf-8")
    np.save(narrow, np.random.default_rng(0).normal(size=(40, 3)))
    for file, message in (
        (other, "the data have no air_flow; the model has no wind"),
        (short, "Reference: expected 32 rows (time steps) or more, as the input has, got 20"),
        (narrow, "--reference: expected 12 columns, as the array has, got 3"),
    ):
        code, out, error = importance(capsys, "--reference", file)
        assert (code, out) == (2, "")
        assert message in error
        assert error.count("\n") == 1


def test_a_reference_without_an_array_is_refused(capsys):
    code, _, error = run(capsys, "--text", "hello", "--reference", EXAMPLE)
    assert code == 2
    assert "--reference: expected together with --array, got no array" in error
