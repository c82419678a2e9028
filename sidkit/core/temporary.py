"""Temporary folders that do not outlive their process: removed when it ends, however it ends, or by the next one.

A live folder is locked by its process. The lock ends with the process, so a folder without one was left by a process that
was killed, and is removed the next time that a folder is made. Nothing is written to make one, unlike in ``tempfile``,
which tries out each place with a file: readers work where no byte is free.
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
    with locked_folder(path, wait=False):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
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
            if path.is_symlink() or not _is_own(found) or time.time() - found.st_mtime < _YOUNG_SECONDS:
                continue
            with locked_folder(path, wait=False) as abandoned:
                if abandoned:
                    shutil.rmtree(path, ignore_errors=True)


def _is_own(found: os.stat_result) -> bool:
    """Whether this user owns it; Windows gives each user a folder for temporary files."""
    return sys.platform == "win32" or found.st_uid == os.geteuid()
