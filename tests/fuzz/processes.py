"""Commands and cases in forked processes: nothing that one leaves behind (threads, caches, the working directory) lasts."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import io
import os
import pickle
import pkgutil
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .outcome import Ran

T = TypeVar("T")

CPU_SECONDS, WALL_SECONDS = 30, 240
"""Limits of one case or command. The second is generous: the machine may be busy."""


def import_everything() -> None:
    """Import all that commands import while they run, so that each fork begins where its own work begins."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.simplefilter("ignore")
    from helpers.life_state import import_rooms

    import_rooms()
    for room in ("sidkit", "semantic_ids", "ranking"):
        for found in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            if not found.name.endswith("__main__"):
                try:
                    importlib.import_module(found.name)
                except ModuleNotFoundError as error:
                    if (error.name or "").split(".")[0] != "pyspark":  # the extra spark is not in `dev`
                        raise
    gc.collect()
    gc.freeze()


class KilledError(Exception):
    """A forked process ended by a signal: it crashed, or ran out of its time."""


def forked(
    work: Callable[[], T], cpu: int = CPU_SECONDS, wall: float = WALL_SECONDS, kill: tuple[int, float] | None = None
) -> T:
    """What the work returns, done in a child; ``kill`` is a signal and after how many seconds it is sent.

    Raises
    ------
    KilledError
        When the child was ended by a signal, or did not end in time ("hang").
    RuntimeError
        With the child's traceback, when the work raised.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _limit(cpu)
        try:
            answer: tuple[bool, Any] = (True, work())
        except BaseException:  # noqa: BLE001
            answer = (False, traceback.format_exc())
        with contextlib.suppress(BaseException), open(writer, "wb") as pipe:  # noqa: PTH123
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    return _answer(child, reader, time.monotonic() + wall, kill)


def _limit(cpu: int) -> None:
    # The soft limit sends SIGXCPU, which ends a process that does not expect it.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(child: int, reader: int, until: float, kill: tuple[int, float] | None) -> Any:
    received, began = bytearray(), time.monotonic()
    os.set_blocking(reader, False)
    status: int | None = None
    while True:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(reader, 1 << 20):
                received += part
        if status is not None:
            break
        ended, found = os.waitpid(child, os.WNOHANG)
        if ended:
            status = found
        elif kill and time.monotonic() > began + kill[1]:
            os.kill(child, kill[0])
            kill = None
        elif time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            raise KilledError("hang: it did not end in time")
        else:
            time.sleep(0.002)
    os.close(reader)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        raise KilledError(
            "hang: it used up its time" if number == signal.SIGXCPU else f"crash: {signal.Signals(number).name}"
        )
    done, value = pickle.loads(bytes(received))
    if not done:
        raise RuntimeError(value)
    return value


def in_process(arguments: Sequence[object]) -> Ran:
    """Be ``sidkit ARGUMENTS`` in this process; what it prints is encoded as a terminal would."""
    from sidkit.cli import main

    told = tuple(map(str, arguments))
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
    before, sys.argv = sys.argv, ["sidkit", *told]
    exit_code: int | None = 0
    raised = ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        exit_code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001
        exit_code, raised = None, traceback.format_exc()
    finally:
        sys.argv = before
    return Ran(told, exit_code, _text(out), _text(err) + _said_below(), raised)


def _said_below() -> str:
    """What the kit wrote to the descriptor itself, as the handler of a signal does; libraries in C write there too."""
    if not _below:
        return ""
    os.lseek(_below[-1], 0, os.SEEK_SET)
    lines = os.read(_below[-1], 1 << 20).decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(line for line in lines if line.startswith("sidkit:"))


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    held = stream.buffer
    assert isinstance(held, io.BytesIO)
    return held.getvalue().decode("utf-8", "replace")


_isolated = True
_below: list[int] = []
"""The descriptor that stands for stderr in a process of its own."""


@contextlib.contextmanager
def without_forks() -> Iterator[None]:
    """Let commands run in this process.

    For a test runner, whose process has used the thread pools of libraries, and for cases that share a process.
    """
    global _isolated  # noqa: PLW0603
    _isolated = False
    try:
        yield
    finally:
        _isolated = True


def command(*arguments: object, cwd: Path | None = None, tmp: Path | None = None, cpu: int = CPU_SECONDS) -> Ran:
    """``sidkit ARGUMENTS`` in a process of its own."""
    told = tuple(map(str, arguments))
    if not _isolated:
        if _below:
            os.ftruncate(_below[-1], 0)
        with contextlib.chdir(cwd or Path.cwd()):
            return in_process(told)

    def work() -> Ran:
        enter(cwd, tmp)
        return in_process(told)

    try:
        return forked(work, cpu)
    except KilledError as ended:
        return Ran(told, None, "", "", str(ended))


def enter(cwd: Path | None, tmp: Path | None) -> None:
    """Set the working directory and the folder of temporary files; what is printed below Python goes into memory.

    Standard input is empty.
    """
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _below.append(os.memfd_create("stderr"))  # written at its end, so that it may be emptied in between
    fcntl.fcntl(_below[-1], fcntl.F_SETFL, os.O_APPEND)
    os.dup2(_below[-1], 2)
    if cwd is not None:
        os.chdir(cwd)
    if tmp is not None:
        os.environ["TMPDIR"], tempfile.tempdir = str(tmp), None
