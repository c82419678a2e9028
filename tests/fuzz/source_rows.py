"""Plain rows of the three tables, before any file type: right ones, and rows that break the contract."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SECOND, DAY = 1_000_000, 86_400_000_000
START = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp()) * SECOND
FAR_FUTURE = int(datetime(2150, 1, 1, tzinfo=UTC).timestamp()) * SECOND
NAN, INF = math.nan, math.inf
Row = dict[str, Any]


@dataclass
class Rows:
    """The rows of a source. Times are microseconds, UTC; ids are text; a missing value is None."""

    interactions: list[Row]
    items: list[Row]
    item_embeddings: list[Row]
    modalities: tuple[str, ...]
    whole_ids: bool
    """Ids are texts of whole numbers, so that they can be stored as integers."""
    notes: list[str] = field(default_factory=list)
    """What was done to them, in words."""

    def of(self, table: str) -> list[Row]:
        """The rows of one table."""
        found: list[Row] = getattr(self, table)
        return found


def draw_rows(draw: random.Random) -> Rows:
    """A valid source of about 120 events."""
    style = draw.choice(("text", "text", "whole", "mixed", "odd"))
    users, items = _ids(draw, style, "u", 9), _ids(draw, style, "i", 14)
    modalities = draw.choice((("text",), ("text", "image")))
    positives_only, conversions = draw.random() < 0.25, draw.random() < 0.4
    requests, versioned = draw.random() < 0.5, draw.random() < 0.25
    moments = [START + draw.randrange(40 * 86_400) * SECOND for _ in range(40)]
    events = []
    for number in range(draw.choice((40, 120, 120))):
        label = 1 if positives_only or number == 0 else int(draw.random() < 0.4) if number > 1 else 0
        event: Row = {
            "user_id": draw.choice(users), "item_id": draw.choice(items),
            "timestamp": draw.choice(moments) + draw.randrange(3) * SECOND,
            "label": label,
        }  # fmt: skip
        if conversions:
            event["converted"] = int(label == 1 and (number == 0 or draw.random() < 0.3))
        if requests:
            event |= {
                "request_id": draw.choice((f"r{number // 4}", f"r{number // 4}", None)),
                "position": draw.choice((number % 4, None)),
            }
        if draw.random() < 0.2:
            event["rating"] = draw.choice((0.5, 4.0, None))
        events.append(event)
    seen: dict[Any, Row] = {}
    for event in events:
        seen.setdefault(key_of(event), event)
    rows = Rows(list(seen.values()), [], [], modalities, style == "whole")
    for item in items:
        rows.items += _item(draw, item, versioned)
        vectors = {name: [draw.randrange(-8, 9) / 8 for _ in range(3)] for name in modalities}
        if draw.random() < 0.1 and item != items[0]:
            vectors[modalities[-1]] = None  # type: ignore[assignment]
        rows.item_embeddings.append({"item_id": item, **vectors})
    for name in ("interactions", "items", "item_embeddings"):
        draw.shuffle(rows.of(name))
    return rows


def key_of(event: Row) -> tuple[Any, ...]:
    """What makes an event the same event."""
    return tuple(event.get(name) for name in ("user_id", "item_id", "timestamp", "request_id", "position"))


def _ids(draw: random.Random, style: str, prefix: str, count: int) -> list[str]:
    if style == "whole":
        return [str(number * 7) for number in range(count)]
    if style == "mixed":
        return [(f"{number}", f"00{number - 1}", f"{prefix}{number}")[number % 3] for number in range(count)]
    if style == "odd":
        odd = [
            "a,b",
            " lead",
            "trail ",
            "it's",
            'q"q',
            "new\nline",
            "ünï",
            "日本",
            "x" * 900,
            "A",
            "a",
            "--x",
            "%s",
            "1e5",
            "NaN",
            "null",
            "-0",
        ]
        return [f"{prefix}{number}" for number in range(count - 6)] + draw.sample(odd, 6)
    return [f"{prefix}{number}" for number in range(count)]


def _item(draw: random.Random, item: str, versioned: bool) -> list[Row]:
    created = (
        START - draw.randrange(1, 40) * DAY if draw.random() < 0.7 else START + draw.randrange(20 * 86_400) * SECOND
    )
    row: Row = {
        "item_id": item, "created_at": created, "title": f"title of {item}", "category": draw.choice(("shoes", "ünï", None)),
        "price": draw.choice((9.5, 0.0, 1024.25, None)),
    }  # fmt: skip
    if not versioned:
        return [row]
    times = sorted({created + draw.choice((0, DAY, 3 * DAY, 20 * DAY)) for _ in range(draw.randint(1, 2))})
    return [{**row, "updated_at": time, "price": draw.choice((9.5, 2.25, None))} for time in times]


Defect = Callable[[random.Random, Rows], None]


def _event(draw: random.Random, rows: Rows, **values: Any) -> None:
    rows.interactions.insert(draw.randrange(len(rows.interactions) + 1), {**draw.choice(rows.interactions), **values})


def bad_event(draw: random.Random, rows: Rows) -> None:
    """Some rows of which one value breaks the contract."""
    values: list[tuple[str, Any]] = [
        ("user_id", None), ("user_id", ""), ("item_id", None), ("item_id", ""), ("timestamp", None), ("timestamp",
        -1), ("timestamp", -(10**15)),
        ("timestamp", FAR_FUTURE), ("label", None), ("label", 2), ("label", -1), ("label", 0.5), ("label", NAN),
        ("label", 1.7), ("position", INF),
        ("position", 1.5), ("position", 3e9), ("converted", 3), ("converted", 0.5), ("rating", INF), ("rating", -INF),
        ("item_id", "404"),
    ]  # fmt: skip
    if not rows.whole_ids:
        values += [
            ("item_id", "i404"),
            ("item_id", rows.items[0]["item_id"] + " "),
            ("item_id", rows.items[0]["item_id"].upper() + "x"),
        ]
    for name, value in draw.sample(values, draw.choice((1, 2, 4))):
        _event(draw, rows, **{name: value})
        rows.notes.append(f"interactions: {name} = {value!r}")


def missing_number(draw: random.Random, rows: Rows) -> None:
    """NaN is what pandas writes for a missing number: a valid row."""
    for name in draw.sample(("position", "rating", "converted"), 2):
        if name != "converted" or any(event.get("converted") is not None for event in rows.interactions):
            _event(draw, rows, **{name: NAN, "timestamp": START + draw.randrange(10**6) * SECOND})
            rows.notes.append(f"interactions: {name} = NaN")


def second_event(draw: random.Random, rows: Rows) -> None:
    """The same event again: as it is, with the other label, or with another rating."""
    kind = draw.choice(("exact", "label", "rating", "thrice"))
    for event in draw.sample(rows.interactions, min(4, len(rows.interactions))):
        if event["label"] not in (0, 1) or not event["user_id"]:
            continue
        if kind == "label":
            again = {**event, "label": 1, **({"converted": 0} if "converted" in event else {})}
            plain = {**event, "label": 0, **({"converted": 0} if "converted" in event else {})}
            event.update(plain if draw.random() < 0.5 else again)
            rows.interactions.append(again if event["label"] == 0 else plain)
        elif kind == "rating":
            rows.interactions.append({**event, "rating": 3.5})
        else:
            rows.interactions += [dict(event)] * (2 if kind == "thrice" else 1)
    rows.notes.append(f"interactions: the same event again, {kind}")


def bad_item(draw: random.Random, rows: Rows) -> None:
    """Items whose row breaks the contract; their events are then of no known item."""
    values: list[tuple[str, Any]] = [
        ("item_id", None), ("item_id", ""), ("created_at", None), ("created_at", -1), ("price", INF), ("removed_at",
        0), ("removed_at", START - 400 * DAY),
    ]  # fmt: skip
    for name, value in draw.sample(values, draw.choice((1, 2))):
        draw.choice(rows.items)[name] = value
        rows.notes.append(f"items: {name} = {value!r}")


def second_item(draw: random.Random, rows: Rows) -> None:
    """An item twice, with another title."""
    row = draw.choice(rows.items)
    rows.items.append({**row, "title": "another title"})
    rows.notes.append("items: one twice")


def bad_vector(draw: random.Random, rows: Rows) -> None:
    """Vectors that are none."""
    vectors: list[Any] = [
        [NAN, 0.0, 0.0],
        [None, 0.0, 1.0],
        [],
        [1.0, 2.0],
        [1.0] * 4,
        [INF, 0.0, 0.0],
        [1e39, 0.0, 0.0],
    ]
    for vector in draw.sample(vectors, draw.choice((1, 2))):
        draw.choice(rows.item_embeddings)[rows.modalities[0]] = vector
        rows.notes.append(f"item_embeddings: {vector}")


def large_vector(draw: random.Random, rows: Rows) -> None:
    """A vector that is finite and so long that its square is not."""
    draw.choice(rows.item_embeddings)[rows.modalities[0]] = [2.0**100, -(2.0**100), 2.0**100]
    rows.notes.append("item_embeddings: [2 ** 100, ...]")


def stray_vector(draw: random.Random, rows: Rows) -> None:
    """A vector of no item, or a second one."""
    row = draw.choice(rows.item_embeddings)
    rows.item_embeddings.append({**row, "item_id": draw.choice(("405", row["item_id"], None, ""))})
    rows.notes.append(f"item_embeddings: one more of {rows.item_embeddings[-1]['item_id']!r}")


def one_label(draw: random.Random, rows: Rows) -> None:
    """No positive at all, or one only."""
    keep = draw.choice((0, 1))
    for place, event in enumerate(rows.interactions):
        event["label"] = int(place < keep)
        if event.get("converted") == 1:
            event["converted"] = 0
    rows.notes.append(f"interactions: {keep} positives")


def few_rows(draw: random.Random, rows: Rows) -> None:
    """A handful of events, one user, or one item."""
    kind = draw.choice(("events", "user", "item"))
    if kind == "events":
        positive = next(event for event in rows.interactions if event["label"] == 1)
        rows.interactions = [positive, *draw.sample(rows.interactions, 2)]
        rows.interactions = list({key_of(event): event for event in rows.interactions}.values())
    else:
        name = f"{kind}_id"
        value = rows.interactions[0][name]
        rows.interactions = list(
            {key_of(event): event for event in ({**event, name: value} for event in rows.interactions)}.values()
        )
    rows.notes.append(f"interactions: few, by {kind}")


def wrong_unit(draw: random.Random, rows: Rows) -> None:
    """Seconds that were read as microseconds: all times lie within an hour of 1970."""
    for event in rows.interactions:
        if event["timestamp"] is not None:
            event["timestamp"] //= SECOND
    for item in rows.items:
        for name in ("created_at", "updated_at"):
            if item.get(name) is not None:
                item[name] = 0 if name == "created_at" else 1
    rows.notes.append("interactions: times within an hour of 1970")


DEFECTS: tuple[tuple[Defect, int], ...] = (
    (bad_event, 6), (missing_number, 2), (second_event, 4), (bad_item, 3), (second_item, 1), (bad_vector, 3),
    (large_vector, 1), (stray_vector, 2),
    (one_label, 1), (few_rows, 1), (wrong_unit, 1),
)  # fmt: skip


def spoil(draw: random.Random, rows: Rows) -> None:
    """Up to three defects of rows."""
    for defect in draw.choices(
        [found for found, _ in DEFECTS], [weight for _, weight in DEFECTS], k=draw.choice((0, 1, 1, 2, 3))
    ):
        defect(draw, rows)


def exported_again(draw: random.Random, rows: Rows) -> None:
    """The next export of the same log: some rows have later-known values, some are new, some old ones late."""
    clicks = [event for event in rows.interactions if event["label"] == 1 and event["user_id"] and event["item_id"]]
    if any("converted" in event for event in rows.interactions):
        for event in draw.sample(clicks, min(5, len(clicks))):
            event["converted"] = 1
    plain = [event for event in rows.interactions if event["label"] == 0]
    if len(plain) > 20 and len(clicks) > 20:
        for event in draw.sample(plain, 2):
            event["label"] = 1
        corrected = draw.choice(clicks)
        corrected["label"] = 0
        if corrected.get("converted"):
            corrected["converted"] = 0
    for _ in range(5):
        time = START + draw.choice((draw.randrange(40 * 86_400), 41 * 86_400 + draw.randrange(86_400))) * SECOND
        model = draw.choice(rows.interactions)
        new = {**model, "timestamp": time}
        if model["label"] in (0, 1) and not any(key_of(new) == key_of(event) for event in rows.interactions):
            rows.interactions.append(new)
    rows.notes.append("exported again: later-known values, late and new rows")
