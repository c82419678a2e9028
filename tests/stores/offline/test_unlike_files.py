"""Files of one source that store a column as different types: every value survives, through every door, or none is given."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.source_builders import AT, LATER, at, materialize, offline, online, part, store_of, view_of
from sidkit.core.config import EngineSettings
from sidkit.core.errors import ContractError
from sidkit.stores.doctor import examine

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


class Doors:
    """A view per case, behind the kit's engine, and behind Feast's, which reads all rows through DuckDB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stores, self.views, self.entities = [], [], []
        # A name such as all=1 in a path is a column to DuckDB, so only it reads what lies there.
        for place, asked in (("kit", {}), ("all=1", {"engine": "local", "pull_latest": False})):
            views = self._views(folder / place)
            self.views.append(views)
            self.stores.append(
                store_of(folder / f"repo-{len(self.stores)}", list(views.values()), self.entities, **asked)
            )

    def _views(self, folder: Path) -> dict[str, Any]:
        from feast import types

        views = {}
        for number, (case, (kind, first, second, _)) in enumerate(CASES.items()):
            path = two_files(folder / f"d{number}", first, second)
            view, self.entities = view_of(path, {"k": "INT64"}, {"f": eval(kind, vars(types))}, name=f"view_{number}")
            views[case] = view
        return views


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Doors:
    return Doors(tmp_path_factory.mktemp("doors"))


@pytest.mark.parametrize("case", CASES)
def test_every_door_hands_out_the_same_values_or_names_file_and_column(doors: Doors, case: str) -> None:
    expected, frame = CASES[case][3], pd.DataFrame({"k": [0, 1]})
    view = doors.views[0][case]
    problems = examine([view], doors.entities, "sidkit", doors.folder)
    assert [problem.code for problem in problems] == [
        "no-created-column",
        *(["unlike-files"] if expected is None else []),
    ]
    for store in doors.stores:
        if expected is None:
            with pytest.raises(
                ContractError, match=r"view_\d+(_source)?: .*expected (f as .*[01]\.parquet|one type of f .*0\.parquet)"
            ):
                offline(store, frame, view=view.name)
            with pytest.raises(
                ContractError, match=r"view_\d+(_source)?: .*expected (f as .*[01]\.parquet|one type of f .*0\.parquet)"
            ):
                materialize(store, view=view.name)
            continue
        assert offline(store, frame, view=view.name) == expected
        materialize(store, view=view.name)
        found = online(store, [{"k": 0}, {"k": 1}], view=view.name)
        assert [value.replace(tzinfo=UTC) if isinstance(value, datetime) else value for value in found] == expected


def test_files_whose_rows_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    from feast.types import Int64

    part(tmp_path / "d/0.parquet", k=[0], f=[1])
    part(tmp_path / "d/1.parquet", other=[1], f=[1])
    view, entities = view_of(tmp_path / "d", {"k": "INT64"}, {"f": Int64})
    store = store_of(tmp_path / "repo", view, entities)
    with pytest.raises(ContractError, match=r"expected the column k in .*1\.parquet, got other, f, event_timestamp"):
        offline(store, pd.DataFrame({"k": [0]}))
    assert [problem.code for problem in examine([view], entities, "sidkit", tmp_path)][1:] == ["missing-column"]


TIMES = {
    "milliseconds": at(1, "ms"),
    "naive": at(1, "us", None),
    "nanoseconds": at(1, "ns", None),
    "elsewhere": at(1, "us", "Asia/Tokyo"),
    "day": pa.array([AT.date()]),
    "text": pa.array(["2024-01-01T09:00:00+09:00"]),
}


def test_times_of_any_unit_zone_and_form_are_one_moment(tmp_path: Path) -> None:
    from feast.types import Int64

    for number, values in enumerate(TIMES.values()):
        part(tmp_path / f"d/{number}.parquet", k=[number], f=[number], event_timestamp=values)
    store = store_of(tmp_path / "repo", *view_of(tmp_path / "d", {"k": "INT64"}, {"f": Int64}))
    numbers = list(range(len(TIMES)))
    first = pa.array([AT] * len(TIMES), pa.timestamp("us", "UTC")).to_pandas()
    assert offline(store, pd.DataFrame({"k": numbers, "event_timestamp": first})) == numbers
    before = first - pd.Timedelta(microseconds=1)
    assert offline(store, pd.DataFrame({"k": numbers, "event_timestamp": before})) == [None] * len(TIMES)
    materialize(store, AT, AT)
    assert online(store, [{"k": number} for number in numbers]) == numbers


KINDS = (pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.null())
NUMBERS = st.sampled_from([None, 0, 1, -7, 100, 0.5, 2.75, 0.1, 2.0**24 + 1, 2**31, 2**53, 2**53 + 1])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(st.tuples(st.sampled_from(KINDS), st.lists(NUMBERS, min_size=1, max_size=4)), min_size=2, max_size=3),
       kind=st.sampled_from(["Int32", "Int64", "Float32", "Float64"]))  # fmt: skip
def test_numbers_are_those_that_were_written_or_there_are_none(tmp_path: Path, files: list[Any], kind: str) -> None:
    from feast import types

    from sidkit.stores.offline.point_in_time import PointInTime
    from sidkit.stores.offline.view_plans import plan_view

    written: list[Any] = []
    folder = tmp_path / "d"
    for old in folder.glob("*"):
        old.unlink()
    for number, (stored, values) in enumerate(files):
        column = pa.array([_as(stored, value) for value in values], stored)
        part(folder / f"{number}.parquet", k=list(range(len(written), len(written) + len(values))), f=column)
        written += column.to_pylist()
    view, _ = view_of(folder, {"k": "INT64"}, {"f": getattr(types, kind)})
    moments = pa.array([int(LATER.timestamp()) * 1_000_000] * len(written))
    answers = []
    for held in (None, 0):
        refused = ""
        try:
            join = PointInTime([plan_view(view, ["v:f"], False, tmp_path)], EngineSettings(), held_bytes=held)
            found = join.columns({"k": pa.array(range(len(written)))}, moments)["f"]
        except ContractError as error:
            refused = str(error)
        answers.append(None if refused else found.to_pylist())
        assert not refused or "expected f as" in refused
    assert all(answer in (None, written) for answer in answers)
    if all(value is None or (float(value).is_integer() and abs(value) < 2**24) for value in written):
        assert answers == [written, written]


def _as(kind: pa.DataType, value: Any) -> Any:
    """A value that the type holds, or a null."""
    if value is None or pa.types.is_null(kind):
        return None
    try:
        return pa.array([value], kind)[0].as_py()
    except (pa.ArrowInvalid, OverflowError):
        return None
