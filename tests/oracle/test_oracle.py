"""The oracle itself: hand-computed examples, and a second formulation that is even dumber than the first."""

from __future__ import annotations

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
# Examples by hand: readable 10 us after the fact, windows end every 100 us.
TINY = Settings(delay=10, cadence=100, history_length=3, positives_only=False, has_conversions=True)

thorough = hypothesis_settings(
    max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def make_oracle(
    events: list[Event] | None = None,
    items: list[ItemVersion] | None = None,
    embeddings: list[EmbeddingVersion] | None = None,
    settings: Settings = TINY,
) -> Oracle:
    return Oracle(settings, events or [], items or [], embeddings or [], ("text", "image"))


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


def shown(row: dict[str, int | None] | None) -> dict[str, int | None]:
    assert row is not None
    return row


def counts(exposures: int | None, clicks: int, conversions: int | None) -> dict[str, int | None]:
    """The same counts in every window."""
    by_column = {"exposures": exposures, "clicks": clicks, "conversions": conversions}
    return {f"{column}_{name}": count for name in (*WINDOWS, "all") for column, count in by_column.items()}


# --- counts, by hand ---


def test_event_is_counted_from_its_window_end_plus_delay() -> None:
    # At 250 us the next window end is 300, readable from 310.
    oracle = make_oracle([Event("u1", "i1", 250, 1, 1)])
    assert oracle.item_stats("i1", 250) is None
    assert oracle.item_stats("i1", 260) is None  # event + delay: the history has it, the counts have not
    assert oracle.item_stats("i1", 309) is None
    assert oracle.item_stats("i1", 310) == counts(1, 1, 1)


def test_event_on_a_window_end_belongs_to_that_window() -> None:
    # (200, 300] holds 300, so it is readable at 310; 301 waits for window end 400, readable at 410.
    oracle = make_oracle([Event("u1", "i1", 300, 0), Event("u1", "i2", 301, 0)])
    assert oracle.item_stats("i1", 309) is None
    assert oracle.item_stats("i1", 310) == counts(1, 0, 0)
    assert oracle.item_stats("i2", 409) is None
    assert oracle.item_stats("i2", 410) == counts(1, 0, 0)


@pytest.mark.parametrize(("name", "days"), [("1d", 1), ("7d", 7), ("30d", 30)])
def test_event_on_a_window_end_leaves_exactly_one_window_later(name: str, days: int) -> None:
    # A day is 864,000,000 windows of 100 us. At end 300 + window, (300, 300 + window] no longer holds 300.
    oracle = make_oracle([Event("u1", "i1", 300, 1)])
    last = 300 + days * 86_400_000_000 + 10 - 1
    assert shown(oracle.item_stats("i1", last))[f"clicks_{name}"] == 1
    assert shown(oracle.item_stats("i1", last + 1))[f"clicks_{name}"] == 0
    assert shown(oracle.item_stats("i1", last + 1))["clicks_all"] == 1


def test_event_between_window_ends_leaves_at_the_next_one() -> None:
    # 301 + 1d is within (300 + 1d, 400 + 1d]: still in the window that ends at 300 + 1d, gone at 400 + 1d.
    oracle = make_oracle([Event("u1", "i1", 301, 1)])
    day = 86_400_000_000
    assert shown(oracle.item_stats("i1", day + 409))["clicks_1d"] == 1
    assert shown(oracle.item_stats("i1", day + 410))["clicks_1d"] == 0


def test_everything_left_the_windows_but_the_row_stays() -> None:
    oracle = make_oracle([Event("u1", "i1", 300, 1, 1), Event("u1", "i1", 300, 0, 0)])
    expected = counts(0, 0, 0) | {"exposures_all": 2, "clicks_all": 1, "conversions_all": 1}
    assert oracle.item_stats("i1", 31 * DAY) == expected


def test_cadence_that_does_not_divide_a_day() -> None:
    # 7000 s: ends at 7000, 14000, ...; 86,400 / 7000 = 12.34..., so an event at 7000 s leaves the 1d window at the
    # first end from 93,400 s on: 14 * 7000 = 98,000 s. With 60 s delay: 98,060 s.
    settings = replace(TINY, delay=60 * SECOND, cadence=7000 * SECOND)
    oracle = make_oracle([Event("u1", "i1", 7000 * SECOND, 1)], settings=settings)
    assert oracle.user_stats("u1", 7060 * SECOND - 1) is None
    assert shown(oracle.user_stats("u1", 7060 * SECOND))["clicks_1d"] == 1
    assert shown(oracle.user_stats("u1", 98_060 * SECOND - 1))["clicks_1d"] == 1
    assert shown(oracle.user_stats("u1", 98_060 * SECOND))["clicks_1d"] == 0


def test_delay_longer_than_the_cadence() -> None:
    # Window end 300 is readable from 1300, though ends 400 to 1300 have passed by then.
    oracle = make_oracle([Event("u1", "i1", 300, 1)], settings=replace(TINY, delay=1000))
    assert oracle.item_stats("i1", 1299) is None
    assert oracle.item_stats("i1", 1300) == counts(1, 1, 0)


def test_times_before_the_epoch_round_down() -> None:
    # floor(-250 / 100) = -3: the event at -250 is in window end -200, readable from -190.
    oracle = make_oracle([Event("u1", "i1", -250, 1)])
    assert oracle.item_stats("i1", -191) is None
    assert oracle.item_stats("i1", -190) == counts(1, 1, 0)


def test_what_is_counted() -> None:
    events = [
        Event("u1", "i1", 50, 1, 1),
        Event("u1", "i1", 50, 1, 1),  # exact duplicate: counts once
        Event("u1", "i1", 50, 0, 1),  # other label: another event, a conversion without a click
        Event("u1", "i1", 50, 1, 0),  # other converted: another event
        Event("u2", "i1", 50, 1, None),
        Event("u1", "i2", 50, 1, 1),
    ]
    oracle = make_oracle(events)
    assert oracle.item_stats("i1", 110) == counts(4, 3, 2)
    assert oracle.item_stats("i2", 110) == counts(1, 1, 1)
    user = counts(4, 3, 0)  # 3 on i1 and 1 on i2; users have no conversions
    assert oracle.user_stats("u1", 110) == {key: user[key] for key in user if not key.startswith("conv")}
    assert oracle.item_stats("i3", 110) is None
    assert oracle.user_stats("u3", 110) is None


def test_what_the_log_does_not_say_is_null() -> None:
    events = [Event("u1", "i1", 50, 1)]
    oracle = make_oracle(events, settings=replace(TINY, positives_only=True, has_conversions=False))
    assert oracle.item_stats("i1", 110) == counts(None, 1, None)
    assert oracle.item_stats("i1", 40 * DAY) == counts(None, 0, None) | {"clicks_all": 1}
    user = shown(oracle.user_stats("u1", 110))
    assert (user["exposures_all"], user["clicks_all"]) == (None, 1)


def test_key_order_and_names() -> None:
    row = make_oracle([Event("u1", "i1", 50, 1)]).item_stats("i1", 110)
    assert row is not None
    assert list(row) == [
        *("exposures_1d", "clicks_1d", "conversions_1d", "exposures_7d", "clicks_7d", "conversions_7d"),
        *("exposures_30d", "clicks_30d", "conversions_30d", "exposures_all", "clicks_all", "conversions_all"),
    ]


# --- histories, by hand ---


def test_history_is_readable_from_event_plus_delay() -> None:
    oracle = make_oracle([Event("u1", "i1", 250, 1)])
    assert oracle.user_history("u1", 259) is None
    assert oracle.user_history("u1", 260) == {"item_ids": ["i1"], "timestamps_us": [250]}
    assert oracle.user_history("u2", 260) is None


def test_history_order_ties_repeats_and_length() -> None:
    events = [
        Event("u1", "i9", 100, 1),
        Event("u1", "i3", 200, 1),
        Event("u1", "i10", 200, 1),  # "i10" < "i3": strings, not numbers
        Event("u1", "i3", 300, 1),  # a repeat stays
        Event("u1", "i3", 300, 1),  # an exact duplicate does not
        Event("u1", "i4", 400, 0),  # no positive
        Event("u2", "i5", 400, 1),  # another user's
    ]
    oracle = make_oracle(events)
    assert oracle.user_history("u1", 310) == {"item_ids": ["i3", "i10", "i3"], "timestamps_us": [300, 200, 200]}
    assert oracle.user_history("u1", 309) == {"item_ids": ["i10", "i3", "i9"], "timestamps_us": [200, 200, 100]}
    # The cut falls inside the tie: the smaller item id stays.
    short = make_oracle(events, settings=replace(TINY, history_length=2))
    assert short.user_history("u1", 310) == {"item_ids": ["i3", "i10"], "timestamps_us": [300, 200]}


def test_history_keeps_events_that_differ_in_conversion_only() -> None:
    oracle = make_oracle([Event("u1", "i1", 100, 1, 0), Event("u1", "i1", 100, 1, 1)])
    assert oracle.user_history("u1", 110) == {"item_ids": ["i1", "i1"], "timestamps_us": [100, 100]}


def test_user_without_positives_has_stats_but_no_history() -> None:
    oracle = make_oracle([Event("u1", "i1", 100, 0)])
    assert oracle.user_history("u1", 10 * DAY) is None
    assert oracle.user_stats("u1", 110) is not None


# --- content, by hand ---


def content(text: list[float] | None, image: list[float] | None, item: ItemVersion) -> dict[str, Any]:
    return {
        "text": text,
        "image": image,
        "category": item.category,
        "price": item.price,
        "created_at_us": item.created_at,
    }


def test_content_without_versions_starts_at_creation_plus_delay() -> None:
    item = ItemVersion("i1", 100, None, None, "hats", 2.5)
    vectors = EmbeddingVersion("i1", None, {"text": (1.0, 2.0, 3.0), "image": None})
    oracle = make_oracle(items=[item], embeddings=[vectors])
    assert oracle.item_content("i1", 109) is None
    assert oracle.item_content("i1", 110) == content([1.0, 2.0, 3.0], None, item)
    assert oracle.item_content("i2", 110) is None


def test_content_starts_at_the_first_version_not_at_creation() -> None:
    # Created at 100, first version of 150: readable at 160, though the vectors of 120 would be at 130.
    item = ItemVersion("i1", 100, 150, None, None, None)
    vectors = EmbeddingVersion("i1", 120, {"text": (1.0, 2.0, 3.0)})
    oracle = make_oracle(items=[item], embeddings=[vectors])
    assert oracle.item_content("i1", 159) is None
    assert oracle.item_content("i1", 160) == content([1.0, 2.0, 3.0], None, item)


def test_content_and_vectors_change_each_at_their_own_time() -> None:
    first = ItemVersion("i1", 100, 100, None, "hats", 1.0)
    second = ItemVersion("i1", 100, 200, None, "shoes", 2.0)
    embeddings = [
        EmbeddingVersion("i1", 150, {"text": (1.0, 1.0, 1.0), "image": (1.0, 1.0)}),
        EmbeddingVersion("i1", 250, {"text": (2.0, 2.0, 2.0), "image": None}),
    ]
    oracle = make_oracle(items=[second, first], embeddings=embeddings[::-1])
    ones, twos = [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]
    assert oracle.item_content("i1", 110) == content(None, None, first)
    assert oracle.item_content("i1", 159) == content(None, None, first)
    assert oracle.item_content("i1", 160) == content(ones, [1.0, 1.0], first)
    assert oracle.item_content("i1", 209) == content(ones, [1.0, 1.0], first)
    assert oracle.item_content("i1", 210) == content(ones, [1.0, 1.0], second)
    assert oracle.item_content("i1", 260) == content(twos, None, second)  # a null is not filled from before


def test_vectors_made_before_the_item_count_from_its_creation() -> None:
    # max(50, 100) = 100, readable at 110 with the item; without updated_at it is 100 too.
    item = ItemVersion("i1", 100, 100, None, None, None)
    for updated_at in (50, None):
        oracle = make_oracle(items=[item], embeddings=[EmbeddingVersion("i1", updated_at, {"image": (1.0, 2.0)})])
        assert oracle.item_content("i1", 109) is None
        assert oracle.item_content("i1", 110) == content(None, [1.0, 2.0], item)


def test_of_several_vectors_made_before_the_item_the_newest_holds() -> None:
    item = ItemVersion("i1", 100, None, None, None, None)
    embeddings = [EmbeddingVersion("i1", 90, {"image": (9.0, 9.0)}), EmbeddingVersion("i1", 80, {"image": (8.0, 8.0)})]
    assert make_oracle(items=[item], embeddings=embeddings).item_content("i1", 110) == content(None, [9.0, 9.0], item)


def test_rows_that_disagree_on_creation() -> None:
    # Created at 100 or at 200: vectors of 90, or of no known time, count from 100, so the first row (150) has them.
    # No version is earlier than its own created_at, so they are always readable once the item is.
    first = ItemVersion("i1", 100, 150, None, "hats", 1.0)
    second = ItemVersion("i1", 200, 300, None, "shoes", 2.0)
    for updated_at in (90, None):
        embeddings = [EmbeddingVersion("i1", updated_at, {"image": (1.0, 2.0)})]
        for items in ([first, second], [second, first]):
            oracle = make_oracle(items=items, embeddings=embeddings)
            assert oracle.item_content("i1", 159) is None
            assert oracle.item_content("i1", 160) == content(None, [1.0, 2.0], first)
            assert oracle.item_content("i1", 310) == content(None, [1.0, 2.0], second)  # each row's own created_at


def test_removal_does_not_end_content() -> None:
    item = ItemVersion("i1", 100, None, 105, "hats", 1.0)
    assert make_oracle(items=[item]).item_content("i1", 10 * DAY) == content(None, None, item)


def test_vectors_without_an_item_never_show() -> None:
    oracle = make_oracle([Event("u1", "i1", 50, 1)], embeddings=[EmbeddingVersion("i1", 10, {"image": (1.0, 2.0)})])
    assert oracle.item_content("i1", 10 * DAY) is None
    assert oracle.item_stats("i1", 110) == counts(1, 1, 0)  # the counts ask the log only


# --- worlds that have no agreed answer are refused ---


@pytest.mark.parametrize(
    ("events", "changes", "reason"),
    [
        ([Event("u1", "i1", 1, 2)], {}, "out of range"),
        ([Event("u1", "i1", 1, 1, 2)], {}, "out of range"),
        ([Event("u1", "i1", 1, 0)], {"positives_only": True}, "not a positive"),
        ([Event("u1", "i1", 1, 1, 0)], {"has_conversions": False}, "without conversions"),
        ([], {"delay": 0}, "must be positive"),
        ([], {"cadence": 0}, "must be positive"),
        ([], {"history_length": 0}, "must be positive"),
    ],
)
def test_contradictory_logs_and_settings_are_refused(events: list[Event], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_oracle(events, settings=replace(TINY, **changes))


def test_ambiguous_versions_are_refused() -> None:
    item = ItemVersion("i1", 100, 100, None, "hats", 1.0)
    with pytest.raises(ValueError, match="one time"):
        make_oracle(items=[item, replace(item, category="shoes")])
    with pytest.raises(ValueError, match="before it was created"):
        make_oracle(items=[replace(item, updated_at=99)])
    with pytest.raises(ValueError, match="one updated_at"):
        make_oracle(items=[item], embeddings=[EmbeddingVersion("i1", 1, {}), EmbeddingVersion("i1", 1, {})])


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
        if event not in log:
            log.append(event)
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


@pytest.mark.parametrize("seed", range(50))
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
