"""Forgotten users of a repository: a keyed hash per user, by which an ingest recognises them without knowing their ids.

The folder ``forgotten`` holds the ``key`` (32 random bytes, readable by its owner only) and ``users.json``, the HMAC-SHA256
of each id under it. While ``sidkit forget`` is at work, ``pending.json`` lists the ids themselves; it is removed as the last
step, so a file that is left says that the work is unfinished.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidkit.core.errors import ArtifactCorruptError, RepoError
from sidkit.core.files import remove, written_beside
from sidkit.core.integrity import read_sealed, seal

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "forgotten"
_KEY, _USERS, _PENDING = "key", "users.json", "pending.json"
_KEY_BYTES = 32
_CHECKED = b"sidkit forgotten users"
"""What ``key_check`` in ``users.json`` is the hash of: another key is noticed."""
_RESTORE = (
    "restore the folder from a backup; without its key nobody can tell who is forgotten, so else delete the folder and run "
    "`sidkit forget` again for all of them"
)


@dataclass(frozen=True)
class Forgotten:
    """The forgotten users of a repository.

    Parameters
    ----------
    key : bytes
        Secret of the repository.
    digests : frozenset of str
        HMAC-SHA256 of each user id in UTF-8, in hex.
    """

    key: bytes
    digests: frozenset[str]

    def digest(self, user_id: str) -> str:
        """The keyed hash of an id."""
        return hmac.digest(self.key, user_id.encode(), "sha256").hex()

    def __contains__(self, user_id: str) -> bool:
        return self.digest(user_id) in self.digests

    def among(self, user_ids: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Which texts are ids of forgotten users, ``bool [rows]``; a null is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = [each for each in user_ids.unique().to_pylist() if each is not None and each in self]
        return pc.is_in(user_ids, value_set=pa.array(found, user_ids.type))


def read_forgotten(repo: Path) -> Forgotten | None:
    """The forgotten users of the repository in a folder; None if there are none.

    Raises
    ------
    ArtifactCorruptError
        When the key is missing or is another one, or the hashes are damaged.
    """
    folder = repo / FOLDER
    path = folder / _USERS
    if not path.exists():
        return None
    try:
        stated = read_sealed(path)
    except ArtifactCorruptError as error:
        raise ArtifactCorruptError(path, error.problem, _RESTORE) from error
    try:
        key = (folder / _KEY).read_bytes()
    except FileNotFoundError as error:
        raise ArtifactCorruptError(folder / _KEY, "the file is missing", _RESTORE) from error
    found = Forgotten(key, frozenset(stated["users"]))
    if found.digest(_CHECKED.decode()) != stated["key_check"]:
        raise ArtifactCorruptError(folder / _KEY, f"it is not the key of the hashes in {_USERS}", _RESTORE)
    return found


def add_forgotten(repo: Path, user_ids: Iterable[str]) -> Forgotten:
    """Add users to the forgotten ones; the key is made with the first of them."""
    before = read_forgotten(repo)
    if before is None:
        before = Forgotten(_new_key(repo / FOLDER), frozenset())
    found = Forgotten(before.key, before.digests | {before.digest(each) for each in user_ids})
    if found != before or not (repo / FOLDER / _USERS).exists():
        stated = {"key_check": found.digest(_CHECKED.decode()), "users": sorted(found.digests)}
        _write_private(repo / FOLDER / _USERS, seal(stated))
    return found


def begin_forgetting(repo: Path, work: dict[str, Any]) -> None:
    """Write down what ``sidkit forget`` is about to do, so that a later call can finish it."""
    _write_private(repo / FOLDER / _PENDING, seal(work))


def unfinished(repo: Path) -> dict[str, Any] | None:
    """What a ``sidkit forget`` that was interrupted was about to do; None if none was."""
    path = repo / FOLDER / _PENDING
    if not path.exists():
        return None
    try:
        return read_sealed(path)
    except ArtifactCorruptError as error:
        remedy = "delete it and run `sidkit forget` again for the same users; repeating it does no harm"
        raise ArtifactCorruptError(path, error.problem, remedy) from error


def finish_forgetting(repo: Path) -> None:
    """Remove the list of ids: nothing of them is left."""
    remove(repo / FOLDER / _PENDING)


def refuse_half_forgotten(repo: Path) -> None:
    """Raise if a ``sidkit forget`` was interrupted.

    Raises
    ------
    RepoError
        Names the command that finishes it.
    """
    if (repo / FOLDER / _PENDING).exists():
        raise RepoError(
            f"expected a repository without unfinished work, got {repo}, where `sidkit forget` was interrupted, so that some "
            f"files still name users that others have forgotten; run `sidkit forget --repo {shlex.quote(str(repo))}` to "
            "finish it"
        )


def user_texts(user_ids: Sequence[Any] | str | int) -> list[str]:
    """User ids as the input contract has them, without repetition: text, and integers as their digits.

    Raises
    ------
    RepoError
        When there is none, or one is neither.
    """
    given = [user_ids] if isinstance(user_ids, str | int) else list(user_ids)
    wrong = [each for each in given if isinstance(each, bool) or not isinstance(each, str | int) or each == ""]
    if wrong:
        raise RepoError(
            f"expected user ids as text or integers, got {wrong[0]!r} ({type(wrong[0]).__name__}); pass the values of the "
            "column user_id"
        )
    return list(dict.fromkeys(map(str, given)))


def _new_key(folder: Path) -> bytes:
    """The key that a killed call made already, or a new one."""
    path = folder / _KEY
    if path.exists() and path.stat().st_size == _KEY_BYTES:
        return path.read_bytes()
    key = secrets.token_bytes(_KEY_BYTES)
    _write_bytes(path, key)
    return key


def _write_private(path: Path, stated: dict[str, Any]) -> None:
    _write_bytes(path, (json.dumps(stated, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with written_beside(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
