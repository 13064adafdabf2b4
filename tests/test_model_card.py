"""What is known of a model before any run: tables by hand, JSON as documented, estimates against the model's own."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

import attnviz
from attnviz.errors import BadInput, Unavailable
from attnviz.hooks import Analysis, Backend, Estimate, HeadScores, LayerCard, ModelEntry, Want
from attnviz.model_card import (
    Expected,
    describe,
    described,
    duration,
    estimate_table,
    facts,
    layer_table,
    short_number,
    size,
    summary,
)
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.testing import FakeModel

ROOT = Path(attnviz.__file__).parent.parent


class Estimated(FakeModel):
    """Says 1000 bytes and a millisecond a token, for the usual trace only."""

    def estimate(self, count, want, decoder_from=None):
        assert want == Want()
        return Estimate(1000 * count, 3000 * count, 0.001 * count, "float32")


def session_of(model):
    """A session over the built-in analyses and one model."""
    loads = []

    def load(spec):
        loads.append(spec)
        return model

    backend = Backend("only", "One model.", handles=lambda spec: None, load=load)
    entry = ModelEntry("it", "It", "it", "nothing", "none", backend="only")
    registry = dataclasses.replace(load_registry(safe=True), backends={"only": backend}, models={"it": entry})
    session = Session(registry)
    return session, loads


def loaded(model):
    return session_of(model)[0].load("it")


def card(*layers, **changes):
    return dataclasses.replace(FakeModel().card, layers=layers, **changes)


# ---- layers


def test_layers_that_are_alike_share_a_row_wherever_they_stand():
    layers = [LayerCard(i, "linear", 0, 0) for i in range(7)]
    layers[3] = layers[6] = LayerCard(3, "full", 16, 2, experts=512)
    layers[6] = dataclasses.replace(layers[6], index=6)
    columns, rows = layer_table(card(*layers))
    assert columns == ("Layers", "Attention", "Heads", "KV heads", "Experts", "Count")
    assert rows == (("0–2, 4–5", "linear", "–", "–", "–", "5"), ("3, 6", "full", "16", "2", "512", "2"))
    columns, rows = layer_table(card(*layers), every=True)
    assert columns == ("Layers", "Attention", "Heads", "KV heads", "Experts")
    assert [row[0] for row in rows] == [str(i) for i in range(7)]


def test_layers_of_several_stacks_go_by_their_names():
    layers = [LayerCard(i, "full", 8, 8, stack="encoder", number=i) for i in range(2)]
    for i in range(2):  # decoder and cross take turns
        layers.append(LayerCard(2 + 2 * i, "full", 8, 8, stack="decoder", number=i))
        layers.append(LayerCard(3 + 2 * i, "cross", 8, 8, stack="cross", number=i))
    _, rows = layer_table(card(*layers))
    assert [row[0] for row in rows] == ["encoder 0–1", "decoder 0–1", "cross 0–1"]
    assert [row[0] for row in layer_table(card(*layers), every=True)[1]] == [layer.name for layer in layers]


def test_a_window_has_a_column():
    columns, rows = layer_table(FakeModel().card)
    assert columns == ("Layers", "Attention", "Heads", "KV heads", "Window", "Count")
    assert rows == (
        ("0", "full", "4", "4", "–", "1"),
        ("1", "sliding", "4", "2", "8", "1"),
        ("2", "linear", "–", "–", "–", "1"),
    )


# ---- words


def test_numbers_in_words():
    assert [short_number(n) for n in (7, 79_800, 1_336_960, 7_000_000_000)] == ["7", "79.8 k", "1.34 M", "7 B"]
    assert [size(n) for n in (512, 946_176, 29_949_952, 3_200_000_000)] == ["512 bytes", "946 kB", "29.9 MB", "3.2 GB"]
    assert [duration(s) for s in (0.0034, 2.5, 600)] == ["3 ms", "2.5 s", "10 min"]


def test_the_summary_counts_layers_with_attention_only():
    layers = (LayerCard(0, "full", 8, 8), LayerCard(1, "sliding", 4, 4), LayerCard(2, "none", 0, 0))
    shown = card(*layers, parameters=1_336_960)
    assert summary("m", shown) == "m · 3 layers × 4 to 8 heads · 1.34 M param. · cpu"
    assert summary("m", card(LayerCard(0, "none", 0, 0))) == "m · 1 layers × 0 heads · 0 param. · cpu"


def test_facts_say_what_is_missing_and_why():
    shown = dict(facts(FakeModel(without=("generation",)).card))
    assert shown["No generation"] == "This model of rules has no generation."
    assert shown["Reads"] == "at most 512 tokens, vocabulary 261"
    assert shown["A token sees"] == "itself and earlier ones (causal)"
    assert "route interface" in shown["Attention"]
    assert dict(facts(card(positions=None)))["Reads"].startswith("any number of tokens")


# ---- estimates


def test_estimates_are_the_models_own_and_stop_at_its_positions():
    about = describe(loaded(Estimated()), [10, 512, 513, 10])
    assert about.estimates == (
        Expected(10, Estimate(10_000, 30_000, 0.01, "float32")),
        Expected(512, Estimate(512_000, 1_536_000, 0.512, "float32")),
        Expected(513, reason="More than the 512 positions of this model."),
    )
    columns, rows = estimate_table(about.estimates)
    assert columns == ("Tokens", "Memory held", "Peak", "Time", "Detail")
    assert rows[0] == ("10", "10 kB", "30 kB", "about 10 ms", "float32")
    assert rows[2] == ("513", "–", "–", "–", "More than the 512 positions of this model.")


def test_half_of_a_run_with_encoder_and_decoder_is_the_decoders():
    class Both(Estimated):
        def __init__(self):
            super().__init__()
            layers = [
                LayerCard(i, "full", 4, 4, stack=stack, number=0) for i, stack in enumerate(("encoder", "decoder"))
            ]
            layers.append(LayerCard(2, "cross", 4, 4, stack="cross", number=0))
            self.card = dataclasses.replace(self.card, layers=tuple(layers), positions=20, source_positions=12)

        def estimate(self, count, want, decoder_from=None):
            return Estimate(decoder_from, count, 1.0, "float32")

    about = describe(loaded(Both()), [1, 7, 25, 50])
    assert [(e.decoder_from, e.reason) for e in about.estimates] == [
        (1, "Too short: a run of this model has at least one token for the encoder and one for the decoder."),
        (4, ""),
        (13, "More than the 12 positions of its encoder."),
        (25, "More than the 20 positions of its decoder."),
    ]
    assert about.estimates[1].estimate.bytes == 4
    assert estimate_table(about.estimates)[1][1][-1] == "float32; half of them read by the encoder, half by the decoder"
    assert dict(facts(about.card))["Reads"].startswith("a source of at most 12 tokens, a target of at most 20 tokens")


def test_a_time_that_is_not_known_is_said_and_is_null():
    class Untimed(FakeModel):
        def estimate(self, count, want, decoder_from=None):
            return Estimate(1, 2, float("nan"), "float32")

    about = describe(loaded(Untimed()), [5])
    assert estimate_table(about.estimates)[1][0][3] == "not known"
    assert about.to_jsonable()["estimates"] == [
        {
            "tokens": 5, "decoder_from": None, "bytes": 1, "peak": 2, "seconds": None, "precision": "float32",
            "reason": None,
        }
    ]  # fmt: skip


def test_a_model_that_gives_no_estimate_says_why():
    class Refusing(FakeModel):
        def estimate(self, count, want, decoder_from=None):
            raise Unavailable("It gives no attention.")

    assert describe(loaded(FakeModel()), [5]).estimates[0].reason == "This model does not say."
    assert describe(loaded(Refusing()), [5]).estimates[0].reason == "It gives no attention."


@pytest.mark.parametrize("tokens", [0, -1, 1.5, "128", True, 10**9])
def test_lengths_are_whole_numbers(tokens):
    with pytest.raises(BadInput, match="Tokens: expected a whole number from 1 to"):
        describe(loaded(Estimated()), [tokens])


def test_what_the_card_says_alone_needs_no_model_in_memory():
    session, loads = session_of(Estimated())
    model = session.load("it")
    session._models.clear()
    assert described(model).card is model.card
    assert session.loaded(model.spec) is None
    assert len(loads) == 1


# ---- analyses, JSON, text


def test_every_analysis_is_available_or_says_why_not():
    about = describe(loaded(FakeModel(without=("attention",))), [])
    registered = loaded(FakeModel()).session.registry.analyses
    assert list(about.analyses) == list(registered)
    for name, reason in about.analyses.items():
        needs = "attention" in registered[name].requires
        assert (reason is not None and "This model of rules has no attention." in reason) == needs


def test_the_json_has_the_documented_fields():
    data = describe(loaded(Estimated()), [10, 600]).to_jsonable()
    assert json.loads(json.dumps(data)) == data
    text = (ROOT / "docs" / "model-card.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `([\w.\[\]]+)`", text, re.MULTILINE))
    found = {*data, *(f"card.{name}" for name in data["card"])}
    found |= {f"card.layers[].{name}" for layer in data["card"]["layers"] for name in layer}
    found |= {f"estimates[].{name}" for estimate in data["estimates"] for name in estimate}
    assert documented == found
    assert data["card"]["layers"][1] == {
        "name": "1", "index": 1, "kind": "sliding", "heads": 4, "kv_heads": 2, "window": 8, "experts": None,
        "stack": "", "number": None, "channels": 1,
    }  # fmt: skip
    assert data["analyses"]["attention_pattern"] is None
    assert data["estimates"][1]["bytes"] is None
    assert data["estimates"][1]["reason"] == "More than the 512 positions of this model."


def test_the_text_has_everything():
    about = describe(loaded(Estimated()), [10])
    text = str(about)
    assert repr(about) == text
    for expected in ("it · 3 layers × 4 heads", "FakeModel, 0 parameters", "sliding", "about 10 ms", "logit_lens"):
        assert expected in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_hostile_name_is_only_text():
    model = FakeModel(name="<script>\nalert(1)</script>")
    session, _ = session_of(model)
    hostile = Analysis("own", "<b>", "Own", "x", lambda request: None, HeadScores)
    session.registry = dataclasses.replace(session.registry, analyses={"own": hostile})
    assert describe(session.load("it"), []).to_jsonable()["card"]["name"] == "<script>\nalert(1)</script>"


def test_the_embedded_model_in_python():
    about = attnviz.describe(attnviz.load("demo"), [64])
    (expected,) = about.estimates
    run = attnviz.load("demo").trace("x" * 20)
    assert expected.tokens == 64
    assert attnviz.describe(run.model, [len(run.tokens)]).estimates[0].estimate.bytes == run.captured.nbytes
