"""Rows of a Parquet file, whatever its row groups, and the rows of content that have no codes yet."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_ids.assign_shards import unassigned
from sidkit.core import row_groups
from sidkit.core.row_groups import rows_of


@settings(deadline=None)
@given(count=st.integers(0, 30), group=st.integers(1, 9), step=st.integers(1, 5), data=st.data())
def test_batches_are_the_asked_rows_in_the_order_of_the_file(
    count: int, group: int, step: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("rows") / "table.parquet"
    table = pa.table({"number": pa.array(range(count), pa.int64()), "other": pa.array(["x"] * count, pa.string())})
    pq.write_table(table, path, row_group_size=group)
    rows = sorted(data.draw(st.sets(st.integers(0, count - 1)))) if count else []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(row_groups, "_READ_ROWS", step)
        found = list(rows_of(path, np.array(rows, dtype=np.int64), ["number"]))
    assert [number for _, batch in found for number in batch.column("number").to_pylist()] == rows
    assert all(batch.num_rows > 0 and batch.schema.names == ["number"] for _, batch in found)
    for place, batch in found:
        assert batch.column("number").to_pylist() == rows[place]


def test_row_groups_without_an_asked_row_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"number": list(range(40))}), path, row_group_size=10, compression="none")
    first = pq.read_metadata(path).row_group(0).column(0)
    content = bytearray(path.read_bytes())
    start = first.dictionary_page_offset or first.data_page_offset
    content[start : start + first.total_compressed_size] = b"\xff" * first.total_compressed_size
    path.write_bytes(content)
    ((_, batch),) = rows_of(path, np.array([23]), ["number"])
    assert batch.column("number").to_pylist() == [23]


@pytest.mark.parametrize("group", [1, 3, 100])
@pytest.mark.parametrize("coded", ["none", "some", "all", "no table"])
def test_rows_without_codes_are_those_that_the_table_of_codes_lacks(tmp_path: Path, group: int, coded: str) -> None:
    content, known = tmp_path / "content.parquet", tmp_path / "codes.parquet"
    at = pa.array([number // 3 for number in range(30)], pa.timestamp("us", "UTC"))
    keys = pa.table({"item_id": [f"i{number % 7}" for number in range(30)], "event_timestamp": at})
    vectors = pa.array([None if number % 5 == 0 else [float(number)] for number in range(30)], pa.list_(pa.float32()))
    pq.write_table(keys.append_column("text", vectors), content, row_group_size=group)
    chosen = {"none": [], "some": [0, 4, 5, 29], "all": list(range(30)), "no table": []}[coded]
    pq.write_table(keys.take(pa.array(chosen, pa.int64())), known)
    with duckdb.connect() as opened:
        opened.execute("SET TimeZone = 'UTC'")
        chunks = list(unassigned(opened, content, ["text"], None if coded == "no table" else known))
    found = [row for chunk in chunks for row in chunk.to_pylist()]
    expected = [row for number, row in enumerate(pq.read_table(content).to_pylist()) if number not in chosen]
    assert found == expected
