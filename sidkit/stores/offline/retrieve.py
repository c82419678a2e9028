"""Point-in-time retrieval without pandas: Arrow or Parquet in; a table, a stream, or Parquet out.

Feast's own ``get_historical_features`` takes a pandas frame, so its results are bounded by memory. Here rows are read,
joined and written in chunks, and wide lists can be returned as an index per row into the distinct feature rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.arrays import one_chunk
from sidkit.core.errors import ConfigError, ContractError
from sidkit.core.files import written_beside
from sidkit.stores.offline.binary_search import micros
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.old_paths import NEW_PATHS
from sidkit.stores.on_demand import ROW_TIME, reads_row_time

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

    from sidkit.stores.offline.jobs import AsofRetrievalJob

CHUNK_ROWS = 200_000


@dataclass(frozen=True)
class Retrieval:
    """A lazy point-in-time retrieval; nothing is read until one of the methods is called.

    Results have the rows' own columns unchanged and in order, followed by the features.
    """

    rows: pa.Table | Path
    job: AsofRetrievalJob
    adds_row_time: bool = False
    """Whether on-demand views get the rows' time, which is no column of the rows."""

    def views(self) -> list[ViewRows]:
        """Per feature view, an index per row into the distinct feature rows, without on-demand views."""
        needed = [*self.job.keys, self.job.at_column]
        rows = self.rows if isinstance(self.rows, pa.Table) else pq.read_table(self.rows, columns=needed)
        return self._views(rows)

    def to_arrow(self, *, dictionary: bool = False) -> pa.Table:
        """Return the result as one table.

        Parameters
        ----------
        dictionary : bool
            Return lists as dictionary arrays: an int32 index per row into the distinct lists.
        """
        rows = self.rows if isinstance(self.rows, pa.Table) else pq.read_table(self.rows)
        return self._answer(rows, dictionary)

    def batches(self, rows: int = CHUNK_ROWS, *, dictionary: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most ``rows`` rows; memory holds one of them and the feature tables.

        With ``dictionary`` each batch has its own dictionaries. On-demand views are computed per batch.
        """
        if self.job.by_day:
            column = [self.job.at_column]
            whole = self.rows if isinstance(self.rows, pa.Table) else pq.read_table(self.rows, columns=column)
            self.job.join_for(self._moments(whole))
        for chunk in self._chunks(rows):
            yield from self._answer(chunk, dictionary).combine_chunks().to_batches()

    def to_parquet(self, path: Path, rows: int = CHUNK_ROWS) -> int:
        """Write the result to a Parquet file, ``rows`` rows at a time, atomically.

        Returns
        -------
        int
            Number of rows written.

        Raises
        ------
        ContractError
            When there are no rows.
        """
        count = 0
        with written_beside(path) as temporary:
            writer: pq.ParquetWriter | None = None
            try:
                for batch in self.batches(rows):
                    writer = writer or pq.ParquetWriter(temporary, batch.schema, compression="zstd")
                    writer.write_batch(batch)
                    count += len(batch)
            finally:
                if writer is not None:
                    writer.close()
            if writer is None:
                raise ContractError("rows", f"expected at least one row, got none in {_described(self.rows)}")
        return count

    def _chunks(self, rows: int) -> Iterator[pa.Table]:
        if isinstance(self.rows, pa.Table):
            for start in range(0, len(self.rows), rows):
                yield self.rows.slice(start, rows)
            return
        with pq.ParquetFile(self.rows) as opened:
            for batch in opened.iter_batches(rows):
                yield pa.Table.from_batches([batch])

    def _answer(self, rows: pa.Table, dictionary: bool) -> pa.Table:
        rows = rows.replace_schema_metadata(None)
        if not dictionary:
            if not self.adds_row_time:
                return self.job.complete(rows, self._moments(rows))
            timed = rows.append_column(ROW_TIME, self._moments(rows))
            return self.job.complete(timed, self._moments(rows)).drop_columns([ROW_TIME])
        if self.job.on_demand_feature_views:
            raise ConfigError(
                "expected no on-demand views with dictionary=True, got "
                f"{', '.join(view.name for view in self.job.on_demand_feature_views)}; retrieve them without it"
            )
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        for view in self._views(rows):
            lists = [field.name for field in view.table.schema if pa.types.is_list(field.type)]
            narrow = ViewRows(view.name, view.index, view.table.drop_columns(lists)).plain()
            place = pa.array(view.index.astype("int32"), mask=view.index < 0)
            for name in view.table.column_names:
                if name not in lists:
                    columns[name] = narrow.column(name)
                    continue
                distinct = one_chunk(view.table.column(name))
                columns[name] = pa.chunked_array([pa.DictionaryArray.from_arrays(place, distinct)])
        return pa.table(columns)

    def _views(self, rows: pa.Table) -> list[ViewRows]:
        at_us = self._moments(rows)
        return self.job.join_for(at_us).views({key: rows.column(key) for key in self.job.keys}, at_us)

    def _moments(self, rows: pa.Table) -> pa.Array:
        return one_chunk(micros(rows.column(self.job.at_column)))


def retrieve(
    store: FeatureStore,
    rows: pa.Table | Path | str,
    features: FeatureService | Sequence[str],
    *,
    full_feature_names: bool = False,
    filter_by_created_timestamp: bool = False,
) -> Retrieval:
    """Retrieve the point-in-time features of rows.

    Parameters
    ----------
    store : FeatureStore
        Store whose offline store is ``sidkit.stores.offline.AsofDuckDBOfflineStore``.
    rows : pyarrow.Table or Path
        Entity rows, or a Parquet file of them: the join keys, a time column (``event_timestamp``, or the only timestamp
        column; naive times are UTC), and any other columns, which are returned unchanged. The request input ``at_us`` of
        on-demand views is the time, unless the rows have a column of that name.
    features : FeatureService or sequence of str
        As in ``get_historical_features``.
    full_feature_names : bool
        Prefix feature columns with their view's name.
    filter_by_created_timestamp : bool
        Use only feature rows created by the row's time.

    Returns
    -------
    Retrieval
        Gives a table, a stream or a file.

    Raises
    ------
    ContractError
        When the rows lack a column, or their time is not a timestamp.
    ConfigError
        When another offline store is used, a source is not local Parquet, or a column would be duplicated.
    """
    from sidkit.stores.offline.jobs import AsofRetrievalJob

    source = rows if isinstance(rows, pa.Table) else Path(rows)
    try:
        schema = source.schema if isinstance(source, pa.Table) else pq.read_schema(source)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError("rows", f"{source} cannot be read as Parquet ({error})") from error
    adds_row_time = ROW_TIME not in schema.names and reads_row_time(store, features)
    columns = (
        schema.remove_metadata().append(pa.field(ROW_TIME, pa.int64())) if adds_row_time else schema.remove_metadata()
    )
    # Feast resolves names on an empty frame with the same columns.
    job = store.get_historical_features(
        columns.empty_table().to_pandas(),
        features=features if not isinstance(features, Sequence) else list(features),
        full_feature_names=full_feature_names,
        filter_by_created_timestamp=filter_by_created_timestamp,
    )
    if not isinstance(job, AsofRetrievalJob):
        raise ConfigError(
            "expected offline_store.type sidkit.stores.offline.AsofDuckDBOfflineStore and sources that are local Parquet, "
            f"got {type(job).__name__}, which retrieve cannot stream from; call get_historical_features instead"
        )
    kind = schema.field(job.at_column).type
    if not pa.types.is_timestamp(kind):
        raise ContractError(
            "rows", f"expected a timestamp in {job.at_column}, preferably timestamp[us, UTC], got {kind}"
        )
    return Retrieval(source, job, adds_row_time)


def streams_from(store: FeatureStore) -> bool:
    """Whether :func:`retrieve` supports a store's offline store."""
    kind = str(getattr(store.config.offline_store, "type", ""))
    return NEW_PATHS.get(kind, kind) == "sidkit.stores.offline.AsofDuckDBOfflineStore"


def _described(rows: pa.Table | Path) -> str:
    return "the table" if isinstance(rows, pa.Table) else str(rows)


def joins_on_spark(store: FeatureStore) -> bool:
    """Whether a store's offline store is sidkit's on Spark (:func:`sidkit.stores.spark_offline.spark_views`)."""
    return str(getattr(store.config.offline_store, "type", "")) == "sidkit.stores.spark_offline.ArrowSparkOfflineStore"
