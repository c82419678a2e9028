"""One copy of a repo for many tests: after each, what it changed is put back, which takes less than another copy."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from helpers.builders import copy_of
from sidkit.core.repo import Repo


class RestoredRepo:
    """A copy of a repo, and beside it one that no test sees.

    Databases are put back by SQLite's own backup, as a test may have left them open.
    """

    def __init__(self, original: Repo, folder: Path) -> None:
        self.path = copy_of(original, folder / "repo").path
        self._kept = folder / "kept"
        shutil.copytree(self.path, self._kept)

    def restore(self) -> Repo:
        """The repo as it was at first."""
        for path in [path for path in self.path.rglob("*") if path.is_file() and path.name != ".sidkit.lock"]:
            if not (self._kept / path.relative_to(self.path)).exists() and not path.name.endswith(("-wal", "-shm")):
                path.unlink()
        for kept in [path for path in self._kept.rglob("*") if path.is_file()]:
            path = self.path / kept.relative_to(self._kept)
            if _stamp(path) == _stamp(kept):
                continue
            if path.suffix == ".sqlite" and path.exists():
                with closing(sqlite3.connect(kept)) as source, closing(sqlite3.connect(path)) as changed:
                    source.backup(changed)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                shutil.copy2(kept, path)
        return Repo.open(self.path)


def _stamp(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
