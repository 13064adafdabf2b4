"""Saved runs survive what happens to folders: killed processes, several writers, damage, full disks, hostile text."""

import dataclasses
import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.errors import BadInput
from attnviz.hooks import ModelSpec, Run
from attnviz.kept import compact
from attnviz.runfile import SavedRun, read_about, read_run, run_bytes
from attnviz.store import CATEGORIES, ENDING, INDEX, RunStore, default_folder
from attnviz.testing import FakeModel, random_trace

ROOT = Path(attnviz.__file__).parent.parent
SAVER = """
import sys
from attnviz.runfile import read_run
from attnviz.store import RunStore
saved, store = read_run(sys.argv[1]), RunStore(sys.argv[2])
for number in range(int(sys.argv[3])):
    found = store.add(saved, prompt=f"{sys.argv[4]} number {number}", response="done")
    print(found.id, flush=True)
"""


@pytest.fixture(scope="module")
def saved():
    model = FakeModel()
    tokens = model.tokenize("abc abc abc")
    run = Run("id", ModelSpec("fake", objects=(object(),)), "fake", tokens, 8, category="Math")
    trace = random_trace(len(tokens), heads=(4, 4), kv_heads=(2, 4), windows=(None, 3))
    return compact(SavedRun(run, model.card, trace))


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "runs")


def add(store, saved, prompt="What is 7 + 8?", response="15", **about):
    return store.add(saved, prompt=prompt, response=response, **about)


def start(folder, saved, count, name):
    """A process that saves runs and prints the id of each once it is saved."""
    source = folder.parent / "saved.safetensors"
    if not source.exists():
        source.write_bytes(run_bytes(saved))
    command = [sys.executable, "-c", SAVER, str(source), str(folder), str(count), name]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --------------------------------------------------------------------------------------------- what is kept


def test_what_is_saved_is_listed_newest_first_and_read_back(store, saved):
    assert store.list() == []
    assert not store.folder.exists()
    one, two = add(store, saved, "first"), add(store, saved, "second", category="tool USE", title="A  title\n")
    assert [run.id for run in store.list()] == [two.id, one.id]
    assert store.find(one.id) == one
    assert (one.title, one.category, two.title, two.category) == ("first", "Math", "A title", "Tool use")
    assert one.bytes == store.path(one.id).stat().st_size
    again = store.read(one.id)
    assert again.run.id == one.id
    np.testing.assert_array_equal(again.run.tokens.ids, saved.run.tokens.ids)
    for a, b in zip(again.trace.layers, saved.trace.layers, strict=True):
        for name in ("entropy", "row_max", "distance", "column_sum", "thumbnail", "allowed", "seen_by"):
            assert getattr(a, name).dtype == getattr(b, name).dtype
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert store.count() == 2


def test_a_packed_file_says_the_same_as_an_open_one(saved, tmp_path):
    for packed in (False, True):
        (tmp_path / f"{packed}{ENDING}").write_bytes(run_bytes(saved, packed=packed))
    one, two = (run_bytes(read_run(tmp_path / f"{packed}{ENDING}")) for packed in (False, True))
    size = int.from_bytes(one[:8], "little")
    headers = [json.loads(content[8 : 8 + size]) for content in (one, two)]
    assert headers[0] == headers[1]
    assert one[8 + size :] == two[8 + size :]


def test_nothing_is_overwritten_and_ids_are_unguessable(store, saved, monkeypatch):
    ids = {add(store, saved).id for _ in range(20)}
    assert len(ids) == 20
    assert all(len(i) == 24 and int(i, 16) >= 0 for i in ids)
    taken = next(iter(ids))
    before = store.path(taken).read_bytes()
    monkeypatch.setattr("attnviz.store.secrets.token_hex", lambda size: taken)
    with pytest.raises(BadInput, match="File exists"):
        add(store, saved, "another")
    assert store.path(taken).read_bytes() == before
    assert store.count() == 20


def test_the_last_fifty_are_listed_and_older_ones_stay(store, saved):
    ids = [add(store, saved, f"number {n}").id for n in range(53)]
    assert [run.id for run in store.list()] == ids[:2:-1]
    assert [run.id for run in store.list(limit=0)] == ids[::-1]
    assert [run.id for run in store.list(limit=2)] == ids[:-3:-1]
    assert len(list(store.folder.glob(f"*{ENDING}"))) == 53
    assert store.find(ids[0]).prompt == "number 0"


def test_rename_changes_index_search_and_file(store, saved):
    one = add(store, saved, "about cats")
    assert store.rename(one.id, "a title of its own").title == "a title of its own"
    assert [run.id for run in store.list(search="title own")] == [one.id]
    assert store.list(search="about cats")[0].title == "a title of its own"
    assert read_about(store.path(one.id))["title"] == "a title of its own"
    assert store.find(one.id).bytes == store.path(one.id).stat().st_size
    with pytest.raises(BadInput, match="empty"):
        store.rename(one.id, " \n")


def test_delete_takes_row_and_file(store, saved):
    one, two = add(store, saved, "zebra"), add(store, saved, "zebra")
    store.delete(one.id)
    assert [run.id for run in store.list(search="zebra")] == [two.id]
    assert {path.name for path in store.folder.iterdir()} == {f"{two.id}{ENDING}", INDEX, "index.lock"}
    with pytest.raises(BadInput, match="no saved run"):
        store.delete(one.id)


def test_a_deletion_that_was_cut_short_is_finished(store, saved):
    one, two = add(store, saved), add(store, saved)
    path = store.path(one.id)
    path.rename(path.with_name(f".{path.name}.deleted"))
    again = RunStore(store.folder)
    assert [run.id for run in again.list()] == [two.id]
    assert not list(store.folder.glob(".*"))


@pytest.mark.parametrize(
    "run_id", ["", "x", "../../etc/passwd", "a" * 24, "A" * 24, "0" * 23, "0" * 24 + "\n", "%", None, 7, "' OR 1=1 --"]
)
def test_an_id_that_is_not_here_is_always_refused_in_the_same_words(store, saved, run_id):
    add(store, saved)
    for act in (store.find, store.read, store.delete, lambda i: store.rename(i, "x")):
        with pytest.raises(
            BadInput, match=r"^There is no saved run .* here\. `attnviz runs list` shows those there are"
        ):
            act(run_id)


def test_a_run_whose_file_is_gone_is_refused_and_can_be_deleted(store, saved):
    one = add(store, saved)
    store.path(one.id).unlink()
    with pytest.raises(BadInput, match="is gone"):
        store.read(one.id)
    store.delete(one.id)
    assert store.list() == []


def test_categories_have_colours_that_white_letters_can_be_read_on():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    assert list(CATEGORIES) == ["Math", "Knowledge", "Reasoning", "Code", "Creative", "Tool use", "ReAct", "Custom"]
    assert all(1.05 / (luminance(colour) + 0.05) >= 4.5 for colour in CATEGORIES.values())


def test_the_version_changes_with_every_change(store, saved):
    seen = [store.version()]
    one = add(store, saved)
    seen.append(store.version())
    store.rename(one.id, "another")
    seen.append(store.version())
    store.list(search="another")
    assert store.version() == seen[-1]
    store.delete(one.id)
    seen.append(store.version())
    assert len(set(seen)) == 4


def test_the_folder_is_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNVIZ_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "runs"
    monkeypatch.delenv("ATTNVIZ_HOME")
    assert default_folder() == Path("runs")


# --------------------------------------------------------------------------------------------- searching

HOSTILE = [
    '"',
    "''",
    "a AND",
    "NOT",
    "prompt:x",
    "NEAR(a b)",
    "^start",
    "100%",
    "under_score",
    "semi;colon",
    "*",
    "'; DROP TABLE runs; --",
    '") OR 1=1',
    "(((",
    "{json}",
    "\\",
    "日本語",
    "ok",
    "ÄÖÜ",
    "\0zero",
    "🦊",
    "<script>alert(1)</script>",
    "-minus",
    "a+b",
    "tab\there",
]


def holds_all(run, text):
    places = [part.casefold() for part in (run.prompt, run.response, run.title)]
    return all(any(word.casefold() in place for place in places) for word in text.split())


def test_any_text_can_be_searched_for(store, saved):
    runs = {text: add(store, saved, f"before{text}after", "the answer") for text in HOSTILE}
    for text, run in runs.items():
        found = {found.id for found in store.list(search=text, limit=0)}
        assert run.id in found, text
        assert found == {r.id for r in runs.values() if holds_all(r, text)}, text
    assert store.count() == len(HOSTILE)


def test_words_are_found_in_any_order_case_and_place(store, saved):
    one = add(store, saved, "What is the capital of France?", "It is Paris.")
    two = add(store, saved, "What is the capital of Peru?", "It is Lima.", title="Über Peru")
    assert [run.id for run in store.list(search="PARIS capital")] == [one.id]
    assert [run.id for run in store.list(search="capital")] == [two.id, one.id]
    assert [run.id for run in store.list(search="über")] == [two.id]
    assert [run.id for run in store.list(search="is ma")] == [two.id]
    assert store.list(search="Paris Peru") == []
    assert store.list(search="capital", category="Code") == []
    assert len(store.list(search="capital", category="math")) == 2
    assert store.list(search="\ud800") == []
    assert store.list(search=" ".join(f"word{n}" for n in range(1000))) == []
    with pytest.raises(BadInput, match="10,000"):
        store.list(search="x" * 10_001)


# --------------------------------------------------------------------------------------------- damage


def damaged(store):
    return sorted(path.name for path in store.folder.glob(f"{INDEX}.damaged-*"))


def half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "damage",
    [
        half,
        lambda path: path.write_bytes(b"this is no database" * 1000),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 40_000),
    ],
)
def test_a_damaged_index_is_kept_aside_and_made_again(store, saved, damage):
    ids = [add(store, saved, f"prompt {n}", title=f"title {n}", metadata={"n": n}).id for n in range(30)]
    before = store.list(limit=0)
    damage(store.folder / INDEX)
    again = RunStore(store.folder)
    assert again.list(limit=0) == before
    assert len(damaged(store)) == 1
    assert len(again.notices) == 1
    assert "made again from the files: 30 runs" in again.notices[0]
    assert damaged(store)[0] in again.notices[0]
    assert [run.id for run in again.list(search="prompt 17")] == [ids[17]]
    assert add(again, saved).id in {run.id for run in store.list()}
    assert len(damaged(store)) == 1


@pytest.mark.parametrize("left", [None, b""])
def test_an_index_that_is_gone_or_empty_is_made_again(store, saved, left):
    ids = [add(store, saved).id for _ in range(3)]
    (store.folder / INDEX).unlink() if left is None else (store.folder / INDEX).write_bytes(left)
    assert {run.id for run in RunStore(store.folder).list()} == set(ids)


def test_two_stores_repair_once(store, saved):
    add(store, saved)
    other = RunStore(store.folder)
    assert len(other.list()) == 1
    half(store.folder / INDEX)
    assert len(store.list()) == len(other.list()) == 1
    assert len(damaged(store)) == 1


def test_a_row_that_no_store_wrote_counts_as_damage(store, saved):
    one = add(store, saved)
    with sqlite3.connect(store.folder / INDEX) as connection:
        connection.execute("UPDATE runs SET metadata = 'no json'")
    connection.close()
    assert [run.id for run in RunStore(store.folder).list()] == [one.id]


def test_leftovers_go_after_a_day_and_whole_files_are_taken_in(store, saved):
    add(store, saved)
    old, new = time.time() - 25 * 3600, time.time() - 23 * 3600
    content = store.path(store.list()[0].id).read_bytes()
    names = {
        f".{'a' * 24}.00.part": (b"half", old, False),
        f".{'b' * 24}.00.part": (b"half", new, True),
        f"{'c' * 24}{ENDING}": (content[:-10], old, False),
        f"{'d' * 24}{ENDING}": (content[:-10], new, True),
        f"{'e' * 24}{ENDING}": (content, old, True),
        f"mine{ENDING}": (b"not ours", old, True),
    }
    for name, (what, moment, _) in names.items():
        (store.folder / name).write_bytes(what)
        os.utime(store.folder / name, (moment, moment))
    again = RunStore(store.folder)
    assert {run.id for run in again.list()} >= {"e" * 24}
    assert again.count() == 2
    assert {name: (store.folder / name).exists() for name in names} == {n: kept for n, (_, _, kept) in names.items()}


def test_a_full_disk_leaves_nothing_behind(store, saved, monkeypatch):
    one = add(store, saved)
    before = sorted(path.name for path in store.folder.iterdir())

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("attnviz.store.os.fsync", full)
    with pytest.raises(BadInput, match=r"Cannot save the run in .*: No space left on device\. Nothing was changed\."):
        add(store, saved)
    with pytest.raises(BadInput, match="Cannot rename the run"):
        store.rename(one.id, "another")
    assert sorted(path.name for path in store.folder.iterdir()) == before
    assert store.list() == [one]


def test_a_row_that_cannot_be_written_takes_its_file_along(store, saved, monkeypatch):
    one = add(store, saved)

    def refuse(self, statement, values):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(RunStore, "_change", refuse)
    with pytest.raises(sqlite3.OperationalError):
        add(store, saved)
    assert [path.name for path in store.folder.glob(f"*{ENDING}")] == [f"{one.id}{ENDING}"]


def test_a_folder_that_cannot_be_written_to_can_be_read(store, saved, monkeypatch):
    one = add(store, saved, "find me")
    allowed = os.access
    monkeypatch.setattr("attnviz.store.os.access", lambda path, mode: mode != os.W_OK and allowed(path, mode))
    again = RunStore(store.folder)
    assert again.list(search="find") == [one]
    assert again.read(one.id).run.id == one.id
    with pytest.raises(BadInput, match="readonly"):
        again.delete(one.id)


def test_a_place_that_is_no_folder_is_refused(saved, tmp_path):
    (tmp_path / "file").write_text("x")
    store = RunStore(tmp_path / "file")
    assert store.list() == []
    with pytest.raises(BadInput, match="Cannot save the run"):
        add(store, saved)


# --------------------------------------------------------------------------------------------- sending


def test_an_exported_run_is_taken_in_elsewhere_under_a_new_id(store, saved, tmp_path):
    one = add(store, saved, "first", title="named", metadata={"note": [1, None]})
    file = store.export(one.id, tmp_path / f"sent{ENDING}")
    other = RunStore(tmp_path / "other")
    found = other.take(file)
    assert found.id != one.id
    assert dataclasses.replace(found, id=one.id, bytes=one.bytes) == one
    with pytest.raises(BadInput, match="ending in"):
        store.export(one.id, tmp_path / "sent.zip")
    half(file)
    with pytest.raises(BadInput, match="expected a saved run"):
        other.take(file)
    assert other.count() == 1


# --------------------------------------------------------------------------------------------- processes


def check_whole(folder, promised):
    """Every promised run is there and whole, and nothing else is listed."""
    store = RunStore(folder)
    listed = store.list(limit=0)
    assert promised <= {run.id for run in listed}
    for run in listed:
        assert store.read(run.id).run.id == run.id
    assert store.notices == []
    return listed


def killed(folder, saved, times, seed):
    """Kill a process that saves, `times` times, each at another moment; what it said was saved must be there."""
    chance, promised = random.Random(seed), set()
    for number in range(times):
        process = start(folder, saved, 10_000, f"round {number}")
        first = process.stdout.readline().strip()  # it is at work
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        promised |= {first, *(line for line in rest.splitlines() if len(line) == 24)}
    listed = check_whole(folder, promised)
    # of each round at most the one that was under way had not been promised yet
    assert len(promised) <= len(listed) <= len(promised) + times


def side_by_side(folder, saved, count):
    processes = [start(folder, saved, count, name) for name in ("one", "two")]
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    promised = set(said[0]) | set(said[1])
    assert len(promised) == 2 * count
    assert len(check_whole(folder, promised)) == 2 * count
    store = RunStore(folder)
    assert len(store.list(search="two number", limit=0)) == count


def test_what_was_saved_survives_a_kill(tmp_path, saved):
    killed(tmp_path / "runs", saved, 6, seed=1)


def test_two_processes_save_at_once(tmp_path, saved):
    side_by_side(tmp_path / "runs", saved, 60)


@pytest.mark.slow
def test_what_was_saved_survives_two_hundred_kills(tmp_path, saved):
    killed(tmp_path / "runs", saved, 200, seed=2)


@pytest.mark.slow
def test_two_processes_save_a_thousand_runs_at_once(tmp_path, saved):
    side_by_side(tmp_path / "runs", saved, 500)
