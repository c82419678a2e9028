"""One code per item, for those who need it: a number behind the codes that tells apart the items of one bucket.

The record of suffixes only grows. Every (item, codes) that ever was has one row and keeps it: an item whose content gives
it other codes gets a number in its new bucket, and its old number stays taken, so that no name ever comes to mean another
item. (An item that comes back to codes it had before has its old number again: the same name for the same item.)
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
    """The record, extended by the rows of ``arrived`` that it does not hold yet.

    New rows of a bucket get its next free numbers, from 0, in the order of (event_timestamp, item_id) within this call.
    The order of the rows decides nothing; calls in the order of time and one call over all give the same record.

    Parameters
    ----------
    arrived : pa.Table
        ``item_id`` (string), ``event_timestamp`` (timestamp, UTC), ``codes`` (list of int; null rows are left out); more
        columns are ignored, rows may repeat.
    record : pa.Table, optional
        What an earlier call returned.

    Returns
    -------
    pa.Table
        ``item_id``, ``event_timestamp`` (when the item first had these codes, as far as arrived), ``codes``
        (list<int64>), ``suffix`` (int64): the old rows first, unchanged. (codes, suffix) and (item_id, codes) are unique.

    Raises
    ------
    FitError
        When a column is missing.
    """
    before = SCHEMA.empty_table() if record is None else record.select(SCHEMA.names).cast(SCHEMA)
    missing = [name for name in SCHEMA.names[:3] if name not in arrived.column_names]
    if missing:
        raise FitError(f"columns {arrived.column_names} came; {', '.join(missing)} is needed to number items")
    opened = duckdb.connect(config={"threads": 1})
    try:
        opened.execute("SET TimeZone = 'UTC'")
        opened.register("arrived", arrived.select(SCHEMA.names[:3]))
        opened.register("record", before)
        return pa.concat_tables([before, opened.execute(_NEW).to_arrow_table().cast(SCHEMA)])
    finally:
        opened.close()


def extend_file(path: Path, arrived: pa.Table) -> pa.Table:
    """Like :func:`with_suffixes`, with the record in a Parquet file that is replaced in one rename.

    A file that needs no new row is left as it is, so a second run changes nothing. Hold the repo's lock: two writers at
    once would give one number twice.

    Parameters
    ----------
    path : Path
        The record; it need not exist yet.
    arrived : pa.Table
        See :func:`with_suffixes`.

    Raises
    ------
    ArtifactCorruptError
        When the file is there and holds something else.
    StorageError
        When the disk refuses the write; the file is then what it was.
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
    """The record in a file; see :func:`with_suffixes` for its columns.

    Raises
    ------
    ArtifactCorruptError
        When it is damaged, or cannot be read as one.
    """
    try:
        return pq.ParquetFile(checked(path)).read(SCHEMA.names).select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ArtifactCorruptError(path, f"cannot be read as a record of suffixes ({error})") from error


def suffix_path(repo: Repo, name: str) -> Path:
    """The record of a codebook's suffixes. Its name must not look like a table of codes to the catalogue."""
    return repo.tables / f"sid_suffix_{name}.parquet"


def update_suffixes(repo: Repo, name: str, *, rebuild: bool = False) -> pa.Table:
    """Number the items of a published codebook; those that have a number keep it. Returns the whole record.

    All rows of its table count, superseded content too, so that running this more seldom skips no item's old codes.
    The suffix of an item is that of its newest codes: join on (item_id, codes).

    Parameters
    ----------
    repo : Repo
        Hold its lock.
    name : str
        A codebook with a table of codes.
    rebuild : bool
        Forget the record and number all items anew, in the order of time: for a damaged record.

    Raises
    ------
    UnknownVersionError
        When there is no such codebook.
    LifeCycleError
        When it has no table of codes.
    ArtifactCorruptError
        When the record cannot be read.
    """
    record, table = Catalog.open(repo).codebook(name), table_path(repo, name)
    if not record.has_codes or not table.exists():
        raise LifeCycleError(name, record.state, "its items can be numbered once it is published")
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        arrived = opened.execute(
            f"SELECT item_id, event_timestamp, codes FROM read_parquet({literal(checked(table))}) WHERE codes IS NOT NULL"
        ).to_arrow_table()
    path = suffix_path(repo, name)
    if rebuild:
        path.unlink(missing_ok=True)
    return extend_file(path, arrived)
