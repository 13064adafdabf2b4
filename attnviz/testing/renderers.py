"""What a renderer promises: the same bytes for the same finding, and no text of a model or user that runs."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from attnviz.hooks import AttnvizError, Finding, Renderer, View
from attnviz.testing.require import as_json, require
from attnviz.testing.samples import HOSTILE

_BEGINS = {
    ".png": b"\x89PNG\r\n\x1a\n",
    ".pdf": b"%PDF",
    ".zip": b"PK\x03\x04",
    ".npz": b"PK\x03\x04",
    ".npy": b"\x93NUMPY",
    ".html": b"<!doctype html",
}
_FORBIDDEN_SCRIPT = (
    (r"\binnerHTML\b|\bouterHTML\b|\binsertAdjacentHTML\b", "parses text as HTML; build elements and use textContent"),
    (r"\beval\s*\(|\bnew\s+Function\b|\bdocument\.write", "runs text as code"),
    (r"\bfetch\s*\(\s*['\"`]|\bXMLHttpRequest\b|\bWebSocket\b|\bimport\s*\(", "reaches out of the page"),
    (r"\bMath\.random\b|\bDate\.now\b", "draws something else every time"),
)
_JSON_BLOCK = re.compile(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', re.DOTALL | re.IGNORECASE)


def check_renderer(renderer: Renderer, finding: Finding) -> View:
    """Draw a finding twice and check all a renderer promises; returns the view. See `sample_finding` for findings."""
    title = f"Renderer {renderer.name}"
    require(
        isinstance(finding.result, renderer.accepts),
        f"{title}: it does not accept a {type(finding.result).__name__}; give it one of its kinds.",
    )
    view = renderer.render(finding)
    require(isinstance(view, View), f"{title}: expected a View, got {type(view).__name__}.")
    require(view.kind == renderer.produces, f"{title}: says it produces {renderer.produces!r}, made {view.kind!r}.")
    first, second = _bytes(view), _bytes(renderer.render(finding))
    require(first == second, f"{title}: two views of the same finding differ; no clock, random number or id may enter.")
    _check_kind(title, view)
    for suffix in renderer.suffixes:
        _check_suffix(title, suffix, view)
    if view.kind == "script":
        _check_script(title, renderer)
    if renderer.detail is not None:
        require(
            as_json(renderer.detail(finding)) == as_json(renderer.detail(finding)),
            f"{title}: `detail` gives different data for the same finding.",
        )
    if renderer.part is not None:
        _check_part(title, renderer.part, finding)
    return view


def _check_part(title: str, part: Callable[[Finding, Mapping[str, Any]], dict[str, Any]], finding: Finding) -> None:
    """What the page asks for is untrusted: nonsense gets words."""
    for what in ({}, {"rows": "all"}, {"rows": [-1, 10**9], "columns": [None, {}]}, {"<script>": HOSTILE[0]}):
        try:
            as_json(part(finding, what))
        except AttnvizError:
            continue
        except Exception as error:
            raise AssertionError(
                f"{title}: asked for the part {what!r} it raised {type(error).__name__} ({error}); raise BadInput with "
                "what was expected."
            ) from error


def _bytes(view: View) -> bytes:
    """The payload as bytes, to compare and search."""
    payload = view.payload
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    if view.kind == "plotly":
        return str(payload.to_json()).encode()
    return as_json(payload).encode()


def _check_kind(title: str, view: View) -> None:
    payload = view.payload
    expected: dict[str, tuple[type, str]] = {
        "script": (dict, "a dict that JSON can carry"),
        "table": (tuple, "(columns, rows)"),
        "text": (str, "a text"),
        "html": (str, "a text"),
        "image": (bytes, "the bytes of a PNG"),
    }
    if view.kind in expected:
        kind, words = expected[view.kind]
        require(isinstance(payload, kind), f"{title}: expected {words}, got {type(payload).__name__}.")
    if view.kind == "image":
        require(payload.startswith(_BEGINS[".png"]), f"{title}: an image must be a PNG.")
    if view.kind == "html":
        _check_markup(title, payload)
    if view.kind == "table":
        _check_table(title, payload)


def _check_table(title: str, payload: tuple[Any, ...]) -> None:
    require(len(payload) == 2, f"{title}: expected (columns, rows), got {len(payload)} parts.")
    columns, rows = payload
    for row in rows:
        require(len(row) == len(columns), f"{title}: a row has {len(row)} cells, expected {len(columns)}.")


def _check_markup(title: str, page: str) -> None:
    """Hostile text only as data: nowhere as markup, and outside JSON blocks not at all unless escaped."""
    for block in _JSON_BLOCK.findall(page):
        require("<" not in block, f"{title}: a JSON block holds a raw '<', which can end its element; write \\u003c.")
    rest = _JSON_BLOCK.sub("", page)
    for text in HOSTILE:
        require(text not in rest, f"{title}: the token text {text!r} stands unescaped in the page.")
    outside = re.sub(r"http://www\.w3\.org/[\w/.#-]*", "", rest)
    loads = re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//|@import|url\(\s*[\"']?(?:https?:)?//", outside)
    require(loads is None, f"{title}: the page loads something from elsewhere; it must work without a network.")


def _check_suffix(title: str, suffix: str, view: View) -> None:
    content = _bytes(view)
    if suffix in _BEGINS:
        begins = content.lstrip()[:16].lower() if suffix == ".html" else content
        require(begins.startswith(_BEGINS[suffix]), f"{title}: what it makes is not a {suffix} file: {content[:16]!r}.")
    if suffix == ".svg":
        _check_svg(title, content)
    if suffix == ".json":
        _parses(title, suffix, lambda: json.loads(content, parse_constant=_no_constant))
    if suffix == ".csv":
        rows = _parses(title, suffix, lambda: list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True)))
        widths = {len(row) for row in rows if row and not row[0].startswith("#")}
        require(len(widths) == 1, f"{title}: rows of the .csv have different lengths: {sorted(widths)}.")


def _check_svg(title: str, content: bytes) -> None:
    from xml.etree import ElementTree

    tree = _parses(title, ".svg", lambda: ElementTree.fromstring(content))
    require(tree.tag.endswith("svg"), f"{title}: expected an <svg> element, got {tree.tag}.")
    for element in tree.iter():
        name = str(element.tag).rpartition("}")[2]
        require(name not in ("script", "foreignObject"), f"{title}: the .svg holds a <{name}> element.")
        handlers = [key for key in element.attrib if key.lower().startswith("on")]
        require(not handlers, f"{title}: the .svg holds an event handler {handlers}.")


def _parses(title: str, suffix: str, parse: Any) -> Any:
    try:
        return parse()
    except Exception as error:
        raise AssertionError(f"{title}: what it makes is not a readable {suffix} file: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null")


def _check_script(title: str, renderer: Renderer) -> None:
    code = re.sub(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", "", renderer.script, flags=re.DOTALL)
    for pattern, why in _FORBIDDEN_SCRIPT:
        found = re.search(pattern, code)
        require(found is None, f"{title}: the script {why} ({found and found[0]!r}).")
    outside = re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", renderer.style)
    require(outside is None, f"{title}: the style loads something from elsewhere.")
