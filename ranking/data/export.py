"""`sidkit frame`: write the point-in-time features of given rows to a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ranking.data.code_counts import code_reader, has_code_counts
from ranking.data.code_frame import append_code_counts
from ranking.data.feature_views import historical_reader
from semantic_ids.catalog import Catalog
from semantic_ids.lookup import count_unknown
from sidkit.contract.row_files import check_row_file, normalised_batches
from sidkit.contract.schemas import ENTITY_ROWS
from sidkit.core.errors import ContractError
from sidkit.core.files import check_output, temporary_beside, written_beside
from sidkit.core.repo import Repo
from sidkit.stores.on_demand import ServiceViews
from sidkit.tables import read_build

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

_CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class WrittenFrame:
    """Summary of a written frame."""

    rows: int
    columns: int
    service: str
    ahead: int
    """Rows later than the tables' as-of time; their features are as of that time."""
    unknown: int
    """Rows whose item is not in the tables."""


def write_frame(repo: Repo, rows: Path, out: Path, service: str | None = None) -> WrittenFrame:
    """Retrieve features through a feature service and write them next to the columns of the rows, in the same order.

    The counts per prefix of the rows' codes follow, for the service ``ctr_<codebook>`` of a codebook that has them.

    Parameters
    ----------
    repo : Repo
        With built tables and a published codebook.
    rows : Path
        Parquet with ``user_id``, ``item_id`` (text or integers) and ``event_timestamp`` (with a time zone); other columns
        are carried over. Ids are written as text and times as ``timestamp[us, UTC]``, as in the log.
    out : Path
        Output file; written in chunks, so it may be larger than memory, and renamed at the end.
    service : str, optional
        By default ``ctr_<serving codebook>``.

    Raises
    ------
    ContractError
        When a column is missing, or a row is invalid.
    UnknownVersionError
        When there is no such service.
    """
    from sidkit.stores.feast_repo import feature_service, open_store
    from sidkit.stores.quiet_import import quiet_feast

    quiet_feast()
    check_output(out)
    store = open_store(repo)
    name = service or Catalog.open(repo).serving_codebook().service_name
    features = feature_service(store, name)
    try:
        with _in_contract_types(rows, out) as typed:
            _refuse_missing_inputs(store, features, typed)
            if has_code_counts(store, name):
                reader = code_reader(store, name, partial(historical_reader, store))
                with temporary_beside(out, "first-") as first:
                    count = _retrieve(store, features, typed, first)
                    append_code_counts(reader, first, out, _CHUNK_ROWS)
            else:
                count = _retrieve(store, features, typed, out)
    except pa.ArrowException as error:  # the required columns were read before
        raise ContractError(
            "rows",
            f"an extra column of {rows} cannot be written ({error}); remove it, or change its type",
        ) from error
    written = pq.read_table(out, columns=["event_timestamp", "item_id"])
    moments = written.column("event_timestamp")
    ahead = pc.sum(pc.greater(moments, pa.scalar(read_build(repo)["as_of_us"], pa.timestamp("us", tz="UTC")))).as_py()
    return WrittenFrame(count, len(pq.read_schema(out)), name, ahead, count_unknown(repo, written.column("item_id")))


@contextmanager
def _in_contract_types(rows: Path, out: Path) -> Iterator[Path]:
    """The file itself if ids are text and times are microseconds in UTC, else a converted copy next to ``out``."""
    if check_row_file(rows, ENTITY_ROWS):
        yield rows
        return
    with temporary_beside(out, "typed-") as typed:
        batches = normalised_batches(rows, ENTITY_ROWS)
        first = next(batches)
        with pq.ParquetWriter(typed, first.schema, compression="zstd") as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
        yield typed


def _retrieve(store: FeatureStore, features: FeatureService, rows: Path, out: Path) -> int:
    """Write the rows with their features; returns their number."""
    from sidkit.stores.offline.retrieve import retrieve, streams_from

    if streams_from(store):
        return retrieve(store, rows, features, full_feature_names=True).to_parquet(out, _CHUNK_ROWS)
    return _retrieve_with_feast(store, features, rows, out)


def _retrieve_with_feast(store: FeatureStore, features: FeatureService, rows: Path, out: Path) -> int:
    """Retrieve through ``get_historical_features``, for offline stores other than the kit's own."""
    count, source = 0, pq.ParquetFile(rows)
    read = historical_reader(store, features)
    with written_beside(out) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for batch in source.iter_batches(batch_size=_CHUNK_ROWS):
                table = pa.Table.from_batches([batch])
                moments = table.column("event_timestamp").cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
                views = read(dict(zip(table.column_names, table.columns, strict=True)), moments.to_numpy())
                for view in views.values():
                    plain = view.plain()
                    for column, values in zip(plain.column_names, plain.columns, strict=True):
                        table = table.append_column(column, values)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
                count += len(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ContractError("rows", f"{rows} has no rows; pass at least one")
    return count


def _refuse_missing_inputs(store: FeatureStore, features: FeatureService, rows: Path) -> None:
    """Raise if the rows lack columns that own views read."""
    columns = pq.read_schema(rows).names
    missing = [name for name in ServiceViews.of(store, features).inputs if name not in columns]
    if missing:
        raise ContractError(
            "rows",
            f"expected the columns {', '.join(missing)}, which views of {features.name} read, got {', '.join(columns)}; add "
            "them",
        )
