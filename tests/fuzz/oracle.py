"""What the contract says of plain rows, written down once more; no code of the kit is used."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from oracle.features import EmbeddingVersion, Event, ItemVersion

from .source_rows import DAY, Row, Rows, key_of

_FIRST_EVENT = 365 * DAY
"""1971: a clock that was never set says 1970."""
_HIGHEST = 3.4028235e38
"""The largest float32."""
_HIGHEST_ELEMENT = 1e15
"""The largest element of a vector."""


@dataclass
class Expected:
    """What must be in the log, and what must not."""

    events: list[Event] = field(default_factory=list)
    items: list[ItemVersion] = field(default_factory=list)
    embeddings: list[EmbeddingVersion] = field(default_factory=list)
    invalid: Counter[str] = field(default_factory=Counter)
    """Table -> rows that break the contract."""
    repeated: Counter[str] = field(default_factory=Counter)
    """Table -> valid rows beyond the first of their key."""
    hopeless: list[str] = field(default_factory=list)
    """Why the source must be refused as a whole."""
    doubtful: list[str] = field(default_factory=list)
    """Why it may be."""


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _flag(value: Any) -> bool:
    return not _missing(value) and value in (0, 1)


def valid_event(row: Row, now_us: int) -> bool:
    """Whether one row of ``interactions`` keeps the contract by itself."""
    position, rating, converted, at = (row.get(name) for name in ("position", "rating", "converted", "timestamp"))
    return bool(
        row["user_id"]
        and row["item_id"]
        and at is not None
        and _FIRST_EVENT <= at <= now_us
        and _flag(row["label"])
        and (_missing(converted) or _flag(converted))
        and (_missing(position) or (math.isfinite(position) and position == int(position) and abs(position) < 2**31))
        and (_missing(rating) or abs(rating) <= _HIGHEST)
    )


def valid_item(row: Row) -> bool:
    """Whether one row of ``items`` keeps the contract by itself."""
    created, price = row["created_at"], row.get("price")
    return bool(
        row["item_id"]
        and created is not None
        and created >= 0
        and all(row.get(name) is None or row[name] >= created for name in ("updated_at", "removed_at"))
        and (_missing(price) or abs(price) <= _HIGHEST)
    )


def valid_vector(vector: list[float | None] | None) -> bool:
    """Whether a vector is one; a missing one is right."""
    return vector is None or (
        bool(vector)
        and all(value is not None and math.isfinite(value) and abs(value) <= _HIGHEST_ELEMENT for value in vector)
    )


def expected(rows: Rows, *, keep_unknown: bool, before: Expected | None = None) -> Expected:
    """What an ingest of these rows leads to, after an earlier one."""
    found = Expected()
    now_us = time.time_ns() // 1_000
    _items(found, rows)
    known = {item.item_id for item in found.items} | ({item.item_id for item in before.items} if before else set())
    _embeddings(found, rows, {item.item_id for item in found.items})
    good = [row for row in rows.interactions if valid_event(row, now_us) and (keep_unknown or row["item_id"] in known)]
    found.invalid["interactions"] = len(rows.interactions) - len(good)
    merged = _merged(good)
    found.repeated["interactions"] = len(good) - len(merged)
    if before:
        merged = {(e.user_id, e.item_id, e.timestamp, e.request_id, e.position): e for e in before.events} | merged
    found.events = list(merged.values())
    labels = {event.label for event in found.events}
    if 1 not in labels:
        found.hopeless.append("no positive is left")
    if not found.items or not any(any(row.vectors.values()) for row in found.embeddings):
        found.hopeless.append("no item or no vector is left")
    if not any(row.converted is not None for row in found.events) and any(
        not _missing(row.get("converted")) for row in rows.interactions
    ):
        found.doubtful.append("'converted' holds no valid value")
    if 0 not in labels and any(row["label"] == 0 for row in rows.interactions):
        found.doubtful.append("no valid plain impression is left")
    times = [
        row["timestamp"] for row in rows.interactions if row["timestamp"] is not None and row["timestamp"] <= now_us
    ]
    if times and max(times) < _FIRST_EVENT:
        found.hopeless.append("all times lie within days of 1970")
    for column in ("created_at", "updated_at", "removed_at"):
        times = [row[column] for row in rows.items if row.get(column) is not None]
        if times and 0 < max(times) < _FIRST_EVENT:
            found.doubtful.append(f"all values of {column} lie within days of 1970")
    return found


def _merged(rows: Iterable[Row]) -> dict[tuple[Any, ...], Event]:
    merged: dict[tuple[Any, ...], Event] = {}
    for row in rows:
        plain = {name: None if _missing(value) else value for name, value in row.items()}
        position = plain.get("position")
        converted = plain.get("converted")
        event = Event(
            plain["user_id"], plain["item_id"], plain["timestamp"], int(plain["label"]),
            None if converted is None else int(converted),
            plain.get("request_id"), None if position is None else int(position),
        )  # fmt: skip
        key = key_of({**plain, "position": event.position})
        if (other := merged.get(key)) is not None:
            known = [row.converted for row in (event, other) if row.converted is not None]
            event = replace(event, label=max(event.label, other.label), converted=max(known, default=None))
        merged[key] = event
    return merged


def _items(found: Expected, rows: Rows) -> None:
    versioned = any("updated_at" in row for row in rows.items)
    held: dict[Any, Row] = {}
    for row in rows.items:
        if not valid_item(row):
            found.invalid["items"] += 1
            continue
        updated = row.get("updated_at")
        key = (row["item_id"], row["created_at"] if updated is None else updated) if versioned else row["item_id"]
        if key in held:
            found.repeated["items"] += 1
        else:
            held[key] = row
    found.items = [
        ItemVersion(
            row["item_id"], row["created_at"], row.get("updated_at"), row.get("removed_at"), row.get("category"),
            None if _missing(row.get("price")) else row.get("price"),
        )
        for row in held.values()
    ]  # fmt: skip


def _embeddings(found: Expected, rows: Rows, known: set[str]) -> None:
    good = []
    for row in rows.item_embeddings:
        if row["item_id"] in known and all(valid_vector(row[name]) for name in rows.modalities):
            good.append(row)
        else:
            found.invalid["item_embeddings"] += 1
    widths = {}
    for name in rows.modalities:
        counts = Counter(len(row[name]) for row in good if row[name] is not None)
        widths[name] = counts.most_common(1)[0][0] if counts else 0
    held: dict[str, Row] = {}
    for row in good:
        if any(row[name] is not None and len(row[name]) != widths[name] for name in rows.modalities):
            found.invalid["item_embeddings"] += 1
        elif row["item_id"] in held:
            found.repeated["item_embeddings"] += 1
        else:
            held[row["item_id"]] = row
    found.embeddings = [
        EmbeddingVersion(row["item_id"], None,
        {name: None if row[name] is None else tuple(row[name]) for name in rows.modalities})
        for row in held.values()
    ]  # fmt: skip


def auc(labels: Iterable[int], scores: Iterable[float]) -> float | None:
    """The share of (positive, negative) pairs in the right order, ties count half; None without both."""
    pairs = list(zip(labels, scores, strict=True))
    positives = [score for label, score in pairs if label == 1]
    negatives = [score for label, score in pairs if label == 0]
    if not positives or not negatives:
        return None
    wins = sum((up > down) + (up == down) / 2 for up in positives for down in negatives)
    return wins / (len(positives) * len(negatives))
