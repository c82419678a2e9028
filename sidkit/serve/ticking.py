"""The process that ticks beside the workers of a service, and its supervision."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from sidkit.core.errors import RepoLockedError, SidkitError
from sidkit.core.redact import scrubbed
from sidkit.core.repo import Repo
from sidkit.serve.logs import log_to_stderr

if TYPE_CHECKING:
    from semantic_ids.ticks import TickReport

_LOG = logging.getLogger("sidkit.serve")
PARENT = "SIDKIT_TICK_PARENT"
"""Environment variable with the process that a ticking process ends with."""
_RESTART_SECONDS = 1.0


def tick_until_stopped(repo: Repo, seconds: float, report: Callable[[TickReport], None]) -> None:
    """Tick until SIGTERM or SIGINT, or until the service that started this process is gone.

    Parameters
    ----------
    repo : Repo
    seconds : float
        Time from one tick to the next.
    report : callable
        Called with the reports of ticks that wrote rows or changed the log. An error is logged once until another one or a
        success follows.
    """
    from semantic_ids.ticks import TickReport, tick_forever

    log_to_stderr()
    stopped, parent, last = threading.Event(), os.environ.get(PARENT), ""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    def reported(result: TickReport | Exception) -> None:
        nonlocal last
        if parent is not None and str(os.getppid()) != parent:
            stopped.set()
        if isinstance(result, TickReport):
            last = ""
            if result.written or result.absorbed.new or result.absorbed.changed or result.absorbed.items:
                report(result)
            return
        if isinstance(result, RepoLockedError):
            return  # another command works; the queue waits
        known = isinstance(result, SidkitError)
        message = scrubbed(result) if known else f"{type(result).__name__}: {scrubbed(result)}"
        if message != last:
            _LOG.error("a tick failed: %s", message, exc_info=None if known else result)
        last = message

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(-1)  # the command line would end at once
    try:
        tick_forever(repo, seconds, reported, stopped)
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ticking(repo: str, seconds: float | None) -> Iterator[None]:
    """Run ``sidkit events tick --every`` beside a service; it is started again if it dies. None: nothing is run."""
    if seconds is None:
        yield
        return
    command = [sys.executable, "-m", "sidkit", "events", "tick", "--every", str(seconds), "--repo", repo, "--quiet"]
    environment = {**os.environ, PARENT: str(os.getpid())}
    stopped = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def watch() -> None:
        while not stopped.is_set():
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            running[:] = [process]
            while process.poll() is None and not stopped.wait(0.2):
                pass
            if not stopped.is_set():
                _LOG.error("the process that ticks ended with %s; it is started again", process.returncode)
                stopped.wait(_RESTART_SECONDS)

    thread = threading.Thread(target=watch, name="sidkit-tick", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        for process in running:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
