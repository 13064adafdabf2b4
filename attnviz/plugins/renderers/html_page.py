"""Any result as one HTML file that works without a network: the interactive view where there is one, else a table.

The file carries its script, style and data. A content security policy allows exactly that script and no request; all
text of models and users lies in a JSON block and reaches the page as text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from string import Template
from typing import Any

from attnviz.hooks import Finding, Renderer, Result, View, hookimpl, to_jsonable
from attnviz.plugins.renderers import (
    attention_grid,
    attribution_text,
    evidence_bars,
    head_map,
    lens_grid,
    ranked_features,
    token_matrix,
    token_strip,
)
from attnviz.plugins.renderers._assets import ALL_RESULTS, asset
from attnviz.plugins.renderers._table import table

_INTERACTIVE = (
    attention_grid,
    head_map,
    lens_grid,
    attribution_text,
    evidence_bars,
    token_strip,
    token_matrix,
    ranked_features,
)

_FOR_FILES = {"attention_grid": attention_grid.render_file, "token_matrix": token_matrix.render_file}
"""What draws more than the app's page gets at first, because a file cannot ask for the rest."""

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main class="page">
<header class="page-header">
<div><h1 id="attnviz-title">$title</h1><dl class="page-facts" id="attnviz-facts"></dl></div>
<button class="page-button" id="attnviz-theme" type="button">Dark</button>
</header>
<noscript>This page draws its picture with JavaScript, which is switched off here.</noscript>
<div id="attnviz-view"></div>
<div class="page-notes" id="attnviz-notes"></div>
<footer class="page-footer">
<details><summary>Text of the run</summary><pre id="attnviz-text"></pre></details>
<p>Provenance <code id="attnviz-provenance"></code></p>
</footer>
</main>
<script type="application/json" id="attnviz-data">$data</script>
<script>$script</script>
</body>
</html>
""")


def interactive(kind: type[Result]) -> Renderer | None:
    """The built-in script view of this kind of result, if there is one."""
    renderers = (renderer for module in _INTERACTIVE for renderer in module.attnviz_renderers())
    return next((renderer for renderer in renderers if kind in renderer.accepts), None)


def page(finding: Finding) -> str:
    """The HTML text: same finding, same bytes."""
    renderer = interactive(type(finding.result))
    content: dict[str, Any] = {"about": _about(finding, drawn=renderer is not None)}
    if renderer is not None:
        content["view"] = _FOR_FILES.get(renderer.name, renderer.render)(finding).payload
    else:
        columns, rows = table(finding)
        content["table"] = {"columns": list(columns), "rows": [list(row) for row in rows]}
    return document(finding.title, content, renderer.script if renderer else "", renderer.style if renderer else "")


def document(title: str, content: Mapping[str, Any], script: str, style: str) -> str:
    """One offline page: {"about"} and what it shows, {"view"} drawn by the script, or a {"table"}."""
    script = asset("html_page.js").replace("/* THE VIEW */", script)
    style = asset("html_page.css") + style
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return _PAGE.substitute(
        policy=policy,
        title=html.escape(title),
        style=style,
        data=in_script_block(content),
        script=script,
    )


def _about(finding: Finding, *, drawn: bool) -> dict[str, Any]:
    return {
        "title": finding.title,
        "analysis": finding.analysis,
        "params": to_jsonable(finding.params),
        "model": finding.model,
        "tokens": len(finding.tokens),
        "text": finding.tokens.text,
        "provenance": finding.provenance,
        # an interactive view prints these lines itself
        "info": [] if drawn else list(finding.result.info),
        "warnings": [] if drawn else list(finding.result.warnings),
    }


def in_script_block(data: Any) -> str:
    """JSON that cannot end or confuse the <script> element it lies in, whatever text it carries."""
    text = json.dumps(data, allow_nan=False)  # ASCII: U+2028 and the like are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"


def render(finding: Finding) -> View:
    """One offline HTML file."""
    return View(kind="html", payload=page(finding), media_type="text/html")


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The .html file."""
    return [
        Renderer(
            name="html",
            title="Web page",
            accepts=ALL_RESULTS,
            produces="html",
            suffixes=(".html",),
            render=render,
            order=80,
        )
    ]
