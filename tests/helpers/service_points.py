"""Where a command changes Postgres or Redis: each such point is a place to be killed, in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

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
