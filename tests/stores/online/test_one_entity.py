"""The features of one entity as Python values are those of the arrays and of Feast, whatever was written."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_codec import PLAIN as SAMPLES

from helpers.online_builders import BASE_US, PACKED, TYPES, batch, entity_keys, feast_repo, feature_view
from sidkit.core.errors import ConfigError, OnlineStoreError, ServingError
from sidkit.stores.online import open_reader
from sidkit.stores.online.arrow import arrow_type, cells_of
from sidkit.stores.online.checksums import sealed
from sidkit.stores.online.codec import pack
from sidkit.stores.online.layout import LISTS, SCALARS, TEXT_LISTS, TEXTS, Layout
from sidkit.stores.online.one_row import row_decoder
from sidkit.stores.online.reader import PackedReader

PLAIN = {name: told for name, told in TYPES.items() if name not in {"map", "at"}}
TIMED = {name: TYPES[name] for name in ("at", "whole")}
DECODED = sorted((set(SCALARS) | set(LISTS) | TEXTS | TEXT_LISTS) - {"UNIX_TIMESTAMP", "UNIX_TIMESTAMP_LIST"})


def write(store: Any, view: Any, rows: Sequence[tuple[str, dict[str, Any], int, int | None]]) -> None:
    store._get_provider().online_write_batch(store.config, view, batch(view, rows), None)


def from_arrays(reader: PackedReader, keys: Mapping[str, Any], at_us: int | None = None) -> dict[str, Any]:
    views = reader.read({name: [value] for name, value in keys.items()}, at_us)
    return {name: column[0] for view in views.values() for name, column in view.plain().to_pydict().items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from feast import FeatureService

    one = feature_view("one", {name: kind for name, (kind, _) in PLAIN.items()})
    two = feature_view("two", {name: kind for name, (kind, _) in TIMED.items()})
    services = [
        FeatureService(name="plain", features=[one]),
        FeatureService(name="both", features=[two, one.with_name("first")[["text", "codes"]]]),
    ]
    store = feast_repo(tmp_path_factory.mktemp("one"), PACKED, [one, two, *services])
    for view, types in ((one, PLAIN), (two, TIMED)):
        longest = max(len(samples) for _, samples in types.values())
        rows = [
            (f"i{n}", {name: samples[n % len(samples)] for name, (_, samples) in types.items()}, BASE_US, None)
            for n in range(longest)
        ]
        nulls = [("nulls", dict.fromkeys(types), BASE_US, None)]
        half = [("half", {name: types[name][1][-1] if n % 2 else None for n, name in enumerate(types)}, BASE_US, None)]
        write(store, view, [*rows, *nulls, *half])
    write(store, one, [("only one", {name: samples[-1] for name, (_, samples) in PLAIN.items()}, BASE_US, None)])
    return store


ITEMS = [*(f"i{n}" for n in range(6)), "nulls", "half", "only one", "nobody"]


@pytest.mark.parametrize("service", ["plain", "both"])
@pytest.mark.parametrize("item", ITEMS)
def test_one_entity_is_that_of_the_arrays_and_of_feast(store: Any, service: str, item: str) -> None:
    reader = open_reader(store, service)
    expected = from_arrays(reader, {"item_id": item})
    for _ in range(2):  # from the file, and from the cache
        found = reader.read_one({"item_id": item})
        assert repr(found) == repr(expected)
    reader.database.forget()
    reader.read({"item_id": ["i0"]})  # the layouts are known again, the row is not
    assert repr(reader.read_one({"item_id": item})) == repr(expected)
    named = store.get_feature_service(service)
    feast = store.get_online_features(named, {"item_id": [item]}, full_feature_names=True).to_dict()
    assert {name: [value] for name, value in found.items()} == {name: feast[name] for name in found}


def test_a_later_write_is_read_by_the_next_call(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"whole": "Int64"})
    other = feature_view("other", {"whole": "Int64"})
    store = feast_repo(tmp_path, PACKED, [view, other, FeatureService(name="s", features=[view])])
    reader = open_reader(store, "s")
    assert reader.read_one({"item_id": "a"}) == {"thing__whole": None}
    for number in range(5):
        write(store, view, [("a", {"whole": number}, BASE_US + number, None)])
        assert reader.read_one({"item_id": "a"}) == {"thing__whole": number}
        write(store, other, [("a", {"whole": -number}, BASE_US + number, None)])
        assert reader.read_one({"item_id": "a"}) == {"thing__whole": number}
    with closing(sqlite3.connect(reader.database.path)) as opened, opened:  # another connection, as another process has
        opened.execute('DELETE FROM "packed:shop_thing"')
    assert reader.read_one({"item_id": "a"}) == {"thing__whole": None}


def test_ttls_are_those_of_the_moment(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"whole": "Int64"}, ttl=timedelta(seconds=1))
    store = feast_repo(tmp_path, PACKED, [view, FeatureService(name="s", features=[view])])
    write(store, view, [("a", {"whole": 1}, BASE_US, None)])
    reader = open_reader(store, "s")
    for _ in range(2):
        assert reader.read_one({"item_id": "a"}, BASE_US + 10**6) == {"thing__whole": 1}
        assert reader.read_one({"item_id": "a"}, BASE_US + 10**6 + 1) == {"thing__whole": None}
        assert reader.read_one({"item_id": "a"}) == {"thing__whole": None}  # by the clock: 2023 is long ago


def test_rows_of_an_earlier_schema_are_those_of_the_arrays(tmp_path: Path) -> None:
    from feast import FeatureService

    old = feature_view("thing", {"whole": "Int64", "text": "Int64"})
    store = feast_repo(tmp_path, PACKED, [old])
    write(store, old, [(name, {"whole": number, "text": 5}, BASE_US, None) for number, name in enumerate("ab")])
    new = feature_view("thing", {"codes": "Array(Int64)", "text": "String", "whole": "Int64"})
    store.apply([new, FeatureService(name="s", features=[new])])
    write(store, new, [("b", {"codes": [1], "text": "x", "whole": 9}, BASE_US + 1, None)])
    reader = open_reader(store, "s")
    for _ in range(2):
        for item in ("a", "b", "c"):
            assert reader.read_one({"item_id": item}) == from_arrays(reader, {"item_id": item})
    assert reader.read_one({"item_id": "a"}) == {"thing__codes": None, "thing__text": None, "thing__whole": 0}


def test_a_damaged_row_is_an_error(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"whole": "Int64"})
    store = feast_repo(tmp_path, PACKED, [view, FeatureService(name="s", features=[view])])
    write(store, view, [("a", {"whole": 1}, BASE_US, None), ("b", {"whole": 2}, BASE_US, None)])
    reader = open_reader(store, "s")
    assert reader.read_one({"item_id": "b"}) == {"thing__whole": 2}
    with closing(sqlite3.connect(reader.database.path)) as opened, opened:
        opened.execute('UPDATE "packed:shop_thing" SET row = zeroblob(length(row)) WHERE key = ?', entity_key("a"))
    for _ in range(2):
        with pytest.raises(OnlineStoreError, match="a row does not match its checksum in table packed:shop_thing"):
            reader.read_one({"item_id": "a"})
    assert reader.read_one({"item_id": "b"}) == {"thing__whole": 2}


def entity_key(item: str) -> list[bytes]:
    from sidkit.stores.online.protobuf import serialized_keys

    return serialized_keys(entity_keys([item]))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "expected the keys item_id for one, got no keys"),
        ({"user_id": "u"}, "expected the keys item_id for one, got user_id"),
        ({"item_id": None}, r"expected item_id \(string\) without nulls for one, got item_id"),
        ({"item_id": 1}, "got item_id as int64"),
    ],
)
def test_a_request_with_other_keys_is_refused(store: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        open_reader(store, "plain").read_one(keys)


def test_views_of_several_keys_and_of_none_are_read(tmp_path: Path) -> None:
    from feast import FeatureService, FeatureView

    item = feature_view("item_one", {"whole": "Int64"})
    whole = FeatureView(name="everyone", entities=[], schema=item.features[:1], source=item.batch_source)
    store = feast_repo(tmp_path, PACKED, [item, whole, FeatureService(name="s", features=[whole, item])])
    write(store, item, [("a", {"whole": 5}, BASE_US, None)])
    [theirs] = batch(item, [("", {"whole": 9}, BASE_US, None)])
    online = store._get_provider()
    online.online_write_batch(store.config, whole, [(*entity_keys([""], "__dummy_id"), *theirs[1:])], None)
    reader = open_reader(store, "s")
    for item_id, value in (("a", 5), ("b", None), ("a", 5)):
        assert list(reader.read_one({"item_id": item_id}).items()) == [
            ("everyone__whole", 9),
            ("item_one__whole", value),
        ]


def test_another_store_and_types_without_arrays_are_refused(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"map": "Map"})
    for kind in (PACKED, "sqlite"):
        store = feast_repo(tmp_path / kind, kind, [view, FeatureService(name="s", features=[view])])
        with pytest.raises(ConfigError, match=r"in the service s, got .*; read it with store\.get_online_features"):
            open_reader(store, "s")


@settings(deadline=None, max_examples=150)
@given(data=st.data(), kinds=st.lists(st.sampled_from(DECODED), min_size=1, max_size=20), rows=st.integers(1, 3))
def test_decoded_rows_are_those_of_the_arrays(data: st.DataObject, kinds: list[str], rows: int) -> None:
    layout = Layout(tuple((f"f{place}", kind) for place, kind in enumerate(kinds)))
    columns = []
    for kind in kinds:
        one = SAMPLES[kind.removesuffix("_LIST")]
        cell = st.lists(one, max_size=4) if kind.endswith("_LIST") else one
        columns.append(pa.array(data.draw(st.lists(st.none() | cell, min_size=rows, max_size=rows)), arrow_type(kind)))
    cells = [cells_of(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    assert all(cell is not None for cell in cells)
    packed = pack(layout, 7, [cell for cell in cells if cell is not None])
    stored = sealed("v", [b"k"] * rows, [0] * rows, [None] * rows, packed)
    wanted = data.draw(st.lists(st.sampled_from(layout.columns), min_size=1, unique=True))
    decoder = row_decoder(layout, wanted)
    assert decoder is not None
    for place, row in enumerate(stored):
        assert repr(decoder(row)) == repr([columns[layout.places[name]][place].as_py() for name, _ in wanted])
    name, kind = layout.columns[0]
    assert row_decoder(layout, [(name, "INT32" if kind != "INT32" else "INT64")]) is None
    assert row_decoder(layout, [("missing", "INT64")]) is None
