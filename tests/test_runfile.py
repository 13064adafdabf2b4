"""A run comes back from its file bit for bit; a file that is none is refused in one line."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from attnviz.errors import BadInput
from attnviz.hooks import ModelSpec, Reference, Run, Sampling, Segment
from attnviz.runfile import SavedRun, read_run, write_run
from attnviz.testing import FakeModel, random_trace


@pytest.fixture
def saved():
    model = FakeModel()
    tokens = dataclasses.replace(model.tokenize("abc abc"), segments=(Segment("user", 1, 4),))
    run = Run(
        "id",
        ModelSpec("demo", "main", objects=(object(), 3)),
        "demo",
        tokens,
        5,
        Sampling(seed=3, stop=("a", "b")),
        "Math",
        "length",
    )
    trace = random_trace(len(tokens), heads=(4, 4, 4), kv_heads=(2, 2, 2), windows=(None, 3, None), missing=(2,))
    return SavedRun(run, model.card, dataclasses.replace(trace, seconds=0.5))


def same(one, two):
    if isinstance(one, np.ndarray):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    elif dataclasses.is_dataclass(one) and not isinstance(one, type):
        assert type(one) is type(two)
        for field in dataclasses.fields(one):
            if field.name != "objects":
                same(getattr(one, field.name), getattr(two, field.name))
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            same(a, b)
    else:
        assert one == two


def test_what_is_read_is_what_was_written(saved, tmp_path):
    write_run(tmp_path / "run.safetensors", saved)
    found = read_run(tmp_path / "run.safetensors")
    same(saved, found)
    np.testing.assert_array_equal(found.trace.attention(1, 3), saved.trace.attention(1, 3))


@pytest.mark.parametrize("outcomes", [None, np.array([[1.0, np.nan]] * 5)])
def test_numbers_and_what_they_are_compared_with_are_kept(saved, tmp_path, outcomes):
    values, inputs = np.random.default_rng(0).normal(size=(4, 3)), np.random.default_rng(1).normal(size=(5, 4, 3))
    tokens = dataclasses.replace(saved.run.tokens, values=values, reference=Reference(inputs, outcomes))
    saved = dataclasses.replace(saved, run=dataclasses.replace(saved.run, tokens=tokens))
    write_run(tmp_path / "run.safetensors", saved)
    same(saved, read_run(tmp_path / "run.safetensors"))


def test_what_is_no_run_is_refused(saved, tmp_path):
    path = tmp_path / "run.safetensors"
    for content in (None, b"", b"hello", b"\xff" * 64):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadInput, match="expected a saved run"):
            read_run(path)
    save_file({"x": np.zeros(3)}, str(path))
    with pytest.raises(BadInput, match="attnviz-run-1"):
        read_run(path)
    for header in ("{", "[]", "{}", '{"run": 3, "card": {}, "trace": {}}'):
        save_file({"x": np.zeros(3)}, str(path), metadata={"format": "attnviz-run-1", "header": header})
        with pytest.raises(BadInput, match="damaged"):
            read_run(path)


def test_arrays_that_do_not_fit_are_refused(saved, tmp_path):
    path = tmp_path / "run.safetensors"
    write_run(path, saved)
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file({**arrays, "layers.0.entropy": np.zeros((1, 1))}, str(path), metadata=metadata)
    with pytest.raises(BadInput, match="entropy"):
        read_run(path)
