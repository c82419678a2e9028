"""Rows as Parquet files or a database: column types that are right in many ways, and wrong in more."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .source_rows import SECOND, Row, Rows

ACCEPTED, EITHER, REFUSED = "accepted", "either", "refused"
Encode = Callable[[Sequence[Any]], pa.Array]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _typed(kind: pa.DataType) -> Encode:
    return lambda values: pa.array(values, kind)


def _whole(kind: pa.DataType) -> Encode:
    return lambda values: pa.array([None if text in {None, ""} else int(text) for text in values], kind)


def _each(change: Callable[[Any], Any], kind: pa.DataType | None = None) -> Encode:
    return lambda values: pa.array([None if value is None else change(value) for value in values], kind)


def _moments(unit: str, zone: str | None, per_second: int) -> Encode:
    def encode(values: Sequence[Any]) -> pa.Array:
        whole = [None if value is None else value * per_second // SECOND for value in values]
        return pa.array(whole, pa.int64()).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))

    return encode


def _iso(value: int, zone: str = "Z") -> str:
    return (_EPOCH + timedelta(microseconds=value)).strftime("%Y-%m-%dT%H:%M:%S") + zone


def _nanoseconds(values: Sequence[Any]) -> pa.Array:
    kept = [None if value is None or abs(value) > 9 * 10**15 else value * 1000 for value in values]
    return pa.array(kept, pa.int64()).cast(pa.timestamp("ns")).cast(pa.timestamp("ns", "UTC"))


def _fixed(values: Sequence[Any]) -> pa.Array:
    width = max((len(value) for value in values if value is not None), default=1)
    fits = [value if value is not None and len(value) == width else None for value in values]
    return pa.array(fits, pa.list_(pa.float32(), width))


ENCODINGS: dict[str, dict[str, tuple[Encode, str]]] = {
    "id": {
        "string": (_typed(pa.string()), ACCEPTED), "large_string": (_typed(pa.large_string()), ACCEPTED),
        "dictionary": (lambda values: pa.array(values, pa.string()).dictionary_encode(), ACCEPTED),
        "string_view": (lambda values: pa.array(values, pa.string()).cast(pa.string_view()), ACCEPTED),
        "bytes": (_each(lambda text: text.encode()), REFUSED), "boolean": (_each(lambda text: text > "m"), REFUSED),
        "list": (_each(lambda text: [text]), REFUSED), "struct": (_each(lambda text: {"id": text}), REFUSED),
        "float": (_each(lambda text: float(len(text))), REFUSED), "date": (_each(lambda text: datetime(2020, 1,
        1).date()), REFUSED),
        "decimal": (_each(lambda text: Decimal(len(text))), EITHER),
    },
    "whole_id": {
        "string": (_typed(pa.string()), ACCEPTED), "int64": (_whole(pa.int64()), ACCEPTED),
        "int16": (_whole(pa.int16()), ACCEPTED),
        "uint64": (_whole(pa.uint64()), ACCEPTED),
        "float": (lambda values: _whole(pa.int64())(values).cast(pa.float64()), REFUSED),
    },
    "moment": {
        "us": (_moments("us", "UTC", SECOND), ACCEPTED), "ms": (_moments("ms", "UTC", 1000), ACCEPTED),
        "s": (_moments("s", "UTC", 1), ACCEPTED),
        "ns": (_nanoseconds, ACCEPTED), "zone": (_moments("us", "Asia/Kolkata", SECOND), ACCEPTED),
        "offset": (_moments("us", "+05:30", SECOND), ACCEPTED),
        "text": (_each(_iso), ACCEPTED), "naive": (_moments("us", None, SECOND), REFUSED),
        "naive_text": (_each(lambda value: _iso(value, "")), REFUSED),
        "seconds": (_each(lambda value: value // SECOND), REFUSED), "microseconds": (_each(int), REFUSED),
        "float": (_each(float), REFUSED),
        "date": (_each(lambda value: (_EPOCH + timedelta(microseconds=value)).date()), REFUSED),
        "boolean": (_each(lambda value: True), REFUSED),
        "garbage": (_each(lambda value: f"day {value}"), REFUSED),
        "garbage_zoned": (_each(lambda value: f"day {value}Z"), REFUSED),
        "words": (_each(lambda value: "yesterday"), REFUSED),
    },
    "flag": {
        "int8": (_typed(pa.int8()), ACCEPTED), "int64": (_typed(pa.int64()), ACCEPTED),
        "double": (_typed(pa.float64()), ACCEPTED),
        "boolean": (_each(bool, pa.bool_()), ACCEPTED), "uint8": (_typed(pa.uint8()), ACCEPTED),
        "float": (_typed(pa.float32()), ACCEPTED),
        "text": (_each(str), REFUSED), "words": (_each(lambda value: "yes" if value else "no"), REFUSED),
        "list": (_each(lambda value: [value]), REFUSED),
        "decimal": (_each(lambda value: Decimal(str(value))), EITHER), "moment": (_each(lambda value: datetime(2020,
        1, 1, tzinfo=UTC)), REFUSED),
    },
    "integer": {
        "double": (_typed(pa.float64()), ACCEPTED), "int32": (_typed(pa.int32()), ACCEPTED),
        "int8": (_typed(pa.int8()), ACCEPTED),
        "uint16": (_typed(pa.uint16()), ACCEPTED), "text": (_each(str), REFUSED), "boolean": (_each(bool), EITHER),
    },
    "number": {
        "float": (_typed(pa.float32()), ACCEPTED), "double": (_typed(pa.float64()), ACCEPTED),
        "half": (lambda values: pa.array(values, pa.float32()).cast(pa.float16()), ACCEPTED),
        "decimal": (_each(lambda value: Decimal(str(value)), pa.decimal128(12, 4)), ACCEPTED), "text": (_each(str),
        REFUSED), "list": (_each(lambda value: [value]), REFUSED),
        "boolean": (_each(bool), EITHER),
    },
    "string": {
        "string": (_typed(pa.string()), ACCEPTED), "large_string": (_typed(pa.large_string()), ACCEPTED),
        "dictionary": (lambda values: pa.array(values, pa.string()).dictionary_encode(), ACCEPTED),
        "bytes": (_each(lambda text: text.encode()), REFUSED), "list": (_each(lambda text: [text]), REFUSED),
        "float": (_each(lambda text: 1.5), REFUSED),
    },
    "vector": {
        "float": (_typed(pa.list_(pa.float32())), ACCEPTED), "double": (_typed(pa.list_(pa.float64())), ACCEPTED),
        "large": (_typed(pa.large_list(pa.float32())), ACCEPTED), "fixed": (_fixed, EITHER),
        "half": (lambda values: pa.array(values, pa.list_(pa.float32())).cast(pa.list_(pa.float16())), EITHER),
        "json": (_each(json.dumps), EITHER), "text": (_each(lambda vector: " ".join(map(str, vector))), REFUSED),
        "texts": (_each(lambda vector: list(map(str, vector))), REFUSED), "nested": (_each(lambda vector: [vector]), REFUSED),
        "struct": (_each(lambda vector: {"x": 1.0}), REFUSED), "bytes": (_each(lambda vector: b"\0\1"), REFUSED),
        "scalar": (_each(lambda vector: 1.0), REFUSED),
        "booleans": (_each(lambda vector: [True, False, True]), REFUSED),
    },
}  # fmt: skip
"""Kind of column -> name -> how values are stored, and whether the contract takes it."""
NUMBERS = {"seconds": SECOND, "microseconds": 1, "float": 1}
"""Moments as numbers since 1970, and the step of each: a source may have them, a file of rows may not."""
_OLDEST, _NEWEST = 315_532_800 * SECOND, 7_258_118_400 * SECOND
"""1980 and 2200: between them a number is a moment in one unit only."""
PLAIN = {
    "id": "string",
    "whole_id": "string",
    "moment": "us",
    "flag": "double",
    "integer": "double",
    "number": "double",
    "string": "string",
    "vector": "float",
}
KIND_OF = {
    "user_id": "id", "item_id": "id", "timestamp": "moment", "label": "flag", "request_id": "id",
    "position": "integer", "converted": "flag",
    "rating": "number", "created_at": "moment", "updated_at": "moment", "removed_at": "moment", "title": "string",
    "category": "string", "price": "number",
}  # fmt: skip


@dataclass
class Stored:
    """A source on disk, and what may become of it."""

    url: str
    odd: str = ""
    """Why it may or must be refused; empty when it has to be accepted."""
    must_refuse: bool = False
    refused_tables: set[str] = field(default_factory=set)
    """Tables with a column whose type must be refused."""
    without_vectors: bool = False
    """Whether ``item_embeddings`` is not there."""
    names: list[str] = field(default_factory=list)
    """What a refusal has to name, any of them."""
    did: list[str] = field(default_factory=list)


@dataclass
class Layout:
    """How the columns are stored: ``chosen`` is the encoding by (table, column, part)."""

    parts: dict[str, int]
    chosen: dict[tuple[str, str, int], str] = field(default_factory=dict)


def kind_of(rows: Rows, column: str) -> str:
    """The kind of a column of the contract."""
    kind = "vector" if column in rows.modalities else KIND_OF[column]
    return "whole_id" if kind == "id" and rows.whole_ids and column != "request_id" else kind


def columns_of(rows: list[Row]) -> list[str]:
    """All columns that any row has."""
    return list(dict.fromkeys(name for row in rows for name in row))


TABLES = ("interactions", "items", "item_embeddings")
_DEVIANT = 0.55
"""The share of sources in which some column has an unusual type."""


def store_parquet(draw: random.Random, rows: Rows, folder: Path, *, plain: bool = False) -> Stored:
    """Write one file, or a folder of parts, per table; ``plain``: all columns as the contract has them."""
    stored = Stored(str(folder))
    folder.mkdir(parents=True)
    layout = Layout({table: draw.choice((0, 0, 0, 2, 3)) for table in TABLES})
    if not plain and draw.random() < _DEVIANT:
        for _ in range(draw.choice((1, 1, 2))):
            _deviate(draw, rows, layout, stored)
    for table in TABLES:
        held = rows.of(table)
        parts = layout.parts[table]
        if not parts:
            pq.write_table(_table(rows, table, held, layout, 0, stored), folder / f"{table}.parquet")
            continue
        (folder / table).mkdir()
        size = -(-len(held) // parts)
        for part in range(parts):
            chunk = held[part * size : (part + 1) * size]
            pq.write_table(_table(rows, table, chunk, layout, part, stored), folder / table / f"part-{part}.parquet")
        stored.did.append(f"{table} in {parts} parts")
    return stored


def _deviate(draw: random.Random, rows: Rows, layout: Layout, stored: Stored) -> None:
    table = draw.choice(TABLES)
    column = draw.choice(columns_of(rows.of(table)))
    kind = kind_of(rows, column)
    name = draw.choice(list(ENCODINGS[kind]))
    parts = max(layout.parts[table], 1)
    only = draw.randrange(parts) if parts > 1 and draw.random() < 0.6 else None
    for part in range(parts):
        if only is None or part == only:
            layout.chosen[table, column, part] = name
    where = f" in part {only}" if only is not None else ""
    stored.did.append(f"{table}.{column} as {name}{where}")


def _table(rows: Rows, table: str, held: list[Row], layout: Layout, part: int, stored: Stored) -> pa.Table:
    arrays, names = [], columns_of(rows.of(table))
    for column in names:
        kind = kind_of(rows, column)
        name = layout.chosen.get((table, column, part), PLAIN[kind])
        values = [row.get(column) for row in held]
        encode, says = ENCODINGS[kind][name]
        try:
            arrays.append(encode(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError, TypeError):
            # These values do not fit that type: nobody could have written them so.
            arrays.append(ENCODINGS[kind][PLAIN[kind]][0](values))
            stored.did.append(f"(not so: {table}.{column} part {part})")
            continue
        if pa.types.is_null(arrays[-1].type):
            continue
        if kind == "moment" and name in NUMBERS:
            # The unit follows from the size; it cannot where a time is close to 1970.
            says = EITHER
            if any(
                (value is not None and not _OLDEST <= value < _NEWEST) or (value or 0) % NUMBERS[name]
                for value in values
            ):
                arrays[-1] = ENCODINGS[kind][PLAIN[kind]][0](values)
                stored.did.append(f"(not so: {table}.{column} part {part})")
                continue
        lossy = (
            kind in {"id", "whole_id", "flag"}
            and name in {"boolean", "int8", "int64", "uint8"}
            and _loses(values, arrays[-1])
        )
        if (
            lossy
            or (name == "fixed" and _loses(values, arrays[-1]))
            or (kind == "moment" and name not in NUMBERS and _loses_time(values, arrays[-1]))
        ):
            arrays[-1] = ENCODINGS[kind][PLAIN[kind]][0](values)
            stored.did.append(f"(not so: {table}.{column} part {part})")
            continue
        differs = len({layout.chosen.get((table, column, p), "") for p in range(max(layout.parts[table], 1))}) > 1
        is_only = kind != "vector" or differs or len(rows.modalities) == 1
        if says == REFUSED and is_only and any(value is not None for value in values):
            stored.must_refuse = True
            stored.refused_tables.add(table)
        if says != ACCEPTED:
            stored.odd = stored.odd or f"{table}.{column} as {name}"
            stored.names.append(column)
        if differs:
            stored.odd = stored.odd or f"{table}.{column} differs between parts"
            stored.names += [column, table]
    return pa.table(arrays, names=names)


def _loses(values: Sequence[Any], array: pa.Array) -> bool:
    kept = array.to_pylist()
    return any(
        (value is None or value == "") != (got is None) or (isinstance(value, float) and value != got)
        for value, got in zip(values, kept, strict=True)
    )


def _loses_time(values: Sequence[Any], array: pa.Array) -> bool:
    kept = array.is_valid().to_pylist()
    if any((value is None) == got for value, got in zip(values, kept, strict=True)):
        return True
    coarse = pa.types.is_timestamp(array.type) and array.type.unit in {"s", "ms"}
    return coarse and any(value is not None and value % SECOND for value in values)


def store_sqlite(draw: random.Random, rows: Rows, path: Path) -> Stored:
    """Write a SQLite database: times as ISO text, vectors as JSON text."""
    stored = Stored(f"sqlite:///{path}", did=["in SQLite"])
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = rows.whole_ids and draw.random() < 0.5
    opened = sqlite3.connect(path)
    for table in TABLES:
        names = columns_of(rows.of(table))
        kinds = [
            "INTEGER" if whole and kind_of(rows, name) == "whole_id" else _SQL[kind_of(rows, name)] for name in names
        ]
        opened.execute(f"CREATE TABLE {table} ({', '.join(f'{n} {k}' for n, k in zip(names, kinds, strict=True))})")
        for row in rows.of(table):
            values = [_sql(kind_of(rows, name), row.get(name)) for name in names]
            opened.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", values)
    if whole:
        stored.did.append("ids as INTEGER")
    opened.commit()
    opened.close()
    return stored


_SQL = {
    "id": "TEXT",
    "whole_id": "TEXT",
    "moment": "TEXT",
    "flag": "INTEGER",
    "integer": "INTEGER",
    "number": "REAL",
    "string": "TEXT",
    "vector": "TEXT",
}


def _sql(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "moment":
        return _iso(value)
    return json.dumps(value) if kind == "vector" else value
