"""Optional unique IDs: a suffix after the codes that distinguishes the items of one bucket.

The table of suffixes is append-only: every (item, codes) ever seen has one row. When an item's codes change, it gets a
suffix in the new bucket and its old suffix is not reused, so (codes, suffix) never refers to a different item. An item
whose codes change back gets its old suffix again.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.catalog import Catalog, table_path
from sidkit.core.engine import connection, literal
from sidkit.core.errors import ArtifactCorruptError, FitError, LifeCycleError
from sidkit.core.integrity import checked, hashes_of, replaced, update_sealed
from sidkit.core.repo import Repo

SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "event_timestamp": pa.timestamp("us", tz="UTC"),
        "codes": pa.list_(pa.int64()),
        "suffix": pa.int64(),
    }
)

_NEW = """
WITH first_seen AS (
    SELECT item_id, codes::BIGINT[] AS codes, min(event_timestamp) AS event_timestamp
    FROM arrived WHERE codes IS NOT NULL GROUP BY ALL
), free AS (SELECT codes, max(suffix) + 1 AS suffix FROM record GROUP BY codes)
SELECT
    item_id, event_timestamp, codes,
    coalesce(free.suffix, 0) + row_number() OVER (PARTITION BY codes ORDER BY event_timestamp, item_id) - 1 AS suffix
FROM first_seen ANTI JOIN record USING (item_id, codes) LEFT JOIN free USING (codes)
ORDER BY event_timestamp, item_id
"""


def with_suffixes(arrived: pa.Table, record: pa.Table | None = None) -> pa.Table:
    """Extend the table of suffixes by the new rows of ``arrived``.

    New rows of a bucket get its next free numbers, from 0, ordered by (event_timestamp, item_id) within this call. The
    row order does not matter; one call over all rows gives the same result as several calls in time order.

    Parameters
    ----------
    arrived : pa.Table
        ``item_id`` (string), ``event_timestamp`` (timestamp, UTC), ``codes`` (list of int; null rows are skipped); other
        columns are ignored, rows may repeat.
    record : pa.Table, optional
        The result of an earlier call.

    Returns
    -------
    pa.Table
        ``item_id``, ``event_timestamp`` (when the item first had these codes), ``codes`` (list<int64>), ``suffix``
        (int64): the old rows first, unchanged. (codes, suffix) and (item_id, codes) are unique.

    Raises
    ------
    FitError
        When a column is missing.
    """
    before = SCHEMA.empty_table() if record is None else record.select(SCHEMA.names).cast(SCHEMA)
    missing = [name for name in SCHEMA.names[:3] if name not in arrived.column_names]
    if missing:
        raise FitError(
            f"expected columns {', '.join(SCHEMA.names[:3])}, got {', '.join(arrived.column_names)}; "
            f"add {', '.join(missing)}"
        )
    opened = duckdb.connect(config={"threads": 1})
    try:
        opened.execute("SET TimeZone = 'UTC'")
        opened.register("arrived", arrived.select(SCHEMA.names[:3]))
        opened.register("record", before)
        return pa.concat_tables([before, opened.execute(_NEW).to_arrow_table().cast(SCHEMA)])
    finally:
        opened.close()


def extend_file(path: Path, arrived: pa.Table) -> pa.Table:
    """Like :func:`with_suffixes`, for a Parquet file that is replaced atomically.

    The file is not rewritten if there are no new rows. Hold the repo's lock: two concurrent writers would assign the same
    number twice.

    Parameters
    ----------
    path : Path
        The table of suffixes; created if missing.
    arrived : pa.Table
        See :func:`with_suffixes`.

    Raises
    ------
    ArtifactCorruptError
        When the file exists but is not a valid table of suffixes.
    StorageError
        When writing fails; the file is then unchanged.
    """
    record = read_record(path) if path.exists() else None
    extended = with_suffixes(arrived, record)
    sidecar = path.with_suffix(".json")
    if record is None or len(extended) > len(record):
        with replaced(path, sidecar) as temporary:
            pq.write_table(extended, temporary, compression="zstd")
    update_sealed(sidecar, {"files": hashes_of(path.parent, [path.name])})
    return extended


def read_record(path: Path) -> pa.Table:
    """Read a table of suffixes; see :func:`with_suffixes` for its columns.

    Raises
    ------
    ArtifactCorruptError
        When it is damaged, or not a valid table of suffixes.
    """
    try:
        return pq.ParquetFile(checked(path)).read(SCHEMA.names).select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ArtifactCorruptError(path, f"cannot be read as a table of suffixes ({error})") from error


def suffix_path(repo: Repo, name: str) -> Path:
    """Path of a codebook's table of suffixes. The name must not match the catalogue's pattern for tables of codes."""
    return repo.tables / f"sid_suffix_{name}.parquet"


def update_suffixes(repo: Repo, name: str, *, rebuild: bool = False) -> pa.Table:
    """Assign suffixes to the items of a published codebook; existing suffixes do not change. Returns the whole table.

    All rows of the codebook's table are used, superseded content too, so running this rarely misses no earlier codes.
    The suffix of an item is that of its newest codes: join on (item_id, codes).

    Parameters
    ----------
    repo : Repo
        The caller must hold its lock.
    name : str
        A codebook with a table of codes.
    rebuild : bool
        Discard the table and number all items again, in time order; for a damaged table.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook.
    LifeCycleError
        When it has no table of codes.
    ArtifactCorruptError
        When the table of suffixes cannot be read.
    """
    record, table = Catalog.open(repo).codebook(name), table_path(repo, name)
    if not record.has_codes or not table.exists():
        raise LifeCycleError(name, record.state, "publish it before assigning suffixes")
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        arrived = opened.execute(
            f"SELECT item_id, event_timestamp, codes FROM read_parquet({literal(checked(table))}) WHERE codes IS NOT NULL"
        ).to_arrow_table()
    path = suffix_path(repo, name)
    if rebuild:
        path.unlink(missing_ok=True)
    return extend_file(path, arrived)
