"""Any result as JSON: the text the command line prints, and the .json file.

    {"analysis", "title", "kind", "params", "model", "tokens", "generated_from", "result", "provenance"}

`from_jsonable(kind, result)` gives the result back. One line, ASCII only (other characters as \\u escapes), so that the
bytes do not depend on a terminal; missing numbers are null; time taken and cache state are left out, so that the same
result gives the same text.
"""

from __future__ import annotations

import json

from attnviz.hooks import Finding, Renderer, View, hookimpl, to_jsonable
from attnviz.plugins.renderers._assets import ALL_RESULTS, generated_from


def to_text(finding: Finding) -> str:
    """The JSON text of a finding, without a final newline."""
    envelope = {
        "analysis": finding.analysis,
        "title": finding.title,
        "kind": finding.result.kind,
        "params": to_jsonable(finding.params),
        "model": finding.model,
        "tokens": to_jsonable(finding.tokens),
        "generated_from": generated_from(finding),
        "result": to_jsonable(finding.result),
        "provenance": finding.provenance,
    }
    return json.dumps(envelope, allow_nan=False)


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
