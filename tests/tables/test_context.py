"""Context columns from the source through the log to the labelled rows; columns may be added or removed later."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from helpers.attribute_world import FEATURES, attribute_repo, attribute_source, attribute_tables, set_features
from helpers.builders import DAY, START, fresh_repo, moments, write_tables
from helpers.contract_builders import changed, good
from sidkit.core.config import Settings
from sidkit.core.errors import TableSchemaError
from sidkit.core.feature_settings import FeatureSettings
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_log
from sidkit.tables.labelled_rows import RowSample, SampledWindow, build_labelled_rows

END = START + 41 * DAY
KINDS: dict[str, tuple[str, Any, list[Any]]] = {
    "device": ("category", ["phone", "web", None] * 4, ["phone", "web", None]),
    "slot": ("category", [1, 2, 3] * 4, ["1", "2", "3"]),
    "hour": ("number", ["7", "8.5", "noon"] * 4, [7.0, 8.5, None]),
    "logged_in": ("flag", [1, 0, 2] * 4, [True, False, None]),
    "opened": ("date", ["2020-01-01", "2020-01-02T03:00:00Z", "?"] * 4, [START, START + DAY + 3 * DAY // 24, None]),
    "tags": ("categories", ["a|b", "b", ""] * 4, [["a", "b"], ["b"], None]),
    "place": ("vector", [[0.5, 1.0], [2.0, 3.0], [1.0]] * 4, [[0.5, 1.0], [2.0, 3.0], None]),
    "nothing": ("number", pa.nulls(12), [None] * 3),
}


def section(context: dict[str, str]) -> str:
    lines = "\n".join(f'{name} = "{kind}"' for name, kind in context.items())
    return f"[features]\n[features.context]\n{lines}\n"


def values_of(table: pa.Table, name: str) -> list[Any]:
    column = table[name]
    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, list[Any]]:
    folder = tmp_path_factory.mktemp("kinds")
    source = write_tables(folder / "source", changed("interactions", **{name: KINDS[name][1] for name in KINDS}))
    repo = fresh_repo(folder / "repo", source)
    set_features(repo, section({name: kind for name, (kind, *_) in KINDS.items()}))
    return repo, list(ingest(repo).tables)


@pytest.mark.parametrize("name", KINDS)
def test_values_have_the_type_of_their_kind_in_log_and_rows(kinds: tuple[Repo, list[Any]], name: str) -> None:
    repo, _ = kinds
    build_labelled_rows(repo)
    for table in (pq.read_table(read_log(repo).parts[0]), pq.read_table(repo.labelled_rows)):
        assert values_of(table, name) == KINDS[name][2] * 4


def test_values_of_another_kind_are_counted_in_the_report(kinds: tuple[Repo, list[Any]]) -> None:
    _, reports = kinds
    facts = {report.table: report.facts for report in reports}["interactions"]
    counted = {name: facts[name] for name in facts if "not a" in name}
    assert counted == {
        f"{name} not a {KINDS[name][0]}": "4 values are null" for name in ("hour", "logged_in", "opened", "place")
    }


def test_the_last_known_value_of_an_event_counts(tmp_path: Path) -> None:
    rows = good()["interactions"]
    rows = rows.append_column("device", pa.array(["phone"] * len(rows)))
    again = rows.slice(0, 2).set_column(rows.num_columns - 1, "device", pa.array(["web", None], pa.string()))
    source = write_tables(tmp_path / "source", {**good(), "interactions": pa.concat_tables([rows, again])})
    repo = fresh_repo(tmp_path / "repo", source)
    set_features(repo, section({"device": "category"}))
    ingest(repo)
    assert pq.read_table(read_log(repo).parts[0])["device"].to_pylist() == ["web"] + ["phone"] * 11


@pytest.fixture
def without(tmp_path: Path) -> Repo:
    """A repo whose log was ingested, in two parts, before its context column was named."""
    tables = attribute_tables(events=400)
    source = write_tables(tmp_path / "source", {**tables, "interactions": tables["interactions"].slice(0, 300)})
    repo = attribute_repo(tmp_path / "repo", source, FEATURES.partition("[features.context]")[0])
    ingest(repo)
    write_tables(source, {"interactions": tables["interactions"]})
    ingest(repo)
    build_tables(repo, END)
    return repo


def test_a_column_added_later_is_read_from_the_unchanged_source(without: Repo) -> None:
    repo, tables = without, {path.name: path.read_bytes() for path in without.tables.glob("*.parquet")}
    assert ingest(repo).unchanged
    set_features(repo, FEATURES)
    report = ingest(repo)
    assert report.read_again == "features.context: added device; the log was read again from the source"
    assert (report.new_rows, report.changed, report.removed, report.rows) == (0, 0, 0, 400)
    log = read_log(repo)
    read = pa.concat_tables(pq.read_table(part) for part in log.parts).sort_by([("timestamp", "ascending")])
    assert len(log.parts) == 2
    assert read["device"].to_pylist() == attribute_tables(events=400)["interactions"]["device"].to_pylist()
    build_tables(repo, END)
    assert {path.name: path.read_bytes() for path in repo.tables.glob("*.parquet")} == tables
    assert ingest(repo).unchanged
    set_features(repo, FEATURES.partition("[features.context]")[0])
    assert "removed device" in ingest(repo).read_again
    assert "device" not in pq.read_schema(read_log(repo).parts[0]).names


def test_later_events_and_corrections_of_context_arrive(without: Repo) -> None:
    repo = without
    set_features(repo, FEATURES)
    ingest(repo)
    tables = attribute_tables(events=400)
    interactions = tables["interactions"]
    device = interactions["device"].to_pylist()
    device[3] = "watch"
    more = interactions.set_column(interactions.column_names.index("device"), "device", pa.array(device))
    late = more.slice(0, 1).set_column(2, "timestamp", moments([START + 40 * DAY]))
    write_tables(Path(repo.settings.source.url), {"interactions": pa.concat_tables([more, late])})
    report = ingest(repo)
    assert (report.new_rows, report.changed, report.read_again) == (1, 1, "")
    read = pa.concat_tables(pq.read_table(part) for part in read_log(repo).parts)
    assert pc.sum(pc.equal(read["device"], "watch")).as_py() == 1
    build_tables(repo, END)  # reads parts, and removed rows without the column, together
    build_labelled_rows(repo)


def test_an_event_that_left_the_source_keeps_its_context(without: Repo) -> None:
    repo = without
    set_features(repo, FEATURES)
    ingest(repo)
    tables = attribute_tables(events=400)["interactions"].slice(100)
    tables = tables.append_column("page", pa.array(["home", "search"] * 150))
    write_tables(Path(repo.settings.source.url), {"interactions": tables})
    set_features(repo, FEATURES + 'page = "category"\n')
    assert ingest(repo).vanished == 100
    read = pa.concat_tables(pq.read_table(part) for part in read_log(repo).parts)
    assert read["device"].null_count == 0
    assert read["page"].null_count == 100


def test_sampled_negatives_have_the_context_of_their_positive(tmp_path: Path) -> None:
    tables = attribute_tables(events=600)
    clicks = tables["interactions"].filter(pc.equal(tables["interactions"]["label"], 1))
    clicks = clicks.append_column("tags", pa.array([["a", "b"], ["c"], None] * len(clicks))[: len(clicks)])
    source = write_tables(tmp_path / "source", {**tables, "interactions": clicks})
    repo = fresh_repo(tmp_path / "repo", source, feedback="positives_only")
    set_features(repo, section({"device": "category", "tags": "categories"}))
    ingest(repo)
    report = build_labelled_rows(repo)
    assert report.sampled == 4 * len(clicks)
    rows = pq.read_table(repo.labelled_rows).to_pandas()
    rows["tags"] = rows["tags"].map(str)
    for name in ("device", "tags"):
        of_request = rows[rows["label"] == 1].groupby(["request_id", "event_timestamp"])[name].agg(set)
        sampled = rows[rows["sampled"]].join(of_request, on=["request_id", "event_timestamp"], rsuffix="_positive")
        assert all(value in known for value, known in zip(sampled[name], sampled[f"{name}_positive"], strict=True))
    part = build_labelled_rows(repo, RowSample(tmp_path / "some.parquet", (SampledWindow(START, END, 500),)))
    assert "device" in pq.read_schema(part.path).names


def test_a_query_is_a_context_column_that_the_log_has_anyway(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", changed("interactions", query=["red", "blue", ""] * 4))
    repo = fresh_repo(tmp_path / "repo", source)
    ingest(repo)
    set_features(repo, section({"query": "category"}))
    assert ingest(repo).unchanged
    build_labelled_rows(repo)
    assert pq.read_table(repo.labelled_rows)["query"].to_pylist() == ["red", "blue", None] * 4


def test_a_missing_column_and_one_of_another_type_are_refused(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", changed("interactions", place=[[1.0]] * 12))
    repo = fresh_repo(tmp_path / "repo", source)
    for context, words in (
        ({"device": "category"}, r"context column 'device' of \[features.context\].* remove its line"),
        ({"place": "number"}, r"kind 'number' in the context column 'place', got DOUBLE\[\]; choose another kind"),
    ):
        set_features(repo, section(context))
        with pytest.raises(TableSchemaError, match=words):
            ingest(repo)
    set_features(repo, section({"place": "vector"}))  # the remedy
    ingest(repo)


@pytest.mark.parametrize("name", ["sampled", "had_before", "cause", "converted", "position", "user_id"])
def test_names_with_a_meaning_of_their_own_are_no_context(name: str) -> None:
    with pytest.raises(ValidationError):
        FeatureSettings(context={name: "number"})
    assert Settings().features_hash() == ""


def test_the_world_s_context_reaches_the_rows(tmp_path: Path) -> None:
    repo = attribute_repo(tmp_path / "repo", attribute_source(tmp_path / "source"))
    ingest(repo)
    build_labelled_rows(repo)
    rows = pq.read_table(repo.labelled_rows)
    assert rows.schema.field("device").type == pa.string()
    assert "dwell_time" not in rows.column_names


@pytest.mark.parametrize("step", ["compare", "merge_snapshots", "write_log", "remove_unlisted"])
def test_an_ingest_killed_while_it_adds_a_column_is_finished_by_the_next(
    without: Repo, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    repo = without
    before = [path.name for path in read_log(repo).parts]
    set_features(repo, FEATURES)

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importlib.import_module("sidkit.tables.ingest"), step, kill)
        with pytest.raises(KeyboardInterrupt):
            ingest(repo)
    assert ([path.name for path in read_log(repo).parts] == before) == (step != "remove_unlisted")
    ingest(repo)
    log = read_log(repo)
    assert {path.name for path in (repo.log / "interactions").iterdir()} == {path.name for path in log.parts}
    assert pa.concat_tables(pq.read_table(part) for part in log.parts)["device"].null_count == 0
