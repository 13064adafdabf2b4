"""Files that Inseq wrote are read with Inseq's own numbers; ours come back bit for bit; junk is refused in one line."""

import base64
import copy
import dataclasses
import gzip
import json
import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from attnviz.hooks import Attribution, BadInput, Finding, Span, Tokens
from attnviz.plugins.formats import _inseq_arrays, inseq
from attnviz.plugins.formats._files import Field
from attnviz.testing import check_format, sample_finding

FILES = Path(__file__).parent / "files"
torch = pytest.importorskip("torch")


def stored(name, sequence=0):
    """The fields of one sequence as they stand in a file."""
    return json.loads((FILES / name).read_text())["attributes"]["sequence_attributions"][sequence]["attributes"]


def tensor(text):
    """safetensors' own reading of an array."""
    from safetensors.torch import load

    return load(base64.b64decode(text))["attribution"].to(torch.float32)


def zero_future(scores):
    """[T, R] of Inseq -> [R, T - 1] of ours."""
    return torch.nan_to_num(scores).T[:, :-1].numpy()


# --------------------------------------------------------------------------------------------- files of Inseq


def test_gradients_are_put_together_by_their_norm():
    for sequence in (0, 1):
        found = inseq.read(FILES / "inseq_saliency.json", sequence=sequence)
        raw = tensor(stored("inseq_saliency.json", sequence)["target_attributions"])
        expected = zero_future(torch.linalg.vector_norm(raw.double(), dim=2)).astype(np.float32)
        np.testing.assert_array_equal(found.result.scores, expected)
        assert not found.result.signed


def test_tokens_texts_and_places():
    found = inseq.read(FILES / "inseq_saliency.json", sequence=1)
    assert found.tokens.labels == ("the", " dog", " ran", " to", " the")
    assert found.tokens.text == "the dog ran to the"
    assert [found.tokens.text[a:b] for a, b in found.tokens.offsets.tolist()] == list(found.tokens.labels)
    assert found.tokens.ids.tolist() == [t["attributes"]["id"] for t in stored("inseq_saliency.json", 1)["target"]]
    assert found.generated_from == 3
    assert [t.index for t in found.result.targets] == [3, 4]
    assert [s.index for s in found.result.sources] == [0, 1, 2, 3]
    assert (found.model, found.analysis, found.result.target_function) == ("tiny-gpt2", "saliency", "probability")


def test_probabilities_of_the_targets_are_kept():
    steps = tensor(stored("inseq_saliency.json")["step_scores"]["probability"])
    np.testing.assert_array_equal(inseq.read(FILES / "inseq_saliency.json").result.target_values, steps.numpy())


def test_attention_is_transposed_the_right_way():
    """The mean over layers and heads of rows that sum to 1 sums to 1, over what the query sees."""
    found = inseq.read(FILES / "inseq_attention.json").result
    np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-6)
    assert (found.scores > 0).tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("name", ["inseq_0_5.json", "inseq_0_5.json.gz", "inseq_0_5_lists.json"])
@pytest.mark.parametrize("sequence", [0, 1])
def test_every_way_to_write_an_array_gives_the_same(name, sequence):
    new = inseq.read(FILES / "inseq_saliency.json", sequence=sequence)
    old = inseq.read(FILES / name, sequence=sequence)
    np.testing.assert_array_equal(old.result.scores, new.result.scores)
    np.testing.assert_array_equal(old.result.target_values, new.result.target_values)
    assert old.tokens.labels == new.tokens.labels


def test_a_file_without_class_names_needs_an_aggregation():
    with pytest.raises(BadInput, match="Choose an aggregation: sum, mean, l2_norm, abs_sum, max"):
        inseq.read(FILES / "inseq_primitives.json")
    found = inseq.read(FILES / "inseq_primitives.json", aggregation="l2_norm")
    np.testing.assert_array_equal(found.result.scores, inseq.read(FILES / "inseq_saliency.json").result.scores)


def test_half_precision():
    exact = inseq.read(FILES / "inseq_saliency.json").result.scores
    np.testing.assert_allclose(inseq.read(FILES / "inseq_float16.json.gz").result.scores, exact, rtol=2e-3, atol=1e-7)
    raw = tensor(stored("inseq_float8.json")["target_attributions"])  # torch's own float8
    expected = zero_future(torch.linalg.vector_norm(raw.double(), dim=2)).astype(np.float32)
    np.testing.assert_array_equal(inseq.read(FILES / "inseq_float8.json").result.scores, expected)


def test_every_float8_is_what_torch_says():
    codes = np.arange(256, dtype=np.uint8)
    expected = torch.from_numpy(codes.copy()).view(torch.float8_e4m3fn).to(torch.float32).numpy()
    np.testing.assert_array_equal(_inseq_arrays._float8(codes), expected)


def test_encoder_and_decoder():
    found = inseq.read(FILES / "inseq_encoder_decoder.json")
    fields = stored("inseq_encoder_decoder.json")
    assert found.tokens.labels == ("the", " cat", " sat", "</s>", "</s>", "the", " dog", " ran", "</s>")
    assert found.tokens.decoder_from == 4
    assert found.tokens.text == "the cat sat\nthe dog ran"
    assert found.tokens.special.tolist() == [False] * 3 + [True] * 2 + [False] * 3 + [True]
    assert [t.index for t in found.result.targets] == [5, 6, 7, 8]
    assert len(found.result.sources) == 8
    source = tensor(fields["source_attributions"]).T.numpy()
    target = torch.nan_to_num(tensor(fields["target_attributions"])).T.numpy()[:, :4]
    np.testing.assert_array_equal(found.result.scores, np.concatenate([source, target], axis=1))


def test_an_encoder_alone():
    found = inseq.read(FILES / "inseq_encoder.json")
    assert [s.index for s in found.result.sources] == [0, 1, 2, 3]
    np.testing.assert_array_equal(
        found.result.scores, tensor(stored("inseq_encoder.json")["source_attributions"]).T.numpy()
    )


def test_a_sequence_that_does_not_exist():
    with pytest.raises(BadInput, match=r"no sequence 2. The file holds 0 to 1"):
        inseq.read(FILES / "inseq_saliency.json", sequence=2)


# --------------------------------------------------------------------------------------------- by hand


def by_hand(axes):
    """Two tokens and one generated; scores of the further axes: 3 and -4, then 1 and 0."""
    data = json.loads((FILES / "inseq_occlusion.json").read_text())
    fields = data["attributes"]["sequence_attributions"][0]["attributes"]
    fields["target"] = fields["target"][:3]
    fields["attr_pos_start"], fields["attr_pos_end"] = 2, 3
    nan = [float("nan")] * 2
    rows = [[3.0, -4.0], [1.0, 0.0], nan]
    fields["target_attributions"] = [[row] if axes == 1 else [[[x] for x in row]] for row in rows]
    return data


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(
    ("aggregation", "expected", "signed"),
    [
        ("sum", [-1, 1], True),
        ("mean", [-0.5, 0.5], True),
        ("l2_norm", [5, 1], False),
        ("abs_sum", [7, 1], False),
        ("max", [3, 1], False),
    ],
)
def test_aggregations_are_what_their_names_say(axes, aggregation, expected, signed, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(by_hand(axes)))
    found = inseq.read(tmp_path / "a.json", aggregation=aggregation).result
    assert found.scores.tolist() == [expected]
    assert found.signed is signed
    total = sum(map(abs, expected))
    np.testing.assert_allclose(found.normalized, [[x / total for x in expected]], rtol=1e-6)


def test_missing_scores_stay_missing_and_are_counted(tmp_path):
    data = by_hand(1)
    data["attributes"]["sequence_attributions"][0]["attributes"]["target_attributions"] = [[float("nan")], [2.0], [0.0]]
    (tmp_path / "a.json").write_text(json.dumps(data))
    found = inseq.read(tmp_path / "a.json").result
    np.testing.assert_array_equal(found.scores, [[np.nan, 2]])
    np.testing.assert_array_equal(found.normalized, [[np.nan, 1]])
    assert found.warnings == ("1 scores are missing (NaN) in the file.",)


# --------------------------------------------------------------------------------------------- what we write


def kept(finding):
    result = finding.result
    return result.scores.tolist(), result.targets, finding.model, result.method, result.unit, result.signed


def test_ours_come_back_bit_for_bit(tmp_path):
    """Scores of the most awkward float32, texts that try to break out."""
    sample = sample_finding("attribution")
    scores = np.zeros((2, 8), np.float32)
    scores[0, :6] = (1e-45, -3.4028235e38, 0.1, 1 / 3, -0.0, np.nextafter(np.float32(1), np.float32(2)))
    scores[1, :7] = np.random.default_rng(0).normal(size=7)
    sample = dataclasses.replace(sample, result=dataclasses.replace(sample.result, scores=scores))
    for name in ("a.inseq.json", "a.inseq.json.gz"):
        inseq.write(sample, tmp_path / name)
        again = inseq.read(tmp_path / name)
        assert again.result.scores.tobytes() == scores[:, :7].tobytes()
        assert again.result.sources == sample.result.sources[:7]
        assert again.tokens.labels == sample.tokens.labels
        assert again.tokens.text == sample.tokens.text
        np.testing.assert_array_equal(again.tokens.offsets, sample.tokens.offsets)
        assert kept(again)[1:] == kept(sample)[1:]
        assert again.title == sample.title
        assert again.result.target_function == "log_probability"
        np.testing.assert_array_equal(again.result.target_values, sample.result.target_values)
        np.testing.assert_array_equal(again.result.delta, sample.result.delta)
    assert (tmp_path / "a.inseq.json.gz").read_bytes()[:2] == b"\x1f\x8b"


def two_stacks(attribute_target):
    """Three tokens of an encoder, a start token, two generated."""
    labels = ("A", " b", "</s>", "<s>", "C", " d")
    offsets = np.array([(0, 1), (1, 3), (-1, -1), (-1, -1), (4, 5), (5, 7)])
    tokens = Tokens(
        ids=np.arange(6), labels=labels, offsets=offsets, special=offsets[:, 0] < 0, text="A b\nC d", decoder_from=3
    )
    spans = tuple(Span(i, i + 1, i, label) for i, label in enumerate(labels))
    scores = np.array([[1, -2, 3, 4, 0], [5, 6, -7, 8, 9]], np.float32)
    count = 5 if attribute_target else 3
    scores = scores[:, :count]
    result = Attribution(
        method="m", target_function="logit", targets=spans[4:], sources=spans[:count], scores=scores,
        normalized=scores, unit="logits", signed=True,
    )  # fmt: skip
    return Finding("m", "M", {}, "model", tokens, result)


@pytest.mark.parametrize("attribute_target", [True, False])
def test_two_stacks_come_back(attribute_target, tmp_path):
    ours = two_stacks(attribute_target)
    inseq.write(ours, tmp_path / "a.inseq.json")
    again = inseq.read(tmp_path / "a.inseq.json")
    assert kept(again) == kept(ours)
    assert again.result.sources == ours.result.sources
    assert (again.tokens.labels, again.tokens.text, again.tokens.decoder_from) == (
        ours.tokens.labels,
        ours.tokens.text,
        3,
    )
    np.testing.assert_array_equal(again.tokens.offsets, ours.tokens.offsets)


def test_what_comes_too_late_is_nan_in_the_file(tmp_path):
    inseq.write(two_stacks(True), tmp_path / "a.inseq.json")
    fields = json.loads((tmp_path / "a.inseq.json").read_text())["attributes"]["sequence_attributions"][0]["attributes"]
    nan = np.nan
    np.testing.assert_array_equal(tensor(fields["target_attributions"]), [[4, 8], [nan, 9], [nan, nan]])
    np.testing.assert_array_equal(tensor(fields["source_attributions"]), [[1, 5], [-2, 6], [3, -7]])
    assert (fields["attr_pos_start"], fields["attr_pos_end"]) == (1, 3)


def test_spans_of_different_units_are_refused(tmp_path):
    sample = sample_finding("attribution")
    first = Span(6, 8, -1, "both")
    changes = {"targets": (first,), "scores": sample.result.scores[1:], "normalized": sample.result.scores[1:]}
    result = dataclasses.replace(sample.result, **changes, target_values=None, delta=None)
    with pytest.raises(BadInput, match="Choose token as the unit"):
        inseq.write(dataclasses.replace(sample, result=result), tmp_path / "a.inseq.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="hold attributions"):
        inseq.write(sample_finding("table"), tmp_path / "a.inseq.json")


def test_the_contract(tmp_path):
    check_format(inseq.attnviz_formats()[0], sample_finding("attribution"), tmp_path)


# --------------------------------------------------------------------------------------------- files of strangers


def refused(path, **options):
    with pytest.raises(BadInput) as refusal:
        inseq.read(path, **options)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return base64.b64encode(struct.pack("<Q", len(text)) + text + body).decode()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ("AAAA=A", "whole base64"),
        ("é", "whole base64"),
        ("", "safetensors"),
        (safetensors(b"{"), "safetensors"),
        (safetensors({"attribution": {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 4]}}, b"0000"), "safetens"),
        (safetensors({"attribution": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}}, b"0000"), "safe"),
        (safetensors({"attribution": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"0000"), "safetensors"),
        (safetensors({"attribution": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, b"0" * 8), "of type F64"),
        (safetensors({"other": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0000"), "got other"),
        (safetensors({"a\nb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0000"), "got a b"),
        (safetensors({}), "got none"),
        ({"__ndarray__": "b64.gz:AAAA", "dtype": "float32", "shape": [4, 2]}, "gzip in base64"),
        ({"__ndarray__": "b64:AAAA", "dtype": "float32", "shape": [4, 2]}, "32 bytes for shape"),
        ({"__ndarray__": "zip:AAAA", "dtype": "float32", "shape": [4, 2]}, "b64: or b64.gz:"),
        ({"__ndarray__": "b64:AAAA", "dtype": "object", "shape": [4, 2]}, "got 'object'"),
        ({"__ndarray__": "b64:AAAA", "dtype": "float32", "shape": [-4, 2]}, "from 0 to"),
        ({"__ndarray__": "b64:", "dtype": "float32", "shape": [2**26, 2**26]}, "at most 67,108,864 bytes"),
        ({"__ndarray__": "b64:", "dtype": "float32", "shape": [1] * 40}, "at most 6 axes"),
        ({"__ndarray__": "b64:AAAA", "dtype": "float32", "shape": [4, 2], "Corder": False}, "rows one after"),
        ({"__ndarray__": [[1.0]], "dtype": "float32", "shape": [4, 2]}, "lists of shape"),
        ([[1, 2], [3]], "lists of one length"),
        ([[1, "2"]], "got text"),
        ([[1, True]], "got true or false"),
        ([[10**400]], "float32 holds"),
        ([[[[[[[[1]]]]]]]], "at most 6 axes"),
        ([[1.0, 2.0]], "expected shape [4, 2, …]"),
        ([[0, 0]] * 3 + [[0, 1.0]], "before the last target, got later ones"),
        ([[0, 0], [0, 0], [1.0, 0], [0, 0]], "axes may be exchanged"),
        ([[float("inf"), 0]] + [[0, 0]] * 3, "got inf in row 0, column 0"),
        ([[1e300, 0]] + [[0, 0]] * 3, "in row 0, column 0"),
        (3, "got []"),
        (None, "source_attributions or target_attributions, got neither"),
    ],
)
def test_arrays_that_do_not_fit(array, message, tmp_path):
    data = json.loads((FILES / "inseq_occlusion.json").read_text())
    data["attributes"]["sequence_attributions"][0]["attributes"]["target_attributions"] = array
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert message in refused(tmp_path / "a.json")


def test_a_small_file_cannot_unpack_to_a_large_one(tmp_path, monkeypatch):
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < 20_000
    monkeypatch.setattr(inseq, "MAX_BYTES", 1_000_000)
    (tmp_path / "a.json.gz").write_bytes(bomb)
    assert "at most 1,000,000 bytes unpacked" in refused(tmp_path / "a.json.gz")
    packed = base64.b64encode(bomb).decode()
    field = Field({"__ndarray__": f"b64.gz:{packed}", "dtype": "float32", "shape": [2, 2]}, "array")
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="expected 16 bytes for shape"):
            _inseq_arrays.read_array(field)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"{}")[:-9], "broken one"),
        (b"\x1f\x8b" + b"x" * 50, "broken one"),
        (b'{"sequence_attributions": [], "sequence_attributions": []}', "stands twice"),
        (b'{"sequence_attributions": []}', "The file holds none"),
        (b'{"sequence_attributions": [], "\\n\\ud800": [], "\\n\\ud800": 1}', "stands twice"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"__instance_type__": ["a", "B"], "attributes": {}}', "class FeatureAttributionOutput, got 'B'"),
    ],
)
def test_files_that_do_not_fit(content, message, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    assert message in refused(tmp_path / "a.json")


def test_no_class_of_a_file_is_imported(tmp_path):
    text = (FILES / "inseq_occlusion.json").read_text()
    for module in ("antigravity", "this"):
        (tmp_path / "a.json").write_text(text.replace("inseq.utils.typing", module).replace("inseq.data", module))
        inseq.read(tmp_path / "a.json")
        assert module not in sys.modules


def places(value, way=()):
    """The way to every value inside a JSON value; of a list to the first and the last."""
    yield way
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, item in items if isinstance(value, dict) else {0: items[0], 1: items[-1]}.values() if items else ():
        yield from places(item, (*way, key))


def changed(data, way, change):
    new = copy.deepcopy(data)
    inner = new
    for key in way[:-1]:
        inner = inner[key]
    if change == "delete":
        del inner[way[-1]]
    else:
        inner[way[-1]] = change
    return new


CHANGES = ("delete", None, {}, [[]], "\ud800", -1, 1.5, 10**30, True, float("nan"))


@pytest.mark.parametrize("name", ["inseq_encoder_decoder.json", "inseq_0_5.json", "inseq_primitives.json"])
def test_whatever_a_field_holds_the_answer_is_a_finding_or_one_line(name, tmp_path):
    data = json.loads((FILES / name).read_text())
    fields = data.get("attributes", data)
    fields["sequence_attributions"] = fields["sequence_attributions"][:1]
    answers = []
    for way in places(data):
        for change in CHANGES if way else ():
            (tmp_path / "a.json").write_text(json.dumps(changed(data, way, change)))
            answers.append(answer(tmp_path / "a.json"))
    assert all(isinstance(said, Finding) or (said.startswith("a.json") and len(said) < 400) for said in answers)
    assert not any("\n" in said for said in answers if isinstance(said, str))
    assert min(sum(isinstance(said, kind) for said in answers) for kind in (Finding, str)) > 100


def answer(path):
    try:
        return inseq.read(path, aggregation="l2_norm")
    except BadInput as error:
        return str(error)
