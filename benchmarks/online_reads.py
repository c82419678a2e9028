"""The reads of ``benchmarks/online.py``: by the kit's reader, by Feast, and by plain programs that are a lower bound."""

from __future__ import annotations

import gc
import random
import sqlite3
import struct
import time
from pathlib import Path
from typing import Any

from online_stores import BEGINNING, END, PACKED, open_store

SIZES = (1, 100, 500)
VALUES = ("values", "values_uncached", "values_cold")
MANY = ("packed", "cold", "unchecked", "raw")
READS = {"stock": 40, "redis": 40, "feast": 40} | dict.fromkeys((*MANY, *VALUES, "raw_values"), 200)


def plain_connection(path: Path) -> tuple[sqlite3.Connection, bytes]:
    """A connection to the packed rows, and what precedes the length of an id in its key."""
    from sidkit.stores.online.arrow import key_prefix

    opened = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    opened.execute("PRAGMA cache_size = -32768")
    opened.execute("PRAGMA mmap_size = 4294967296")
    return opened, key_prefix(["item_id"]) + (2).to_bytes(4, "little")


def raw_reader(path: Path) -> Any:
    """The lower bound: a plain program that reads the packed bytes."""
    from sidkit.stores.online.key_hashes import hashes_of

    opened, prefix = plain_connection(path)

    def read(items: list[str]) -> list[list[bytes]]:
        keys = [prefix + len(item).to_bytes(4, "little") + item.encode() for item in items]
        hashes, places, fetched = hashes_of(keys), ",".join(["(?)"] * len(keys)), []
        for view in ("stats", "content"):
            sql = (
                f'SELECT t.key, t.row FROM (VALUES {places}) v LEFT JOIN "packed:bench_{view}" t ON t.hash = v.column1'
            )
            own, rows = zip(*opened.execute(sql, hashes), strict=True)
            assert own == tuple(keys)
            fetched.append(list(rows))
        return fetched

    return read


def raw_values_reader(path: Path) -> Any:
    """The lower bound for one entity: a plain program that knows the layouts of the two views."""
    from sidkit.stores.online.key_hashes import hashes_of

    opened, prefix = plain_connection(path)
    stats, content = struct.Struct("<HBI3q3f4q"), struct.Struct("<HB2qI32f")
    statements = [f'SELECT row FROM "packed:bench_{view}" WHERE hash = ? AND key = ?' for view in ("stats", "content")]

    def read(items: list[str]) -> dict[str, Any]:
        text = items[0].encode()
        key = prefix + len(text).to_bytes(4, "little") + text
        own = (*hashes_of([key]), key)
        [[one], [other]] = (opened.execute(statement, own).fetchone() for statement in statements)
        _, _, _, a, b, c, x, y, z, *codes = stats.unpack_from(one)
        _, _, d, e, _, *vector = content.unpack_from(other)
        first = {"stats__codes": codes, "stats__a": a, "stats__b": b, "stats__c": c, "stats__x": x, "stats__y": y}
        return {**first, "stats__z": z, "content__d": d, "content__e": e, "content__vector": vector}

    return read


def read_stores(folder: Path, redis: str, *, fresh: bool) -> dict[str, Any]:
    stores = {"packed": {"type": PACKED}, "stock": {"type": "sqlite"}}
    if redis:
        stores["redis"] = {"type": "redis", "connection_string": redis}
    return {
        name: open_store(folder, f"read_{name}", online, ["stats", "content"], fresh=fresh)
        for name, online in stores.items()
    }


def fill(folder: Path, redis: str) -> None:
    """Materialize the rows to be read, once."""
    from sidkit.stores.online.bulk import in_bulk

    for store in read_stores(folder, redis, fresh=True).values():
        with in_bulk(store):
            store.materialize(BEGINNING, END)


def read(folder: Path, items: int, redis: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Milliseconds of each read, wall-clock and processor time, by candidate and number of entities, in alternation."""
    from sidkit.stores.online import open_reader, rows_by_hash

    opened = read_stores(folder, redis, fresh=False)
    packed, emptied, one_row = (
        opened["packed"],
        *(open_store(folder, "read_packed", {"type": PACKED}, ["stats", "content"], fresh=False) for _ in range(2)),
    )
    fast, cold, single = (open_reader(store, "ten") for store in (packed, emptied, one_row))
    path = Path(packed.config.online_store.path)
    raw, raw_values = raw_reader(path), raw_values_reader(path)
    # Every item is asked for once: the pages come from the disk, and the packed reader keeps the rows.
    for at in range(0, items, 500):
        asked = [f"i{number}" for number in range(at, min(at + 500, items))]
        for reader in (fast, cold, single):
            reader.read({"item_id": asked})
        raw(asked)
    check = rows_by_hash.all_intact

    def unchecked(asked: list[str]) -> None:
        rows_by_hash.all_intact = lambda *_: True
        try:
            cold.read({"item_id": asked})
        finally:
            rows_by_hash.all_intact = check

    def by_feast(name: str) -> Any:
        store, service = opened[name], opened[name].get_feature_service("ten")
        return lambda asked: store.get_online_features(service, {"item_id": asked}, full_feature_names=True).to_dict()

    ways: dict[str, Any] = {
        "packed": lambda asked: fast.read({"item_id": asked}),
        "cold": lambda asked: cold.read({"item_id": asked}),
        "unchecked": unchecked,
        "raw": raw,
        "values": lambda asked: fast.read_one({"item_id": asked[0]}),
        "values_uncached": lambda asked: single.read_one({"item_id": asked[0]}),
        "values_cold": lambda asked: single.read_one({"item_id": asked[0]}),
        "raw_values": raw_values,
        "feast": by_feast("packed"),
        **{name: by_feast(name) for name in opened.keys() - {"packed"}},
    }
    before: dict[str, Any] = {
        "cold": cold.database.forget,
        "unchecked": cold.database.forget,
        "values_cold": single.database.forget,
        "values_uncached": lambda: (single.database.forget(), single.read({"item_id": ["i0"]})),
    }
    assert raw_values(["i7"]) == fast.read_one({"item_id": "i7"}) == single.read_one({"item_id": "i7"})
    for size in SIZES:
        for way in ways.values():
            way([f"i{number}" for number in range(size)])
    gc.collect()
    gc.freeze()
    measured: dict[str, dict[str, dict[str, list[float]]]] = {
        kind: {name: {} for name in ways} for kind in ("wall", "cpu")
    }
    for size in SIZES:
        for turn in range(max(READS.values())):
            # In random order: the caches of the processor favour a read that follows one of the same file.
            for name, way in random.sample(sorted(ways.items()), len(ways)):
                if turn % (max(READS.values()) // READS[name]) or (size > 1 and name in (*VALUES, "raw_values")):
                    continue
                asked = [f"i{number}" for number in random.sample(range(items), size)]
                before.get(name, int)()
                began, used = time.perf_counter(), time.process_time()
                way(asked)
                spent = {"cpu": time.process_time() - used, "wall": time.perf_counter() - began}
                for kind, seconds in spent.items():
                    measured[kind][name].setdefault(str(size), []).append(round(seconds * 1e3, 6))
    return measured
