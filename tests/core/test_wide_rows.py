"""Rows with vectors, of which DuckDB sorts numbers only, are those of DuckDB sorting all of them."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidkit.core import row_groups, wide_rows
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection
from sidkit.core.ordered_rows import OrderedRows
from sidkit.core.wide_rows import REFERENCE, wide_columns
from sidkit.tables.log_changes import mark_of
from sidkit.tables.snapshots import merge_snapshot

VECTOR = st.none() | st.lists(st.sampled_from([0.0, -0.0, 1.5, 2.0**100]), min_size=1, max_size=3)
SCHEMA = pa.schema({"item_id": pa.string(), "updated_at": pa.timestamp("us", "UTC"), "text": pa.list_(pa.float32())})


def file_of(path: Path, rows: list[tuple[int, int, list[float] | None]], group: int) -> Path:
    table = pa.Table.from_pylist(
        [{"item_id": f"i{item}", "updated_at": at, "text": vector} for item, at, vector in rows], SCHEMA
    )
    pq.write_table(table, path, row_group_size=group)
    return path


@settings(deadline=None, max_examples=60)
@given(
    old=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), VECTOR), max_size=25),
    new=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), VECTOR), min_size=1, max_size=25),
    group=st.integers(1, 7),
    step=st.integers(1, 5),
    bucket=st.integers(1, 60),
)
def test_a_snapshot_has_the_rows_the_order_and_the_mark_of_sorting_whole_rows(
    old: list[tuple[int, int, list[float] | None]],
    new: list[tuple[int, int, list[float] | None]],
    group: int,
    step: int,
    bucket: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("snapshot")
    unique = [list({row[:2]: row for row in rows}.values()) for rows in (old, new)]
    before, fresh = (file_of(folder / f"{n}.parquet", rows, group) for n, rows in zip("on", unique, strict=True))
    with duckdb.connect() as opened, pytest.MonkeyPatch.context() as patched:
        opened.execute("SET TimeZone = 'UTC'")
        patched.setattr(row_groups, "_READ_ROWS", step)
        patched.setattr(wide_rows, "_BLOCK_ROWS", step)
        patched.setattr(wide_rows, "_BUCKET_BYTES", bucket)
        patched.setattr(wide_rows, "_GROUP_BYTES", 20 * bucket)
        last = {"file": "item_embeddings-00000.parquet", "mark": "another"}
        before.rename(folder / last["file"])
        entry = merge_snapshot(opened, folder, "item_embeddings", fresh, last, 0)
        opened.execute(f"""
            CREATE TEMP TABLE expected AS SELECT * EXCLUDE (generation) FROM (
                SELECT *, 1 AS generation FROM '{fresh}' UNION ALL BY NAME
                SELECT *, 0 AS generation FROM '{folder / last["file"]}'
            ) QUALIFY row_number() OVER (PARTITION BY item_id, updated_at ORDER BY generation DESC) = 1
        """)
        expected = opened.execute("SELECT * FROM expected ORDER BY item_id, updated_at").fetchall()
        written = opened.execute(f"SELECT * FROM read_parquet('{folder / entry['file']}')").fetchall()
        assert written == expected
        # DuckDB's window makes 0.0 of -0.0 in a list; here the values stay as they are in the files.
        newest = {row[:2]: row[2] for rows in unique for row in rows}
        assert repr([row[2] for row in written]) == repr([newest[key] for key in sorted(newest)])
        assert entry["mark"] == mark_of(opened, "expected")
        assert not list(folder.glob("tmp*"))


def test_rows_that_duckdb_cannot_sort_within_the_limit_are_written_in_order(tmp_path: Path) -> None:
    count, width, limit = 20_000, 512, EngineSettings(memory_limit="40MB", threads=1)
    vectors = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width).cast(pa.list_(pa.float32()))
    order = np.random.default_rng(1).permutation(count)
    path = tmp_path / "source.parquet"
    pq.write_table(pa.table({"number": pa.array(order), "text": lists}), path, row_group_size=1000)
    query = f"SELECT number, 2 * file_row_number AS {REFERENCE} FROM read_parquet('{path}', file_row_number = true)"
    out = tmp_path / "out.parquet"
    with connection(limit, tmp_path / "spill") as opened:
        columns = {"number": None, "text": pa.list_(pa.float32())}
        with OrderedRows(opened, query, "number", columns, [path], tmp_path / "spill") as rows:
            rows.write(out)
    found = pq.read_table(out)
    assert found.column("number").to_numpy().tolist() == list(range(count))
    flat = found.column("text").combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(count, width), vectors[np.argsort(order)])


def test_vectors_are_the_wide_columns_of_a_file() -> None:
    kinds = {"a": pa.list_(pa.float64()), "b": pa.list_(pa.string()), "c": pa.float32(), "d": pa.list_(pa.int32())}
    assert wide_columns(pa.schema(kinds)) == ["a"]
