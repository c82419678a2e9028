"""Point-in-time retrieval without pandas: Arrow or Parquet in; a table, a stream, or Parquet out.

Feast's own ``get_historical_features`` takes a pandas frame, so what it can answer is bounded by memory. Here rows are read,
joined and written a chunk at a time, and wide lists may stay an index per row beside the distinct feature rows.
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

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

    from sidkit.stores.offline.jobs import AsofRetrievalJob

CHUNK_ROWS = 200_000


@dataclass(frozen=True)
class Retrieval:
    """Rows and what was asked of them; nothing is read until one of the methods is called.

    The rows' own columns come back as they were, in their order, before the features.
    """

    rows: pa.Table | Path
    job: AsofRetrievalJob

    def views(self) -> list[ViewRows]:
        """What each feature view gave: an index per row and the distinct feature rows. On-demand views are left out."""
        asked = [*self.job.join.keys, self.job.at_column]
        rows = self.rows if isinstance(self.rows, pa.Table) else pq.read_table(self.rows, columns=asked)
        return self.job.join.views({key: rows.column(key) for key in self.job.join.keys}, self._moments(rows))

    def to_arrow(self, *, dictionary: bool = False) -> pa.Table:
        """Everything as one table.

        Parameters
        ----------
        dictionary : bool
            Lists come as dictionary arrays: an int32 index per row and the distinct lists once.
        """
        return self._answer(self.rows if isinstance(self.rows, pa.Table) else pq.read_table(self.rows), dictionary)

    def batches(self, rows: int = CHUNK_ROWS, *, dictionary: bool = False) -> Iterator[pa.RecordBatch]:
        """A stream of batches of at most ``rows`` rows; memory holds one of them and the feature tables.

        With ``dictionary`` each batch has dictionaries of its own. An on-demand view sees one batch at a time.
        """
        for chunk in self._chunks(rows):
            yield from self._answer(chunk, dictionary).combine_chunks().to_batches()

    def to_parquet(self, path: Path, rows: int = CHUNK_ROWS) -> int:
        """Write everything to a Parquet file, ``rows`` rows at a time, and rename it into place.

        Returns
        -------
        int
            Rows written.

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
                raise ContractError("rows", f"{_told(self.rows)} holds no row; nothing to retrieve")
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
            return self.job.complete(rows, self._moments(rows))
        if self.job.on_demand_feature_views:
            raise ConfigError(
                f"{', '.join(view.name for view in self.job.on_demand_feature_views)} are computed from plain columns; "
                "retrieve them without dictionary=True"
            )
        columns = dict(zip(rows.column_names, rows.columns, strict=True))
        for view in self.job.join.views({key: rows.column(key) for key in self.job.join.keys}, self._moments(rows)):
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
    """Ask for the point-in-time features of some rows.

    Parameters
    ----------
    store : FeatureStore
        Its offline store is ``sidkit.stores.offline.AsofDuckDBOfflineStore``.
    rows : pyarrow.Table or Path
        Entity rows, or a Parquet file of them: the join keys, a time column (``event_timestamp``, or the only column of
        times; naive times are UTC), and any further columns, which are kept.
    features : FeatureService or sequence of str
        As ``get_historical_features`` takes them.
    full_feature_names : bool
        Whether feature columns carry their view's name.
    filter_by_created_timestamp : bool
        Only feature rows that were created by the row's time take part.

    Returns
    -------
    Retrieval
        From which tables, streams and files are taken.

    Raises
    ------
    ContractError
        When the rows lack a column, or their time is no timestamp.
    ConfigError
        When the store is another one, or a source is no local Parquet, or a column would be there twice.
    """
    from sidkit.stores.offline.jobs import AsofRetrievalJob

    found = rows if isinstance(rows, pa.Table) else Path(rows)
    try:
        schema = found.schema if isinstance(found, pa.Table) else pq.read_schema(found)
    except (OSError, pa.ArrowInvalid) as error:
        raise ContractError("rows", f"{found} cannot be read as Parquet ({error})") from error
    # Feast resolves names on a frame with the same columns and no row.
    job = store.get_historical_features(
        schema.remove_metadata().empty_table().to_pandas(),
        features=features if not isinstance(features, Sequence) else list(features),
        full_feature_names=full_feature_names,
        filter_by_created_timestamp=filter_by_created_timestamp,
    )
    if not isinstance(job, AsofRetrievalJob):
        raise ConfigError(
            f"retrieve cannot stream from {type(job).__name__}: it needs offline_store.type "
            "sidkit.stores.offline.AsofDuckDBOfflineStore and sources that are local Parquet; elsewhere call "
            "get_historical_features"
        )
    kind = schema.field(job.at_column).type
    if not pa.types.is_timestamp(kind):
        raise ContractError("rows", f"{job.at_column} is {kind}; a timestamp is needed, best timestamp[us, UTC]")
    return Retrieval(found, job)


def streams_from(store: FeatureStore) -> bool:
    """Whether a store's offline store is the one that :func:`retrieve` needs."""
    kind = str(getattr(store.config.offline_store, "type", ""))
    return NEW_PATHS.get(kind, kind) == "sidkit.stores.offline.AsofDuckDBOfflineStore"


def _told(rows: pa.Table | Path) -> str:
    return "the table" if isinstance(rows, pa.Table) else str(rows)
