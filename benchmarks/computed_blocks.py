"""Computed parts of a page: what stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``."""

from __future__ import annotations


def written(text: str, name: str, computed: str) -> str:
    """A page with its computed part of that name replaced.

    Raises
    ------
    ValueError
        When the page has no such part.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    begin, end = text.index(first) + len(first), text.index(last)
    return f"{text[:begin]}\n\n{computed}\n\n{text[end:]}"
