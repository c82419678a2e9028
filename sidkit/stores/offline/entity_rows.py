"""The entity dataframe as Arrow: every column as it came, keys of mixed types in their declared type, times as microseconds."""

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
    """An entity dataframe as a table without metadata.

    Parameters
    ----------
    frame : pandas.DataFrame
        As it came.
    keys : mapping
        Join key -> the name of its declared value type.

    Raises
    ------
    ContractError
        When a column holds what Arrow has no type for; a key may mix texts and integers, if its declared type does.
    """
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except _REFUSED:
        names = list(map(str, frame.columns))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ContractError("entity_df", f"has the column {twice[0]} twice; rename one") from None
        return pa.table({str(name): _column(frame[name], keys.get(name, "")) for name in frame.columns})


def key_column(column: pd.Series, kind: str) -> pa.Array | pa.ChunkedArray:
    """One key of an entity dataframe."""
    return _column(column, kind)


def _column(column: pd.Series, kind: str) -> pa.Array | pa.ChunkedArray:
    try:
        found = pa.array(column, from_pandas=True)
        if pa.types.is_binary(found.type) and any(isinstance(value, str) for value in column):
            raise pa.ArrowTypeError("texts among bytes")  # Arrow makes bytes of both
        return found
    except _REFUSED as error:
        valid = column[column.notna()]
        kinds = {type(value) for value in valid}
        joined = ", ".join(sorted(found.__name__ for found in kinds))
        if any(isinstance(value, str) and not _is_utf8(value) for value in valid):
            raise ContractError("entity_df", f"{column.name} holds a text that is no UTF-8; correct it") from error
        if kind and all(issubclass(found, str | int | np.integer | uuid.UUID) and found is not bool for found in kinds):
            texts = [None if gone else str(value) for value, gone in zip(column, column.isna(), strict=True)]
            return pa.array(texts, pa.string())
        raise ContractError(
            "entity_df",
            f"{column.name} holds values of {joined or column.dtype}, which no one type holds. "
            f'{_remedy(kind)} frame["{column.name}"]{_conversion(kinds, kind)}',
        ) from error


def _remedy(kind: str) -> str:
    return "Make them integers, in pandas with" if kind in INTEGERS else "Make them texts, in pandas with"


def _conversion(kinds: set[type], kind: str) -> str:
    """A call that leaves nulls alone, writes whole floats without a fraction and bytes as their text."""
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
    """The times of the entity rows as int64 microseconds UTC, null where missing; nanoseconds are rounded down.

    Raises
    ------
    ContractError
        When they are numbers, or a value is no time.
    """
    if not pd.api.types.is_datetime64_any_dtype(column):
        if pd.api.types.is_numeric_dtype(column):
            raise ContractError(
                table,
                f"{column.name} came as {column.dtype}, whose unit nobody can know; give timestamps, for instance "
                "pd.to_datetime(seconds, unit='s', utc=True)",
            )
        try:
            column = pd.to_datetime(column, utc=True, format="mixed")
        except (ValueError, TypeError, OverflowError):
            # pandas counts nanoseconds, which end in 1677 and 2262.
            return pa.array([_moment(value, str(column.name), table) for value in column], pa.int64())
    if column.dt.tz is None:
        column = column.dt.tz_localize("UTC")
    missing = column.isna().to_numpy()
    values: npt.NDArray[np.datetime64] = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    micros = values.astype("datetime64[us]")
    coarse = np.datetime_data(values.dtype)[0] in {"s", "ms"}
    if coarse and (micros.astype(values.dtype) != values)[~missing].any():
        raise ContractError(table, f"{column.name} holds a time beyond what microseconds count; correct it")
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
            table, f"{name} holds {value!r}, which is no time; write ISO-8601, such as 2024-01-31T08:00:00Z"
        ) from error
