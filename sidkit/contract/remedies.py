"""Remedies for columns of the wrong type: a line of pandas that converts the column.

Every line is executed by a test on such a column and leads to a valid table.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.units import unit_of

_FORMATS = [
    day + clock
    for day in ("%d.%m.%Y", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%m-%d-%Y", "%d-%m-%Y", "%d %b %Y", "%b %d, %Y")
    for clock in ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M:%S %p")
] + ["%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %Y", "%d/%b/%Y:%H:%M:%S %z"]
_FLOATS = "lambda value: np.array(value, dtype='float32')"
_YES = ("click", "clicked", "yes", "y", "true", "t", "1", "1.0", "positive", "like", "liked", "purchase", "buy", "view")


def remedy(kind: str, name: str, array: pa.Array) -> str:
    """A line of pandas for ``df[name]``; ``kind`` is the contract's column kind, ``array`` the actual values."""
    line = f"df[{name!r}] = {_LINES[kind](f'df[{name!r}]', array)}"
    line = line if '"' in line else line.replace("'", '"')
    if kind != "moment":
        return line
    if "ISO8601" in line:
        return f"{line}  # or append 'Z' to the text"
    if '"mixed"' in line or any(form in line for form in ("%m/%d", "%m-%d")):
        return f"{line}  # check that days and months are not swapped"
    return line


def is_iso(text: str | None) -> bool:
    """Whether a text is an ISO 8601 time or date; digits alone count as a number."""
    try:
        return text is not None and not text.isdigit() and datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def _id(column: str, array: pa.Array) -> str:
    if _is_whole(array):
        return f"{column}.astype('float64').astype('Int64')"
    return _string(column, array)


def _string(column: str, array: pa.Array) -> str:
    kind = array.type
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:
        return f"{column}.map(lambda value: str(uuid.UUID(bytes=value)), na_action='ignore')"
    if pa.types.is_fixed_size_binary(kind):
        return f"{column}.map(bytes.hex, na_action='ignore')"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return f"{column}.str.decode('utf-8')" if _is_text(array) else f"{column}.map(bytes.hex, na_action='ignore')"
    if _is_list(kind):
        return f"{column}.map(lambda value: ' '.join(map(str, value)), na_action='ignore')"
    if pa.types.is_struct(kind):
        return f"{column}.map(lambda value: value[{kind.field(0).name!r}], na_action='ignore').astype('string')"
    return f"{column}.astype('string')"


def _moment(column: str, array: pa.Array) -> str:  # noqa: PLR0911 (one line per type)
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.tz is None:
        return f"{column}.dt.tz_localize('UTC')  # if the times are in UTC"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        newest = _newest(array)
        if 19_000_101 <= newest <= 22_000_101:
            return f"pd.to_datetime({column}.astype('Int64').astype('string'), format='%Y%m%d', utc=True)"
        return f"pd.to_datetime({column}.astype('float64'), unit={unit_of(newest) or 's'!r}, utc=True)"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _moment(f"{column}.str.decode('utf-8', 'replace')", _decoded(array))
    if pa.types.is_duration(kind):
        return f"pd.Timestamp('1970-01-01', tz='UTC') + {column}"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if _all_numbers(array):
            numbers = pc.cast(array, pa.float64())
            return _moment(f"pd.to_numeric({column})", numbers)
        return f"pd.to_datetime({column}, utc=True, {_format_of(array)})"
    return f"pd.to_datetime({column}, utc=True)"


def _format_of(array: pa.Array) -> str:
    """Arguments for ``pd.to_datetime`` on text, never guesses that could silently swap days and months."""
    texts = [text for text in pc.unique(array).to_pylist()[:1000] if text is not None]
    if all(is_iso(text) for text in texts):
        return "format='ISO8601'"
    if 2 * sum(is_iso(text) for text in texts) > len(texts):
        return "format='ISO8601', errors='coerce'"
    fitting = [form for form in _FORMATS if all(_reads(text, form) for text in texts)]
    return f"format={fitting[0]!r}" if fitting else "format='mixed', errors='coerce'"


def _reads(text: str, form: str) -> bool:
    try:
        return datetime.strptime(text, form) is not None
    except ValueError:
        return False


def _flag(column: str, array: pa.Array) -> str:
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _flag(f"{column}.str.decode('utf-8', 'replace')", _decoded(array))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if _all_numbers(array):
            return f"pd.to_numeric({column}).astype('float64')"
        values = [str(value) for value in pc.unique(array).to_pylist() if value is not None]
        positive = next(
            (value for word in _YES for value in values if value.strip().lower() == word), (values or ["1"])[0]
        )
        # Missing values stay missing: they are not negatives.
        return f"({column} == {positive!r}).astype('float64').where({column}.notna())"
    if pa.types.is_decimal(kind):
        return f"{column}.astype('float64')"
    if _is_list(kind):
        return f"({column}.str.len() > 0).astype('int8')"
    return f"{column}.notna().astype('int8')"


def _number(column: str, array: pa.Array) -> str:  # noqa: PLR0911 (one line per type)
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return f"pd.to_numeric({column}.str.decode('utf-8'), errors='coerce')"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return f"pd.to_numeric({column}, errors='coerce')"
    if _is_list(kind):
        return f"pd.to_numeric({column}.str[0], errors='coerce')"
    if pa.types.is_struct(kind):
        return f"pd.to_numeric({column}.map(lambda value: value[{kind.field(0).name!r}], na_action='ignore'), errors='coerce')"
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        return f"{column}.astype('float64')"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return f"pd.to_datetime({column}).astype('int64').astype('float64')"
    return f"pd.to_numeric({column}, errors='coerce')"


def _vector(column: str, array: pa.Array) -> str:  # noqa: PLR0911 (one line per type)
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return f"{column}.str.strip('[]()').str.replace(',', ' ').str.split().map({_FLOATS}, na_action='ignore')"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return f"{column}.map(lambda value: {_blob_reader(array)}, na_action='ignore')"
    if pa.types.is_struct(kind):
        return (
            f"{column}.map(lambda value: list(value.values()), na_action='ignore').map({_FLOATS}, na_action='ignore')"
        )
    if pa.types.is_map(kind):
        return f"{column}.map(lambda value: np.array([each for _, each in value], dtype='float32'), na_action='ignore')"
    if _is_list(kind) and _is_list(kind.value_type):
        return f"{column}.map(lambda value: np.concatenate(list(value)), na_action='ignore').map({_FLOATS}, na_action='ignore')"
    if _is_list(kind):
        return f"{column}.map({_FLOATS}, na_action='ignore')"
    return f"{column}.map(lambda value: np.array([value], dtype='float32'), na_action='ignore')"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_whole(array: pa.Array) -> bool:
    """Whether these are floats without fractions, as pandas writes integers with missing values."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return True
    if not (pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return False
    values = array.cast(pa.float64(), safe=False).drop_null().to_numpy(zero_copy_only=False)
    values = values[~np.isnan(values)]
    whole: bool = bool((np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53)).all())
    return whole


def _blob_reader(array: pa.Array) -> str:
    """Expression that decodes a vector's bytes: as an ``.npy`` file, or as the dtype that gives plausible values."""
    blobs = [value for value in array.slice(0, 100).to_pylist() if value]
    if all(blob.startswith(b"\x93NUMPY") for blob in blobs):
        return "np.load(io.BytesIO(value)).astype('float32')"
    for kind, size in (("float32", 4), ("float64", 8), ("float16", 2)):
        if all(len(blob) % size == 0 and looks_like_a_vector(np.frombuffer(blob, kind)) for blob in blobs):
            return f"np.frombuffer(value, {kind!r}).astype('float32')"
    return "np.frombuffer(value, 'float32')"


def looks_like_a_vector(values: np.ndarray[Any, Any]) -> bool:
    """Whether the numbers are plausible as a vector: neither wild nor pairs of a zero and a number."""
    sizes = np.abs(values.astype(np.float64))
    plausible = np.isfinite(sizes) & ((sizes == 0) | ((sizes > 1e-9) & (sizes < 1e9)))
    # Round float64 numbers look like pairs of a zero and a float32 number.
    halved = values.dtype == np.float32 and len(values) % 2 == 0 and not sizes[::2].any() and bool(sizes[1::2].any())
    return bool(plausible.all()) and not halved


def _decoded(array: pa.Array) -> pa.Array:
    values = array.to_pylist()
    return pa.array([None if value is None else value.decode("utf-8", "replace") for value in values], pa.string())


def _is_text(array: pa.Array) -> bool:
    try:
        return all(value is None or bool(value.decode("utf-8")) or not value for value in array.to_pylist())
    except UnicodeDecodeError:
        return False


def _all_numbers(array: pa.Array) -> bool:
    try:
        pc.cast(array, pa.float64())
    except pa.ArrowInvalid:
        return False
    return int(array.null_count) < len(array)


def _newest(array: pa.Array) -> int:
    values = array.cast(pa.float64(), safe=False).drop_null().to_numpy(zero_copy_only=False)
    values = values[np.isfinite(values)]
    return int(np.median(values)) if len(values) else 0


_LINES: dict[str, Callable[[str, pa.Array], str]] = {
    "id": _id,
    "string": _string,
    "moment": _moment,
    "flag": _flag,
    "integer": _number,
    "number": _number,
    "vector": _vector,
}
