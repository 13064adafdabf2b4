"""Files of every kind of result: same bytes twice, escaped, restorable, readable."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from attnviz.hooks import Finding, Renderer, ShapeError, Span, from_jsonable, to_jsonable
from attnviz.plugins.renderers import (
    attention_grid,
    attribution_text,
    charts,
    csv_file,
    head_map,
    html_page,
    json_file,
    lens_grid,
    picture,
    ranked_features,
    table_view,
    token_matrix,
    token_strip,
)
from attnviz.testing import check_renderer, check_round_trip, sample_findings
from tests.renderers.samples import (
    HOSTILE,
    PLAIN,
    SAMPLES,
    finding,
    make_tokens,
    sample_attention,
    sample_attribution,
    sample_heads,
    sample_lens,
    sample_roles,
    sample_scores,
    sample_table,
)

MODULES = (
    attention_grid,
    head_map,
    lens_grid,
    token_strip,
    token_matrix,
    attribution_text,
    ranked_features,
    table_view,
    charts,
    html_page,
    picture,
    json_file,
    csv_file,
)
PAIRS = [
    pytest.param(renderer, kind, id=f"{renderer.name}-{kind}")
    for module in MODULES
    for renderer in module.attnviz_renderers()
    for kind in sorted(SAMPLES)
    if kind in {accepted.kind for accepted in renderer.accepts}
]


@pytest.mark.parametrize(("renderer", "kind"), PAIRS)
def test_every_renderer_keeps_its_promises(renderer: Renderer, kind: str) -> None:
    check_renderer(renderer, SAMPLES[kind]())
    for shown in sample_findings(kind).values():
        check_renderer(renderer, shown)


def test_every_kind_has_every_suffix() -> None:
    offered = {(kind, s) for p in PAIRS for r, kind in [p.values] for s in r.suffixes}
    assert offered == {(kind, s) for kind in SAMPLES for s in (".html", ".png", ".svg", ".csv", ".json")}


# ------------------------------------------------------------------------------------------------ json


def test_json_restores_the_result(sample: Finding) -> None:
    text = json_file.to_text(sample)
    envelope = json.loads(text)
    assert {"analysis", "params", "model", "tokens", "result", "provenance"} <= set(envelope)
    assert [token["label"] for token in envelope["tokens"]] == list(sample.tokens.labels)
    assert [token["id"] for token in envelope["tokens"]] == sample.tokens.ids.tolist()
    assert all(envelope["text"][t["start"] : t["stop"]] == t["label"] for t in envelope["tokens"])
    again = from_jsonable(envelope["kind"], envelope["result"])
    assert type(again) is type(sample.result)
    for field in dataclasses.fields(again):
        before, after = (to_jsonable(getattr(result, field.name)) for result in (sample.result, again))
        np.testing.assert_equal(after, before)
    check_round_trip(sample.result)


def test_json_of_an_attribution_names_targets_and_sources() -> None:
    shown = sample_attribution(PLAIN)
    result = json.loads(json_file.to_text(shown))["result"]
    assert (result["method"], result["target_function"]) == ("integrated_gradients", "log_probability")
    assert result["targets"][0] == {"index": 11, "stop": 12, "id": 11, "label": " at"}
    assert [source["label"] for source in result["sources"]] == list(PLAIN)
    assert np.shape(result["scores"]) == np.shape(result["normalized"]) == (5, 16)
    assert result["delta"][-1] == 0.5
    without = dataclasses.replace(shown.result, target_values=None, delta=None)
    result = json.loads(json_file.to_text(dataclasses.replace(shown, result=without)))["result"]
    assert (result["target_values"], result["delta"]) == (None, None)
    check_round_trip(without)


def test_json_says_nothing_of_time_or_cache(sample: Finding) -> None:
    later = dataclasses.replace(sample, seconds=3.5, cached=True, run="another-run")
    assert json_file.to_text(later) == json_file.to_text(sample)


def test_json_is_one_line_of_ascii(sample: Finding) -> None:
    text = json_file.to_text(sample)
    assert text.isascii()
    assert "\n" not in text


# ------------------------------------------------------------------------------------------------ csv


def read(shown: Finding) -> list[list[str]]:
    return list(csv.reader(io.StringIO(csv_file.to_text(shown), newline=""), strict=True))


def test_csv_of_a_pattern_has_one_row_per_visible_pair() -> None:
    shown = sample_attention(PLAIN)
    head, *rows = read(shown)
    assert head == ["query", "query token", "key", "key token", "weight"]
    assert len(rows) == len(PLAIN) * (len(PLAIN) + 1) // 2
    for query, label, key, _, weight in rows:
        assert label == PLAIN[int(query)]
        assert np.float32(weight) == shown.result.weights[int(query), int(key)]


def test_csv_headers_carry_units() -> None:
    head, *rows = read(sample_heads(PLAIN))
    assert head == ["layer", "head", "entropy [bits]", "focus [0 to 1]", "mean_distance [tokens]"]
    assert len(rows) == 16
    assert rows[8] == ["2", "0", "", "", ""]


def test_csv_names_the_roles_of_heads() -> None:
    head, *rows = read(sample_roles())
    assert head[:4] == ["layer", "head", "roles", "previous_token [share of weight]"]
    labelled = {(row[0], row[1]): row[2] for row in rows if row[2]}
    assert labelled == {
        ("0", "0"): "; ".join(("previous_token", *HOSTILE[1:3])),
        ("0", "1"): "; ".join(("self", HOSTILE[7], HOSTILE[9])),
        ("2", "1"): "self; previous_token",
    }


def test_csv_token_scores_name_roles() -> None:
    head, *rows = read(sample_scores(PLAIN))
    assert head == ["position", "id", "token", "role", "score [change of log-probability (nats)]"]
    assert [row[3] for row in rows[:4]] == ["system"] * 3 + ["user"]
    assert float(rows[0][4]) == -1
    assert rows[3][4] == ""


def test_csv_of_an_attribution_has_every_pair() -> None:
    shown = sample_attribution(PLAIN)
    head, *rows = read(shown)
    assert head[:8] == [
        *("target", "target stop", "target token", "source", "source stop", "source token"),
        *("score [nats]", "share of row"),
    ]
    assert head[8:] == ["log_probability of target", "delta [nats]"]
    assert len(rows) == 5 * 16
    for row in rows:
        target, source = int(row[0]), int(row[3])
        assert (row[1], row[2], row[4], row[5]) == (str(target + 1), PLAIN[target], str(source + 1), PLAIN[source])
        assert np.float32(row[6]) == shown.result.scores[target - 11, source]
        assert (float(row[6]) == 0) == (source >= target)
        assert np.float32(row[7]) == shown.result.normalized[target - 11, source]
    assert (float(rows[-1][8]), float(rows[-1][9])) == (-0.25, 0.5)
    plain = dataclasses.replace(shown.result, target_values=None, delta=None)
    assert read(dataclasses.replace(shown, result=plain))[0] == head[:8]


def test_an_attribution_must_lie_within_the_text() -> None:
    shown = sample_attribution(PLAIN)
    beyond = (*shown.result.sources[:-1], Span(15, 17, -1, "too far"))
    next_token = (*shown.result.targets[:-1], Span(16, 17, 3, "what would come next"))
    empty = (*shown.result.targets[:-1], Span(15, 15, 3, "nothing"))
    assert read(dataclasses.replace(shown, result=dataclasses.replace(shown.result, targets=next_token)))
    for change, message in (({"sources": beyond}, r"sources.*0\.\.16.*\(15, 17\)"), ({"targets": empty}, r"targets")):
        wrong = dataclasses.replace(shown, result=dataclasses.replace(shown.result, **change))
        for draw in (csv_file.to_text, lambda found: picture.figure_bytes(found, ".svg")):
            with pytest.raises(ShapeError, match=message):
                draw(wrong)


def test_csv_lens_is_complete() -> None:
    shown = sample_lens(PLAIN)
    head, *rows = read(shown)
    assert len(rows) == len(shown.result.sites) * len(PLAIN) * 5
    first = dict(zip(head, rows[0], strict=True))
    assert first["site"] == "embedding"
    assert float(first["probability"]) == pytest.approx(np.exp(float(first["log-probability [nats]"])), rel=1e-6)
    assert dict(zip(head, rows[-1], strict=True))["target id"] == ""


def test_csv_texts_cannot_run_as_formulas() -> None:
    rows = read(sample_table())
    assert rows[2] == ["'=1+1", "-1", "</script>"]
    for text in ("=1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "＝1"):
        assert csv_file.safe_cell(text) == "'" + text
    for value in (-1, -1.5, "a=1", "", None):
        assert csv_file.safe_cell(value) == value


# ------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures_are_the_same_every_time(sample: Finding, suffix: str) -> None:
    first = picture.figure_bytes(sample, suffix)
    assert all(picture.figure_bytes(sample, suffix) == first for _ in range(3))


def test_svg_prints_token_texts_as_they_are() -> None:
    labels = ("$x_1^2$", "\\frac{a}{b}", "<!--", "&amp;", "\x01", "日本", "🦜", "a$b$c")
    shown = finding(dataclasses.replace(sample_scores(PLAIN).result, scores=np.arange(8.0)), make_tokens(labels))
    tree = ElementTree.fromstring(picture.figure_bytes(shown, ".svg"))
    texts = {"".join(e.itertext()).strip() for e in tree.iter() if str(e.tag).endswith("}text")}
    assert {"$x_1^2$", "\\frac{a}{b}", "<!--", "&amp;", "⟨U+0001⟩", "日本", "🦜", "a$b$c"} <= texts


def test_pictures_print_what_they_show() -> None:
    shown = sample_attention(PLAIN)
    tree = ElementTree.fromstring(picture.figure_bytes(shown, ".svg"))
    text = " ".join("".join(e.itertext()) for e in tree.iter() if str(e.tag).endswith("}text"))
    for line in (*shown.result.info, *shown.result.warnings, shown.provenance, "attention weight"):
        assert line in text


def test_pictures_of_attributions_print_the_largest_gap() -> None:
    shown = sample_attribution(PLAIN)
    texts = [shown, dataclasses.replace(shown, params={})]
    texts += [
        dataclasses.replace(shown, result=dataclasses.replace(shown.result, delta=d))
        for d in (None, np.full(5, np.nan))
    ]
    assert [picture._gaps(found) for found in texts] == [
        ["Completeness: largest |delta| 0.5 nats; 1 of 5 targets are not within 0.01."],
        ["Completeness: largest |delta| 0.5 nats."],
        [],
        ["Completeness: the gap of some targets is no number."],
    ]
    svg = picture.figure_bytes(shown, ".svg").decode()
    assert "Completeness: largest |delta| 0.5 nats; 1 of 5 targets" in svg


def test_pictures_frame_the_labelled_heads() -> None:
    tree = ElementTree.fromstring(picture.figure_bytes(sample_roles(), ".svg"))
    texts = {"".join(e.itertext()).strip() for e in tree.iter() if str(e.tag).endswith("}text")}
    assert {"previous token (framed: labelled)", "self (framed: labelled)", "previous token effect"} <= texts
    styles = [e.get("style", "") for e in tree.iter() if str(e.tag).endswith("}path")]
    framed = [s for s in styles if f"stroke: {picture.ACCENT}" in s and "fill: none" in s]
    assert len(framed) == 4  # two heads per role
    check_renderer(next(r for r in picture.attnviz_renderers() if r.name == "svg"), sample_roles())


def test_pictures_touch_no_global_figure_list() -> None:
    import matplotlib
    from matplotlib import pyplot

    before = matplotlib.rcParams["text.parse_math"]
    picture.figure_bytes(sample_scores(), ".png")
    assert pyplot.get_fignums() == []
    assert matplotlib.rcParams["text.parse_math"] == before


def test_long_axes_keep_their_strongest_cells() -> None:
    values = np.zeros((3000, 10))
    values[1777, 4], values[5, 5] = 1, -2
    pooled = picture.pooled(values)
    assert pooled.shape == (1200, 10)
    assert pooled.max() == 1
    assert pooled.min() == -2


# ------------------------------------------------------------------------------------------------ web page


def test_html_is_the_same_twice(sample: Finding) -> None:
    assert html_page.page(sample) == html_page.page(sample)


def test_html_holds_no_foreign_markup(sample: Finding) -> None:
    text = html_page.page(sample)
    head, _, rest = text.partition('<script type="application/json" id="attnviz-data">')
    data, _, tail = rest.partition("</script>")
    assert "<" not in data
    assert json.loads(data)["about"]["title"] == sample.title
    assert "<b>result" not in head
    assert tail.count("</script>") == 1
    assert "default-src 'none'" in head
    assert "https://" not in head + tail


@pytest.mark.browser
@pytest.mark.parametrize("kind", sorted(SAMPLES))
@pytest.mark.parametrize(("width", "dark"), [(1360, False), (1360, True), (390, False)])
def test_page_shows_hostile_text_as_text(open_page: Any, kind: str, width: int, dark: bool) -> None:
    page = open_page(SAMPLES[kind](), width=width, dark=dark)
    assert page.locator("#attnviz-view img, #attnviz-view script, #attnviz-view iframe").count() == 0
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#attnviz-theme").click()
    assert page.evaluate("document.body.classList.contains('dark')") is not dark
    assert page.locator("#attnviz-text").text_content() == "".join(HOSTILE)


@pytest.mark.browser
def test_a_blocked_script_stays_blocked(open_page: Any) -> None:
    text = html_page.page(sample_table()).replace("</main>", "</main><script>document.title = 'run'</script>")
    page = open_page(text)
    assert page.title() != "run"
    assert "Content Security Policy" in open_page.problems.pop()
