"""Locks that end with their process: ``flock`` on POSIX systems and ``LockFileEx`` on Windows, both by filelock."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor


@contextmanager
def locked_file(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a file for the block; created if missing, and not removed.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    wait : bool
        Wait until another holder releases it; otherwise return at once.

    Yields
    ------
    bool
        Whether the lock is held; False when another holds it, or on a file system without locks.

    Raises
    ------
    OSError
        When the file cannot be opened.
    """
    with path.open("ab") as file:
        yield _taken(file.fileno(), wait=wait)


@contextmanager
def locked_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock an existing folder for the block, without writing anything into it.

    On Windows, where a folder cannot be opened, a hidden file beside it is locked instead, and removed in the end.

    Parameters
    ----------
    folder : Path
        Not followed where it is a symbolic link.
    wait : bool
        As in :func:`locked_file`.

    Yields
    ------
    bool
        As :func:`locked_file` does; False as well when the folder was removed or replaced meanwhile.

    Raises
    ------
    OSError
        When the folder cannot be opened.
    """
    if sys.platform == "win32":
        beside = folder.with_name(f".{folder.name}.lock")
        with locked_file(beside, wait=wait) as held:
            yield held
        with suppress(OSError):  # refused while another process has it open, which keeps the lock one and the same
            beside.unlink()
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield _taken(descriptor, wait=wait) and _is(folder, descriptor)
    finally:
        os.close(descriptor)


def _taken(descriptor: int, *, wait: bool) -> bool:
    try:
        return lock_descriptor(descriptor, blocking=wait)
    except OSError:
        return False


def _is(folder: Path, descriptor: int) -> bool:
    """Whether a path still refers to the opened folder."""
    try:
        return os.path.samestat(folder.stat(follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False
