"""Schemas of the input contract: tables and the columns that each one accepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["id", "moment", "flag", "integer", "number", "string", "vector"]


@dataclass(frozen=True)
class Column:
    """A column: its name, its kind, whether it is required, and whether values may be missing."""

    name: str
    kind: Kind
    required: bool = False
    nullable: bool = True


@dataclass(frozen=True)
class Table:
    """A table: its name and the columns that sidkit uses."""

    name: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column | None:
        """Return a column by name, or None for an additional attribute."""
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
USERS = Table(
    "users",
    (
        Column("user_id", "id", required=True, nullable=False),
        Column("updated_at", "moment"),
        Column("created_at", "moment"),
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
"""Rows to compute features for."""
LABELLED_ROWS = Table(
    "rows",
    (
        *ENTITY_ROWS.columns,
        Column("label", "flag", required=True, nullable=False),
        Column("request_id", "id"),
        Column("had_before", "flag"),
        Column("sampled", "flag"),
        Column("converted", "flag"),
    ),
)
"""Rows to train or evaluate a ranker on."""
TABLES = (INTERACTIONS, ITEMS, EMBEDDINGS)
"""Required tables of a source."""
OPTIONAL_TABLES = (USERS,)
"""Tables that a source may lack."""
WITH_ATTRIBUTES = (ITEMS, USERS)
"""Tables whose further columns are attributes, which are stored in the log."""


def with_modalities(modalities: tuple[str, ...]) -> Table:
    """Return ``item_embeddings`` with one vector column per modality."""
    vectors = tuple(Column(name, "vector", required=True) for name in modalities)
    return Table(EMBEDDINGS.name, EMBEDDINGS.columns + vectors)
