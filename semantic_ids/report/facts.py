"""Collect the data of a codebook's report from the catalogue, the artefact and the feature tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from semantic_ids.catalog import Catalog, table_path
from semantic_ids.codebook import METRICS, Codebook, load_committed
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.records import CodebookRecord
from sidkit.core.arrays import Doubles, Floats, Ints, one_chunk
from sidkit.core.engine import connection, literal, quoted
from sidkit.core.errors import ArtifactMissingError, LifeCycleError
from sidkit.core.integrity import checked, read_checked_json
from sidkit.core.repo import Repo
from sidkit.tables import read_log

MAP_ITEMS = 3_000
"""Maximum number of items on the map."""


@dataclass(frozen=True)
class Listed:
    """Items with codes (the newest row of each), sorted by item id.

    ``codes`` is ``int64 [items, levels]``, ``residual_norm`` ``float64 [items]``; missing titles and categories are null.
    """

    ids: pa.Array
    titles: pa.Array
    categories: pa.Array
    codes: Ints
    residual_norm: Doubles

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Arrivals:
    """The first row with codes of each item, sorted by item id: time (microseconds UTC), first code and residual norm."""

    moment_us: Ints
    code: Ints
    residual_norm: Doubles


@dataclass(frozen=True)
class Sampled:
    """A sample of the listed items: their row indices and encoder vectors ``float32 [rows, dim]``."""

    rows: Ints
    vectors: Floats


@dataclass(frozen=True)
class Facts:
    """All data of a report."""

    record: CodebookRecord
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    residual_levels: int
    """Number of leading codes that refine each other; later codes are not levels of the tree."""
    items: Listed
    without_codes: int
    waiting: int
    """Rows of content that are newer than the last refresh."""
    assigned_us: tuple[int, int] | None
    """When the oldest and the newest codes were assigned, microseconds UTC."""
    fit_codes: Ints
    """The first code of each item known at the end of the fit."""
    arrivals: Arrivals
    sample: Sampled

    @property
    def tree_levels(self) -> int:
        """Levels of the tree; 1 (grouping by the first code) if no code refines another."""
        return max(self.residual_levels, 1)


def collect_facts(repo: Repo, name: str) -> Facts:
    """Collect the data of one published codebook.

    Raises
    ------
    UnknownVersionError
        If the codebook does not exist.
    LifeCycleError
        If it is not published and so has no codes.
    ArtifactError
        If its files are missing or modified.
    """
    record = Catalog.open(repo).codebook(name)
    if not record.has_codes:
        raise LifeCycleError(name, record.state, "it has no assigned codes to report on; publish it first")
    folder = repo.codebooks / name
    codebook, manifest = load_committed(folder, record)
    if not table_path(repo, name).is_file():
        raise ArtifactMissingError(
            f"{table_path(repo, name)} does not exist; `sidkit codebooks publish {name}` writes it"
        )
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        _views(opened, repo, name)
        items, without_codes = _items(opened, record.levels)
        return Facts(
            record,
            manifest,
            read_checked_json(folder / METRICS) if (folder / METRICS).is_file() else {},
            codebook.quantizer.residual_levels,
            items,
            without_codes,
            _number(opened, "SELECT count(*) FROM content ANTI JOIN sid USING (item_id, event_timestamp)"),
            _assigned(opened),
            _fit_codes(opened, record.fit_end_us),
            _arrivals(opened),
            _sample(opened, codebook, items),
        )


def _views(opened: duckdb.DuckDBPyConnection, repo: Repo, name: str) -> None:
    for view, path in (
        ("sid", table_path(repo, name)),
        ("content", repo.tables / "item_content.parquet"),
        ("items", read_log(repo).items),
    ):
        opened.execute(f"CREATE TEMP VIEW {view} AS SELECT * FROM read_parquet({literal(checked(path))})")
    newest = "QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY event_timestamp DESC) = 1"
    opened.execute(f"CREATE TEMP TABLE newest AS SELECT * FROM sid {newest}")
    columns = {row[0] for row in opened.execute("DESCRIBE items").fetchall()}
    # An item may have several rows, one per updated_at; use the newest title.
    moment = "coalesce(updated_at, created_at)" if "updated_at" in columns else "created_at"
    title = f"arg_max_null(title::VARCHAR, {moment})" if "title" in columns else "NULL::VARCHAR"
    opened.execute(
        f"CREATE TEMP VIEW titled AS SELECT item_id, nullif(trim({title}), '') AS title FROM items GROUP BY item_id"
    )
    opened.execute(
        f"CREATE TEMP VIEW filed AS SELECT item_id, nullif(trim(category::VARCHAR), '') AS category FROM content {newest}"
    )


def _items(opened: duckdb.DuckDBPyConnection, levels: int) -> tuple[Listed, int]:
    table = opened.execute(
        "SELECT item_id, title, category, codes, residual_norm::DOUBLE AS residual_norm FROM newest "
        "LEFT JOIN titled USING (item_id) LEFT JOIN filed USING (item_id) WHERE codes IS NOT NULL ORDER BY item_id"
    ).to_arrow_table()
    columns = {field: one_chunk(table.column(field)) for field in table.column_names}
    codes = columns["codes"].flatten().to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, levels)
    listed = Listed(
        columns["item_id"],
        columns["title"],
        columns["category"],
        codes,
        columns["residual_norm"].to_numpy(zero_copy_only=False),
    )
    return listed, _number(opened, "SELECT count(*) FROM newest WHERE codes IS NULL")


def _assigned(opened: duckdb.DuckDBPyConnection) -> tuple[int, int] | None:
    row = opened.execute("SELECT min(assigned_at_us), max(assigned_at_us) FROM sid").fetchone()
    return (int(row[0]), int(row[1])) if row and row[0] is not None else None


def _fit_codes(opened: duckdb.DuckDBPyConnection, fit_end_us: int) -> Ints:
    rows = opened.execute(
        "WITH known AS (SELECT item_id, arg_max_null(codes, event_timestamp) AS codes FROM sid "
        f"WHERE epoch_us(event_timestamp) <= {fit_end_us} GROUP BY item_id) "
        "SELECT codes[1] AS code FROM known WHERE codes IS NOT NULL ORDER BY item_id"
    ).fetchnumpy()
    return np.asarray(rows["code"], dtype=np.int64)


def _arrivals(opened: duckdb.DuckDBPyConnection) -> Arrivals:
    rows = opened.execute(
        "SELECT epoch_us(min(event_timestamp)) AS moment, arg_min(codes[1], event_timestamp) AS code, "
        "arg_min(residual_norm, event_timestamp)::DOUBLE AS residual_norm "
        "FROM sid WHERE codes IS NOT NULL GROUP BY item_id ORDER BY item_id"
    ).fetchnumpy()
    return Arrivals(
        np.asarray(rows["moment"], dtype=np.int64),
        np.asarray(rows["code"], dtype=np.int64),
        np.asarray(rows["residual_norm"], dtype=np.float64),
    )


def _sample(opened: duckdb.DuckDBPyConnection, codebook: Codebook, items: Listed) -> Sampled:
    """Sample items in the order of a hash of their ids: unbiased and reproducible."""
    modalities = codebook.encoder.modalities_
    columns = ", ".join(quoted(modality) for modality in modalities)
    opened.execute(
        "CREATE TEMP TABLE sampled AS SELECT item_id, event_timestamp FROM newest SEMI JOIN content "
        f"USING (item_id, event_timestamp) WHERE codes IS NOT NULL ORDER BY md5(item_id), item_id LIMIT {MAP_ITEMS}"
    )
    # Use the content that the codes were assigned for, even if newer content awaits a refresh.
    table = opened.execute(
        f"SELECT item_id, {columns} FROM content SEMI JOIN sampled USING (item_id, event_timestamp) ORDER BY item_id"
    ).to_arrow_table()
    if len(table) == 0:
        return Sampled(np.zeros(0, dtype=np.int64), np.zeros((0, 0), dtype=np.float32))
    row_of = {item: row for row, item in enumerate(items.ids.to_pylist())}
    rows = np.array([row_of[item] for item in table.column("item_id").to_pylist()], dtype=np.int64)
    return Sampled(rows, codebook.vectors(ItemVectors.from_arrow(table, modalities)))


def _number(opened: duckdb.DuckDBPyConnection, query: str) -> int:
    row = opened.execute(query).fetchone()
    return int(row[0]) if row else 0
