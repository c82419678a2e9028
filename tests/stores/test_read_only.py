"""Readers on a repo that cannot be written, and on a disk without a free byte; writers say what they could not write."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.builders import FinishedJob, copy_of
from helpers.life_state import import_rooms
from semantic_ids.catalog import Catalog
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection
from sidkit.core.errors import OnlineStoreError, StorageError
from sidkit.core.files import folder_written_beside, make_private, written_beside
from sidkit.core.repo import Repo, init_repo
from sidkit.stores.online.checksums import TAIL
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.sqlite_file import PackedFile

_FORKED = multiprocessing.get_context("fork")


def bound_by_permissions() -> None:
    """Give up root's right to write whatever the permission bits say; other users never had it."""
    if os.geteuid() == 0:
        head, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None, use_errno=True).capset(head, none) == 0


def without_a_byte() -> None:
    """Let no file grow, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _apart(hinder: Callable[[], None], work: Callable[..., Any], arguments: tuple[Any, ...], answer: Any) -> None:
    hinder()
    try:
        answer.send((True, work(*arguments)))
    except BaseException as error:  # noqa: BLE001
        answer.send((False, f"{type(error).__name__}: {error}"))
    answer.close()
    os._exit(0)


def apart(hinder: Callable[[], None], work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process of its own that was hindered; its error as text."""
    ours, theirs = _FORKED.Pipe(duplex=False)
    child = _FORKED.Process(target=_apart, args=(hinder, work, arguments, theirs))
    child.start()
    theirs.close()
    done, answer = ours.recv()
    child.join()
    return answer if done else RuntimeError(answer)


@pytest.fixture
def frozen() -> Iterator[Callable[[Path], Path]]:
    """Take every right to write from a folder and all in it; given back at the end."""
    folders: list[Path] = []

    def freeze(folder: Path) -> Path:
        folders.append(folder)
        for path in [*folder.rglob("*"), folder]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        return folder

    yield freeze
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def online(folder: Path, rows: dict[bytes, bytes]) -> Path:
    path = folder / "online.sqlite"
    file = PackedFile(path, 1.0)
    with file.writing() as writing:
        writing.make("v", Layout(()))
        writing.put("v", list(rows), [1] * len(rows), [None] * len(rows), list(rows.values()))
    file.close()
    return path


def rows_in(path: Path, *keys: bytes) -> list[bytes | None]:
    with PackedFile(path, 0.1).reading() as reading:
        return [row and row[:-TAIL] for row in reading.rows("v", keys)]


HINDRANCES = [bound_by_permissions, without_a_byte]


@pytest.mark.parametrize("hinder", HINDRANCES)
def test_the_online_store_is_read_where_nothing_can_be_written(
    tmp_path: Path, frozen: Callable[[Path], Path], hinder: Callable[[], None]
) -> None:
    path = online(tmp_path / "data", {b"a": b"1"})
    if hinder is bound_by_permissions:
        frozen(path.parent)
    assert apart(hinder, rows_in, path, b"a", b"b") == [b"1", None]


def test_commits_that_only_the_log_holds_are_not_left_out_in_silence(
    tmp_path: Path, frozen: Callable[[Path], Path]
) -> None:
    path = online(tmp_path / "first", {b"a": b"1"})
    file = PackedFile(path, 1.0)
    with file.writing() as writing:
        writing.put("v", [b"b"], [1], [None], [b"2"])
    copied = tmp_path / "copy"
    copied.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", copied)
    file.close()
    frozen(copied)
    told = str(apart(bound_by_permissions, rows_in, copied / path.name, b"a"))
    assert "was not closed by its last writer: its newest commits are in online.sqlite-wal" in told
    assert told.startswith("OnlineStoreError") and "Run `sidkit materialize`" in told


def _reads_beside_a_change(path: Path, change: Any, changed: Any) -> list[Any]:
    """The rows before and after the file was changed by somebody who may."""
    file, told = PackedFile(path, 0.1), []
    for _ in range(2):
        with file.reading() as reading:
            told.append([row and row[:-TAIL] for row in reading.rows("v", [b"a"])])
        if len(told) == 1:
            change.set()
            changed.wait(60)
    return told


def test_a_change_by_somebody_who_may_write_is_seen(tmp_path: Path, frozen: Callable[[Path], Path]) -> None:
    path = online(tmp_path / "data", {b"a": b"1"})
    frozen(path.parent)
    change, changed = _FORKED.Event(), _FORKED.Event()
    ours, theirs = _FORKED.Pipe(duplex=False)
    arguments = (bound_by_permissions, _reads_beside_a_change, (path, change, changed), theirs)
    child = _FORKED.Process(target=_apart, args=arguments)
    child.start()
    assert change.wait(60)
    path.parent.chmod(0o755)
    path.unlink()
    online(path.parent, {b"a": b"2"})
    changed.set()
    assert ours.recv() == (True, [[b"1"], [b"2"]])
    child.join()


def test_a_locked_store_is_never_read_past_its_lock(tmp_path: Path) -> None:
    path = online(tmp_path, {b"a": b"1"})
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OnlineStoreError, match="locked"):
            rows_in(path, b"a")
    holder.close()


def _run(*arguments: str) -> tuple[int, str]:
    """Be a command; everything that it prints."""
    import contextlib
    import io

    from sidkit.cli import main

    sys.argv = ["sidkit", *arguments]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    return 0, printed.getvalue()


READERS = [
    ("score", "--user", "u1", "--items", "i1"),
    ("codebooks", "codes", "--items", "i1"),
    ("codebooks", "items", "--codes", "1"),
    ("codebooks", "list"),
    ("codebooks", "show", "{codebook}"),
    ("codebooks", "health"),
    ("ranker", "list"),
    ("ranker", "evaluate", "{ranker}"),
    ("doctor",),
    ("audit", "--rows", "5"),
]
WRITERS = [("data", "ingest"), ("tables", "build"), ("materialize",), ("apply",), ("codebooks", "refresh")]


def _all(repo: Path, names: dict[str, str]) -> list[tuple[str, int, str]]:
    os.chdir(repo)
    told = []
    for command in (*READERS, *WRITERS):
        text = [part.format(**names) for part in command]
        told.append((" ".join(command), *_run(*text, "--repo", str(repo))))
    return told


@pytest.mark.parametrize("hinder", HINDRANCES)
def test_every_reader_works_and_every_writer_names_what_it_cannot_write(
    finished: FinishedJob, frozen: Callable[[Path], Path], hinder: Callable[[], None], tmp_path: Path
) -> None:
    import_rooms()
    repo = copy_of(finished.repo, tmp_path / "repo").path  # another worker reads the original
    names = {"codebook": finished.output["codebook"]["name"], "ranker": finished.output["artifacts"]["serving_ranker"]}
    modes = {path: path.stat().st_mode for path in [repo, *repo.rglob("*")]}
    shutil.rmtree(repo / "data" / "tmp", ignore_errors=True)
    if hinder is bound_by_permissions:
        frozen(repo)
    try:
        answers = apart(hinder, _all, repo, names)
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)
    assert isinstance(answers, list), answers
    for command, code, told in answers[: len(READERS)]:
        assert code == 0 and told, (command, told)
    for command, code, told in answers[len(READERS) :]:
        assert code == 1, (command, told)
        assert told.startswith(f"sidkit: writing {repo}/.sidkit.lock failed: "), (command, told)
        assert told.count("\n") == 1, (command, told)


def test_writing_names_the_path_and_the_reason(tmp_path: Path, frozen: Callable[[Path], Path]) -> None:
    repo = init_repo(tmp_path / "repo")
    frozen(repo.path)

    def attempt(what: str) -> None:
        target = repo.path / "x"
        if what == "file":
            with written_beside(target) as temporary:
                temporary.write_text("x")
        elif what == "folder":
            with folder_written_beside(target):
                pass
        elif what == "init":
            init_repo(target / "repo")
        elif what == "catalogue":
            Catalog.open(repo)
        else:
            make_private(target)

    for what in ("file", "folder", "init", "catalogue", "private"):
        told = str(apart(bound_by_permissions, attempt, what))
        assert told.startswith(f"StorageError: writing {repo.path}/"), (what, told)
        assert "Permission denied" in told and "make the folder writable for this user" in told, (what, told)


def test_duckdb_needs_no_folder_to_spill_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for spill in (None, tmp_path / "file" / "spill"):
        with connection(EngineSettings(), spill) as opened:
            assert opened.execute("SELECT sum(range) FROM range(1000)").fetchone() == (499_500,)


def test_a_lock_that_cannot_be_opened_is_a_storage_error(tmp_path: Path) -> None:
    repo = init_repo(tmp_path / "repo")
    (repo.path / ".sidkit.lock").mkdir()
    with pytest.raises(StorageError, match=r"writing .*\.sidkit\.lock failed"), Repo.open(repo.path).locked():
        pytest.fail("locked")
