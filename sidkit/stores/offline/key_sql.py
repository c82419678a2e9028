"""SQL equivalent of :mod:`sidkit.stores.keys`, for feature tables that DuckDB joins."""

from __future__ import annotations

import pyarrow as pa

from sidkit.stores.keys import FLOATS, INTEGERS, UUIDS, is_binary, is_text, is_time
from sidkit.stores.offline.part_types import converts, plain, sql_cast

_CANONICAL = {
    "INT32": "BIGINT",
    "INT64": "BIGINT",
    "UNIX_TIMESTAMP": "BIGINT",
    "FLOAT": "DOUBLE",
    "DOUBLE": "DOUBLE",
    "BYTES": "BLOB",
    "BOOL": "BOOLEAN",
}


def key_sql(read: str, stored: pa.DataType, key: str, failed: str) -> str | None:
    """SQL that converts a key to its declared type.

    Parameters
    ----------
    read : str
        SQL expression of the stored key.
    stored : pyarrow.DataType
        Type of the stored key.
    key : str
        Declared value type.
    failed : str
        SQL that raises an error, used for values that cannot be converted.

    Returns
    -------
    str or None
        SQL expression; None if the stored type cannot be converted.
    """
    kind = plain(stored)
    if pa.types.is_null(kind):
        return f"NULL::{_CANONICAL.get(key, 'VARCHAR')}"
    if key in INTEGERS:
        return _integer(read, kind, "INTEGER" if key == "INT32" else "BIGINT", failed)
    if key in FLOATS and (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return f"CASE WHEN NOT isnan(({read})::{key}) THEN ({read})::{key}::DOUBLE END"
    if key == "UNIX_TIMESTAMP" and is_time(kind):
        return f"floor(epoch_us(({read})::TIMESTAMPTZ) / 1000000)::BIGINT"
    if key in UUIDS and (is_text(kind) or getattr(kind, "extension_name", "") == "arrow.uuid"):
        return f"CASE WHEN {read} IS NULL THEN NULL ELSE coalesce(TRY_CAST({read} AS UUID)::VARCHAR, {failed}) END"
    return _same(read, kind, key)


def _same(read: str, kind: pa.DataType, key: str) -> str | None:
    same = (key == "BYTES" and is_binary(kind)) or (key == "BOOL" and pa.types.is_boolean(kind))
    text = key not in _CANONICAL and (is_text(kind) or (key == "STRING" and pa.types.is_integer(kind)))
    return f"({read})::{_CANONICAL.get(key, 'VARCHAR')}" if same or text else None


def _integer(read: str, kind: pa.DataType, wanted: str, failed: str) -> str | None:
    if converts(kind, pa.int64()):
        return f"({sql_cast(read, kind, pa.int32() if wanted == 'INTEGER' else pa.int64(), failed)})::BIGINT"
    if not is_text(kind):
        return None
    digits = f"trim({read})"
    return (
        f"CASE WHEN {read} IS NULL THEN NULL WHEN regexp_full_match({digits}, '[+-]?[0-9]+') "
        f"THEN coalesce(TRY_CAST({digits} AS {wanted})::BIGINT, {failed}) ELSE {failed} END"
    )
