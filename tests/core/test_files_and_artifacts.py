"""Files that are old or new but never half; artefact folders that cannot change unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidkit.core.artifact import read_manifest, write_artifact
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError, ConfigError, StorageError
from sidkit.core.files import (
    disk_refused,
    folder_written_beside,
    read_json,
    remove,
    remove_leftovers,
    sha256,
    write_json,
    written_beside,
)
from sidkit.core.repo import init_repo


def full_disk() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def write_half(path: Path, crash: BaseException) -> None:
    with written_beside(path) as temporary:
        temporary.write_text("half")
        raise crash


def write_half_a_folder(path: Path, crash: BaseException) -> None:
    with folder_written_beside(path) as temporary:
        (temporary / "part").write_text("half")
        raise crash


def test_a_written_file_replaces_the_old_one_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with written_beside(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with written_beside(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("crash", [ValueError("bug"), KeyboardInterrupt(), PermissionError(errno.EACCES, "no")])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, crash: BaseException, old: str | None
) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    with pytest.raises(type(crash)):
        write_half(path, crash)
    assert [file.read_text() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_full_disk_is_named_with_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(
        StorageError, match=r"writing .*file\.txt failed: .*No space left.*free some disk space"
    ) as raised:
        write_half(path, full_disk())
    assert raised.value.path == path
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (full_disk(), True),
        (OSError(errno.EFBIG, "in another language"), True),
        (OSError(errno.EDQUOT, "in another language"), True),
        (RuntimeError('IO Error: Could not write file "x": No space left on device'), True),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("full of mistakes"), False),
    ],
)
def test_a_full_disk_is_told_from_other_mistakes(error: Exception, full: bool) -> None:
    assert disk_refused(error) is full


def test_a_writer_that_writes_nothing_is_an_error_and_no_empty_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_beside(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from sidkit.core.files import folder_written_beside, written_beside
root = Path(sys.argv[1])
with written_beside(root / "file.txt") as one, folder_written_beside(root / "folder") as two:
    one.write_text("half")
    (two / "part").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_does_not_count_and_can_be_cleared(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old")
    (tmp_path / "deep").mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "deep")], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert {file.name.split("-")[0] for file in (tmp_path / "deep").iterdir()} == {".writing"}
    remove_leftovers(tmp_path)
    assert list((tmp_path / "deep").iterdir()) == []
    assert (tmp_path / "file.txt").read_text() == "old"


def test_the_next_writer_of_a_file_clears_what_killed_ones_left_of_it(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    others = {f".writing-{os.getppid()}-file.txt", ".writing-of-another-file.txt"}
    for name in others:
        (tmp_path / name).touch()  # a writer that lives, and a name that is none of ours
    with written_beside(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    with folder_written_beside(tmp_path / "folder") as temporary:
        (temporary / "part").write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", "folder", *others}


@pytest.mark.parametrize("crash", [ValueError("bug"), KeyboardInterrupt(), full_disk()])
def test_a_crash_while_writing_a_folder_leaves_nothing(tmp_path: Path, crash: BaseException) -> None:
    expected = StorageError if isinstance(crash, OSError) else type(crash)
    with pytest.raises(expected):
        write_half_a_folder(tmp_path / "folder", crash)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_already_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part").write_text("old")
    with pytest.raises(OSError, match="not empty|exists"), folder_written_beside(tmp_path / "folder") as temporary:
        (temporary / "part").write_text("new")
    assert [file.read_text() for file in (tmp_path / "folder").iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_removing_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "never there")
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]


def test_equal_values_are_written_as_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None, "ü"], "a": 0.1})
    write_json(tmp_path / "b.json", {"a": 0.1, "b": [1, None, "ü"]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": 0.1, "b": [1, None, "ü"]}


@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=100))
def test_sha256_is_that_of_the_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "hashed"
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


DESCRIBED = {
    "kind": "codebook",
    "name": "v1",
    "fit_start_us": 0,
    "fit_end_us": 1_000,
    "parents": ["e1"],
    "levels": (3, 2),
}


def write_files(folder: Path) -> None:
    (folder / "tensors.bin").write_bytes(b"\x00\x01\x02")
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").write_text("{}")


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    write_artifact(tmp_path / "v1", DESCRIBED, write_files)
    return tmp_path / "v1"


def test_an_artifact_says_what_it_is_and_what_it_holds(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert {key: manifest[key] for key in DESCRIBED} == {**DESCRIBED, "levels": [3, 2]}
    assert manifest["files"] == {
        "tensors.bin": hashlib.sha256(b"\x00\x01\x02").hexdigest(),
        "deep/config.json": hashlib.sha256(b"{}").hexdigest(),
    }
    assert {"sidkit", "numpy", "pyarrow"} <= set(manifest["libraries"])


def edit_manifest(**values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda folder: (folder / "tensors.bin").write_bytes(b"\x00\x01\x03"), "tensors.bin: the file does not match"),
        (lambda folder: (folder / "deep" / "config.json").unlink(), "deep/config.json: the file is missing"),
        (lambda folder: (folder / "deep" / "extra.bin").write_bytes(b""), "deep/extra.bin"),
        (lambda folder: (folder / "manifest.json").unlink(), "the manifest cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "the manifest cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "the manifest cannot be read"),
        (edit_manifest(files={}), "edited"),
        (edit_manifest(fit_end_us=0), "edited"),
    ],
    ids=[
        "edited",
        "missing",
        "added",
        "no manifest",
        "torn manifest",
        "other manifest",
        "edited list",
        "edited window",
    ],
)
def test_a_changed_artifact_is_found_out(artifact: Path, damage: Callable[[Path], object], where: str) -> None:
    damage(artifact)
    with pytest.raises(ArtifactCorruptError, match=f"{where}.*restore the folder from a backup"):
        read_manifest(artifact)


def test_a_missing_artifact_is_named_with_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="v9 does not exist; list the existing artefacts"):
        read_manifest(tmp_path / "v9")


def test_the_same_artifact_written_again_keeps_the_folder(artifact: Path) -> None:
    before = {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in [artifact, *artifact.rglob("*")]}
    assert write_artifact(artifact, DESCRIBED, write_files) == read_manifest(artifact)
    after = {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in [artifact, *artifact.rglob("*")]}
    assert after == before


def test_another_artifact_of_the_same_name_is_refused(artifact: Path) -> None:
    before = (artifact / "tensors.bin").read_bytes()
    with pytest.raises(ArtifactCorruptError, match="an artefact of this name made from other inputs already exists"):
        write_artifact(artifact, {**DESCRIBED, "fit_end_us": 2_000}, write_files)
    assert (artifact / "tensors.bin").read_bytes() == before


def test_a_damaged_artifact_is_not_taken_for_one_written_before(artifact: Path) -> None:
    (artifact / "tensors.bin").write_bytes(b"")
    with pytest.raises(ArtifactCorruptError, match="the file does not match its SHA-256"):
        write_artifact(artifact, DESCRIBED, write_files)


def test_an_artifact_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write_files(folder)
        raise full_disk()

    with pytest.raises(StorageError):
        write_artifact(tmp_path / "v1", DESCRIBED, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_path_of_other_bytes_than_utf_8_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no UTF-8"):
        init_repo(tmp_path / "\udcff")
    assert not list(tmp_path.iterdir())
