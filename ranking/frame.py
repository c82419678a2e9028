"""`sidkit frame`: the point-in-time features of any rows, as a plain Parquet file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from semantic_ids.catalog import Catalog
from sidkit.errors import ContractError, UnknownVersionError
from sidkit.files import written_beside
from sidkit.repo import Repo

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

_CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class WrittenFrame:
    """What was written."""

    rows: int
    columns: int
    service: str


def write_frame(repo: Repo, rows: Path, out: Path, service: str | None = None) -> WrittenFrame:
    """Retrieve features through a feature service and write them beside the rows, in the rows' order.

    Parameters
    ----------
    repo : Repo
        With built tables and a published codebook.
    rows : Path
        Parquet with ``user_id``, ``item_id`` and ``event_timestamp`` (with a time zone); further columns are kept.
    out : Path
        Where to; written in chunks, so that a frame larger than memory works, and renamed.
    service : str, optional
        By default ``ctr_<serving codebook>``.

    Raises
    ------
    ContractError
        When the rows lack a column or their times have no zone.
    UnknownVersionError
        When there is no such service.
    """
    from sidkit.stores.feast_repo import open_store, quiet_feast

    quiet_feast()
    from feast.errors import FeatureServiceNotFoundException

    from sidkit.stores.retrieve import retrieve, streams_from

    store = open_store(repo)
    name = service or Catalog.open(repo).serving_codebook().service_name
    try:
        asked = store.get_feature_service(name)
    except FeatureServiceNotFoundException as error:
        known = sorted(found.name for found in store.list_feature_services())
        raise UnknownVersionError("feature service", name, known) from error
    try:
        source = pq.ParquetFile(rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError("rows", f"{rows} cannot be read as Parquet ({error})") from error
    _check(source.schema_arrow)
    if streams_from(store):
        count = retrieve(store, rows, asked, full_feature_names=True).to_parquet(out, _CHUNK_ROWS)
    else:
        count = _through_pandas(store, source, asked, rows, out)
    return WrittenFrame(count, len(pq.read_schema(out)), name)


def _through_pandas(store: FeatureStore, source: pq.ParquetFile, asked: FeatureService, rows: Path, out: Path) -> int:
    """As the kit's store writes it, through the interface that every offline store has."""
    import pandas as pd

    count = 0
    with written_beside(out) as temporary:
        writer: pq.ParquetWriter | None = None
        try:
            for batch in source.iter_batches(batch_size=_CHUNK_ROWS):
                table = pa.Table.from_batches([batch])
                entities = pd.DataFrame(
                    {key: table.column(key).to_pandas() for key in ("user_id", "item_id", "event_timestamp")}
                )
                entities["__row"] = range(len(entities))
                found = store.get_historical_features(entities, features=asked, full_feature_names=True).to_arrow()
                found = found.sort_by("__row").drop_columns(["__row", "user_id", "item_id", "event_timestamp"])
                for column, values in zip(found.column_names, found.columns, strict=True):
                    table = table.append_column(column, values)
                writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
                count += len(table)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ContractError("rows", f"{rows} holds no row; nothing to retrieve")
    return count


def _check(schema: pa.Schema) -> None:
    missing = [name for name in ("user_id", "item_id", "event_timestamp") if name not in schema.names]
    if missing:
        raise ContractError("rows", f"lacks {', '.join(missing)}; it has {', '.join(schema.names)}")
    kind = schema.field("event_timestamp").type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise ContractError("rows", f"event_timestamp is {kind}; timestamp[us, UTC] is needed, with the zone")
