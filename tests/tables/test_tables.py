"""The feature tables: built at once or in increments, they hold the same; nothing lies beyond as_of."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, MOMENT, START, complete, fresh_repo, set_world, write_world_source
from oracle.features import EmbeddingVersion, Event, ItemVersion, Settings
from oracle.logs import World, random_world
from sidkit.core.errors import ArtifactMissingError, SettingsChangedError, TimeError
from sidkit.core.repo import Repo
from sidkit.tables import build_tables, ingest, read_build
from sidkit.tables.builder import TABLES

MINUTE = 60_000_000
PLAIN = Settings(delay=MINUTE, cadence=MINUTE, history_length=3, positives_only=False, has_conversions=True)


def tables_of(repo: Repo) -> dict[str, pa.Table]:
    return {name: pq.read_table(repo.tables / f"{name}.parquet") for name in TABLES}


def small_world(events: list[Event], **changes: object) -> World:
    items = [ItemVersion(name, START - DAY, None, None, "c", 1.0) for name in ("i1", "i2", "i3")]
    embeddings = [EmbeddingVersion(name, None, {"text": (1.0, 2.0, 3.0), "image": None}) for name in ("i1", "i2")]
    world = World(PLAIN, events, items, embeddings, ("text", "image"), [])
    return complete(replace(world, **changes))  # type: ignore[arg-type]


@pytest.fixture
def repo_path(tmp_path: Path) -> Path:
    return fresh_repo(tmp_path / "repo", tmp_path / "source").path


def built(repo_path: Path, world: World, as_of: int) -> Repo:
    repo = set_world(repo_path, repo_path.parent / "source", world)
    ingest(repo)
    build_tables(repo, as_of)
    return repo


@given(seed=st.integers(0, 10**6), cuts=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)), late=st.floats(0, 0.5))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_three_increments_with_late_events_equal_one_build(
    repo_path: Path, seed: int, cuts: tuple[float, float], late: float
) -> None:
    rng = random.Random(seed)
    world = complete(random_world(rng, n_users=4, n_items=4, n_events=60, n_queries=0))
    # Items arrive whole, in any order; events arrive in order of time but for a share that comes later.
    drawn = [event.timestamp for event in world.events if event.user_id != "u90"]
    first, last = min(drawn), max(drawn)
    ends = sorted(int(first + cut * (last - first)) for cut in cuts)
    part_of = {
        event: min(2, sum(event.timestamp > end for end in ends) + (rng.random() < late) * rng.randint(0, 2))
        for event in world.events
    }
    first_part = {item.item_id: rng.choice([0, 0, 1, 2]) for item in world.items} | {"i90": 0}
    as_of = [*ends, last + 45 * DAY]

    for part in range(3):
        so_far = replace(
            world,
            events=[event for event in world.events if part_of[event] <= part or event.user_id == "u90"],
            items=[item for item in world.items if first_part[item.item_id] <= part],
            embeddings=[row for row in world.embeddings if first_part.get(row.item_id, 0) <= part],
        )
        if part == 0:
            repo = set_world(repo_path, repo_path.parent / "source", so_far)
        else:
            write_world_source(repo_path.parent / "source", so_far)
        ingest(repo)
        build_tables(repo, as_of[part])
    in_increments = tables_of(repo)

    build_tables(repo, as_of[-1], rebuild=True)
    for name, table in tables_of(repo).items():
        assert in_increments[name].equals(table), name


def test_no_row_lies_beyond_as_of(repo_path: Path) -> None:
    events = [Event("u1", "i1", START + hour * 3600_000_000, hour % 2, 0) for hour in range(50)]
    as_of = START + 30 * 3600_000_000
    for table in tables_of(built(repo_path, small_world(events), as_of)).values():
        assert pc.max(table["event_timestamp"]).cast(pa.int64()).as_py() <= as_of
        assert table["event_timestamp"].equals(table["created_timestamp"])
        assert table.schema.field("event_timestamp").type == MOMENT


def test_counts_decay_though_nothing_arrives(repo_path: Path) -> None:
    repo = built(repo_path, small_world([Event("u1", "i1", START, 1, 1)]), START + DAY // 2)
    build_tables(repo, START + 40 * DAY)
    rows = tables_of(repo)["item_stats"].filter(pc.field("item_id") == "i1").sort_by("event_timestamp").to_pylist()
    assert [(row["clicks_1d"], row["clicks_7d"], row["clicks_30d"], row["clicks_all"]) for row in rows] == [
        (1, 1, 1, 1),
        (0, 1, 1, 1),
        (0, 0, 1, 1),
        (0, 0, 0, 1),
    ]
    days = [(row["event_timestamp"].timestamp() * 1e6 - MINUTE - START) / DAY for row in rows]
    assert days == [0, 1, 7, 30]


def test_a_build_of_the_same_moment_touches_no_file(repo_path: Path) -> None:
    repo = built(repo_path, small_world([Event("u1", "i1", START, 1, 1)]), START + DAY)
    before = {path: path.stat() for path in repo.tables.iterdir()}
    assert build_tables(repo, START + DAY).unchanged
    for path, stat in before.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns), path


def test_one_row_per_key_and_moment(repo_path: Path) -> None:
    tied = [Event("u1", item, START + 5, 1, 0) for item in ("i1", "i2", "i3")] + [Event("u1", "i1", START + 5, 0, 0)]
    tables = tables_of(built(repo_path, small_world(tied), START + DAY))
    for name, table in tables.items():
        key = "user_id" if name.startswith("user") else "item_id"
        keys = table.select([key, "event_timestamp"]).to_pylist()
        assert len({tuple(row.values()) for row in keys}) == len(keys), name
    history = tables["user_history"].filter(pc.field("user_id") == "u1").to_pylist()
    assert history[0]["item_ids"] == ["i1", "i2", "i3"]


def test_content_changed_in_place_is_readable_from_the_build_that_saw_it(repo_path: Path) -> None:
    world = small_world([Event("u1", "i1", START, 1, 1)])
    repo = built(repo_path, world, START + DAY)
    changed = replace(
        world,
        items=[replace(item, price=9.0) if item.item_id == "i1" else item for item in world.items],
    )
    write_world_source(repo_path.parent / "source", changed)
    ingest(repo)
    build_tables(repo, START + 2 * DAY)
    build_tables(repo, START + 3 * DAY)
    rows = tables_of(repo)["item_content"].filter(pc.field("item_id") == "i1").sort_by("event_timestamp").to_pylist()
    readable = [(int(row["event_timestamp"].timestamp() * 1e6), row["price"]) for row in rows]
    assert readable == [(START - DAY + MINUTE, 1.0), (START + 2 * DAY, 9.0)]


def test_going_back_in_time_is_refused(repo_path: Path) -> None:
    repo = built(repo_path, small_world([Event("u1", "i1", START, 1, 1)]), START + DAY)
    with pytest.raises(TimeError, match=r"expected --as-of no earlier than the tables.*--rebuild"):
        build_tables(repo, START)
    build_tables(repo, START, rebuild=True)
    assert read_build(repo)["as_of_us"] == START


def test_other_feature_settings_are_refused_until_a_rebuild(repo_path: Path) -> None:
    repo = built(repo_path, small_world([Event("u1", "i1", START, 1, 1)]), START + DAY)
    settings_file = repo.path / "sidkit.toml"
    settings_file.write_text(settings_file.read_text().replace("history_length = 3", "history_length = 4"))
    changed = Repo.open(repo.path)
    with pytest.raises(SettingsChangedError, match=r"history_length: made with 3, now 4.*--rebuild"):
        build_tables(changed, START + 2 * DAY)
    build_tables(changed, START + 2 * DAY, rebuild=True)


def test_a_missing_table_is_named(repo_path: Path) -> None:
    repo = built(repo_path, small_world([Event("u1", "i1", START, 1, 1)]), START + DAY)
    (repo.tables / "user_stats.parquet").unlink()
    with pytest.raises(ArtifactMissingError, match=r"user_stats.parquet is missing.*--rebuild"):
        build_tables(repo, START + 2 * DAY)


def test_tables_before_a_log_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="sidkit data ingest"):
        build_tables(fresh_repo(tmp_path / "repo", tmp_path), START)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_whole_build_that_lacks_memory_computes_in_parts_or_before_it_sorts(
    repo_path: Path, monkeypatch: pytest.MonkeyPatch, rebuilt: bool
) -> None:
    from sidkit.tables import table_files

    world = small_world([Event(f"u{k % 3}", f"i{k % 3 + 1}", START + k * 7_000_000_000, k % 2, 0) for k in range(30)])
    expected = tables_of(built(repo_path, world, START + 2 * DAY))
    original, relations = table_files._copy, []

    def lacks_memory(opened, name, path, relation, vectors):  # type: ignore[no-untyped-def]
        relations.append(relation.partition("(")[0] or "computed")
        if relations[-1] == "computed":
            raise duckdb.OutOfMemoryException("Out of Memory Error")
        original(opened, name, path, relation, vectors)

    again = repo_path.parent / "again"
    other = fresh_repo(again / "repo", again / "source")
    if rebuilt:
        built(other.path, world, START + 2 * DAY)
    monkeypatch.setattr(table_files, "_copy", lacks_memory)
    if rebuilt:
        build_tables(other, START + 2 * DAY, rebuild=True)
        tables = tables_of(other)
    else:
        tables = tables_of(built(other.path, world, START + 2 * DAY))
    assert relations.count("written") == 1, "content, whose rows are not computed from events"
    assert relations.count("read_parquet") == len(tables) - 1, "the others, in parts"
    for name, table in tables.items():
        assert table.equals(expected[name]), name


def test_the_parts_of_a_build_follow_the_events_and_the_memory_limit() -> None:
    from sidkit.tables.table_files import parts_of

    assert parts_of(10_000_000, "1500MB") == 1
    assert parts_of(100_000_000, "1500MB") == 10
    assert parts_of(100_000_000, "3GB") == 5
    assert parts_of(0, "300MB") == 1


def test_a_build_killed_between_two_tables_is_finished_by_the_next(
    repo_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidkit.tables import builder

    events = [Event(f"u{k % 3}", f"i{k % 3 + 1}", START + k * 7_000_000_000, k % 2, 0) for k in range(60)]
    half = replace(small_world(events), events=small_world(events[:30]).events)
    repo = built(repo_path, half, START + 2 * DAY)
    write_world_source(repo_path.parent / "source", small_world(events))
    ingest(repo)
    original = builder.write_table

    def dies_at_the_third(opened, name, *rest):  # type: ignore[no-untyped-def]
        if name == "user_history":
            raise KeyboardInterrupt
        return original(opened, name, *rest)

    monkeypatch.setattr(builder, "write_table", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        build_tables(repo, START + 40 * DAY)
    monkeypatch.undo()
    build_tables(repo, START + 40 * DAY)
    resumed = tables_of(repo)
    build_tables(repo, START + 40 * DAY, rebuild=True)
    for name, table in tables_of(repo).items():
        assert resumed[name].equals(table), name
