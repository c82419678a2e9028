"""Locks of files and folders: held by one at a time, freed by the death of the holder."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidkit.core.files import remove
from sidkit.core.locks import locked_file, locked_folder

HOLDER = """
import sys, time
from pathlib import Path
from sidkit.core import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2]), wait=False) as held:
    print(held, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("kind", [locked_file, locked_folder])
def test_a_lock_is_of_one_process_and_free_when_that_is_killed(tmp_path: Path, kind: object) -> None:
    path = tmp_path / "place"
    if kind is locked_folder:
        path.mkdir()
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", HOLDER, kind.__name__, str(path)]  # type: ignore[attr-defined]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "True\n"
            with kind(path, wait=False) as held:  # type: ignore[operator]
                assert not held
        finally:
            holder.kill()
    with kind(path, wait=False) as held:  # type: ignore[operator]
        assert held
    if kind is locked_folder:
        assert sorted(tmp_path.rglob("*")) == before


def test_one_that_waits_gets_the_lock_when_the_other_ends(tmp_path: Path) -> None:
    path, order = tmp_path / "unit.lock", []

    def second() -> None:
        with locked_file(path, wait=True) as held:
            order.append(held)

    with locked_file(path, wait=False) as held:
        assert held
        thread = threading.Thread(target=second)
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", True]


def test_a_folder_that_its_holder_removes_is_not_locked_by_who_waited(tmp_path: Path) -> None:
    folder, waiting, answers = tmp_path / "scratch", threading.Event(), []
    folder.mkdir()

    def second() -> None:
        waiting.set()
        with locked_folder(folder, wait=True) as held:
            answers.append(held)

    with locked_folder(folder, wait=False):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        thread.join(0.2)  # it has opened the folder
        remove(folder)
    thread.join()
    assert answers == [False]
