"""The oracle itself: examples computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from oracle.features import DAY, SECOND, WINDOWS, EmbeddingVersion, Event, ItemVersion, Oracle, Settings

# Examples by hand: readable 10 us after the fact, windows end every 100 us.
TINY = Settings(delay=10, cadence=100, history_length=3, positives_only=False, has_conversions=True)


def make_oracle(
    events: list[Event] | None = None,
    items: list[ItemVersion] | None = None,
    embeddings: list[EmbeddingVersion] | None = None,
    settings: Settings = TINY,
) -> Oracle:
    return Oracle(settings, events or [], items or [], embeddings or [], ("text", "image"))


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
    oracle = make_oracle([Event("u1", "i1", 300, 1, 1), Event("u2", "i1", 300, 0, 0)])
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
        Event("u1", "i1", 50, 0, 1),  # other label: the same event, the click wins
        Event("u1", "i1", 50, 1, 0),  # other converted: the same event, the conversion wins
        Event("u2", "i1", 50, 1, None),
        Event("u1", "i2", 50, 1, 1),
    ]
    oracle = make_oracle(events)
    assert oracle.item_stats("i1", 110) == counts(2, 2, 1)
    assert oracle.item_stats("i2", 110) == counts(1, 1, 1)
    user = counts(2, 2, 0)  # 1 on i1 and 1 on i2; users have no conversions
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


def test_history_holds_an_event_once_though_its_rows_differ_in_conversion() -> None:
    oracle = make_oracle([Event("u1", "i1", 100, 1, 0), Event("u1", "i1", 100, 1, 1)])
    assert oracle.user_history("u1", 110) == {"item_ids": ["i1"], "timestamps_us": [100]}


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
