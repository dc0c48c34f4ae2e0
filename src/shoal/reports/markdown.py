"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from shoal.reports.tables import Table

__all__ = ["markdown_table"]


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, its title above it and its notes below.

    Example:
        >>> columns = (("net", False), ("s", True))
        >>> print(markdown_table(Table(title="Cost", columns=columns, rows=(("a", "1"),))))
        **Cost**
        <BLANKLINE>
        | net | s |
        | --- | ---: |
        | a | 1 |
    """
    lines = [f"**{_escaped(table.title)}**"]
    if table.rows:
        lines += ["", _line([name for name, _ in table.columns])]
        lines += [_line(["---:" if right else "---" for _, right in table.columns])]
        lines += [_line([_escaped(text) for text in row]) for row in table.rows]
    if table.notes:
        lines += ["", *(f"- {_escaped(note)}" for note in table.notes)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    for sign in ("\\", "|", "*", "_", "<"):
        text = text.replace(sign, f"\\{sign}")
    return text
