"""Statistics of codes in Feast: two calls of a user, both online stores, later events, and definitions of an older release."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from helpers.builders import DAY, START
from helpers.codebook_builders import AS_OF, ITEMS, build, built_repo, online, publish, write_source
from oracle.features import Event
from semantic_ids import lifecycle, prefix_keys
from semantic_ids.code_stats import code_stats_of
from sidkit.core.clock import from_us
from sidkit.core.errors import LifeCycleError, SidkitError
from sidkit.core.repo import Repo
from sidkit.stores.feast_repo import apply_repo, materialize, open_store
from sidkit.stores.registered import registered_views
from sidkit.stores.repo_doctor import examine_repo

CLICKS = [
    Event(f"u{n % 4}", f"i{7 * n % 60:03d}", START + 31 * DAY + n * DAY // 40, int(n % 3 == 0)) for n in range(160)
]
ASKED = ("i003", "i007", "i014", "i021")
"""Items, of which i007 has no codes."""
VIEWS = ["code_stats_a", "user_code_stats_a"]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    repo = built_repo(tmp_path, clicks=CLICKS)
    publish(repo, "a")
    return repo


def entity_rows(repo: Repo, user: str) -> list[dict[str, str]]:
    """Keys of the second call, from the codes that the first one gives."""
    codes = list(online(repo, "a", ASKED).values())
    return [{"user_id": user, "sid_prefix_1": key or ""} for key in prefix_keys("a", codes, 1)]


def served(repo: Repo, user: str = "u1") -> dict[str, list[Any]]:
    store = open_store(repo)
    service = store.get_feature_service("codes_a")
    read = store.get_online_features(service, entity_rows(repo, user), full_feature_names=True).to_dict()
    return {name: values for name, values in read.items() if "__" in name}


def by_hand(repo: Repo, clicks: list[Event], user: str = "u1") -> dict[str, list[Any]]:
    """Counts of all time at the as-of time; the current codes of these items have never changed."""
    codes = online(repo, "a", ITEMS)
    counts: dict[str, list[Any]] = {
        name: []
        for name in ("code_stats_d1__exposures_all", "code_stats_d1__clicks_all", "user_code_stats_d1__clicks_all")
    }
    for item in ASKED:
        own = codes[item]
        same = [each for each in clicks if own and codes[each.item_id] and codes[each.item_id][0] == own[0]]
        mine = [each.label for each in same if each.user_id == user]
        counts["code_stats_d1__exposures_all"].append(len(same) or None)
        counts["code_stats_d1__clicks_all"].append(sum(each.label for each in same) if same else None)
        counts["user_code_stats_d1__clicks_all"].append(sum(mine) if mine else None)
    return counts


def all_clicks(clicks: list[Event]) -> list[Event]:
    first = min(ITEMS)
    return [Event("u1", first, START + 30 * DAY, 1), Event("u2", first, START + 31 * DAY, 0), *clicks]


def assert_served(repo: Repo, clicks: list[Event]) -> None:
    read, expected = served(repo), by_hand(repo, all_clicks(clicks))
    assert {name: read[name] for name in expected} == expected
    assert expected["code_stats_d1__exposures_all"][1] is None and expected["code_stats_d1__exposures_all"][0]


def test_two_calls_of_feast_give_the_counts_of_an_items_prefix(repo: Repo) -> None:
    assert_served(repo, CLICKS)
    store = open_store(repo)
    rows = pd.DataFrame(entity_rows(repo, "u1")).assign(event_timestamp=pd.Timestamp(from_us(AS_OF)))
    frame = store.get_historical_features(rows, store.get_feature_service("codes_a"), full_feature_names=True).to_df()
    frame = rows.merge(frame, on=list(rows.columns), how="left")
    for name, values in served(repo).items():
        assert [None if pd.isna(value) else int(value) for value in frame[name]] == values, name


def test_a_build_and_a_materialization_bring_the_counts_of_new_events(repo: Repo) -> None:
    later = [*CLICKS, *(Event("u1", item, START + 41 * DAY, 1) for item in ASKED)]
    write_source(repo.path.parent / "source", ITEMS, clicks=later)
    build(repo, AS_OF + 5 * DAY)
    materialize(repo, AS_OF + 5 * DAY)
    assert_served(repo, later)


@pytest.mark.own_store("online", "this test switches it")
def test_feasts_own_online_store_serves_the_same_counts(repo: Repo) -> None:
    packed = served(repo)
    path = repo.path / "feature_store.yaml"
    text = path.read_text().replace("sidkit.stores.online.PackedSqliteOnlineStore", "sqlite")
    path.write_text(re.sub(r"(?m)^  path: data/online.sqlite", "  path: data/feast_online.sqlite", text))
    apply_repo(repo)
    materialize(repo, AS_OF)
    assert served(repo) == packed


def test_definitions_of_an_older_release_publish_and_promote_and_the_doctor_names_what_they_lack(
    tmp_path: Path,
) -> None:
    repo = built_repo(tmp_path, clicks=CLICKS)
    views, services = repo.path / "semantic_id_views.py", repo.path / "services.py"
    new = {path: path.read_text() for path in (views, services)}
    views.write_text(new[views].replace("if codebook.name in definitions.code_stats", "if False"))
    publish(repo, "a")
    lifecycle.promote(repo, "a")
    assert registered_views(repo, VIEWS) == []
    (problem,) = examine_repo(repo)
    assert problem.warning and "code_stats_a, user_code_stats_a" in problem.problem
    views.write_text(new[views])
    apply_repo(repo)
    materialize(repo, AS_OF)
    assert examine_repo(repo) == []
    assert_served(repo, CLICKS)


@pytest.mark.own_store("online", "it lists its tables")
def test_a_codebook_whose_statistics_are_not_served_is_not_promoted(repo: Repo) -> None:
    lifecycle.promote(repo, "a")
    with contextlib.closing(sqlite3.connect(repo.data / "online.sqlite")) as opened, opened:
        names = [row[0] for row in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        (table,) = [name for name in names if name.endswith("user_code_stats_a")]
        opened.execute(f'DROP TABLE "{table}"')
    with pytest.raises(LifeCycleError, match="user_code_stats_a: it has no online table"):
        lifecycle.promote(repo, "a")


def test_definitions_without_the_views_do_not_drop_their_online_tables(repo: Repo) -> None:
    path = repo.path / "semantic_id_views.py"
    path.write_text(path.read_text().replace("if codebook.name in definitions.code_stats", "if False"))
    with pytest.raises(SidkitError, match="the online table of code_stats_a would be dropped"):
        apply_repo(repo)


def test_the_manifest_or_the_record_of_the_tables_suffices_for_the_definitions(repo: Repo) -> None:
    known = code_stats_of(repo, "a")
    (repo.codebooks / "a" / "manifest.json").write_text("{}")
    assert code_stats_of(repo, "a") == known
    apply_repo(repo)
    assert registered_views(repo, VIEWS) == VIEWS
