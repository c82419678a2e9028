"""Files of rows that a user hands in: used as the log would use them, or refused with one line; no row is lost or reread."""

from __future__ import annotations

import datetime
import decimal
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helpers.builders import DAY, START, FinishedJob
from ranking.data.dataset import read_rows
from ranking.data.export import write_frame
from ranking.experiments.evaluate import evaluate_ranker
from sidkit.cli import build_app
from sidkit.contract.row_files import check_row_file, checked_rows
from sidkit.contract.schemas import ENTITY_ROWS, LABELLED_ROWS
from sidkit.core.errors import ContractError, EvaluationError, SidkitError

US = pa.timestamp("us", tz="UTC")
AT = [START, START + DAY, START + 2 * DAY]


def good(**columns: Any) -> pa.Table:
    table = {
        "user_id": pa.array(["u1", "u2", "u1"]),
        "item_id": pa.array(["i1", "i2", "i3"]),
        "event_timestamp": pa.array(AT, pa.int64()).cast(US),
        "label": pa.array([1, 0, 1], pa.int8()),
    }
    return pa.table({name: column for name, column in {**table, **columns}.items() if column is not None})


def stamps(unit: str, zone: str | None = "UTC") -> pa.Array:
    return pa.array(AT, pa.int64()).cast(US).cast(pa.timestamp(unit, zone), safe=False)


SAME = {
    "int64 ids": ({"item_id": pa.array([1, 2, 3])}, "item_id", ["1", "2", "3"]),
    "uint8 ids": ({"item_id": pa.array([1, 2, 3], pa.uint8())}, "item_id", ["1", "2", "3"]),
    "large text": ({"user_id": pa.array(["a", "b", "c"], pa.large_string())}, "user_id", ["a", "b", "c"]),
    "text view": ({"user_id": pa.array(["a", "b", "c"], pa.string_view())}, "user_id", ["a", "b", "c"]),
    "categories": ({"user_id": pa.array(["a", "b", "a"]).dictionary_encode()}, "user_id", ["a", "b", "a"]),
    "leading zeros": ({"item_id": pa.array(["001", "1", "01"])}, "item_id", ["001", "1", "01"]),
    "spaces": ({"item_id": pa.array([" i1", "i1", "i1 "])}, "item_id", [" i1", "i1", "i1 "]),
    "seconds": ({"event_timestamp": stamps("s")}, "event_timestamp", AT),
    "milliseconds": ({"event_timestamp": stamps("ms")}, "event_timestamp", AT),
    "nanoseconds": ({"event_timestamp": stamps("ns")}, "event_timestamp", AT),
    "another zone": ({"event_timestamp": stamps("us", "Asia/Tokyo")}, "event_timestamp", AT),
    "text with a zone": (
        {"event_timestamp": pa.array(["2020-01-01T00:00:00Z", "2020-01-02T01:00:00+01:00", "2020-01-03T00:00:00+00:00"])},
        "event_timestamp", AT,
    ),
    "labels as booleans": ({"label": pa.array([True, False, True])}, "label", [1, 0, 1]),
    "labels as floats": ({"label": pa.array([1.0, 0.0, 1.0])}, "label", [1, 0, 1]),
    "labels as int64": ({"label": pa.array([1, 0, 1])}, "label", [1, 0, 1]),
    "unread wild times": ({"x": pa.array([-(2**62), 0, 2**62], pa.int64()).cast(pa.timestamp("us"))}, "label", [1, 0, 1]),
    "columns of the checks": ({"reason": pa.array(["a", "b", "c"]), "nth": pa.array([1, 2, 3])}, "label", [1, 0, 1]),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_rows_of_other_types_are_read_as_the_log_reads_them(case: str) -> None:
    columns, name, expected = SAME[case]
    column = checked_rows(good(**columns), LABELLED_ROWS).column(name)
    found = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    assert found.to_pylist() == expected


def rows_of(value: Any, place: int, values: list[Any]) -> list[Any]:
    return [value if at == place else old for at, old in enumerate(values)]


BROKEN: dict[str, pa.Table] = {}
for _place in range(3):
    for _name, _old, _kind in (
        ("user_id", ["u1", "u2", "u1"], pa.string()),
        ("item_id", ["i1", "i2", "i3"], pa.string()),
    ):
        for _value in (None, ""):
            BROKEN[f"{_name} {_value!r} in row {_place}"] = good(
                **{_name: pa.array(rows_of(_value, _place, _old), _kind)}
            )
    for _value in (None, float("nan"), 1.7, 2.0, -1.0, 0.5, float("inf"), -float("inf"), 1e300):
        BROKEN[f"label {_value} in row {_place}"] = good(
            label=pa.array(rows_of(_value, _place, [1.0, 0.0, 1.0]), pa.float64())
        )
    for _value in (2, -1, 127):
        BROKEN[f"label {_value} as an integer in row {_place}"] = good(
            label=pa.array(rows_of(_value, _place, [1, 0, 1]))
        )
    for _value in (None, -1, -(2**60), 2**62, 7_258_118_400_000_000):
        times = pa.array(rows_of(_value, _place, AT), pa.int64()).cast(US)
        BROKEN[f"time {_value} in row {_place}"] = good(event_timestamp=times)
WRONG_TYPES: dict[str, list[pa.Array]] = {
    "user_id": [
        pa.array([1.0, 2.0, 3.0]), pa.array([b"a", b"b", b"c"]), pa.array([True, False, True]), pa.array([[1], [2], [3]]),
        pa.array([decimal.Decimal("1.0")] * 3), pa.array([datetime.date(2020, 1, 1)] * 3), pa.array([{"a": 1}] * 3),
        pa.array([b"0123456789abcdef"] * 3, pa.binary(16)), stamps("us"), pa.nulls(3), pa.array([1.5, float("nan"), 3]),
    ],
    "event_timestamp": [
        stamps("us", None), stamps("s", None), stamps("ns", None), pa.array(AT), pa.array([float(at) for at in AT]),
        pa.array(["2020-01-01", "2020-01-02", "2020-01-03"]), pa.array(["2020-01-01T00:00:00"] * 3), pa.array(["x"] * 3),
        pa.array(["2020-13-45T00:00:00Z"] * 3), pa.array([datetime.date(2020, 1, 1)] * 3), pa.array([b"x"] * 3), pa.nulls(3),
        pa.array([True, False, True]), pa.array([[1], [2], [3]]), pa.array([datetime.time(1)] * 3), pa.array([1577836800] * 3),
        pa.array([datetime.timedelta(1)] * 3),
    ],
    "label": [
        pa.array(["1", "0", "1"]), pa.array(["click", "no", "click"]), pa.array([b"1", b"0", b"1"]), pa.nulls(3),
        pa.array([[1], [0], [1]]), pa.array([{"a": 1}] * 3), stamps("us"), pa.array([datetime.date(2020, 1, 1)] * 3),
        pa.array(["yes", None, "no"]).dictionary_encode(),
    ],
}  # fmt: skip
WRONG_TYPES["item_id"] = WRONG_TYPES["user_id"]
for _name, _arrays in WRONG_TYPES.items():
    for _number, _array in enumerate(_arrays):
        BROKEN[f"{_name} as {_array.type} ({_number})"] = good(**{_name: _array})
for _missing in itertools.chain.from_iterable(
    itertools.combinations(("user_id", "item_id", "event_timestamp", "label"), n) for n in (1, 2, 4)
):
    BROKEN[f"without {_missing}"] = good(**dict.fromkeys(_missing), more=pa.array([1, 2, 3]))
BROKEN["no row"] = good().slice(0, 0)
BROKEN["a column twice"] = good().append_column("user_id", pa.array(["x", "y", "z"]))
BROKEN["columns that differ in case"] = good().append_column("USER_ID", pa.array(["x", "y", "z"]))


def test_there_are_as_many_malformed_files_as_were_tried_before() -> None:
    assert len(BROKEN) >= 125


@pytest.mark.parametrize("case", BROKEN)
def test_a_malformed_file_is_refused_with_one_line(case: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(BROKEN[case], path)
    for attempt in (
        lambda: read_rows(path),
        lambda: checked_rows(BROKEN[case], LABELLED_ROWS),
        lambda: check_row_file(path, LABELLED_ROWS),
    ):
        with pytest.raises(ContractError, match="^rows: ") as refused:
            attempt()
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) > 20


def test_the_message_counts_rows_and_names_the_first() -> None:
    table = pa.concat_tables([good()] * 40)
    labels = table.column("label").to_pylist()
    labels[17], labels[90] = None, None
    with pytest.raises(
        ContractError, match=r"2 of 120 rows of the table are invalid: label is missing \(2, first in row 17\)"
    ):
        checked_rows(table.set_column(3, "label", pa.array(labels, pa.int8())), LABELLED_ROWS)


def parquet_with(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        pq.write_table(good(), path)
        path.write_bytes(change(path.read_bytes()))

    return write


FILES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "text": lambda path: path.write_text("user_id,item_id\nu1,i1\n"),
    "a truncated file": parquet_with(lambda held: held[:-30]),
    "a damaged footer": parquet_with(lambda held: held[:-400] + bytes(392) + held[-8:]),
    "a damaged page": parquet_with(lambda held: b"PAR1" + b"\xff" * 60 + held[64:]),
    "random bytes": lambda path: path.write_bytes(np.random.default_rng(0).bytes(999)),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", ["frame", "evaluate"])
def test_a_path_that_is_no_parquet_ends_in_one_line(
    case: str, command: str, tmp_path: Path, finished: FinishedJob
) -> None:
    path = tmp_path / "rows.parquet"
    FILES[case](path)
    arguments = {
        "frame": ["frame", "--rows", str(path), "--out", str(tmp_path / "out.parquet")],
        "evaluate": ["ranker", "evaluate", finished.output["artifacts"]["serving_ranker"], "--rows", str(path)],
    }[command]
    done = CliRunner().invoke(build_app(), [*arguments, "--repo", str(finished.repo.path)])
    assert isinstance(done.exception, SidkitError), repr(done.exception)
    assert "rows.parquet" in str(done.exception)
    assert not (tmp_path / "out.parquet").exists()
    assert not list(tmp_path.glob(".writing*"))


def test_a_frame_of_typed_rows_is_that_of_rows_as_the_log_has_them(finished: FinishedJob, tmp_path: Path) -> None:
    """Times in nanoseconds and dictionaries give the same features, further columns stay, and the order is the rows'."""
    at = finished.result.as_of_us
    rows = {
        "user_id": pa.array(["u3", "u1", "u3"]), "item_id": pa.array(["i9", "i2", "i5"]),
        "event_timestamp": pa.array([at - DAY, at, at + DAY], pa.int64()).cast(US), "reason": pa.array(["a", "b", "c"]),
    }  # fmt: skip
    typed = {
        **rows, "user_id": rows["user_id"].dictionary_encode(), "item_id": rows["item_id"].cast(pa.large_string()),
        "event_timestamp": rows["event_timestamp"].cast(pa.timestamp("ns", "Europe/Paris")),
    }  # fmt: skip
    found = []
    for name, columns in (("plain", rows), ("typed", typed)):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        written = write_frame(finished.repo, tmp_path / f"{name}.parquet", tmp_path / f"{name}-frame.parquet")
        assert (written.rows, written.ahead, written.unknown) == (3, 1, 0)
        found.append(pq.read_table(tmp_path / f"{name}-frame.parquet"))
    assert found[0].column("reason").to_pylist() == ["a", "b", "c"]
    assert found[0].equals(found[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "plain-frame.parquet", "plain.parquet", "typed-frame.parquet", "typed.parquet",
    ]  # fmt: skip


def test_integer_ids_are_the_texts_that_the_log_makes_of_them(finished: FinishedJob, tmp_path: Path) -> None:
    """Items of the log are called i0, i1, ...: 1 is an item that nobody knows, not a traceback and not another item."""
    at = pa.array([finished.result.as_of_us], pa.int64()).cast(US)
    rows = pa.table({"user_id": pa.array(["u1"]), "item_id": pa.array([1]), "event_timestamp": at})
    pq.write_table(rows, tmp_path / "rows.parquet")
    assert write_frame(finished.repo, tmp_path / "rows.parquet", tmp_path / "out.parquet").unknown == 1
    frame = pq.read_table(tmp_path / "out.parquet")
    assert frame.column("item_id").to_pylist() == ["1"]
    assert frame.column("item_stats__clicks_all").to_pylist() == [None]
    assert check_row_file(tmp_path / "out.parquet", ENTITY_ROWS)


def test_an_evaluation_says_which_rows_it_left_out_and_which_it_knows_little_of(
    finished: FinishedJob, tmp_path: Path
) -> None:
    own = pq.read_table(finished.repo.labelled_rows)
    as_of, name = finished.result.as_of_us, finished.output["artifacts"]["serving_ranker"]
    late = own.slice(len(own) - 400)
    items = late.column("item_id").to_pylist()
    items[:7] = [f"nobody {number}" for number in range(7)]
    times = late.column("event_timestamp").cast(pa.int64()).to_pylist()
    times[-3:] = [as_of + DAY] * 3
    rows = pa.concat_tables([own.slice(0, 100), late]).select(["user_id", "item_id", "event_timestamp", "label"])
    moments = [*own.column("event_timestamp").slice(0, 100).cast(pa.int64()).to_pylist(), *times]
    rows = rows.set_column(1, "item_id", pa.array([*own.column("item_id").slice(0, 100).to_pylist(), *items]))
    pq.write_table(rows.set_column(2, "event_timestamp", pa.array(moments).cast(US)), tmp_path / "rows.parquet")
    arguments = [
        "ranker",
        "evaluate",
        name,
        "--rows",
        str(tmp_path / "rows.parquet"),
        "--repo",
        str(finished.repo.path),
    ]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.exit_code == 0, repr(done.exception)
    assert "evaluating 400 of 500 rows: those from " in done.stdout
    assert "warning: 3 rows are later than " in done.stderr
    assert "warning: 7 rows have item ids that are missing from the tables" in done.stderr
    given = json.loads(CliRunner().invoke(build_app(), [*arguments, "--json"]).stdout)["given"]
    assert (given["rows"], given["before_start"], given["after_tables"], given["of_unknown_items"]) == (500, 100, 3, 7)


def test_a_further_column_that_cannot_be_read_is_said_to_be_one(finished: FinishedJob, tmp_path: Path) -> None:
    at = pa.array([finished.result.as_of_us] * 2).cast(US)
    gap = pa.array([[1, 2], None], pa.list_(pa.int32(), 2))
    pq.write_table(
        pa.table({"user_id": ["u1", "u2"], "item_id": ["i1", "i2"], "event_timestamp": at, "pair": gap}),
        tmp_path / "rows.parquet",
    )
    with pytest.raises(ContractError, match=r"an extra column of .*rows\.parquet cannot be written .*; remove it"):
        write_frame(finished.repo, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


def test_rows_of_one_label_are_refused_by_the_file(finished: FinishedJob, tmp_path: Path) -> None:
    own = pq.read_table(finished.repo.labelled_rows)
    late = own.slice(len(own) - 50)
    pq.write_table(
        late.set_column(late.column_names.index("label"), "label", pa.array([1] * 50)), tmp_path / "rows.parquet"
    )
    name = finished.output["artifacts"]["serving_ranker"]
    with pytest.raises(EvaluationError, match=r"all 50 rows of .*rows\.parquet at or after .* have label 1"):
        evaluate_ranker(finished.repo, name, tmp_path / "rows.parquet")
