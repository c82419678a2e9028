"""Packed rows give back what was put in, whichever way they are written and read."""

from __future__ import annotations

import itertools
import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.online_builders import TYPES, entity_keys, feature_view, values
from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.arrow import arrow_type, cells_of, integer_keys, text_keys, to_arrow
from sidkit.stores.online.arrow import entity_keys as arrow_keys
from sidkit.stores.online.checksums import TAIL, sealed
from sidkit.stores.online.codec import layout_number, pack, unpack
from sidkit.stores.online.layout import Cells, Layout, kind_of, layout_from_json, layout_of

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROW = st.fixed_dictionaries({name: st.none() | st.sampled_from(samples) for name, (_, samples) in TYPES.items()})


def in_file(rows: list[bytes]) -> list[bytes]:
    count = len(rows)
    return sealed("shop_thing", [b"key"] * count, [0] * count, [None] * count, rows)


@PATIENT
@given(rows=st.lists(ROW, max_size=6), number=st.integers(1, 65_535), pick=st.sets(st.sampled_from(sorted(TYPES))))
def test_values_come_back_as_they_were(rows: list[dict[str, Any]], number: int, pick: set[str]) -> None:
    view = feature_view()
    from sidkit.stores.online.protobuf import cells_of_values, values_of_cells, view_layout

    layout = view_layout(view)
    assert layout_from_json(layout.to_json()) == layout
    protos = [values(view, row) for row in rows]
    cells = [cells_of_values([row[name] for row in protos], kind) for name, kind in layout.columns]
    assert [found.kind for found in cells] == [kind for _, kind in layout.columns]
    packed = in_file(pack(layout, number, cells))
    assert len(packed) == len(rows)
    assert {layout_number(row) for row in packed} <= {number}
    found = unpack(layout, packed)
    assert list(found) == list(layout.names)
    for name, column in found.items():
        assert values_of_cells(column) == [row[name] for row in protos], name
    some = unpack(layout, packed, [*pick, "no such feature"])
    assert set(some) == pick
    for name, column in some.items():
        assert values_of_cells(column) == [row[name] for row in protos], name


PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "BOOL": st.booleans(), "INT32": st.integers(-(2**31), 2**31 - 1), "INT64": st.integers(-(2**63), 2**63 - 1),
    "FLOAT": st.floats(width=32, allow_nan=False), "DOUBLE": st.floats(allow_nan=False), "STRING": st.text(max_size=5),
    "BYTES": st.binary(max_size=5),
}  # fmt: skip
KINDS = [*PLAIN, *(f"{kind}_LIST" for kind in PLAIN)]


@PATIENT
@given(data=st.data(), kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), rows=st.integers(0, 5))
def test_arrow_columns_come_back_as_they_were(data: st.DataObject, kinds: list[str], rows: int) -> None:
    columns = []
    for kind in kinds:
        one = PLAIN[kind.removesuffix("_LIST")]
        cell = st.lists(one, max_size=4) if kind.endswith("_LIST") else one
        drawn = data.draw(st.lists(st.none() | cell, min_size=rows + 2, max_size=rows + 2))
        columns.append(pa.array(drawn, arrow_type(kind)).slice(1, rows))  # what lies before and behind is not ours
    layout = Layout(tuple((str(place), kind) for place, kind in enumerate(kinds)))
    cells = [cells_of(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    assert None not in cells
    found = unpack(layout, in_file(pack(layout, 1, [cell for cell in cells if cell is not None])))
    for place, column in enumerate(columns):
        back = to_arrow(found[str(place)])
        back.validate(full=True)
        assert back.equals(column), kinds[place]


MIXED = Layout(
    (
        ("kind", "STRING"), ("size", "DOUBLE"), ("topics", "STRING_LIST"), ("text", "STRING"), ("near", "INT64_LIST"),
        ("fresh", "BOOL"), ("raw", "BYTES_LIST"),
    )
)  # fmt: skip


@PATIENT
@given(data=st.data(), rows=st.integers(1, 12), longest=st.sampled_from([3, 300]))
def test_many_rows_are_unpacked_like_each_alone_value_by_value(data: st.DataObject, rows: int, longest: int) -> None:
    strategies = PLAIN | {"STRING": st.text(max_size=longest), "BYTES": st.binary(max_size=longest)}
    columns = {}
    for name, kind in MIXED.columns:
        element = strategies[kind.removesuffix("_LIST")]
        one = st.lists(element, max_size=3) if kind.endswith("_LIST") else element
        columns[name] = data.draw(st.lists(st.none() | one, min_size=rows, max_size=rows))
    cells = [cells_of(pa.array(columns[name], arrow_type(kind)), kind) for name, kind in MIXED.columns]
    packed = in_file(pack(MIXED, 3, [each for each in cells if each is not None]))
    wanted = data.draw(st.lists(st.sampled_from(MIXED.names), min_size=1, unique=True))
    found = unpack(MIXED, packed, wanted, 3)
    assert set(found) == set(wanted)
    for name in wanted:
        assert to_arrow(found[name]).to_pylist() == columns[name]
        assert columns[name] == [_alone(row, name) for row in packed]


def _alone(row: bytes, name: str) -> Any:
    """One value of one row, by the documented format, without arrays."""
    body, at, place = row[:-TAIL], 2 + -(-len(MIXED.columns) // 8), MIXED.places[name]
    if body[2 + place // 8] >> place % 8 & 1:
        return None
    start = 0
    fixed = {"DOUBLE": "<d", "BOOL": "<?"}
    for column, kind in MIXED.columns:
        (value,) = struct.unpack_from(fixed.get(kind, "<I"), body, at)
        at += struct.calcsize(fixed.get(kind, "<I"))
        if column == name:
            break
        start = start if kind in fixed else value
    if kind in fixed:
        return value
    payload = body[MIXED.dtype.itemsize :][start:value]
    if kind == "STRING":
        return payload.decode()
    if kind == "INT64_LIST":
        return list(struct.unpack(f"<{len(payload) // 8}q", payload))
    (count,) = struct.unpack_from("<I", payload)
    ends = (0, *struct.unpack_from(f"<{count}I", payload, 4))
    texts = [payload[4 + 4 * count :][start:end] for start, end in itertools.pairwise(ends)]
    return texts if kind == "BYTES_LIST" else [text.decode() for text in texts]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1.0, 2.5]), "INT64"),  # Feast cuts the fraction off
        (pa.array([[1, None]]), "INT64_LIST"),  # Feast writes its default for the missing element
        (pa.array([1, 2]), "STRING"),
        (pa.array(["1"]), "INT64"),
        (pa.array([b"a"]), "STRING"),
        (pa.array([1], pa.timestamp("us")), "UNIX_TIMESTAMP"),
        (pa.array([1]), "MAP"),
    ],
)
def test_what_only_feast_can_convert_is_left_to_feast(column: pa.Array, kind: str) -> None:
    assert cells_of(column, kind) is None


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [
        (pa.array(["a", None, "a"]).dictionary_encode(), "STRING", ["a", None, "a"]),
        (pa.array(["a", None], pa.large_string()), "STRING", ["a", None]),
        (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), "INT64_LIST", [[1, 2], None]),
        (pa.array([[0.5]], pa.large_list(pa.float64())), "FLOAT_LIST", [[0.5]]),
        (pa.array([3, None], pa.uint16()), "INT32", [3, None]),
        (pa.array([0.1, float("nan"), None]), "FLOAT", [float(np.float32(0.1)), None, None]),
    ],
)
def test_columns_of_kin_types_are_converted(column: pa.Array, kind: str, expected: list[Any]) -> None:
    cells = cells_of(column, kind)
    assert cells is not None
    assert to_arrow(cells).to_pylist() == expected


def test_an_integer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid, match="not in range"):
        cells_of(pa.array([2**31]), "INT32")


@PATIENT
@given(names=st.lists(st.text(max_size=200)), numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_keys_are_serialized_as_feast_does(names: list[str], numbers: list[int]) -> None:
    feature_view()
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    from sidkit.stores.online.protobuf import serialized_keys

    for asked, kind in ((names, "STRING"), (numbers, "INT64")):
        keyed = entity_keys(asked)
        expected = [serialize_entity_key(key) for key in keyed]
        assert serialized_keys(keyed) == expected
        column = pa.array(asked, pa.string() if kind == "STRING" else pa.int64())
        assert arrow_keys({"item_id": column}, {"item_id": kind}) == expected
        plain = text_keys("item_id", asked) if kind == "STRING" else integer_keys("item_id", kind, asked)
        assert plain == expected
    text = names[0] if names else ""
    pair = EntityKey(join_keys=["b", "a"], entity_values=[Value(string_val=text), Value(int64_val=numbers[0])])
    columns = {"b": pa.array([text]), "a": pa.array([numbers[0]])}
    assert serialized_keys([pair]) == [serialize_entity_key(pair)]
    assert arrow_keys(columns, {"b": "STRING", "a": "INT64"}) == [serialize_entity_key(pair)]
    mixed = [*entity_keys(["a"]), *entity_keys(["a"], "other_id"), *entity_keys([7])]
    assert serialized_keys(mixed) == [serialize_entity_key(key) for key in mixed]


def test_keys_that_are_missing_are_left_to_feast() -> None:
    assert arrow_keys({"item_id": pa.array(["a", None])}, {"item_id": "STRING"}) is None


def test_plain_integers_of_32_bits_are_serialized_like_columns_and_others_are_left_to_them() -> None:
    small = [0, -1, 2**31 - 1, -(2**31)]
    expected = arrow_keys({"k": pa.array(small, pa.int32())}, {"k": "INT32"})
    assert integer_keys("k", "INT32", small) == expected
    for kind, other in (("INT32", [2**31]), ("INT64", [2**63]), ("INT64", [True]), ("INT64", [1.0]), ("STRING", [1])):
        assert integer_keys("k", kind, other) is None


def test_a_layout_of_another_release_is_refused() -> None:
    told = json.loads(layout_of([("a", "INT64")]).to_json())
    with pytest.raises(OnlineStoreError, match="expected rows of the online store in layout version 1, got version 2"):
        layout_from_json(json.dumps({**told, "version": 2}))
    with pytest.raises(OnlineStoreError, match="kinds INT128"):
        layout_from_json(json.dumps({**told, "columns": [["a", "INT128"]]}))
    assert kind_of("DECIMAL") == "PROTO"


def test_a_row_costs_its_values_and_little_more() -> None:
    layout = layout_of([("codes", "INT64_LIST"), ("a", "INT64"), ("b", "FLOAT")])
    codes = Cells("INT64_LIST", np.arange(3), np.array([0, 3]))
    [row] = pack(layout, 1, [codes, Cells("INT64", np.array([1])), Cells("FLOAT", np.array([1.0]))])
    assert len(row) == 2 + 1 + 4 + 8 + 4 + 3 * 8
