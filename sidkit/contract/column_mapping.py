"""``[source.columns]``: which column of the source is which column of the contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sidkit.contract.schemas import EMBEDDINGS, OPTIONAL_TABLES, TABLES, Table
from sidkit.core.errors import ConfigError, TableSchemaError


def check_sections(columns: Mapping[str, str | dict[str, str]], tables: Iterable[str]) -> None:
    """Check that every section and every named table is one of the contract.

    Raises
    ------
    ConfigError
        Names the section and the tables.
    """
    known = [table.name for table in (*TABLES, *OPTIONAL_TABLES)]
    sections = {name: "[source.columns.{}]" for name, value in columns.items() if isinstance(value, dict)}
    for name, where in {**sections, **dict.fromkeys(tables, "[source.tables] {}")}.items():
        if name not in known:
            raise ConfigError(
                f"{where.format(name)}: expected a table of the contract ({', '.join(known)}), got {name!r}; correct the name"
            )


def mapped_columns(table: Table, columns: Mapping[str, str | dict[str, str]], given: Iterable[str]) -> dict[str, str]:
    """Column of the contract -> column of the source, for one table.

    A name below ``[source.columns]`` applies if the contract's table has the first and the source's table the second; the
    table's own section may name any column, and wins.

    Raises
    ------
    TableSchemaError
        When the table's own section names a column that the source's table lacks.
    """
    names = list(given)
    shared = {
        name: source
        for name, source in columns.items()
        if isinstance(source, str) and table.column(name) is not None and source in names
    }
    own = columns.get(table.name, {})
    assert not isinstance(own, str)
    for name, source in own.items():
        if source not in names:
            raise TableSchemaError(
                table.name,
                f"expected column {source!r}, which [source.columns.{table.name}] gives for {name!r}, got "
                f"{', '.join(names)}; correct the name in sidkit.toml",
            )
    return {**shared, **own}


def refuse_unused(columns: Mapping[str, str | dict[str, str]], tables: Mapping[str, Iterable[str]]) -> None:
    """Refuse a name below ``[source.columns]`` that applies to no table; ``tables`` has the source's columns of each.

    Raises
    ------
    ConfigError
        Names the column and what to write instead.
    """
    for name, source in columns.items():
        if isinstance(source, dict):
            continue
        fitting = [
            each for each in (*TABLES, *OPTIONAL_TABLES) if each.name in tables and each.column(name) is not None
        ]
        if any(source in tables[each.name] for each in fitting):
            continue
        holding = [each for each in tables if source in tables[each]]
        if fitting or not holding:
            listed = (
                "; ".join(f"{each.name} has {', '.join(tables[each.name])}" for each in fitting) or "no table has it"
            )
            raise ConfigError(
                f"[source.columns] {name} = {source!r}: expected a column {source!r} in a table with {name!r} in the contract, "
                f"got none ({listed}); correct the name"
            )
        section = EMBEDDINGS.name if EMBEDDINGS.name in holding else holding[0]
        raise ConfigError(
            f"[source.columns] {name} = {source!r}: {name!r} is not a column of the contract; write this line below "
            f"[source.columns.{section}]"
        )
