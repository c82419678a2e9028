"""The oracle on drawn worlds: beside a second formulation that is even dumber, its properties, and the worlds themselves."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from oracle.features import DAY, SECOND, WINDOWS, EmbeddingVersion, Event, ItemVersion, Oracle, Settings
from oracle.logs import CADENCES, DELAYS, FIRST, LAST, MODALITIES, World, random_world, worlds

MINUTE = 60 * SECOND
PROOF = bool(os.environ.get("SIDKIT_PROOF"))
"""`make proof` draws more worlds."""

thorough = hypothesis_settings(
    max_examples=400 if PROOF else 25, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def oracle_of(world: World) -> Oracle:
    return Oracle(world.settings, world.events, world.items, world.embeddings, world.modalities)


def answers(oracle: Oracle, queries: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    return [
        {
            "item_stats": oracle.item_stats(item_id, at),
            "user_stats": oracle.user_stats(user_id, at),
            "user_history": oracle.user_history(user_id, at),
            "item_content": oracle.item_content(item_id, at),
        }
        for user_id, item_id, at in queries
    ]


# --- the second formulation: linear scans, and each event's own life instead of windows ---


def dumb_stats(world: World, events: list[Event], at: int, columns: tuple[str, ...]) -> dict[str, int | None] | None:
    """Each event shows from its entry until its exit: no window end is ever computed from `at`."""
    delay, cadence = world.settings.delay, world.settings.cadence

    def next_end(time: int) -> int:
        return time if time % cadence == 0 else time - time % cadence + cadence

    readable = [event for event in events if next_end(event.timestamp) + delay <= at]
    if not readable:
        return None
    answer: dict[str, int | None] = {}
    for name, window in [*WINDOWS.items(), ("all", None)]:
        inside = [event for event in readable if window is None or at < next_end(event.timestamp + window) + delay]
        values: dict[str, int | None] = {
            "exposures": None if world.settings.positives_only else len(inside),
            "clicks": sum(event.label for event in inside),
            "conversions": sum(event.converted or 0 for event in inside) if world.settings.has_conversions else None,
        }
        answer |= {f"{column}_{name}": values[column] for column in columns}
    return answer


def dumb_history(world: World, events: list[Event], at: int) -> dict[str, list[Any]] | None:
    """Take the newest remaining positive, again and again."""
    left = [event for event in events if event.label == 1 and event.timestamp + world.settings.delay <= at]
    taken: list[Event] = []
    while left and len(taken) < world.settings.history_length:
        newest = max(event.timestamp for event in left)
        item_id = min(event.item_id for event in left if event.timestamp == newest)
        event = next(event for event in left if (event.timestamp, event.item_id) == (newest, item_id))
        left.remove(event)
        taken.append(event)
    if not taken:
        return None
    return {"item_ids": [event.item_id for event in taken], "timestamps_us": [event.timestamp for event in taken]}


def dumb_content(world: World, item_id: str, at: int) -> dict[str, Any] | None:
    """Replay every change of the item up to `at`."""
    rows = [item for item in world.items if item.item_id == item_id]
    changes: list[tuple[int, ItemVersion | EmbeddingVersion]] = []
    for item in rows:
        changes.append((item.created_at if item.updated_at is None else item.updated_at, item))
    for embedding in world.embeddings:
        if embedding.item_id == item_id and rows:
            born = sorted(item.created_at for item in rows)[0]
            known = embedding.updated_at is not None and embedding.updated_at > born
            changes.append((embedding.updated_at if known and embedding.updated_at else born, embedding))
    state: dict[str, Any] = dict.fromkeys(world.modalities)
    for time, change in sorted(changes, key=lambda pair: pair[0]):
        if time + world.settings.delay > at:
            break
        if isinstance(change, EmbeddingVersion):
            for modality in world.modalities:
                vector = change.vectors.get(modality)
                state[modality] = None if vector is None else list(vector)
        else:
            state |= {"category": change.category, "price": change.price, "created_at_us": change.created_at}
    return state if "created_at_us" in state else None


def dumb_answers(world: World) -> list[dict[str, Any]]:
    log: list[Event] = []
    for event in world.events:
        same = [row for row in log if row.user_id == event.user_id and row.item_id == event.item_id]
        same = [row for row in same if row.timestamp == event.timestamp]
        if not same:  # all rows of one user, item and time are one event, of which the most is true
            of_key = [row for row in world.events if (row.user_id, row.item_id) == (event.user_id, event.item_id)]
            of_key = [row for row in of_key if row.timestamp == event.timestamp]
            answers_given = [row.converted for row in of_key if row.converted is not None]
            label = 1 if any(row.label == 1 for row in of_key) else 0
            log.append(replace(event, label=label, converted=max(answers_given) if answers_given else None))
    result = []
    for user_id, item_id, at in world.queries:
        of_item = [event for event in log if event.item_id == item_id]
        of_user = [event for event in log if event.user_id == user_id]
        result.append(
            {
                "item_stats": dumb_stats(world, of_item, at, ("exposures", "clicks", "conversions")),
                "user_stats": dumb_stats(world, of_user, at, ("exposures", "clicks")),
                "user_history": dumb_history(world, of_user, at),
                "item_content": dumb_content(world, item_id, at),
            }
        )
    return result


@thorough
@given(worlds(orphans=False) | worlds(orphans=True))
def test_both_formulations_agree(world: World) -> None:
    assert answers(oracle_of(world), world.queries) == dumb_answers(world)


@pytest.mark.parametrize("seed", range(50 if PROOF else 12))
def test_both_formulations_agree_on_random_worlds(seed: int) -> None:
    world = random_world(random.Random(seed), n_events=200, n_queries=60, orphans=seed % 2 == 1)
    assert answers(oracle_of(world), world.queries) == dumb_answers(world)


# --- properties ---


@thorough
@given(worlds(), st.randoms(use_true_random=False))
def test_order_and_duplicates_do_not_matter(world: World, rng: random.Random) -> None:
    events = [*world.events, *rng.choices(world.events, k=5)] if world.events else []
    shuffled = replace(
        world,
        events=rng.sample(events, len(events)),
        items=rng.sample(world.items, len(world.items)),
        embeddings=rng.sample(world.embeddings, len(world.embeddings)),
    )
    assert answers(oracle_of(shuffled), world.queries) == answers(oracle_of(world), world.queries)


@thorough
@given(worlds())
def test_the_future_never_shows(world: World) -> None:
    """Dropping what is not readable yet changes no answer."""
    full = oracle_of(world)
    for query in world.queries:
        until = query[2] - world.settings.delay
        past = replace(
            world,
            events=[event for event in world.events if event.timestamp <= until],
            items=[item for item in world.items if (item.updated_at or item.created_at) <= until],
            embeddings=[row for row in world.embeddings if row.updated_at is None or row.updated_at <= until],
        )
        assert answers(oracle_of(past), [query]) == answers(full, [query])


# --- the worlds themselves ---


def check_world(world: World) -> None:
    settings = world.settings
    assert settings.delay in DELAYS
    assert settings.cadence in CADENCES
    assert all(FIRST <= event.timestamp <= LAST for event in world.events)
    if settings.positives_only:
        assert all(event.label == 1 for event in world.events)
    if not settings.has_conversions:
        assert all(event.converted is None for event in world.events)
    for table in (world.items, world.embeddings):
        assert len({row.updated_at is None for row in table}) <= 1
        keys = [(row.item_id, row.updated_at) for row in table]
        assert len(set(keys)) == len(keys)
    created: dict[str, int] = {}
    for item in world.items:
        assert item.updated_at is None or item.created_at <= item.updated_at
        assert item.removed_at is None or item.created_at < item.removed_at
        created[item.item_id] = min(item.created_at, created.get(item.item_id, item.created_at))
    starts = [(row.item_id, max(row.updated_at or 0, created.get(row.item_id, 0))) for row in world.embeddings]
    assert len(set(starts)) == len(starts)
    for row in world.embeddings:
        assert all(vector is None or len(vector) == MODALITIES[name] for name, vector in row.vectors.items())


@thorough
@given(worlds(min_events=1))
def test_drawn_worlds_keep_the_rules(world: World) -> None:
    check_world(world)
    assert 1 <= len(world.events) <= 40
    assert 1 <= len(world.queries) <= 30
    assert len({event.user_id for event in world.events}) <= 6
    assert 1 <= len({item.item_id for item in world.items}) <= 6


def test_random_worlds_keep_the_rules_and_the_sizes() -> None:
    for seed in range(200):
        world = random_world(random.Random(seed), n_users=5, n_items=4, n_events=33, n_queries=7)
        check_world(world)
        assert (len(world.events), len(world.queries)) == (33, 7)
        assert len({item.item_id for item in world.items}) == 4
    assert random_world(random.Random(3)) == random_world(random.Random(3))


def test_random_worlds_meet_the_edges() -> None:
    """Every situation that the worlds promise occurs, and not just once."""
    met: Counter[str] = Counter()
    for seed in range(300):
        world = random_world(random.Random(seed))
        met.update(situations(world))
    edges = ("first us", "last us before")
    wanted = {
        *("duplicate event", "both labels at once", "user tie", "item tie", "unsorted"),
        *("on a tick", "after a tick", "before a tick", "before creation", "removed"),
        *("no vectors", "null vector", "vectors first", "several versions", "several vectors", "created differs"),
        *("user without events", "item without events", "stranger"),
        *(f"{feature} {edge}" for feature in ("stats", "history", "content") for edge in edges),
        *(f"exit {name} {edge}" for name in WINDOWS for edge in edges),
    }
    assert {name for name in wanted if met[name] < 5} == set()


def situations(world: World) -> set[str]:
    """The names of the edges that this world meets."""
    met = set()
    delay, cadence = world.settings.delay, world.settings.cadence
    events, distinct = world.events, set(world.events)
    pairs = [(a, b) for a in distinct for b in distinct if a != b and a.timestamp == b.timestamp]
    created = {item.item_id: item.created_at for item in world.items}
    updates = {(row.item_id, row.updated_at) for row in world.embeddings if row.updated_at is not None}
    embedded = Counter(row.item_id for row in world.embeddings)
    checks = {
        "duplicate event": len(distinct) < len(events),
        "both labels at once": any(replace(a, label=b.label) == b for a, b in pairs),
        "user tie": any(a.user_id == b.user_id and a.item_id != b.item_id for a, b in pairs),
        "item tie": any(a.item_id == b.item_id and a.user_id != b.user_id for a, b in pairs),
        "on a tick": any(event.timestamp % cadence == 0 for event in events),
        "after a tick": any(event.timestamp % cadence == 1 for event in events),
        "before a tick": any(event.timestamp % cadence == cadence - 1 for event in events),
        "before creation": any(event.timestamp < created[event.item_id] for event in events),
        "removed": any(item.removed_at is not None for item in world.items),
        "no vectors": any(item_id not in embedded for item_id in created),
        "null vector": any(None in row.vectors.values() for row in world.embeddings),
        "several versions": len(created) < len(world.items),
        "several vectors": any(count > 1 for count in embedded.values()),
        "unsorted": [e.timestamp for e in events] != sorted(e.timestamp for e in events),
        "vectors first": any(time < created[item_id] for item_id, time in updates),
        "created differs": any(item.created_at != created[item.item_id] for item in world.items),
        "user without events": any(user not in {e.user_id for e in events} for user, _, _ in world.queries),
        "item without events": any(item_id not in {e.item_id for e in events} for item_id in created),
        "stranger": any(item_id not in created for _, item_id, _ in world.queries),
    }
    met |= {name for name, holds in checks.items() if holds}

    oracle = oracle_of(world)
    for user_id, item_id, at in world.queries:
        here, before, after = (answers(oracle, [(user_id, item_id, time)])[0] for time in (at, at - 1, at + 1))
        for feature, key in (("stats", "item_stats"), ("history", "user_history"), ("content", "item_content")):
            met |= {f"{feature} first us"} if here[key] != before[key] else set()
            met |= {f"{feature} last us before"} if here[key] != after[key] else set()
        for event in events:
            for name, window in WINDOWS.items():
                gone = -(-(event.timestamp + window) // cadence) * cadence + delay
                if event.item_id == item_id and at in (gone, gone - 1):
                    met.add(f"exit {name} " + ("first us" if at == gone else "last us before"))
    return met


def test_large_worlds_are_answered_quickly() -> None:
    """A guard against quadratic work: this is a tenth of the largest intended use."""
    small = Settings(delay=MINUTE, cadence=MINUTE, history_length=50, positives_only=False, has_conversions=True)
    world = random_world(
        random.Random(0), n_users=500, n_items=200, n_events=40_000, n_queries=1000, settings=small, span=500 * DAY
    )
    found = answers(oracle_of(world), world.queries)
    assert sum(row["item_stats"] is not None for row in found) > 500
    assert sum(row["user_history"] is not None for row in found) > 500
