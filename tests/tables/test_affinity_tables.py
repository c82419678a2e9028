"""``user_<attribute>_stats``: counts by hand, increments, and what a change of ``[features]`` or of an item rebuilds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.attribute_world import attribute_repo, set_features
from helpers.builders import DAY, START, moments, write_tables
from helpers.habit_world import FEATURES
from sidkit.core.feature_settings import COUNTS
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.tables import build_tables, ingest

HOUR, DELAY = 3_600_000_000, 60_000_000
WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY, "all": 10_000 * DAY}
END = START + 60 * DAY

Event = tuple[str, str, int, int]  # user, item, time, label
Version = tuple[str, int, str | None, list[str | None] | None]  # item, version time, category, genres


def write_world(folder: Path, events: Sequence[Event], versions: Sequence[Version]) -> Path:
    users, items, times, labels = zip(*events, strict=True)
    names, since, categories, genres = zip(*versions, strict=True)
    born = {name: min(at for other, at, *_ in versions if other == name) for name in names}
    return write_tables(
        folder,
        {
            "interactions": pa.table(
                {"user_id": users, "item_id": items, "timestamp": moments(times), "label": pa.array(labels, pa.int8())}
            ),
            "items": pa.table(
                {
                    "item_id": names,
                    "created_at": moments([born[name] for name in names]),
                    "updated_at": moments(since),
                    "title": list(names),
                    "category": pa.array(categories, pa.string()),
                    "genres": pa.array(genres, pa.list_(pa.string())),
                }
            ),
            "item_embeddings": pa.table({"item_id": sorted(born), "text": [[1.0, 0.0]] * len(born)}),
        },
    )


def by_hand(events: Sequence[Event], versions: Sequence[Version], attribute: str) -> list[dict[str, object]]:
    """All rows of the table, counted event by event."""
    place = {"item_id": 0, "category": 2, "genres": 3}[attribute]
    happened: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for user, item, at, label in events:
        readable = [each for each in versions if each[0] == item and each[1] + DELAY <= at]
        known = max(readable, key=lambda each: each[1])[place] if readable else None
        values = {item} if attribute == "item_id" else {known} if place == 2 else set(known or ())
        for value in values - {None}:
            happened.setdefault((user, value), []).append((at, label))
    rows = []
    for (user, value), past in happened.items():
        ends = {-(-(at + length) // DELAY) * DELAY for at, _ in past for length in (0, DAY, 7 * DAY, 30 * DAY)}
        for end in sorted(end for end in ends if end + DELAY <= END):
            row: dict[str, object] = {"user_id": user, attribute: value, "event_timestamp": end + DELAY}
            for window, length in WINDOWS.items():
                labels = [label for at, label in past if end - length < at <= end]
                row |= {f"exposures_{window}": len(labels), f"clicks_{window}": sum(labels)}
            rows.append(row)
    return rows


def rows_of(repo: Repo, attribute: str) -> list[dict[str, object]]:
    rows = pq.read_table(repo.tables / f"user_{attribute}_stats.parquet").to_pylist()
    return [
        {**row, "event_timestamp": round(row["event_timestamp"].timestamp() * 1e6)}
        for row in rows
        if row.pop("created_timestamp") == row["event_timestamp"]
    ]


def same(left: list[dict[str, object]], right: list[dict[str, object]]) -> bool:
    return sorted(map(repr, (sorted(row.items()) for row in left))) == sorted(
        map(repr, (sorted(row.items()) for row in right))
    )


def random_world(seed: int) -> tuple[list[Event], list[Version]]:
    rng = random.Random(seed)
    users, items = ("u1", "u|2", 'u"3'), ("i1", "i2", "i3", "i4")
    events = {(rng.choice(users), rng.choice(items), START + rng.randrange(40 * 24) * HOUR): 0 for _ in range(60)}
    values: list[str | None] = ["a", "b", None]
    versions: list[Version] = []
    for item in items:
        for at in (START + rng.randrange(5) * DAY, START + rng.randrange(10, 30) * DAY):
            versions.append((item, at, rng.choice(values), [rng.choice(values[:2]) for _ in range(rng.randrange(4))]))
    return [(*event, rng.randrange(2)) for event in events], versions


def built(tmp_path: Path, events: Sequence[Event], versions: Sequence[Version], as_of: int = END) -> Repo:
    source = write_world(tmp_path / "source", events, versions)
    repo = attribute_repo(tmp_path / "repo", source, FEATURES)
    ingest(repo)
    build_tables(repo, as_of)
    return repo


@pytest.mark.parametrize("seed", [0, 1])
def test_increments_with_late_events_are_the_counts_by_hand(tmp_path: Path, seed: int) -> None:
    events, versions = random_world(seed)
    rng = random.Random(seed)
    cut = START + 20 * DAY
    first = [event for event in events if event[2] <= cut and rng.random() < 0.8]
    repo = built(tmp_path, first, [each for each in versions if each[1] <= cut], cut + DAY)
    write_world(tmp_path / "source", events, versions)
    ingest(repo)
    assert build_tables(repo, cut + 2 * DAY).notes == ()
    report = build_tables(repo, END)
    assert report.notes == () and 0 < report.new_rows["user_genres_stats"] < report.rows["user_genres_stats"]
    for attribute in ("category", "genres"):
        assert same(rows_of(repo, attribute), by_hand(events, versions, attribute)), attribute
    before = {name: (repo.tables / f"user_{name}_stats.parquet").read_bytes() for name in ("category", "genres")}
    build_tables(repo, END, rebuild=True)
    assert {name: (repo.tables / f"user_{name}_stats.parquet").read_bytes() for name in before} == before


@pytest.mark.parametrize("parts", [2, 7])
def test_tables_computed_in_parts_are_those_computed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    events, versions = random_world(3)
    at_once = built(tmp_path / "at once", events, versions)
    monkeypatch.setattr("sidkit.tables.builder.parts_of", lambda *_: parts)
    in_parts = built(tmp_path / "in parts", events, versions)
    names = sorted(path.name for path in at_once.tables.glob("*.parquet"))
    assert {"user_stats.parquet", "user_history.parquet", "user_genres_stats.parquet"} <= set(names)
    for name in names:
        assert pq.read_table(in_parts.tables / name).equals(pq.read_table(at_once.tables / name)), name
    assert not list((in_parts.data / "tmp").glob("parts-*"))


def test_a_version_of_an_earlier_time_recounts_all_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [("u1", "i1", START + day * DAY, day % 2) for day in range(5)]
    versions: list[Version] = [("i1", START - DAY, "a", ["x"])]
    repo = built(tmp_path, events, versions, START + 6 * DAY)
    versions.append(("i1", START + 2 * DAY - HOUR, "b", ["x", "y"]))
    write_world(tmp_path / "source", events, versions)
    ingest(repo)
    with monkeypatch.context() as killed:  # after item_attributes was written
        killed.delattr("sidkit.tables.rows.read_valued_events")
        with pytest.raises(NameError):
            build_tables(repo, END)
    why = "item_attributes got versions of earlier times"
    assert build_tables(repo, END).notes == tuple(
        f"{why}; user_{name}_stats was rebuilt" for name in ("category", "genres")
    )
    for attribute in ("category", "genres"):
        assert same(rows_of(repo, attribute), by_hand(events, versions, attribute)), attribute


def test_a_value_corrected_in_place_counts_from_the_build_that_saw_it(tmp_path: Path) -> None:
    events = [("u1", "i1", START + day * DAY, day % 2) for day in range(5)]
    repo = built(tmp_path, events, [("i1", START - DAY, "a", None)], START + 6 * DAY)
    later = [*events, ("u1", "i1", START + 9 * DAY, 0)]
    write_world(tmp_path / "source", later, [("i1", START - DAY, "b", None)])
    ingest(repo)
    assert build_tables(repo, START + 8 * DAY).notes == ()
    build_tables(repo, END)
    served: list[Version] = [("i1", START - DAY, "a", None), ("i1", START + 8 * DAY - DELAY, "b", None)]
    assert same(rows_of(repo, "category"), by_hand(later, served, "category"))


def test_removed_events_leave_the_counts_and_the_online_store(tmp_path: Path) -> None:
    events = [("u1", f"i{1 + day // 3}", START + day * DAY, day % 2) for day in range(5)]
    versions: list[Version] = [("i1", START - DAY, "a", ["x"]), ("i2", START - DAY, "a", ["x", "z|1"])]
    repo = built(tmp_path, events, versions, START + 6 * DAY)
    apply_repo(repo)
    assert materialize(repo, START + 6 * DAY)["user_genres_stats"] == 2
    assert online(repo, "x", "z|1") == [5, 2]
    write_world(tmp_path / "source", events[:3], versions)
    ingest(repo, remove_vanished=True)
    build_tables(repo, END)
    assert same(rows_of(repo, "genres"), by_hand(events[:3], versions, "genres"))
    materialize(repo, END)
    assert online(repo, "x", "z|1") == [3, None]


def online(repo: Repo, *genres: str) -> list[int | None]:
    rows = [{"user_id": "u1", "genres": genre} for genre in genres]
    read = open_store(repo).get_online_features(["user_genres_stats:exposures_all"], rows).to_dict()
    return list(read["exposures_all"])


def test_exposures_of_a_log_of_positives_are_null(tmp_path: Path) -> None:
    source = write_world(tmp_path / "source", [("u1", "i1", START, 1)], [("i1", START - DAY, "a", None)])
    repo = attribute_repo(tmp_path / "repo", source, FEATURES, feedback="positives_only")
    ingest(repo)
    build_tables(repo, END)
    (first, *_) = rows_of(repo, "category")
    assert (first["exposures_all"], first["clicks_all"]) == (None, 1)


def test_an_added_attribute_is_counted_alone(tmp_path: Path) -> None:
    events, versions = random_world(3)
    repo = built(tmp_path, events, versions)
    set_features(repo, FEATURES.replace('"category", "genres"', '"category"'))
    assert build_tables(repo, END).notes == ("features.affinity: removed genres; user_genres_stats was removed",)
    assert not (repo.tables / "user_genres_stats.parquet").exists()
    set_features(repo, FEATURES)
    report = build_tables(repo, END)
    assert report.notes == ("features.affinity: added genres; user_genres_stats was built",)
    assert {name for name, count in report.new_rows.items() if count} == {"user_genres_stats"}
    assert same(rows_of(repo, "genres"), by_hand(events, versions, "genres"))


def test_the_columns_are_those_of_user_stats_and_the_value(tmp_path: Path) -> None:
    repo = built(tmp_path, [("u1", "i1", START + n, n) for n in range(2)], [("i1", START - DAY, "a", None)])
    names = pq.read_schema(repo.tables / "user_category_stats.parquet").names
    assert names == ["user_id", "category", "event_timestamp", "created_timestamp", *COUNTS]


BOTH = FEATURES.replace('"category", "genres"', '"item_id", "category"')


def test_counts_per_user_and_item_follow_late_events_and_are_served(tmp_path: Path) -> None:
    events, versions = random_world(4)
    assert BOTH != FEATURES
    repo = attribute_repo(tmp_path / "repo", write_world(tmp_path / "source", events[::2], versions), BOTH)
    ingest(repo)
    build_tables(repo, START + 20 * DAY)
    write_world(tmp_path / "source", events, versions)
    ingest(repo)
    build_tables(repo, END)
    rows = by_hand(events, versions, "item_id")
    assert rows and same(rows_of(repo, "item_id"), rows)
    apply_repo(repo)
    materialize(repo, END)
    newest = max((row for row in rows if row["item_id"] == "i1"), key=lambda row: str(row["event_timestamp"]))
    asked = {name: newest[name] for name in ("user_id", "item_id")}
    read = open_store(repo).get_online_features(["user_item_id_stats:clicks_all"], [asked]).to_dict()
    assert read["clicks_all"] == [newest["clicks_all"]]


def test_counts_per_user_and_item_need_no_attributes_and_no_recount_when_these_change(tmp_path: Path) -> None:
    events, versions = random_world(5)
    source = write_world(tmp_path / "source", events, versions)
    repo = attribute_repo(tmp_path / "repo", source, '[features]\naffinity = ["item_id"]')
    ingest(repo)
    build_tables(repo, END)
    assert same(rows_of(repo, "item_id"), by_hand(events, versions, "item_id"))
    set_features(repo, BOTH)
    report = build_tables(repo, END)
    assert report.new_rows["user_item_id_stats"] == 0 < report.new_rows["user_category_stats"]
