"""The audit recomputes attributes from the log by other code than the tables', and names a value that leaked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.attribute_world import FEATURES, attribute_repo, attribute_source, attribute_tables, set_features
from helpers.builders import DAY, START, copy_of, moments, reseal, write_tables
from ranking.audit.attributes import AttributeReference
from ranking.audit.compare_cells import audit_rows
from ranking.audit.frames import AuditedRows, rows_of_file
from ranking.audit.reference import log_reference
from semantic_ids.codebook import Codebook
from semantic_ids.lifecycle import CodebookSpec, fit
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, open_store
from sidkit.tables import build_tables, ingest
from sidkit.tables.labelled_rows import build_labelled_rows

END = START + 41 * DAY


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("audit")
    made = attribute_repo(folder / "repo", attribute_source(folder / "source"))
    ingest(made)
    build_tables(made, END)
    build_labelled_rows(made)
    apply_repo(made)
    fit(made, "one", CodebookSpec(force=True, sizes=(4, 4)), START + 30 * DAY)
    return made


def frame_of(repo: Repo, path: Path, rows: int = 400) -> Path:
    """Attributes of labelled rows through the feature store, as `sidkit frame` writes them."""
    table = pq.read_table(repo.labelled_rows, columns=["user_id", "item_id", "event_timestamp"]).slice(1300, rows)
    features = open_store(repo).get_historical_features(
        table.to_pandas(),
        [f"item_attributes:{name}" for name in repo.settings.features.items] + ["user_attributes:country"],
        full_feature_names=True,
    )
    pq.write_table(features.to_arrow(), path)
    return path


def audited(repo: Repo, frame: Path) -> Any:
    rows: AuditedRows = rows_of_file(frame, 300, 0)
    with log_reference(repo, Codebook.load(repo.codebooks / "one")) as reference:
        return audit_rows(repo, rows, reference)


def test_a_sound_frame_agrees_in_every_attribute(repo: Repo, tmp_path: Path) -> None:
    result = audited(repo, frame_of(repo, tmp_path / "frame.parquet"))
    assert result.difference is None
    assert result.cells == 300 * 7
    assert result.not_audited == ()


def test_a_value_from_the_future_is_named(repo: Repo, tmp_path: Path) -> None:
    path = frame_of(repo, tmp_path / "frame.parquet")
    frame = pq.read_table(path)
    early = np.array(frame["event_timestamp"].cast(pa.timestamp("us")).cast(pa.int64())) < START + 20 * DAY
    countries = {
        row["user_id"]: row["country"] for row in attribute_tables()["users"].to_pylist()
    }  # the last version of each user
    leaked = [
        countries[user] if is_early else value
        for user, value, is_early in zip(
            frame["user_id"].to_pylist(), frame["user_attributes__country"].to_pylist(), early, strict=True
        )
    ]
    place = frame.column_names.index("user_attributes__country")
    pq.write_table(frame.set_column(place, "user_attributes__country", pa.array(leaked)), path)
    difference = audited(repo, path).difference
    assert difference.feature == "user_attributes__country"
    assert difference.found_known_from > difference.at
    assert "AFTER the row" in difference.as_text()


def test_a_table_that_was_changed_by_hand_is_noticed(repo: Repo, tmp_path: Path) -> None:
    own = copy_of(repo, tmp_path / "copy")
    path = own.tables / "item_attributes.parquet"
    table = pq.read_table(path)
    weight = pa.array([9.5] * len(table), pa.float64())
    pq.write_table(table.set_column(table.column_names.index("weight"), "weight", weight), path)
    reseal(path)
    difference = audited(own, frame_of(own, tmp_path / "frame.parquet")).difference
    assert (difference.feature, difference.found) == ("item_attributes__weight", 9.5)
    assert difference.found_known_from is None


def test_values_before_a_correction_in_place_are_skipped(repo: Repo, tmp_path: Path) -> None:
    own = copy_of(repo, tmp_path / "copy")
    frame = frame_of(own, tmp_path / "frame.parquet")
    tables = attribute_tables()
    weight = pa.array([1.25] * len(tables["items"]), pa.float64())
    place = tables["items"].column_names.index("weight")
    write_tables(tmp_path / "source", {**tables, "items": tables["items"].set_column(place, "weight", weight)})
    settings = own.path / "sidkit.toml"
    settings.write_text(settings.read_text().replace(own.settings.source.url, str(tmp_path / "source")))
    own.__dict__.pop("settings")
    ingest(own)
    build_tables(own, END + DAY)
    result = audited(own, frame)
    assert result.difference is None
    assert result.not_recomputable == 300 * 6  # the attributes of items; those of users are compared
    assert result.cells == 300


ODD: dict[str, tuple[str, Any]] = {
    "brand_id": ("category", pa.array([3.0, None, float("nan"), 12.5])),
    "member": ("category", pa.array([True, False, None, True])),
    "day": ("category", pa.array([1, 2, 3, None], pa.int32()).cast(pa.date32())),
    "sold": ("category", moments([START, None, START + 1_000_000, START])),
    "tags": ("categories", pa.array(["a, b", "b", " ,", '["x", "y z"]'])),
    "parts": ("categories", pa.array([[1, 2], [], None, [3]])),
    "size": ("number", pa.array(["1e3", " 2.5 ", "big", "inf"])),
    "new": ("flag", pa.array(["Yes", "n", "maybe", ""])),
    "one": ("flag", pa.array([1, 0, 2, None])),
    "since": ("date", pa.array(["2020-01-01", "2020-01-01T00:00:00.000001+02:00", "soon", None])),
    "at": ("date", moments([START + 1, None, START, START])),
    "wild": ("date", pa.array([2**61, -(2**61), 7, None], pa.int64()).cast(pa.timestamp("us", tz="UTC"))),
    "naive": ("date", pa.array([START + 5] * 4).cast(pa.timestamp("us"))),
    "place": ("vector", pa.array(["[0.1, 2]", "[1]", "x", "[3, 4.5]"])),
    "point": ("vector", pa.array([[0.1, None], [0.3, 2.0], [1.0, 7.0], [float("nan"), 1.0]])),
}


def test_both_ways_of_reading_odd_values_agree(repo: Repo, tmp_path: Path) -> None:
    tables = attribute_tables(events=200)
    items = tables["items"].slice(0, 60).select(["item_id", "created_at"])
    for name, (_, values) in ODD.items():
        items = items.append_column(name, pa.concat_arrays([values] * 15))
    source = write_tables(tmp_path / "source", {**tables, "items": items})
    other = attribute_repo(tmp_path / "repo", source)
    lines = "\n".join(f'{name} = "{kind}"' for name, (kind, _) in ODD.items())
    set_features(other, f"[features]\n[features.items]\n{lines}\n")
    ingest(other)
    build_tables(other, END)
    table = pq.read_table(other.tables / "item_attributes.parquet").sort_by("item_id")
    ids = np.array(table["item_id"].to_pylist(), dtype=object)
    cells = AttributeReference(other).cells(["u0"] * 60, ids, np.full(60, END))
    for name in ODD:
        expected = [cell[f"item_attributes__{name}"] for cell in cells]
        assert table[name].to_pylist() == expected, name
        assert any(value is not None for value in expected)


def test_tables_of_another_section_are_a_problem(repo: Repo, tmp_path: Path) -> None:
    from ranking.audit.artifacts import audit_artifacts

    own = copy_of(repo, tmp_path / "copy")
    set_features(own, FEATURES.replace('weight = "number"\n', ""))
    problems = [problem.problem for problem in audit_artifacts(own).problems]
    assert "built with another [features]; run `sidkit tables build`" in problems
    build_tables(own, END)  # the remedy
    assert not [problem for problem in audit_artifacts(own).problems if problem.artifact == "data/tables"]


def test_values_of_lists_are_trimmed_of_spaces_of_every_width() -> None:
    from ranking.audit.attributes import _categories

    read = duckdb.sql("SELECT trim(chr(160) || 'a b' || chr(8195) || chr(12288))").fetchone()
    assert _categories(["\xa0a b\u2003\u3000", " ", None], {}) == [read[0]] == ["a b"]
