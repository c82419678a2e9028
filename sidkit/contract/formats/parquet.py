"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.contract.column_names import check_names
from sidkit.contract.formats.base import Part
from sidkit.core.errors import ContractError, TableSchemaError

_BATCH_BYTES = 1 << 27
"""Bytes of a batch at most, before they are decoded."""
_READ_BYTES = 1 << 20
"""Bytes of a column that are read at a time."""


class ParquetPart(Part):
    """One Parquet file."""

    def columns(self) -> dict[str, pa.DataType | None]:
        """See :meth:`Part.columns`."""
        try:
            schema = pq.read_schema(self.path)
            names = list(schema.names)
        except (pa.ArrowException, OSError) as error:
            raise ContractError(
                self.table, f"{self.path} cannot be read as Parquet ({error}); write the file again"
            ) from error
        except UnicodeDecodeError as error:
            raise TableSchemaError(
                self.table, f"expected column names in UTF-8, got {error.object!r} in {self.path}; rename it"
            ) from error
        check_names(names, self.table, self.path.name)
        return {field.name: field.type for field in schema}

    def rows(self) -> int | None:
        """See :meth:`Part.rows`."""
        return int(pq.read_metadata(self.path).num_rows)

    def batches(self, columns: Sequence[str], chunk_rows: int, kinds: Mapping[str, str]) -> Iterator[pa.RecordBatch]:
        """See :meth:`Part.batches`."""
        try:
            # Pages are read one by one: a row group with vectors may be larger than the memory.
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_READ_BYTES) as parquet:
                rows = min(chunk_rows, max(1, _BATCH_BYTES // (_row_bytes(parquet.metadata) + 1)))
                for batch in parquet.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
                    # Parquet treats "a" as a prefix of a column named "a.b".
                    yield batch.select(list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ContractError(
                self.table,
                f"{self.path} cannot be read as Parquet ({error}); write it again with vectors as list<float32>",
            ) from error


def _row_bytes(metadata: pq.FileMetaData) -> int:
    """Mean size of a row before compression."""
    total = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return int(total // max(metadata.num_rows, 1))
