"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub Markdown table whose columns line up, so that it is readable as plain text too."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def interval_cell(row: Mapping[str, Any], template: str) -> str:
    """The bounds `low` and `high` of a row in per cent, if it has any."""
    if row["low"] is None:
        return "no interval"
    return template.format(100 * row["low"], 100 * row["high"])
