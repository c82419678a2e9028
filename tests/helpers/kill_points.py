"""Where a command makes something lasting: counted, watched for gaps, and each a place to be killed."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PASSING = re.compile(
    r"(^|/)\.writing-"  # what a killed writer leaves beside; the next one removes it
    r"|(^|/)data/tmp(/|$)"
    r"|(^|/)__pycache__(/|$)"
    r"|\.sqlite-(journal|shm)$"  # a write-ahead log holds what was committed, so it counts
    r"|^\.sidkit\.lock$"  # the lock is the kernel's; the file only names its holder
)


def lasting_files(root: Path) -> dict[str, tuple[int, ...]]:
    """What counts of the files under ``root``: path -> inode, size and time of change. Empty files count as absent."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 (called twice per point, thousands of times)
            try:
                told = os.lstat(path)
            except FileNotFoundError:
                continue
            short = os.path.relpath(path, root)
            if stat.S_ISREG(told.st_mode) and told.st_size and not _PASSING.search(short):
                found[short] = (told.st_ino, told.st_size, told.st_mtime_ns)
    return found


class Points:
    """Counts the points of a run and kills the process at one of them.

    Parameters
    ----------
    root : Path
        Only what lies under it counts.
    at : int, str or None
        The point to die at, by its number or its name. Without one every file is looked after: ``gaps`` lists those that
        changed between two points, and not at one.
    """

    def __init__(self, root: Path, at: int | str | None = None) -> None:
        self.root = root
        self.at = at
        self.seen: list[str] = []
        self.gaps: list[str] = []
        self._within = 0
        self._files = self._look()

    def _look(self) -> dict[str, tuple[int, ...]]:
        return self.lasting() if self.at is None else {}

    def lasting(self) -> dict[str, tuple[int, ...]]:
        """What a gap would change."""
        return lasting_files(self.root)

    def compare(self, where: str) -> None:
        """Note what changed since the last point."""
        files = self._look()
        changed = sorted(path for path in files.keys() | self._files.keys() if files.get(path) != self._files.get(path))
        self.gaps += [f"{path}, by the time of {where}" for path in changed]

    def reach(self, point: str) -> None:
        if self.at in (len(self.seen), point):
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(point)

    def around(self, owner: Any, name: str, told: Callable[..., str | None]) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            what = told(*arguments, **named)
            if not what:
                return original(*arguments, **named)
            if not self._within:
                self.compare(f"before {what}")
            self.reach(f"before {what}")
            self._within += 1
            try:
                return original(*arguments, **named)
            finally:
                self._within -= 1
                if not self._within:
                    self._files = self._look()
                self.reach(f"after {what}")

        setattr(owner, name, watched)

    def watch(self) -> None:
        """Wrap everything by which a command leaves something lasting. Only ever done in a process of its own."""
        import sqlalchemy as sa
        from sqlalchemy.engine.default import DefaultDialect

        from semantic_ids.pretrained.cache import VectorCache
        from sidkit.stores.online import erase
        from sidkit.stores.online.sqlite_transactions import FileWriting

        self.around(Path, "rename", lambda path, target: self._file("rename", target))
        self.around(Path, "replace", lambda path, target: self._file("replace", target))
        self.around(os, "unlink", lambda path, *, dir_fd=None: self._file("unlink", path, dir_fd))
        self.around(os, "rmdir", lambda path, *, dir_fd=None: self._file("rmdir", path, dir_fd))
        self.around(DefaultDialect, "do_commit", lambda _, connection: self.committed(connection))
        # Feast writes some facts in a savepoint without a transaction around it: its release is a commit.
        self.around(DefaultDialect, "do_release_savepoint", lambda _, held, __: _released(held))
        self.around(sa.MetaData, "create_all", lambda _, bind, **__: _making(bind))
        connect = sqlite3.connect
        sqlite3.connect = lambda *where, **named: connect(*where, factory=_Connection, **named)  # type: ignore[assignment]
        self.around(_Connection, "execute", _stored)
        self.around(_Connection, "close", lambda opened: _if_online(opened, "closing of"))
        self.around(
            FileWriting, "make", lambda writing, view, _: None if view in writing.views() else f"making of {view}"
        )
        self.around(
            FileWriting, "drop", lambda writing, view: f"dropping of {view}" if view in writing.views() else None
        )
        self.around(FileWriting, "put", lambda _, view, *__: f"rows of {view}")
        self.around(erase, "compact", lambda opened: _if_online(opened, "compacting of"))
        self.around(VectorCache, "__init__", lambda *_: "making of vectors")
        self.around(VectorCache, "put", lambda *_, **__: "commit of vectors")

    def committed(self, connection: Any) -> str | None:
        """The database that a commit changes, if it changes one."""
        return _committed(connection) if connection.in_transaction else None

    def _file(self, verb: str, path: Any, folder: int | None = None) -> str | None:
        full = Path(os.readlink(f"/proc/self/fd/{folder}") if folder is not None else "", path).absolute()  # noqa: PTH115
        if self.root not in full.parents or _PASSING.search(full.relative_to(self.root).as_posix()):
            return None
        return f"{verb} {full.name}"


_INTO_WAL = "PRAGMA journal_mode = WAL"


class _Connection(sqlite3.Connection):
    """One whose methods can be watched."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        found = super().execute(statement, *values)
        if statement == _INTO_WAL:
            found.fetchall()  # what it writes is written when its answer has been read
        return found


def _stored(opened: sqlite3.Connection, statement: str, *_: Any) -> str | None:
    """The step of the online store that a statement is, if it makes something lasting."""
    verb = {"COMMIT": "commit", _INTO_WAL: "beginning of"}.get(statement)
    return _if_online(opened, verb) if verb else None


def _if_online(opened: sqlite3.Connection, verb: str) -> str | None:
    """The verb with the name of the packed file, where the connection is to that one."""
    name = Path(opened.execute("PRAGMA database_list").fetchone()[2]).name
    return f"{verb} {name}" if name == "online.sqlite" else None


def _released(held: Any) -> str | None:
    """The file of SQLite that the release of a savepoint changes; in Postgres only a commit changes something."""
    is_changed = held.dialect.name == "sqlite" and held.connection.in_transaction
    return _committed(held.connection) if is_changed else None


def _committed(connection: Any) -> str:
    return f"commit {Path(connection.cursor().execute('PRAGMA database_list').fetchone()[2]).name}"


def _making(engine: Any) -> str | None:
    """The file whose tables are made, if it has none yet; in Postgres that is a commit."""
    if engine.dialect.name != "sqlite":
        return None
    path = Path(engine.url.database)
    return None if path.exists() and path.stat().st_size else f"making of {path.name}"
