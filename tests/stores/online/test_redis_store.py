"""The packed online store on Redis: what a server adds to the contract in test_online_store.py."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bulk import BEGINNING, END

from helpers.online_builders import (
    BASE_US,
    PACKED,
    PACKED_REDIS,
    SOURCE_TYPES,
    batch,
    config,
    entity_keys,
    feast_repo,
    feature_view,
    redis_options,
    redis_server,
    write_source,
)
from helpers.pit_oracle import moment
from helpers.ports import free_port
from sidkit.core.errors import MissingExtraError, OnlineStoreError

VIEW = "shop_thing"


def new_store() -> Any:
    from sidkit.stores.online import PackedRedisOnlineStore

    return PackedRedisOnlineStore()


class OnRedis:
    """A packed store on Redis with some views, and the client of its server."""

    def __init__(self, folder: Path, options: dict[str, Any], *views: Any) -> None:
        from redis import Redis

        self.views = views or (feature_view("thing", {"whole": "Int64", "text": "String"}),)
        self.view = self.views[0]
        self.store, self.config = new_store(), config(folder, PACKED_REDIS, **options)
        self.client, self.prefix = Redis.from_url(options["url"]), options["key_prefix"]
        self.store.update(self.config, [], list(self.views), [], [], partial=False)

    def key(self, part: str, view: str = VIEW) -> str:
        return f"{self.prefix}:{{{view}}}:{part}"

    def write(self, rows: Any, view: Any = None) -> None:
        view = view or self.view
        self.store.online_write_batch(self.config, view, batch(view, rows), None)

    def wholes(self, names: list[str], view: Any = None) -> list[int | None]:
        found = self.store.online_read(self.config, view or self.view, entity_keys(names))
        return [None if features is None else features["whole"].int64_val for _, features in found]

    def reading(self) -> Any:
        return self.store.database(self.config).reading()

    def writing(self) -> Any:
        return self.store.database(self.config).writing()

    def serialized(self, names: list[str]) -> list[bytes]:
        from sidkit.stores.online.protobuf import serialized_keys

        return serialized_keys(entity_keys(names), 3)


@pytest.fixture
def made(tmp_path: Path, redis_address: str) -> OnRedis:
    return OnRedis(tmp_path, redis_options(redis_address))


def rows_of_file(store: Any) -> dict[bytes, bytes]:
    with contextlib.closing(sqlite3.connect(store.config.online_store.path)) as opened:
        return dict(opened.execute(f'SELECT key, row FROM "packed:{VIEW}"').fetchall())


def rows_of_server(store: Any) -> dict[bytes, bytes]:
    online = store._get_provider().online_store
    with online.database(store.config).reading() as reading:
        return dict(reading.scan(VIEW))


@pytest.mark.parametrize("way", ["bulk", "feast", "engine", "push"])
def test_each_way_of_writing_leaves_the_bytes_that_the_file_has(tmp_path: Path, redis_address: str, way: str) -> None:
    from feast.data_source import PushSource

    from sidkit.stores.online.bulk import in_bulk

    path, found = tmp_path / "source.parquet", []
    write_source(path, 2_000)
    for kind in (PACKED, PACKED_REDIS):
        view = feature_view("thing", {name: SOURCE_TYPES[name] for name in ("codes", "count", "texts")}, path=str(path))
        if way == "push":
            view.stream_source = PushSource(name="pushed", batch_source=view.batch_source)
        online = redis_options(redis_address) if kind == PACKED_REDIS else {}
        engine = {"engine": "sidkit.stores.online.PackedComputeEngine"} if way == "engine" else {}
        store = feast_repo(tmp_path / kind, kind, [view], **online, **engine)
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            in_bulk(store) if way == "bulk" else contextlib.nullcontext({}) as written,
        ):
            store.materialize(BEGINNING, END)
        if way == "push":
            import pandas as pd

            frame = pd.read_parquet(path).drop_duplicates("item_id")
            store.push("pushed", frame.assign(event_timestamp=END, created_timestamp=END))
        assert (way == "bulk") == bool(written)
        found.append(rows_of_file(store) if kind == PACKED else rows_of_server(store))
    assert found[0] == found[1]
    assert len(found[0]) > 500


@settings(max_examples=40)
@given(times=st.lists(st.tuples(st.integers(-(2**62), 2**62), st.none() | st.integers(-(2**62), 2**62)), min_size=1))
def test_the_server_ranks_any_two_times_as_numbers(redis_address: str, times: list[tuple[int, int | None]]) -> None:
    from sidkit.stores.online.layout import Layout
    from sidkit.stores.online.redis_database import PackedRedis

    database = PackedRedis(**{"url": "", "prefix": "", "timeout_seconds": 5.0} | server_of(redis_address))
    with database.writing() as writing:
        number = writing.make(VIEW, Layout(())).to_bytes(2, "little")
        for at, (event, created) in enumerate(times):
            writing.put(VIEW, [b"key"], [event], [created], [number + at.to_bytes(2, "little")])
        [row] = writing.rows(VIEW, [b"key"])
        writing.drop(VIEW)
    ranks = [(event, -(2**63) if created is None else created, at) for at, (event, created) in enumerate(times)]
    assert row is not None
    assert int.from_bytes(row[2:4], "little") == max(ranks)[2]


def server_of(address: str) -> dict[str, Any]:
    options = redis_options(address)
    return {"url": options["url"], "prefix": options["key_prefix"]}


def test_the_newest_of_equal_keys_in_one_write_wins(made: OnRedis) -> None:
    made.write([("a", {"whole": at % 3}, BASE_US + at % 3, None) for at in (1, 2, 0, 5, 4, 3)])
    made.write([("a", {"whole": 9}, BASE_US + 1, None)])
    assert made.wholes(["a"]) == [2]


def test_processes_that_write_at_once_leave_the_newest_rows(made: OnRedis) -> None:
    names = [f"i{n}" for n in range(50)]

    def write(part: int) -> None:
        for at in range(part, 40, 4):
            made.write([(name, {"whole": at}, BASE_US + at, None) for name in names])

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.wholes(names) == [39] * 50


def test_writers_of_different_features_of_a_row_lose_none(tmp_path: Path, redis_address: str) -> None:
    names = [f"f{n}" for n in range(4)]
    made = OnRedis(tmp_path, redis_options(redis_address), feature_view("thing", dict.fromkeys(names, "Int64")))

    def write(feature: str) -> None:
        for at in range(25):
            made.write([("a", {feature: at}, BASE_US, None)])

    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [(_, features)] = made.store.online_read(made.config, made.view, entity_keys(["a"]))
    assert {name: features[name].int64_val for name in names} == dict.fromkeys(names, 24)


def calls_of(client: Any) -> dict[str, int]:
    return {name.removeprefix("cmdstat_"): int(each["calls"]) for name, each in client.info("commandstats").items()}


def test_a_read_of_several_views_is_one_transaction(made: OnRedis) -> None:
    other = feature_view("other", {"whole": "Int64"})
    made.store.update(made.config, [], [made.view, other], [], [], partial=False)
    made.write([("a", {"whole": 1}, BASE_US, None)])
    keys, before = made.serialized(["a", "b"]), calls_of(made.client)
    with made.reading() as reading:
        rows = reading.rows_of([(VIEW, None), ("shop_other", None), (VIEW, BASE_US + 1)], keys)
        assert list(reading.layouts_of(VIEW, rows[0])) == [1, 2]  # as declared, and of what was written
    after = calls_of(made.client)
    done = {name: count - before.get(name, 0) for name, count in after.items() if name not in {"info"}}
    assert {name: count for name, count in done.items() if count} == {"multi": 1, "exec": 1, "hgetall": 3, "hmget": 3}
    assert [[row is not None for row in view] for view in rows] == [[True, False], [False, False], [False, False]]


def test_dropping_a_view_examines_no_other_keys(made: OnRedis) -> None:
    other = feature_view("other", {"whole": "Int64"})
    made.store.update(made.config, [], [made.view, other], [], [], partial=False)
    made.write([("a", {"whole": 1}, BASE_US, None)])
    made.write([("a", {"whole": 2}, BASE_US, None)], other)
    made.client.set(f"{made.prefix}-of-another-program", "x")
    before = calls_of(made.client)
    made.store.update(made.config, [made.view], [other], [], [], partial=True)
    done = {name for name, count in calls_of(made.client).items() if count != before.get(name, 0)}
    assert not done & {"scan", "keys", "hscan", "del"}
    assert not made.client.exists(*(made.key(part) for part in ("rows", "meta", "outdated")))
    assert made.wholes(["a"], other) == [2]
    assert made.client.get(f"{made.prefix}-of-another-program") == b"x"
    made.store.teardown(made.config, [other], [])
    assert list(made.client.scan_iter(f"{made.prefix}*")) == [f"{made.prefix}-of-another-program".encode()]


def test_a_view_that_is_dropped_while_it_is_written_is_not_made_again(made: OnRedis) -> None:
    from sidkit.stores.online.layout import Layout

    with made.writing() as writing:
        number = writing.make(VIEW, Layout((("whole", "INT64"),)))
        writing.drop(VIEW)
        with pytest.raises(
            OnlineStoreError, match=r"packed:shop_thing was dropped while it was written\): run `feast apply`"
        ):
            writing.put(VIEW, [b"a"], [0], [None], [number.to_bytes(2, "little") + bytes(9)])
    assert not made.client.exists(made.key("rows"))


def test_marks_change_with_every_write_to_their_view_only(made: OnRedis) -> None:
    other = feature_view("other", {"whole": "Int64"})
    made.store.update(made.config, [], [made.view, other], [], [], partial=False)

    def marks() -> Any:
        with made.reading() as reading:
            return reading.marks([VIEW, "shop_other"])

    made.write([("a", {"whole": 1}, BASE_US, None)])
    first = marks()
    made.wholes(["a"])
    assert marks() == first
    made.write([("a", {"whole": 2}, BASE_US, None)], other)
    second = marks()
    assert (second[0], second[1] != first[1]) == (first[0], True)
    made.store.update(made.config, [made.view], [], [], [], partial=True)
    assert marks() == (None, second[1])
    made.store.update(made.config, [], [made.view], [], [], partial=True)
    assert marks()[0] not in {None, first[0]}


def rows_by_cache(made: OnRedis, names: list[str], *views: str) -> tuple[list[list[bytes | None]], dict[str, int]]:
    """Rows by the reader that holds them, and the commands that the server got."""
    keys, before = made.serialized(names), calls_of(made.client)
    with made.reading() as reading:
        rows = reading.rows_of([(view, None) for view in views or (VIEW,)], keys)
        present = [row for row in rows[0] if row is not None]
        reading.layouts_of(VIEW, present)
    after = calls_of(made.client)
    done = {name: count - before.get(name, 0) for name, count in after.items()}
    return rows, {name: count for name, count in done.items() if count and name != "info"}


def test_a_second_read_asks_only_whether_the_views_were_written(made: OnRedis) -> None:
    made.write([(name, {"whole": 1}, BASE_US, None) for name in "abc"])
    whole = {"multi": 1, "exec": 1, "hgetall": 1, "hmget": 1}
    first, done = rows_by_cache(made, ["a", "b", "none"])
    assert done == whole
    assert rows_by_cache(made, ["a", "b", "none"]) == (first, {"hget": 1})
    assert rows_by_cache(made, ["c"])[1] == {"hget": 1} | whole
    made.write([("a", {"whole": 2}, BASE_US + 1, None)])
    second, done = rows_by_cache(made, ["a", "b", "none"])
    assert done == {"hget": 1} | whole
    assert (second[0][0] != first[0][0], second[0][1:]) == (True, first[0][1:])
    made.write([("a", {"whole": 3}, BASE_US + 2, None)])
    assert rows_by_cache(made, ["a", "b", "none"])[1] == whole  # the views are written all the time
    assert rows_by_cache(made, ["a", "b", "none"])[1] == whole
    assert rows_by_cache(made, ["a", "b", "none"])[1] == {"hget": 1}


def test_a_write_between_marks_and_rows_gives_rows_of_one_moment(
    made: OnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidkit.stores.online.redis_reading import RedisReading

    made.write([(name, {"whole": 1}, BASE_US, None) for name in "ab"])
    rows_by_cache(made, ["a"])
    marks = RedisReading.marks

    def and_a_write(reading: Any, views: Any) -> Any:
        found = marks(reading, views)
        made.write([(name, {"whole": 2}, BASE_US + 1, None) for name in "ab"])
        return found

    monkeypatch.setattr(RedisReading, "marks", and_a_write)
    [rows], _ = rows_by_cache(made, ["a", "b"])
    with made.reading() as reading:
        assert rows == reading.rows(VIEW, made.serialized(["a", "b"]))


STEP = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(["thing", "other"]), st.sets(st.sampled_from("abc"), min_size=1)),
    st.tuples(st.just("read"), st.sampled_from(["thing", "other"]), st.sets(st.sampled_from("abcd"), min_size=1)),
    st.tuples(st.just("drop"), st.just("other"), st.just({"a"})),
)


@settings(max_examples=40)
@given(steps=st.lists(STEP, max_size=15), cache_bytes=st.sampled_from([1, 2_000, 1 << 20]))
def test_a_reader_that_holds_rows_reads_what_another_one_reads(
    redis_address: str, steps: list[Any], cache_bytes: int
) -> None:
    from sidkit.stores.online.layout import Layout
    from sidkit.stores.online.redis_database import PackedRedis

    where = server_of(redis_address)
    holding, plain = (PackedRedis(**where, timeout_seconds=5.0, cache_bytes=held) for held in (cache_bytes, 0))
    with plain.writing() as writing, holding.reading() as reading:
        for view in ("thing", "other"):
            number = writing.make(view, Layout(()))
        for at, (what, view, names) in enumerate(steps):
            keys = [name.encode() for name in sorted(names)]
            if what == "write":
                row = number.to_bytes(2, "little") + at.to_bytes(2, "little")
                writing.put(view, keys, [at] * len(keys), [None] * len(keys), [row] * len(keys))
            elif what == "drop":
                writing.drop(view)
                writing.make(view, Layout(()))
            else:
                views = [(view, None), ("thing", None)]
                assert reading.rows_of(views, keys) == writing.rows_of(views, keys)
        for view in ("thing", "other"):
            writing.drop(view)


def test_tails_are_those_of_the_rows(made: OnRedis) -> None:
    made.write([(f"i{n}", {"whole": n}, BASE_US + n, None) for n in range(0, 5_000, 2)])
    keys = made.serialized([f"i{n}" for n in range(5_000)])
    with made.reading() as reading:
        tails, rows = reading.tails([VIEW, "shop_none"], keys), reading.rows(VIEW, keys)
        assert reading.tails([VIEW], []) == []
    assert tails == [(None if row is None else row[-20:], None) for row in rows]


def test_newest_and_keys_are_those_of_all_rows(made: OnRedis) -> None:
    with made.reading() as reading:
        assert (reading.newest_us(VIEW), reading.is_empty(VIEW), list(reading.keys(VIEW))) == (None, True, [])
    names = [f"i{n}" for n in range(3_000)]
    made.write([(name, {"whole": n}, BASE_US + n * 7919 % 3_000, None) for n, name in enumerate(names)])
    with made.reading() as reading:
        assert reading.newest_us(VIEW) == BASE_US + 2_999
        assert not reading.is_empty(VIEW)
        assert list(reading.keys(VIEW)) == sorted(made.serialized(names))


def test_an_outdated_row_gives_way_to_an_older_one_or_is_deleted(made: OnRedis) -> None:
    made.write([(name, {"whole": 5}, BASE_US + 5, None) for name in "abc"])
    keys = made.serialized(["a", "b", "c"])
    with made.writing() as writing:
        writing.outdate(VIEW, keys, [BASE_US + 5, BASE_US + 5, BASE_US + 4])
    made.write([("a", {"whole": 1}, BASE_US + 1, None)])
    with made.writing() as writing:
        writing.drop_outdated(VIEW)
    assert made.wholes(["a", "b", "c"]) == [1, None, 5]


@pytest.mark.parametrize(("every", "left"), [(None, 3), (0, 2)])
def test_expired_rows_are_deleted_only_if_asked_for(tmp_path: Path, redis_address: str, every: Any, left: int) -> None:
    from sidkit.stores.online.bulk import in_bulk

    path = tmp_path / "source.parquet"
    table = write_source(path, 3).set_column(0, "item_id", [["a", "b", "c"]])
    at = [moment(BASE_US), moment(BASE_US + 10**6), moment(BASE_US + 2 * 10**6)]
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(table.set_column(1, "event_timestamp", pa.array(at, pa.timestamp("us", "UTC"))), path)
    view = feature_view("thing", {"count": "Int64"}, ttl=timedelta(seconds=1), path=str(path))
    online = {**redis_options(redis_address), "delete_expired_seconds": every}
    store = feast_repo(tmp_path / "repo", PACKED_REDIS, [view], **online)
    store._get_provider().online_store.clock = lambda: BASE_US + 2 * 10**6
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), in_bulk(store):
        store.materialize(BEGINNING, END)
    assert len(rows_of_server(store)) == left


def test_expired_rows_are_looked_for_at_most_every_so_often(made: OnRedis) -> None:
    for now, left in ((BASE_US, 1), (BASE_US + 9, 2), (BASE_US + 10, 0)):
        made.write([(str(now), {"whole": 1}, now - 100, None)])
        with made.writing() as writing:
            writing.drop_expired(VIEW, now if left != 1 else now - 100, now, 10)
            assert made.client.hlen(made.key("rows")) == left


def test_damage_is_noticed(made: OnRedis) -> None:
    made.write([("a", {"whole": 1}, BASE_US, None), ("b", {"whole": 2}, BASE_US, None)])
    [a, b] = made.serialized(["a", "b"])
    row = made.client.hget(made.key("rows"), a)
    made.client.hset(made.key("rows"), b, row)  # whole, but of another key
    assert made.wholes(["a"]) == [1]
    with pytest.raises(
        OnlineStoreError, match="a row does not match its checksum in table packed:shop_thing; run `feast"
    ):
        made.wholes(["a", "b"])
    layout = made.client.hget(made.key("meta"), "layout:1")
    made.client.hset(made.key("meta"), "layout:1", layout.replace(b"whole", b"while"))
    with pytest.raises(OnlineStoreError, match="layout 1 does not match its checksum in table packed:shop_thing"):
        made.wholes(["a"])


def test_feasts_own_redis_store_uses_the_same_server(tmp_path: Path, redis_address: str) -> None:
    from feast import FeatureStore

    view = feature_view("thing", {"whole": "Int64"})
    kinds = {"redis": {"connection_string": redis_address}, PACKED_REDIS: redis_options(redis_address)}
    stores: list[FeatureStore] = [
        feast_repo(tmp_path / kind, kind, [view], **online) for kind, online in kinds.items()
    ]  # fmt: skip
    for number, store in enumerate(stores):
        rows = batch(view, [("a", {"whole": number}, BASE_US, None)])
        store._get_provider().online_write_batch(store.config, view, rows, None)
    for number, store in enumerate(stores):
        [(_, features)] = store._get_provider().online_store.online_read(store.config, view, entity_keys(["a"]))
        assert features["whole"].int64_val == number


# Errors


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[OnRedis]:
    """A store on a server with a password."""
    with redis_server(tmp_path / "guarded", "--requirepass", "open sesame") as address:
        options = {**redis_options(address), "url": f"redis://:open%20sesame@{address}/0"}
        yield OnRedis(tmp_path, options)


@pytest.mark.parametrize("url", ["redis://:wrong%20one@{}/0", "redis://who:wrong%20one@{}/0", "redis://{}/0"])
def test_a_refused_password_is_said_and_no_password_is_shown(guarded: OnRedis, url: str) -> None:
    guarded.write([("a", {"whole": 1}, BASE_US, None)])
    assert guarded.wholes(["a"]) == [1]
    address = guarded.config.online_store.url.rpartition("@")[2].partition("/")[0]
    guarded.config.online_store.url = url.format(address)
    with pytest.raises(
        OnlineStoreError, match="refuses the user or the password .* correct online_store.url"
    ) as raised:
        guarded.wholes(["a"])
    shown = f"{raised.value} {raised.value.__cause__}"
    assert not [each for each in ("wrong%20one", "wrong one", "sesame") if each in shown]


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    options = redis_options(f"127.0.0.1:{free_port()}")
    with pytest.raises(
        OnlineStoreError, match=r"redis://127.0.0.1:\d+/0 cannot be reached \(.*\): start the Redis server"
    ):
        OnRedis(tmp_path, options)


def test_a_server_without_memory_says_so_and_keeps_its_rows(tmp_path: Path) -> None:
    with redis_server(tmp_path / "small", "--maxmemory", "3mb", "--maxmemory-policy", "noeviction") as address:
        made = OnRedis(tmp_path, redis_options(address))
        made.write([("a", {"whole": 1}, BASE_US, None)])
        many = [(f"i{n}", {"text": "x" * 200}, BASE_US, None) for n in range(25_000)]
        with pytest.raises(OnlineStoreError, match=r"is out of memory \(.*\): raise maxmemory of the server or drop"):
            made.write(many)
        assert made.wholes(["a"]) == [1]


def test_a_replica_is_read_and_not_written(tmp_path: Path, redis_address: str) -> None:
    options = redis_options(redis_address)
    made = OnRedis(tmp_path, options)
    made.write([("a", {"whole": 1}, BASE_US, None)])
    host, port = redis_address.split(":")
    with redis_server(tmp_path / "replica", "--replicaof", host, port) as address:
        from redis import Redis

        replica = Redis.from_url(f"redis://{address}/0")
        while replica.info("replication")["master_link_status"] != "up":
            threading.Event().wait(0.05)
        made.config.online_store.url = f"redis://{address}/0"
        assert made.wholes(["a"]) == [1]
        [(problem, remedy)] = made.store.database(made.config).problems()
        assert (problem, remedy) == (
            "it is a read-only replica: no row can be written",
            "Set online_store.url in feature_store.yaml to the primary.",
        )
        with pytest.raises(
            OnlineStoreError, match=r"is a read-only replica \(.*\): set online_store.url .* to the primary"
        ):
            made.write([("a", {"whole": 2}, BASE_US, None)])


def test_a_server_that_may_delete_views_is_a_problem(tmp_path: Path) -> None:
    with redis_server(tmp_path / "cache", "--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as address:
        made = OnRedis(tmp_path, redis_options(address))
        [(problem, remedy)] = made.store.database(made.config).problems()
        assert problem == "its maxmemory-policy is allkeys-lru: when memory is full, it deletes whole views"
        assert remedy == "Set maxmemory-policy to noeviction."
        made.client.config_set("maxmemory-policy", "noeviction")
        assert made.store.database(made.config).problems() == []


def test_keys_of_another_program_are_refused(made: OnRedis) -> None:
    made.client.delete(made.key("rows"))
    made.client.set(made.key("rows"), "text")
    with pytest.raises(OnlineStoreError, match=r"has other data under the keys test-.*set online_store.key_prefix"):
        made.wholes(["a"])


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("${SIDKIT_NO_SUCH}", r"got \$\{SIDKIT_NO_SUCH\}, whose environment variable is not set; set it"),
        ("http://:secret@somewhere", r"got http://:\*\*\*@somewhere; correct it"),
    ],
)
def test_a_url_of_no_server_is_refused(tmp_path: Path, url: str, says: str) -> None:
    feature_view()
    with pytest.raises(OnlineStoreError, match=f"expected online_store.url in feature_store.yaml as redis://.*{says}"):
        new_store().update(config(tmp_path, PACKED_REDIS, url=url), [], [feature_view()], [], [], partial=False)


def test_without_the_client_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidkit.stores.online.redis_database import PackedRedis

    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(
        MissingExtraError, match=r"the online store on Redis needs redis.*pip install 'sidkit\[redis\]'"
    ):
        PackedRedis("redis://127.0.0.1:1/0", "x", 1.0)


@pytest.mark.parametrize("wrong", [{"key_prefix": "a{b}"}, {"key_prefix": ""}, {"timeout_seconds": 0.0}, {"path": "x"}])
def test_settings_that_cannot_work_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    feature_view()
    from pydantic import ValidationError as FeastConfigError

    with pytest.raises(FeastConfigError, match=next(iter(wrong))):
        config(tmp_path, PACKED_REDIS, url="redis://127.0.0.1:1/0", **wrong)
