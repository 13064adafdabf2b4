"""Inseq reads what we write, and says of its own files what we say of them: `just oracles`, with inseq installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from attnviz.hooks import Attribution, Finding, Span, Tokens
from attnviz.plugins.formats import inseq as ours
from attnviz.testing import sample_finding

pytestmark = [pytest.mark.oracles, pytest.mark.filterwarnings("ignore")]  # warnings of Inseq are its own affair
SCRIPT = Path(__file__).parent.parent / "formats" / "files" / "make_inseq_files.py"
THEIRS = {"sum": "sum", "mean": "mean", "l2_norm": "vnorm", "max": "max"}


@pytest.fixture(scope="session")
def inseq():
    return pytest.importorskip("inseq")


@pytest.fixture(scope="session")
def written(inseq, tmp_path_factory):
    """(file, what Inseq had in memory when it wrote it) of several methods and both kinds of model."""
    spec = importlib.util.spec_from_file_location("make_inseq_files", SCRIPT)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    folder = tmp_path_factory.mktemp("inseq")
    before = Path.cwd()
    os.chdir(folder)
    try:
        make.make_models(folder)
        pair = (["the cat", "the dog ran"], ["the cat sat on", "the dog ran to the"])
        both = ("the cat sat", "the dog ran")
        found = {
            "saliency": make.attribute("tiny-gpt2", "saliency", *pair),
            "input_x_gradient": make.attribute("tiny-gpt2", "input_x_gradient", *pair, step_scores=["probability"]),
            "integrated_gradients": make.attribute("tiny-gpt2", "integrated_gradients", *pair),
            "attention": make.attribute("tiny-gpt2", "attention", *pair),
            "occlusion": make.attribute("tiny-gpt2", "occlusion", *pair),
            "seq2seq_saliency": make.attribute("tiny-bart", "saliency", *both, attribute_target=True),
            "seq2seq_attention": make.attribute("tiny-bart", "attention", *both, attribute_target=True),
            "seq2seq_source": make.attribute("tiny-bart", "occlusion", *both),
        }
        for name, output in found.items():
            output.save(folder / f"{name}.json", overwrite=True)
    finally:
        os.chdir(before)
    return {name: (folder / f"{name}.json", output) for name, output in found.items()}


METHODS = (
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "attention",
    "occlusion",
    "seq2seq_saliency",
    "seq2seq_attention",
    "seq2seq_source",
)


def scores_of(sequence):
    """[R, C] of ours from tensors of Inseq."""
    tensors = (sequence.source_attributions, sequence.target_attributions)
    parts = [np.nan_to_num(t.numpy()).T for t in tensors if t is not None]
    last = 1 if sequence.target_attributions is not None else 0
    joined = np.concatenate(parts, axis=1)
    return joined[:, : joined.shape[1] - last]


@pytest.mark.parametrize("name", METHODS)
def test_put_together_as_inseq_itself_does(written, name):
    path, output = written[name]
    for number, sequence in enumerate(output.sequence_attributions):
        found = ours.read(path, sequence=number)
        expected = sequence.aggregate(normalize=False)
        np.testing.assert_allclose(found.result.scores, scores_of(expected), rtol=1e-6, atol=1e-12)
        both = [*([] if sequence.source_attributions is None else sequence.source), *sequence.target]
        assert found.tokens.ids.tolist() == [token.id for token in both]


@pytest.mark.parametrize("name", ["saliency", "input_x_gradient", "attention", "seq2seq_saliency", "seq2seq_attention"])
@pytest.mark.parametrize("way", THEIRS)
def test_every_aggregation_is_that_of_inseq(written, name, way):
    path, output = written[name]
    sequence = output.sequence_attributions[0]
    known = sequence.target_attributions
    times = [THEIRS[way]] * (known.ndim - 2)
    expected = sequence.aggregate(times, normalize=False)
    found = ours.read(path, aggregation=way)
    np.testing.assert_allclose(found.result.scores, scores_of(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_inseq_reads_its_own_file_after_us(inseq, written, name, tmp_path):
    """File of Inseq -> ours -> file of ours -> Inseq: the same scores, tokens and probabilities."""
    path, output = written[name]
    for number, sequence in enumerate(output.sequence_attributions):
        found = ours.read(path, sequence=number)
        ours.write(found, tmp_path / "a.inseq.json")
        again = inseq.FeatureAttributionOutput.load(tmp_path / "a.inseq.json").sequence_attributions[0]
        assert type(again).__name__ == "CoarseFeatureAttributionSequenceOutput"
        assert (again.attr_pos_start, again.attr_pos_end) == (sequence.attr_pos_start, sequence.attr_pos_end)
        assert [t.id for t in again.target] == [t.id for t in sequence.target]
        assert [t.id for t in again.source] == [t.id for t in sequence.source]
        expected = sequence.aggregate(normalize=False)
        for side in ("source_attributions", "target_attributions"):
            theirs, back = getattr(expected, side), getattr(again, side)
            assert (theirs is None) == (back is None)
            if theirs is not None:
                # after its aggregation Inseq has zeros where a token comes too late; its files have NaN
                missing = getattr(sequence, side).isnan()
                missing = missing.reshape(*missing.shape[:2], -1).all(-1)
                np.testing.assert_array_equal(back.isnan().numpy(), missing.numpy())
                np.testing.assert_allclose(
                    back.nan_to_num().numpy(), theirs.nan_to_num().numpy(), rtol=1e-6, atol=1e-12
                )
        for step, values in (sequence.step_scores or {}).items():
            np.testing.assert_array_equal(again.step_scores[step].numpy(), values.numpy())


def two_stacks():
    labels = ("A", " b", "</s>", "<s>", "C", " d")
    offsets = np.array([(0, 1), (1, 3), (-1, -1), (-1, -1), (4, 5), (5, 7)])
    tokens = Tokens(np.arange(6), labels, offsets, offsets[:, 0] < 0, "A b\nC d", decoder_from=3)
    spans = tuple(Span(i, i + 1, i, label) for i, label in enumerate(labels))
    scores = np.array([[1, -2, 3, 4, 0], [5, 6, -7, 8, 9]], np.float32)
    result = Attribution(
        method="m",
        target_function="logit",
        targets=spans[4:],
        sources=spans[:5],
        scores=scores,
        normalized=scores,
        unit="logits",
        signed=True,
    )
    return Finding("m", "M", {}, "model", tokens, result)


@pytest.mark.parametrize("finding", [sample_finding("attribution"), two_stacks()])
@pytest.mark.parametrize("packed", [False, True])
def test_inseq_loads_and_shows_ours(inseq, finding, packed, tmp_path):
    path = tmp_path / ("a.inseq.json.gz" if packed else "a.inseq.json")
    ours.write(finding, path)
    output = inseq.FeatureAttributionOutput.load(path, decompress=packed)
    sequence = output.sequence_attributions[0]
    scores, count = finding.result.scores, scores_of(sequence).shape[1]
    np.testing.assert_array_equal(scores_of(sequence), scores[:, :count])
    assert not scores[:, count:].any()
    shown = output.show(display=False, return_html=True)
    assert "C" in shown or "日本" in shown
    values = output.get_scores_dicts(do_aggregation=False)[0]
    row = values["target_attributions"][(sequence.attr_pos_start, sequence.target[sequence.attr_pos_start].token)]
    key = (0, sequence.target[0].token)
    first = 0 if finding.tokens.decoder_from is None else finding.tokens.decoder_from
    assert row[key] == scores[0, first]


def test_ours_can_be_merged_by_inseq(inseq, tmp_path):
    finding = sample_finding("attribution")
    result = dataclasses.replace(finding.result, scores=finding.result.scores * 2)
    for name, found in (("a", finding), ("b", dataclasses.replace(finding, result=result))):
        ours.write(found, tmp_path / f"{name}.inseq.json")
    one, two = (inseq.FeatureAttributionOutput.load(tmp_path / f"{name}.inseq.json") for name in "ab")
    merged = inseq.merge_attributions([one, two])
    assert len(merged.sequence_attributions) == 2
    merged.save(tmp_path / "both.json")
    np.testing.assert_array_equal(ours.read(tmp_path / "both.json", sequence=1).result.scores, result.scores[:, :7])
