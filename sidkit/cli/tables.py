"""Tables that stay readable at 80 columns: one row per name and slice, and names are never wrapped or cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

_GAP = "  "
_INDENT = 2


@dataclass(frozen=True)
class Rows:
    """Rows of one name; every row has as many cells as the table has further columns."""

    name: str
    cells: Sequence[Sequence[str]]
    dim: bool = False


def print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Rows], *, left: Sequence[str] = ()
) -> None:
    """Print a table with the name in front of each row, or on a line of its own if the row would exceed the console.

    Parameters
    ----------
    console : rich.console.Console
        Lines longer than its width are printed in full.
    title : str
        Line above the table.
    head : sequence of str
        Column names; the first is that of the names.
    rows : sequence of Rows
        Cells as text.
    left : sequence of str
        Columns, besides the first, that are aligned to the left.
    """
    cells = [row for group in rows for row in group.cells]
    widths = [max(map(len, column)) for column in zip(head[1:], *cells, strict=True)]
    named = max(len(head[0]), *(len(group.name) for group in rows))
    total = named + sum(len(_GAP) + width for width in widths)
    apart = total > console.width

    def line(first: str, row: Sequence[str]) -> str:
        aligned = [
            text.ljust(width) if name in left else text.rjust(width)
            for text, width, name in zip(row, widths, head[1:], strict=True)
        ]
        start = " " * _INDENT if apart else first.ljust(named) + _GAP
        return (start + _GAP.join(aligned)).rstrip()

    console.print()
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(Text(line(head[0], head[1:]), "underline"), soft_wrap=True)
    for group in rows:
        style = "dim" if group.dim else ""
        if apart:
            console.print(Text(group.name, style), soft_wrap=True)
        for row in group.cells:
            console.print(Text(line(group.name, row), style), soft_wrap=True)
