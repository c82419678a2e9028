"""``item_attributes`` and ``user_attributes``: one row per version, and a rebuild of their own when ``[features]`` changes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.attribute_world import FEATURES, attribute_repo, attribute_source, attribute_tables, set_features
from helpers.builders import DAY, START, copy_of, write_tables
from sidkit.core.errors import ConfigError
from sidkit.core.repo import Repo
from sidkit.datasets.data_repo import create_repo
from sidkit.tables import build_tables, ingest, read_build, read_log

END = START + 41 * DAY
DELAY = 60_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("attributes")
    repo = attribute_repo(folder / "repo", attribute_source(folder / "source"))
    ingest(repo)
    build_tables(repo, END)
    return repo


@pytest.fixture
def own(built: Repo, tmp_path: Path) -> Repo:
    return copy_of(built, tmp_path / "copy")


def rows_of(repo: Repo, table: str, key: str) -> list[dict[str, Any]]:
    rows = pq.read_table(repo.tables / f"{table}.parquet")
    rows = rows.set_column(1, "event_timestamp", rows["event_timestamp"].cast(pa.int64()))
    side = "user_id" if table.startswith("user") else "item_id"
    return [row for row in rows.drop_columns(["created_timestamp"]).to_pylist() if row[side] == key]


def test_each_version_of_an_item_has_a_row_in_the_types_of_the_kinds(built: Repo) -> None:
    first, second = rows_of(built, "item_attributes", "i10")
    assert first == {
        "item_id": "i10", "event_timestamp": START - 2 * DAY + DELAY, "category": first["category"],
        "genres": ["old"], "weight": first["weight"], "best_before": 20_010 * DAY, "organic": False, "shape": [0.0, 1.5],
    }  # fmt: skip
    assert second["event_timestamp"] == START + 15 * DAY + DELAY
    (with_two,) = rows_of(built, "item_attributes", "i1")
    assert with_two["genres"] == ["fruity", "dry"]
    (unweighed,) = rows_of(built, "item_attributes", "i5")
    assert unweighed["weight"] is None


def test_a_user_without_times_is_known_from_the_beginning_and_then_by_version(built: Repo) -> None:
    first, second = rows_of(built, "user_attributes", "u0")
    assert [first["event_timestamp"], second["event_timestamp"]] == [DAY, START + 20 * DAY + DELAY]
    assert first["country"] != second["country"]


def test_no_version_lies_beyond_as_of(built: Repo, tmp_path: Path) -> None:
    repo = attribute_repo(tmp_path / "early", Path(built.settings.source.url))
    ingest(repo)
    build_tables(repo, START + 10 * DAY)
    assert len(rows_of(repo, "item_attributes", "i10")) == len(rows_of(repo, "user_attributes", "u0")) == 1
    report = build_tables(repo, END)
    assert report.new_rows["item_attributes"] == 6
    for name in ("item_attributes", "user_attributes"):
        left, right = (pq.read_table(each.tables / f"{name}.parquet") for each in (repo, built))
        assert left.equals(right)


def test_a_changed_section_rebuilds_its_table_alone_and_says_so(own: Repo) -> None:
    before = {path.name: path.read_bytes() for path in own.tables.glob("*.parquet")}
    assert build_tables(own, END).unchanged
    set_features(own, FEATURES.replace('weight = "number"\n', ""))
    report = build_tables(own, END)
    tables = ("item_attributes", "user_category_stats")
    assert report.notes == tuple(f"features.items: removed weight; {name} was rebuilt" for name in tables)
    assert "weight" not in pq.read_schema(own.tables / "item_attributes.parquet").names
    after = {path.name: path.read_bytes() for path in own.tables.glob("*.parquet")}
    assert {name for name in after if after[name] != before[name]} == {"item_attributes.parquet"}
    set_features(own, FEATURES)
    assert build_tables(own, END).notes == tuple(f"features.items: added weight; {name} was rebuilt" for name in tables)
    assert {path.name: path.read_bytes() for path in own.tables.glob("*.parquet")} == before


def test_without_features_the_tables_are_gone(own: Repo) -> None:
    set_features(own, "[features]")
    notes = build_tables(own, END).notes
    gone = ("item_attributes", "user_attributes", "user_category_stats")
    assert [note.partition("; ")[2] for note in notes] == [f"{name} was removed" for name in gone]
    assert sorted(read_build(own)["rows"]) == ["item_content", "item_stats", "user_history", "user_stats"]
    assert not [name for name in gone if (own.tables / f"{name}.parquet").exists()]


def test_a_value_corrected_in_place_gets_a_row_at_as_of_and_the_old_one_stays(own: Repo, tmp_path: Path) -> None:
    tables = attribute_tables()
    ids, weight = tables["items"]["item_id"].to_pylist(), tables["items"]["weight"].to_pylist()
    weight[ids.index("i1")] = 9.0
    items = tables["items"].set_column(tables["items"].column_names.index("weight"), "weight", pa.array(weight))
    source = write_tables(tmp_path / "source", {**tables, "items": items})
    path = own.path / "sidkit.toml"
    path.write_text(path.read_text().replace(str(own.settings.source.url), str(source)))
    own.__dict__.pop("settings")
    ingest(own)
    build_tables(own, END + DAY)
    old, new = rows_of(own, "item_attributes", "i1")
    assert (new["weight"], new["event_timestamp"]) == (9.0, END + DAY)
    assert old["weight"] != 9.0
    # Another attribute comes and goes: what serving knew before the correction is preserved.
    set_features(own, FEATURES.replace('genres = "categories"\n', ""))
    build_tables(own, END + DAY)
    assert [row["weight"] for row in rows_of(own, "item_attributes", "i1")] == [old["weight"], 9.0]
    set_features(own, FEATURES)
    build_tables(own, END + DAY)
    assert rows_of(own, "item_attributes", "i1") == [old, new]


def test_values_of_another_kind_are_null_and_counted(own: Repo) -> None:
    set_features(own, '[features]\n[features.items]\ncategory = "number"\n')
    assert (
        "item_attributes: 66 values of category are not of the kind 'number'; they are null"
        in build_tables(own, END).notes
    )
    assert pq.read_table(own.tables / "item_attributes.parquet")["category"].null_count == 66


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ('[features.items]\ncolour = "category"', "expected columns of the table items (.*category.*), got colour"),
        ('[features.items]\nshape = "category"', r"features.items.shape: expected values .*, got FLOAT\[\]"),
        (
            '[features.users]\nage = "number"',
            r"features.users: expected columns of the table users \(country\), got age",
        ),
    ],
)
def test_a_column_that_cannot_be_read_is_refused_with_its_remedy(own: Repo, features: str, words: str) -> None:
    set_features(own, f"[features]\n{features}\n")
    with pytest.raises(ConfigError, match=words):
        build_tables(own, END)
    set_features(own, "[features]")  # the remedy: remove the line
    build_tables(own, END)


ODD: dict[str, Any] = {
    "half": np.arange(60) % 7,
    "huge": pa.array([2**61, 0, 5] * 20, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    "coarse": pa.array([2**61, 0, 5] * 20, pa.int64()).cast(pa.timestamp("ms")),
    "decimal": pa.array([Decimal(n % 9) for n in range(60)], pa.decimal256(40, 5)),
    "view": pa.array(["a", "b"] * 30, pa.string_view()),
    "large": pa.array([["a"], ["b", "c"]] * 30, pa.large_list(pa.string())),
    "coded": pa.array(["a", "b"] * 30).dictionary_encode(),
    "bytes": pa.array([b"a", b"b"] * 30),
    "lasting": pa.array([1, 2] * 30, pa.duration("s")),
    "nested": pa.array([[[1]], [[2]]] * 30),
    "record": pa.array([{"a": 1}, {"a": 2}] * 30),
    "mapped": pa.array([[("a", 1)], [("b", 2)]] * 30, pa.map_(pa.string(), pa.int64())),
    "texts": pa.array(["it's", '"x"', "[1, 2]", "[a", "", "\t"] * 10),
}


def test_whatever_init_makes_of_a_column_can_be_built(tmp_path: Path) -> None:
    tables = attribute_tables(events=200)
    items = tables["items"].slice(0, 60).select(["item_id", "created_at"])
    for name, values in {**ODD, "half": pa.array(ODD["half"].astype("f2"))}.items():
        items = items.append_column(name, values)
    repo = create_repo(tmp_path / "repo", str(write_tables(tmp_path / "source", {**tables, "items": items})))
    assert {"half", "huge", "coarse", "decimal", "view", "large", "coded", "texts"} == set(repo.settings.features.items)
    ingest(repo)
    assert build_tables(repo, END).rows["item_attributes"] == 60


def test_users_without_the_table_are_refused(tmp_path: Path) -> None:
    tables = attribute_tables(events=200)
    del tables["users"]
    repo = attribute_repo(tmp_path / "repo", write_tables(tmp_path / "source", tables))
    ingest(repo)
    assert read_log(repo).users is None
    with pytest.raises(ConfigError, match="expected a table users in the source for country, got none"):
        build_tables(repo, END)
    write_tables(tmp_path / "source", {"users": attribute_tables()["users"]})  # the remedy
    ingest(repo)
    assert build_tables(repo, END).rows["user_attributes"] == 120


def test_a_table_that_left_the_source_keeps_its_last_snapshot(tmp_path: Path) -> None:
    source = attribute_source(tmp_path / "source")
    repo = attribute_repo(tmp_path / "repo", source)
    ingest(repo)
    users = pq.read_table(read_log(repo).users)
    (source / "users.parquet").unlink()
    ingest(repo)
    assert pq.read_table(read_log(repo).users).equals(users)


@pytest.mark.parametrize("features", [FEATURES.replace('weight = "number"\n', ""), "[features]"], ids=["fewer", "none"])
@pytest.mark.parametrize("step", ["write_sealed", "remove_undefined"])
def test_a_rebuild_of_attributes_that_was_killed_is_finished_by_the_next_build(
    own: Repo, monkeypatch: pytest.MonkeyPatch, step: str, features: str
) -> None:
    set_features(own, features)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sidkit.tables.builder." + step, kill)
        with pytest.raises(KeyboardInterrupt):
            build_tables(own, END)
    build_tables(own, END)
    listed = {f"{name}.parquet" for name in read_build(own)["rows"]}
    assert {path.name for path in own.tables.glob("*.parquet")} == listed
    set_features(own, FEATURES)
    build_tables(own, END)
    assert len(rows_of(own, "item_attributes", "i10")) == 2
