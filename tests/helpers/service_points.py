"""Where a command changes Postgres or Redis: each such point is a place to be killed, in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.kill_points import Points

_WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")


def kill_at(number: int) -> None:
    """Let this process die at one of its points, counted from 0."""
    import sqlalchemy as sa

    from sidkit.stores.online.redis_writing import RedisWriting

    seen = 0
    is_changed = False

    def reach() -> None:
        nonlocal seen
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    def around(name: str) -> None:
        original: Callable[..., Any] = getattr(RedisWriting, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            reach()
            found = original(*arguments, **named)
            reach()
            return found

        setattr(RedisWriting, name, watched)

    for name in ("make", "put", "outdate", "drop_outdated", "drop"):
        around(name)

    def executed(_: Any, __: Any, statement: str, *___: Any) -> None:
        nonlocal is_changed
        if statement.lstrip().upper().startswith(_WRITES):
            is_changed = True
            reach()

    def committed(_: Any) -> None:
        nonlocal is_changed
        if is_changed:
            is_changed = False
            reach()

    sa.event.listen(sa.Engine, "before_cursor_execute", executed)
    sa.event.listen(sa.Engine, "commit", committed)


SERVICES = ("postgres", "redis")
_ROWS_AT_ONCE = 25
"""Rows that a script writes: a view arrives in parts."""
_VIEW = re.compile(r"\{(\w+)\}")


class ServicePoints(Points):
    """Points of a repository whose registry and catalogue are in Postgres, and whose online store is in Redis.

    Parameters
    ----------
    root, at
        See :class:`Points`.
    changes : callable
        Returns a counter per service that grows with every change.
    """

    def __init__(self, root: Path, at: int | None, changes: Callable[[], dict[str, tuple[int, ...]]]) -> None:
        self._changes = changes
        super().__init__(root, at)

    def lasting(self) -> dict[str, tuple[int, ...]]:
        """See :meth:`Points.lasting`."""
        return {**super().lasting(), **self._changes()}

    def watch(self) -> None:
        """See :meth:`Points.watch`."""
        from redis import Redis
        from redis.client import Pipeline

        from sidkit.stores.online import redis_scripts, redis_writing

        super().watch()
        redis_writing._PUT_ROWS, redis_writing._PUT_SCRIPTS = _ROWS_AT_ONCE, 1
        scripts = ("PUT", "REPLACE", "DROP_OUTDATED", "DELETE_EXACT", "DROP_EXPIRED")
        names = {redis_scripts.digest(getattr(redis_scripts, name)): name for name in scripts}
        self.around(Pipeline, "execute", lambda sent, *_, **__: _sent([each[0] for each in sent.command_stack], names))
        self.around(Redis, "execute_command", lambda _, *command, **__: _sent([command], names))

    def committed(self, connection: Any) -> str | None:
        """The part of Postgres that a commit changes, if it changes one; SQLite files as elsewhere."""
        plain = getattr(connection, "dbapi_connection", connection)  # without the pool's wrapper
        if isinstance(plain, sqlite3.Connection):
            return super().committed(connection)
        if not plain.info.transaction_status:
            return None
        [number] = plain.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
        part = "catalogue" if "search_path" in plain.info.get_parameters().get("options", "") else "registry"
        return None if number is None else f"commit {part} postgres"


_CHANGING = {"HSET", "HSETNX", "HDEL", "SADD", "SREM", "UNLINK", "DEL"}


def _sent(commands: list[tuple[Any, ...]], scripts: dict[str, str]) -> str | None:
    """What changes on a Redis server by commands that are sent together; None if nothing does."""
    found = [
        (scripts.get(command[1]) if command[0] == "EVALSHA" else command[0] if command[0] in _CHANGING else None)
        for command in commands
    ]
    if not any(found):
        return None
    views = _VIEW.findall(" ".join(str(each) for command in commands for each in command[1:4]))
    return f"{'+'.join(dict.fromkeys(filter(None, found)))} of {views[0] if views else 'views'} redis"
