"""Conversations are read and written whole, or refused in words."""

import json
import os

import pytest

from attnviz.hooks import BadInput
from attnviz.plugins.formats import conversation
from attnviz.testing import check_format

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'ℵ "quoted"\n<b>'}]


def test_the_contract(tmp_path):
    check_format(conversation.attnviz_formats()[0], MESSAGES, tmp_path)


def test_the_file_is_plain_json(tmp_path):
    conversation.write(MESSAGES, tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text("utf-8")
    assert json.loads(text) == MESSAGES
    assert "ℵ" in text


def test_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(MESSAGES).encode())
    assert conversation.read(tmp_path / "c.json") == MESSAGES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        ("{}", "got an object"),
        ("3", "got a number"),
        ("null", "got null"),
        ("[]", "at least one message"),
        ("[3]", "message 0: expected"),
        ('[{"role": "user"}]', "exactly the fields role and content, got role"),
        ('[{"role": "user", "content": "a", "extra": 1}]', "got role, content, extra"),
        ('[{"role": "user", "content": 1}]', "expected content to be text, got a number"),
        ('[{"role": "user", "content": null}]', "got null"),
        ('[{"role": "root", "content": "a"}]', "expected role system, user, assistant or tool, got 'root'"),
        ('[{"role": "user", "content": "a"}, {"role": "user", "content": "\\ud800"}]', "message 1: content holds half"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_conversation_is_refused(content, message, tmp_path):
    (tmp_path / "c.json").write_text(content, "utf-8")
    with pytest.raises(BadInput) as refusal:
        conversation.read(tmp_path / "c.json")
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("c.json")


def test_other_encodings_are_refused(tmp_path):
    (tmp_path / "c.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(BadInput, match="expected UTF-8"):
        conversation.read(tmp_path / "c.json")


def test_a_file_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(conversation, "MAX_BYTES", 10)
    conversation.write(MESSAGES, tmp_path / "c.json")
    with pytest.raises(BadInput, match="at most 10 bytes"):
        conversation.read(tmp_path / "c.json")


def test_a_folder_and_an_absent_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(BadInput, match="cannot be read"):
            conversation.read(path)
    with pytest.raises(BadInput, match="cannot be written"):
        conversation.write(MESSAGES, tmp_path / "absent" / "c.json")


def test_a_refused_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.json"
    conversation.write(MESSAGES, path)
    before = path.read_bytes()
    with pytest.raises(BadInput, match="message 0"):
        conversation.write([{"role": "nobody", "content": ""}], path)
    assert path.read_bytes() == before


def test_a_write_that_breaks_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "c.json"
    conversation.write(MESSAGES, path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left on device"):
        conversation.write([{"role": "user", "content": "new"}], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.json"]
