"""Compare what two repositories hold, cell by cell: tables, codes, the training frame, online rows and what readers get.

A cell is a value, or one value of a list; a list without values is one cell. Floating-point values may differ by
:data:`TOLERANCE`, relative to values above 1; all others must be equal, with nulls in the same places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.repo import Repo

TOLERANCE = 1e-6
WALL_CLOCK = "assigned_at_us"
"""When a code was assigned, by the clock of the machine."""
READ_ROWS = 20_000
"""Keys of one read of the online store."""


@dataclass
class Difference:
    """Cells of one kind that were compared."""

    cells: int = 0
    rows: int = 0
    differing: int = 0
    where: list[str] = field(default_factory=list)
    """The first columns in which they differ."""

    def add(self, other: Difference) -> None:
        """Count the cells of another comparison, too."""
        self.cells += other.cells
        self.rows += other.rows
        self.differing += other.differing
        self.where = [*self.where, *other.where][:10]


def compare(ours: pa.Table, theirs: pa.Table, name: str) -> Difference:
    """Compare two tables row by row, in their order.

    Rows or columns that one of them lacks are differing cells.
    """
    found = Difference(rows=ours.num_rows)
    for missing in sorted(set(ours.column_names) ^ set(theirs.column_names)):
        found.add(Difference(max(ours.num_rows, 1), 0, max(ours.num_rows, 1), [f"{name}.{missing} is missing"]))
    if ours.num_rows != theirs.num_rows:
        apart = abs(ours.num_rows - theirs.num_rows) * ours.num_columns
        found.add(Difference(apart, 0, apart, [f"{name}: {ours.num_rows} rows and {theirs.num_rows}"]))
        return found
    for column in ours.column_names:
        if column in theirs.column_names:
            cells, differing = compare_columns(ours.column(column), theirs.column(column))
            where = [f"{name}.{column}: {differing} of {cells}"] if differing else []
            found.add(Difference(cells, 0, differing, where))
    return found


def compare_columns(ours: Any, theirs: Any) -> tuple[int, int]:
    """The cells of two columns of the same length, and how many differ."""
    one, other = (_array(column) for column in (ours, theirs))
    if one.type != other.type:
        return len(one), len(one)
    if pa.types.is_list(one.type) or pa.types.is_large_list(one.type) or pa.types.is_fixed_size_list(one.type):
        lengths = [pc.list_value_length(each) for each in (one, other)]
        unlike = _unlike(*lengths)  # a missing list has no length
        empty = int(pc.sum(pc.equal(pc.fill_null(lengths[0], 0), 0)).as_py() or 0)
        if unlike:
            return len(one), unlike
        cells, differing = compare_columns(one.flatten(), other.flatten())
        return cells + empty, differing
    return len(one), _unlike(one, other)


def _array(column: Any) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _unlike(one: pa.Array, other: pa.Array) -> int:
    """Positions at which two arrays of the same type differ."""
    nulls = [np.asarray(each.is_null()) for each in (one, other)]
    if pa.types.is_floating(one.type):
        values = [each.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64) for each in (one, other)]
        same = np.isclose(values[1], values[0], rtol=0, atol=TOLERANCE, equal_nan=True)
        same |= np.abs(values[0] - values[1]) <= TOLERANCE * np.abs(values[0])
    else:
        same = np.asarray(pc.fill_null(pc.equal(one, other), True))
    return int(np.sum((nulls[0] != nulls[1]) | (~same & ~nulls[0])))


def sorted_table(path: Path) -> pa.Table:
    """A feature table in the order of its keys and times, without the wall clock."""
    import duckdb

    with duckdb.connect(config={"threads": 1}) as opened:
        opened.execute("SET TimeZone = 'UTC'")
        described = opened.execute("DESCRIBE FROM read_parquet($path)", {"path": str(path)}).fetchall()
        kept = [(name, kind) for name, kind, *_ in described if name != WALL_CLOCK]
        exact = [f'"{name}"' for name, kind in kept if kind.startswith(("VARCHAR", "TIMESTAMP"))]
        rest = [f'"{name}"' for name, kind in kept if kind in {"BIGINT", "INTEGER", "BOOLEAN"}]
        columns = ", ".join(f'"{name}"' for name, _ in kept)
        query = f"SELECT {columns} FROM read_parquet($path) ORDER BY {', '.join([*exact, *rest])}"
        return opened.execute(query, {"path": str(path)}).to_arrow_table()


def compare_tables(ours: Repo, theirs: Repo, codebook: str) -> dict[str, Difference]:
    """Compare all files of the feature tables; those of codes are counted apart."""
    found = {"tables": Difference(), "codes": Difference()}
    names = [sorted(path.name for path in repo.tables.glob("*.parquet")) for repo in (ours, theirs)]
    for name in sorted(set(names[0]) ^ set(names[1])):
        found["tables"].add(Difference(1, 0, 1, [f"only one repository has {name}"]))
    for name in sorted(set(names[0]) & set(names[1])):
        kind = "codes" if name == f"item_sid_{codebook}.parquet" else "tables"
        pair = [sorted_table(repo.tables / name) for repo in (ours, theirs)]
        found[kind].add(compare(*pair, name.removesuffix(".parquet")))
    return found


def compare_frames(ours: Path, theirs: Path) -> Difference:
    """Compare two saved frames: their rows, numbers, histories, items, content, codes and attributes."""
    pair = [_frame(folder) for folder in (ours, theirs)]
    found = Difference(rows=len(next(iter(pair[0].values()))))
    for name in sorted(pair[0].keys() ^ pair[1].keys()):
        found.add(Difference(1, 0, 1, [f"only one frame has {name}"]))
    for name in sorted(pair[0].keys() & pair[1].keys()):
        one, other = pair[0][name], pair[1][name]
        if one.shape != other.shape or one.dtype != other.dtype:
            found.add(Difference(one.size, 0, one.size, [f"{name}: {one.shape} and {other.shape}"]))
            continue
        cells, differing = compare_columns(*(_flat(each) for each in (one, other)))
        found.add(Difference(cells, 0, differing, [f"frame {name}: {differing} of {cells}"] if differing else []))
    return found


def _flat(values: Any) -> pa.Array:
    return pa.array(values.ravel(), from_pandas=False)


def _frame(folder: Path) -> dict[str, Any]:
    from ranking.data.storage import load_dataset

    data = load_dataset(folder)
    arrays = {
        "user_ids": data.rows.user_ids, "item_ids": data.rows.item_ids, "at_us": data.rows.at_us,
        "label": data.rows.label, "numeric": data.numeric, "candidate": data.candidate, "history": data.history,
        "history_items": data.history_items, "history_us": data.history_us, "items": data.items.ids,
        "codes": data.items.codes, "content": data.items.content,
    }  # fmt: skip
    for name, coded in (("coded", data.coded), ("attributes", data.items.attributes)):
        if coded is not None:
            arrays[name] = coded.codes
            for at, values in enumerate(coded.values):
                arrays[f"{name} {at}"] = np.asarray(values, dtype=object)
    return arrays


def compare_online(ours: Repo, theirs: Repo) -> Difference:
    """Compare all rows of the packed online stores: keys, times and features."""
    pair = [online_rows(repo) for repo in (ours, theirs)]
    found = Difference()
    for view in sorted(pair[0].keys() ^ pair[1].keys()):
        found.add(Difference(1, 0, 1, [f"only one online store has rows of {view}"]))
    for view in sorted(pair[0].keys() & pair[1].keys()):
        found.add(compare(pair[0][view], pair[1][view], f"online {view}"))
    return found


def online_rows(repo: Repo) -> dict[str, pa.Table]:
    """View -> its rows in the order of their keys, with key and time (``event_us``, microseconds UTC)."""
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    prefix = f"{store.project}_"
    with store._get_provider().online_store.database(store.config).reading() as reading:
        views = [view for view in reading.views() if view.startswith(prefix)]
        found = {view.removeprefix(prefix): _view_rows(reading, view) for view in views}
    return {view: table for view, table in found.items() if table.num_rows}


def _view_rows(reading: Any, view: str) -> pa.Table:
    from sidkit.stores.online.arrow import to_arrow
    from sidkit.stores.online.codec import layout_number, unpack

    keys, layouts, parts = sorted(reading.keys(view)), reading.layouts(view), []
    for start in range(0, len(keys), READ_ROWS):
        chosen = keys[start : start + READ_ROWS]
        held = list(reading.timed_rows(view, chosen))
        numbers = np.array([layout_number(row) for row, _ in held])
        for number in np.unique(numbers):
            at = np.flatnonzero(numbers == number)
            layout = layouts[int(number)]
            names = [name for name in layout.names if name != WALL_CLOCK]
            cells = unpack(layout, [held[row][0] for row in at], names)
            columns: dict[str, Any] = {
                "key": pa.array([chosen[row] for row in at], pa.binary()),
                "event_us": pa.array([held[row][1] for row in at], pa.int64()),
            }
            parts.append(pa.table({**columns, **{name: to_arrow(cell) for name, cell in cells.items()}}))
    return pa.concat_tables(parts).sort_by("key") if parts else pa.table({"key": pa.array([], pa.binary())})


def compare_reads(ours: Repo, theirs: Repo, service: str, as_of_us: int) -> Difference:
    """Compare what the readers of the online store give for all items and users, and for keys that nobody knows."""
    found = Difference()
    keys = {name: _keys(ours, f"{name}_") for name in ("item", "user")}
    for name, held in keys.items():
        for start in range(0, len(held), READ_ROWS):
            asked = {f"{name}_id": held[start : start + READ_ROWS]}
            pair = [_read(repo, f"{service}_{name}", asked, as_of_us) for repo in (ours, theirs)]
            for view in sorted(pair[0].keys() | pair[1].keys()):
                tables = [each.get(view, pa.table({})) for each in pair]
                found.add(compare(tables[0], tables[1], f"read {view}"))
    return found


def _keys(repo: Repo, prefix: str) -> list[str]:
    """All items or users of the tables, and one that is in none of them."""
    import duckdb

    with duckdb.connect(config={"threads": 1}) as opened:
        path = repo.tables / f"{prefix}stats.parquet"
        rows = opened.execute(f"SELECT DISTINCT {prefix}id FROM read_parquet($path) ORDER BY 1", {"path": str(path)})
        return [*(str(key) for (key,) in rows.fetchall()), "nobody"]


def _read(repo: Repo, service: str, keys: Mapping[str, list[str]], at_us: int) -> dict[str, pa.Table]:
    from ranking.serving.service_reader import ServiceReader
    from sidkit.stores.feast_repo import open_store

    store = open_store(repo)
    views = ServiceReader(store, store.get_feature_service(service)).read(keys, at_us=at_us)
    plain = {name: view.plain() for name, view in views.items()}
    return {
        name: rows.drop_columns([column for column in rows.column_names if column.endswith(WALL_CLOCK)])
        for name, rows in plain.items()
    }
