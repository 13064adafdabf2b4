"""Rows and columns as they are. Shows tables and the results that are tables as well."""

from __future__ import annotations

from attnviz.hooks import BadInput, EvidenceLedger, Faithfulness, Finding, Renderer, Table, View, hookimpl


def render(finding: Finding) -> View:
    """(columns, rows)."""
    result = finding.result
    if not isinstance(result, Table):
        raise BadInput(f"table: expected a table, got {result.kind}.")
    return View(kind="table", payload=(result.columns, result.rows))


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The plain table."""
    return [
        Renderer(
            name="table",
            title="Table",
            accepts=(Table, Faithfulness, EvidenceLedger),
            produces="table",
            render=render,
            order=10,
        )
    ]
