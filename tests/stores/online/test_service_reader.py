"""The scorer's reader gives the same arrays whichever online store lies below."""

from __future__ import annotations

import contextlib
import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_bulk import BEGINNING, END

from helpers.online_builders import (
    BASE_US,
    PACKED,
    PACKED_REDIS,
    SOURCE_TYPES,
    TYPES,
    batch,
    entity_keys,
    feast_repo,
    feature_view,
    redis_options,
    write_source,
)
from sidkit.core.errors import ServingError

STORES = ["sqlite", "redis"]
# Feast has no Arrow type for these, so they cannot be compared.
PLAIN = {name: told for name, told in TYPES.items() if name not in {"map", "blob", "blobs"}}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.parquet"
    write_source(path, 200)
    table = pa.parquet.read_table(path)
    # Feast's own conversion sends integers beside nulls through floats.
    whole = table["whole"].fill_null(0)
    pa.parquet.write_table(table.set_column(table.column_names.index("whole"), "whole", whole), path)
    return path


def filled(folder: Path, path: Path, kind: str, **online: Any) -> Any:
    """A store with two views of the source and a service over both, one of them by another name."""
    from feast import FeatureService

    one = feature_view("one", {name: SOURCE_TYPES[name] for name in ("codes", "whole", "title")}, path=str(path))
    two = feature_view("two", {name: SOURCE_TYPES[name] for name in ("count", "price", "texts")}, path=str(path))
    every = feature_view("every", {name: kind for name, (kind, _) in PLAIN.items()})
    service = FeatureService(name="both", features=[one.with_name("first"), two[["texts", "price"]]])
    whole = FeatureService(name="every_type", features=[every])
    store = feast_repo(folder, kind, [one, two, every, service, whole], **online)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        store.materialize(BEGINNING, END, ["one", "two"])
    rows = [
        ("full", {name: samples[-1] for name, (_, samples) in PLAIN.items()}, BASE_US, None),
        ("least", {name: samples[0] for name, (_, samples) in PLAIN.items()}, BASE_US, None),
        ("nulls", dict.fromkeys(PLAIN), BASE_US, None),
    ]
    store._get_provider().online_write_batch(store.config, every, batch(every, rows), None)
    return store


@pytest.fixture(scope="module", params=[PACKED, PACKED_REDIS], ids=["file", "redis"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, path: Path) -> Any:
    online = {} if request.param == PACKED else redis_options(request.getfixturevalue("redis_address"))
    return filled(tmp_path_factory.mktemp("packed"), path, request.param, **online)


@pytest.fixture(scope="module", params=STORES)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, path: Path) -> Any:
    folder = tmp_path_factory.mktemp(str(request.param))
    address = {"connection_string": request.getfixturevalue("redis_address")} if request.param == "redis" else {}
    return filled(folder, path, request.param, **address)


def reader(store: Any, service: str) -> Any:
    from ranking.serving.service_reader import ServiceReader

    return ServiceReader(store, store.get_feature_service(service))


@pytest.mark.parametrize(
    ("service", "items"),
    [
        ("both", [*(f"i{n}" for n in range(70)), "nobody", "i1", "i1"]),
        ("both", ["i3"]),
        ("both", ["nobody"]),
        ("every_type", ["full", "nobody", "least", "full", "nulls"]),
        ("every_type", ["nulls", "nulls"]),
    ],
)
def test_all_stores_give_the_same_arrays(packed: Any, other: Any, service: str, items: list[str]) -> None:
    ours, theirs = (reader(store, service).read({"item_id": items}) for store in (packed, other))
    again = reader(packed, service).read({"item_id": items})  # from what the first read kept
    assert {name: view.plain() for name, view in again.items()} == {name: view.plain() for name, view in ours.items()}
    assert reader(packed, service).packed is not None
    assert reader(other, service).packed is None
    assert list(ours) == list(theirs)
    for name, view in ours.items():
        found, expected = view.plain(), theirs[name].plain()
        assert found.schema == expected.schema
        assert found.to_pylist() == expected.to_pylist(), name
    if service == "both":
        assert list(ours) == ["first", "two"]
        assert ours["two"].table.column_names == ["two__texts", "two__price"]


def test_a_reader_judges_ttls_by_the_moment_it_is_given(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"whole": "Int64"}, ttl=timedelta(seconds=1))
    store = feast_repo(tmp_path, PACKED, [view, FeatureService(name="s", features=[view])])
    rows = [("a", {"whole": 1}, BASE_US, None), ("b", {"whole": 2}, BASE_US + 1, None)]
    store._get_provider().online_write_batch(store.config, view, batch(view, rows), None)
    read = reader(store, "s").read
    assert read({"item_id": ["a", "b"]}, BASE_US + 10**6)["thing"].index.tolist() == [0, 1]
    expired = read({"item_id": ["a", "b"]}, BASE_US + 10**6 + 1)["thing"]
    assert expired.plain()["thing__whole"].to_pylist() == [None, 2]
    assert read({"item_id": ["a", "b"]})["thing"].index.tolist() == [-1, -1]  # by the clock: 2023 is long ago


def test_rows_from_before_a_schema_change_read_as_nulls_where_they_lack_something(tmp_path: Path) -> None:
    from feast import FeatureService
    from feast.protos.feast.types.Value_pb2 import Value

    old = feature_view("thing", {"whole": "Int64", "text": "Int64"})
    store = feast_repo(tmp_path, PACKED, [old])
    online = store._get_provider().online_store
    rows = [(name, {"whole": number, "text": 5}, BASE_US, None) for number, name in enumerate("abc")]
    online.online_write_batch(store.config, old, batch(old, rows), None)
    new = feature_view("thing", {"codes": "Array(Int64)", "text": "String", "whole": "Int64"})
    store.apply([new, FeatureService(name="s", features=[new])])
    later = ("b", {"codes": [1], "text": "x", "whole": 9}, BASE_US + 1, None)
    [odd] = batch(new, [("c", {"codes": None, "text": "y", "whole": 3}, BASE_US + 1, None)])
    odd[1]["whole"] = Value(double_val=1.5)
    online.online_write_batch(store.config, new, [*batch(new, [later]), odd], None)
    found = reader(store, "s").read({"item_id": ["c", "a", "nobody", "b", "a"]})["thing"].plain()
    assert found.to_pydict() == {
        "thing__codes": [None, None, None, [1], None],
        "thing__text": ["y", None, None, "x", None],
        "thing__whole": [None, 0, None, 9, 0],
    }


@pytest.mark.parametrize("kind", [PACKED, "sqlite"])
def test_a_view_without_entities_has_one_row_for_all(tmp_path: Path, kind: str) -> None:
    from feast import FeatureService, FeatureView

    item = feature_view("item_one", {"whole": "Int64"})
    whole = FeatureView(name="everyone", entities=[], schema=item.features[:1], source=item.batch_source)
    both, alone = FeatureService(name="s", features=[item, whole]), FeatureService(name="alone", features=[whole])
    store = feast_repo(tmp_path, kind, [item, whole, both, alone])
    [mine] = batch(item, [("a", {"whole": 5}, BASE_US, None)])
    [theirs] = batch(item, [("", {"whole": 9}, BASE_US, None)])
    write = store._get_provider().online_write_batch
    write(store.config, item, [mine], None)
    write(store.config, whole, [(*entity_keys([""], "__dummy_id"), *theirs[1:])], None)
    found = {name: view.plain().to_pydict() for name, view in reader(store, "s").read({"item_id": ["a", "b"]}).items()}
    assert found == {"item_one": {"item_one__whole": [5, None]}, "everyone": {"everyone__whole": [9, 9]}}
    [view] = reader(store, "alone").read({"anything": [1, 2, 3]}).values()
    assert view.plain().to_pydict() == {"everyone__whole": [9, 9, 9]}


def test_bytes_are_read_though_feast_has_no_arrow_type_for_them(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"blob": "Bytes", "blobs": "Array(Bytes)"})
    store = feast_repo(tmp_path, PACKED, [view, FeatureService(name="s", features=[view])])
    rows = [("a", {"blob": b"\0\xff", "blobs": [b"", b"x"]}, BASE_US, None)]
    store._get_provider().online_write_batch(store.config, view, batch(view, rows), None)
    found = reader(store, "s").read({"item_id": ["b", "a"]})["thing"].plain()
    assert found.to_pydict() == {"thing__blob": [None, b"\0\xff"], "thing__blobs": [None, [b"", b"x"]]}


def test_what_has_no_plain_type_is_read_through_feast(tmp_path: Path) -> None:
    from feast import FeatureService

    view = feature_view("thing", {"map": "Map"})
    store = feast_repo(tmp_path, PACKED, [view, FeatureService(name="s", features=[view])])
    assert reader(store, "s").packed is None


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"user_id": ["u"]}, "expected the keys item_id for first, got user_id"),
        ({"item_id": [None, "a"]}, r"expected item_id \(string\) without nulls for first, got item_id"),
        ({"item_id": [1]}, "got item_id as int64"),
    ],
)
def test_a_request_with_other_keys_is_refused(packed: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        reader(packed, "both").read(keys)
