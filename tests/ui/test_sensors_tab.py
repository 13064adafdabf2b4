"""Measurements in the app: the example, a file, what cannot be read, links, and a model that reads no measurements."""

import dataclasses

import numpy as np
import pytest

import attnviz
from attnviz.errors import BadInput
from attnviz.ui import measurements
from attnviz.ui.measurements import Measured
from attnviz.ui.python_code import reproduce
from tests.ui.browsing import open_tab, panel, query

EXAMPLE = "?model=demo-sensors&data=0&window=last"


# --------------------------------------------------------------------------------------------- without a browser


@pytest.fixture(scope="module")
def model():
    return attnviz.load("demo-sensors")


@pytest.fixture(scope="module")
def entry(model):
    return model.session.registry.models["demo-sensors"]


@pytest.fixture(scope="module")
def rows(entry):
    return attnviz.read_sensors(entry.data[0][1])


def test_what_is_asked_for():
    assert measurements.asked(None, "", None, "last", "", False) is None
    assert measurements.asked(None, "0", "/tmp/left.csv", " 0:32 ", "", True) == Measured(0, "", "0:32", None, True)
    assert measurements.asked(None, "upload", "/tmp/x.npy", "", "2", False) == Measured(None, "/tmp/x.npy", "all", 2)
    with pytest.raises(BadInput, match=r"Item of a batch: expected a whole number from 0, or nothing, got 'two'\."):
        measurements.asked(None, "upload", "/tmp/x.npy", "last", "two", False)


def test_the_run_is_of_the_rows_that_are_asked_for_beside_windows_of_the_same_series(model, entry, rows):
    run = measurements.trace(model, Measured(0, window="5:37"), entry, "")
    np.testing.assert_array_equal(run.tokens.values, rows.array[5:37].astype(run.tokens.values.dtype))
    reference = run.tokens.reference
    starts = range(0, 240 - 32, 3)  # 208 windows that have a next row, about 64 of them
    np.testing.assert_array_equal(reference.inputs, np.stack([rows.array[s : s + 32] for s in starts]))
    np.testing.assert_array_equal(reference.outcomes, np.stack([rows.array[s + 32] for s in starts]))
    said = measurements.in_words(model, Measured(0, window="5:37"), entry)
    assert said.startswith("Read: rows 5 to 36 of 240, times 5 to 36; 12 columns: fuel_flow, ")
    assert said.endswith(f"Compared with {len(starts)} windows of the same series.")


def test_no_more_rows_than_are_read_give_no_reference(model, entry, rows, tmp_path):
    file = tmp_path / "short.npy"
    np.save(file, rows.array[:32])
    run = measurements.trace(model, Measured(None, str(file)), entry, "")
    assert run.tokens.reference is None
    assert "Compared" not in measurements.in_words(model, Measured(None, str(file)), entry)


def test_links_name_an_example_and_refuse_a_file(entry):
    measured = Measured(0, window="5:37", keep_constant=True)
    said = measurements.address(measured)
    assert said == {"data": "0", "window": "5:37", "constant": "keep"}
    assert measurements.of_address(said, entry) == measured
    assert measurements.of_address({}, entry) == Measured(0)
    assert measurements.of_address({}, None) is None
    with pytest.raises(BadInput, match=r"uploaded file 'plant\.csv', which a link cannot carry"):
        measurements.of_address(measurements.address(Measured(None, "/tmp/gradio/abc/plant.csv")), entry)


@pytest.mark.parametrize("measured", [Measured(0), Measured(None, "batch.npy", "0:32", 1)])
def test_the_python_beside_a_view_makes_the_same_run(model, entry, rows, tmp_path, monkeypatch, measured):
    np.save(tmp_path / "batch.npy", np.stack([rows.array[:50], rows.array[50:100]]))
    monkeypatch.chdir(tmp_path)
    run = measurements.trace(model, measured, entry, "")
    code = reproduce(run, model.session.registry, "attention_summary", {"top_k": 3})
    made = {}
    exec(code.split("finding =")[0], made)
    again = made["run"].tokens
    assert again.labels == run.tokens.labels
    assert again.text == run.tokens.text
    np.testing.assert_array_equal(again.values, run.tokens.values)
    for field in dataclasses.fields(again.reference):
        np.testing.assert_array_equal(getattr(again.reference, field.name), getattr(run.tokens.reference, field.name))


def test_a_text_model_names_the_models_to_choose(model):
    registry = model.session.registry
    said = measurements.which_model(registry, registry.analyses["sensor_importance"])
    assert "Combustion sensors or Thermal sensors or Maintenance sensors" in said
    assert measurements.which_model(registry, registry.analyses["logit_lens"]) == ""


def test_the_names_of_what_is_predicted(model, entry):
    run = measurements.trace(model, Measured(0), entry, "")
    assert measurements.predicted(run)[6] == "next nox_emission"
    assert measurements.predicted(attnviz.load("demo").trace("The cat")) == ()


def test_a_prompt_for_a_model_of_sensors_is_told_what_to_do(model):
    with pytest.raises(BadInput, match="reads measurements, no text"):
        measurements.refuse_text(model)


# --------------------------------------------------------------------------------------------- in the browser


@pytest.fixture
def sensors(new_page):
    page = new_page(EXAMPLE, ready=False)
    page.set_default_timeout(30_000)  # the first of them loads the model
    page.wait_for_selector("#app-panel-sensor_importance [data-ready='1']")
    return page


def run_id(page):
    return page.evaluate("window.attnviz.run.id")


def give_file(page, file):
    """Choose a file in place of the example, or of the file before."""
    page.locator("#app-data input").click()
    page.get_by_role("option", name="a file (CSV, NPY)").click()
    page.locator("#app-file input[type=file]").set_input_files(file)


def line(page, words):
    """The line about the file, once it says so."""
    found = page.locator("#app-measured").get_by_text(words)
    found.wait_for()
    return found.inner_text()


@pytest.mark.browser
def test_a_link_opens_the_example_in_the_tab_for_sensors(sensors):
    assert query(sensors)["tab"] == "Sensors"
    assert query(sensors)["data"] == "0"
    assert sensors.evaluate("window.attnviz.run.tokens").count("oxygen_ppm") == 1
    assert sensors.locator("#app-strip .app-role").inner_text() == "sensors"
    assert not sensors.locator("#app-prompt").is_visible()
    assert line(sensors, "Read:").startswith("Read: rows 208 to 239 of 240, times 208 to 239; 12 columns")
    shown = panel(sensors, "sensor_importance").inner_text()
    assert "Rank by occlusion" in shown
    assert "not for regulatory figures" in shown
    panel(sensors, "sensor_importance").get_by_role("combobox", name="Output", exact=True).click()
    sensors.get_by_role("option", name="next nox_emission").click()
    panel(sensors, "sensor_importance").get_by_text("Explained: next nox_emission.").wait_for()
    open_tab(sensors, "Attention")
    sensors.wait_for_selector("#app-panel-attention_pattern [data-ready='1']")


@pytest.mark.browser
def test_files_that_cannot_be_read_are_said_in_place_and_the_result_stays(sensors, rows, tmp_path):
    before = run_id(sensors)
    bad = tmp_path / "bad.csv"
    cells = [",".join(rows.names), *(",".join(f"{x:.4f}" for x in row) for row in rows.array)]
    bad.write_text("\n".join([*cells[:4], cells[4].replace(cells[4].split(",")[2], "<b>off</b>", 1), *cells[5:]]))
    give_file(sensors, bad)
    said = "bad.csv, row 5, column 3 (oxygen_ppm): expected a finite number, got '<b>off</b>'."
    assert line(sensors, "row 5") == said
    sensors.get_by_role("button", name="Run", exact=True).click()
    sensors.locator("#app-run-notice .app-is-error").wait_for()
    assert sensors.locator("#app-run-notice").inner_text().strip() == said
    assert run_id(sensors) == before
    assert "Rank by occlusion" in panel(sensors, "sensor_importance").inner_text()


@pytest.mark.browser
def test_a_file_of_ones_own(sensors, rows, tmp_path):
    before = run_id(sensors)
    np.save(tmp_path / "mine.npy", rows.array[100:150])
    give_file(sensors, tmp_path / "mine.npy")
    assert line(sensors, "Read:").startswith("Read: rows 18 to 49 of 50; 12 columns: fuel_flow")
    sensors.get_by_role("button", name="Run", exact=True).click()
    sensors.wait_for_function("before => window.attnviz.run.id !== before", arg=before)
    sensors.wait_for_function("new URLSearchParams(location.search).get('file') === 'mine.npy'")


@pytest.mark.browser
def test_a_model_of_text_says_which_to_choose(new_page):
    page = new_page("?tab=Sensors", ready=False)
    notice = panel(page, "sensor_importance").locator(".app-is-info")
    notice.wait_for()
    assert "Combustion sensors" in notice.inner_text()
    assert page.locator("#app-prompt").is_visible()
    assert page.locator("#app-measured").count() == 0
