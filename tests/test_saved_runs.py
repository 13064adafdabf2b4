"""A saved run opens as it was by its model, and says what it can without it; Python and the command line over it."""

import dataclasses
import json

import numpy as np
import pytest

import attnviz
from attnviz.__main__ import main
from attnviz.agent import run_agent
from attnviz.errors import BadInput, Unavailable
from attnviz.kept import KEPT_BITS, LENS_POSITIONS, THUMBNAIL, smaller
from attnviz.provenance import run_provenance
from attnviz.recordings import recording_of
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.store import RunStore

QUESTION = [{"role": "user", "content": "What is 25 * 37?"}]


@pytest.fixture(scope="module")
def model():
    return Session(load_registry(safe=True)).load("demo")


@pytest.fixture(scope="module")
def run(model):
    return model.generate(messages=QUESTION, max_new_tokens=30)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNVIZ_HOME", str(tmp_path))
    return RunStore()


def without_model(saved):
    """Opened where no model has these weights."""
    card = dataclasses.replace(saved.card, weights_digest="of another model")
    return Session(load_registry(safe=True)).reopen(dataclasses.replace(saved, card=card))


def test_a_saved_run_opens_as_it_was(run, store):
    found = run.save(category="math", title="A product")
    assert (found.prompt, found.response) == ("What is 25 * 37?", run.answer)
    assert (found.category, found.title, found.model, found.tokens) == ("Math", "A product", "demo", len(run.tokens))
    again = Session(load_registry(safe=True)).reopen(store.read(found.id))
    assert again.id == found.id
    assert again.text == run.text
    assert again.tokens.segments == run.tokens.segments
    assert (again.generated_from, again.run.sampling, again.run.ended) == (
        run.generated_from,
        run.run.sampling,
        run.run.ended,
    )
    np.testing.assert_array_equal(again.tokens.ids, run.tokens.ids)
    assert run_provenance(again.run, again.model.card, again.captured) == found.provenance
    for name in ("attention_pattern", "attention_stats", "logit_lens", "saliency"):
        one, two = run.analyze(name), again.analyze(name)
        assert one.provenance == two.provenance, name
    assert again.model.session.run(found.id).run == again.run


def test_what_an_agent_did_is_kept(model, store):
    done = run_agent(model, "What is 25 * 37?")
    found = done.run.save(category="ReAct")
    assert (found.kind, found.prompt) == ("agent", "What is 25 * 37?")
    again = Session(load_registry(safe=True)).reopen(store.read(found.id))
    assert again.run.trajectory == done.trajectory
    recording = recording_of(again.run, again.model.card, again.attention)
    assert [(c.context, len(c.labels)) for c in recording.calls] == [(c.start, c.stop) for c in done.trajectory.calls]
    assert [step["step_type"] for step in recording.steps] == [step.kind for step in done.steps]


def test_python_lists_and_opens(run, store):
    found = run.save()
    assert attnviz.runs() == [found] == attnviz.runs("25 37", category="Custom")
    assert attnviz.open_run(found.id).answer == run.answer
    attnviz.run_store().delete(found.id)
    assert attnviz.runs() == []


def test_a_model_in_memory_with_the_same_weights_is_taken(store):
    loaded = Session(load_registry(safe=True)).load("demo")
    module = loaded.session.model(loaded.spec).module()
    from transformers import AutoTokenizer

    from attnviz.demo import LANGUAGE

    pair = attnviz.load((module, AutoTokenizer.from_pretrained(LANGUAGE)))
    found = pair.trace("Once upon a time").save()
    again = pair.session.reopen(store.read(found.id))
    assert again.model.spec == pair.spec
    elsewhere = Session(load_registry(safe=True)).reopen(store.read(found.id))
    assert "is not at hand" in elsewhere.model.card.notes[0]
    assert pair.session.reopen(store.read(found.id), pair).model.spec == pair.spec
    with pytest.raises(BadInput, match="other weights"):
        loaded.session.reopen(store.read(found.id), loaded)


def test_without_its_model_a_run_shows_what_was_kept(run, store):
    kept = without_model(store.read(run.save().id))
    assert kept.text == run.text
    exact, rounded = run.analyze("attention_stats").result, kept.analyze("attention_stats").result
    for name, values in exact.metrics.items():
        near = 2.0**-KEPT_BITS  # focus = 1 − entropy / log2 n, so of focus that bounds the absolute error
        atol = near if name == "focus" else 1e-6
        np.testing.assert_allclose(rounded.metrics[name], values, rtol=near, atol=atol, err_msg=name)
    np.testing.assert_allclose(rounded.received, exact.received, rtol=2.0**-KEPT_BITS, atol=1e-6)
    assert any("0.2 %" in line for line in rounded.info)
    exact, rounded = run.analyze("logit_lens").result, kept.analyze("logit_lens").result
    np.testing.assert_array_equal(rounded.top_ids, exact.top_ids)
    np.testing.assert_array_equal(rounded.target_rank, exact.target_rank)
    np.testing.assert_allclose(rounded.top_logprobs, exact.top_logprobs, rtol=2.0**-KEPT_BITS, atol=1e-6)
    assert rounded.labels
    assert rounded.labels.items() <= exact.labels.items()
    fewer = kept.analyze("logit_lens", top_k=2, first=3, last=6).result
    np.testing.assert_array_equal(fewer.top_ids, exact.top_ids[:, 3:7, :2])
    for act in (
        lambda: kept.analyze("attention_pattern"),
        lambda: kept.analyze("saliency"),
        lambda: kept.analyze("logit_lens", top_k=9),
        lambda: kept.analyze("logit_lens", sites="sublayers"),
        lambda: kept.analyze("value_weighted_attention"),
        lambda: kept.attention(0, 0),
        lambda: kept.model.trace("another text"),
        lambda: kept.model.generate("another text"),
    ):
        with pytest.raises(Unavailable, match="at hand"):
            act()
    with pytest.raises(BadInput, match="without its model"):
        kept.save()


def test_with_its_maps_a_run_is_kept_bit_for_bit(run, store):
    kept = without_model(store.read(run.save(maps=True).id))
    for layer in range(len(run.captured.layers)):
        np.testing.assert_array_equal(kept.attention(layer, 1), run.attention(layer, 1))
    np.testing.assert_array_equal(
        kept.analyze("attention_rollout").result.scores, run.analyze("attention_rollout").result.scores
    )


def test_two_hundred_tokens_take_at_most_sixty_kilobytes(model, store):
    """A run of tokens drawn at random is the worst case: nothing in it repeats."""
    ids = np.random.default_rng(0).integers(3, model.card.vocabulary, 200).tolist()
    read = model.trace(ids=ids)
    run = dataclasses.replace(read, run=dataclasses.replace(read.run, generated_from=120))
    store.delete(run.save().id)  # the empty index has a size of its own
    empty = sum(path.stat().st_size for path in store.folder.iterdir())
    first = run.save()
    assert first.bytes <= 56_000
    for _ in range(39):  # the index grows in steps
        store.take(store.path(first.id))
    assert (sum(path.stat().st_size for path in store.folder.iterdir()) - empty) / 40 <= 60_000


def test_pictures_are_kept_as_the_largest_of_their_blocks():
    picture = np.random.default_rng(0).integers(0, 256, (2, 50, 37)).astype(np.uint8)
    small = smaller(picture)
    assert small.shape == (2, 25, 19)
    for head in range(2):
        for row in range(25):
            for column in range(19):
                block = picture[head, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert small[head, row, column] == block.max()
    assert smaller(picture[:, :THUMBNAIL, :THUMBNAIL]).shape == (2, THUMBNAIL, THUMBNAIL)


def test_of_a_long_run_the_lens_of_the_answer_is_kept(model, store):
    run = model.generate("Once upon a time there was " * 12, max_new_tokens=6)
    assert len(run.tokens) > LENS_POSITIONS
    lens = store.read(run.save().id).lens
    assert lens.positions.tolist() == list(range(run.generated_from - 1, len(run.tokens)))
    read = model.trace("Once upon a time there was " * 12)
    lens = store.read(read.save().id).lens
    assert lens.positions.tolist() == list(range(len(read.tokens) - LENS_POSITIONS, len(read.tokens)))


# --------------------------------------------------------------------------------------------- command line


@pytest.fixture
def call(capfd, monkeypatch, store):
    monkeypatch.setenv("ATTNVIZ_PLUGINS", "")

    def command(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return command


def test_the_command_line_from_saving_to_deleting(call, store, tmp_path):
    code, out, err = call("generate", "--text", "Once upon", "--max-new-tokens", 4, "--save", "--category", "creative")
    saved = json.loads(out)["saved"]
    assert code == 0
    assert f"saved run {saved}" in err
    code, out, err = call("run", "attention_stats", "--text", "What is 2 + 2?", "--save", "--title", "a sum")
    assert code == 0
    assert json.loads(out)["analysis"] == "attention_stats"

    code, out, _ = call("runs", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [run.id for run in store.list()]
    assert "a sum" in out.splitlines()[0]
    assert "Creative" in out.splitlines()[1]
    code, out, _ = call("runs", "list", "--search", "upon", "--category", "creative", "--json")
    found = json.loads(out)
    assert [run["id"] for run in found["runs"]] == [saved]
    assert found["count"] == 2
    _, out, err = call("runs", "list", "--limit", 1)
    assert len(out.splitlines()) == 1
    assert "1 older runs are not listed" in err
    _, out, err = call("runs", "list", "--all")
    assert len(out.splitlines()) == 2

    code, out, _ = call("runs", "show", saved)
    shown = json.loads(out)
    assert shown["response"] == "".join(t["label"] for t in shown["token_list"] if t["generated"])
    assert call("runs", "rename", saved, "A tale")[0] == 0
    assert store.find(saved).title == "A tale"
    assert call("runs", "export", saved, "--out", tmp_path / "tale.safetensors")[0] == 0
    code, out, _ = call("runs", "import", tmp_path / "tale.safetensors")
    assert code == 0
    assert store.find(out.strip()).title == "A tale"
    assert call("runs", "delete", saved, out.strip())[0] == 0
    assert store.count() == 1


def test_bad_input_is_one_line(call, store, tmp_path):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for arguments in (
        ("show", "../../etc/passwd"),
        ("show", "0" * 24),
        ("delete", "nobody's"),
        ("rename", "0" * 24, "x"),
        ("export", "0" * 24, "--out", "x.safetensors"),
        ("import", tmp_path / "junk.safetensors"),
        ("import", tmp_path / "absent.safetensors"),
        ("list", "--limit", "-1"),
        ("burn",),
        (),
    ):
        code, out, err = call("runs", *arguments)
        assert code == 2, arguments
        assert out == ""
        assert len(err.strip().splitlines()) == 1, err
        assert err.startswith("attnviz: ")


def test_a_damaged_index_is_told_and_the_list_is_there(call, run, store):
    found = run.save()
    (store.folder / "index.sqlite3").write_bytes(b"half a database")
    code, out, err = call("runs", "list")
    assert code == 0
    assert out.startswith(found.id)
    assert len(err.strip().splitlines()) == 1
    assert "was damaged; it was kept as index.sqlite3.damaged-" in err


def test_nothing_is_saved_unasked_where_nnsight_gives_every_object_a_save(tmp_path, monkeypatch, capsys):
    import nnsight  # noqa: F401  # which does it

    from attnviz.__main__ import main

    assert callable(object().save)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "attention_stats", "--text", "The cat", "--no-plugins"]) == 0
    assert "saved" not in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
