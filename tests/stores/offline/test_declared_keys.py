"""Join keys have the type that their entity declares: offline in both engines as online, or they are refused."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.source_builders import AT, LATER, materialize, offline, online, part, store_of, view_of
from sidkit.core.config import EngineSettings
from sidkit.core.errors import ContractError
from sidkit.stores.keys import as_declared

WHOLE = (1, 2, -3, 108775015, 10**12)
TEXTS = ("1", "001", "2", " 2", "+1", "-3", "a", "", "0108775015", "108775015", "1_0", "٣")


class RefusedError(Exception):
    """A key that has no meaning under its declared type."""


def declared(value: Any, kind: str) -> Any:
    """What Feast's own conversion makes of one key, in plain Python; what it would make by chance is refused."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, bool):
        raise RefusedError
    if kind == "STRING":
        if isinstance(value, str | int):
            return str(value)
    elif kind == "BYTES":
        if isinstance(value, bytes):
            return value
    elif isinstance(value, int | float | Decimal | str):
        if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?[0-9]+\s*", value, re.ASCII):
            raise RefusedError
        number = int(value)
        bits = 32 if kind == "INT32" else 64
        if (not isinstance(value, str) and number != value) or not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
            raise RefusedError
        return number
    raise RefusedError


@dataclass(frozen=True)
class Form:
    """How keys are written: the values that it can hold, and pandas' and Arrow's types."""

    values: tuple[Any, ...]
    pandas: Any
    arrow: Any

    def series(self, values: list[Any]) -> pd.Series:
        return pd.Series(values, dtype=self.pandas)


FORMS: dict[str, Form] = {
    "int64": Form(WHOLE, "int64", pa.int64()),
    "int32": Form(WHOLE[:4], "int32", pa.int32()),
    "nullable": Form((*WHOLE, None), "Int64", pa.int64()),
    "float with gaps": Form((1.0, 2.0, 108775015.0, None), "float64", pa.float64()),
    "fraction": Form((1.5, 1.0), "float64", pa.float64()),
    "text": Form((*TEXTS, None), object, pa.string()),
    "string": Form((*TEXTS, None), "string", pa.large_string()),
    "category": Form(TEXTS, "category", pa.dictionary(pa.int32(), pa.string())),
    "arrow": Form((*WHOLE, None), pd.ArrowDtype(pa.int64()), pa.int64()),
    "bytes": Form((b"1", b"\xff\0", None), object, pa.binary()),
    "decimal": Form((Decimal(1), Decimal(2)), object, pa.decimal128(20, 0)),
    "bool": Form((True, False), "bool", pa.bool_()),
    "mixed": Form((1, "1", "001", 2, "a", None), object, None),
    "nothing": Form((None,), object, pa.null()),
}


@st.composite
def questions(draw: st.DrawFn) -> tuple[str, str, list[Any], str, list[Any]]:
    """(declared, form of the table, its keys, form of the entity rows, their keys)."""
    kind = draw(st.sampled_from(["STRING", "INT64", "INT32", "BYTES"]))
    source = draw(st.sampled_from([name for name, form in FORMS.items() if form.arrow is not None]))
    asked = draw(st.sampled_from(list(FORMS)))
    keys = draw(st.lists(st.sampled_from(FORMS[source].values), min_size=1, max_size=6))
    return kind, source, keys, asked, draw(st.lists(st.sampled_from(FORMS[asked].values), min_size=1, max_size=6))


def expected(kind: str, keys: list[Any], asked: list[Any]) -> list[int | None]:
    """The number of the last row of each key: all rows have one moment."""
    table = {key: number for number, key in enumerate(declared(key, kind) for key in keys) if key is not None}
    return [table.get(key) for key in (declared(key, kind) for key in asked)]


@settings(
    max_examples=1500 if os.environ.get("SIDKIT_PROOF") else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(question=questions())
def test_a_key_sees_what_it_sees_online_or_is_refused(
    tmp_path: Path, question: tuple[str, str, list[Any], str, list[Any]]
) -> None:
    from sidkit.stores.offline.entity_rows import key_column
    from sidkit.stores.offline.point_in_time import PointInTime
    from sidkit.stores.offline.view_plans import plan_view

    kind, source, keys, asked_form, asked = question
    from feast.types import Int64

    path = part(tmp_path / "t.parquet", k=pa.array(keys, FORMS[source].arrow), f=list(range(len(keys))))
    view, _ = view_of(path, {"k": kind}, {"f": Int64})
    try:
        wanted: list[int | None] | None = expected(kind, keys, asked)
    except RefusedError:
        wanted = None
    moments = pa.array([int(LATER.timestamp()) * 1_000_000] * len(asked))
    for held in (None, 0):  # in memory, and in DuckDB
        try:
            plan = plan_view(view, ["v:f"], False, tmp_path)
            rows = key_column(FORMS[asked_form].series(asked), kind)
            found = PointInTime([plan], EngineSettings(), held_bytes=held).columns({"k": rows}, moments)
            answer, error = found["f"].to_pylist(), ""
        except ContractError as refused:
            answer, error = None, str(refused)
        if error:
            # Types are refused before values are looked at, so a refusal may come without a wrong value.
            assert wanted is None or not _convertible(kind, source) or not _convertible(kind, asked_form), error
            assert "\n" not in error
        else:
            assert answer == wanted


def _convertible(kind: str, form: str) -> bool:
    """Whether any value of a form is a key of the declared type."""
    valid = [value for value in FORMS[form].values if value is not None]
    if any(isinstance(value, float | Decimal | bool | bytes) for value in valid) and kind == "STRING":
        return False
    return any(not _refuses(value, kind) for value in valid) or not valid


def _refuses(value: Any, kind: str) -> bool:
    try:
        declared(value, kind)
    except RefusedError:
        return True
    return False


@pytest.mark.parametrize(
    ("kind", "stored", "asked", "answer"),
    [
        ("STRING", ["1", "001", "0108775015"], [1, 108775015, 7], [0, None, None]),
        ("STRING", [1, 22, 333], ["1", "01", "333"], [0, None, 2]),
        ("INT64", ["1", "22", "333"], [1, 22, 4], [0, 1, None]),
        ("INT64", [1, 22, 333], ["1", "022", "4"], [0, 1, None]),
        ("BYTES", [b"1", b"\xff", b""], [b"1", b"\xff", b"2"], [0, 1, None]),
        ("INT32", [1, 22, 333], [22.0, np.nan, 1.0], [1, None, 0]),
    ],
)
def test_offline_finds_what_online_finds_after_materialization(
    tmp_path: Path, kind: str, stored: list[Any], asked: list[Any], answer: list[Any]
) -> None:
    from feast.types import Int64

    path = part(tmp_path / "t.parquet", k=stored, f=[0, 1, 2])
    store = store_of(tmp_path / "repo", *view_of(path, {"k": kind}, {"f": Int64}))
    assert offline(store, pd.DataFrame({"k": asked})) == answer
    materialize(store)
    rows = [{"k": key} for key in asked if key == key]
    assert online(store, rows) == [found for found, key in zip(answer, asked, strict=True) if key == key]


def test_several_keys_and_mapped_keys_keep_their_own_types(tmp_path: Path) -> None:
    from feast import FeatureService
    from feast.types import Int64

    path = part(tmp_path / "t.parquet", user=["1", "001", "1"], item=[7, 7, 8], f=[0, 1, 2])
    view, entities = view_of(path, {"user": "STRING", "item": "INT64"}, {"f": Int64})
    store = store_of(tmp_path / "repo", view, entities)
    mapped = view.with_name("m").with_join_key_map({"user": "friend", "item": "thing"})
    store.apply([FeatureService(name="mapped", features=[mapped])])
    frame = pd.DataFrame({"user": [1, 1, 2], "item": ["7", "8", "7"]})
    assert offline(store, frame) == [0, 2, None]
    frame = frame.rename(columns={"user": "friend", "item": "thing"}).assign(event_timestamp=LATER)
    found = store.get_historical_features(frame, features=store.get_feature_service("mapped"))
    assert found.to_arrow()["f"].to_pylist() == [0, 2, None]
    assert found.to_df()["friend"].tolist() == [1, 1, 2]  # the rows' own columns stay as they came


def test_streamed_rows_take_the_declared_type_too(tmp_path: Path) -> None:
    from feast.types import Int64

    from sidkit.stores.offline.retrieve import retrieve

    path = part(tmp_path / "t.parquet", k=["1", "001"], f=[0, 1])
    store = store_of(tmp_path / "repo", *view_of(path, {"k": "STRING"}, {"f": Int64}))
    times = pa.array([LATER] * 2, pa.timestamp("us", "UTC"))
    rows = part(tmp_path / "rows.parquet", k=[1, 108775015], event_timestamp=times)
    assert retrieve(store, rows, ["v:f"]).to_arrow()["f"].to_pylist() == [0, None]
    floats = pa.table({"k": [1.0, None], "event_timestamp": times})
    with pytest.raises(ContractError, match=r"entity_df: expected k as STRING, its entity's type, got double"):
        retrieve(store, floats, ["v:f"]).to_arrow()


REMEDIES: dict[str, tuple[str, list[Any], str, list[Any]]] = {
    "floats for texts": ("STRING", ["1", "2"], "object", [1.0, None]),
    "bytes for texts": ("STRING", ["1", "2"], "object", [b"1", None]),
    "texts for bytes": ("BYTES", [b"1", b"2"], "object", ["1", None]),
    "decimals for texts": ("STRING", ["1", "2"], "object", [Decimal(1), None]),
    "booleans for integers": ("INT64", [1, 2], "object", [True, None]),
    "bytes among texts": ("STRING", ["1", "2"], "object", [b"1", "x"]),
    "floats among texts": ("STRING", ["1", "2"], "object", [1.0, "x"]),
    "floats among digits": ("INT64", [1, 2], "object", [1.0, "9"]),
}


@pytest.mark.parametrize("case", REMEDIES)
def test_the_remedy_of_a_refused_key_leads_to_the_right_rows(tmp_path: Path, case: str) -> None:
    from feast.types import Int64

    kind, stored, dtype, asked = REMEDIES[case]
    store = store_of(
        tmp_path / "repo", *view_of(part(tmp_path / "t.parquet", k=stored, f=[0, 1]), {"k": kind}, {"f": Int64})
    )
    frame = pd.DataFrame({"k": pd.Series(asked, dtype=dtype)})
    with pytest.raises(ContractError, match="entity_df: expected .*k[ ,]") as refused:
        offline(store, frame)
    advice = re.search(r'(frame\["k"\].*)$', str(refused.value))
    assert advice, refused.value
    frame["k"] = eval(advice[1], {"frame": frame, "str": str})
    assert offline(store, frame) == [0, None]


def test_moments_uuids_and_floats_are_keys_offline() -> None:
    one = uuid.UUID(int=5)
    kept = as_declared(pa.array([str(one).upper(), None]), "UUID", "t", "k")
    assert kept.to_pylist() == [str(one), None]
    assert as_declared(pa.array([one.bytes], pa.binary(16)), "UUID", "t", "k").to_pylist() == [str(one)]
    moments = pa.array([datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), AT, None], pa.timestamp("us", "UTC"))
    assert as_declared(moments, "UNIX_TIMESTAMP", "t", "k").to_pylist() == [-1, int(AT.timestamp()), None]
    assert as_declared(pa.array([0.5, float("nan"), -0.0]), "FLOAT", "t", "k").to_pylist() == [0.5, None, 0.0]
    with pytest.raises(ContractError, match="t: expected UUID keys in k"):
        as_declared(pa.array(["x"]), "UUID", "t", "k")


def test_a_missing_key_is_refused_on_the_way_online_with_its_source(tmp_path: Path) -> None:
    from feast.types import Int64

    path = part(tmp_path / "t.parquet", k=[1, None], f=[0, 1])
    store = store_of(tmp_path / "repo", *view_of(path, {"k": "STRING"}, {"f": Int64}))
    assert offline(store, pd.DataFrame({"k": [1]})) == [0]
    with pytest.raises(ContractError, match="source s: expected k in every row to materialize, got 1 rows without it"):
        materialize(store)
