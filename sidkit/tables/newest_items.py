"""Newest content and attributes of items that were pushed, or became available, since an earlier time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sidkit.core.engine import literal, quoted, working_on
from sidkit.core.feature_settings import ITEM_ATTRIBUTES
from sidkit.core.repo import Repo
from sidkit.tables.attributes import defined_tables, read_versions
from sidkit.tables.content import ContentVectors, read_content
from sidkit.tables.log import Log, ingests_of
from sidkit.tables.newest import NewestRows, Since, newest_of
from sidkit.tables.pushed_items import pushed_path
from sidkit.tables.versions import merge_versions

_SQL = Path(__file__).parent


class ChangedItems:
    """Computes rows of ``item_content`` and ``item_attributes``.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        The connection of :class:`sidkit.tables.newest.ChangedRows`.
    repo : Repo
    log : Log
    since : Since
        Rows that are known.
    build : dict
        Manifest of the feature tables.
    """

    def __init__(
        self, opened: duckdb.DuckDBPyConnection, repo: Repo, log: Log, since: Since, build: dict[str, Any]
    ) -> None:
        self._opened, self._repo, self._log, self._build = opened, repo, log, build
        columns = dict.fromkeys(
            row[0] for row in opened.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(log.items)})").fetchall()
        )
        version = "coalesce(updated_at, created_at)" if "updated_at" in columns else "created_at"
        due = f"epoch_us({version}) + getvariable('delay_us')"
        queries = [
            f"SELECT item_id FROM read_parquet({literal(log.items)}) "
            f"WHERE {due} > {since.as_of_us} AND {due} <= getvariable('as_of_us')"
        ]
        pushed = pushed_path(log.items.parent, log.manifest)
        if pushed is not None:
            queries.append(
                f"SELECT item_id FROM read_parquet({literal(pushed)}) WHERE number >= {ingests_of(dict(since.log))}"
            )
        opened.execute(
            f"CREATE OR REPLACE TEMP TABLE changed_items AS SELECT DISTINCT item_id FROM ({' UNION ALL '.join(queries)})"
        )
        row = opened.execute("SELECT count(*) FROM changed_items").fetchone()
        self.count = int(row[0]) if row else 0

    ids = "SELECT item_id FROM changed_items"
    """SQL for the ids of the items."""

    @working_on("computing the newest rows of item_content")
    def content(self, path: Path) -> NewestRows:
        """Newest rows of ``item_content``; all rows of these items are written to ``path``."""
        settings = self._repo.settings
        modalities = list(settings.source.content_vectors)
        read_content(self._opened, self._log, modalities, by_reference=True)
        for view in ("item_versions", "embedding_versions"):
            self._opened.execute(
                f"CREATE OR REPLACE TEMP TABLE chosen_{view} AS SELECT * FROM {view} SEMI JOIN changed_items USING (item_id)"
            )
            self._opened.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT * FROM chosen_{view}")
        query = (_SQL / "item_content.sql").read_text(encoding="utf-8")
        self._opened.execute(f"CREATE OR REPLACE TEMP TABLE content_rows AS {query}")
        vectors = ContentVectors(self._log, path, modalities, self._repo.data / "tmp")
        with vectors.ordered(self._opened, "SELECT * FROM content_rows", "item_id, event_timestamp") as ordered:
            ordered.write(path)
        newest = newest_of("SELECT * FROM content_rows", "item_id")
        with vectors.ordered(self._opened, newest, "item_id") as ordered, ordered.relation() as relation:
            rows = self._opened.execute(f"SELECT * FROM {relation}").to_arrow_table()
        return NewestRows("item_content", rows, pa.table({"item_id": pa.array([], pa.string())}))

    @working_on("computing the newest rows of item_attributes")
    def attributes(self, path: Path) -> NewestRows | None:
        """Newest rows of ``item_attributes``; the whole table as of now is written to ``path``. None without attributes."""
        columns = defined_tables(self._repo.settings.features.table_settings).get(ITEM_ATTRIBUTES)
        table = self._repo.tables / f"{ITEM_ATTRIBUTES}.parquet"
        if not columns or not table.exists():
            return None
        shapes = self._build.get("shapes", {}).get(ITEM_ATTRIBUTES, {})
        read_versions(self._opened, ITEM_ATTRIBUTES, columns, self._log, shapes)
        query = (_SQL / f"{ITEM_ATTRIBUTES}.sql").read_text(encoding="utf-8")
        merged = merge_versions(query, f"SELECT * FROM read_parquet({literal(table)})", "item_id", list(columns))
        self._opened.execute(
            f"CREATE OR REPLACE TEMP TABLE attribute_rows AS SELECT * EXCLUDE (_fresh) FROM ({merged})"
        )
        self._opened.execute(f"COPY attribute_rows TO {literal(path)} (FORMAT parquet)")
        listed = ", ".join(["item_id", "event_timestamp", "created_timestamp", *map(quoted, columns)])
        some = f"SELECT {listed} FROM attribute_rows SEMI JOIN changed_items USING (item_id)"
        rows = self._opened.execute(newest_of(some, "item_id")).to_arrow_table()
        return NewestRows(ITEM_ATTRIBUTES, rows, pa.table({"item_id": pa.array([], pa.string())}))
