"""Atomic writes: a reader sees either the old file or the new one, and a killed writer leaves only a temporary file."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidkit.core.errors import ArtifactCorruptError, ConfigError, StorageError

_LEFTOVER = ".writing-"
_FULL = ("No space left", "File too large", "Disk quota")


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces ``path`` in one rename.

    Raises
    ------
    StorageError
        When ``path`` is a folder, or the disk is full or refuses the write; ``path`` is then unchanged.
    """
    check_output(path)
    temporary = _temporary_of(path)
    with _removed_on_failure(temporary, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers_of(path)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


def check_output(path: Path) -> None:
    """Reject an output path that cannot be written, before hours of work are spent on it.

    Raises
    ------
    StorageError
        When it is a folder, is below a file, or is in a folder that this user cannot write.
    """
    number = 0
    above = next((folder for folder in path.absolute().parents if folder.exists()), Path("/"))
    if path.is_dir():
        number = errno.EISDIR
    elif not above.is_dir():
        number = errno.ENOTDIR
    elif not os.access(above, os.W_OK):
        number = errno.EACCES
    if number:
        raise StorageError(path, OSError(number, os.strerror(number)))


@contextmanager
def temporary_beside(path: Path, prefix: str) -> Iterator[Path]:
    """Yield a temporary path in the same folder and remove it on exit; leftovers of killed processes are removed too."""
    temporary = path.with_name(f"{_LEFTOVER}{os.getpid()}-{prefix}{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers_of(path.with_name(f"{prefix}{path.name}"))
        yield temporary
    except Exception as error:
        if disk_refused(error):
            raise StorageError(path, error) from error
        raise
    finally:
        remove(temporary)


@contextmanager
def folder_written_beside(path: Path) -> Iterator[Path]:
    """Like :func:`written_beside` for a folder that must not exist yet; removing the temporary folder cancels the write."""
    temporary = _temporary_of(path)
    with _removed_on_failure(temporary, path):
        _remove_leftovers_of(path)
        remove(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        if not temporary.exists():
            return
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)


@contextmanager
def _removed_on_failure(temporary: Path, path: Path) -> Iterator[None]:
    """Remove ``temporary`` if the block fails; raise StorageError if the disk refuses to write ``path``."""
    try:
        yield
    except Exception as error:
        remove(temporary)
        if disk_refused(error) or _forbidden(error, path):
            raise StorageError(path, error) from error
        raise
    except BaseException:
        remove(temporary)
        raise


def make_private(path: Path) -> None:
    """Create an empty file readable by its owner only, if missing; a database created in it keeps that mode.

    Raises
    ------
    StorageError
        When it cannot be created.
    """
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError as error:
        raise StorageError(path, error) from error


def typed_path(path: Path | str) -> Path:
    """Resolve a path typed by a user to an absolute path.

    Raises
    ------
    ConfigError
        When it cannot be a path: too long, a NUL character, bytes that are no UTF-8, an unknown home directory.
    """
    try:
        str(path).encode()
        resolved = Path(path).expanduser().resolve()
        resolved.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, UnicodeEncodeError):
            reason = "it is no UTF-8"
        raise ConfigError(f"expected a path, got {str(path)[:120]!r} ({reason}); use another one") from error
    return resolved


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file written by sidkit.

    Raises
    ------
    ArtifactCorruptError
        When it is not valid JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bad JSON and bad UTF-8 are both ValueErrors
        raise ArtifactCorruptError(path, f"it cannot be read as JSON ({error})") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(root: Path) -> None:
    """Remove temporary files of killed writers under ``root``; call it only while holding the repository lock."""
    if root.is_dir():
        for leftover in sorted(root.rglob(f"{_LEFTOVER}*")):
            remove(leftover)


def _remove_leftovers_of(path: Path) -> None:
    """Remove temporary files of killed writers of ``path``, but not those of running processes."""
    for leftover in path.parent.glob(f"{_LEFTOVER}*-{glob.escape(path.name)}"):
        writer = leftover.name.removeprefix(_LEFTOVER).split("-", maxsplit=1)[0]
        if writer.isdigit() and not _lives(int(writer)):
            remove(leftover)


def _lives(process: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end it; its leftovers go with those of the repo
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def disk_refused(error: BaseException) -> bool:
    """Whether an error means that the disk is full (by errno, or in the words of Arrow, SQLite or DuckDB)."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
        return True
    return any(phrase in str(error) for phrase in (*_FULL, "database or disk is full"))


def _forbidden(error: BaseException, path: Path) -> bool:
    """Whether an error means that the folder of ``path`` is not writable (by errno, or in the words of Arrow or DuckDB)."""
    if isinstance(error, OSError) and error.filename is not None:
        denied = error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}
        temporary = _temporary_of(path).absolute()
        return denied and Path(error.filename).absolute() in {path.absolute(), temporary, *temporary.parents}
    message = str(error)
    return str(_temporary_of(path)) in message and (
        "Permission denied" in message or "Read-only file system" in message
    )


def _temporary_of(path: Path) -> Path:
    return path.with_name(f"{_LEFTOVER}{os.getpid()}-{path.name}")


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    if sys.platform == "win32":
        return  # neither folders nor files opened for reading can be flushed
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
