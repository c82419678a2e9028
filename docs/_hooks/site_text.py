"""Text of the code as Markdown: docstrings of classes and of their fields, and cells of tables."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?(?:[\w.]*\.)?(\w+)`")


def plain(text: str) -> str:
    """A docstring's text in one paragraph, with Sphinx roles and double backticks as code."""
    return " ".join(_ROLE.sub(r"`\1`", text).replace("``", "`").split())


def summary(thing: object) -> str:
    """The first paragraph of a docstring."""
    return plain((inspect.getdoc(thing) or "").split("\n\n")[0])


def cell(text: str) -> str:
    """Text in a cell of a table; characters with a meaning in Markdown or HTML are shown as they are, except in code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"([<\[\]*])", lambda found: {"<": "&lt;"}.get(found[1], f"\\{found[1]}"), parts[place])
    return "".join(parts).replace("|", "\\|")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown, from cells that are Markdown already."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def field_docs(model: type) -> dict[str, str]:
    """Name -> text of the string below each field of a class and its bases."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind.__module__.split(".")[0] not in {"sidkit", "semantic_ids", "ranking"}:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for statement, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[statement.target.id] = plain(after.value.value)
    return found
