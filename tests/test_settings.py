"""Every documented variable has an effect; what has none is named; a value that cannot be used stops in one line."""

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from attnviz.errors import BadInput
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.settings import VARIABLES, Settings, read_settings, start_logging, take_file

ROOT = Path(__file__).parent.parent
VALUES = {
    "ATTNVIZ_MODEL": ("gpt2", {"model": "gpt2"}),
    "ATTNVIZ_BACKEND": ("hf", {"backend": "hf"}),
    "ATTNVIZ_DEVICE": ("CPU", {"device": "cpu"}),
    "ATTNVIZ_DTYPE": ("float16", {"dtype": "float16"}),
    "ATTNVIZ_LAYER": ("-1", {"layer": -1}),
    "ATTNVIZ_MAX_NEW_TOKENS": ("100", {"max_new_tokens": 100}),
    "ATTNVIZ_TEMPERATURE": ("0.7", {"temperature": 0.7}),
    "ATTNVIZ_TOP_P": ("0.9", {"top_p": 0.9}),
    "ATTNVIZ_REPETITION_PENALTY": ("1.1", {"repetition_penalty": 1.1}),
    "ATTNVIZ_SEED": (" 7 ", {"seed": 7}),
    "ATTNVIZ_HOME": ("results", {"home": "results"}),
    "ATTNVIZ_LOG_LEVEL": ("INFO", {"log_level": "info"}),
    "ATTNVIZ_PLUGINS": ("head_distance", {}),
    "ATTNVIZ_PLUGIN_FOLDER": ("plugins", {}),
    "ATTNVIZ_PUBLIC_TOOLS": ("python", {}),
    "ATTNVIZ_FACTS": ("facts.csv", {}),
    "ATTNVIZ_SENSORS": ("readings.csv", {}),
}


def test_this_table_and_the_documents_name_every_variable():
    assert set(VALUES) == set(VARIABLES)
    for file in ("env.example", "docs/settings.md"):
        assert set(re.findall(r"ATTNVIZ_[A-Z_]*[A-Z]", (ROOT / file).read_text())) == set(VARIABLES), file


@pytest.mark.parametrize("name", VALUES)
def test_a_variable_becomes_a_setting(name):
    text, expected = VALUES[name]
    assert read_settings({name: text}) == replace(Settings(), **expected)
    assert read_settings({name: "  "}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ATTNVIZ_DEVICE", "gpu", "expected one of auto, cpu, cuda, mps, spread, ndif, got 'gpu'"),
        ("ATTNVIZ_DTYPE", "int4", "expected one of auto, float32, float16, bfloat16, got 'int4'"),
        ("ATTNVIZ_LAYER", "last", "expected a whole number from -1000 to 1000, got 'last'"),
        ("ATTNVIZ_MAX_NEW_TOKENS", "0", "expected a whole number from 1 to 100000, got '0'"),
        ("ATTNVIZ_MAX_NEW_TOKENS", "9" * 5000, "expected a whole number from 1 to 100000, got '999"),
        ("ATTNVIZ_TEMPERATURE", "hot", "expected a number from 0 to 100, got 'hot'"),
        ("ATTNVIZ_TEMPERATURE", "nan", "expected a number from 0 to 100, got 'nan'"),
        ("ATTNVIZ_TOP_P", "1.5", "expected a number from 1e-06 to 1, got '1.5'"),
        ("ATTNVIZ_SEED", "-1", "expected a whole number from 0 to 18446744073709551615, got '-1'"),
        ("ATTNVIZ_LOG_LEVEL", "loud", "expected one of debug, info, warning, error, got 'loud'"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name, text, said):
    with pytest.raises(BadInput, match=rf"^{name}: {re.escape(said)}"):
        read_settings({name: text})


def test_the_file_fills_what_the_environment_leaves_open(tmp_path):
    (tmp_path / ".env").write_text('ATTNVIZ_SEED=3\nexport ATTNVIZ_MODEL="a b"\nHF_TOKEN=secret\nATTNVIZ_TOP_P=$HOME\n')
    environ = {"ATTNVIZ_SEED": "4"}
    assert take_file(tmp_path, environ) == []
    assert environ == {"ATTNVIZ_SEED": "4", "ATTNVIZ_MODEL": "a b", "ATTNVIZ_TOP_P": "$HOME"}


def test_what_has_no_effect_is_named(tmp_path):
    (tmp_path / ".env").write_text("MODEL_NAME=gpt2\nATTNVIZ_TEMPRATURE=1\n")
    assert take_file(tmp_path, {"ATTNVIZ_COLOUR": "red", "TEMPERATURE": "20 degrees"}) == [
        "MODEL_NAME in .env has no effect: here it is called ATTNVIZ_MODEL.",
        "ATTNVIZ_TEMPRATURE in .env has no effect. Did you mean ATTNVIZ_TEMPERATURE?",
        f"ATTNVIZ_COLOUR in the environment has no effect. Known: {', '.join(VARIABLES)}.",
    ]


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path):
    (tmp_path / ".env").write_bytes(b"ATTNVIZ_MODEL=\xff\n")
    with pytest.raises(BadInput, match=r"\.env: expected UTF-8 text, byte 14 is not\."):
        take_file(tmp_path, {})
    (tmp_path / ".env").write_bytes(b"#" * 70_000)
    with pytest.raises(BadInput, match="at most 64 KiB"):
        take_file(tmp_path, {})


# --------------------------------------------------------------------------------------------- effects


def session(**chosen):
    return Session(load_registry(safe=True), settings=Settings(**chosen))


def test_model_backend_device_and_type_hold_where_nothing_else_is_said():
    model = session(backend="nnsight", device="cpu", dtype="float16").load("demo")
    assert (model.spec.backend, model.spec.device, model.spec.dtype) == ("nnsight", "cpu", "float16")
    said = session(backend="nnsight", dtype="float16").load("demo", backend="hf", dtype="float32")
    assert (said.spec.backend, said.spec.dtype) == ("hf", "float32")


def test_a_model_that_is_not_on_the_menu_comes_onto_it_first(tmp_path):
    from attnviz.ui.wish import default_entry, first_wish

    models = session(model=str(tmp_path)).registry.models
    first = next(iter(models.values()))
    assert (first.source, first.default) == (str(tmp_path), True)
    assert sum(entry.default for entry in models.values()) == 1
    assert default_entry(session(model="gpt2").registry).name == "gpt2"
    assert first_wish(session(model="org/own-model")).source == "org/own-model"


def test_views_begin_with_the_chosen_layer():
    run = session(layer=-1).load("demo").trace("The cat sat.")
    assert run.analyze("attention_pattern").params["layer"] == 5
    assert run.analyze("attention_pattern", layer=2).params["layer"] == 2
    wrong = session(layer=6).load("demo").trace("The cat sat.")
    with pytest.raises(BadInput, match=r"ATTNVIZ_LAYER: expected a layer of demo, -6 to 5, got 6\."):
        wrong.analyze("attention_pattern")


def test_the_first_screen_asks_for_answers_as_the_settings_say():
    from attnviz.ui.wish import first_wish

    wish = first_wish(session(max_new_tokens=7, temperature=0.5, top_p=0.9, repetition_penalty=1.2, seed=3))
    drawn = (wish.length, wish.temperature, wish.top_p, wish.repetition_penalty, wish.seed)
    assert drawn == (7, 0.5, 0.9, 1.2, 3)


def test_the_log_says_what_was_done_from_the_chosen_level_on():
    log = logging.getLogger("attnviz")
    before = log.level, log.handlers[:], log.propagate
    try:
        start_logging(Settings(log_level="error"))
        assert not log.isEnabledFor(logging.WARNING)
        start_logging(Settings(log_level="debug"))
        assert log.isEnabledFor(logging.DEBUG)
        assert len(log.handlers) == max(1, len(before[1]))
    finally:
        log.setLevel(before[0])
        log.handlers, log.propagate = before[1:]


def attnviz(*arguments, folder, **environ):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    command = [sys.executable, "-m", "attnviz", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_the_command_line_reads_the_file_of_its_folder(tmp_path):
    lines = ["MAX_NEW_TOKENS=3", "TEMPERATURE=0.5", "SEED=11", "TOP_P=0.8", "REPETITION_PENALTY=1.2", "LOG_LEVEL=info"]
    (tmp_path / ".env").write_text("".join(f"ATTNVIZ_{line}\n" for line in lines) + "ATTNVIZ_LAYR=1\n")
    done = attnviz("generate", "--no-plugins", "--text", "The cat", "--top-p", "0.7", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    sampling = json.loads(done.stdout)["sampling"]
    assert sampling["max_new_tokens"] == 3
    drawn = {"temperature": 0.5, "top_p": 0.7, "repetition_penalty": 1.2, "seed": 11}
    assert {name: sampling[name] for name in drawn} == drawn
    assert "attnviz: ATTNVIZ_LAYR in .env has no effect. Did you mean ATTNVIZ_LAYER?" in done.stderr
    assert re.search(r"^attnviz: loaded .* in \d+\.\d\d s$", done.stderr, re.MULTILINE)


def test_the_command_line_refuses_a_bad_variable_in_one_line(tmp_path):
    done = attnviz("models", folder=tmp_path, ATTNVIZ_DEVICE="gpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "attnviz: ATTNVIZ_DEVICE: expected one of auto, cpu, cuda, mps, spread, ndif, got 'gpu'."
    ]
