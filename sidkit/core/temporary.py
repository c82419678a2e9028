"""Temporary folders that do not outlive their process: removed when it ends, however it ends, or by the next one.

A live folder is locked by its process. The lock ends with the process, so a folder without one was left by a process that
was killed, and is removed the next time that a folder is made. Nothing is written to make one, unlike in ``tempfile``,
which tries out each place with a file: readers work where no byte is free.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sidkit.core.errors import StorageError

_PREFIX = "sidkit-tmp-"
_YOUNG_SECONDS = 60  # a folder that was made just now may not be locked yet

_live: set[Path] = set()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for this block alone.

    Raises
    ------
    StorageError
        When no place for temporary files can be written.
    """
    path = _root() / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
    _remove_abandoned(path.parent)
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise StorageError(path, error) from error
    _live.add(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)
        _live.discard(path)


@contextmanager
def spill_folder() -> Iterator[Path | None]:
    """As :func:`temporary_folder`, for what is seldom needed: None where no place can be written."""
    with ExitStack() as stack:
        try:
            folder: Path | None = stack.enter_context(temporary_folder())
        except StorageError:
            folder = None
        yield folder


def spare_the_trial() -> None:
    """Say where temporary files go before ``tempfile`` tries it out by writing one: libraries ask it when they are imported."""
    if tempfile.tempdir is None:
        try:
            tempfile.gettempdir()
        except OSError:
            tempfile.tempdir = str(_root() if _places() else Path.cwd())


def remove_temporary_folders() -> None:
    """Remove the folders of this process, which is about to end in the middle of its work."""
    for path in list(_live):
        shutil.rmtree(path, ignore_errors=True)


def _root() -> Path:
    places = _places()
    if not places:
        raise StorageError("temporary files", "no folder for them can be written; name one with TMPDIR")
    return places[0].absolute()


def _places() -> list[Path]:
    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    places = map(Path, [*filter(None, named), "/tmp", "/var/tmp", "."])
    return [place for place in places if place.is_dir() and os.access(place, os.W_OK | os.X_OK)]


def _remove_abandoned(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = path.stat(follow_symlinks=False)
            if path.is_symlink() or found.st_uid != os.geteuid() or time.time() - found.st_mtime < _YOUNG_SECONDS:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
