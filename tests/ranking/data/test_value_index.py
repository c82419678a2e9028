"""Some values of a feature are those of all its values, however many were asked for before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.coded import ValueIndex
from ranking.data.schema import ExtraFeature, Kind
from sidkit.stores.offline.plan import ViewRows

COLUMNS: dict[Kind, tuple[pa.DataType, st.SearchStrategy[object]]] = {
    "category": (pa.string(), st.sampled_from([None, "a", "b", "c", "d", "e"])),
    "categories": (pa.list_(pa.string()), st.none() | st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)),
    "vector": (pa.list_(pa.float32()), st.none() | st.lists(st.sampled_from([0.0, 0.5]), min_size=1, max_size=3)),
}


@pytest.mark.parametrize("kind", COLUMNS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_some_values_are_those_of_all(kind: Kind, data: st.DataObject) -> None:
    arrow, cell = COLUMNS[kind]
    index = ValueIndex([ExtraFeature("context__x", kind, "context")])
    held: list[tuple[int, object]] = []
    for column in data.draw(st.lists(st.lists(cell, min_size=1, max_size=6), min_size=1, max_size=6)):
        codes = index.codes({}, {"x": pa.array(column, arrow)}, len(column))[:, 0]
        held += zip(codes.tolist(), column, strict=True)
        for _ in range(data.draw(st.integers(1, 4))):
            asked = data.draw(st.lists(st.sampled_from(held), max_size=8))
            found = index.some(0, np.array([code for code, _ in asked], dtype=np.int64))
            assert found.type == arrow
            assert found.to_pylist() == [value for _, value in asked]


@pytest.mark.parametrize("kind", COLUMNS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_numbers_of_values_do_not_depend_on_the_order_of_the_feature_rows(kind: Kind, data: st.DataObject) -> None:
    arrow, cell = COLUMNS[kind]
    held = data.draw(st.lists(cell, min_size=1, max_size=8))
    rows = np.array(data.draw(st.lists(st.integers(-1, len(held) - 1), max_size=12)), dtype=np.int64)
    order = np.array(data.draw(st.permutations(range(len(held)))))
    found = []
    for places in (np.arange(len(held)), order):
        # The feature rows stand in another order; the entity rows see the same ones.
        index = np.append(np.argsort(places), -1)[rows]
        view = ViewRows("v", index, pa.table({"v__x": pa.array([held[place] for place in places], arrow)}))
        values = ValueIndex([ExtraFeature("v__x", kind, "v")])
        codes = values.codes({"v": view}, None, len(rows))
        found.append((codes[:, 0].tolist(), values.values_of(0).to_pylist()))
        assert [found[-1][1][code] for code in found[-1][0]] == [None if row < 0 else held[row] for row in rows]
    assert found[0] == found[1]
