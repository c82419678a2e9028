"""The tables of the contract: their columns and what each column accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["id", "moment", "flag", "integer", "number", "string", "vector"]


@dataclass(frozen=True)
class Column:
    """One column: its name, what it holds, whether it must be there and whether each row must have a value."""

    name: str
    kind: Kind
    required: bool = False
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """One table: its name and the columns that mean something to the kit."""

    name: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """The column of that name, or None for a further attribute."""
        return next((column for column in self.columns if column.name == name), None)


INTERACTIONS = Table(
    "interactions",
    (
        Column("user_id", "id", required=True, nullable=False),
        Column("item_id", "id", required=True, nullable=False),
        Column("timestamp", "moment", required=True, nullable=False),
        Column("label", "flag", required=True, nullable=False),
        Column("request_id", "id"),
        Column("position", "integer"),
        Column("converted", "flag"),
        Column("query", "string"),
        Column("rating", "number"),
    ),
)
ITEMS = Table(
    "items",
    (
        Column("item_id", "id", required=True, nullable=False),
        Column("created_at", "moment", required=True),
        Column("updated_at", "moment"),
        Column("removed_at", "moment"),
        Column("title", "string"),
        Column("text", "string"),
        Column("category", "string"),
        Column("price", "number"),
    ),
)
EMBEDDINGS = Table(
    "item_embeddings",
    (
        Column("item_id", "id", required=True, nullable=False),
        Column("updated_at", "moment"),
    ),
)
ENTITY_ROWS = Table(
    "rows",
    (
        Column("user_id", "id", required=True, nullable=False),
        Column("item_id", "id", required=True, nullable=False),
        Column("event_timestamp", "moment", required=True, nullable=False),
    ),
)
"""Rows whose features are asked for."""
LABELLED_ROWS = Table(
    "rows",
    (
        *ENTITY_ROWS.columns,
        Column("label", "flag", required=True, nullable=False),
        Column("request_id", "id"),
        Column("had_before", "flag"),
    ),
)
"""Rows that a ranker learns from or is evaluated on."""
TABLES = (INTERACTIONS, ITEMS, EMBEDDINGS)


def with_modalities(modalities: tuple[str, ...]) -> Table:
    """``item_embeddings`` with one vector column per modality."""
    vectors = tuple(Column(name, "vector", required=True) for name in modalities)
    return Table(EMBEDDINGS.name, EMBEDDINGS.columns + vectors)
