"""The search engine beside the oracle and beside the DuckDB engine, on random tables and keys of any kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_asof_laws import KEY_KINDS, Question, ask, questions

from helpers.pit_oracle import BASE_US, FeatureRow, newest
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, memory_bytes
from sidkit.core.errors import ContractError
from sidkit.stores.keys import as_declared
from sidkit.stores.offline.binary_search import SearchIndex, micros, newest_rows
from sidkit.stores.offline.key_numbers import KeyNumbers, UnlikeKeysError
from sidkit.stores.offline.take import take_rows

PROOF = bool(os.environ.get("SIDKIT_PROOF"))
"""`make proof` draws thousands of cases."""
many = settings(max_examples=4000 if PROOF else 150, deadline=None)


def searched(question: Question, threads: int = 1) -> list[int | None]:
    def columns(rows: list[tuple[Any, ...]]) -> list[pa.Array]:
        return [pa.array([row[at] for row in rows], KEY_KINDS[name][0]) for at, name in enumerate(question.keys)]

    index = SearchIndex.build(
        columns([row.keys for row in question.rows]),
        pa.array([row.event_us for row in question.rows], pa.int64()),
        pa.array([row.created_us for row in question.rows], pa.int64()) if question.created else None,
        filter_by_created=question.by_created,
        threads=threads,
    )
    at = pa.array([at for _, at in question.asked], pa.int64())
    found = index.find(columns([keys for keys, _ in question.asked]), at, question.ttl_us, threads)
    return [None if number < 0 else int(number) for number in found]


@many
@given(question=questions(times_may_be_null=True))
def test_a_row_sees_what_brute_force_says(question: Question) -> None:
    assert searched(question) == question.answer()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    with connection(EngineSettings(), tmp_path_factory.mktemp("spill")) as opened:
        yield opened


@settings(max_examples=1000 if PROOF else 60, deadline=None)
@given(question=questions(times_may_be_null=True))
def test_both_engines_see_the_same(opened: duckdb.DuckDBPyConnection, question: Question) -> None:
    assert ask(opened, question).plain()["row"].to_pylist() == searched(question)


@many
@given(question=questions(), bounds=st.tuples(*[st.sampled_from([0, 1, 3, 7, 12, 41])] * 2))
def test_the_newest_row_of_a_key_is_the_oracles(question: Question, bounds: tuple[int, int]) -> None:
    start, end = BASE_US + min(bounds), BASE_US + max(bounds)
    columns = [
        pa.array([row.keys[at] for row in question.rows], KEY_KINDS[name][0]) for at, name in enumerate(question.keys)
    ]
    event = pa.array([row.event_us for row in question.rows], pa.int64())
    created = pa.array([row.created_us for row in question.rows], pa.int64()) if question.created else None
    rows = question.rows if question.created else [FeatureRow(row.keys, row.event_us) for row in question.rows]
    found = newest_rows(columns, event, created, start, end).tolist()
    assert found == sorted(newest(rows, start, end).values())


WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 40)


@many
@given(table=st.lists(WHOLE, min_size=1, max_size=30), asked=st.lists(WHOLE | st.none(), min_size=1, max_size=30))
def test_numbers_of_keys_are_equal_exactly_where_the_keys_are(table: list[int], asked: list[int | None]) -> None:
    numbers, code = KeyNumbers.learn([pa.array(table, pa.int64())], len(table))
    mixed = asked + table
    found = numbers.look_up([pa.array(mixed, pa.int64())], len(mixed))
    number_of = dict(zip(table, code.tolist(), strict=True))
    assert len(set(number_of.values())) == len(number_of)
    for key, number in zip(mixed, found.tolist(), strict=True):
        assert number == number_of[key] if key in number_of else number not in number_of.values()
        assert number >= 0 or key not in number_of


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.uint16(), pa.float64()])
def test_integer_keys_of_any_width_are_the_same_keys(kind: pa.DataType) -> None:
    numbers, code = KeyNumbers.learn([pa.array([5, 7, 9], pa.int64())], 3)
    asked = as_declared(pa.array([9, None, 5, 70], kind), "INT64", "entity_df", "k")
    assert numbers.look_up([asked], 4).tolist() == [int(code[2]), -1, int(code[0]), -1]


@pytest.mark.parametrize("asked", [pa.array([1.5]), pa.array([2.0**53]), pa.array(["1"])])
def test_keys_of_another_type_are_never_compared(asked: pa.Array) -> None:
    numbers, _ = KeyNumbers.learn([pa.array([1, 2], pa.int64())], 2)
    with pytest.raises(UnlikeKeysError):
        numbers.look_up([asked], 1)


@pytest.mark.parametrize("asked", [pa.array([1.5]), pa.array([2.0**53]), pa.array(["one"]), pa.array([True])])
def test_what_is_no_whole_number_is_no_integer_key(asked: pa.Array) -> None:
    with pytest.raises(ContractError, match="entity_df: expected (INT64 keys in k|k as INT64)"):
        as_declared(asked, "INT64", "entity_df", "k")


def test_fractions_of_a_microsecond_are_rounded_down_before_and_after_1970() -> None:
    nanos = pa.array([-1, -1000, -1001, 0, 999, 1000, None], pa.int64()).cast(pa.timestamp("ns"))
    assert micros(nanos).to_pylist() == [-1, -1, -2, 0, 0, 1, None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.string(), pa.list_(pa.float32()), pa.list_(pa.string()), pa.bool_()])
@pytest.mark.parametrize("threads", [1, 2])
def test_gathered_rows_are_those_of_the_index_and_null_where_it_is_minus_one(kind: pa.DataType, threads: int) -> None:
    values: dict[pa.DataType, list[Any]] = {
        pa.int64(): [2**60 + 1, None, 3],
        pa.string(): ["a", "", None],
        pa.list_(pa.float32()): [[1.5, None], [], None],
        pa.list_(pa.string()): [["a", None, ""], None, []],
        pa.bool_(): [True, None, False],
    }
    column = pa.chunked_array([pa.array(values[kind][:2], kind), pa.array(values[kind][2:], kind)])
    index = np.array([2, -1, 0, 0, 1])
    for taken in take_rows([column, column], index, threads):
        assert taken.type == kind
        assert taken.to_pylist() == [None if at < 0 else values[kind][at] for at in index]
    empty = take_rows([column.slice(0, 0)], np.array([-1, -1]))[0]
    assert empty.type == kind and empty.to_pylist() == [None, None]


def test_memory_limits_are_read_as_duckdb_reads_them() -> None:
    assert [memory_bytes(limit) for limit in ("1500MB", "2GiB", "0.5 KB")] == [1_500_000_000, 2**31, 500]
