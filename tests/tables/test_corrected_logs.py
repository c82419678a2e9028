"""An event is its key, not its content: what is exported again, corrected or withdrawn ends as in a fresh repo."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers.builders import DAY, START, fresh_repo, moments, write_tables
from sidkit.cli import build_app
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_log
from sidkit.tables.labelled_rows import build_labelled_rows

HOUR = DAY // 24
TABLES = ("item_stats", "user_history", "user_stats")


@dataclass(frozen=True)
class Row:
    user: str
    item: str
    at: int
    label: int = 0
    request: str | None = None
    position: int | None = None
    converted: int | None = None
    query: str | None = None
    rating: float | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        return self.user, self.item, self.at, self.request, self.position


ANCHORS = [Row("u9", "i0", START - 60 * DAY, 1, converted=0), Row("u9", "i1", START - 60 * DAY, 0, converted=1)]
"""Both labels and a conversion, long before everything else: no source is refused for lack of them."""


def write(folder: Path, rows: list[Row]) -> Path:
    items = [f"i{n}" for n in range(4)]
    columns = list(
        zip(
            *((r.user, r.item, r.label, r.request, r.position, r.converted, r.query, r.rating) for r in rows),
            strict=True,
        )
    )
    names = ("user_id", "item_id", "label", "request_id", "position", "converted", "query", "rating")
    types = (pa.string(), pa.string(), pa.int8(), pa.string(), pa.int32(), pa.int8(), pa.string(), pa.float32())
    table = {name: pa.array(column, kind) for name, column, kind in zip(names, columns, types, strict=True)}
    return write_tables(
        folder,
        {
            "interactions": pa.table({**table, "timestamp": moments([row.at for row in rows])}),
            "items": pa.table({"item_id": items, "created_at": moments([START - 90 * DAY] * 4)}),
            "item_embeddings": pa.table({"item_id": items, "text": [[0.5, 1.0]] * 4}),
        },
    )


def repo_of(path: Path, source: Path, **changes: str) -> Repo:
    return fresh_repo(
        path, source, conversions=True, toml={"max_reject_share = 0.01": "max_reject_share = 1.0", **changes}
    )


def tables_of(repo: Repo) -> dict[str, pa.Table]:
    build_labelled_rows(repo)
    found = {name: pq.read_table(repo.tables / f"{name}.parquet") for name in TABLES}
    return {**found, "rows": pq.read_table(repo.labelled_rows)}


def same_as_fresh(repo: Repo, fresh: Repo, as_of: int) -> None:
    ingest(fresh)
    build_tables(fresh, as_of, rebuild=True)
    expected, found = tables_of(fresh), tables_of(repo)
    for name, table in expected.items():
        assert found[name].equals(table), name


def clicks(repo: Repo) -> int:
    files = [str(part) for part in read_log(repo).parts]
    row = duckdb.execute("SELECT sum(label)::INT FROM read_parquet($files)", {"files": files}).fetchone()
    return int(row[0]) if row else 0


def test_clicks_that_are_exported_again_with_their_conversion_stay_single_events(tmp_path: Path) -> None:
    rows = [Row(f"u{n % 40}", f"i{n % 4}", START + n * HOUR // 7, int(n % 4 == 0), converted=0) for n in range(2500)]
    source = write(tmp_path / "source", rows)
    repo = repo_of(tmp_path / "repo", source)
    ingest(repo)
    as_of = START + 20 * DAY
    build_tables(repo, as_of)
    assert clicks(repo) == 625
    bought = [replace(row, converted=1) for row in rows if row.label][:100]
    write(source, [row for row in rows if row.key not in {one.key for one in bought}] + bought)
    report = ingest(repo)
    assert (report.new_rows, report.changed, report.vanished, report.removed, report.rows) == (0, 100, 0, 0, 2500)
    assert clicks(repo) == 625
    build_tables(repo, as_of)
    stats = tables_of(repo)["item_stats"]
    newest = {row["item_id"]: row for row in stats.sort_by("event_timestamp").to_pylist()}
    assert sum(row["clicks_all"] for row in newest.values()) == 625
    assert sum(row["conversions_all"] for row in newest.values()) == 100
    same_as_fresh(repo, repo_of(tmp_path / "fresh", source), as_of)


def test_within_one_source_the_rows_of_an_event_become_one(tmp_path: Path) -> None:
    at = START + HOUR
    shown = Row("u1", "i1", at, 0, "r", 3, None, "old words", 2.0)
    rows = [
        shown,
        replace(shown, label=1, query=None, rating=4.0),
        replace(shown, label=0, converted=1, query="new words", rating=None),
        shown,
        replace(shown, position=4),
        replace(shown, request=None),
    ]
    repo = repo_of(tmp_path / "repo", write(tmp_path / "source", [*ANCHORS, *rows]))
    report = ingest(repo)
    told = next(table for table in report.tables if table.table == "interactions")
    assert (told.rows, told.rejected, told.merged) == (8, 1, 2)
    assert told.reasons == {"an exact copy of another row": 1}
    held = [row for part in read_log(repo).parts for row in pq.read_table(part).to_pylist() if row["user_id"] == "u1"]
    wanted = {"label": 1, "converted": 1, "query": "new words", "rating": 4.0, "position": 3, "request_id": "r"}
    [one] = [row for row in held if row["request_id"] == "r" and row["position"] == 3]
    assert {name: one[name] for name in wanted} == wanted
    assert len(held) == 3


def test_rows_that_are_merged_are_no_rejects(tmp_path: Path) -> None:
    rows = [Row(f"u{n}", "i1", START + n, label) for n in range(20) for label in (0, 1)]
    repo = fresh_repo(tmp_path / "repo", write(tmp_path / "source", [*ANCHORS, *rows]), conversions=True)
    assert "max_reject_share = 0.01" in (repo.path / "sidkit.toml").read_text()
    assert ingest(repo).tables[2].merged == 20


def test_an_event_that_vanishes_is_reported_and_removed_when_asked(tmp_path: Path) -> None:
    rows = [*ANCHORS, *(Row(f"u{n % 3}", f"i{n % 4}", START + n * DAY, n % 2, converted=0) for n in range(12))]
    source = write(tmp_path / "source", rows)
    repo = repo_of(tmp_path / "repo", source)
    ingest(repo)
    as_of = START + 50 * DAY
    build_tables(repo, as_of)
    left = [row for row in rows if row.user != "u2"]
    write(source, left)
    run = CliRunner()
    told = run.invoke(build_app(), ["data", "ingest", "--repo", str(repo.path)]).output
    assert "4 rows of the log are no longer in the source" in told
    assert "`sidkit data ingest --remove-vanished` removes them" in told
    assert read_log(repo).rows == 14
    assert ingest(repo).unchanged
    assert ingest(repo).vanished == 4
    told = run.invoke(build_app(), ["data", "ingest", "--remove-vanished", "--repo", str(repo.path)]).output
    assert "0 new rows, 4 removed; the log has 10 rows" in told
    assert "no longer in the source" not in told
    build_tables(repo, as_of)
    assert "u2" not in tables_of(repo)["user_stats"]["user_id"].to_pylist()
    same_as_fresh(repo, repo_of(tmp_path / "fresh", source), as_of)
    again = ingest(repo, remove_vanished=True)
    assert (again.unchanged, again.removed) == (True, 0)


def online(repo: Repo, feature: str, key: str, values: list[str]) -> list[Any]:
    from sidkit.stores.feast_repo import open_store

    asked = [{key: value} for value in values]
    found = open_store(repo).get_online_features(features=[feature], entity_rows=asked).to_dict()
    return list(found[feature.split(":")[1]])


@pytest.mark.own_store("online", "other stores let an older row replace a newer one")
def test_what_a_correction_takes_away_leaves_the_online_store_too(tmp_path: Path) -> None:
    from sidkit.stores.feast_repo import apply_repo, materialize

    rows = [*ANCHORS, *(Row(f"u{n}", f"i{k}", START + k * HOUR, 1) for n in range(3) for k in range(3))]
    source = write(tmp_path / "source", rows)
    repo = repo_of(tmp_path / "repo", source)
    ingest(repo)
    as_of = START + 3 * DAY
    build_tables(repo, as_of)
    apply_repo(repo)
    materialize(repo, as_of)
    assert online(repo, "user_history:item_ids", "user_id", ["u0", "u1", "u2"]) == [["i2", "i1", "i0"]] * 3
    # u0's last click was none; u1 took all back.
    left = [replace(row, label=0) if (row.user, row.item) == ("u0", "i2") else row for row in rows if row.user != "u1"]
    write(source, left)
    ingest(repo, remove_vanished=True)
    build_tables(repo, as_of)
    assert online(repo, "user_history:item_ids", "user_id", ["u0"]) == [["i2", "i1", "i0"]]
    materialize(repo, as_of)
    assert online(repo, "user_history:item_ids", "user_id", ["u0", "u1", "u2"]) == [
        ["i1", "i0"], None, ["i2", "i1", "i0"],
    ]  # fmt: skip
    assert online(repo, "user_stats:exposures_all", "user_id", ["u0", "u1"]) == [3, None]
    assert not (repo.tables / "withdrawn.parquet").exists()
    materialize(repo, as_of)
    assert online(repo, "user_stats:exposures_all", "user_id", ["u0", "u1"]) == [3, None]


@pytest.mark.parametrize(
    "step", ["write_without_removed", "_append", "merge_snapshots", "write_log", "remove_unlisted"]
)
def test_an_ingest_killed_amid_a_correction_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    module = importlib.import_module("sidkit.tables.ingest")  # the package's `ingest` is the function
    rows = [*ANCHORS, *(Row(f"u{n % 3}", f"i{n % 4}", START + n * HOUR, n % 2) for n in range(8))]
    source = write(tmp_path / "source", rows)
    repo = repo_of(tmp_path / "repo", source)
    ingest(repo)
    corrected = [*rows[:-3], replace(rows[-3], label=1 - rows[-3].label), replace(rows[-1], rating=2.0)]
    write(source, corrected)

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, step, kill)
        with pytest.raises(KeyboardInterrupt):
            ingest(repo, remove_vanished=True)
    held = pa.concat_tables([pq.read_table(part) for part in read_log(repo).parts])
    assert held.num_rows == (9 if step == "remove_unlisted" else 10)
    ingest(repo, remove_vanished=True)
    held = pa.concat_tables([pq.read_table(part) for part in read_log(repo).parts])
    assert sorted(held["label"].to_pylist()) == sorted(row.label for row in corrected)
    manifest = read_log(repo).manifest
    listed = {entry["file"] for entry in [*manifest["parts"], *manifest["removed"]]}
    assert {file.name for file in (repo.log / "interactions").iterdir()} == listed
    [lost] = [pq.read_table(repo.log / "interactions" / entry["file"]).to_pylist() for entry in manifest["removed"]]
    assert sorted(row["cause"] for row in lost) == ["replaced", "replaced", "vanished"]


USERS, ITEMS = ("u1", "u2"), ("i1", "i2")
keys = st.builds(
    lambda user, item, hour, request: Row(user, item, START + hour * HOUR, request=request),
    st.sampled_from(USERS),
    st.sampled_from(ITEMS),
    # Shared edges: an event enters as another leaves the 1 or 7 days.
    st.sampled_from([0, 1, 24, 25, 168, 169, 192, 400]),
    st.sampled_from([None, "r1"]),
)
contents = st.fixed_dictionaries(
    {
        "label": st.integers(0, 1),
        "converted": st.sampled_from([None, 0, 1]),
        "rating": st.sampled_from([None, 1.0, 5.0]),
        "query": st.sampled_from([None, "words"]),
    }
)
events = st.builds(lambda key, content: replace(key, **content), keys, contents)
sources = st.lists(events, max_size=12)


def oracle(rows: list[Row], repo: Repo, as_of: int) -> dict[str, tuple[int, int, int]]:
    """Exposures, clicks and conversions of each item at the end, counted in Python."""
    by_key: dict[Any, list[Row]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    counts: dict[str, list[int]] = {}
    for (_, item, at, *_), same in by_key.items():
        if at + repo.settings.time.delay_us <= as_of:
            found = counts.setdefault(item, [0, 0, 0])
            found[0] += 1
            found[1] += max(row.label for row in same)
            found[2] += max(row.converted or 0 for row in same)
    return {item: tuple(values) for item, values in counts.items()}  # type: ignore[misc]


@settings(max_examples=6, deadline=None)
@given(steps=st.lists(st.tuples(sources, st.booleans(), st.integers(0, 300)), min_size=2, max_size=3), data=st.data())
def test_any_sequence_of_ingests_ends_as_a_fresh_repo(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[list[Row], bool, int]], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("law")
    repo = repo_of(folder / "repo", folder / "source")
    as_of, held = START, {row.key: row for row in ANCHORS}
    rows: list[Row] = []
    for fresh, build, hours in steps:
        # What came before is exported again in part, corrected or not; the rest vanishes or stays where it is.
        again = [row for row in held.values() if data.draw(st.booleans())]
        rows = [*ANCHORS, *again, *fresh]
        write(folder / "source", rows)
        ingest(repo, remove_vanished=True)
        held = {row.key: row for row in rows}
        as_of += hours * HOUR
        if build:
            build_tables(repo, as_of)
    build_tables(repo, as_of)
    same_as_fresh(repo, repo_of(folder / "fresh", folder / "source"), as_of)
    stats = tables_of(repo)["item_stats"].sort_by("event_timestamp").to_pylist()
    newest = {row["item_id"]: (row["exposures_all"], row["clicks_all"], row["conversions_all"]) for row in stats}
    cadence = repo.settings.time.cadence_us
    ended = (as_of - repo.settings.time.delay_us) // cadence * cadence + repo.settings.time.delay_us
    assert newest == oracle(rows, repo, ended)


@settings(max_examples=3, deadline=None)
@given(first=sources, second=sources)
def test_what_vanishes_stays_unless_it_is_removed(
    tmp_path_factory: pytest.TempPathFactory, first: list[Row], second: list[Row]
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    repo = repo_of(folder / "repo", write(folder / "source", [*ANCHORS, *first]))
    ingest(repo)
    before = {row.key for row in [*ANCHORS, *first]}
    now = {row.key for row in [*ANCHORS, *second]}
    write(folder / "source", [*ANCHORS, *second])
    report = ingest(repo)
    assert report.rows == len(before | now)
    assert (report.vanished, report.new_rows) == (len(before - now), len(now - before))
