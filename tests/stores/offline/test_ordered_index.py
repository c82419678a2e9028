"""The index of tables in order of time beside the oracle, and what a stream of a table beyond the memory limit reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_asof_laws import KEY_KINDS, Question, questions

from sidkit.core.config import EngineSettings
from sidkit.stores.offline import ordered_index, point_in_time
from sidkit.stores.offline.ordered_index import OrderedIndex
from sidkit.stores.offline.own_tables import plan_table
from sidkit.stores.offline.point_in_time import PointInTime

PROOF = bool(os.environ.get("SIDKIT_PROOF"))


def columns(question: Question, rows: list[tuple[Any, ...]]) -> list[pa.Array]:
    return [pa.array([row[at] for row in rows], KEY_KINDS[name][0]) for at, name in enumerate(question.keys)]


@settings(max_examples=4000 if PROOF else 150, deadline=None)
@given(question=questions(), batch=st.integers(1, 5), at_once=st.sampled_from([1, 3, 100]))
def test_a_table_in_order_of_time_sees_what_brute_force_says(question: Question, batch: int, at_once: int) -> None:
    rows = [row for row in question.rows if None not in row.keys and row.event_us is not None]
    rows = sorted(rows, key=lambda row: row.event_us)
    question = Question(**{**vars(question), "rows": rows, "created": False, "by_created": False})
    if not question.keys:
        return
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ordered_index, "_SORTED_ROWS", at_once)
        patched.setattr(ordered_index, "_SCANNED_ROWS", at_once + 1)
        parts = [rows[first : first + batch] for first in range(0, len(rows), batch)]
        batches = [
            (
                columns(question, [row.keys for row in part]),
                pa.array([row.event_us for row in part], pa.int64()),
            )
            for part in parts
        ]
        index = OrderedIndex.build(batches, len(rows), len(question.keys), ties=True)
        tied = len({(row.keys, row.event_us) for row in rows}) < len(rows)
        unique = OrderedIndex.build(batches, len(rows), len(question.keys), ties=False)
    assert (unique is None) == tied
    if not rows:
        return  # an empty table has no type of keys
    assert index is not None
    at = pa.array([at for _, at in question.asked], pa.int64())
    found = index.find(columns(question, [keys for keys, _ in question.asked]), at, question.ttl_us)
    assert [None if number < 0 else int(number) for number in found] == question.answer()


@pytest.mark.parametrize("times", [[3, 1, 2], [1, None, 2]])
def test_other_tables_have_no_such_index(times: list[int | None]) -> None:
    keys = [pa.array(["a", "a", "b"])]
    assert OrderedIndex.build([(keys, pa.array(times, pa.int64()))], 3, 1, ties=True) is None
    missing = [pa.array(["a", None, "b"])]
    assert OrderedIndex.build([(missing, pa.array([1, 2, 3], pa.int64()))], 3, 1, ties=True) is None


@pytest.mark.parametrize("keys", [1, 2])
@pytest.mark.parametrize("in_order", [True, False])
def test_a_table_beyond_the_limit_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int, in_order: bool
) -> None:
    rng = np.random.default_rng(keys)
    rows = 3_000
    moments = np.sort(rng.permutation(rows * 5)[:rows]) if in_order else rng.permutation(rows * 5)[:rows]
    times = pa.array(moments, pa.int64()).cast(pa.timestamp("us", "UTC"))
    names = ["user", "prefix"][:keys]
    table = {name: [f"{name}{value}" for value in rng.integers(40, size=rows)] for name in names}
    table |= {"event_timestamp": times, "created_timestamp": times, "count": np.arange(rows)}
    pq.write_table(pa.table(table), tmp_path / "table.parquet", row_group_size=700)
    plan = plan_table("view", tmp_path / "table.parquet", {name: name for name in names}, ["count"])
    asked = {name: pa.array([f"{name}{value}" for value in rng.integers(50, size=900)]) for name in names}
    at = pa.array(rng.integers(0, rows * 5, size=900), pa.int64())
    expected = PointInTime([plan], EngineSettings()).columns(asked, at)
    through_duckdb: list[str] = []
    original = point_in_time.look_up

    def counted(opened: Any, plan: Any, *rest: Any, **named: Any) -> Any:
        through_duckdb.append(plan.name)
        return original(opened, plan, *rest, **named)

    monkeypatch.setattr(point_in_time, "look_up", counted)
    limited = PointInTime([plan], EngineSettings(), held_bytes=rows * 50)
    for first in range(0, 900, 300):
        part = slice(first, first + 300)
        found = limited.columns({name: values[part] for name, values in asked.items()}, at[part])
        assert found["view__count"].to_pylist() == expected["view__count"][part].to_pylist()
    assert through_duckdb == ([] if in_order else ["view"] * 3)
