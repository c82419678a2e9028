"""Damaged rows on a Redis server: found by reading all rows of a repository's views, and deleted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.checksums import all_intact
from sidkit.stores.online.codec import layout_number
from sidkit.stores.online.redis_database import PackedRedis
from sidkit.stores.online.redis_reading import RedisReading


@dataclass
class RedisDamage:
    """Damage of one view: its damaged rows (key, row), and whether its layouts are damaged, so that no row can be read."""

    rows: list[tuple[bytes, bytes]] = field(default_factory=list)
    layouts: bool = False

    @property
    def count(self) -> int:
        """Number of damaged rows, at least one if the layouts are damaged."""
        return len(self.rows) or int(self.layouts)


def find_redis_damage(database: PackedRedis, views: Sequence[str]) -> dict[str, RedisDamage]:
    """Read all rows of views; those that have no table are left out.

    Raises
    ------
    OnlineStoreError
        When the server cannot be read.
    """
    with database.reading() as reading:
        existing = set(reading.views())
        found = {view: _damage(reading, view) for view in views if view in existing}
    return {view: damage for view, damage in found.items() if damage.count}


def repair_redis(database: PackedRedis, views: Sequence[str]) -> dict[str, RedisDamage]:
    """Delete damaged rows, and drop views whose layouts are damaged; returns the damage before.

    A damaged row that a writer replaces meanwhile stays as the writer left it.
    """
    damaged = find_redis_damage(database, views)
    for view, damage in damaged.items():
        with database.writing() as writing:
            if damage.layouts:
                writing.drop(view)
            else:
                writing.delete_exact(view, damage.rows)
    return damaged


def _damage(reading: RedisReading, view: str) -> RedisDamage:
    try:
        layouts = reading.layouts(view)
    except OnlineStoreError:
        return RedisDamage(layouts=True)
    rows = [
        (key, row)
        for key, row in reading.scan(view)
        if not all_intact(view, [key], [row]) or layout_number(row) not in layouts
    ]
    return RedisDamage(list(dict(rows).items()))
