"""The packed online store: Feast's contract beside Feast's own SQLite store, and what Feast's lacks."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.online_builders import (
    BASE_US,
    PACKED,
    PACKED_REDIS,
    TYPES,
    batch,
    config,
    entity_keys,
    entity_view,
    feature_view,
    redis_options,
    values,
)
from helpers.pit_oracle import moment
from sidkit.core.errors import OnlineStoreError

ITEMS = ["a", "b", "c", ""]
PATIENT = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
ROW = st.fixed_dictionaries({name: st.none() | st.sampled_from(samples) for name, (_, samples) in TYPES.items()})
TIME = st.integers(BASE_US, BASE_US + 3)
WRITE = st.tuples(st.sampled_from(ITEMS), ROW, TIME, st.none() | TIME)


class Stores:
    """Both stores on fresh files, with one view."""

    def __init__(self, folder: Path, *views: Any, kind: str = PACKED, **online: Any) -> None:
        from feast.infra.online_stores.sqlite import SqliteOnlineStore

        self.views = views or (feature_view(),)
        self.view = self.views[0]
        self.ours, self.stock = new_store(kind), SqliteOnlineStore()
        self.config, self.stock_config = config(folder, kind, **online), config(folder, "sqlite")
        for store, told in ((self.ours, self.config), (self.stock, self.stock_config)):
            store.update(told, [], list(self.views), [], [], partial=False)

    def write(self, rows: Any, view: Any = None) -> None:
        view = view or self.view
        self.ours.online_write_batch(self.config, view, batch(view, rows), None)

    def read(self, names: list[str], wanted: list[str] | None = None, view: Any = None) -> Any:
        return self.ours.online_read(self.config, view or self.view, entity_keys(names), wanted)

    def empty(self) -> None:
        with self.ours.database(self.config).writing() as writing:
            writing.drop("shop_thing")
        self.ours.update(self.config, [], [self.view], [], [], partial=False)
        with contextlib.closing(sqlite3.connect(self.stock_config.online_store.path)) as opened, opened:
            opened.execute("DELETE FROM shop_thing")


def new_store(kind: str) -> Any:
    from sidkit.stores import online

    return getattr(online, kind.rpartition(".")[2])()


@pytest.fixture(scope="module", params=[PACKED, PACKED_REDIS], ids=["file", "redis"])
def database(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the packed rows are: the kind of the store and its settings."""
    feature_view()  # imports Feast
    if request.param == PACKED:
        return {"kind": PACKED}
    return {"kind": PACKED_REDIS, **redis_options(request.getfixturevalue("redis_address"))}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, database: dict[str, Any]) -> Stores:
    return Stores(tmp_path_factory.mktemp("stores"), **database)


@pytest.fixture
def made(tmp_path: Path, database: dict[str, Any]) -> Callable[..., Stores]:
    """Makes both stores with some views."""
    again = redis_options(database["url"].split("/")[2]) if "url" in database else {}
    return lambda *views: Stores(tmp_path, *views, **{**database, **again})


@pytest.fixture
def stores(made: Callable[..., Stores]) -> Stores:
    return made()


@pytest.fixture
def file_stores(tmp_path: Path) -> Stores:
    feature_view()
    return Stores(tmp_path)


def newest(writes: list[tuple[str, dict[str, Any], int, int | None]]) -> dict[str, tuple[int, dict[str, Any]]]:
    """The oracle: of the rows of an item the one with the newest event, then created time; of equal ones the last."""
    best: dict[str, tuple[tuple[int, float], dict[str, Any]]] = {}
    for name, row, event, created in writes:
        rank = (event, float("-inf") if created is None else created)
        if name not in best or rank >= best[name][0]:
            best[name] = (rank, row)
    return {name: (rank[0], row) for name, (rank, row) in best.items()}


@PATIENT
@given(
    batches=st.lists(st.lists(WRITE, max_size=6), max_size=4),
    wanted=st.none() | st.sets(st.sampled_from(sorted(TYPES))),
)
def test_a_read_gives_the_newest_write_whatever_order_writes_come_in(
    shared: Stores, batches: list[list[Any]], wanted: set[str] | None
) -> None:
    shared.empty()
    for rows in batches:
        shared.write(rows)
    best = newest([row for rows in batches for row in rows])
    asked = [*ITEMS, "nobody", ITEMS[0]]
    found = shared.read(asked, None if wanted is None else sorted(wanted))
    assert len(found) == len(asked)
    for name, (at, features) in zip(asked, found, strict=True):
        if name not in best:
            assert (at, features) == (None, None)
            continue
        event, row = best[name]
        assert at == moment(event) and at.tzinfo is not None
        kept = {feature: value for feature, value in row.items() if wanted is None or feature in wanted}
        assert features == values(shared.view, kept)


@PATIENT
@given(rows=st.lists(WRITE, max_size=8, unique_by=lambda row: row[0]))
def test_whole_seconds_in_order_read_the_same_as_from_feasts_store(shared: Stores, rows: list[Any]) -> None:
    shared.empty()
    # Feast's store forgets fractions of seconds and lets the last write win: there both agree.
    rows = [(name, row, event // 10**6 * 10**6, created) for name, row, event, created in rows]
    for store, told in ((shared.ours, shared.config), (shared.stock, shared.stock_config)):
        store.online_write_batch(told, shared.view, batch(shared.view, rows), None)
    asked = entity_keys([*ITEMS, "nobody"])
    stock = shared.stock.online_read(shared.stock_config, shared.view, asked)
    assert shared.ours.online_read(shared.config, shared.view, asked) == stock


def test_an_older_write_changes_nothing_where_feast_lets_it_win(stores: Stores) -> None:
    view = feature_view("thing", {"whole": "Int64"})
    new = batch(view, [("a", {"whole": 2}, BASE_US + 1, None)])
    old = batch(view, [("a", {"whole": 1}, BASE_US, BASE_US + 9)])
    told = {}
    for name, store, at in (("ours", stores.ours, stores.config), ("stock", stores.stock, stores.stock_config)):
        store.online_write_batch(at, view, new, None)
        store.online_write_batch(at, view, old, None)
        [(_, features)] = store.online_read(at, view, entity_keys(["a"]))
        told[name] = features["whole"].int64_val
    assert told == {"ours": 2, "stock": 1}


@PATIENT
@given(writes=st.lists(st.tuples(st.sampled_from(ITEMS[:2]), st.sets(st.sampled_from(sorted(TYPES))), ROW), max_size=6))
def test_a_row_without_some_features_keeps_what_is_there_of_them(shared: Stores, writes: list[Any]) -> None:
    shared.empty()
    expected: dict[str, dict[str, Any]] = {}
    rows = []
    for at, (name, picked, row) in enumerate(writes):
        part = {feature: row[feature] for feature in sorted(picked)}
        rows.append((name, part, BASE_US + at, None))
        expected[name] = expected.get(name, {}) | part
    shared.write(rows)
    for name, (_, features) in zip(ITEMS[:2], shared.read(ITEMS[:2]), strict=True):
        assert (features or {}) == values(shared.view, expected.get(name, {}))
        assert (features is None) == (name not in expected)


def test_values_of_another_type_than_declared_come_back_as_they_were_written(stores: Stores) -> None:
    from feast.protos.feast.types.Value_pb2 import Value

    view = feature_view("thing", {"whole": "Int64", "codes": "Array(Int64)", "text": "String"})
    [key] = entity_keys(["a"])
    odd = {"whole": Value(int32_val=0), "codes": Value(string_val=""), "text": Value(double_val=0.0), "more": Value()}
    stores.ours.online_write_batch(stores.config, view, [(key, odd, moment(BASE_US), None)], None)
    assert stores.read(["a"], view=view) == [(moment(BASE_US), odd)]


@pytest.mark.parametrize("ttl", [timedelta(microseconds=7), timedelta(hours=27)])
def test_a_row_is_found_up_to_its_ttl_inclusive(made: Callable[..., Stores], ttl: timedelta) -> None:
    view = feature_view("thing", {"whole": "Int64"}, ttl=ttl)
    stores = made(view)
    stores.write([("a", {"whole": 1}, BASE_US, None)])
    last = BASE_US + ttl // timedelta(microseconds=1)
    for now, there in ((BASE_US, True), (last, True), (last + 1, False)):
        stores.ours.clock = lambda now=now: now
        [(at, features)] = stores.read(["a"])
        assert (features is not None) == (at is not None) == there
    [(_, features)] = stores.stock.online_read(stores.stock_config, view, entity_keys(["a"]))
    assert features is None  # nothing was written there


def test_naive_times_are_utc_in_any_zone_and_keep_their_microseconds(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    __import__("time").tzset()
    try:
        view, at = stores.view, datetime(2024, 5, 6, 7, 8, 9, 123457)
        [key] = entity_keys(["a"])
        stores.ours.online_write_batch(stores.config, view, [(key, values(view, {"whole": 1}), at, at)], None)
        [(found, _)] = stores.read(["a"])
        assert found == at.replace(tzinfo=UTC)
    finally:
        monkeypatch.undo()
        __import__("time").tzset()


def test_a_row_without_an_event_time_is_refused_and_nothing_of_its_batch_is_written(stores: Stores) -> None:
    rows = batch(stores.view, [("a", {"whole": 1}, BASE_US, None), ("b", {"whole": 1}, BASE_US, None)])
    rows[1] = (*rows[1][:2], None, None)
    with pytest.raises(OnlineStoreError, match="expected an event time in every row, got none in row 1"):
        stores.ours.online_write_batch(stores.config, stores.view, rows, None)
    assert stores.read(["a"]) == [(None, None)]


@pytest.fixture
def few_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes 5,000 variables per statement: of some builds it is 32,766, of others 250,000."""
    connect = sqlite3.connect

    def limited(*where: Any, **named: Any) -> sqlite3.Connection:
        opened = connect(*where, **named)
        opened.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 5_000)
        return opened

    monkeypatch.setattr(sqlite3, "connect", limited)


def test_more_keys_than_sqlite_takes_variables_are_read_at_once(few_variables: None, stores: Stores) -> None:
    from sidkit.stores.online.transactions import Reading

    view = feature_view("thing", {"whole": "Int64"})
    stores.write([(f"i{n}", {"whole": n}, BASE_US, None) for n in range(0, 3000, 3)], view)
    keys = [key for key, *_ in batch(view, [(f"i{n}", {}, BASE_US, None) for n in range(3000)])]
    found = stores.ours.online_read(stores.config, view, keys * 11)
    assert len(found) == 33_000 > 5_000
    for at in (0, 1, 2, 2997, 3000, 4095, 4096, 32_997, 32_999):
        expected = at % 3000 if at % 3 == 0 else None
        assert (found[at][1]["whole"].int64_val if found[at][1] else None) == expected
    with stores.ours.database(stores.config).reading() as reading:
        assert isinstance(reading, Reading)
        assert reading.rows("shop_thing", []) == []


def test_progress_is_told_and_an_empty_batch_is_nothing(stores: Stores) -> None:
    told: list[int] = []
    rows = batch(stores.view, [(name, {"whole": 1}, BASE_US, None) for name in ITEMS])
    stores.ours.online_write_batch(stores.config, stores.view, rows, told.append)
    stores.ours.online_write_batch(stores.config, stores.view, [], told.append)
    assert sum(told) == len(ITEMS)


def test_a_view_whose_schema_changed_shows_what_still_fits(made: Callable[..., Stores]) -> None:
    old = feature_view("thing", {"kept": "Int64", "dropped": "String", "retyped": "Int64"})
    stores = made(old)
    stores.write([(name, {"kept": 1, "dropped": "x", "retyped": 5}, BASE_US, None) for name in "ab"])
    new = feature_view("thing", {"added": "Array(Float32)", "retyped": "String", "kept": "Int64"})
    stores.ours.update(stores.config, [], [new], [], [], partial=False)
    wanted = ["added", "retyped", "kept"]
    assert [set(features) for _, features in stores.read(["a"], wanted, new)] == [{"kept"}]
    stores.write([("b", {"added": [0.5], "retyped": "y", "kept": 2}, BASE_US, None)], new)
    [(_, a), (_, b)] = stores.read(["a", "b"], wanted, new)
    assert a == values(new, {"kept": 1})
    assert b == values(new, {"added": [0.5], "retyped": "y", "kept": 2})


def test_updating_makes_and_drops_tables_and_keeps_rows(made: Callable[..., Stores]) -> None:
    one, two = feature_view("one"), feature_view("two")
    stores = made(one, two)
    stores.write([("a", {"whole": 1}, BASE_US, None)], one)
    before = stores.read(["a"], view=one)
    stores.ours.update(stores.config, [two], [one], [], [], partial=True)
    assert stores.read(["a"], view=one) == before
    with pytest.raises(OnlineStoreError, match=r"no such table: packed:shop_two\): run `feast apply`"):
        stores.read(["a"], view=two)
    stores.ours.update(stores.config, [], [one, two], [], [], partial=True)
    assert stores.read(["a"], view=two) == [(None, None)]


@pytest.mark.parametrize("versioned", [False, True])
def test_dropping_an_undefined_view_drops_its_versions_and_nobody_elses(
    made: Callable[..., Stores], versioned: bool
) -> None:
    from sidkit.stores.online.store import view_id

    long = "item_sid_" + "x" * 300
    gone, alike, other = feature_view(long), feature_view(f"{long}_v2"), feature_view(f"{long}_value")
    stores = made(gone, alike, other)
    stores.config.registry.enable_online_feature_view_versioning = versioned
    gone.current_version_number, alike.current_version_number = 3, 1
    stores.ours.update(stores.config, [], [gone, alike], [], [], partial=False)
    file = stores.ours.database(stores.config)
    tables = {f"shop_{long}", f"shop_{long}_v2", f"shop_{long}_value"}
    latest = {f"shop_{long}_v3", f"shop_{long}_v2_v1"} if versioned else set()
    with file.reading() as reading:
        assert set(reading.views()) == tables | latest
    assert view_id(stores.config, gone) == (f"shop_{long}_v3" if versioned else f"shop_{long}")
    stores.ours.drop_undefined(stores.config, long, [alike, other])
    with file.reading() as reading:
        left = set(reading.views())
    assert left == {f"shop_{long}_v2", f"shop_{long}_value", *([f"shop_{long}_v2_v1"] if versioned else [])}


def test_tearing_down_deletes_the_file_and_a_new_start_works(file_stores: Stores) -> None:
    file_stores.write([("a", {"whole": 1}, BASE_US, None)])
    file_stores.ours.teardown(file_stores.config, [file_stores.view], [])
    path = Path(file_stores.config.online_store.path)
    assert not list(path.parent.glob("online.sqlite*"))
    with pytest.raises(OnlineStoreError, match=r"expected an online store at .*; run `feast apply`"):
        file_stores.read(["a"])
    assert not path.exists(), "reading makes no file"
    file_stores.ours.teardown(file_stores.config, [file_stores.view], [])
    file_stores.ours.update(file_stores.config, [], [file_stores.view], [], [], partial=False)
    assert file_stores.read(["a"]) == [(None, None)]


def test_a_file_of_another_version_is_refused(file_stores: Stores) -> None:
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore

    with contextlib.closing(sqlite3.connect(file_stores.config.online_store.path)) as opened, opened:
        opened.execute('UPDATE "packed:format" SET version = 4')
    for use in (
        lambda store: store.online_read(file_stores.config, file_stores.view, entity_keys(["a"])),
        lambda store: store.update(file_stores.config, [], [file_stores.view], [], [], partial=False),
    ):
        with pytest.raises(OnlineStoreError, match="expected version 3 of the online store .*got version 4"):
            use(PackedSqliteOnlineStore())


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore

    view, told = feature_view(), config(tmp_path)
    Path(told.online_store.path).write_bytes(b"no database at all " * 999)
    with pytest.raises(OnlineStoreError, match=r"online\.sqlite is damaged or not a SQLite file"):
        PackedSqliteOnlineStore().online_read(told, view, entity_keys(["a"]))


def test_both_stores_share_a_file_without_touching_each_other(file_stores: Stores) -> None:
    rows = [("a", {"whole": 1}, BASE_US // 10**6 * 10**6, None)]
    file_stores.write(rows)
    file_stores.stock.online_write_batch(
        file_stores.stock_config,
        file_stores.view,
        batch(file_stores.view, [("a", {"whole": 2}, rows[0][2], None)]),
        None,
    )
    file_stores.stock.update(file_stores.stock_config, [file_stores.view], [], [], [], partial=False)
    assert file_stores.read(["a"]) == [(moment(rows[0][2]), values(file_stores.view, {"whole": 1}))]


def test_threads_and_forked_processes_use_connections_of_their_own(stores: Stores) -> None:
    stores.write([(name, {"whole": 1}, BASE_US, None) for name in ITEMS])
    expected = stores.read(ITEMS)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(stores.read(ITEMS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            stores.write([("z", {"whole": 1}, BASE_US, None)])
            code = 0 if stores.read(ITEMS) == expected else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stores.read(["z"])[0][1] is not None


def test_a_plan_names_the_tables(file_stores: Stores) -> None:
    from feast.infra.infra_object import InfraObject
    from feast.protos.feast.core.Registry_pb2 import Registry

    planned = file_stores.ours.plan(
        file_stores.config, Registry(feature_views=[entity_view(feature_view("planned")).to_proto()])
    )
    [table] = [InfraObject.from_infra_object_proto(thing.to_infra_object_proto()) for thing in planned]
    assert (table.name, table.path) == ("shop_planned", file_stores.config.online_store.path)
    table.update()
    view = feature_view("planned")
    assert file_stores.read(["a"], view=view) == [(None, None)]
    table.teardown()
    with pytest.raises(OnlineStoreError, match="no such table"):
        file_stores.read(["a"], view=view)


def test_versions_of_a_view_have_tables_of_their_own(stores: Stores) -> None:
    from sidkit.stores.online.store import view_id

    registry = stores.config.registry
    registry.enable_online_feature_view_versioning = True
    view = feature_view("thing")
    view.current_version_number = 2
    assert view_id(stores.config, view) == "shop_thing_v2"
    stores.write([("a", {"whole": 2}, BASE_US, None)], view)  # makes the table: `feast apply` may not have known it
    assert stores.read(["a"], ["whole"], view)[0][1] == values(view, {"whole": 2})
    view.current_version_number = None
    assert stores.read(["a"], ["whole"], view) == [(None, None)]


def test_settings_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    feature_view()
    from pydantic import ValidationError as FeastConfigError

    with pytest.raises(FeastConfigError, match="vector_enabled"):
        config(tmp_path, PACKED, vector_enabled=True)
