"""Translation of DuckDB's SQL to Spark's, for the part of it that table builds use.

sqlglot translates the syntax; the rules here cover what it leaves or what means something else in Spark. The differences that
matter are tested one by one in ``tests/tables/test_dialect.py``, and the text of every file in ``tests/tables/golden``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp

from sidkit.tables.engines.as_of import without_as_of_joins

ReadFiles = Callable[[Sequence[str], frozenset[str]], str]
"""Files and the options that are true -> name of a relation with their rows."""

_RENAMED = {"make_timestamptz": "timestamp_micros", "epoch_us": "unix_micros", "hash": "xxhash64"}
"""DuckDB's functions -> Spark's. Hashes are compared within one query only; Spark's ``hash`` has 32 bits."""


@dataclass(frozen=True)
class Statement:
    """A statement for Spark.

    Parameters
    ----------
    kind : str
        ``query``, ``view``, ``table``, ``copy`` or ``drop``.
    text : str
        Spark's SQL of the query; empty for ``drop``.
    name : str
        The view or table that is created or dropped, or the path that is copied to.
    """

    kind: str
    text: str
    name: str = ""


def translated(
    text: str,
    variables: Mapping[str, Any],
    parameters: Mapping[str, Any] | None = None,
    read: ReadFiles | None = None,
    *,
    pretty: bool = False,
) -> list[Statement]:
    """Translate statements.

    Parameters
    ----------
    text : str
        Statements in DuckDB's SQL.
    variables : mapping
        Values of ``getvariable('name')``.
    parameters : mapping, optional
        Values of ``$name``.
    read : callable, optional
        Creates the relations of ``read_parquet([...])``.
    pretty : bool
        Indent the text.

    Raises
    ------
    ValueError
        When a variable has no value, or a statement is none that Spark can run.
    """
    return [
        _statement(tree, dict(variables), dict(parameters or {}), read, pretty)
        for tree in sqlglot.parse(text, read="duckdb")
        if tree is not None
    ]


def _statement(
    tree: exp.Expr,
    variables: Mapping[str, Any],
    parameters: Mapping[str, Any],
    read: ReadFiles | None,
    pretty: bool,
) -> Statement:
    if isinstance(tree, exp.Drop):
        return Statement("drop", "", next(tree.find_all(exp.Table)).name)
    kind, name, query = "query", "", tree
    if isinstance(tree, exp.Create):
        kind, name, query = str(tree.kind).lower(), tree.this.name, tree.expression
    elif isinstance(tree, exp.Copy):
        kind, name, query = "copy", tree.args["files"][0].name, tree.this
        query = query.this if isinstance(query, exp.Subquery) else exp.select("*").from_(query)
    if kind not in {"query", "view", "table", "copy"} or not isinstance(query, exp.Query):
        raise ValueError(f"expected a query, CREATE VIEW, CREATE TABLE ... AS, COPY or DROP, got {tree.sql('duckdb')}")
    for union in query.find_all(exp.SetOperation):
        if union.args.get("by_name"):
            raise ValueError(f"expected UNION ALL with explicit columns, got BY NAME: {union.sql('duckdb')}")
    query = without_as_of_joins(query)
    query = query.transform(lambda node: _node(node, variables, parameters, read))
    return Statement(kind, query.sql(dialect="spark", pretty=pretty), name)


def _node(
    node: exp.Expr, variables: Mapping[str, Any], parameters: Mapping[str, Any], read: ReadFiles | None
) -> exp.Expr:
    if isinstance(node, exp.Anonymous):
        function = node.name.lower()
        if function == "getvariable":
            return _value(variables, node, node.expressions[0].name)
        if function in _RENAMED:
            node.set("this", _RENAMED[function])
    elif isinstance(node, exp.Parameter | exp.Placeholder):
        return _value(parameters, node, node.this if isinstance(node.this, str) else node.this.name)
    elif isinstance(node, exp.Table) and isinstance(node.this, exp.ReadParquet):
        return _relation(node, read)
    return node


def _value(values: Mapping[str, Any], node: exp.Expr, name: str) -> exp.Expr:
    if name not in values:
        raise ValueError(f"expected a value of {name}, got none: {node.sql('duckdb')}")
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int):
        return exp.convert(value)
    number = exp.Literal.number(value)
    # A small literal is an INT, whose products overflow; the bounds of a frame must be one.
    return number if node.find_ancestor(exp.WindowSpec) else exp.cast(number, "BIGINT")


def _relation(node: exp.Table, read: ReadFiles | None) -> exp.Expr:
    files, options = [], []
    for argument in node.this.expressions:
        if isinstance(argument, exp.Array):
            files += [each.name for each in argument.expressions]
        elif isinstance(argument, exp.EQ | exp.PropertyEQ):
            options += [argument.this.name] if argument.expression == exp.true() else []
        else:
            files.append(argument.name)
    if read is None:
        raise ValueError(f"expected no files in this statement, got {', '.join(files)}")
    name = read(files, frozenset(options))
    return exp.Table(this=exp.to_identifier(name), alias=node.args.get("alias"))
