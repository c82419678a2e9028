"""Dirty input: every row that breaks the contract is rejected with its reason, and nothing is dropped silently."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from builders import DAY, START, moments, sidkit, write_tables
from sidkit.config import EngineSettings, Settings, SourceSettings
from sidkit.contract import TableReport, open_source, validate
from sidkit.engine import connection
from sidkit.errors import ContractError

Rows = list[dict[str, Any]]
END = 7_258_118_400_000_000  # 2200-01-01
NAN, INF = math.nan, math.inf
KINDS = {
    "user_id": pa.string(), "item_id": pa.string(), "label": pa.float64(), "request_id": pa.string(),
    "position": pa.float64(), "converted": pa.float64(), "rating": pa.float64(), "price": pa.float64(),
    "title": pa.string(), "text": pa.list_(pa.float64()),
}  # fmt: skip


def event(n: int = 0, **values: Any) -> dict[str, Any]:
    return {"user_id": f"u{n}", "item_id": "i0", "timestamp": START + n, "label": float(n % 2), **values}


def item(name: str | None = "i0", **values: Any) -> dict[str, Any]:
    return {"item_id": name, "created_at": START - DAY, **values}


def vector(name: str | None = "i0", **values: Any) -> dict[str, Any]:
    return {"item_id": name, "text": [1.0, 2.0], **values}


def good() -> dict[str, Rows]:
    return {
        "interactions": [event(n, item_id=f"i{n % 3}") for n in range(6)],
        "items": [item(f"i{n}") for n in range(3)],
        "item_embeddings": [vector(f"i{n}") for n in range(3)],
    }


def table(rows: Rows) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table({name: pa.array(v, KINDS[name]) if name in KINDS else moments(v) for name, v in columns.items()})


def read_rows(path: Path) -> Rows:
    """Rows of a Parquet file with times as microseconds."""
    found = pq.read_table(path)
    for place, field in enumerate(found.schema):
        if pa.types.is_timestamp(field.type):
            found = found.set_column(place, field.name, found[field.name].cast(pa.int64()))
    rows: Rows = found.to_pylist()
    return rows


@dataclass
class Checked:
    """What became of a source."""

    reports: dict[str, TableReport]
    valid: dict[str, Rows]
    rejects: dict[str, Rows]


def check(tables: Mapping[str, Rows | pa.Table], chunk_rows: int = 1000, **source: Any) -> Checked:
    """Validate tables in a temporary folder; any share of rejects is allowed unless said otherwise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = {key: rows if isinstance(rows, pa.Table) else table(rows) for key, rows in tables.items()}
        url = str(write_tables(folder / "source", written))
        settings = Settings(
            source=SourceSettings(url=url, **{"max_reject_share": 1.0, **source}),
            engine=EngineSettings(threads=1, chunk_rows=chunk_rows),
        )
        with connection(settings.engine, folder / "spill") as opened:
            valid = validate(open_source(url), settings, opened, folder / "valid", folder / "rejects")
        paths = {"interactions": valid.interactions, "items": valid.items, "item_embeddings": valid.embeddings}
        return Checked(
            {report.table: report for report in valid.reports},
            {key: read_rows(path) for key, path in paths.items()},
            {key: read_rows(folder / "rejects" / f"{key}.parquet") for key in tables},
        )


def reasons(name: str, row: dict[str, Any], **source: Any) -> dict[str, int]:
    """The reasons in one table when one row is added to good ones."""
    tables = good()
    tables[name].append(row)
    return check(tables, **source).reports[name].reasons


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (event(9, user_id=None), "user_id is missing"),
        (event(9, user_id=""), "user_id is empty"),
        (event(9, item_id=None), "item_id is missing"),
        (event(9, item_id=""), "item_id is empty"),
        (event(9, timestamp=None), "timestamp is missing"),
        (event(9, timestamp=-1), "timestamp is outside 1970..2200"),
        (event(9, timestamp=END), "timestamp is outside 1970..2200"),
        (event(9, timestamp=START // 1_000_000_000_000 * -(10**15)), "timestamp is outside 1970..2200"),
        (event(9, label=None), "label is missing"),
        (event(9, label=NAN), "label is missing"),
        (event(9, label=2.0), "label is not 0 or 1"),
        (event(9, label=0.5), "label is not 0 or 1"),
        (event(9, label=-1.0), "label is not 0 or 1"),
        (event(9, label=INF), "label is not 0 or 1"),
        (event(9, converted=2.0), "converted is not 0 or 1"),
        (event(9, position=1.5), "position is no 32-bit integer"),
        (event(9, position=3e9), "position is no 32-bit integer"),
        (event(9, position=INF), "position is no 32-bit integer"),
        (event(9, rating=-INF), "rating is infinite"),
        (event(9, item_id="i9"), "the item is not in the catalogue"),
        (event(0), "an exact copy of another row"),
    ],
)
def test_a_broken_interaction_is_rejected_with_its_reason(row: dict[str, Any], reason: str) -> None:
    assert reasons("interactions", row) == {reason: 1}


@pytest.mark.parametrize(
    "row",
    [
        event(9, timestamp=0),
        event(9, timestamp=END - 1),
        event(9, position=NAN, rating=NAN, converted=NAN),
        event(9, position=-5.0),
        event(0, request_id="r"),  # one more page view, not a copy
    ],
)
def test_an_interaction_at_the_edge_of_the_contract_is_kept(row: dict[str, Any]) -> None:
    assert reasons("interactions", row) == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (item(None), "item_id is missing"),
        (item(""), "item_id is empty"),
        (item("i9", created_at=None), "created_at is missing"),
        (item("i9", created_at=-1), "created_at is outside 1970..2200"),
        (item("i9", removed_at=END), "removed_at is outside 1970..2200"),
        (item("i9", updated_at=START - DAY - 1), "updated_at is before created_at"),
        (item("i9", removed_at=START - DAY - 1), "removed_at is before created_at"),
        (item("i9", price=INF), "price is infinite"),
        (item("i2"), "a second row of this item"),
        (item("i2", updated_at=START - DAY), "a second row of this item and updated_at"),
    ],
)
def test_a_broken_item_is_rejected_with_its_reason(row: dict[str, Any], reason: str) -> None:
    assert reasons("items", row) == {reason: 1}


def test_versions_of_an_item_are_told_apart_by_updated_at() -> None:
    assert reasons("items", item("i2", updated_at=START, removed_at=START)) == {}
    assert reasons("item_embeddings", vector("i2", updated_at=START)) == {}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (vector(None), "item_id is missing"),
        (vector("i9"), "the item is not in the catalogue"),
        (vector("i2"), "a second row of this item"),
        (vector("i2", text=[NAN, 1.0], updated_at=START), "text holds NaN, infinite or missing elements"),
        (vector("i2", text=[1.0, -INF], updated_at=START), "text holds NaN, infinite or missing elements"),
        (vector("i2", text=[None, 1.0], updated_at=START), "text holds NaN, infinite or missing elements"),
        (vector("i2", text=[1e300, 1.0], updated_at=START), "text holds NaN, infinite or missing elements"),
        (vector("i2", text=[], updated_at=START), "text is an empty list"),
        (vector("i2", text=[1.0], updated_at=START), "text has 1 elements where the column has 2"),
        (vector("i2", updated_at=END), "updated_at is outside 1970..2200"),
    ],
)
def test_a_broken_vector_is_rejected_with_its_reason(row: dict[str, Any], reason: str) -> None:
    assert reasons("item_embeddings", row) == {reason: 1}


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("interactions", "label", "label is not 0 or 1"),
        ("interactions", "position", "position is no 32-bit integer"),
        ("items", "price", None),
    ],
)
def test_a_huge_integer_is_judged_like_any_other_value(name: str, column: str, reason: str | None) -> None:
    rows = table([{key: value for key, value in row.items() if key != column} for row in good()[name]])
    numbers = pa.array([2**62 + 1, 0, *[1] * (len(rows) - 2)], pa.int64())
    checked = check({**good(), name: rows.append_column(column, numbers)})
    assert checked.reports[name].reasons == ({reason: 1} if reason else {})


def test_unknown_items_are_kept_where_the_settings_say_so() -> None:
    tables = good()
    tables["interactions"].append(event(9, item_id="i9"))
    checked = check(tables, unknown_items="keep")
    assert checked.reports["interactions"].rejected == 0
    assert "i9" in {row["item_id"] for row in checked.valid["interactions"]}


def test_an_item_without_a_creation_time_can_be_dated_by_its_first_interaction() -> None:
    tables = good()
    tables["items"] += [item("i7", created_at=None), item("i8", created_at=None)]
    tables["interactions"] += [event(n, item_id="i7", timestamp=START + n) for n in (40, 30, 50)]
    checked = check(tables, missing_created_at="first_interaction")
    assert checked.reports["items"].reasons == {"created_at is missing": 1}  # nobody met i8
    assert {row["item_id"]: row["created_at"] for row in checked.valid["items"]}["i7"] == START + 30


def test_a_rejected_interaction_dates_no_item() -> None:
    tables = good()
    tables["items"].append(item("i7", created_at=None))
    tables["interactions"] += [event(30, item_id="i7"), event(31, item_id="i7", timestamp=-5)]
    checked = check(tables, missing_created_at="first_interaction")
    assert {row["item_id"]: row["created_at"] for row in checked.valid["items"]}["i7"] == START + 30


@pytest.mark.parametrize(
    ("name", "broken", "sound"),
    [
        ("items", item("i9", created_at=None), item("i9")),
        ("item_embeddings", vector("i2", text=[NAN, 0.0]), vector("i2")),
        ("interactions", event(9, position=1.5), event(9, position=None)),
    ],
)
def test_a_sound_row_is_no_second_row_of_a_rejected_one(
    name: str, broken: dict[str, Any], sound: dict[str, Any]
) -> None:
    tables = good()
    tables[name] = [row for row in tables[name] if row["item_id"] != "i2"] + [broken, sound]
    assert check(tables).reports[name].rejected == 1


def test_rejects_keep_the_value_that_came() -> None:
    tables = good()
    broken = ({"label": 0.5}, {"converted": 7.0}, {"position": 1.5}, {"rating": INF})
    tables["interactions"] += [event(9, **values) for values in broken]
    rejects = check(tables).rejects["interactions"]
    assert [row["label"] for row in rejects] == [0.5, 1.0, 1.0, 1.0]
    assert rejects[1]["converted"] == 7.0
    assert rejects[3]["rating"] == INF
    assert rejects[2]["position"] == 1.5


def from_(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


TIMES = from_(START, START + 1, START + DAY, START, START + 1, None, 0, -1, END - 1, END, -(10**17))
ITEM_IDS = from_("i0", "i1", "i2", "i3", "i9", None, "")
EVENTS = st.fixed_dictionaries(
    {
        "user_id": from_("u0", "u1", "u0", "u1", None, ""), "item_id": ITEM_IDS, "timestamp": TIMES,
        "label": from_(0.0, 1.0, 0.0, 1.0, None, NAN, 2.0, 0.5), "position": from_(None, NAN, 0.0, 7.0, -3.0, INF, 3e9),
        "converted": from_(None, NAN, 0.0, 1.0, 3.0), "rating": from_(None, NAN, 0.5, INF), "request_id": from_(None, "r"),
    }
)  # fmt: skip
ITEMS = st.fixed_dictionaries(
    {"item_id": ITEM_IDS, "created_at": TIMES, "removed_at": TIMES, "price": from_(None, NAN, 1.5, INF)}
)
VECTORS = st.fixed_dictionaries(
    {"item_id": ITEM_IDS, "text": from_(None, [], [1.0, 2.0], [3.0, 4.0], [1.0, 2.0, 3.0], [NAN, 1.0], [None, 1.0])}
)


def versioned(rows: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Rows]:
    """Lists of rows of which all or none have ``updated_at``."""
    with_versions = st.tuples(rows, TIMES).map(lambda pair: {**pair[0], "updated_at": pair[1]})
    return st.one_of(st.lists(rows, max_size=8), st.lists(with_versions, max_size=8))


def finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def in_time(*times: int | None) -> bool:
    return all(time is None or 0 <= time < END for time in times)


def keeps_the_contract(name: str, row: dict[str, Any]) -> bool:
    """What one row alone can show, written down once more."""
    if not row["item_id"]:
        return False
    if name == "interactions":
        flags = row["label"] in (0, 1) and row["converted"] in (None, 0, 1)
        position = row["position"] is None or (finite(row["position"]) and abs(row["position"]) < 2**31)
        timed = row["timestamp"] is not None and in_time(row["timestamp"])
        return bool(row["user_id"]) and flags and position and finite(row["rating"]) and timed
    if name == "items":
        created, later = row["created_at"], [row.get("updated_at"), row["removed_at"]]
        ordered = created is not None and all(time is None or created <= time for time in later)
        return ordered and in_time(created, *later) and finite(row["price"])
    elements = row["text"] if row["text"] is not None else [0.0]
    return (
        bool(elements) and all(x is not None and math.isfinite(x) for x in elements) and in_time(row.get("updated_at"))
    )


def key_of(name: str, row: dict[str, Any]) -> object:
    if name == "interactions":
        return shown(row)
    if name == "items":
        return row["item_id"], ("updated_at" in row) and (row["updated_at"] or row["created_at"])
    return row["item_id"], row.get("updated_at")


def shown(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row to compare: NaN is a missing number, the reason and columns without values are left out."""
    nulls = {key: None if value != value else value for key, value in row.items()}
    given = {key: value for key, value in nulls.items() if value is not None and key != "reason"}
    return tuple(sorted((key, str(value).replace("nan", "None")) for key, value in given.items()))


def as_number(row: dict[str, Any]) -> dict[str, Any]:
    floats = ("label", "converted", "position")
    return {key: float(v) if key in floats and v is not None else v for key, v in row.items()}


@hypothesis_settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    dirty_events=st.lists(EVENTS, max_size=10),
    dirty_items=versioned(ITEMS),
    dirty_vectors=versioned(VECTORS),
    keep=st.booleans(),
    chunk_rows=from_(1, 3, 1000),
)
def test_every_row_is_either_valid_or_rejected_for_a_reason(
    dirty_events: Rows, dirty_items: Rows, dirty_vectors: Rows, keep: bool, chunk_rows: int
) -> None:
    came = {
        "interactions": [
            {**dict.fromkeys(("position", "converted", "rating", "request_id")), **event(n)} for n in (0, 1)
        ],
        "items": [{**dict.fromkeys(("removed_at", "price", *(dirty_items or [{}])[0])), **item()}],
        "item_embeddings": [{**dict.fromkeys((dirty_vectors or [{}])[0]), **vector()}],
    }
    for name, dirty in (("interactions", dirty_events), ("items", dirty_items), ("item_embeddings", dirty_vectors)):
        came[name] += dirty
    checked = check(came, chunk_rows, unknown_items="keep" if keep else "reject")
    catalogue = {row["item_id"] for row in checked.valid["items"]}
    for name, report in checked.reports.items():
        valid, rejects = (
            [as_number(row) for row in checked.valid[name]],
            [as_number(row) for row in checked.rejects[name]],
        )
        assert (report.rows, report.rejected) == (len(came[name]), len(rejects))
        assert Counter(map(shown, valid + rejects)) == Counter(map(shown, came[name]))
        assert Counter(row["reason"] for row in rejects) == Counter(report.reasons)
        assert None not in report.reasons

        assert all(keeps_the_contract(name, row) for row in valid)
        keys = [key_of(name, row) for row in valid]
        assert len(set(keys)) == len(keys)
        may_be_unknown = name == "items" or (keep and name == "interactions")
        assert may_be_unknown or {row["item_id"] for row in valid} <= catalogue
        widths = {len(row["text"]) for row in valid if row.get("text") is not None}
        assert len(widths) <= 1
        for row in rejects:
            unknown = not may_be_unknown and row["item_id"] not in catalogue
            odd_width = row.get("text") is not None and len(row["text"]) not in widths
            assert not keeps_the_contract(name, row) or unknown or odd_width or key_of(name, row) in keys


def dirty_source(folder: Path, bad: int) -> Path:
    """200 interactions of which ``bad`` are bad."""
    tables = {**good(), "interactions": [event(n, label=2.0 if n < bad else float(n % 2)) for n in range(200)]}
    return write_tables(folder, {name: table(rows) for name, rows in tables.items()})


@pytest.mark.parametrize(
    ("name", "rows", "source", "message"),
    [
        ("interactions", [event(n, label=0.0) for n in range(4)], {}, "no row has label 1"),
        (
            "interactions",
            [event(n) for n in range(4)],
            {"feedback": "positives_only"},
            "2 rows have label 0.*impressions",
        ),
        ("interactions", [event(n, label=1.0) for n in range(4)], {}, "no row has label 0.*positives_only"),
        ("interactions", [event(n) for n in range(4)], {"conversions": True}, "no row has a value in 'converted'"),
        ("item_embeddings", [vector(f"i{n}", text=None) for n in range(3)], {}, "'text' holds no vector at all"),
        ("item_embeddings", [vector("i9")], {}, "1 of 1 rows .* the item is not in the catalogue"),
        ("items", [item("i0", created_at=None)], {}, "created_at is missing"),
    ],
)
def test_a_table_that_cannot_serve_is_refused_as_a_whole(
    name: str, rows: Rows, source: dict[str, Any], message: str
) -> None:
    with pytest.raises(ContractError, match=message) as raised:
        check({**good(), name: rows}, **source)
    assert raised.value.table == name


def test_the_check_command_prints_what_a_source_holds(tmp_path: Path, elsewhere: Path) -> None:
    source = dirty_source(tmp_path / "source", 2)
    done = sidkit("data", "check", source, "--rejects", tmp_path / "rejects", cwd=elsewhere)
    assert "2 x label is not 0 or 1" in done.stdout
    assert "the contract holds: feedback impressions, modalities text, 2 rows rejected" in done.stdout
    assert len(read_rows(tmp_path / "rejects" / "interactions.parquet")) == 2


def test_the_check_command_refuses_with_the_reasons(tmp_path: Path, elsewhere: Path) -> None:
    done = sidkit("data", "check", dirty_source(tmp_path / "source", 50), cwd=elsewhere, expect=1)
    assert "50 x label is not 0 or 1" in done.stdout  # the table is printed before the refusal
    assert done.stderr.startswith("sidkit: interactions: 50 of 200 rows (25.00%) break the contract")
    assert "Traceback" not in done.stderr
