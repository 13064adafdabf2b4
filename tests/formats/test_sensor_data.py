"""Sensor data are read as they are, or refused in one line with row, column, what was expected and what came."""

from __future__ import annotations

import os

import numpy as np
import pytest

from attnviz.hooks import BadInput
from attnviz.plugins.formats import sensor_data
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.testing import check_format


def test_the_contract(tmp_path):
    check_format(sensor_data.attnviz_formats()[0], None, tmp_path)


@pytest.mark.parametrize(
    ("text", "names", "times"),
    [
        ("1,2.5\n-3e2,4\n", (), ()),
        ("pressure,flow\n1,2.5\n-3e2,4\n", ("pressure", "flow"), ()),
        ("time,pressure,flow\n0,1,2.5\n1,-3e2,4\n", ("pressure", "flow"), ("0", "1")),
        ('Timestamp,"pressure, bar",flow\r\n2026-01-31 08:00,1,2.5\r\n2026-01-31 08:01,-3e2,4',
         ("pressure, bar", "flow"), ("2026-01-31 08:00", "2026-01-31 08:01")),
        ("\ufeffdate,pressure,flow\n\n2026-01-31T08:00Z,1,2.5\n\n2026-02-01T08:00+01:00,-3e2,4\n",
         ("pressure", "flow"), ("2026-01-31T08:00Z", "2026-02-01T08:00+01:00")),
    ],
)  # fmt: skip
def test_csv_is_time_by_sensor(text, names, times, tmp_path):
    (tmp_path / "a.csv").write_text(text, "utf-8", newline="")
    found = sensor_data.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.array, [[1, 2.5], [-300, 4]])
    assert found.names == names
    assert found.times == times


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a row of names and rows of numbers, got an empty file"),
        ("a,b\n", "expected rows of numbers, got none"),
        ("time\n1\n2\n", "row 1: expected names of sensors behind 'time', got none"),
        ("a,b\n1,2\n3,open\n", r"row 3, column 2 \(b\): expected a finite number, got 'open'"),
        ("a,b\n1,2\n\n3,nan\n", r"row 4, column 2 \(b\): expected a finite number, got 'nan'"),
        ("a,b\n1,2\n-inf,3\n", r"row 3, column 1 \(a\): expected a finite number, got '-inf'"),
        ("a,b\n1,2\n,3\n", r"row 3, column 1 \(a\): expected a finite number, got ''"),
        ("1,2\n1e999,3\n", "row 2, column 1: expected a finite number, got '1e999'"),
        ("1_000,2\n3,4\n", "row 1, column 1: expected a finite number, got '1_000'"),
        ("a,1\n1,2\n", "row 1, column 1: expected a finite number, got 'a'"),
        ("a,b\n1,2\n3\n", "row 3: expected 2 cells as in the first row, got 1"),
        ("a,b\n1,2\n3,4,5\n", "row 3: expected 2 cells as in the first row, got 3"),
        ("a,a\n1,2\n", "row 1: expected a name of its own for each column, got 'a' twice"),
        ("a,\n1,2\n", "row 1, column 2: expected a name, got an empty cell"),
        ("a;b\n1;2\n", "row 1: expected cells separated by commas, got 'a;b'"),
        ('a,b\n1,"2\n', "expected cells separated by commas"),
        ("a,b\n1,5\n2,5\n", r"column 2 \(b\): expected a sensor that changes, got 5 in all 2 rows"),
        ("1,5\n1,6\n", "column 1: expected a sensor that changes, got 1 in all 2 rows"),
        ("time,a\n2,1\n2,3\n", r"row 3, column 1 \(time\): expected a time after '2', got '2'"),
        ("time,a\n1,1\n2026-01-31,3\n", r"row 3, column 1 \(time\): expected a time after '1', got '2026-01-31'"),
        ("time,a\nnoon,1\n", r"row 2, column 1 \(time\): expected a number or a time such as .*, got 'noon'"),
        ("when,a\n2026-01-31,1\n", r"row 2, column 1 \(when\): expected a finite number, got '2026-01-31'"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_with_its_place(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text, "utf-8", newline="")
    with pytest.raises(BadInput, match=message) as caught:
        sensor_data.read(tmp_path / "a.csv")
    assert str(caught.value).startswith("a.csv")
    assert "\n" not in str(caught.value)


def test_a_sensor_that_never_changes_can_be_kept(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,5\n2,5\n")
    np.testing.assert_array_equal(sensor_data.read(tmp_path / "a.csv", keep_constant=True).array, [[1, 5], [2, 5]])


def test_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,b\n1,2\n3,4 °C\n".encode("latin-1"))
    with pytest.raises(BadInput, match=r"a\.csv, row 3: expected UTF-8 text, got the byte 0xb0"):
        sensor_data.read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(BadInput, match=r"b\.csv, row 1: expected UTF-8 text, got the byte 0xff"):
        sensor_data.read(tmp_path / "b.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.npy"])
def test_a_file_of_a_gigabyte_is_refused_without_reading_it(name, tmp_path, monkeypatch):
    with (tmp_path / name).open("wb") as file:
        os.ftruncate(file.fileno(), 1 << 30)  # sparse: it takes no room
    monkeypatch.setattr(type(tmp_path), "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadInput, match=f"{name}: expected at most 64 MiB, got 1024"):
        sensor_data.read(tmp_path / name)


def test_npy_is_one_series_or_a_batch_that_is_kept_apart(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    np.save(tmp_path / "batch.npy", array)
    found = sensor_data.read(tmp_path / "batch.npy")
    np.testing.assert_array_equal(found.array, array)
    np.testing.assert_array_equal(found.of(1)["array"], array[1])
    with pytest.raises(BadInput, match="expected 0 to 1 of a batch of 2 series, which are not averaged; got none"):
        found.of(None)
    with pytest.raises(BadInput, match="got 2"):
        found.of(2)
    np.save(tmp_path / "one.npy", array[0])
    one = sensor_data.read(tmp_path / "one.npy")
    np.testing.assert_array_equal(one.of(None)["array"], array[0])
    with pytest.raises(BadInput, match="Item 0: expected none, the data are one series"):
        one.of(0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4, 3)), r"none of them 0, got one of shape \[0, 4, 3\]"),
        (np.zeros(4), r"expected an array \[time, sensor\] or \[batch, time, sensor\].*got one of shape \[4\]"),
        (np.array([["a"]]), "expected an array of numbers, got one of <U1"),
        (np.array([[1.0, 2], [np.nan, 4]]), r"row 1, column 0 \(from 0\): expected a finite number, got nan"),
        (np.array([[[1.0, 2], [3, np.inf]]]), r"item 0, row 1, column 1 \(from 0\): expected a finite number, got inf"),
        (np.array([[1.0, 2], [3.0, 2]]), "column 2: expected a sensor that changes, got 2 in all 2 rows"),
        (np.array([[object()]], dtype=object), "expected an array as numpy.save writes it"),
    ],
)
def test_a_npy_that_does_not_fit_is_refused(array, message, tmp_path):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(BadInput, match=message):
        sensor_data.read(tmp_path / "a.npy")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"a\.xlsx: expected a file ending in \.csv or \.npy"):
        sensor_data.read(tmp_path / "a.xlsx")
    with pytest.raises(BadInput, match=r"none\.csv: cannot be read: No such file"):
        sensor_data.read(tmp_path / "none.csv")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99")
    with pytest.raises(BadInput, match=r"a\.npy: expected an array as numpy\.save writes it"):
        sensor_data.read(tmp_path / "a.npy")


def test_a_session_reads_them(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,5\n2,6\n")
    session = Session(load_registry(entry_points=False))
    assert session.read_sensors(tmp_path / "a.csv").names == ("a", "b")
    with pytest.raises(BadInput, match="colour"):
        session.read_sensors(tmp_path / "a.csv", colour="red")
