"""Arrays of numbers are read as they are, or refused with the place of what is wrong."""

import io

import numpy as np
import pytest

from attnviz.hooks import BadInput
from attnviz.plugins.formats import numbers
from attnviz.testing import check_format


def test_the_contract(tmp_path):
    check_format(numbers.attnviz_formats()[0], None, tmp_path)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8", ">f4"])
def test_npy_is_read_as_it_is(dtype, tmp_path):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    found = numbers.read(tmp_path / "a.npy")
    np.testing.assert_array_equal(found["array"], array)
    assert found["array"].dtype == array.dtype
    assert found["names"] is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2.5\n-3e2,4\n", None),
        ("pressure,flow\n1,2.5\n-3e2,4\n", ("pressure", "flow")),
        ('"pressure, bar",flow\r\n1,2.5\r\n-3e2,4', ("pressure, bar", "flow")),
        ("\ufeffpressure,flow\n\n1,2.5\n\n-3e2, 4\n", ("pressure", "flow")),
    ],
)
def test_csv_is_time_by_channel(text, names, tmp_path):
    (tmp_path / "a.csv").write_text(text, "utf-8", newline="")
    found = numbers.read(tmp_path / "a.csv")
    np.testing.assert_array_equal(found["array"], [[1, 2.5], [-300, 4]])
    assert found["names"] == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected rows of numbers, got none"),
        ("a,b\n", "expected rows of numbers, got none"),
        ("a,b\n1,x\n", r"row 2, column 2 \(b\): expected a finite number, got 'x'"),
        ("1,2\n3,\n", "row 2, column 2: expected a finite number, got ''"),
        ("1,2\n3,nan\n", "row 2, column 2: expected a finite number, got 'nan'"),
        ("1,2\n1e999,3\n", "row 2, column 1: expected a finite number, got '1e999'"),
        ("1,2\n3\n", "row 2: expected 2 cells as in the first row, got 1"),
        ("a,1\n1,2\n", "row 1, column 1: expected a finite number, got 'a'"),
        ("a,a\n1,2\n", "row 1: expected a name of its own for each column, got 'a' twice"),
        ("a,\n1,2\n", "row 1: column 2 is neither a number nor a name"),
        ("1_000,2\n3,4\n", "row 1, column 1: expected a finite number, got '1_000'"),
        ("1;2\n3;4\n", "row 2, column 1 .* got '3;4'"),
        ('1,"2\n', "expected rows of numbers separated by commas"),
    ],
)
def test_what_is_no_series_is_refused(text, message, tmp_path):
    (tmp_path / "a.csv").write_text(text, "utf-8")
    with pytest.raises(BadInput, match=message) as refusal:
        numbers.read(tmp_path / "a.csv")
    assert str(refusal.value).startswith("a.csv")
    assert "\n" not in str(refusal.value)


def saved(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an array as numpy.save writes it"),
        (b"PK\x03\x04", "expected an array as numpy.save writes it"),
        (saved(np.zeros((4, 4)))[:-3], "expected an array as numpy.save writes it"),
        (saved(np.array([{}], object)), "expected an array as numpy.save writes it"),
        (saved(np.array(["a"])), "expected an array of numbers, got one of <U1"),
        (saved(np.array([1j])), "expected an array of numbers, got one of complex128"),
        (saved(np.array([[1.0, np.inf]])), r"expected finite numbers, got inf at \[0, 1\]"),
    ],
)
def test_what_is_no_array_is_refused(content, message, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        numbers.read(tmp_path / "a.npy")


def test_other_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"expected a file ending in \.npy or \.csv"):
        numbers.read(tmp_path / "a.txt")
    (tmp_path / "latin.csv").write_bytes("é\n1".encode("latin-1"))
    with pytest.raises(BadInput, match="expected UTF-8"):
        numbers.read(tmp_path / "latin.csv")
    monkeypatch.setattr(numbers, "MAX_BYTES", 8)
    (tmp_path / "long.csv").write_text("1,2,3,4,5\n")
    with pytest.raises(BadInput, match="expected at most"):
        numbers.read(tmp_path / "long.csv")
