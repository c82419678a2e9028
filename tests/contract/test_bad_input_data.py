"""Dirty input: every row that breaks the contract is rejected with its reason, and nothing is dropped silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from helpers.builders import DAY, START, forked_sidkit, write_tables
from helpers.dirty_builders import (
    END,
    FIRST,
    INF,
    NAN,
    NOW,
    Rows,
    check,
    event,
    good,
    item,
    read_rows,
    reasons,
    table,
    vector,
)
from sidkit.core.errors import ContractError


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
        (event(9, timestamp=FIRST - 1), "timestamp is in 1970 (an unset clock or a wrong unit)"),
        (event(9, timestamp=NOW + 1), "timestamp is in the future"),
        (event(9, timestamp=END - 1), "timestamp is in the future"),
        (event(9, label=None), "label is missing"),
        (event(9, label=NAN), "label is missing"),
        (event(9, label=2.0), "label is not 0 or 1"),
        (event(9, label=0.5), "label is not 0 or 1"),
        (event(9, label=-1.0), "label is not 0 or 1"),
        (event(9, label=INF), "label is not 0 or 1"),
        (event(9, converted=2.0), "converted is not 0 or 1"),
        (event(9, position=1.5), "position is not a 32-bit integer"),
        (event(9, position=3e9), "position is not a 32-bit integer"),
        (event(9, position=INF), "position is not a 32-bit integer"),
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
        event(9, timestamp=FIRST),
        event(9, timestamp=NOW),
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
        (vector("i2", text=[NAN, 1.0], updated_at=START), "text has NaN, infinite or missing elements"),
        (vector("i2", text=[1.0, -INF], updated_at=START), "text has NaN, infinite or missing elements"),
        (vector("i2", text=[None, 1.0], updated_at=START), "text has NaN, infinite or missing elements"),
        (vector("i2", text=[1e300, 1.0], updated_at=START), "text has NaN, infinite or missing elements"),
        (vector("i2", text=[], updated_at=START), "text is an empty list"),
        (vector("i2", text=[1.0], updated_at=START), "text has 1 elements, the column has 2"),
        (vector("i2", updated_at=END), "updated_at is outside 1970..2200"),
    ],
)
def test_a_broken_vector_is_rejected_with_its_reason(row: dict[str, Any], reason: str) -> None:
    assert reasons("item_embeddings", row) == {reason: 1}


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("interactions", "label", "label is not 0 or 1"),
        ("interactions", "position", "position is not a 32-bit integer"),
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


def dirty_source(folder: Path, bad: int) -> Path:
    """200 interactions of which ``bad`` are bad."""
    tables = {**good(), "interactions": [event(n, label=2.0 if n < bad else float(n % 2)) for n in range(200)]}
    return write_tables(folder, {name: table(rows) for name, rows in tables.items()})


@pytest.mark.parametrize(
    ("name", "rows", "source", "message"),
    [
        ("interactions", [event(n, label=0.0) for n in range(4)], {}, "expected rows with label 1"),
        (
            "interactions",
            [event(n) for n in range(4)],
            {"feedback": "positives_only"},
            "expected no row with label 0.*got 2.*impressions",
        ),
        ("interactions", [event(n, label=1.0) for n in range(4)], {}, "expected rows with label 0.*positives_only"),
        ("interactions", [event(n) for n in range(4)], {"conversions": True}, "expected values in 'converted'"),
        ("item_embeddings", [vector(f"i{n}", text=None) for n in range(3)], {}, "expected vectors in modality 'text'"),
        ("item_embeddings", [vector("i9")], {}, "got 1 of 1 .* the item is not in the catalogue"),
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
    done = forked_sidkit("data", "check", source, "--rejects", tmp_path / "rejects", cwd=elsewhere)
    assert "2 x label is not 0 or 1" in done.stdout
    assert "the source is valid: feedback impressions, modalities text, 2 rows rejected" in done.stdout
    assert len(read_rows(tmp_path / "rejects" / "interactions.parquet")) == 2


def test_the_check_command_refuses_with_the_reasons(tmp_path: Path, elsewhere: Path) -> None:
    done = forked_sidkit("data", "check", dirty_source(tmp_path / "source", 50), cwd=elsewhere, expect=1)
    assert "50 x label is not 0 or 1" in done.stdout  # the table is printed before the refusal
    assert done.stderr.startswith("sidkit: interactions: expected at most 1.00% rejected rows, got 50 of 200 (25.00%)")
    assert "Traceback" not in done.stderr
