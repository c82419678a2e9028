"""Tables in memory: pandas, Polars and Arrow in; Arrow inside; the caller's kind out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pyarrow as pa

from sidkit.core.errors import ContractError

if TYPE_CHECKING:
    import polars as pl

TableLike: TypeAlias = "pd.DataFrame | pl.DataFrame | pa.Table"
"""A table in memory: ``pandas.DataFrame``, ``polars.DataFrame``, ``pyarrow.Table``, or any object with
``__arrow_c_stream__`` (a DuckDB relation, a record batch reader).
"""


def to_arrow(table: TableLike, name: str) -> pa.Table:
    """Convert a table in memory to Arrow; fixed-size lists become lists, and a pandas index is dropped.

    Parameters
    ----------
    table : TableLike
        The table.
    name : str
        Its name in error messages.

    Raises
    ------
    ContractError
        When it is not a table, column names are not text, or a column cannot be converted.
    """
    try:
        if isinstance(table, pd.DataFrame):
            _check_pandas(table, name)
            arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
        elif hasattr(table, "__arrow_c_stream__"):
            arrow = pa.table(table)
        else:
            raise ContractError(
                name,
                f"expected a pandas or Polars DataFrame or an Arrow table, got {type(table).__name__}; pass "
                "pandas.DataFrame(...), or write Parquet files and pass their folder as data",
            )
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ContractError(
            name, f"a column cannot be converted to Arrow ({error}); give every column values of one type"
        ) from error
    return pa.Table.from_arrays([_plain(column) for column in arrow.columns], names=arrow.column_names)


def _check_pandas(table: pd.DataFrame, name: str) -> None:
    wrong = [column for column in table.columns if not isinstance(column, str)]
    if wrong:
        raise ContractError(name, f"expected column names as text, got {wrong[0]!r}; rename the columns")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise ContractError(name, f"expected distinct column names, got {twice!r} twice; rename or drop one")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose fixed-size lists are lists, whose dictionaries are values, and whose views are plain texts or bytes."""
    if pa.types.is_fixed_size_list(column.type):
        return column.cast(pa.list_(column.type.value_type))
    if pa.types.is_dictionary(column.type):
        return _plain(column.cast(column.type.value_type))
    if pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    if pa.types.is_binary_view(column.type):
        return column.cast(pa.binary())
    return column


def like(table: pa.Table, given: TableLike) -> Any:
    """Convert an Arrow table to the kind of a given table: pandas, Polars, or else Arrow."""
    if isinstance(given, pd.DataFrame):
        return table.to_pandas()
    if type(given).__module__.partition(".")[0] == "polars":
        import polars

        return polars.from_arrow(table)
    return table


def records_frame(records: Sequence[Any], columns: Sequence[str], times: Sequence[str] = ()) -> pd.DataFrame:
    """A frame of dataclass records; columns in ``times`` hold microseconds UTC and become timestamps.

    A time of 0 means that there is none, and becomes NaT.
    """
    frame = pd.DataFrame([asdict(record) for record in records], columns=list(columns))
    for column in times:
        moments = pd.to_datetime(frame[column].astype("int64"), unit="us", utc=True).dt.as_unit("us")
        frame[column] = moments.where(frame[column] != 0)
    return frame.rename(columns={column: column.removesuffix("_us") for column in times})
