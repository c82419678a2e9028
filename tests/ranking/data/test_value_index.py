"""Some values of a feature are those of all its values, however many were asked for before."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranking.data.coded import ValueIndex
from ranking.data.schema import ExtraFeature, Kind

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
