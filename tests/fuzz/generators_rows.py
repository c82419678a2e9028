"""Files of rows for ``sidkit frame --rows`` and ``sidkit ranker evaluate --rows``: right ones in many types, and wrong ones."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .source_files import ACCEPTED, EITHER, ENCODINGS, REFUSED

SECOND = 1_000_000


@dataclass
class RowsFile:
    """A file of rows, and what is known of it."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """In the order of the file: ``user_id``, ``item_id``, ``at_us``, ``label``, and ``pool``, the row of the pool they are."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Further columns."""
    invalid: set[int] = field(default_factory=set)
    """Rows that no reader may take as they are."""
    invalid_label: set[int] = field(default_factory=set)
    """Rows whose label is none; a frame needs no label."""
    must_refuse: bool = False
    refuse_labels: bool = False
    """An evaluation must refuse it; a frame may not care."""
    odd: str = ""
    """Why it may be refused; empty when it must be accepted."""
    names: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)


def draw_rows_file(draw: random.Random, pool: list[dict[str, Any]], path: Path) -> RowsFile:
    """Write one file."""
    size = draw.choice((1, 40, 200, 400, 400))
    places = draw.sample(range(len(pool)), min(size, len(pool)))
    if draw.random() < 0.2:
        places += draw.choices(places, k=20)
    found = RowsFile([{**pool[place], "pool": place} for place in places])
    columns: dict[str, list[Any]] = {
        name: [row[key] for row in found.rows]
        for name, key in (
            ("user_id", "user_id"),
            ("item_id", "item_id"),
            ("event_timestamp", "at_us"),
            ("label", "label"),
        )
    }
    if draw.random() < 0.45:
        _spoil_rows(draw, found, columns)
    chosen = {
        "user_id": "string",
        "item_id": "string",
        "event_timestamp": "us",
        "label": draw.choice(("int8", "int64", "double", "boolean")),
    }
    if any(value not in (0, 1) for value in columns["label"]):
        chosen["label"] = "double"
    if draw.random() < 0.5:
        _odd_type(draw, found, columns, chosen)
    arrays = {name: _encode(name, values, chosen[name], found) for name, values in columns.items()}
    _further(draw, found, arrays)
    table = pa.table(list(arrays.values()), names=list(arrays))
    if draw.random() < 0.3:
        table = _structure(draw, found, table)
    if table is not None:
        pq.write_table(table, path, row_group_size=draw.choice((7, 100_000)))
    if draw.random() < 0.06:
        _break(draw, found, path)
    return found


_KIND = {"user_id": "id", "item_id": "id", "event_timestamp": "moment", "label": "flag"}


def _encode(name: str, values: list[Any], chosen: str, found: RowsFile) -> pa.Array:
    return ENCODINGS[_KIND[name]][chosen][0](values)


def _spoil_rows(draw: random.Random, found: RowsFile, columns: dict[str, list[Any]]) -> None:
    label_values = [None, 1.7, 2, -1, 0.5, math.nan]
    for _ in range(draw.choice((1, 2))):
        name, value = draw.choice(
            [
                ("user_id", None), ("item_id", None), ("user_id", ""), ("item_id", ""), ("event_timestamp", None),
                ("event_timestamp", -SECOND),
                *(("label", value) for value in label_values),
            ]
        )  # fmt: skip
        for place in draw.sample(range(len(found.rows)), min(draw.choice((1, 3, 400)), len(found.rows))):
            columns[name][place] = value
            if name == "label":
                found.invalid_label.add(place)
            else:
                found.invalid.add(place)
        found.did.append(f"{name} = {value!r} in some rows")
        found.names += [name, "row"]


def _odd_type(draw: random.Random, found: RowsFile, columns: dict[str, list[Any]], chosen: dict[str, str]) -> None:
    name = draw.choice(list(_KIND))
    for _ in range(20):
        kind = draw.choice(list(ENCODINGS[_KIND[name]]))
        encode, says = ENCODINGS[_KIND[name]][kind]
        try:
            array = encode(columns[name])
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            continue
        valid = [value is not None for value in columns[name]]
        if array.is_valid().to_pylist() != valid or (
            name == "label" and says == ACCEPTED and array.cast(pa.float64()).to_pylist() != columns[name]
        ):
            continue
        break
    else:
        return
    chosen[name] = kind
    if name == "event_timestamp" and kind in {"ms", "s", "text"}:  # a coarser moment is another one
        per = 1000 if kind == "ms" else SECOND
        for row, value in zip(found.rows, columns[name], strict=True):
            if value is not None:
                row["at_us"], row["pool"] = value // per * per, None
    found.did.append(f"{name} as {kind}")
    found.names.append(name)
    if says == REFUSED and any(valid):
        if name == "label":
            found.refuse_labels = True
        else:
            found.must_refuse = True
        found.odd = f"{name} as {kind}"
    elif says == EITHER or (name == "event_timestamp" and kind == "text"):
        found.odd = f"{name} as {kind}"


def _further(draw: random.Random, found: RowsFile, arrays: dict[str, pa.Array]) -> None:
    count = len(found.rows)
    names = ["note", "a b", "ünï", "row", "query", "rating", "request_id", "position"]
    for name in draw.sample(names, draw.choice((0, 0, 1, 3))):
        found.extra[name] = [
            f"{name} {n % 7}" if name not in {"rating", "position"} else float(n % 5) for n in range(count)
        ]
        arrays[name] = pa.array(found.extra[name])
    if draw.random() < 0.12:
        odd = draw.choice(
            (
                "item_stats__clicks_1d",
                "__row",
                "file_row_number",
                "created_timestamp",
                "USER_ID",
                "reason",
                "nth",
                "",
                "nul\0",
                "x" * 300,
                "item_sid__codes",
                "at",
            )
        )
        values = draw.choice(([1] * count, [{"a": [1]}] * count, [b"\xff"] * count, [None] * count))
        arrays[odd] = pa.array(values)
        found.odd = found.odd or f"a column {odd[:30]!r}"
        found.names += [odd[:40], repr(odd)[1:-1][:40]]
        found.did.append(f"a column {odd[:30]!r} of {arrays[odd].type}")


def _structure(draw: random.Random, found: RowsFile, table: pa.Table) -> pa.Table:
    kind = draw.choice(("less", "less", "twice", "no rows", "no columns", "order", "no label"))
    found.did.append(kind)
    if kind == "less":
        name = draw.choice(("user_id", "item_id", "event_timestamp"))
        found.must_refuse, found.names = True, [*found.names, name]
        return table.drop_columns([name])
    if kind == "twice":
        name = draw.choice(table.column_names)
        found.must_refuse, found.names = True, [*found.names, name, "twice"]
        return table.append_column(name, table.column(name))
    if kind == "no rows":
        found.odd, found.names = "no rows", [*found.names, "row"]
        found.rows, found.extra, found.refuse_labels = [], {name: [] for name in found.extra}, True
        return table.slice(0, 0)
    if kind == "no columns":
        found.must_refuse = True
        found.names += ["user_id", "column"]
        return table.select([])
    if kind == "no label":
        found.refuse_labels, found.names = True, [*found.names, "label"]
        return table.drop_columns(["label"]) if "label" in table.column_names else table
    names = table.column_names
    return table.select(draw.sample(range(len(names)), len(names)))


def _break(draw: random.Random, found: RowsFile, path: Path) -> None:
    whole = path.read_bytes()
    kinds: dict[str, Callable[[], bytes]] = {
        "cut": lambda: whole[: len(whole) // 2], "empty": lambda: b"",
        "csv": lambda: b"user_id,item_id,event_timestamp\nu,i,2024\n",
        "noise": lambda: draw.randbytes(2_000),
    }  # fmt: skip
    kind = draw.choice(list(kinds))
    path.write_bytes(kinds[kind]())
    found.must_refuse, found.names = True, [*found.names, path.name]
    found.did.append(f"the file is {kind}")
