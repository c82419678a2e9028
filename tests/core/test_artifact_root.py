"""Artefacts on a shared file system: seen whole or not at all, verified when read, resumed after a kill, swept when old."""

from __future__ import annotations

import multiprocessing
import os
import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidkit.core.artifact import read_manifest, write_artifact
from sidkit.core.artifact_root import SWEEP_AFTER, ArtifactRoot, Uploaded
from sidkit.core.errors import ArtifactCorruptError, ArtifactError, ArtifactMissingError, ConfigError

FILES = {"config.json": b"{}", "tensors.safetensors": b"numbers" * 100, "deep/er.bin": b"\0\1"}


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared/prefix" if request.param == "file" else f"memory://{uuid.uuid4().hex}/prefix"


def artifact(folder: Path, files: dict[str, bytes] = FILES) -> dict[str, Any]:
    def write(into: Path) -> None:
        for name, content in files.items():
            (into / name).parent.mkdir(exist_ok=True)
            (into / name).write_bytes(content)

    return write_artifact(folder, {"name": folder.name}, write)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def upload(url: str, folder: Path) -> Uploaded:
    return ArtifactRoot(url).upload("codebooks", folder.name, folder, read_manifest(folder))


def test_what_one_machine_uploads_another_downloads(url: str, tmp_path: Path) -> None:
    stated = artifact(tmp_path / "one" / "book")
    assert upload(url, tmp_path / "one" / "book").written == len(FILES)
    root = ArtifactRoot(url)
    root.download("codebooks", "book", stated["content_hash"], tmp_path / "other" / "book")
    assert contents(tmp_path / "other" / "book") == contents(tmp_path / "one" / "book")
    assert read_manifest(tmp_path / "other" / "book") == stated
    assert (root.names("codebooks"), root.names("rankers")) == (["book"], [])


def test_a_second_upload_writes_nothing(url: str, tmp_path: Path) -> None:
    artifact(tmp_path / "book")
    upload(url, tmp_path / "book")
    assert upload(url, tmp_path / "book") == Uploaded(0, len(FILES), 0)


def test_equal_files_of_two_artefacts_are_stored_once(url: str, tmp_path: Path) -> None:
    artifact(tmp_path / "one")
    artifact(tmp_path / "two", {**FILES, "config.json": b"[]"})
    upload(url, tmp_path / "one")
    assert upload(url, tmp_path / "two").written == 1


def test_two_contents_of_one_name_exist_side_by_side(url: str, tmp_path: Path) -> None:
    stated = [artifact(tmp_path / str(each) / "book", {"a": str(each).encode()}) for each in range(2)]
    for each in range(2):
        upload(url, tmp_path / str(each) / "book")
    root = ArtifactRoot(url)
    for each in range(2):
        root.download("codebooks", "book", stated[each]["content_hash"], tmp_path / "here" / "book")
        assert (tmp_path / "here" / "book" / "a").read_text() == str(each)
    assert len(root.versions("codebooks", "book")) == 2


def test_a_missing_artefact_is_named_with_the_command_that_brings_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissingError, match="expected codebooks/book .* got none; run `sidkit artifacts push`"):
        ArtifactRoot(url).download("codebooks", "book", "0" * 16, tmp_path / "book")
    assert not (tmp_path / "book").exists()


def test_a_damaged_file_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    stated = artifact(tmp_path / "book")
    upload(f"file://{tmp_path}/shared", tmp_path / "book")
    damaged = tmp_path / "shared" / "files" / stated["files"]["config.json"]
    damaged.write_bytes(b"[]")
    root = ArtifactRoot(f"file://{tmp_path}/shared")
    with pytest.raises(ArtifactCorruptError, match="does not match its SHA-256") as caught:
        root.download("codebooks", "book", stated["content_hash"], tmp_path / "here" / "book")
    assert list((tmp_path / "here").iterdir()) == []
    assert "Delete it there, and run `sidkit artifacts push`" in str(caught.value)
    damaged.unlink()  # the advice
    upload(f"file://{tmp_path}/shared", tmp_path / "book")
    root.download("codebooks", "book", stated["content_hash"], tmp_path / "here" / "book")
    assert contents(tmp_path / "here" / "book") == contents(tmp_path / "book")


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    stated = artifact(tmp_path / "book")
    upload(f"file://{tmp_path}/shared", tmp_path / "book")
    path = tmp_path / "shared" / "codebooks" / "book" / f"{stated['content_hash']}.json"
    path.write_text(path.read_text().replace("config.json", "../../../etc"))
    root = ArtifactRoot(f"file://{tmp_path}/shared")
    with pytest.raises(ArtifactCorruptError, match="was edited or is damaged"):
        root.download("codebooks", "book", stated["content_hash"], tmp_path / "here")
    with pytest.raises(ArtifactCorruptError, match="was edited or is damaged"):  # it might list what a sweep removes
        root.sweep(now=datetime.now(UTC) + timedelta(days=9))


def test_a_sweep_removes_old_files_without_a_manifest_only(url: str, tmp_path: Path) -> None:
    stated = artifact(tmp_path / "book")
    artifact(tmp_path / "gone", {**FILES, "own": b"of this one"})
    root = ArtifactRoot(url)
    for name in ("book", "gone"):
        upload(url, tmp_path / name)
    root.remove("codebooks", "gone")
    assert root.names("codebooks") == ["book"]
    assert (root.sweep().removed, root.sweep().young) == (0, 1)
    assert root.sweep(now=datetime.now(UTC) + SWEEP_AFTER + timedelta(minutes=1)).removed == 1
    root.download("codebooks", "book", stated["content_hash"], tmp_path / "here")
    assert contents(tmp_path / "here") == contents(tmp_path / "book")


def test_a_sweep_of_young_files_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected an age of at least 24 hours, got 1;"):
        ArtifactRoot(url).sweep(older_than=timedelta(hours=1))


def test_an_upload_renews_old_files_that_a_sweep_could_remove_meanwhile(tmp_path: Path) -> None:
    stated = artifact(tmp_path / "book")
    upload(f"file://{tmp_path}/shared", tmp_path / "book")
    root = ArtifactRoot(f"file://{tmp_path}/shared")
    root.remove("codebooks", "book")  # as if the upload had been killed before the manifest
    left = tmp_path / "shared" / "files" / stated["files"]["config.json"]
    os.utime(left, (0, 0))
    assert upload(f"file://{tmp_path}/shared", tmp_path / "book").written == 1
    assert left.stat().st_mtime > 0


def test_an_address_without_a_file_system_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected artifacts.url .* got nosuch://bucket .*; install its package"):
        ArtifactRoot("nosuch://bucket")


def test_a_failing_file_system_is_named_with_the_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    artifact(tmp_path / "book")
    with pytest.raises(ArtifactError, match="expected uploading codebooks/book at .* check the address"):
        upload(f"file://{tmp_path}/file/below", tmp_path / "book")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden"])
def test_a_name_that_leads_elsewhere_is_refused(url: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="expected an artefact of codebooks, rankers, reports with a plain name"):
        ArtifactRoot(url).download("codebooks", name, "0" * 16, tmp_path / "here")


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}\.bin", fullmatch=True), st.binary(max_size=64), min_size=1))
def test_any_files_come_back_as_they_were(files: dict[str, bytes]) -> None:
    from sidkit.core.temporary import temporary_folder

    with temporary_folder() as folder:
        stated = artifact(folder / "book", files)
        url = f"memory://{uuid.uuid4().hex}"
        upload(url, folder / "book")
        ArtifactRoot(url).download("codebooks", "book", stated["content_hash"], folder / "here")
        assert contents(folder / "here") == contents(folder / "book")


def steps(root: ArtifactRoot, at: int) -> Iterator[int]:
    """Kill this process before its step number ``at`` on the shared file system; yields the number of steps."""
    count = 0
    for name in ("put_file", "pipe_file", "mv", "makedirs"):
        original = getattr(root._fs, name)

        def counted(*arguments: Any, original: Any = original, **named: Any) -> Any:
            nonlocal count
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return original(*arguments, **named)

        setattr(root._fs, name, counted)
    yield 0
    yield count


def uploading(folder: Path, url: str, at: int, said: Any) -> None:
    root = ArtifactRoot(url)
    counting = steps(root, at)
    next(counting)
    root.upload("codebooks", folder.name, folder, read_manifest(folder))
    said.send(next(counting))


def killed(folder: Path, url: str, at: int) -> int | None:
    """Upload in a forked process that is killed before a step; the number of steps if it ended before."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=uploading, args=(folder, url, at, there))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return here.recv() if process.exitcode == 0 else None


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_upload_killed_at_any_step_shows_nothing_and_is_resumed(tmp_path: Path) -> None:
    stated = artifact(tmp_path / "book")
    total = killed(tmp_path / "book", f"file://{tmp_path}/whole", -1)
    assert total is not None
    assert total > 3 * len(FILES)
    for at in range(total):
        url = f"file://{tmp_path}/killed-{at}"
        assert killed(tmp_path / "book", url, at) is None
        root = ArtifactRoot(url)
        assert root.names("codebooks") == []  # never half an artefact
        resumed = upload(url, tmp_path / "book")
        assert resumed.written + resumed.reused == len(FILES)
        assert resumed.reused == min(at // 4, len(FILES))  # two folders, the file and its rename each
        root.download("codebooks", "book", stated["content_hash"], tmp_path / f"here-{at}")
        assert contents(tmp_path / f"here-{at}") == contents(tmp_path / "book")
        root.sweep(now=datetime.now(UTC) + SWEEP_AFTER * 2)
        assert list((tmp_path / f"killed-{at}" / "uploading").iterdir()) == []
