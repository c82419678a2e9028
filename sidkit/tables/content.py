"""Versions of items and of their vectors, which ``item_content.sql`` reads."""

from __future__ import annotations

from sidkit.core.engine import literal, quoted
from sidkit.core.sql_connection import SqlConnection, columns_of
from sidkit.tables.log import Log


def read_content(opened: SqlConnection, log: Log, modalities: list[str]) -> None:
    """Create the views ``item_versions`` and ``embedding_versions``, each with the versions available by ``as_of``."""
    items, embeddings = f"read_parquet({literal(log.items)})", f"read_parquet({literal(log.embeddings)})"
    has = {
        table: columns_of(opened, f"SELECT * FROM {source}")
        for table, source in (("items", items), ("embeddings", embeddings))
    }
    version = "coalesce(updated_at, created_at)" if "updated_at" in has["items"] else "created_at"
    category = "category" if "category" in has["items"] else "NULL::VARCHAR AS category"
    price = "price" if "price" in has["items"] else "NULL::FLOAT AS price"
    opened.execute(f"""
        CREATE OR REPLACE TEMP VIEW item_versions AS
        SELECT item_id, epoch_us({version}) AS version_us, {category}, {price}, epoch_us(created_at) AS created_at_us
        FROM {items} WHERE epoch_us({version}) + getvariable('delay_us') <= getvariable('as_of_us')
    """)
    lists = ", ".join(quoted(name) for name in modalities)
    dated = "updated_at" in has["embeddings"]
    updated = "greatest(coalesce(updated_at, born), born)" if dated else "born"
    newest = "updated_at DESC NULLS LAST" if dated else "item_id"
    opened.execute(f"""
        CREATE OR REPLACE TEMP VIEW embedding_versions AS
        SELECT item_id, epoch_us({updated}) AS version_us, {lists}
        FROM {embeddings} INNER JOIN (SELECT item_id, min(created_at) AS born FROM {items} GROUP BY item_id) USING (item_id)
        WHERE epoch_us({updated}) + getvariable('delay_us') <= getvariable('as_of_us')
        QUALIFY row_number() OVER (
            PARTITION BY item_id, epoch_us({updated}) ORDER BY {newest}
        ) = 1
    """)
