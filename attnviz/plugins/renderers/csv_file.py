"""Any result as one table in a .csv file: written by the csv module, header names with units, UTF-8, newline "\\n".

A text cell that a spreadsheet would read as a formula (it begins with = + - @, a tab or a carriage return, or the
full-width form of one) gets an apostrophe in front; numbers are never changed. A missing number is an empty cell.
"""

from __future__ import annotations

import csv
import io

from attnviz.hooks import Finding, Renderer, View, hookimpl
from attnviz.plugins.renderers._assets import ALL_RESULTS
from attnviz.plugins.renderers._table import Cell, table

_FORMULA = tuple("=+-@\t\r＝＋－＠")


def safe_cell(cell: Cell) -> Cell:
    """The cell, with an apostrophe in front of a text that would run as a formula."""
    if isinstance(cell, str) and cell.lstrip(" ").startswith(_FORMULA):
        return f"'{cell}"
    return cell


def to_text(finding: Finding) -> str:
    """The text of the file."""
    columns, rows = table(finding)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe_cell(name) for name in columns])
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)
    return out.getvalue()


def render(finding: Finding) -> View:
    """The .csv text of a finding."""
    return View(kind="text", payload=to_text(finding), media_type="text/csv")


@hookimpl
def attnviz_renderers() -> list[Renderer]:
    """The .csv file."""
    return [
        Renderer(
            name="csv",
            title="CSV",
            accepts=ALL_RESULTS,
            produces="text",
            suffixes=(".csv",),
            render=render,
            order=91,
        )
    ]
