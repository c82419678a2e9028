"""Small adversarial worlds (Hypothesis) and large ones (plain `random`), drawn by the same code.

The times of a world are drawn around a few shared moments, so that ties, window edges and delays meet often.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from hypothesis import strategies as st

from oracle.features import DAY, SECOND, WINDOWS, EmbeddingVersion, Event, ItemVersion, Settings

T = TypeVar("T")

FIRST = int(datetime(2019, 1, 1, tzinfo=UTC).timestamp()) * SECOND
LAST = int(datetime(2021, 1, 1, tzinfo=UTC).timestamp()) * SECOND - 1
MODALITIES = {"text": 3, "image": 2}
DELAYS = (60 * SECOND, 1, 3600 * SECOND)
CADENCES = (60 * SECOND, SECOND, 3600 * SECOND, 7000 * SECOND)  # 7000 s does not divide a day
HISTORY_LENGTHS = (3, 1, 50)
STRANGER = 5  # u5 and i5 are in no table
ORPHAN = 6  # i6 is in the log and has vectors, but has no row in the items table


@dataclass(frozen=True)
class World:
    """Everything an Oracle takes, and what to ask it: queries are (user_id, item_id, at)."""

    settings: Settings
    events: list[Event]
    items: list[ItemVersion]
    embeddings: list[EmbeddingVersion]
    modalities: tuple[str, ...]
    queries: list[tuple[str, str, int]]


@dataclass(frozen=True)
class _Sizes:
    """Inclusive (least, most) of each part."""

    users: tuple[int, int]
    items: tuple[int, int]
    moments: tuple[int, int]
    fresh_events: tuple[int, int]
    echo_events: tuple[int, int]
    queries: tuple[int, int]


class _Pick(Protocol):
    """The few kinds of choice that a world is made of."""

    def integer(self, least: int, most: int) -> int: ...
    def choice(self, options: Sequence[T]) -> T: ...
    def repeat(self, size: tuple[int, int], make: Callable[[_Pick], T]) -> list[T]: ...
    def shuffled(self, values: list[T]) -> list[T]: ...


class _RandomPick:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def integer(self, least: int, most: int) -> int:
        return self._rng.randint(least, most)

    def choice(self, options: Sequence[T]) -> T:
        return self._rng.choice(options)

    def repeat(self, size: tuple[int, int], make: Callable[[_Pick], T]) -> list[T]:
        return [make(self) for _ in range(self._rng.randint(*size))]

    def shuffled(self, values: list[T]) -> list[T]:
        return self._rng.sample(values, len(values))


class _HypothesisPick:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, least: int, most: int) -> int:
        return self._draw(st.integers(least, most))

    def choice(self, options: Sequence[T]) -> T:
        return self._draw(st.sampled_from(options))

    def repeat(self, size: tuple[int, int], make: Callable[[_Pick], T]) -> list[T]:
        least, most = size
        # Left alone, lists lean to a handful of elements: ask for a longer one every other time.
        floor = self.choice((least, (least + most) // 2))
        # A list strategy (and no loop) lets Hypothesis drop single elements when it shrinks.
        return self._draw(st.lists(_drawn(make), min_size=floor, max_size=most))

    def shuffled(self, values: list[T]) -> list[T]:
        return self._draw(st.permutations(values))


@st.composite
def _drawn(draw: st.DrawFn, make: Callable[[_Pick], T]) -> T:
    return make(_HypothesisPick(draw))


@st.composite
def worlds(draw: st.DrawFn, *, min_events: int = 0, orphans: bool = False) -> World:
    """Worlds of at most 40 events, 6 users, 6 items and 30 queries.

    `orphans` adds events and vectors of an item that has no row in the items table.
    """
    sizes = _Sizes(
        users=(1, 6),
        items=(1, 6),
        moments=(1, 8),
        fresh_events=(min_events, max(min_events, 28)),
        echo_events=(0, 12),
        queries=(1, 30),
    )
    pick = _HypothesisPick(draw)
    return _world(pick, sizes, _settings(pick), span=40 * DAY, orphans=orphans)


def random_world(
    rng: random.Random,
    *,
    n_users: int = 6,
    n_items: int = 6,
    n_events: int = 40,
    n_queries: int = 30,
    settings: Settings | None = None,
    span: int = 40 * DAY,
    orphans: bool = False,
) -> World:
    """A world of exactly these sizes; most events lie within `span` microseconds of each other.

    `n_events` includes exact duplicates; `n_items` counts items, not their versions.
    """
    n_echoes = n_events // 4
    n_moments = max(1, n_events // 4)
    sizes = _Sizes(
        users=(n_users, n_users),
        items=(n_items, n_items),
        moments=(n_moments, n_moments),
        fresh_events=(n_events - n_echoes, n_events - n_echoes),
        echo_events=(n_echoes, n_echoes),
        queries=(n_queries, n_queries),
    )
    pick = _RandomPick(rng)
    return _world(pick, sizes, settings or _settings(pick), span=span, orphans=orphans)


def _settings(pick: _Pick) -> Settings:
    return Settings(
        delay=pick.choice(DELAYS),
        cadence=pick.choice(CADENCES),
        history_length=pick.choice(HISTORY_LENGTHS),
        positives_only=pick.choice((False, False, True)),
        has_conversions=pick.choice((True, True, False)),
    )


def _world(pick: _Pick, sizes: _Sizes, settings: Settings, *, span: int, orphans: bool) -> World:
    users = _ids(pick, "u", sizes.users)
    items = _ids(pick, "i", sizes.items)
    moments = _moments(pick, sizes.moments, settings, min(span, LAST - FIRST))

    active_users = users[: len(users) - pick.integer(0, len(users) // 3)]
    active_items = items[: len(items) - pick.integer(0, len(items) // 3)]
    if orphans:
        active_items = [*active_items, f"i{ORPHAN}"]
    events = _events(pick, sizes, settings, active_users, active_items, moments)

    items_versioned = pick.choice((True, False))
    embeddings_versioned = pick.choice((True, False))
    item_rows: list[ItemVersion] = []
    embedding_rows: list[EmbeddingVersion] = []
    for item_id in items:
        versions = _item_rows(pick, item_id, settings, moments, versioned=items_versioned)
        item_rows += versions
        embedding_rows += _embedding_rows(pick, item_id, versions, moments, versioned=embeddings_versioned)
    if orphans:
        updated_at = pick.choice(moments) if embeddings_versioned else None
        embedding_rows.append(EmbeddingVersion(f"i{ORPHAN}", updated_at, _vectors(pick)))

    marks = _content_marks(item_rows, embedding_rows)
    askable_users = [*users, f"u{STRANGER}"]
    askable_items = [*items, f"i{STRANGER}", *([f"i{ORPHAN}"] if orphans else [])]

    def query(pick: _Pick) -> tuple[str, str, int]:
        subject = pick.choice(("event", "event", "event", "content", "content", "stray"))
        jitter = pick.choice((0, 0, -1, 1))
        if subject == "event" and events:
            event = pick.choice(events)
            at = pick.choice(_event_marks(event.timestamp, settings)) + jitter
            return event.user_id, event.item_id, at
        if subject == "content":
            item_id, mark = pick.choice(marks)
            return pick.choice(askable_users), item_id, mark + pick.choice((settings.delay, 0)) + jitter
        at = pick.choice((*moments[:8], FIRST - DAY, LAST + 60 * DAY)) + pick.choice((0, settings.delay)) + jitter
        return pick.choice(askable_users), pick.choice(askable_items), at

    return World(
        settings=settings,
        events=pick.shuffled(events),
        items=pick.shuffled(item_rows),
        embeddings=pick.shuffled(embedding_rows),
        modalities=tuple(MODALITIES),
        queries=pick.repeat(sizes.queries, query),
    )


def _ids(pick: _Pick, prefix: str, size: tuple[int, int]) -> list[str]:
    """u3, u10, u17, ...: the second already sorts before the first; numbers 5 and 6 stay free."""
    return [f"{prefix}{7 * number + 3}" for number in range(pick.integer(*size))]


def _floor(time: int, step: int) -> int:
    return time // step * step


def _ceil(time: int, step: int) -> int:
    return -(-time // step) * step


def _in_range(time: int) -> int:
    return min(max(time, FIRST), LAST)


def _moments(pick: _Pick, size: tuple[int, int], settings: Settings, span: int) -> list[int]:
    """The times that the world turns around: some fresh, most at a telling distance from an earlier one."""
    base = pick.integer(FIRST, LAST - span)
    moments = [base]
    for _ in range(pick.integer(*size) - 1):
        origin = pick.choice(moments)
        kind = pick.choice(("fresh", "fresh", "tick", "midnight", "window", "delay", "cadence", "window tick"))
        if kind == "fresh":
            moment = pick.integer(base, base + span)
        elif kind == "tick":
            moment = _floor(origin, settings.cadence)
        elif kind == "midnight":
            moment = _floor(origin, DAY)
        elif kind == "window":  # one event enters as another leaves
            moment = origin + pick.choice(tuple(WINDOWS.values()))
        elif kind == "delay":
            moment = origin + settings.delay
        elif kind == "cadence":
            moment = origin + settings.cadence
        else:
            moment = _ceil(origin + pick.choice(tuple(WINDOWS.values())), settings.cadence)
        moments.append(_in_range(moment))
    return moments


def _events(
    pick: _Pick, sizes: _Sizes, settings: Settings, users: list[str], items: list[str], moments: list[int]
) -> list[Event]:
    labels = (1,) if settings.positives_only else (1, 0)
    conversions = (None, 0, 1) if settings.has_conversions else (None,)

    def fresh(pick: _Pick) -> Event:
        moment = pick.choice(moments)
        if pick.choice((False, False, True)):
            moment = _floor(moment, settings.cadence)
        return Event(
            user_id=pick.choice(users),
            item_id=pick.choice(items),
            timestamp=_in_range(moment + pick.choice((0, 0, 0, -1, 1))),
            label=pick.choice(labels),
            converted=pick.choice(conversions),
        )

    events = pick.repeat(sizes.fresh_events, fresh)
    if not events:
        return []

    def echo(pick: _Pick) -> Event:
        """An event that shares all, or all but one thing, with another."""
        event = pick.choice(events)
        kind = pick.choice(("duplicate", "label", "item", "user", "converted", "neighbour"))
        if kind == "label":
            return replace(event, label=pick.choice(labels))
        if kind == "item":
            return replace(event, item_id=pick.choice(items))
        if kind == "user":
            return replace(event, user_id=pick.choice(users))
        if kind == "converted":
            return replace(event, converted=pick.choice(conversions))
        if kind == "neighbour":
            return replace(event, timestamp=_in_range(event.timestamp + pick.choice((-1, 1))))
        return event

    return events + pick.repeat(sizes.echo_events, echo)


def _item_rows(
    pick: _Pick, item_id: str, settings: Settings, moments: list[int], *, versioned: bool
) -> list[ItemVersion]:
    # From long before the item's events to after them.
    shift = pick.choice((0, -1, 1, -settings.delay, -30 * DAY, -400 * DAY, DAY))
    created = pick.choice(moments) + shift

    def updated(pick: _Pick) -> int:
        step = pick.choice((0, 1, settings.delay, settings.cadence, DAY, 7 * DAY, None))
        return max(created, pick.choice(moments)) if step is None else created + step

    # A set keeps the version times of one item distinct.
    times: list[int | None] = [*sorted(set(pick.repeat((1, 4), updated)))] if versioned else [None]
    # Rows of one item mostly agree on when it was created, but the contract does not force them to.
    agree = pick.choice((True, True, False))
    rows = []
    for updated_at in times:
        row_created = created
        if not agree and updated_at is not None:
            row_created = pick.choice((created, created - 1, created - DAY, updated_at))
        lifetime = pick.choice((None, None, 1, settings.delay, DAY, 40 * DAY))
        rows.append(
            ItemVersion(
                item_id=item_id,
                created_at=row_created,
                updated_at=updated_at,
                removed_at=None if lifetime is None else row_created + lifetime,
                category=pick.choice(("shoes", "hats", "é", None)),
                price=pick.choice((9.5, 0.0, 1024.25, None)),
            )
        )
    return rows


def _embedding_rows(
    pick: _Pick, item_id: str, versions: list[ItemVersion], moments: list[int], *, versioned: bool
) -> list[EmbeddingVersion]:
    if not versioned:
        return [EmbeddingVersion(item_id, None, _vectors(pick)) for _ in range(pick.choice((1, 1, 0)))]
    first_created = min(item.created_at for item in versions)
    telling = [item.created_at for item in versions]
    telling += [item.updated_at for item in versions if item.updated_at is not None]
    telling += [first_created - DAY, first_created - 1]

    def updated(pick: _Pick) -> int:
        if pick.choice((True, True, False)):
            return pick.choice(telling) + pick.choice((0, 0, -1, 1))
        return pick.choice(moments)

    # Keyed by the time that counts, because all vectors older than the item count from its creation.
    times = {max(time, first_created): time for time in pick.repeat((0, 4), updated)}
    return [EmbeddingVersion(item_id, time, _vectors(pick)) for time in times.values()]


def _vectors(pick: _Pick) -> dict[str, tuple[float, ...] | None]:
    vectors: dict[str, tuple[float, ...] | None] = {}
    for modality, width in MODALITIES.items():
        missing = pick.choice((False, False, False, True))
        # Eighths are exact in float32, so a round trip through it changes nothing.
        vectors[modality] = None if missing else tuple(pick.integer(-16, 16) / 8 for _ in range(width))
    return vectors


def _event_marks(timestamp: int, settings: Settings) -> tuple[int, ...]:
    """The moments at which an event could start or stop to show, rightly or by a mistake."""
    delay, cadence = settings.delay, settings.cadence
    entry = _ceil(timestamp, cadence)
    exits = [_ceil(timestamp + window, cadence) + delay for window in WINDOWS.values()]
    late = [time - cadence for time in exits]
    return (
        timestamp + delay,
        entry + delay,
        *exits,
        timestamp,
        entry,
        _floor(timestamp, cadence) + delay,
        entry + delay + cadence,
        *late,
    )


def _content_marks(items: list[ItemVersion], embeddings: list[EmbeddingVersion]) -> list[tuple[str, int]]:
    marks = []
    for item in items:
        times = (item.updated_at, item.created_at, item.removed_at)
        marks += [(item.item_id, time) for time in times if time is not None]
    marks += [(row.item_id, row.updated_at) for row in embeddings if row.updated_at is not None]
    return marks
