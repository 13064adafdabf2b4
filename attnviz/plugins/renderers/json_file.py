"""Any result as JSON: the text the command line prints, and the .json file.

    {"analysis", "title", "kind", "params", "model", "text", "tokens", "generated_from", "result", "provenance"}
    tokens: [{"index", "id", "label", "start", "stop", "special", "role", "generated"}], start and stop in text

`from_jsonable(kind, result)` gives the result back. One line, ASCII only (other characters as \\u escapes), so that the
bytes do not depend on a terminal; missing numbers are null; time taken and cache state are left out, so that the same
result gives the same text.
"""

from __future__ import annotations

import json
from typing import Any

from attnviz.hooks import Finding, Renderer, View, hookimpl, to_jsonable
from attnviz.plugins.renderers._assets import ALL_RESULTS, generated_from
from attnviz.plugins.renderers._table import role_of


def to_text(finding: Finding) -> str:
    """The JSON text of a finding, without a final newline."""
    envelope = {
        "analysis": finding.analysis,
        "title": finding.title,
        "kind": finding.result.kind,
        "params": to_jsonable(finding.params),
        "model": finding.model,
        "text": finding.tokens.text,
        "tokens": _tokens(finding),
        "generated_from": generated_from(finding),
        "result": to_jsonable(finding.result),
        "provenance": finding.provenance,
    }
    return json.dumps(envelope, allow_nan=False)


def _tokens(finding: Finding) -> list[dict[str, Any]]:
    tokens, answer = finding.tokens, generated_from(finding)
    return [
        {
            "index": i,
            "id": int(tokens.ids[i]),
            "label": label,
            "start": int(tokens.offsets[i, 0]) if tokens.offsets[i, 0] >= 0 else None,
            "stop": int(tokens.offsets[i, 1]) if tokens.offsets[i, 1] >= 0 else None,
            "special": bool(tokens.special[i]),
            "role": role_of(finding, i),
            "generated": answer is not None and i >= answer,
        }
        for i, label in enumerate(tokens.labels)
    ]


def render(finding: Finding) -> View:
    """The JSON text of a finding."""
    return View(kind="text", payload=to_text(finding), media_type="application/json")


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The .json file."""
    return [
        Renderer(
            name="json",
            title="JSON",
            accepts=ALL_RESULTS,
            produces="text",
            suffixes=(".json",),
            render=render,
            order=90,
        )
    ]
