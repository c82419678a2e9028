"""What [source] states about data of another form: columns, labels, times, tables; each remedy is executed."""

from __future__ import annotations

import datetime
import io
import re
import sqlite3
import sys
import tomllib
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import START, moments, write_tables
from helpers.contract_builders import N_EVENTS, N_ITEMS, VECTORS, Tables, changed, good, read, sqlite
from helpers.input_shapes import ZONE, as_csv, put
from sidkit.api.checks import CheckedSource, check_source, convert_source
from sidkit.contract import inspect_source, open_source, stated_settings, validate
from sidkit.core.config import Settings, SourceSettings
from sidkit.core.engine import connection
from sidkit.core.errors import ConfigError, ContractError, RejectedRowsError, TableSchemaError

TIMES_S = [START // 10**6 + 3600 * n for n in range(N_EVENTS)]


def renamed(tables: Tables, table: str, **names: str) -> Tables:
    columns = [names.get(name, name) for name in tables[table].column_names]
    return {**tables, table: tables[table].rename_columns(columns)}


def report_of(checked: CheckedSource, table: str) -> Any:
    return next(report for report in checked.tables if report.table == table)


def beside(folder: Path, toml: str) -> Path:
    (folder / "sidkit.toml").write_text(toml)
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    folder = tmp_path_factory.mktemp("expected")
    return read(write_tables(folder / "source", good()), folder / "work")


def shop() -> Tables:
    tables = renamed(good(), "interactions", user_id="uid", item_id="sku", timestamp="ts", label="clicked")
    tables = renamed(tables, "items", item_id="sku", created_at="added")
    return renamed(tables, "item_embeddings", item_id="sku", text="vector of the title")


COLUMNS: dict[str, Any] = {
    "user_id": "uid", "item_id": "sku", "timestamp": "ts", "label": "clicked",
    "items": {"created_at": "added"}, "item_embeddings": {"text": "vector of the title"},
}  # fmt: skip


def test_a_name_applies_to_every_table_that_has_the_column_and_a_section_to_its_own(
    expected: Tables, tmp_path: Path
) -> None:
    folder = write_tables(tmp_path / "source", shop())
    assert read(folder, tmp_path / "work", columns=COLUMNS) == expected
    url = sqlite(tmp_path / "log.db", shop())
    assert read(url, tmp_path / "work2", columns=COLUMNS) == expected


def test_a_table_that_already_has_the_contracts_name_keeps_it(expected: Tables, tmp_path: Path) -> None:
    tables = renamed(good(), "interactions", item_id="product")
    folder = write_tables(tmp_path / "source", tables)
    assert read(folder, tmp_path / "work", columns={"item_id": "product"}) == expected


def test_a_named_column_wins_over_one_of_the_contracts_name(expected: Tables, tmp_path: Path) -> None:
    tables = good()
    tables["interactions"] = put(
        put(tables["interactions"], "ts", tables["interactions"]["timestamp"]), "timestamp", [0] * N_EVENTS
    )
    folder = write_tables(tmp_path / "source", tables)
    settings = SourceSettings(columns={"timestamp": "ts"})
    assert read(folder, tmp_path / "work", columns={"timestamp": "ts"}) == expected
    uses = {
        use["column"]: use for use in open_source(str(folder), settings).uses("interactions", ["timestamp", "label"])
    }
    assert uses["ts"] == {"column": "ts", "use": "used", "reason": "as timestamp"}
    assert uses["timestamp"]["reason"] == "[source.columns] takes timestamp from ts"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"timestamp": "when"}, "expected a column 'when' in a table with 'timestamp' in the contract, got none"),
        ({"colour": "label"}, r"write this line below \[source\.columns\.interactions\]"),
        ({"orders": {"item_id": "x"}}, r"\[source\.columns\.orders\]: expected a table of the contract"),
    ],
)
def test_a_name_that_applies_nowhere_is_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", good())
    with pytest.raises(ConfigError, match=message):
        read(folder, tmp_path / "work", columns=columns)


def test_a_section_that_names_a_missing_column_is_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", good())
    with pytest.raises(TableSchemaError, match=r"expected column 'added', which \[source\.columns\.items\] gives"):
        read(folder, tmp_path / "work", columns={"items": {"created_at": "added"}})


@pytest.mark.parametrize(
    "names",
    [
        {"user_id": "uid", "item_id": "product_id", "timestamp": "ts", "label": "clicked"},
        {"user_id": "CustomerID", "item_id": "StockCode", "timestamp": "event_time", "label": "is_click"},
        {"user_id": "user__id", "item_id": "itemid", "timestamp": "time-stamp", "label": "labels"},
    ],
)
def test_the_lines_against_a_missing_column_are_written_and_lead_to_the_same_tables(
    names: dict[str, str], expected: Tables, tmp_path: Path
) -> None:
    folder = write_tables(tmp_path / "source", renamed(good(), "interactions", **names))
    with pytest.raises(
        TableSchemaError, match="expected column 'user_id', 'item_id', 'timestamp', 'label', got"
    ) as refused:
        inspect_source(open_source(str(folder)))
    lines = str(refused.value).partition("write into sidkit.toml:\n")[2]
    beside(folder, lines)
    settings = stated_settings(str(folder))
    assert inspect_source(open_source(str(folder), settings)).modalities == ("text",)
    assert read(folder, tmp_path / "work", **tomllib.loads(lines)["source"]) == expected


def test_a_missing_label_has_a_rule_as_its_remedy(tmp_path: Path) -> None:
    tables = good()
    tables["interactions"] = put(tables["interactions"], "rating", [5.0, 1.0] * 6).drop_columns(["label"])
    folder = write_tables(tmp_path / "source", tables)
    with pytest.raises(TableSchemaError, match="write into sidkit.toml") as refused:
        inspect_source(open_source(str(folder)))
    lines = tomllib.loads(str(refused.value).partition("write into sidkit.toml:\n")[2])
    got = read(folder, tmp_path / "work", **lines["source"])["interactions"]
    assert got["label"].to_pylist() == [int(rating >= 4) for rating in got["rating"].to_pylist()]
    # A log of positives only:
    got = read(folder, tmp_path / "work2", feedback="positives_only", label={"positive": "true"})["interactions"]
    assert set(got["label"].to_pylist()) == {1}


EVENTS = ["purchase", "view", "cart", "view"] * 3
NUMBERS = [5, 1, 4, 2] * 3
RULES: list[tuple[Any, dict[str, Any], list[int]]] = [
    (NUMBERS, {"positive": "signal >= 4"}, [1, 0, 1, 0] * 3), (NUMBERS, {"positive": "signal>1.5"}, [1, 0, 1, 1] * 3),
    (NUMBERS, {"positive": '"signal" = 4'}, [0, 0, 1, 0] * 3), (NUMBERS, {"positive": "`signal` <= -1e3"}, []),
    (EVENTS, {"positive": "signal == 'purchase'"}, [1, 0, 0, 0] * 3),
    (EVENTS, {"positive": 'signal != "view"'}, [1, 0, 1, 0] * 3),
    (EVENTS, {"column": "signal", "values": ["purchase", "cart"]}, [1, 0, 1, 0] * 3),
    (NUMBERS, {"column": "signal", "values": [5, 4]}, [1, 0, 1, 0] * 3),
    (pa.array(EVENTS).dictionary_encode(), {"column": "signal", "values": ["cart"]}, [0, 0, 1, 0] * 3),
    ([True, False] * 6, {"positive": "signal == true"}, [1, 0] * 6),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(RULES)))
@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_a_rule_gives_the_labels(number: int, form: str, tmp_path: Path) -> None:
    values, rule, labels = RULES[number]
    tables = good()
    log = put(tables.pop("interactions"), "signal", values).drop_columns(["label"])
    folder = write_tables(tmp_path / "source", tables)
    if form == "csv":
        as_csv(folder / "interactions.csv", log)
    else:
        pq.write_table(log, folder / "interactions.parquet")
    if not labels:
        with pytest.raises(ContractError, match="expected rows with label 1"):
            read(folder, tmp_path / "work", label=rule)
        return
    got = read(folder, tmp_path / "work", chunk_rows=5, label=rule)["interactions"]
    assert got["label"].to_pylist() == labels


@pytest.mark.parametrize(
    "rule",
    ["rating >= 4; DROP TABLE items", "rating >= 4 AND price > 2", "4 <= rating", "rating", "f(rating) > 1", "rating >= four",
     "rating > '4'", "a.b > 1", "x == 'it''s'"],
)  # fmt: skip
def test_what_is_no_comparison_is_refused_before_anything_is_read(rule: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", changed("interactions", rating=[1.0] * N_EVENTS))
    with pytest.raises(ConfigError, match=r"source\.label\.positive: expected"):
        read(folder, tmp_path / "work", label={"positive": rule})


def test_a_rule_on_another_type_is_refused_and_the_one_it_names_is_read(tmp_path: Path) -> None:
    tables = good()
    tables["interactions"] = put(tables["interactions"], "event", EVENTS).drop_columns(["label"])
    folder = write_tables(tmp_path / "source", tables)
    with pytest.raises(
        TableSchemaError, match="can be compared with a number .*compare with a text, such as"
    ) as refused:
        read(folder, tmp_path / "work", label={"positive": "event >= 1"})
    remedy = re.search(r'positive = "(.*)"', str(refused.value).rpartition("such as ")[2])
    assert remedy is not None
    assert sum(read(folder, tmp_path / "w2", label={"positive": remedy[1]})["interactions"]["label"].to_pylist()) == 3
    folder = write_tables(tmp_path / "numbers", changed("interactions", score=pa.array([0.5, 2.0] * 6)))
    with pytest.raises(TableSchemaError, match="can be compared with a text .*compare with a number") as refused:
        read(folder, tmp_path / "work", label={"positive": "score == 'x'"})
    remedy = re.search(r'positive = "(.*)"', str(refused.value).rpartition("such as ")[2])
    assert remedy is not None
    assert sum(read(folder, tmp_path / "w3", label={"positive": remedy[1]})["interactions"]["label"].to_pylist()) == 6


def test_rows_without_the_value_of_the_rule_are_rejected_and_counted(tmp_path: Path) -> None:
    values = pa.array([None, float("nan"), *[5.0, 1.0] * 5])
    folder = write_tables(tmp_path / "source", changed("interactions", score=values))
    rule = {"label": {"positive": "score >= 4"}}
    checked = check_source(folder, source={**rule, "max_reject_share": 0.5})
    assert report_of(checked, "interactions").reasons == {"score is missing, so label is unknown": 2}
    with pytest.raises(RejectedRowsError, match="for example: df") as refused:
        check_source(folder, source=rule)
    tables = good() | {"interactions": executed(str(refused.value), pq.read_table(folder / "interactions.parquet"))}
    checked = check_source(write_tables(tmp_path / "fixed", tables), source=rule)
    assert report_of(checked, "interactions").rejected == 0


def executed(message: str, table: pa.Table) -> pa.Table:
    """The table after the line of pandas that an error about rows gives."""
    line = re.search(r"\(for example: (df.*)\), or raise", message)
    assert line is not None, message
    names = {"df": table.to_pandas(), "pd": pd, "np": np}
    exec(line[1], names)
    return pa.Table.from_pandas(names["df"], preserve_index=False)


@pytest.mark.parametrize(("unit", "per"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("form", ["integers", "floats", "texts", "csv", "sql"])
def test_numbers_since_1970_are_read_in_the_unit_of_their_size(unit: str, per: int, form: str, tmp_path: Path) -> None:
    numbers: list[Any] = [at * per for at in TIMES_S]
    values = pa.array({"floats": list(map(float, numbers)), "texts": list(map(str, numbers))}.get(form, numbers))
    tables = changed("interactions", timestamp=values)
    source: Any = tmp_path / "source"
    if form == "sql":
        source = sqlite(tmp_path / "log.db", tables)
    elif form == "csv":
        log = tables.pop("interactions")
        as_csv(write_tables(source, tables) / "interactions.csv", log)
    else:
        write_tables(source, tables)
    got = read(source, tmp_path / "work", chunk_rows=5)["interactions"]
    assert sorted(got["timestamp"].cast(pa.int64()).to_pylist()) == [at * 10**6 for at in TIMES_S]
    name = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[unit]
    assert open_source(str(source)).facts("interactions") == {"timestamp": f"read as {name} since 1970"}


def test_times_of_several_units_are_refused_and_the_setting_rejects_the_others(tmp_path: Path) -> None:
    values = [at * 1000 for at in TIMES_S]
    values[3] //= 1000
    folder = write_tables(tmp_path / "source", changed("interactions", timestamp=values))
    message = r"expected times of one unit .*11 like 15\d+ \(milliseconds\) and 1 like 15\d+ \(seconds\)"
    with pytest.raises(TableSchemaError, match=message) as refused:
        read(folder, tmp_path / "work")
    lines = re.search(r"with\n(.*)\nin sidkit\.toml", str(refused.value), re.DOTALL)
    assert lines is not None
    stated = {**tomllib.loads(lines[1])["source"], "max_reject_share": 0.5}
    checked = check_source(folder, source=stated)
    assert report_of(checked, "interactions").reasons == {"timestamp is in 1970 (an unset clock or a wrong unit)": 1}


def test_numbers_that_are_times_in_no_unit_are_refused(tmp_path: Path) -> None:
    for values in ([7] * N_EVENTS, [20240131] * N_EVENTS, [10**30] * N_EVENTS):
        array = pa.array([float(value) for value in values])
        folder = write_tables(tmp_path / "source", changed("interactions", timestamp=array))
        with pytest.raises(TableSchemaError, match="expected a timestamp in UTC in column 'timestamp'"):
            read(folder, tmp_path / "work")


def local(moment: datetime.datetime) -> datetime.datetime:
    return moment.astimezone(ZoneInfo(ZONE)).replace(tzinfo=None)


UTC_TIMES = [
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=20 * n, seconds=n)
    for n in range(N_EVENTS)
]
FORMS: dict[str, pa.Array] = {
    "naive": pa.array([local(at) for at in UTC_TIMES], pa.timestamp("us")),
    "naive seconds": pa.array([local(at) for at in UTC_TIMES], pa.timestamp("s")),
    "texts": pa.array([str(local(at)) for at in UTC_TIMES]),
    "some with a zone": pa.array([str(at if n % 2 else local(at)) for n, at in enumerate(UTC_TIMES)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_times_without_a_zone_are_read_in_the_stated_one(form: str, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", changed("interactions", timestamp=FORMS[form]))
    with pytest.raises(TableSchemaError, match=r'assume_timezone = "UTC", or your zone, below \[source.times\]'):
        read(folder, tmp_path / "work")
    got = read(folder, tmp_path / "work2", chunk_rows=5, times={"assume_timezone": ZONE})["interactions"]
    assert sorted(got["timestamp"].to_pylist()) == UTC_TIMES


def test_a_database_without_zones_is_read_in_the_stated_one(tmp_path: Path) -> None:
    url = sqlite(tmp_path / "log.db", changed("interactions", timestamp=FORMS["texts"]))
    got = read(url, tmp_path / "work", chunk_rows=5, times={"assume_timezone": ZONE})["interactions"]
    assert sorted(got["timestamp"].to_pylist()) == UTC_TIMES


def test_days_begin_in_the_stated_zone(tmp_path: Path) -> None:
    days = pa.array([datetime.date(2024, 1, 1), datetime.date(2024, 7, 1)] * (N_ITEMS // 2))
    for kind in (pa.date32(), pa.date64()):
        tables = changed("items", created_at=days.cast(kind))
        times = pa.array([at.replace(tzinfo=None) for at in UTC_TIMES], pa.timestamp("us"))
        folder = write_tables(
            tmp_path / "source", {**tables, "interactions": put(tables["interactions"], "timestamp", times)}
        )
        got = read(folder, tmp_path / "work", times={"assume_timezone": ZONE})["items"]["created_at"].to_pylist()
        assert [at.isoformat() for at in got[:2]] == ["2023-12-31T23:00:00+00:00", "2024-06-30T22:00:00+00:00"]


def test_times_that_a_zone_skips_or_repeats_are_rejected_and_the_line_reads_them(tmp_path: Path) -> None:
    times = [local(at) for at in UTC_TIMES]
    times[0], times[1] = datetime.datetime(2024, 3, 31, 2, 30), datetime.datetime(2024, 10, 27, 2, 30)
    folder = write_tables(tmp_path / "source", changed("interactions", timestamp=pa.array(times, pa.timestamp("us"))))
    stated: dict[str, Any] = {"times": {"assume_timezone": ZONE}}
    checked = check_source(folder, rejects=tmp_path / "rejects", source={**stated, "max_reject_share": 0.5})
    reasons = {
        "timestamp does not exist in Europe/Berlin (clocks go forward)",
        "timestamp occurs twice in Europe/Berlin (clocks go back)",
    }
    assert set(report_of(checked, "interactions").reasons) == reasons
    rejects = pq.read_table(tmp_path / "rejects" / "interactions.parquet")["timestamp"].to_pylist()
    assert sorted(at.replace(tzinfo=None) for at in rejects) == sorted(times[:2])
    with pytest.raises(RejectedRowsError) as refused:
        check_source(folder, source=stated)
    fixed = executed(str(refused.value), pq.read_table(folder / "interactions.parquet"))
    assert (
        report_of(
            check_source(write_tables(tmp_path / "fixed", good() | {"interactions": fixed})), "interactions"
        ).rejected
        == 0
    )


def test_a_zone_that_does_not_exist_is_refused() -> None:
    for name in ("Mars/Phobos", "../etc/passwd", ""):
        if name:
            with pytest.raises(ValueError, match="expected a time zone"):
                SourceSettings(times={"assume_timezone": name})


def test_views_are_read_like_tables_and_a_table_may_have_another_name(expected: Tables, tmp_path: Path) -> None:
    url = sqlite(tmp_path / "log.db", good())
    with sqlite3.connect(tmp_path / "log.db") as database:
        database.execute("ALTER TABLE interactions RENAME TO raw_log")
        database.execute("CREATE VIEW interactions AS SELECT * FROM raw_log")
        database.execute("ALTER TABLE items RENAME TO products")
    database.close()
    assert read(url, tmp_path / "work", tables={"items": "products"}) == expected


def test_materialized_views_count_as_tables() -> None:
    from sidkit.contract.sql_source import _names_in

    class Inspector:
        def get_table_names(self, _: object) -> list[str]:
            return ["items"]

        def get_view_names(self, _: object) -> list[str]:
            return []

        def get_materialized_view_names(self, _: object) -> list[str]:
            return ["interactions"]

    inspector: Any = Inspector()
    assert _names_in(inspector) == {"items", "interactions"}


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql+psycopg://h/x", "pip install 'psycopg[binary]'"),
        ("postgresql+psycopg2://h/x", "pip install 'psycopg2-binary'"),
        ("mysql://h/x", "pip install 'mysqlclient'"), ("mysql+pymysql://h/x", "pip install 'pymysql'"),
        ("snowflake://h/x", "pip install 'snowflake-sqlalchemy'"), ("oracle+oracledb://h/x", "pip install 'oracledb'"),
        ("nodialect://h/x", "expected a database that SQLAlchemy knows"),
    ],
)  # fmt: skip
def test_a_missing_driver_is_named_with_its_package(url: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # an optional driver
    with pytest.raises(ContractError, match=re.escape(remedy)):
        open_source(url)


def in_two(folder: Path, second: pa.Table) -> Path:
    tables = good()
    products = tables.pop("items")
    write_tables(folder, tables)
    as_csv(folder / "products.csv", products)
    as_csv(folder / "categories.csv", second)
    return folder


TABLES = {"items": ["products.csv", "categories.csv"]}


def test_tables_of_items_are_joined(tmp_path: Path) -> None:
    second = pa.table({"item_id": ["i2", "i0", "i9"], "category": ["b", "a", "z"], "price": [2.5, 1.5, 9.0]})
    folder = in_two(tmp_path / "source", second)
    got = read(folder, tmp_path / "work", chunk_rows=2, tables=TABLES)["items"]
    assert got["item_id"].to_pylist() == ["i0", "i1", "i2", "i3"]
    assert got["category"].to_pylist() == ["a", None, "b", None]
    assert got["price"].to_pylist() == [1.5, None, 2.5, None]
    checked = check_source(folder, source={"tables": TABLES})
    assert report_of(checked, "items").facts["rows of categories.csv without an item"] == "1"


def test_second_rows_of_a_joined_table_are_refused_by_name_and_the_line_removes_them(tmp_path: Path) -> None:
    second = pa.table({"item_id": ["i2", "i2", "i0"], "category": ["a", "b", "c"]})
    folder = in_two(tmp_path / "source", second)
    with pytest.raises(
        ContractError, match=r"categories\.csv: expected one row per item, .*got 2 rows of 'i2'"
    ) as refused:
        read(folder, tmp_path / "work", tables=TABLES)
    names = {"df": second.to_pandas()}
    exec(str(refused.value).partition("For example: ")[2], names)
    as_csv(folder / "categories.csv", pa.Table.from_pandas(names["df"], preserve_index=False))
    assert read(folder, tmp_path / "work2", tables=TABLES)["items"]["category"].to_pylist() == ["c", None, "b", None]


def test_a_column_of_two_joined_tables_and_a_missing_key_are_refused_by_name(tmp_path: Path) -> None:
    folder = in_two(tmp_path / "source", pa.table({"item_id": ["i0"], "created_at": [None]}))
    with pytest.raises(
        TableSchemaError, match=r"got 'created_at' in products\.csv and categories\.csv.*remove it in one"
    ):
        read(folder, tmp_path / "work", tables=TABLES)
    as_csv(folder / "categories.csv", pa.table({"item_id": ["i0"]}))
    assert len(read(folder, tmp_path / "work0", tables=TABLES)["items"]) == N_ITEMS
    as_csv(folder / "categories.csv", pa.table({"id": ["i0"], "category": ["a"]}))
    with pytest.raises(
        TableSchemaError, match=r"categories\.csv: expected column 'item_id' to join.*name it in \[source\.columns"
    ):
        read(folder, tmp_path / "work", tables=TABLES)
    got = read(folder, tmp_path / "work1", tables=TABLES, columns={"item_id": "id"})
    assert got["items"]["category"].to_pylist() == ["a", None, None, None]
    with pytest.raises(ContractError, match=r"only tables of items are joined"):
        read(
            folder, tmp_path / "work", tables={"interactions": ["interactions", "categories.csv"], "items": "products"}
        )


def undated() -> Tables:
    tables = good()
    tables["items"] = pa.table({"item_id": ["i0", "i1", "i2", "i3", "i4"]})
    return tables


def test_a_catalogue_without_creation_times_takes_the_first_interactions(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", undated())
    facts = inspect_source(open_source(str(folder)))
    assert facts.further == {"missing_created_at": "first_interaction"}
    assert "items has no column created_at" in facts.left_out[0]
    got = read(folder, tmp_path / "work", missing_created_at="first_interaction")
    log = got["interactions"].to_pandas()
    first = log.groupby("item_id")["timestamp"].min()
    created = got["items"].to_pandas().set_index("item_id")["created_at"]
    assert created.drop("i4").equals(first.rename("created_at"))
    assert created["i4"] == log["timestamp"].max()  # no interaction: it exists when the log ends


def test_a_version_before_the_first_interaction_dates_its_item(tmp_path: Path) -> None:
    tables = undated()
    tables["items"] = put(tables["items"], "updated_at", moments([START - 5, None, None, START - 1, START - 2]))
    got = read(write_tables(tmp_path / "source", tables), tmp_path / "work", missing_created_at="first_interaction")[
        "items"
    ]
    created = got["created_at"].cast(pa.int64()).to_pylist()
    assert (created[0], created[3], created[4]) == (START - 5, START - 1, START - 2)


def test_a_log_without_vectors_is_valid_and_every_message_names_the_command(tmp_path: Path) -> None:
    tables = good()
    vectors = tables.pop("item_embeddings")
    folder = write_tables(tmp_path / "source", tables)
    facts = inspect_source(open_source(str(folder)))
    assert facts.modalities == ()
    assert "sidkit data embed" in facts.left_out[0]
    with pytest.raises(
        ContractError, match=r"item_embeddings: .*`sidkit data embed`, or set modalities = \[\] below \[source\]"
    ):
        read(folder, tmp_path / "work")
    got = read(folder, tmp_path / "work2", modalities=())  # as the error says
    assert got["item_embeddings"].column_names == ["item_id", "no_vectors"]
    assert len(got["item_embeddings"]) == N_ITEMS
    pq.write_table(vectors, folder / "item_embeddings.parquet")
    assert len(read(folder, tmp_path / "work3")["item_embeddings"]) == N_ITEMS


def test_every_column_of_every_table_is_listed_with_its_use(tmp_path: Path) -> None:
    tables = changed("interactions", device=["phone"] * N_EVENTS)
    tables["items"] = put(
        put(tables["items"], "colour", list("abcd")), "when", pa.array([[0]] * 4, pa.list_(pa.timestamp("us")))
    )
    tables["item_embeddings"] = put(tables["item_embeddings"], "note", list("abcd"))
    with pytest.warns(UserWarning, match="column 'note' of item_embeddings"):
        checked = check_source(write_tables(tmp_path / "source", tables))
    uses = {(report.table, use["column"]): use["use"] for report in checked.tables for use in report.columns}
    assert uses == {
        ("items", "item_id"): "used", ("items", "created_at"): "used", ("items", "colour"): "kept",
        ("items", "when"): "ignored",
        ("item_embeddings", "item_id"): "used", ("item_embeddings", "text"): "used", ("item_embeddings", "note"): "ignored",
        ("interactions", "user_id"): "used", ("interactions", "item_id"): "used", ("interactions", "timestamp"): "used",
        ("interactions", "label"): "used", ("interactions", "device"): "ignored",
    }  # fmt: skip
    assert all(use["reason"] for report in checked.tables for use in report.columns if use["use"] == "ignored")


def test_bytes_of_npy_files_are_vectors(tmp_path: Path) -> None:
    def npy(vector: list[float]) -> bytes:
        file = io.BytesIO()
        np.save(file, np.array(vector))
        return file.getvalue()

    folder = write_tables(tmp_path / "source", changed("item_embeddings", text=[npy(vector) for vector in VECTORS]))
    assert read(folder, tmp_path / "work")["item_embeddings"]["text"].to_pylist() == VECTORS


def test_a_missing_table_may_have_another_name(expected: Tables, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "source", good())
    (folder / "items.parquet").rename(folder / "products.parquet")
    with pytest.raises(ContractError, match=r'below \[source\.tables\] in sidkit\.toml \(items = "\.\.\."\)'):
        open_source(str(folder))
    assert read(folder, tmp_path / "work", tables={"items": "products"}) == expected
    with pytest.raises(ContractError, match=r"nowhere.*\(source\.tables\.items in sidkit\.toml\)"):
        read(folder, tmp_path / "work", tables={"items": "nowhere"})
    with pytest.raises(ConfigError, match=r"\[source\.tables\] orders: expected a table of the contract"):
        read(folder, tmp_path / "work", tables={"orders": "products"})


@pytest.mark.parametrize(("unit", "stored"), [(None, "us"), ("us", "ms"), (None, "ns")])
def test_a_file_of_moments_beside_one_of_numbers_keeps_its_times(tmp_path: Path, unit: str | None, stored: str) -> None:
    tables = good()
    whole = tables["items"]
    place = whole.column_names.index("created_at")
    moments_of = whole.column("created_at").cast(pa.timestamp("us", "UTC"))
    numbers = whole.set_column(place, "created_at", moments_of.cast(pa.int64()))
    others = whole.set_column(place, "created_at", moments_of.cast(pa.timestamp(stored, "UTC")))
    for name, table in tables.items():
        if name != "items":
            pq.write_table(table, tmp_path / f"{name}.parquet")
    (tmp_path / "items").mkdir()
    half = len(whole) // 2
    pq.write_table(numbers.slice(0, half), tmp_path / "items" / "0.parquet")
    pq.write_table(others.slice(half), tmp_path / "items" / "1.parquet")
    got = read(tmp_path, tmp_path / "work", **({"times": {"unit": unit}} if unit else {}))["items"]
    kept = dict(zip(got["item_id"].to_pylist(), got["created_at"].cast(pa.int64()).to_pylist(), strict=True))
    right = dict(zip(whole["item_id"].to_pylist(), moments_of.cast(pa.int64()).to_pylist(), strict=True))
    assert kept == right


def test_a_file_of_moments_without_a_zone_beside_numbers_is_rejected_by_row(tmp_path: Path) -> None:
    tables = good()
    whole = tables["items"]
    place = whole.column_names.index("created_at")
    moments_of = whole.column("created_at").cast(pa.timestamp("us", "UTC"))
    for name, table in tables.items():
        if name != "items":
            pq.write_table(table, tmp_path / f"{name}.parquet")
    (tmp_path / "items").mkdir()
    half = len(whole) // 2
    numbers, plain = moments_of.cast(pa.int64()), moments_of.cast(pa.timestamp("us"))
    pq.write_table(whole.set_column(place, "created_at", numbers).slice(0, half), tmp_path / "items" / "0.parquet")
    pq.write_table(whole.set_column(place, "created_at", plain).slice(half), tmp_path / "items" / "1.parquet")
    settings = Settings.model_validate({"source": {"max_reject_share": 1.0, "unknown_items": "keep"}})
    with connection(settings.engine, tmp_path / "spill") as opened:
        valid = validate(open_source(str(tmp_path), settings.source), settings, opened, tmp_path / "valid", None)
    [report] = [report for report in valid.reports if report.table == "items"]
    assert report.rejected == len(whole) - half
    assert list(report.reasons) == ["created_at has another type than in the other rows"]


def test_settings_of_a_source_beside_those_of_a_repository_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="either a repository"):
        check_source(tmp_path, repo=tmp_path, settings_file=tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="either a repository"):
        convert_source(tmp_path, tmp_path / "out", repo=tmp_path, source={"unknown_items": "keep"})
