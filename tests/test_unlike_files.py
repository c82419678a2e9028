"""Files of one source that store a column as different types: every value survives, through every door, or none is given."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from sidkit.doctor import examine
from sidkit.errors import ContractError
from source_builders import AT, at, materialize, offline, online, part, store_of, view_of

LACKING = "the file lacks the column"
# name -> (declared, values of the first file, of the second, what is handed out, None where it is refused)
CASES: dict[str, tuple[str, Any, Any, list[Any] | None]] = {
    "integers, then a fraction": ("Float64", pa.array([1]), pa.array([2.75]), [1.0, 2.75]),
    "a fraction, then integers": ("Float64", pa.array([2.75]), pa.array([1]), [2.75, 1.0]),
    "a fraction of an integer": ("Int64", pa.array([1]), pa.array([2.75]), None),
    "integers beside nulls": ("Int64", pa.array([2**53 + 1]), pa.array([7.0]), [2**53 + 1, 7]),
    "an integer that no float holds": ("Float64", pa.array([2**53 + 1]), pa.array([0.5]), None),
    "narrow and wide integers": ("Int64", pa.array([1], pa.int32()), pa.array([2**40]), [1, 2**40]),
    "an integer that does not fit": ("Int32", pa.array([1], pa.int32()), pa.array([2**40]), None),
    "narrow and wide floats": ("Float64", pa.array([0.5], pa.float32()), pa.array([0.1]), [0.5, 0.1]),
    "a float that would be rounded": ("Float32", pa.array([0.5], pa.float32()), pa.array([0.1]), None),
    "texts of three kinds": ("String", pa.array(["a"], pa.large_string()), pa.array(["b"]).dictionary_encode(), ["a", "b"]),
    "a text, then a number": ("String", pa.array(["a"]), pa.array([1]), None),
    "nothing, then numbers": ("Int64", pa.array([None]), pa.array([3]), [None, 3]),
    "numbers, then nothing": ("Int64", pa.array([3]), pa.array([None]), [3, None]),
    "a file without the column": ("Int64", pa.array([3]), LACKING, [3, None]),
    "a first file without the column": ("Int64", LACKING, pa.array([3]), [None, 3]),
    "lists of integers and floats": ("Array(Float64)", pa.array([[1, 2]]), pa.array([[0.5]]), [[1.0, 2.0], [0.5]]),
    "a list that would be rounded": ("Array(Int64)", pa.array([[1, 2]]), pa.array([[0.5]]), None),
    "lists of fixed size": (
        "Array(Float32)", pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)), pa.array([[0.5]], pa.list_(pa.float32())),
        [[1.0, 2.0], [0.5]],
    ),
    "decimals": ("Float64", pa.array([Decimal("2.75")]), pa.array([1.5]), [2.75, 1.5]),
    "decimals that a float rounds": (
        "Float64", pa.array([Decimal("12345678901234567890.25")], pa.decimal128(22, 2)), pa.array([1.5]), None,
    ),
    "moments of two units": ("UnixTimestamp", at(1, "ms", None), at(1, "us", "Asia/Tokyo"), [AT, AT]),
    "a day and a moment": ("UnixTimestamp", pa.array([date(2024, 1, 1)]), at(1), [AT, AT]),
}  # fmt: skip


def two_files(folder: Path, first: Any, second: Any) -> Path:
    for number, values in enumerate((first, second)):
        column = {} if values is LACKING else {"f": values}
        part(folder / f"{number}.parquet", k=[number], **column)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_every_door_hands_out_the_same_values_or_names_file_and_column(tmp_path: Path, case: str) -> None:
    from feast import types

    kind, first, second, expected = CASES[case]
    path = two_files(tmp_path / "d", first, second)
    view, entities = view_of(path, {"k": "INT64"}, {"f": eval(kind, vars(types))})
    found = [
        problem for problem in examine([view], entities, "sidkit", tmp_path) if problem.code != "no-created-column"
    ]
    frame = pd.DataFrame({"k": [0, 1]})
    # In memory and in DuckDB, in the kit's engine and in Feast's.
    for number, (engine, latest, most) in enumerate(
        [("", True, "1500MB"), ("local", True, "1KB"), ("local", False, "1500MB")]
    ):
        asked = {"engine": engine} if engine else {}
        store = store_of(tmp_path / f"repo{number}", view, entities, pull_latest=latest, **asked)
        if expected is None:
            with pytest.raises(ContractError, match=r"[01]\.parquet.* f |f as .*0\.parquet"):
                offline(store, frame)
            with pytest.raises(ContractError, match=r"s: .*\bf\b"):
                materialize(store)
            continue
        assert offline(store, frame) == expected
        materialize(store)
        got = online(store, [{"k": 0}, {"k": 1}])
        assert [value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for value in got] == expected
        assert most
    assert [problem.code for problem in found] == ([] if expected is not None else ["unlike-files"])
