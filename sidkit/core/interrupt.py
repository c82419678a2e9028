"""SIGTERM and Ctrl-C end a command as an error does: what it holds is released and removed, and one line says so.

A signal becomes an exception in the main thread, as soon as that runs Python code again. Inside a long call of DuckDB, torch
or faiss it does not; then a second thread ends the process after a while, with the same line. Nothing that counts depends
on the tidy way: files are renamed into place and databases have transactions.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE_SECONDS = 10.0
_AGAIN_SECONDS = 0.02


class Interrupted(BaseException):
    """The process was asked to end; like ``KeyboardInterrupt``, no ``except Exception`` catches it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class _Watch:
    """What was received, and whether it was reported."""

    def __init__(self, grace_seconds: float) -> None:
        self.number: int | None = None
        self._grace = grace_seconds
        self._told = threading.Lock()
        self._ended = threading.Event()
        self._reading, self._writing = os.pipe()
        if sys.platform != "win32":  # there, pipes have no such mode before Python 3.12
            os.set_blocking(self._writing, False)
        self._thread = threading.Thread(target=self._wait, name="sidkit-signals", daemon=True)
        self._thread.start()

    @property
    def wakeup(self) -> int:
        """Where the interpreter writes each signal's number at once, whatever the main thread is doing."""
        return self._writing

    def received(self, number: int, _: FrameType | None) -> None:
        if self.number is None:  # cleaning up is not interrupted again
            self.number = number
            raise Interrupted(number)

    def swallowed(self, unraisable: sys.UnraisableHookArgs) -> bool:
        """Whether the exception of a signal was lost, because it was raised while an object was deleted; it comes again."""
        if not isinstance(unraisable.exc_value, Interrupted):
            return False
        number, self.number = unraisable.exc_value.number, None
        threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main, (number,)).start()
        return True

    def tell(self, number: int) -> int:
        """Report the end once; returns the exit code."""
        if self._told.acquire(blocking=False):
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            line = (
                f"sidkit: interrupted by {name}; finished work is kept and unfinished work was taken back. Run the same "
                "command again to go on\n"
            )
            with suppress(OSError):
                os.write(2, line.encode())
        return 128 + number

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError):
            os.write(self._writing, b"\0")
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)

    def _wait(self) -> None:
        while not self._ended.is_set():
            for number in os.read(self._reading, 1):
                if number in SIGNALS and not self._ended.wait(self._grace):
                    from sidkit.core.temporary import remove_temporary_folders

                    code = self.tell(number)
                    remove_temporary_folders()
                    os._exit(code)


@contextmanager
def interruptible(grace_seconds: float = _GRACE_SECONDS) -> Iterator[Callable[[], bool]]:
    """End the process with one line and exit code 143 (SIGTERM) or 130 (Ctrl-C) when it is asked to while in the block.

    Parameters
    ----------
    grace_seconds : float
        How long a call that runs no Python code may go on before the process ends without it.

    Yields
    ------
    callable
        Whether a signal came. An error that is raised after one is a consequence of it: leave it to this block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread may say what a signal does
        return
    watch = _Watch(grace_seconds)
    before = {number: signal.signal(number, watch.received) for number in SIGNALS}
    unraisable = sys.unraisablehook

    def hook(found: sys.UnraisableHookArgs) -> None:
        if not watch.swallowed(found):
            unraisable(found)

    sys.unraisablehook = hook
    wakeup = signal.set_wakeup_fd(watch.wakeup, warn_on_full_buffer=False)
    try:
        try:
            yield lambda: watch.number is not None
        except Interrupted as error:
            raise SystemExit(watch.tell(error.number)) from None
        except Exception:
            if watch.number is None:
                raise
            # A library turned the interruption into an error of its own, as DuckDB does.
            raise SystemExit(watch.tell(watch.number)) from None
    finally:
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = unraisable
        for number, handler in before.items():
            signal.signal(number, handler)
        watch.close()


@contextmanager
def keyboard_left_to_parent() -> Iterator[None]:
    """Processes that are started in the block never see Ctrl-C: their parent does, and ends them."""
    if sys.platform == "win32":  # no signal masks: a child sees Ctrl-C too, and ends by it
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
