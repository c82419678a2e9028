"""Join keys of the feature tables."""

from __future__ import annotations

from collections.abc import Sequence

from sidkit.core.code_stats import SID_PREFIX, code_stats_view, user_code_stats_view
from sidkit.core.engine import quoted


def key_columns(table: str) -> tuple[str, ...]:
    """Key columns of a table: ``user_id`` or ``item_id``, and of ``user_<attribute>_stats`` also the attribute.

    Those of statistics of codes are ``sid_prefix``, and ``user_id`` if they are per user.
    """
    if table.startswith(code_stats_view("")):
        return (SID_PREFIX,)
    if table.startswith(user_code_stats_view("")):
        return ("user_id", SID_PREFIX)
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
