"""Data refuses wrong shapes and quotes both; results survive JSON."""

import dataclasses
import json

import numpy as np
import pytest

from attnviz.errors import BadInput, ShapeError, UnknownName
from attnviz.testing import (
    attention,
    capture,
    check_round_trip,
    random_trace,
    sample_finding,
    sample_findings,
    sample_tokens,
    visibility,
)
from attnviz.types import (
    HeadScores,
    LayerCapture,
    Reference,
    Segment,
    Table,
    TokenMatrix,
    Tokens,
    TokenScores,
    Trace,
    View,
    Want,
    from_jsonable,
    result_types,
    to_jsonable,
)

TOKENS = {
    "ids": np.array([1, 2]),
    "labels": ("a", "b"),
    "offsets": np.array([[0, 1], [1, 2]]),
    "special": np.array([True, False]),
    "text": "ab",
}


def layer(**changes):
    rng = np.random.default_rng(0)
    good = capture(rng.normal(size=(4, 5, 3)), rng.normal(size=(2, 5, 3)))
    return dataclasses.replace(good, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array([1])}, r"Tokens.ids: expected shape \[2\], got \[1\]"),
        ({"offsets": np.zeros((2, 3), int)}, r"Tokens.offsets: expected shape \[2, 2\], got \[2, 3\]"),
        ({"special": np.zeros((2, 1), bool)}, r"Tokens.special: expected shape \[2\], got \[2, 1\]"),
        ({"segments": (Segment("user", 0, 3),)}, r"within 0\.\.2, got \(0, 3\)"),
        ({"segments": (Segment("user", 2, 1),)}, r"got \(2, 1\)"),
    ],
)
def test_tokens_refuse(change, message):
    with pytest.raises(ShapeError, match=message):
        Tokens(**{**TOKENS, **change})


def test_tokens_are_read_only():
    tokens = Tokens(**TOKENS)
    with pytest.raises(ValueError, match="read-only"):
        tokens.ids[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens.text = "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": np.zeros((2, 5, 4))}, r"k: expected shape \[any, any, 3\], got \[2, 5, 4\]"),
        ({"k": np.zeros((3, 5, 3))}, "a divisor of 4, got 3"),
        ({"entropy": np.zeros((4, 6))}, r"entropy: expected shape \[4, 5\], got \[4, 6\]"),
        ({"column_sum": np.zeros((2, 5))}, r"column_sum: expected shape \[4, 5\], got \[2, 5\]"),
        ({"allowed": np.zeros(4, int)}, r"allowed: expected shape \[5\], got \[4\]"),
        ({"seen_by": np.zeros(6, int)}, r"seen_by: expected shape \[5\], got \[6\]"),
        ({"visible": np.ones((5, 4), bool)}, r"visible: expected shape \[5, 5\], got \[5, 4\]"),
        ({"thumbnail": np.zeros((1, 5, 5), np.uint8)}, r"thumbnail: expected shape \[4, any, any\]"),
        (
            {"top_weights": np.ones((4, 5, 2)), "top_keys": np.zeros((4, 5, 3), np.int32)},
            r"top_keys: expected shape \[4, 5, 2\], got \[4, 5, 3\]",
        ),
        ({"value_norm": np.ones((4, 6))}, r"value_norm: expected shape \[4, 5\], got \[4, 6\]"),
    ],
)
def test_layers_refuse(change, message):
    with pytest.raises(ShapeError, match=message):
        layer(**change)


def test_a_layer_needs_a_map_or_what_makes_one():
    with pytest.raises(BadInput, match="expected queries and keys, or weights"):
        layer(q=None, k=None)


def test_a_missing_layer_needs_a_reason():
    with pytest.raises(BadInput, match="layer 0 has no attention and no reason"):
        Trace(layers=(None,))


@pytest.mark.parametrize("name", ["scores", "normalized", "target_values", "delta"])
def test_an_attribution_refuses_wrong_shapes(name):
    good = sample_finding("attribution").result
    with pytest.raises(ShapeError, match=rf"Attribution\.{name}: expected shape \[2"):
        dataclasses.replace(good, **{name: getattr(good, name)[:1]})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": False},
        {"window": 2},
        {"softcap": 0.7},
        {"sinks": np.array([0.5, -1.0, 3.0, 0.0])},
        {"bias": np.random.default_rng(1).normal(size=(4, 5, 5))},
        {"bias": np.random.default_rng(1).normal(size=(1, 5, 5))},
        {"scale": 3.0},
    ],
    ids=str,
)
def test_patterns_by_brute_force(options):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(4, 5, 3)), rng.normal(size=(2, 5, 3))
    found = capture(q, k, **options)
    seen = visibility(5, 5, causal=options.get("causal", True))
    if "window" in options:
        seen &= visibility(5, 5, causal=False, window=options["window"])
    rest = {name: options[name] for name in ("softcap", "sinks", "bias") if name in options}
    expected = attention(q, k, seen, scale=options.get("scale", 3**-0.5), **rest)
    for head in range(4):
        np.testing.assert_allclose(found.pattern(head), expected[head], atol=1e-6)
        np.testing.assert_allclose(found.pattern(head, slice(2, 4)), expected[head, 2:4], atol=1e-6)


def test_softmax_by_hand():
    """Scores 0 and ln 3 give 1/4 and 3/4; the first query sees itself only."""
    found = capture(np.ones((1, 2, 1)), np.array([[[0.0], [np.log(3)]]]), scale=1.0)
    np.testing.assert_allclose(found.pattern(0), [[1, 0], [0.25, 0.75]], atol=1e-7)


def test_a_row_that_sees_nothing_is_zero():
    nothing = np.ones((5, 5), bool)
    nothing[2] = False
    rng = np.random.default_rng(0)
    found = capture(rng.normal(size=(1, 5, 3)), rng.normal(size=(1, 5, 3)), visible=nothing)
    assert not found.pattern(0)[2].any()


def test_a_trace_names_the_layers_and_heads_it_has():
    trace = random_trace(4, heads=(2, 3), missing=(1,))
    assert trace.heads == 2
    assert trace.nbytes > 0
    for call, message in [
        (lambda: trace.attention(2, 0), "layers 0 to 1"),
        (lambda: trace.attention(-1, 0), "layers 0 to 1"),
        (lambda: trace.attention(0, 2), "heads 0 to 1"),
        (lambda: trace.attention(1, 0), "Layer 1 has no attention: a linear layer"),
    ]:
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadScores(metrics={}, units={}), "at least one metric"),
        (
            lambda: HeadScores(metrics={"a": np.zeros((2, 3)), "b": np.zeros((2, 4))}, units={"a": "", "b": ""}),
            r"metrics\['b'\]: expected shape \[2, 3\], got \[2, 4\]",
        ),
        (lambda: HeadScores(metrics={"a": np.zeros(3)}, units={"a": ""}), r"expected shape \[any, any\], got \[3\]"),
        (lambda: HeadScores(metrics={"a": np.zeros((2, 3))}, units={}), "no unit for metric 'a'"),
        (
            lambda: HeadScores(metrics={"a": np.zeros((2, 3))}, units={"a": ""}, layer_importance=np.zeros(3)),
            r"expected shape \[2\], got \[3\]",
        ),
        (
            lambda: HeadScores(metrics={"a": np.zeros((2, 3))}, units={"a": ""}, received=np.zeros((3, 9))),
            r"expected shape \[2, any\], got \[3, 9\]",
        ),
        (lambda: TokenScores(scores=np.zeros((2, 2)), unit=""), r"expected shape \[any\], got \[2, 2\]"),
        (
            lambda: TokenMatrix(scores=np.zeros((2, 3)), rows=np.arange(2), columns=np.arange(4), unit=""),
            r"expected shape \[2, 4\], got \[2, 3\]",
        ),
        (lambda: Table(columns=("a", "b"), rows=((1, 2), (3,))), "row 1: expected shape 2 cells, got 1 cells"),
        (lambda: View(kind="hologram", payload=None), "got 'hologram'"),
    ],
)
def test_results_refuse(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("change", ["top_logprobs", "entropy", "target_rank", "settles_at"])
def test_lens_tables_refuse(change):
    table = sample_finding("lens_table").result
    with pytest.raises(ShapeError, match=f"LensTable.{change}: expected shape"):
        dataclasses.replace(table, **{change: np.zeros((1, 1, 1, 1))})


@pytest.mark.parametrize("change", ["attention", "null", "occlusion", "occlusion_outputs", "gradient_windows", "fit"])
def test_sensor_importance_refuses_other_shapes(change):
    found = sample_finding("sensor_importance").result
    with pytest.raises(ShapeError, match=f"SensorImportance.{change}: expected shape"):
        dataclasses.replace(found, **{change: np.zeros((1, 1, 1))})


def test_sensor_importance_needs_a_reason_for_what_is_missing():
    found = sample_finding("sensor_importance").result
    with pytest.raises(BadInput, match="integrated_gradients: every number is missing, and absent does not say why"):
        dataclasses.replace(found, absent={})
    with pytest.raises(BadInput, match="no unit for 'integrated_gradients'"):
        dataclasses.replace(found, units={"occlusion": "m"})
    with pytest.raises(BadInput, match=r"expected one of occlusion, .* got 'guess'"):
        dataclasses.replace(found, trusted="guess")


def test_sensors_are_ranked_from_the_largest_and_those_without_a_number_left_out():
    found = dataclasses.replace(sample_finding("sensor_importance").result, sensors=("a", "b", "c"))
    assert found.ranked("occlusion") == (("b", 2.0), ("a", 0.5), ("c", 0.0))
    assert found.ranked("integrated_gradients") == ()
    with pytest.raises(BadInput, match="Unknown method 'guess'"):
        found.ranked("guess")


def test_a_reference_fits_the_values_it_is_given_with():
    values = np.zeros((4, 3), np.float32)
    tokens = dataclasses.replace(sample_tokens(), values=values)
    found = dataclasses.replace(tokens, reference=Reference(np.zeros((7, 4, 3)), np.zeros((7, 2)))).reference
    assert not found.inputs.flags.writeable
    for reference, words in (
        (np.zeros((7, 4, 2)), r"Tokens.reference: expected shape \[N, ...\] of values \[4, 3\], got \[7, 4, 2\]"),
        (np.zeros((0, 4, 3)), r"Reference.inputs: expected shape .*, got \[0, 4, 3\]"),
        (np.full((1, 4, 3), np.nan), r"Reference.inputs: expected finite numbers, got nan at \[0, 0, 0\]"),
    ):
        with pytest.raises(BadInput, match=words):
            dataclasses.replace(tokens, reference=Reference(reference))
    with pytest.raises(ShapeError, match=r"Reference.outcomes: expected shape \[7, any\], got \[6, 2\]"):
        Reference(np.zeros((7, 4, 3)), np.zeros((6, 2)))
    with pytest.raises(ShapeError, match="of values none"):
        dataclasses.replace(sample_tokens(), reference=Reference(np.zeros((7, 4, 3))))


def test_a_reference_is_cut_from_a_series():
    series = np.arange(12.0).reshape(6, 2)
    found = Reference.windows(series, 3, stride=2, next_rows=True)
    assert found.inputs[:, 0, 0].tolist() == [0, 4]
    assert found.outcomes.tolist() == [[6, 7], [10, 11]]
    assert len(Reference.windows(series, 3).inputs) == 4
    assert Reference.windows(series, 6).outcomes is None
    with pytest.raises(ShapeError, match=r"\[7 or more, sensor\], got \[6, 2\]"):
        Reference.windows(series, 6, next_rows=True)
    with pytest.raises(BadInput, match="expected a stride from 1, got 0"):
        Reference.windows(series, 3, stride=0)


def test_patterns_refuse_all_heads_of_another_shape():
    found = sample_finding("attention_pattern").result
    with pytest.raises(ShapeError, match=r"every: expected shape \[3, 3, 8, 8\], got \[3, 3, 8, 7\]"):
        dataclasses.replace(found, every=np.zeros((3, 3, 8, 7), np.float16))


@pytest.mark.parametrize("kind", result_types())
def test_every_result_survives_json(kind):
    for finding in sample_findings(kind).values():
        check_round_trip(finding.result)


def test_all_heads_survive_json():
    found = sample_finding("attention_pattern").result
    every = np.random.default_rng(0).random((3, 3, 8, 8)).astype(np.float16)
    check_round_trip(dataclasses.replace(found, every=every))


def test_float32_is_exact_and_missing_is_null():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    again = np.array(json.loads(json.dumps(to_jsonable(values))), np.float32)
    assert (again == values).all()
    found = to_jsonable({"a": np.array([[1.5, np.nan], [np.inf, 0]]), "b": np.float32("nan"), 3: frozenset({2, 1})})
    assert found == {"a": [[1.5, None], [None, 0]], "b": None, "3": [1, 2]}


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2), (1, 1, 1)])
def test_empty_arrays_keep_their_outline(shape):
    assert to_jsonable(np.zeros(shape)) == np.zeros(shape).tolist()


@pytest.mark.parametrize(
    ("kind", "data", "error", "message"),
    [
        ("nope", {}, UnknownName, "Unknown result kind 'nope'"),
        ("table", {"columns": ["a"]}, BadInput, "missing fields rows"),
        ("table", {"columns": ["a"], "rows": [], "color": 1}, UnknownName, "Unknown field of table 'color'"),
        ("table", {"columns": ["a"], "rows": [[1, 2]]}, ShapeError, "expected shape 1 cells, got 2 cells"),
    ],
)
def test_json_of_something_else_is_refused(kind, data, error, message):
    with pytest.raises(error, match=message):
        from_jsonable(kind, data)


def test_an_unknown_name_lists_what_exists():
    error = UnknownName("layer", "entropi", ["focus", "entropy"])
    assert str(error) == "Unknown layer 'entropi'. Did you mean 'entropy'? Known: entropy, focus."
    assert LayerCapture.__dataclass_fields__.keys() >= {"q", "k", "weights"}


@pytest.mark.parametrize(
    ("larger", "smaller", "covers"),
    [
        (Want(), Want(), True),
        (Want(top_k=8, values=True), Want(top_k=3), True),
        (Want(top_k=2), Want(top_k=3), False),
        (Want(), Want(values=True), False),
        (Want(), Want(layers=(1,)), True),
        (Want(layers=(0, 1)), Want(layers=(1,)), True),
        (Want(layers=(0,)), Want(), False),
        (Want(thumbnail=64), Want(thumbnail=32), False),
        (Want(attention=False), Want(), False),
    ],
)
def test_a_larger_want_covers_a_smaller_one(larger, smaller, covers):
    assert larger.covers(smaller) == covers
    assert larger.merged(smaller).covers(smaller)
    assert smaller.merged(larger).covers(larger)


def test_a_narrowed_trace_holds_what_was_asked_for_and_no_more():
    weights, keys = np.ones((4, 5, 3), np.float32), np.tile(np.arange(3, dtype=np.int32), (4, 5, 1))
    rich = layer(top_weights=weights, top_keys=keys, value_norm=np.ones((4, 5)), absent={"q": "a", "value_norm": "b"})
    trace = Trace(layers=(rich, rich))
    plain = trace.narrowed(Want())
    assert plain.layers[0].top_weights is plain.layers[0].value_norm is plain.layers[0].top_keys is None
    assert plain.layers[0].absent == {"q": "a"}
    some = trace.narrowed(Want(top_k=2, values=True, layers=(1,)))
    assert some.layers[1].top_keys.tolist() == keys[..., :2].tolist()
    assert some.layers[1].value_norm is rich.value_norm
    assert (some.layers[0], some.missing[0]) == (None, "this layer was not asked for.")
