"""The visualizer on every kind of model: shapes, numbers against PyTorch's own maps, pictures, files, refusals."""

import csv
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import attnviz
from attnviz import AttentionVisualizer, AttentionWeights, ExportFormat, VisualizationType
from attnviz.errors import BadInput, ModelError, ShapeError, Unavailable, UnknownName

NAMES = ["supply_temp", "return_temp", "flow_rate", "supply_pressure", "return_pressure"]
STEPS, WIDTH, LAYERS, HEADS = 5, 16, 3, 4


class Counting(torch.nn.Module):
    """An encoder over time that counts how often it runs, its copies included."""

    runs = 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, dropout=0.0)
        self.encoder = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, values):
        Counting.runs += 1
        return self.encoder(values)


def own_maps(model, values):
    """[L, H, S, S] as nn.MultiheadAttention returns them."""
    found, state = [], torch.tensor(values)[None]
    with torch.no_grad():
        for layer in model.encoder.layers:
            weights = layer.self_attn(state, state, state, need_weights=True, average_attn_weights=False)[1]
            found.append(weights[0].numpy())
            state = layer(state)
    return np.array(found)


@pytest.fixture(scope="module")
def model():
    return Counting().eval()


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).normal(size=(1, STEPS, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def visualizer(model):
    return AttentionVisualizer(model, feature_names=NAMES)


@pytest.fixture(scope="module")
def every(visualizer, values):
    return visualizer.extract_attention_weights(values, return_all_heads=True)


@pytest.fixture(scope="module")
def summary(visualizer, values):
    return visualizer.get_attention_summary(visualizer.extract_attention_weights(values), top_k=3)


# ------------------------------------------------------------------------------------------------ extraction


def test_weights_are_those_pytorch_returns(visualizer, model, values, every):
    expected = own_maps(model, values[0])
    np.testing.assert_allclose(every.weights, expected, atol=1e-6)
    mean = visualizer.extract_attention_weights(values)
    np.testing.assert_allclose(mean.weights, expected.mean(axis=1, keepdims=True), atol=1e-6)
    last = visualizer.extract_attention_weights(values, return_all_layers=False, return_all_heads=True)
    np.testing.assert_allclose(last.weights, expected[-1:], atol=1e-6)


def test_shapes_fields_and_validity(visualizer, values, every):
    assert every.get_shape() == (LAYERS, HEADS, STEPS, STEPS)
    assert visualizer.extract_attention_weights(values).get_shape() == (LAYERS, 1, STEPS, STEPS)
    assert visualizer.extract_attention_weights(values, False, False).get_shape() == (1, 1, STEPS, STEPS)
    assert (every.layer, every.head, every.feature_names) == (0, 0, NAMES)
    assert (every.model_name, every.input_shape) == ("Counting", (1, STEPS, WIDTH))
    assert every.timestamp.tzinfo is not None
    assert every.validate()
    with pytest.raises(ValueError, match="read-only"):
        every.weights[0, 0, 0, 0] = 1


def test_a_batch_is_kept_apart(visualizer, values, every):
    both = np.concatenate([values, 2 * values])
    batch = visualizer.extract_attention_weights(both, return_all_heads=True)
    assert (batch.get_shape(), batch.inputs) == ((LAYERS, 2, HEADS, STEPS, STEPS), 2)
    np.testing.assert_array_equal(batch.batch(0).weights, every.weights)
    assert np.abs(batch.batch(1).weights - every.weights).max() > 1e-3
    alone = visualizer.get_attention_summary(visualizer.extract_attention_weights(2 * values))
    assert visualizer.get_attention_summary(batch.batch(1)).provenance_hash == alone.provenance_hash
    with pytest.raises(BadInput, match=r"a batch of 2: choose one with weights.batch"):
        visualizer.get_attention_summary(batch)
    with pytest.raises(BadInput, match=r"Unknown input 2. There are 2: 0 to 1"):
        batch.batch(2)


def test_caching_caches_and_can_be_turned_off(values):
    counted = Counting().eval()
    cached = AttentionVisualizer(counted)
    cached.extract_attention_weights(values)
    before = Counting.runs
    weights = cached.extract_attention_weights(values.copy(), return_all_layers=False, return_all_heads=True)
    cached.get_attention_summary(weights)
    assert Counting.runs == before
    cached.extract_attention_weights(values * 2)
    assert Counting.runs == before + 1
    cached.clear_cache()
    cached.extract_attention_weights(values)
    assert Counting.runs == before + 2
    again = AttentionVisualizer(counted, enable_caching=False)
    again.extract_attention_weights(values)
    before = Counting.runs
    again.extract_attention_weights(values)
    assert Counting.runs == before + 1


# ------------------------------------------------------------------------------------------------ summary


def test_the_summary_is_that_of_the_head_statistics(model, values, summary):
    scores = attnviz.load((model, values[0])).trace(array=values[0]).analyze("attention_stats").result
    np.testing.assert_allclose(summary.layer_importance, scores.layer_importance, atol=1e-6)
    np.testing.assert_allclose([summary.head_importance[i] for i in range(LAYERS)], scores.metrics["focus"], atol=1e-6)
    share = scores.received.mean(axis=0)
    np.testing.assert_allclose(summary.feature_importance, share / share.sum(), rtol=1e-5)


def test_the_summary_by_brute_force(model, values, summary):
    maps = own_maps(model, values[0]).astype(np.float64)
    np.testing.assert_allclose(summary.feature_importance, maps.mean(axis=(0, 1, 2)), rtol=1e-4)
    focus = 1 + (maps * np.log2(maps)).sum(axis=-1) / np.log2(STEPS)  # [L, H, S]
    np.testing.assert_allclose(summary.layer_importance, focus.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(summary.head_importance[1], focus[1].mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(summary.aggregated_weights, maps.mean(axis=1), atol=1e-6)
    order = np.argsort(-maps.mean(axis=(0, 1, 2)))
    assert [name for name, _ in summary.top_attended_features] == [NAMES[i] for i in order[:3]]
    sharp = np.argsort(-focus.mean(axis=(0, 1)))
    assert [name for name, _ in summary.top_attending_features] == [NAMES[i] for i in sharp[:3]]
    assert np.ptp(summary.layer_importance) > 1e-4
    assert all(np.ptp(heads) > 1e-4 for heads in summary.head_importance.values())
    assert summary.processing_time_ms > 0


def test_arrays_alone_give_the_same_numbers(visualizer, every, summary):
    given = AttentionWeights(np.array(every.weights), feature_names=NAMES)
    found = AttentionVisualizer().get_attention_summary(given, top_k=3)
    np.testing.assert_allclose(found.feature_importance, summary.feature_importance, rtol=1e-5)
    np.testing.assert_allclose(found.layer_importance, summary.layer_importance, atol=1e-5)
    assert [name for name, _ in found.top_attended_features] == [name for name, _ in summary.top_attended_features]
    batch = AttentionWeights(np.stack([every.weights, every.weights[::-1]], axis=1), feature_names=NAMES)
    second = visualizer.get_attention_summary(batch.batch(1))
    np.testing.assert_allclose(second.layer_importance, found.layer_importance[::-1], atol=1e-6)


def test_arrays_that_never_look_ahead_are_causal():
    """Uniform and causal: corrected for who may see what, every position receives the same."""
    uniform = np.tril(np.ones((4, 4))) / np.arange(1, 5)[:, None]
    found = AttentionVisualizer().get_attention_summary(AttentionWeights(np.tile(uniform, (2, 3, 1, 1))))
    np.testing.assert_allclose(found.feature_importance, 0.25, rtol=1e-6)
    np.testing.assert_allclose(found.layer_importance, 0, atol=1e-6)


def test_the_hash_is_that_of_model_input_and_numbers(model, values, summary):
    again = AttentionVisualizer(model, feature_names=NAMES)  # loaded anew
    same = again.get_attention_summary(again.extract_attention_weights(values), top_k=5)
    assert same.provenance_hash == summary.provenance_hash  # whatever top_k is
    assert len(summary.provenance_hash) == 64
    other = again.get_attention_summary(again.extract_attention_weights(values + 1e-3))
    last = again.get_attention_summary(again.extract_attention_weights(values, return_all_layers=False))
    assert len({summary.provenance_hash, other.provenance_hash, last.provenance_hash}) == 3


def test_highlights_by_threshold_or_by_number(visualizer, values, summary):
    weights = visualizer.extract_attention_weights(values)
    shares = sorted(summary.feature_importance.tolist(), reverse=True)
    middle = (shares[1] + shares[2]) / 2
    found = visualizer.highlight_important_features(weights, threshold=middle)["important_features"]
    assert [feature["importance"] for feature in found] == shares[:2]
    assert [feature["rank"] for feature in found] == [1, 2]
    best = visualizer.highlight_important_features(weights, threshold=0.99, top_k=3)["important_features"]
    assert [feature["name"] for feature in best] == [name for name, _ in summary.top_attended_features]


# ------------------------------------------------------------------------------------------------ other models


def test_text_models_take_a_text_or_ids():
    visualizer = AttentionVisualizer(attnviz.load("demo"))
    weights = visualizer.extract_attention_weights("What is 25 * 37?", return_all_heads=True)
    run = attnviz.load("demo").trace("What is 25 * 37?")
    assert weights.feature_names == list(run.tokens.labels)
    np.testing.assert_array_equal(weights.weights[2, 3], run.attention(2, 3))
    ids = visualizer.extract_attention_weights(run.tokens.ids, return_all_heads=True)
    np.testing.assert_allclose(ids.weights, weights.weights, atol=1e-6)
    with pytest.raises(BadInput, match="reads text: expected a text or token ids, got float64"):
        visualizer.extract_attention_weights(np.zeros((1, 8, 16)))


def test_models_of_transformers_that_read_numbers():
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(
        num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=8, num_attention_heads=2,
        num_hidden_layers=2, ffn_dim=16, prediction_length=2,
    )  # fmt: skip
    visualizer = AttentionVisualizer(PatchTSTForPrediction(config).eval(), feature_names=["pressure", "flow"])
    weights = visualizer.extract_attention_weights(np.zeros((3, 16, 2)) + np.arange(16)[:, None])
    assert weights.get_shape() == (2, 3, 1, 4, 4)
    assert weights.timestep_names == ["t 0–3", "t 4–7", "t 8–11", "t 12–15"]  # its tokens are patches of time
    assert any(
        "time steps" in line for line in visualizer.get_attention_summary(weights.batch(0)).finding.result.warnings
    )


# ------------------------------------------------------------------------------------------------ pictures


def test_five_pictures_of_a_map_are_five_pictures(visualizer, every, tmp_path):
    seen = set()
    for kind in VisualizationType:
        found = visualizer.visualize_attention(every, layer=1, head=2, viz_type=kind, figsize=(5, 4))
        np.testing.assert_array_equal(found["matrix"], every.weights[1, 2])
        found["figure"].savefig(tmp_path / f"{kind.value}.png", dpi=60)
        seen.add((tmp_path / f"{kind.value}.png").read_bytes())
        assert found["figure"].get_size_inches().tolist() == [5, 4]
    assert len(seen) == 5


def test_flow_and_network_draw_the_strongest_weights_and_say_their_share(visualizer):
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.full(20, 0.2), (1, 1, 20))
    found = visualizer.visualize_attention(AttentionWeights(maps), viz_type="flow")
    assert found["share"] == pytest.approx(np.sort(maps.ravel())[-40:].sum() / 20)
    (axes,) = found["figure"].axes
    lines = [line for line in axes.lines if line.get_marker() == "None"]
    assert len(lines) == 40
    assert lines[-1].get_linewidth() == pytest.approx(5)  # the strongest is the thickest
    assert f"{found['share']:.0%} of all attention" in axes.get_xlabel()


def test_the_heat_map_is_dark_where_attention_is_low(visualizer, every):
    (axes, _) = visualizer.visualize_attention(every)["figure"].axes
    (image,) = axes.images
    low, high = image.cmap(0.0)[:3], image.cmap(1.0)[:3]
    assert sum(low) < 0.1
    assert sum(high) > 2
    np.testing.assert_allclose(np.asarray(image.get_array()), every.weights[0, 0], rtol=1e-6)


# ------------------------------------------------------------------------------------------------ files


def test_files_of_every_format_have_default_names(visualizer, summary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ExportFormat:
        assert visualizer.export_visualization(summary, format=kind) == Path(f"attention_summary.{kind.value}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"attention_summary.{suffix}" for suffix in ("csv", "html", "json", "png", "svg")
    ]
    assert (tmp_path / "attention_summary.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "attention_summary.svg").read_text("utf-8")
    page = (tmp_path / "attention_summary.html").read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "not for regulatory figures" in page
    data = json.loads((tmp_path / "attention_summary.json").read_text("utf-8"))
    assert data["provenance_hash"] == summary.provenance_hash
    assert data["top_attended_features"][0] == {
        "name": summary.top_attended_features[0][0],
        "importance": pytest.approx(summary.top_attended_features[0][1]),
    }
    assert "not for regulatory figures" in data["notice"]
    with (tmp_path / "attention_summary.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["Feature", "Attention Score", "Rank"]
    assert [row[0] for row in rows[:3]] == [name for name, _ in summary.top_attended_features]


def test_a_summary_may_have_any_file_name(visualizer, summary, tmp_path):
    target = tmp_path / "equipment.report"
    assert visualizer.export_visualization(summary, "json", target) == target
    assert json.loads(target.read_text("utf-8"))["model"] == "Counting"
    assert [path.name for path in tmp_path.iterdir()] == ["equipment.report"]
    with pytest.raises(BadInput, match="format: expected one of html, json, csv, png, svg, got 'pdf'"):
        visualizer.export_visualization(summary, "pdf")
    with pytest.raises(BadInput, match="annot"):
        visualizer.export_visualization(summary, "json", tmp_path / "no" / "such.json")


def test_names_in_files_are_text(tmp_path):
    hostile = ["=HYPERLINK(1)", "</script><script>alert(1)</script>", "$x^2$"]
    weights = AttentionWeights(np.full((1, 1, 3, 3), 1 / 3), feature_names=hostile)
    visualizer = AttentionVisualizer()
    found = visualizer.get_attention_summary(weights)
    page = visualizer.export_visualization(found, "html", tmp_path / "a.html").read_text("utf-8")
    assert "<script>alert" not in page
    table = visualizer.export_visualization(found, "csv", tmp_path / "a.csv").read_text("utf-8")
    assert "'=HYPERLINK(1)" in table
    for kind in VisualizationType:
        visualizer.visualize_attention(weights, viz_type=kind)["figure"].savefig(tmp_path / "a.png", dpi=40)


# ------------------------------------------------------------------------------------------------ refusals


def test_a_model_without_attention_is_refused(values):
    plain = torch.nn.Sequential(torch.nn.Linear(WIDTH, 4), torch.nn.ReLU())
    with pytest.raises(ModelError, match="Model does not output attention weights: Sequential gives no attention"):
        AttentionVisualizer(plain).extract_attention_weights(values)
    with pytest.raises(BadInput, match="This visualizer has no model"):
        AttentionVisualizer().extract_attention_weights(values)


def test_weights_that_are_none_are_said_and_refused():
    maps = np.full((1, 2, 3, 3), 1 / 3)
    maps[0, 1, 2, 0] = 0.5
    with pytest.warns(
        UserWarning, match=r"Invalid attention weights: layer 0, head 1, row 2 sums to 1\.167, expected 1"
    ):
        assert not AttentionWeights(maps).validate()
    assert AttentionWeights(maps).validate(atol=0.2)
    with pytest.raises(BadInput, match=r"Invalid attention weights: layer 0, head 1, row 2 sums to 1.167"):
        AttentionVisualizer().get_attention_summary(AttentionWeights(maps))
    maps[0, 1, 2] = (1.5, -0.5, 0)
    with pytest.warns(UserWarning, match="row 2, key 1: expected a weight from 0 on, got -0.5"):
        AttentionWeights(maps).validate()
    maps[0, 0, 0, 0] = np.nan
    with pytest.warns(UserWarning, match="layer 0, head 0, row 0 sums to nan"):
        AttentionWeights(maps).validate()


def test_what_does_not_fit_is_refused(visualizer, model, values, every):
    with pytest.raises(BadInput, match=r"feature_names: expected 5 names, .* \(or 16, one for each column .* got 3"):
        AttentionVisualizer(model, feature_names=NAMES[:3]).extract_attention_weights(values)
    with pytest.raises(BadInput, match="feature_names: expected 512 names, one for each position of the map, got 3"):
        AttentionWeights(np.full((1, 1, 512, 512), 1 / 512), feature_names=NAMES[:3])
    with pytest.raises(BadInput, match="feature_names: expected a list of texts"):
        AttentionVisualizer(model, feature_names="abc")
    with pytest.raises(ShapeError, match=r"Attention weights: expected shape \[layer, head, query, key\]"):
        AttentionWeights(np.ones((3, 4, 5)))
    with pytest.raises(BadInput, match="input_data: expected a text or numbers"):
        visualizer.extract_attention_weights(np.zeros((0, STEPS, WIDTH)))
    with pytest.raises(BadInput, match="finite"):
        visualizer.extract_attention_weights(np.full((STEPS, WIDTH), np.nan))
    with pytest.raises(BadInput, match=r"Unknown layer -1. There are 3: 0 to 2"):
        visualizer.visualize_attention(every, layer=-1)
    with pytest.raises(BadInput, match=r"Unknown head 1. There are 1: 0 to 0. Heads were averaged"):
        visualizer.visualize_attention(visualizer.extract_attention_weights(values), head=1)
    with pytest.raises(UnknownName, match="picture of a map"):
        visualizer.visualize_attention(every, viz_type="pie")
    with pytest.raises(BadInput, match="top_k: expected a whole number from 1, got 0"):
        visualizer.get_attention_summary(every, top_k=0)
    with pytest.raises(BadInput, match="threshold: expected a share from 0 to 1, got 2"):
        visualizer.highlight_important_features(every, threshold=2)


def test_without_matplotlib_pictures_say_what_to_install(visualizer, every, summary, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Unavailable, match="matplotlib required for visualization: pip install matplotlib"):
        visualizer.visualize_attention(every)
    with pytest.raises(Unavailable, match="matplotlib required for visualization"):
        visualizer.export_visualization(summary, ExportFormat.PNG, tmp_path / "a.png")
    visualizer.export_visualization(summary, ExportFormat.HTML, tmp_path / "a.html")  # draws with its own script


def test_nothing_is_warned_of_on_the_way(model, values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = AttentionVisualizer(model)
        found.get_attention_summary(found.extract_attention_weights(torch.tensor(values)))
