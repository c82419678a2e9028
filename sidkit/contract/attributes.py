"""Kinds of attribute and context columns, inferred from their types and a sample of their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import duckdb
import pyarrow as pa

from sidkit.contract.attribute_values import SEPARATORS, types_of
from sidkit.contract.rows import can_be_carried, carried
from sidkit.contract.schemas import INTERACTIONS, ITEMS, USERS, Table
from sidkit.contract.source import Source
from sidkit.core.engine import literal, quoted
from sidkit.core.feature_settings import OUTCOMES, AttributeKind, is_attribute_name

SAMPLE_ROWS = 100_000
"""Rows read per table, from its beginning."""
_CHUNK_ROWS = 20_000
_LONGEST_CATEGORY = 100
"""Characters of a category on average; longer texts are descriptions."""
_CODE = re.compile(r"(^|_)(id|ids|code|category|no|nr|zip|zipcode|postcode|postal_code|sku|key|class|type)$")
_ISO = r"^\d{4}-\d{2}-\d{2}([T ].*)?$"
_WORDS = {"true", "false", "t", "f", "yes", "no", "y", "n"}
_NUMBERS = re.compile(r"FLOAT|DOUBLE|DECIMAL\(.*\)")
_INTEGERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")
_NOT_ATTRIBUTES = {
    ITEMS.name: frozenset({"item_id", "created_at", "updated_at", "removed_at", "title", "text", "price"}),
    USERS.name: frozenset({"user_id", "created_at", "updated_at"}),
    INTERACTIONS.name: frozenset({"user_id", "item_id", "timestamp", "label", "request_id", "position"}),
}


class ColumnKind(NamedTuple):
    """The inferred kind of a column, None if it is not a feature, and the reason."""

    kind: AttributeKind | None
    reason: str


def attribute_kinds(source: Source, table: Table) -> dict[str, ColumnKind]:
    """Infer the kinds of the attributes of ``items`` or ``users``, or of the context columns of ``interactions``.

    Columns with a meaning of their own (ids, times, ``title``, ``text``, ``price``, ...) are not listed.

    Parameters
    ----------
    source : Source
        The source; at most :data:`SAMPLE_ROWS` rows are read.
    table : Table
        :data:`~sidkit.contract.schemas.ITEMS`, :data:`~sidkit.contract.schemas.USERS` or
        :data:`~sidkit.contract.schemas.INTERACTIONS`.

    Returns
    -------
    dict
        Column -> kind and reason; empty if the source lacks the table.
    """
    if not source.has(table.name):
        return {}
    stored = source.columns(table.name)
    columns = [name for name in stored if name not in _NOT_ATTRIBUTES[table.name]]
    kinds = {name: _by_name(name, table, stored[name]) for name in columns}
    open_ones = [name for name, kind in kinds.items() if kind is None]
    if open_ones:
        key = next((name for name in ("item_id", "user_id") if name in stored and table is not INTERACTIONS), None)
        sample = _sample(source, table, open_ones, key)
        kinds |= _by_values(sample, open_ones, key)
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _by_name(name: str, table: Table, stored: pa.DataType | None) -> ColumnKind | None:
    """The decision if name and type suffice, else None."""
    if not is_attribute_name(name):
        return ColumnKind(
            None,
            "the name cannot be a feature name (letters, digits and underscores, starting with a letter, not ending in '_y'); "
            "rename it with [source.columns]",
        )
    if table is INTERACTIONS and name.lower() in OUTCOMES:
        return ColumnKind(None, "known only after the user reacts, so it is no feature")
    if not can_be_carried(stored):
        return ColumnKind(None, f"values of type {stored} are not stored; write lists as list<float> or list<string>")
    return None


def _sample(source: Source, table: Table, columns: list[str], key: str | None) -> pa.Table:
    """The first rows; a column whose parts have no common type becomes text."""
    wanted = [*columns, *([key] if key else [])]
    parts: list[pa.Table] = []
    rows = 0
    for batch in source.batches(table.name, wanted, _CHUNK_ROWS):
        parts.append(pa.table([_plain(column) for column in batch.columns], names=wanted))
        rows += batch.num_rows
        if rows >= SAMPLE_ROWS:
            break
    if not parts:
        return pa.table({name: pa.nulls(0) for name in wanted})
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException:
        return pa.concat_tables([_as_text(part) for part in parts], promote_options="permissive")


def _plain(column: pa.Array) -> pa.Array:
    """The values as the log stores them."""
    column = carried(column)
    if pa.types.is_float16(column.type):  # DuckDB has no such type
        return column.cast(pa.float32())
    return column


def _as_text(part: pa.Table) -> pa.Table:
    columns = []
    for column in part.columns:
        try:
            columns.append(column.cast(pa.string()))
        except pa.ArrowException:
            columns.append(pa.chunked_array([pa.array(map(str, column.to_pylist()), pa.string())]))
    return pa.table(columns, names=part.column_names)


def _by_values(sample: pa.Table, columns: list[str], key: str | None) -> dict[str, ColumnKind]:
    kinds = {}
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone = 'UTC'")
        for name in columns:
            # Versions of one item repeat its title: one row per item counts.
            once = f"QUALIFY row_number() OVER (PARTITION BY {quoted(key)}) = 1" if key else ""
            try:
                opened.register("given", sample.select([name, *([key] if key else [])]))
                opened.execute(f"CREATE OR REPLACE TEMP TABLE sample AS SELECT {quoted(name)} FROM given {once}")
                kinds[name] = _of_column(opened, name, types_of(opened, "sample")[name])
            except (duckdb.Error, pa.ArrowException):
                kinds[name] = ColumnKind(None, f"values of type {sample.schema.field(name).type} cannot be read")
    return kinds


def _of_column(  # noqa: PLR0911 (one line per type)
    opened: duckdb.DuckDBPyConnection, name: str, stored: str
) -> ColumnKind:
    column = quoted(name)
    row = opened.execute(f"SELECT count(*), count({column}), count(DISTINCT {column}) FROM sample").fetchone()
    rows, values, distinct = row or (0, 0, 0)
    where = f"in the first {rows:,} rows" if rows >= SAMPLE_ROWS else "in all rows"
    if not values:
        return ColumnKind(None, f"empty {where}")
    if distinct == 1 and values == rows:
        return ColumnKind(None, f"the same value {where}")
    if stored.endswith("[]"):
        return _list(opened, column, stored[:-2])
    if stored == "BOOLEAN":
        return ColumnKind("flag", "true or false")
    if stored == "DATE" or stored.startswith("TIMESTAMP"):
        naive = "" if "TIME ZONE" in stored else ", read as UTC"
        return ColumnKind("date", f"{'dates' if stored == 'DATE' else 'times'}{naive}")
    if _INTEGERS.fullmatch(stored) or _NUMBERS.fullmatch(stored):
        return _numeric(opened, name, stored)
    if stored == "VARCHAR":
        return _text(opened, name)
    return ColumnKind(None, f"values of type {stored.lower()[:60]} are no feature")


def _list(opened: duckdb.DuckDBPyConnection, column: str, element: str) -> ColumnKind:
    if _NUMBERS.fullmatch(element):
        widths = _one(opened, f"SELECT count(DISTINCT len({column})) FROM sample WHERE len({column}) > 0")
        width = _one(opened, f"SELECT max(len({column})) FROM sample")
        if widths == 1:
            return ColumnKind("vector", f"lists of {width} numbers")
        return ColumnKind(None, "lists of numbers of different lengths are no vectors; pad them to one length")
    if element == "VARCHAR" or _INTEGERS.fullmatch(element):
        return ColumnKind("categories", f"lists of {'texts' if element == 'VARCHAR' else 'integers'}")
    return ColumnKind(None, f"lists of {element.lower()[:60]} are no feature")


def _numeric(opened: duckdb.DuckDBPyConnection, name: str, stored: str) -> ColumnKind:
    if not _CODE.search(name.lower()):
        return ColumnKind("number", "integers" if _INTEGERS.fullmatch(stored) else "numbers")
    whole = (
        _one(opened, f"SELECT count(*) FROM sample WHERE {quoted(name)}::DOUBLE <> trunc({quoted(name)}::DOUBLE)") == 0
    )
    if not whole:
        return ColumnKind("number", "numbers")
    if _repeated_share(opened, name) < 0.5:
        return ColumnKind(None, "integers that the name marks as codes, and most occur once")
    return ColumnKind("category", "integers that the name marks as codes")


def _text(opened: duckdb.DuckDBPyConnection, name: str) -> ColumnKind:  # noqa: PLR0911 (one line per kind)
    column = quoted(name)
    filled = f"FROM sample WHERE {column} <> ''"
    values = _one(opened, f"SELECT count(*) {filled}")
    if not values:
        return ColumnKind(None, "empty texts")
    if _one(opened, f"SELECT count(*) {filled} AND starts_with({column}, '[')") == values:
        return _json_list(opened, column, values)
    words = {row[0] for row in opened.execute(f"SELECT DISTINCT lower(trim({column})) {filled} LIMIT 3").fetchall()}
    if words <= _WORDS:
        return ColumnKind("flag", "texts that are true or false")
    if _one(opened, f"SELECT count(TRY_CAST({column} AS DOUBLE)) {filled}") == values:
        return _digits(opened, name)
    iso = f"regexp_matches({column}, '{_ISO}') AND TRY_CAST({column} AS TIMESTAMPTZ) IS NOT NULL"
    if _one(opened, f"SELECT count(*) {filled} AND {iso}") == values:
        return ColumnKind("date", "texts that are ISO 8601 dates or times; those without a zone are read as UTC")
    separated = _separated(opened, column, values)
    if separated is not None:
        return separated
    share = _repeated_share(opened, name)
    length = _one(opened, f"SELECT avg(len({column}))::BIGINT {filled}")
    if share >= 0.5 and length <= _LONGEST_CATEGORY:
        distinct = _one(opened, f"SELECT count(DISTINCT {column}) {filled}")
        return ColumnKind("category", f"texts with {distinct:,} different values, most of which repeat")
    return ColumnKind(None, "texts that rarely repeat; `sidkit data embed` makes vectors of texts")


def _digits(opened: duckdb.DuckDBPyConnection, name: str) -> ColumnKind:
    padded = _one(opened, f"SELECT count(*) FROM sample WHERE regexp_matches({quoted(name)}, '^0\\d')")
    if not (padded or _CODE.search(name.lower())):
        return ColumnKind("number", "texts that are all numbers")
    if _repeated_share(opened, name) < 0.5:
        return ColumnKind(None, "texts that are codes, and most occur once")
    why = "with leading zeros" if padded else "that the name marks as codes"
    return ColumnKind("category", f"texts of digits {why}")


def _json_list(opened: duckdb.DuckDBPyConnection, column: str, values: int) -> ColumnKind:
    numbers = f"TRY_CAST({column} AS DOUBLE[])"
    if _one(opened, f"SELECT count({numbers}) FROM sample WHERE {column} <> ''") == values:
        lengths = f"SELECT count(DISTINCT len({numbers})) FROM sample WHERE len({numbers}) > 0"
        if _one(opened, lengths) == 1 and _one(opened, f"SELECT count(*) FROM sample WHERE contains({column}, '.')"):
            return ColumnKind("vector", "texts that are JSON lists of numbers of one length")
    if _one(opened, f"SELECT count(TRY_CAST({column} AS VARCHAR[])) FROM sample WHERE {column} <> ''") == values:
        return ColumnKind("categories", "texts that are JSON lists")
    return ColumnKind(None, "texts that begin with '[' and are no JSON lists")


def _separated(opened: duckdb.DuckDBPyConnection, column: str, values: int) -> ColumnKind | None:
    """Texts such as ``Action|Drama``: a separator whose parts repeat more than the whole texts do."""
    for separator in SEPARATORS:
        parts = f"unnest(string_split({column}, {literal(separator)}))"
        with_it, whole = opened.execute(
            f"SELECT count(*) FILTER (contains({column}, {literal(separator)})), count(DISTINCT {column}) "
            f"FROM sample WHERE {column} <> ''"
        ).fetchone() or (0, 0)
        if 5 * with_it < values:
            continue
        total, distinct, length = opened.execute(
            f"SELECT count(*), count(DISTINCT trim(part)), max(len(trim(part))) "
            f"FROM (SELECT {parts} AS part FROM sample WHERE {column} <> '') WHERE trim(part) <> ''"
        ).fetchone() or (0, 1, 0)
        if total >= 3 * distinct and distinct < whole and (length or 0) <= _LONGEST_CATEGORY // 2:
            return ColumnKind(
                "categories", f"texts of {distinct:,} repeated parts, split at {separator!r} when the tables are built"
            )
    return None


def _repeated_share(opened: duckdb.DuckDBPyConnection, name: str) -> float:
    """Share of the values that occur at least twice."""
    row = opened.execute(
        f"SELECT coalesce(sum(n) FILTER (n > 1), 0) / greatest(sum(n), 1) FROM "
        f"(SELECT count(*) AS n FROM sample WHERE {quoted(name)} IS NOT NULL GROUP BY {quoted(name)})"
    ).fetchone()
    return float(row[0] or 0) if row else 0.0


def _one(opened: duckdb.DuckDBPyConnection, query: str) -> int:
    row = opened.execute(query).fetchone()
    return int(row[0] or 0) if row else 0


def features(kinds: Mapping[str, ColumnKind]) -> dict[str, AttributeKind]:
    """The columns that are features, with their kinds."""
    return {name: column.kind for name, column in kinds.items() if column.kind is not None}
