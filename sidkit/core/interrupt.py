"""SIGTERM and Ctrl-C end a command like an error: locks are released, temporary files removed, one line is printed.

A signal becomes an exception in the main thread as soon as that thread runs Python code again. During a long call into DuckDB,
torch or faiss it does not; after a grace period a second thread then ends the process with the same line. Correctness does
not depend on a clean exit: files are renamed into place and databases use transactions.
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

from sidkit.core.pickled_errors import PickledError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE_SECONDS = 10.0
_AGAIN_SECONDS = 0.02


class Interrupted(PickledError):  # noqa: N818
    """A termination signal arrived; like ``KeyboardInterrupt``, not caught by ``except Exception``."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class _Watch:
    """State of the signal handler: the signal received, and whether it was reported."""

    def __init__(self, grace_seconds: float) -> None:
        self.number: int | None = None
        self.closing = False
        """Whether the block has ended: a signal is only recorded from then on."""
        self._grace = grace_seconds
        self._reported = threading.Lock()
        self._ended = threading.Event()
        self._reading, self._writing = os.pipe()
        if sys.platform != "win32":  # there, pipes have no such mode before Python 3.12
            os.set_blocking(self._writing, False)
        self._thread = threading.Thread(target=self._wait, name="sidkit-signals", daemon=True)
        self._thread.start()

    @property
    def wakeup(self) -> int:
        """File descriptor to which the interpreter writes signal numbers at once, even while the main thread is busy."""
        return self._writing

    def received(self, number: int, _: FrameType | None) -> None:
        if self.number is None:  # do not interrupt the cleanup
            self.number = number
            if not self.closing:
                raise Interrupted(number)

    def swallowed(self, unraisable: sys.UnraisableHookArgs) -> bool:
        """Whether a signal's exception was swallowed by an object's finalizer; if so, raise it again."""
        if not isinstance(unraisable.exc_value, Interrupted):
            return False
        number, self.number = unraisable.exc_value.number, None
        threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main, (number,)).start()
        return True

    def tell(self, number: int) -> int:
        """Report the interruption once and return the exit code."""
        if self._reported.acquire(blocking=False):
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            line = (
                f"sidkit: interrupted by {name}; finished stages are saved and partial work was rolled back. Run the same "
                "command again to resume\n"
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

                    if os.isatty(2):
                        os.write(2, b"\n")  # a live progress line has no end of its own
                    code = self.tell(number)
                    remove_temporary_folders()
                    os._exit(code)


@contextmanager
def interruptible(grace_seconds: float = _GRACE_SECONDS) -> Iterator[Callable[[], bool]]:
    """End the process with one line and exit code 143 (SIGTERM) or 130 (Ctrl-C) if a signal arrives in the block.

    Parameters
    ----------
    grace_seconds : float
        How long to wait for a native call to return before the process is ended.

    Yields
    ------
    callable
        Returns whether a signal arrived. Errors raised after it are its consequences: let this block handle them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread can set signal handlers
        return
    watch = _Watch(grace_seconds)
    before = {number: signal.signal(number, watch.received) for number in SIGNALS}
    unraisable = sys.unraisablehook

    def hook(event: sys.UnraisableHookArgs) -> None:
        if not watch.swallowed(event):
            unraisable(event)

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
            # Some libraries, such as DuckDB, turn the interruption into their own error.
            raise SystemExit(watch.tell(watch.number)) from None
    finally:
        received, watch.closing = watch.number, True
        signal.set_wakeup_fd(wakeup)
        sys.unraisablehook = unraisable
        watch.close()
        for number, handler in before.items():
            signal.signal(number, handler)
        if watch.number is not None and received is None:  # it arrived behind the block
            raise SystemExit(watch.tell(watch.number))


@contextmanager
def keyboard_left_to_parent() -> Iterator[None]:
    """Start child processes that ignore Ctrl-C; the parent receives it and ends them."""
    if sys.platform == "win32":  # no signal masks: the child receives Ctrl-C too, and ends
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
