"""Temporary folders that are removed when their process ends, or by the next process if it was killed.

A process locks its temporary folder. The lock ends with the process, so an unlocked folder was left by a killed process and
is removed the next time a folder is created. Unlike ``tempfile``, which tests each location by writing a file, nothing is
written to create one: read-only commands work on a full disk.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sidkit.core.errors import StorageError
from sidkit.core.locks import locked_folder

_PREFIX = "sidkit-tmp-"
_YOUNG_SECONDS = 60  # a new folder may not be locked yet

_live: set[Path] = set()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a temporary folder that is removed on exit.

    Raises
    ------
    StorageError
        When no location for temporary files is writable.
    """
    path = _root() / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    _remove_abandoned(path.parent)
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(path, error) from error
    _live.add(path)
    with locked_folder(path, wait=False):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            _live.discard(path)


@contextmanager
def spill_folder() -> Iterator[Path | None]:
    """Like :func:`temporary_folder`, but None if no location is writable."""
    with ExitStack() as stack:
        try:
            folder: Path | None = stack.enter_context(temporary_folder())
        except StorageError:
            folder = None
        yield folder


def avoid_test_write() -> None:
    """Set ``tempfile.tempdir`` where ``tempfile`` cannot write its test file, so that importing libraries works."""
    if tempfile.tempdir is None:
        try:
            tempfile.gettempdir()
        except OSError:
            tempfile.tempdir = str(_root() if _places() else Path.cwd())


def remove_temporary_folders() -> None:
    """Remove the temporary folders of this process before a forced exit."""
    for path in list(_live):
        shutil.rmtree(path, ignore_errors=True)


def _root() -> Path:
    places = _places()
    if not places:
        raise StorageError("temporary files", "no location is writable; set TMPDIR to a writable folder")
    return places[0].absolute()


def _places() -> list[Path]:
    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    places = map(Path, [*filter(None, named), "/tmp", "/var/tmp", "."])
    return [place for place in places if place.is_dir() and os.access(place, os.W_OK | os.X_OK)]


def _remove_abandoned(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            status = path.stat(follow_symlinks=False)
            if path.is_symlink() or not _is_own(status) or time.time() - status.st_mtime < _YOUNG_SECONDS:
                continue
            with locked_folder(path, wait=False) as abandoned:
                if abandoned:
                    shutil.rmtree(path, ignore_errors=True)


def _is_own(found: os.stat_result) -> bool:
    """Whether this user owns it; Windows gives each user a folder for temporary files."""
    return sys.platform == "win32" or found.st_uid == os.geteuid()
