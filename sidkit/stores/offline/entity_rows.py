"""Conversion of the entity dataframe to Arrow: unchanged columns, keys of mixed types, times in microseconds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from sidkit.core.clock import to_us
from sidkit.core.errors import ContractError
from sidkit.stores.keys import INTEGERS

_REFUSED = (pa.ArrowException, ValueError, TypeError, OverflowError)


def entity_table(frame: pd.DataFrame, keys: Mapping[str, str]) -> pa.Table:
    """Convert an entity dataframe to a table without metadata.

    Parameters
    ----------
    frame : pandas.DataFrame
        Entity dataframe as passed by the user.
    keys : mapping
        Join key -> name of its declared value type.

    Raises
    ------
    ContractError
        When a column has no Arrow type; a key may mix texts and integers if they convert to its declared type.
    """
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except _REFUSED:
        names = list(map(str, frame.columns))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ContractError(
                "entity_df", f"expected unique column names, got {twice[0]} twice; rename one"
            ) from None
        return pa.table({str(name): _column(frame[name], keys.get(name, "")) for name in frame.columns})


def key_column(column: pd.Series, kind: str) -> pa.Array | pa.ChunkedArray:
    """Convert one key of an entity dataframe."""
    return _column(column, kind)


def _column(column: pd.Series, kind: str) -> pa.Array | pa.ChunkedArray:
    try:
        array = pa.array(column, from_pandas=True)
        if pa.types.is_binary(array.type) and any(isinstance(value, str) for value in column):
            raise pa.ArrowTypeError("texts among bytes")  # Arrow converts both to bytes
        return array
    except _REFUSED as error:
        valid = column[column.notna()]
        kinds = {type(value) for value in valid}
        joined = ", ".join(sorted(each.__name__ for each in kinds))
        if any(isinstance(value, str) and not _is_utf8(value) for value in valid):
            raise ContractError(
                "entity_df", f"expected UTF-8 text in {column.name}, got other bytes; correct it"
            ) from error
        if kind and all(issubclass(each, str | int | np.integer | uuid.UUID) and each is not bool for each in kinds):
            texts = [None if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]
            return pa.array(texts, pa.string())
        raise ContractError(
            "entity_df",
            f"expected one type in {column.name}, got {joined or column.dtype}. "
            f'{_remedy(kind)} frame["{column.name}"]{_conversion(kinds, kind)}',
        ) from error


def _remedy(kind: str) -> str:
    return "Convert to integers, in pandas with" if kind in INTEGERS else "Convert to texts, in pandas with"


def _conversion(kinds: set[type], kind: str) -> str:
    """A pandas call that preserves nulls and converts whole floats and bytes to plain text."""
    if kind in INTEGERS:
        return '.map(int, na_action="ignore").astype("Int64")'
    if bytes in kinds:
        return '.map(lambda value: value.decode() if isinstance(value, bytes) else str(value), na_action="ignore")'
    if float in kinds:
        return '.map(lambda value: f"{value:.0f}" if isinstance(value, float) else str(value), na_action="ignore")'
    return '.astype("string")'


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def moments(column: pd.Series, table: str = "entity_df") -> pa.Array:
    """Convert times of entity rows to int64 microseconds UTC, null if missing; nanoseconds are rounded down.

    Raises
    ------
    ContractError
        When they are numbers, or a value is not a time.
    """
    if not pd.api.types.is_datetime64_any_dtype(column):
        if pd.api.types.is_numeric_dtype(column):
            raise ContractError(
                table,
                f"expected timestamps in {column.name}, got {column.dtype}, whose unit is unknown; convert them, such as "
                "pd.to_datetime(seconds, unit='s', utc=True)",
            )
        try:
            column = pd.to_datetime(column, utc=True, format="mixed")
        except (ValueError, TypeError, OverflowError):
            # pandas uses nanoseconds, which are limited to 1677..2262.
            return pa.array([_moment(value, str(column.name), table) for value in column], pa.int64())
    if column.dt.tz is None:
        column = column.dt.tz_localize("UTC")
    missing = column.isna().to_numpy()
    values: npt.NDArray[np.datetime64] = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    micros = values.astype("datetime64[us]")
    coarse = np.datetime_data(values.dtype)[0] in {"s", "ms"}
    if coarse and (micros.astype(values.dtype) != values)[~missing].any():
        raise ContractError(
            table, f"expected times in the range of microseconds in {column.name}, got one beyond it; correct it"
        )
    return pa.array(micros.astype(np.int64), mask=missing)


def _moment(value: Any, name: str, table: str) -> int | None:
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return None
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(at, pd.Timestamp):
            at = at.to_pydatetime(warn=False)
        if not isinstance(at, datetime):
            at = datetime(at.year, at.month, at.day)
        return to_us(at if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ContractError(
            table, f"expected a time in {name}, such as 2024-01-31T08:00:00Z (ISO 8601), got {value!r}"
        ) from error
