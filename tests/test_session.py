"""Sessions: what is computed once, what crosses to the device, what is refused, and what the provenance covers."""

import dataclasses
import gc
import json
import pickle
import threading
import time

import numpy as np
import pytest

import attnviz.session as session_module
from attnviz.errors import BadInput, ModelError, PluginError, Unavailable, UnknownName
from attnviz.hooks import (
    Analysis,
    Backend,
    HeadScores,
    LayerCapture,
    LayerCard,
    ModelCard,
    ModelEntry,
    Param,
    Renderer,
    Segment,
    Table,
    Tokens,
    Trace,
    View,
    Want,
    to_jsonable,
)
from attnviz.registry import Registry
from attnviz.session import Session
from attnviz.testing import fake_backend


def tokens_of(text):
    count = len(text)
    spans = np.array([[i, i + 1] for i in range(count)], np.int64).reshape(count, 2)
    ids = np.array([ord(c) for c in text], np.int64)
    return Tokens(ids, tuple(text), spans, np.zeros(count, bool), text, (Segment("text", 0, count),))


def uniform_layer(heads, tokens):
    """A causal layer in which every head looks evenly at all it may see."""
    allowed = np.arange(1, tokens + 1)
    return LayerCapture(
        q=np.zeros((heads, tokens, 2), np.float32),
        k=np.zeros((heads, tokens, 2), np.float32),
        scale=1.0,
        causal=True,
        entropy=np.tile(np.log2(allowed), (heads, 1)),
        row_max=np.tile(1 / allowed, (heads, 1)),
        distance=np.tile((allowed - 1) / 2, (heads, 1)),
        column_sum=np.tile([np.sum(1 / allowed[k:]) for k in range(tokens)], (heads, 1)),
        allowed=allowed,
        seen_by=allowed[::-1],
        thumbnail=np.zeros((heads, 4, 4), np.uint8),
    )


class CountingModel:
    """A model of two layers (3 and 1 heads) that counts its forward passes; layer 1 has no attention."""

    card = ModelCard(
        name="counting",
        architecture="Counting",
        layers=(LayerCard(0, "full", 3, 3), LayerCard(1, "linear", 0, 0)),
        vocabulary=256,
        positions=64,
        dtype="float32",
        device="cpu",
        parameters=0,
        causal=True,
        route="interface",
        route_reason="",
        capabilities=frozenset({"attention", "generation"}),
        missing={"gradients": "nothing here is differentiable."},
        weights_digest="d" * 64,
    )

    def __init__(self):
        self.forwards = 0
        self.wants = []

    def tokenize(self, prompt):
        if not prompt:
            raise BadInput("The prompt is empty. Type some text.")
        return tokens_of(prompt if isinstance(prompt, str) else "".join(m["content"] for m in prompt))

    def trace(self, tokens, want):
        self.forwards += 1
        self.wants.append(want)
        layer = uniform_layer(3, len(tokens))
        if want.values:
            layer = dataclasses.replace(layer, value_norm=np.ones((3, len(tokens))))
        return Trace((layer, None), {1: "it is linear."})

    def lens(self, tokens, **options):
        raise Unavailable("no unembedding.")

    def generate(self, tokens, sampling, on_token=None, cancelled=None):
        return tokens_of(tokens.text + "!" * sampling.max_new_tokens)

    def label(self, token_id):
        return chr(token_id)

    def module(self):
        return None


@pytest.fixture
def rules():
    """The model of rules in a session of its own."""
    backend = fake_backend()
    return Session(Registry({backend.name: backend}, {}, {}, {}, {}, {})).load("fake")


def entropy(request):
    layers = request.trace.layers
    values = np.full((len(layers), 3), np.nan, np.float32)
    values[0] = layers[0].entropy.mean(axis=1)
    return HeadScores(metrics={"entropy": values * request.params["times"]}, units={"entropy": "bits"})


def boom(request):
    raise ZeroDivisionError("one over nothing")


def wrong(request):
    return Table(columns=(), rows=())


LINKED = (Param("layer", "layer", choices=("mean",)), Param("head", "head"), Param("token", "token"))


def chosen(request):
    return Table(columns=tuple(request.params), rows=(tuple(request.params.values()),))


def norms(request):
    """What of the values an analysis sees."""
    return Table(columns=("seen",), rows=((str(request.trace.layers[0].value_norm is not None),),))


def as_json(finding):
    return View("text", json.dumps(to_jsonable(finding.result), sort_keys=True))


@pytest.fixture
def model():
    return CountingModel()


@pytest.fixture
def session(model):
    analyses = (
        Analysis("entropy", "Entropy", "Heads", "", entropy, HeadScores, params=(Param("times", "int", 1),)),
        Analysis(
            "device", "On the device", "Heads", "", entropy, HeadScores, params=(Param("times", "int", 1),), gpu=True
        ),
        Analysis("chosen", "Chosen", "Heads", "", chosen, Table, params=LINKED),
        Analysis("blind", "Blind", "Heads", "", norms, Table),
        Analysis("norms", "Norms", "Heads", "", norms, Table, want=Want(values=True)),
        Analysis("norms_gpu", "Norms", "Heads", "", norms, Table, want=Want(values=True), gpu=True),
        Analysis("ranks", "Ranks", "Heads", "", norms, Table, want=Want(top_k=2)),
        Analysis("boom", "Boom", "Heads", "", boom, Table, requires=frozenset()),
        Analysis("wrong", "Wrong", "Heads", "", wrong, HeadScores, requires=frozenset()),
        Analysis("needs", "Needs", "Heads", "", wrong, Table, requires=frozenset({"gradients"})),
    )
    backend = Backend("counting", "", lambda spec: None if spec.source == "x" else "not x.", lambda spec: model)
    renderer = Renderer("json", "JSON", (HeadScores, Table), "text", as_json, suffixes=(".json",))
    registry = Registry(
        backends={"counting": backend},
        analyses={a.name: a for a in analyses},
        renderers={"json": renderer},
        formats={},
        tools={},
        models={"menu": ModelEntry("menu", "Menu", "x", "", "")},
    )
    return Session(registry)


@pytest.fixture
def run(session):
    return session.load("menu").trace("abcd")


def test_a_hand_computed_number_comes_through(run):
    found = run.analyze("entropy")
    expected = np.mean(np.log2([1, 2, 3, 4]))
    np.testing.assert_allclose(found.result.metrics["entropy"][0], [expected] * 3, rtol=1e-6)
    assert np.isnan(found.result.metrics["entropy"][1]).all()
    np.testing.assert_allclose(run.attention(0, 2)[2], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)


def test_the_same_request_is_computed_once(session, run, model):
    first, second = run.analyze("entropy"), run.analyze("entropy")
    assert (first.cached, second.cached) == (False, True)
    assert first.provenance == second.provenance
    assert first.result is second.result
    assert not run.analyze("entropy", times=2).cached
    assert model.forwards == 1
    again = session.load("menu").trace("abcd")
    assert again.id != run.id
    assert again.analyze("entropy").run == again.id
    assert model.forwards == 1


def test_at_most_one_crossing_to_the_device_per_request(run, monkeypatch):
    crossings = []
    real = session_module.on_device

    def counted(task):
        crossings.append(pickle.loads(pickle.dumps(task)))
        return real(crossings[-1])

    monkeypatch.setattr(session_module, "on_device", counted)
    run.analyze("device")
    assert len(crossings) == 1
    assert crossings[0].capture
    run.analyze("entropy")
    assert len(crossings) == 1  # the trace is in memory and the analysis needs no device
    run.analyze("device", times=3)
    assert len(crossings) == 2
    assert not crossings[1].capture


def test_an_analysis_gets_what_it_wants_and_a_larger_trace_serves_a_smaller_want(run, model):
    assert run.analyze("entropy").result.metrics["entropy"].shape == (2, 3)
    assert run.analyze("norms").result.rows == (("True",),)
    assert model.wants == [Want(), Want(values=True)]
    assert run.analyze("norms_gpu").result.rows == (("True",),)
    assert run.analyze("blind").result.rows == (("False",),)  # what it sees does not depend on what came before
    assert run.captured.layer(0).value_norm is None
    assert model.forwards == 2
    run.analyze("ranks")
    assert model.wants[2] == Want(values=True, top_k=2)  # the new trace serves the earlier wants as well
    run.analyze("norms")
    assert model.forwards == 3


def test_a_larger_want_still_crosses_once(run, monkeypatch):
    crossings = []
    real = session_module.on_device
    monkeypatch.setattr(session_module, "on_device", lambda task: crossings.append(task) or real(task))
    run.analyze("entropy")
    run.analyze("norms_gpu")
    assert [(c.capture, c.want) for c in crossings] == [(True, Want()), (True, Want(values=True))]


def test_two_threads_asking_the_same_share_one_forward(session, run, model):
    threads = [threading.Thread(target=run.analyze, args=("entropy",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.forwards == 1


def test_linked_parameters_default_to_the_first_head_and_the_last_token(run):
    assert run.analyze("chosen").result.rows == ((0, 0, 3),)
    assert run.analyze("chosen", layer="mean", head=1, token=2).result.rows == (("mean", 1, 2),)


@pytest.mark.parametrize(
    "params", [{"layer": 2}, {"head": 3}, {"token": 4}, {"layer": -1}, {"layer": "last"}, {"head": True}]
)
def test_positions_that_do_not_exist_are_refused(run, params):
    with pytest.raises(BadInput, match=next(iter(params))):
        run.analyze("chosen", **params)


def test_layers_without_attention_say_why(run):
    with pytest.raises(BadInput, match=r"Layer 1 has no attention: it is linear\."):
        run.attention(1, 0)


def test_unknown_names_list_the_known(session, run):
    with pytest.raises(UnknownName, match="Did you mean 'entropy'"):
        run.analyze("entropi")
    with pytest.raises(UnknownName, match="times"):
        run.analyze("entropy", tims=1)
    with pytest.raises(UnknownName, match="counting"):
        session.load("x", backend="nope")
    with pytest.raises(ModelError, match=r"counting: not x\."):
        session.load("y")
    with pytest.raises(ModelError, match=r"not x\."):
        session.load("y", backend="counting")


def test_an_analysis_the_model_cannot_serve_says_why(session, run):
    reason = "nothing here is differentiable."
    assert reason in session.check(session.analysis("needs"), run.model.card)
    with pytest.raises(Unavailable, match=reason):
        run.analyze("needs")


def test_a_plugin_that_raises_is_recorded_and_its_error_kept(session, run):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            run.analyze("boom")
    with pytest.raises(PluginError, match="returned Table, expected HeadScores"):
        run.analyze("wrong")
    assert [f.plugin for f in session.failures] == ["boom", "wrong"]
    assert "one over nothing" in session.failures[0].reason
    run.analyze("entropy")


def test_runs_are_found_by_their_id_only(session, run):
    assert session.run(run.id).run == run.run
    with pytest.raises(BadInput, match="no longer in memory"):
        session.run("guess")


def test_generation_keeps_where_the_answer_starts(session):
    run = session.load("menu").generate("ab", max_new_tokens=3)
    assert (run.generated_from, run.text, run.answer) == (2, "ab!!!", "!!!")


@pytest.mark.parametrize(
    ("options", "count", "ended"),
    [
        ({}, 40, "length"),
        ({"max_new_tokens": 1}, 1, "length"),
        ({"stop": ["efg"]}, 4, "stop text"),
        ({"stop": ["efg", "e"]}, 2, "stop text"),
        ({"max_new_tokens": 2, "stop": ["e"]}, 2, "stop text"),
        ({"stop": ["abc"], "max_new_tokens": 3}, 3, "length"),
    ],
)
def test_a_run_says_why_its_answer_ended(rules, options, count, ended):
    """The answer to "abc" by rule is "defg…"."""
    run = rules.generate("abc", **options)
    assert (len(run.tokens) - run.generated_from, run.run.ended) == (count, ended)


def test_another_model_reads_the_same_text_again(rules, session):
    """The model of rules has <bos> before its bytes; the counting one has neither that nor ids over 255."""
    counting = session.load("menu")
    run = rules.generate("abc", max_new_tokens=2)
    assert run.tokens.labels == ("<bos>", "a", "b", "c", "d", "e")
    fresh = counting.reread(run)
    assert (fresh.tokens.labels, fresh.generated_from, fresh.answer) == (tuple("abcde"), 3, "de")
    assert fresh.model is counting
    run = counting.generate("ab", max_new_tokens=1)
    same = rules.reread(run)  # every id means the same there
    assert (same.tokens.labels, same.generated_from) == (("a", "b", "!"), 2)
    assert np.array_equal(same.tokens.ids, run.tokens.ids)
    assert counting.reread(rules.trace("abc")).generated_from is None
    other = dataclasses.replace(run.run, tokens=dataclasses.replace(run.tokens, decoder_from=1))
    with pytest.raises(BadInput, match="of another kind"):
        rules.reread(dataclasses.replace(run, run=other))


def test_a_cancelled_answer_is_kept_and_says_so(rules):
    heard = []
    run = rules.generate("abc", on_token=heard.append, cancelled=lambda: len(heard) == 3)
    assert (run.answer, run.run.ended) == ("def", "cancelled")
    assert rules.generate("abc", cancelled=lambda: True).run.ended == "cancelled"
    assert rules.trace("abc").run.ended == ""


def test_the_end_token_is_named_also_where_it_is_the_last_that_was_asked_for(rules, monkeypatch):
    """What follows "b" was <end>."""
    monkeypatch.setattr("attnviz.testing.fake.next_id", lambda ids: 257)
    for length in (1, 5):
        run = rules.generate("ab", max_new_tokens=length)
        assert (run.tokens.labels[-1], run.run.ended) == ("<end>", "end token")


@pytest.mark.parametrize(
    "bad",
    [
        {"stop": [""]},
        {"stop": "Observation:"},
        {"stop": [3]},
        {"stop": 3},
        {"stop": ["\ud800"]},
        {"max_new_tokens": 0},
        {"max_new_tokens": True},
        {"max_new_tokens": 2.5},
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 0},
        {"seed": -1},
        {"seed": 1 << 64},
        {"seed": 1.5},
        {"seed": "7"},
    ],
)
def test_sampling_out_of_bounds_is_refused(session, bad):
    with pytest.raises(BadInput, match=next(iter(bad))):
        session.load("menu").generate("ab", **bad)


@pytest.mark.parametrize(
    "messages",
    [[], "text", [{"role": "user"}], [{"role": "robot", "content": "x"}], [3], [{"role": "user", "content": 3}]],
)
def test_bad_conversations_are_refused(session, messages):
    with pytest.raises(BadInput):
        session.load("menu").trace(messages=messages)


def test_either_text_or_messages(session):
    with pytest.raises(BadInput, match="neither"):
        session.load("menu").trace()
    with pytest.raises(BadInput, match="both"):
        session.load("menu").trace("a", messages=[{"role": "user", "content": "a"}])


def test_saving_is_whole_or_not_at_all(run, tmp_path, monkeypatch):
    found = run.analyze("entropy")
    target = tmp_path / "a.json"
    found.save(target)
    before = target.read_bytes()
    assert json.loads(before)["units"] == {"entropy": "bits"}
    monkeypatch.setattr(session_module.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(BadInput, match="No space left"):
        found.save(target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(BadInput, match=r"ending in one of \.json"):
        found.save(tmp_path / "a.docx")


def test_provenance_changes_with_everything_it_names_and_with_nothing_else(session, run):
    base = run.analyze("entropy").provenance
    assert session.load("menu").trace("abcd").analyze("entropy").provenance == base
    assert run.analyze("entropy", times=2).provenance != base
    assert session.load("menu").trace("abce").analyze("entropy").provenance != base


def test_provenance_is_the_same_in_another_session(model, session):
    other = Session(session.registry)
    one, two = (s.load("menu").trace("abcd").analyze("entropy").provenance for s in (session, other))
    assert one == two


def test_a_finding_in_memory_is_only_used_for_the_same_name_text_and_roles(session):
    named, foldered = session.load("menu"), session.load("x")  # one model under two names
    first, second = (m.trace("abcd").analyze("entropy") for m in (named, foldered))
    alone = Session(session.registry).load("x").trace("abcd").analyze("entropy")
    assert first.provenance != second.provenance == alone.provenance
    lower = tokens_of("abcd")  # a tokenizer that ignores case gives "ABCD" the same ids
    upper = dataclasses.replace(lower, text="ABCD")
    asked = dataclasses.replace(lower, segments=(Segment("user", 0, 4),))
    for tokens in (lower, upper, asked):
        found = session.start(named, tokens).analyze("entropy", times=3)
        assert (found.tokens.text, found.tokens.segments) == (tokens.text, tokens.segments)
    assert session.start(named, upper).analyze("entropy", times=3).cached


def test_the_cells_of_a_table_count_as_memory(session):
    run = Session(session.registry, finding_bytes=1200).load("menu").trace("abcd")
    assert [run.analyze("chosen").cached for _ in range(2)] == [False, False]  # 1024 + 3 cells of 64 bytes
    assert [run.analyze("blind").cached for _ in range(2)] == [False, True]  # 1 cell


def test_one_model_is_loaded_at_a_time(session, model):
    loading, most = [], []

    def load(spec):
        loading.append(spec)
        most.append(len(loading))
        time.sleep(0.05)
        loading.remove(spec)
        return model

    backend = dataclasses.replace(session.registry.backends["counting"], load=load)
    shared = Session(dataclasses.replace(session.registry, backends={"counting": backend}))
    names = ("float32", "float16", "bfloat16")
    threads = [threading.Thread(target=shared.load, args=("menu",), kwargs={"dtype": name}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert most == [1, 1, 1]


def test_a_pair_is_read_anew_by_every_load(session, model):
    backend = dataclasses.replace(session.registry.backends["counting"], handles=lambda spec: None)
    pairs, pair = Session(dataclasses.replace(session.registry, backends={"counting": backend})), (object(), object())
    found = [pairs.load(pair).trace("abcd").analyze("entropy") for _ in range(2)]  # trained on in between
    assert [f.cached for f in found] == [False, False]
    assert model.forwards == 2


@pytest.mark.parametrize("source", [None, 3, ["x"]])
def test_a_source_that_is_no_model_is_refused(session, source):
    with pytest.raises(BadInput, match="expected a menu name, a folder, a hub id or a pair"):
        session.load(source)


def test_caches_are_bounded_by_bytes(session, model):
    small = Session(session.registry, trace_bytes=1, finding_bytes=1)
    run = small.load("menu").trace("abcd")
    assert not run.analyze("entropy").cached
    assert not run.analyze("entropy").cached  # too large to keep: computed again, not lost
    assert model.forwards == 2


def test_nothing_but_the_caches_keeps_a_session_alive(session):
    key = session.id
    assert key in session_module._SESSIONS
    short = Session(session.registry)
    gone = short.id
    del short
    gc.collect()
    assert gone not in session_module._SESSIONS


def test_values_are_frozen(run):
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.run.id = "x"
    with pytest.raises(ValueError, match="read-only"):
        run.tokens.ids[0] = 1
