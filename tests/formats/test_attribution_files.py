"""Where users meet attribution files: the library, saving, and `attnviz convert`."""

import json
from pathlib import Path

import numpy as np
import pytest

import attnviz
from attnviz.__main__ import main
from attnviz.errors import BadInput, PluginError, UnknownName
from attnviz.hooks import Format, Param
from attnviz.registry import load_registry
from attnviz.session import Session
from attnviz.tokens import piece_labels

FILES = Path(__file__).parent / "files"
SALIENCY = FILES / "inseq_saliency.json"


@pytest.fixture(scope="module")
def session():
    return Session(load_registry(safe=True))


def test_a_file_is_drawn_and_saved_like_any_result(session, tmp_path):
    found = session.read_attribution(SALIENCY, sequence=1)
    for ending in (".html", ".csv", ".json", ".svg"):
        assert found.save(tmp_path / f"a{ending}").stat().st_size > 100
    assert "attribution_text" in [r.name for r in session.renderers(type(found.result))]
    assert found.render("attribution_text").payload["count"] == 5
    assert attnviz.read_attribution(SALIENCY, sequence=1).to_json() == found.to_json()


@pytest.mark.parametrize("names", [("a.tokenlense.json", "b.inseq.json"), ("a.inseq.json.gz", "b.tokenlense.json")])
def test_one_format_becomes_the_other_and_back(names, session, tmp_path):
    first = session.read_attribution(SALIENCY)
    second = session.read_attribution(first.save(tmp_path / names[0]))
    third = session.read_attribution(second.save(tmp_path / names[1]))
    for found in (second, third):
        np.testing.assert_array_equal(found.result.scores, first.result.scores)
        assert found.tokens.labels == first.tokens.labels
        assert found.tokens.ids.tolist() == first.tokens.ids.tolist()


def test_a_plain_json_stays_ours(session, tmp_path):
    found = session.read_attribution(SALIENCY)
    again = session.read_attribution(found.save(tmp_path / "a.json"))
    assert again.to_json() == found.to_json()
    assert again.tokens.segments == ()


def test_only_attributions_are_saved_so(session, tmp_path):
    assert ".inseq.json" in session.suffixes(type(session.read_attribution(SALIENCY).result))
    from attnviz.hooks import Table

    assert ".inseq.json" not in session.suffixes(Table)


def test_the_content_says_which_format_it_is(session, tmp_path):
    (tmp_path / "a.json").write_text('{"text": "a"}')
    with pytest.raises(BadInput, match=r"reads this file\. inseq: no field sequence_attributions\. tokenlense:"):
        session.read_attribution(tmp_path / "a.json")
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        session.read_attribution(tmp_path / "b.json")


def test_unknown_names_are_listed(session):
    with pytest.raises(UnknownName, match="Known: attnviz, inseq, tokenlense"):
        session.read_attribution(SALIENCY, format="inseqq")
    with pytest.raises(UnknownName, match="Known: aggregation, sequence"):
        session.read_attribution(SALIENCY, sequences=1)
    with pytest.raises(UnknownName, match="Known: abs_sum"):
        session.read_attribution(SALIENCY, aggregation="vnorm")


def test_parameters_of_a_format_are_checked():
    with pytest.raises(PluginError, match="a file has no selection to follow; layer would"):
        Format("f", "", "attribution", (".f",), read=str, params=(Param("layer", "layer"),))
    with pytest.raises(PluginError, match="appears twice"):
        Format("f", "", "attribution", (".f",), read=str, params=(Param("a", "int"), Param("a", "int")))


# --------------------------------------------------------------------------------------------- command line


def test_convert(tmp_path, capsys):
    out = tmp_path / "a.tokenlense.json"
    assert main(["convert", str(SALIENCY), str(out), "-p", "sequence=1", "--no-plugins"]) == 0
    assert "wrote" in capsys.readouterr().err
    assert len(json.loads(out.read_text())["data"]["output_tokens"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.html", "-p", "sequence=7"], "no sequence 7. The file holds 0 to 1."),
        (["a.html", "-p", "sequence=-1"], "expected a whole number from 0"),
        (["a.html", "--format", "x"], "Unknown format of attribution files 'x'"),
        (["a.html", "--format", "tokenlense"], "expected the field 'metadata'"),
        (["a.xyz"], "expected a file ending in one of .csv, .html, .inseq.json"),
    ],
)
def test_convert_refuses_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(SALIENCY), *arguments, "--no-plugins"]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("pieces", "labels"),
    [
        (["The", "Ġcat", "ĊĊ", "<|end|>"], ("The", " cat", "\n\n", "<|end|>")),
        (["Ġæĸ", "ĩ", "Ġna", "ïve", "日"], (" ‹E6 96›", "‹87›", " na", "‹EF›ve", "日")),
        (["▁The", "▁ca", "t", "</s>"], (" The", " ca", "t", "</s>")),
        (["a b", "c"], ("a b", "c")),
        ([], ()),
    ],
)
def test_labels_of_pieces(pieces, labels):
    assert piece_labels(pieces) == labels
