"""The Feast stores at the edges of names, times, texts, folders, types of the entity dataframe, and memory."""

from __future__ import annotations

import re
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from helpers.source_builders import AT, LATER, materialize, offline, online, part, store_of, view_of
from sidkit.core.errors import ArtifactMissingError, ContractError

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
LONG = "n" * 300
NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(struct.pack("<3i", 0, 2, 4)), pa.py_buffer(b"\xff\xfeab")]
)
WILD = pa.array([2**62, -(2**62) + 1])


def simple(folder: Path, keys: str = "INT64", feature: str = "f", dtype: str = "Float64", **columns: Any) -> Any:
    """A repo on two rows with keys 1 and 2."""
    from feast import types

    path = part(folder / "t.parquet", **{"k": [1, 2], "f": [1.5, 2.5], **columns})
    return store_of(folder / "repo", *view_of(path, {"k": keys}, {feature: getattr(types, dtype)}))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return simple(tmp_path_factory.mktemp("plain"))


TWO = pd.DataFrame({"k": [1, 2]})
BOTH = [{"k": 1}, {"k": 2}]


@pytest.mark.parametrize("name", [LONG, "a\0b"])
def test_names_of_any_length_and_with_nul_are_names(tmp_path: Path, name: str) -> None:
    store = simple(tmp_path, feature=name, **{name: [7.0, 8.0]})
    assert offline(store, TWO, name) == [7.0, 8.0]
    materialize(store)
    assert online(store, BOTH, name) == [7.0, 8.0]


def test_columns_that_nobody_reads_may_hold_anything(tmp_path: Path) -> None:
    strange = {
        "a\0b": [1, 2], LONG: [1, 2], "text": NOT_UTF8, "us": WILD.view(pa.timestamp("us")),
        "ms": WILD.view(pa.timestamp("ms", "UTC")), "day": pa.array([2**31 - 1, -(2**31)], pa.int32()).view(pa.date32()),
    }  # fmt: skip
    store = simple(tmp_path, **strange)
    assert offline(store, TWO) == [1.5, 2.5]
    materialize(store)
    assert online(store, BOTH) == [1.5, 2.5]


def test_years_1_and_9999_are_ordinary_times(tmp_path: Path) -> None:
    store = simple(tmp_path, event_timestamp=pa.array([FIRST, LAST], pa.timestamp("us", "UTC")))
    forms: list[Any] = [
        [LAST, LAST],
        [LAST.isoformat(), LAST.isoformat()],
        pa.array([LAST, LAST], pa.timestamp("us", "UTC")).to_pandas(),
        pd.Series([LAST, LAST], dtype=pd.ArrowDtype(pa.timestamp("us", "UTC"))),
    ]
    for form in forms:
        assert offline(store, TWO.assign(event_timestamp=form)) == [1.5, 2.5]
    assert offline(store, TWO.assign(event_timestamp=[FIRST, LATER])) == [1.5, None]
    materialize(store, datetime.min, datetime.max)
    assert online(store, BOTH) == [1.5, 2.5]


def test_a_moment_that_no_date_has_is_refused_before_it_is_served(tmp_path: Path) -> None:
    store = simple(tmp_path, feature="w", dtype="UnixTimestamp", w=WILD.view(pa.timestamp("us", "UTC")))
    with pytest.raises(ContractError, match="source s: expected times in the years 1 to 9999 in w"):
        materialize(store)


@pytest.mark.parametrize(("keys", "feature"), [({"k": NOT_UTF8}, "f"), ({"g": NOT_UTF8, "k": ["1", "2"]}, "g")])
def test_texts_that_are_no_utf8_are_refused_with_file_and_column(tmp_path: Path, keys: Any, feature: str) -> None:
    store = simple(tmp_path, "STRING", feature, "String" if feature == "g" else "Float64", **keys)
    name = next(iter(keys))
    with pytest.raises(ContractError, match=rf"t\.parquet: expected UTF-8 text in {name}"):
        offline(store, pd.DataFrame({"k": ["1"]}), feature)
    with pytest.raises(ContractError, match=rf"t\.parquet: expected UTF-8 text in {name}"):
        materialize(store)


def test_a_key_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    store = simple(tmp_path, "STRING", k=["1", "2"])
    with pytest.raises(ContractError, match="entity_df: expected UTF-8 text in k"):
        offline(store, pd.DataFrame({"k": ["1", "\udcff"]}))


def test_hidden_files_are_no_parts_and_capitals_are(tmp_path: Path) -> None:
    from feast.types import Float64

    folder = tmp_path / "d"
    part(folder / "a.parquet", k=[1], f=[1.5])
    part(folder / "b.PARQUET", k=[2], f=[2.5])
    for name in ("._a.parquet", ".ipynb_checkpoints/x.parquet", "_temporary/0/x.parquet", "_metadata", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"junk")
    view, entities = view_of(folder, {"k": "INT64"}, {"f": Float64})
    store = store_of(tmp_path / "repo", view, entities)
    assert offline(store, TWO) == [1.5, 2.5]
    materialize(store)
    assert online(store, BOTH) == [1.5, 2.5]
    (folder / "z.parquet").write_bytes(b"junk")
    with pytest.raises(ContractError, match=r"s: .*z\.parquet cannot be read as Parquet .* Write it again"):
        offline(store, TWO)


def test_a_path_that_no_disk_has_is_missing(tmp_path: Path) -> None:
    from feast.types import Float64

    for path in (tmp_path / f"{LONG}.parquet", tmp_path / "a\0b.parquet", tmp_path / "none" / "*.parquet"):
        store = store_of(tmp_path / "repo", *view_of(path, {"k": "INT64"}, {"f": Float64}))
        with pytest.raises(ArtifactMissingError, match="expected Parquet files"):
            offline(store, TWO)


def test_a_folder_may_have_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    import resource

    from feast.types import Float64

    for number in range(60):
        part(tmp_path / f"d/{number:03}.parquet", k=[number], f=[number / 2])
    store = store_of(tmp_path / "repo", *view_of(tmp_path / "d", {"k": "INT64"}, {"f": Float64}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 40, hard))
    try:
        assert offline(store, pd.DataFrame({"k": [0, 59, 60]})) == [0.0, 29.5, None]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "texts and numbers": ({"x": [1, "a"]}, r'expected one type in x, got int, str.*frame\["x"\]\.astype\("string"\)'),
    "objects": ({"x": [object(), object()]}, "expected one type in x, got object"),
    "lists as keys": ({"k": [[1], [2]]}, "expected k as .*got list"),
    "times that are none": ({"event_timestamp": ["junk", LATER.isoformat()]}, "got 'junk'"),
    "times too far": (
        {"event_timestamp": np.array([2**60, 0]).astype("datetime64[s]")}, "in the range of microseconds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MIXED)
def test_entity_columns_without_a_type_are_refused_by_name(plain: Any, case: str) -> None:
    columns, told = MIXED[case]
    with pytest.raises(ContractError, match=f"entity_df: .*{told}"):
        offline(plain, TWO.assign(**columns))


def test_entity_columns_of_one_name_are_refused(plain: Any) -> None:
    with pytest.raises(ContractError, match="got k twice"):
        offline(plain, pd.concat([TWO, TWO], axis=1).assign(event_timestamp=LATER))


def test_keys_of_mixed_types_are_the_keys_that_they_are_online(tmp_path: Path) -> None:
    store = simple(tmp_path, "STRING", k=["1", "a"])
    materialize(store)
    keys = [1, "a", "01", None]
    assert offline(store, pd.DataFrame({"k": keys})) == [1.5, 2.5, None, None]
    assert online(store, [{"k": key} for key in keys[:3]]) == [1.5, 2.5, None]


def test_dates_without_entity_rows_are_answered_with_what_to_write(plain: Any) -> None:
    for dates in ({"start_date": AT}, {"end_date": LATER}, {"start_date": AT, "end_date": LATER}):
        with pytest.raises(
            ContractError, match="entity_df: expected a pandas DataFrame, got only the dates"
        ) as refused:
            plain.get_historical_features(features=["v:f"], **dates)
    advice = re.search(r"(pandas\.read_parquet\(.*\))$", str(refused.value))
    assert advice, refused.value
    rows = eval(advice[1], {"pandas": pd})
    assert offline(plain, rows) == [1.5, 2.5]


def test_a_memory_limit_names_table_and_setting(tmp_path: Path) -> None:
    from feast.types import String

    count = 120_000
    texts = [f"{number}{'x' * 100}" for number in range(count)]
    path = part(tmp_path / "t.parquet", k=np.arange(count), s=texts, event_timestamp=pa.array(["2024-01-01"] * count))
    store = store_of(tmp_path / "repo", *view_of(path, {"k": "INT64"}, {"s": String}), memory_limit="8MB", threads=1)
    told = r"needs more memory than offline_store\.memory_limit in feature_store\.yaml allows, which is 8MB"
    with pytest.raises(ContractError, match=f"view v: {told}"):
        offline(store, pd.DataFrame({"k": np.arange(count)}), "s")
    with pytest.raises(ContractError, match=f"source s: {told}"):
        materialize(store)
