"""File locks that are released when the process ends: ``flock`` on POSIX, ``LockFileEx`` on Windows (via filelock)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor


@contextmanager
def locked_file(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a file for the duration of the block; it is created if missing and not removed.

    Parameters
    ----------
    path : Path
        The file; its folder must exist.
    wait : bool
        Wait for another holder to release the lock; otherwise return immediately.

    Yields
    ------
    bool
        Whether the lock was acquired; False if another process holds it, or the file system does not support locks.

    Raises
    ------
    OSError
        When the file cannot be opened.
    """
    with path.open("ab") as file:
        yield _acquire(file.fileno(), wait=wait)


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock an existing folder for the duration of the block, without writing into it.

    On Windows, where folders cannot be opened, a hidden file next to it is locked instead, and removed afterwards.

    Parameters
    ----------
    folder : Path
        The folder; symbolic links are not followed.
    wait : bool
        As in :func:`locked_file`.

    Yields
    ------
    bool
        As :func:`locked_file`; also False if the folder was removed or replaced in the meantime.

    Raises
    ------
    OSError
        When the folder cannot be opened.
    """
    if sys.platform == "win32":
        beside = folder.with_name(f".{folder.name}.lock")
        with locked_file(beside, wait=wait) as held:
            yield held
        with suppress(OSError):  # Windows refuses while another process has it open, so a lock in use is not removed
            beside.unlink()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield _acquire(descriptor, wait=wait) and _is_same(folder, descriptor)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, *, wait: bool) -> bool:
    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError:
        return False


def _is_same(folder: Path, descriptor: int) -> bool:
    """Whether the path still refers to the opened folder."""
    try:
        return os.path.samestat(folder.stat(follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False
