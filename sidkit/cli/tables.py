"""Tables as text: plain columns that never wrap or cut a value, so that names can be copied.

A list is one :func:`table`. The reports of a run and of a comparison have several rows per name; :func:`print_table` stays
readable at 80 columns with long names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_INDENT = "  "


@dataclass(frozen=True)
class Rows:
    """Rows of one name; every row has as many cells as the table has further columns."""

    name: str
    cells: Sequence[Sequence[str]]
    dim: bool = False


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = ()) -> str:
    """Return a table as text: the head and one line per row, with two spaces between columns.

    Parameters
    ----------
    head : sequence of str
        Column names.
    rows : sequence of sequence of str
        Cells as text.
    left : sequence of str
        Columns, besides the first, that are aligned to the left; the others are aligned to the right.
    """
    return "\n".join(_lines(head, rows, {head[0], *left}))


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
    from rich.text import Text

    named = [[group.name, *row] for group in rows for row in group.cells]
    top, *lines = _lines(head, named, {head[0], *left})
    apart = max(map(len, (top, *lines))) > console.width
    if apart:
        top, *lines = (_INDENT + line for line in _lines(head[1:], [row[1:] for row in named], set(left)))
    console.print()
    console.print(Text(title, "bold"), soft_wrap=True)
    console.print(Text(top, "underline"), soft_wrap=True)
    following = iter(lines)
    for group in rows:
        style = "dim" if group.dim else ""
        if apart:
            console.print(Text(group.name, style), soft_wrap=True)
        for _ in group.cells:
            console.print(Text(next(following), style), soft_wrap=True)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]], left: set[str]) -> list[str]:
    """Return the head and the rows as aligned lines."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        _GAP.join(
            text.ljust(width) if name in left else text.rjust(width)
            for name, text, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    ]
