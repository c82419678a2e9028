"""SIGTERM and Ctrl-C: one line, the right exit code, and no temporary folder; also several `sidkit init` at once."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sidkit.core.interrupt
import sidkit.core.temporary
from ranking.experiments.comparison.workers import ended_on_error
from sidkit.cli import main
from sidkit.contract import SourceFacts
from sidkit.core.errors import RepoError, StorageError
from sidkit.core.interrupt import interruptible, keyboard_left_to_parent
from sidkit.core.repo import Repo, init_repo
from sidkit.core.temporary import remove_temporary_folders, spill_folder, temporary_folder

LINE = "finished stages are saved and partial work was rolled back. Run the same command again to resume\n"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def ends(work: Callable[[], None], capfd: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as ended, interruptible():
        work()
    printed = capfd.readouterr()
    assert printed.out == ""
    return ended.value.code, printed.err


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_a_signal_ends_with_one_line_its_code_and_nothing_left(
    temporary: Path, capfd: pytest.CaptureFixture[str], number: signal.Signals, code: int, name: str
) -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def work() -> None:
        with temporary_folder() as folder:
            (folder / "half").write_text("half")
            signal.raise_signal(number)
            pytest.fail("went on")

    assert ends(work, capfd) == (code, f"sidkit: interrupted by {name}; {LINE}")
    assert list(temporary.iterdir()) == []
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_signal_does_not_stop_the_cleaning_up(temporary: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with temporary_folder() as folder:
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGINT)
                (folder / "last").write_text("words")

    assert ends(work, capfd) == (143, f"sidkit: interrupted by SIGTERM; {LINE}")
    assert list(temporary.iterdir()) == []


class Deleted:
    """What is told to end while it is deleted, where no exception gets out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_while_an_object_is_deleted_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        Deleted()
        while True:
            time.sleep(0.01)

    assert ends(work, capfd) == (143, f"sidkit: interrupted by SIGTERM; {LINE}")


def test_an_error_that_a_library_makes_of_a_signal_is_the_signal(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("Query interrupted") from error

    assert ends(work, capfd)[0] == 143


def test_a_command_that_is_interrupted_shows_no_trace(
    temporary: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(_source: object, _settings: object, _duck: object, work: Path, *_: object, **__: object) -> None:
        work.mkdir()
        (work / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(60)

    monkeypatch.setattr("sidkit.contract.open_source", lambda *_: None)
    monkeypatch.setattr("sidkit.contract.inspect_source", lambda _: SourceFacts(("text",), "impressions", False))
    monkeypatch.setattr("sidkit.contract.validate", validate)
    monkeypatch.setattr(sys, "argv", ["sidkit", "data", "check", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capfd.readouterr().err) == (143, f"sidkit: interrupted by SIGTERM; {LINE}")
    assert list(temporary.iterdir()) == []


DEAF = """
import ctypes, sys
from sidkit.core.interrupt import interruptible
from sidkit.core.temporary import temporary_folder
with interruptible(grace_seconds=0.2), temporary_folder() as folder:
    print(folder, flush=True)
    lock = ctypes.create_string_buffer(64)
    ctypes.CDLL(None).pthread_mutex_lock(lock)
    ctypes.CDLL(None).pthread_mutex_lock(lock)  # for ever, and no signal ends it, as in a long call of faiss
"""


def test_a_call_that_runs_no_python_ends_after_a_while(temporary: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as deaf:
        assert deaf.stdout is not None and deaf.stderr is not None
        assert Path(deaf.stdout.readline().strip()).is_dir()
        deaf.send_signal(signal.SIGTERM)
        assert deaf.stderr.read() == f"sidkit: interrupted by SIGTERM; {LINE}"
        assert deaf.wait() == 143
    assert list(temporary.iterdir()) == []


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with interruptible() as interrupted:
            seen.append((signal.getsignal(signal.SIGTERM), interrupted()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_workers_never_see_ctrl_c_and_end_with_their_parent() -> None:
    script = "import signal, time; print(signal.SIGINT in signal.pthread_sigmask(0, ()), flush=True); time.sleep(600)"
    with keyboard_left_to_parent():
        worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with worker:
        assert worker.stdout is not None and worker.stdout.readline() == "True\n"
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == -signal.SIGTERM


def test_workers_are_ended_when_their_parent_is_interrupted() -> None:
    import multiprocessing

    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    worker.start()
    with pytest.raises(KeyboardInterrupt), ended_on_error([worker]):
        raise KeyboardInterrupt
    assert not worker.is_alive()


def test_a_folder_of_a_dead_process_is_removed_and_one_in_use_is_not(temporary: Path) -> None:
    dead, used, young, strange = (
        temporary / name for name in ("sidkit-tmp-1-a", "sidkit-tmp-1-b", "sidkit-tmp-1-c", "x")
    )
    for folder in (dead, used, young, strange):
        folder.mkdir()
        (folder / "file").write_text("353 MB")
    for folder in (dead, used, strange):
        os.utime(folder, (0, 0))
    (temporary / "sidkit-tmp-1-link").symlink_to(strange)
    descriptor = os.open(used, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with temporary_folder() as own:
        assert {path.name for path in temporary.iterdir()} == {
            own.name, "sidkit-tmp-1-b", "sidkit-tmp-1-c", "sidkit-tmp-1-link", "x"
        }  # fmt: skip
        remove_temporary_folders()
        assert not own.exists()
    os.close(descriptor)
    assert (strange / "file").exists()


def test_where_nothing_can_be_written_a_folder_is_refused_and_spilling_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sidkit.core.temporary, "_places", list)
    with pytest.raises(StorageError, match="set TMPDIR to a writable folder"), temporary_folder():
        pytest.fail("made")
    with spill_folder() as spill:
        assert spill is None


INIT = """
import sys
from pathlib import Path
from sidkit.core.repo import init_repo
sys.stdin.read(1)
init_repo(sys.argv[1], source_url="/data")
"""


def test_of_several_inits_at_once_one_succeeds_and_the_repo_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    command = [sys.executable, "-c", INIT, str(path)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [process.communicate("x") for process in started]  # they wait for each other's imports
    codes = sorted(process.returncode for process in started)
    assert codes == [0, 1, 1], ended
    assert sum("expected a new or empty folder" in told for _, told in ended) == 2
    whole = init_repo(tmp_path / "other", source_url="/data").path
    assert {file.name for file in path.iterdir()} == {file.name for file in whole.iterdir()}
    assert (path / "sidkit.toml").read_bytes() == (whole / "sidkit.toml").read_bytes()
    assert Repo.open(path).settings.source.url == "/data"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_behind_the_block_ends_with_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    close = sidkit.core.interrupt._Watch.close

    def close_late(watch: Any) -> None:
        signal.raise_signal(number)
        close(watch)

    monkeypatch.setattr(sidkit.core.interrupt._Watch, "close", close_late)
    ended, said = ends(lambda: None, capfd)
    assert ended == code and said.endswith(LINE)


def test_an_init_waits_for_another_one(tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    refused: list[RepoError] = []

    def second() -> None:
        try:
            init_repo(folder)
        except RepoError as error:
            refused.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    (folder / "sidkit.toml").write_text("")
    os.close(descriptor)
    thread.join()
    assert "is a sidkit repository already" in str(refused[0])
