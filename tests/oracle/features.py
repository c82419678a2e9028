"""What could serving have read for this key at that moment? The slow, obvious answer.

All times are plain ints: microseconds since the Unix epoch, UTC. Nothing here comes from the kit under test.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SECOND = 1_000_000
DAY = 86_400 * SECOND
WINDOWS = {"1d": DAY, "7d": 7 * DAY, "30d": 30 * DAY}


@dataclass(frozen=True)
class Event:
    """One row of the interaction log."""

    user_id: str
    item_id: str
    timestamp: int
    label: int
    converted: int | None = None
    request_id: str | None = None
    position: int | None = None


@dataclass(frozen=True)
class ItemVersion:
    """One row of the items table."""

    item_id: str
    created_at: int
    updated_at: int | None
    removed_at: int | None
    category: str | None
    price: float | None


@dataclass(frozen=True)
class EmbeddingVersion:
    """One row of the embeddings table; `vectors` maps a modality to its vector, or to None."""

    item_id: str
    updated_at: int | None
    vectors: dict[str, tuple[float, ...] | None]


@dataclass(frozen=True)
class Settings:
    """What the answers depend on besides the data; `delay` and `cadence` are microseconds."""

    delay: int
    cadence: int
    history_length: int
    positives_only: bool
    has_conversions: bool


def _one_per_key(events: Iterable[Event]) -> list[Event]:
    """A click wins over the plain impression of the same key, and a conversion over none."""
    found: dict[tuple[str, str, int, str | None, int | None], Event] = {}
    for event in events:
        key = (event.user_id, event.item_id, event.timestamp, event.request_id, event.position)
        other = found.get(key, event)
        known = [row.converted for row in (event, other) if row.converted is not None]
        found[key] = replace(event, label=max(event.label, other.label), converted=max(known, default=None))
    return list(found.values())


@dataclass
class _Counted:
    """Sorted event times of one key: every event, the clicks, the conversions."""

    exposures: list[int] = field(default_factory=list)
    clicks: list[int] = field(default_factory=list)
    conversions: list[int] = field(default_factory=list)


def _within(times: list[int], after: int, until: int) -> int:
    """How many of the sorted times lie in (after, until]."""
    return bisect_right(times, until) - bisect_right(times, after)


class Oracle:
    """Answers per key and moment, computed from the whole log each time; None = serving had no row yet."""

    def __init__(
        self,
        settings: Settings,
        events: Iterable[Event],
        items: Iterable[ItemVersion],
        embeddings: Iterable[EmbeddingVersion],
        modalities: Sequence[str],
    ) -> None:
        if settings.delay <= 0 or settings.cadence <= 0 or settings.history_length <= 0:
            raise ValueError(f"delay, cadence and history_length must be positive: {settings}")
        self._settings = settings
        self._modalities = tuple(modalities)

        # A log's order says nothing. Rows of one key are one event: drop the others, then sort by time.
        log = sorted(_one_per_key(events), key=lambda event: event.timestamp)
        for event in log:
            _check(event, settings)
        self._by_item: dict[str, _Counted] = defaultdict(_Counted)
        self._by_user: dict[str, _Counted] = defaultdict(_Counted)
        self._positives: dict[str, list[Event]] = defaultdict(list)
        for event in log:
            for counted in (self._by_item[event.item_id], self._by_user[event.user_id]):
                counted.exposures.append(event.timestamp)
                if event.label == 1:
                    counted.clicks.append(event.timestamp)
                if event.converted == 1:
                    counted.conversions.append(event.timestamp)
            if event.label == 1:
                self._positives[event.user_id].append(event)
        for positives in self._positives.values():
            positives.sort(key=lambda event: (-event.timestamp, event.item_id))  # newest first, ties by item id

        self._contents: dict[str, list[tuple[int, ItemVersion]]] = defaultdict(list)
        for item in items:
            if item.updated_at is not None and item.updated_at < item.created_at:
                raise ValueError(f"updated before it was created: {item}")
            self._contents[item.item_id].append((_item_time(item), item))
        for contents in self._contents.values():
            contents.sort(key=lambda pair: pair[0])
            if len({time for time, _ in contents}) < len(contents):
                raise ValueError(f"two versions of one item at one time: {contents}")

        self._vectors: dict[str, list[tuple[int, EmbeddingVersion]]] = defaultdict(list)
        for embedding in embeddings:
            if embedding.item_id not in self._contents:
                continue  # no content row can exist without the item, so its vectors never show
            first_created = min(item.created_at for _, item in self._contents[embedding.item_id])
            self._vectors[embedding.item_id].append((_embedding_time(embedding, first_created), embedding))
        for vectors in self._vectors.values():
            raw_times = [embedding.updated_at for _, embedding in vectors]
            if len(set(raw_times)) < len(raw_times):
                raise ValueError(f"two embeddings of one item with one updated_at: {vectors}")
            # Several embeddings older than the item all count from its creation: then the newest of them holds.
            vectors.sort(key=lambda pair: (pair[0], -1 if pair[1].updated_at is None else pair[1].updated_at))

    def item_stats(self, item_id: str, at: int) -> dict[str, int | None] | None:
        """Exposures, clicks and conversions of the item over each window."""
        return self._stats(self._by_item.get(item_id), at, conversions=True)

    def user_stats(self, user_id: str, at: int) -> dict[str, int | None] | None:
        """Exposures and clicks of the user over each window."""
        return self._stats(self._by_user.get(user_id), at, conversions=False)

    def _stats(self, counted: _Counted | None, at: int, *, conversions: bool) -> dict[str, int | None] | None:
        # The last window end that has become readable; // floors below zero too.
        end = (at - self._settings.delay) // self._settings.cadence * self._settings.cadence
        if counted is None or counted.exposures[0] > end:
            return None
        columns: dict[str, list[int] | None] = {
            "exposures": None if self._settings.positives_only else counted.exposures,
            "clicks": counted.clicks,
        }
        if conversions:
            columns["conversions"] = counted.conversions if self._settings.has_conversions else None
        answer: dict[str, int | None] = {}
        for name, window in WINDOWS.items():
            for column, times in columns.items():
                answer[f"{column}_{name}"] = None if times is None else _within(times, end - window, end)
        for column, times in columns.items():
            answer[f"{column}_all"] = None if times is None else bisect_right(times, end)
        return answer

    def user_history(self, user_id: str, at: int) -> dict[str, list[Any]] | None:
        """The user's last positives, newest first."""
        positives = self._positives.get(user_id, [])
        # Times fall along this list, so search on their negatives for the first one that is readable.
        start = bisect_left(positives, self._settings.delay - at, key=lambda event: -event.timestamp)
        readable = positives[start : start + self._settings.history_length]
        if not readable:
            return None
        return {
            "item_ids": [event.item_id for event in readable],
            "timestamps_us": [event.timestamp for event in readable],
        }

    def item_content(self, item_id: str, at: int) -> dict[str, Any] | None:
        """The item's latest readable attributes, with its latest readable vectors."""
        readable_until = at - self._settings.delay
        items = [item for time, item in self._contents.get(item_id, []) if time <= readable_until]
        if not items:
            return None
        item = items[-1]
        embeddings = [embedding for time, embedding in self._vectors.get(item_id, []) if time <= readable_until]
        answer: dict[str, Any] = {}
        for modality in self._modalities:
            # The latest row decides for every modality: a null in it is not filled from an older row.
            vector = embeddings[-1].vectors.get(modality) if embeddings else None
            answer[modality] = None if vector is None else list(vector)
        answer["category"] = item.category
        answer["price"] = item.price
        answer["created_at_us"] = item.created_at
        return answer


def _item_time(item: ItemVersion) -> int:
    return item.created_at if item.updated_at is None else item.updated_at


def _embedding_time(embedding: EmbeddingVersion, first_created: int) -> int:
    # Vectors made ahead of the item belong to it only from its creation.
    return first_created if embedding.updated_at is None else max(embedding.updated_at, first_created)


def _check(event: Event, settings: Settings) -> None:
    """Refuse a log that its settings contradict: its answers would have no agreed meaning."""
    if event.label not in (0, 1) or event.converted not in (None, 0, 1):
        raise ValueError(f"label or converted out of range: {event}")
    if settings.positives_only and event.label != 1:
        raise ValueError(f"not a positive in a positives-only log: {event}")
    if not settings.has_conversions and event.converted is not None:
        raise ValueError(f"a conversion in a log without conversions: {event}")
