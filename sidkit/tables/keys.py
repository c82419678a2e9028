"""Join keys of the feature tables."""

from __future__ import annotations

from collections.abc import Sequence

from sidkit.core.engine import quoted


def key_columns(table: str) -> tuple[str, ...]:
    """Key columns of a table: ``user_id`` or ``item_id``, and of ``user_<attribute>_stats`` also the attribute."""
    attribute = table.removeprefix("user_").removesuffix("_stats")
    if table == f"user_{attribute}_stats":
        return ("user_id", attribute)
    return ("user_id",) if table.startswith("user_") else ("item_id",)


def entity_sql(columns: Sequence[str], relation: str = "") -> str:
    """SQL for the key of a row as one value: the column itself, or a struct of several."""
    prefix = f"{relation}." if relation else ""
    names = [f"{prefix}{quoted(column)}" for column in columns]
    return (
        names[0]
        if len(names) == 1
        else f"struct_pack({', '.join(f'_{at} := {name}' for at, name in enumerate(names))})"
    )
