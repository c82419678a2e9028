"""Servers that end with the process that started them, even if it is killed."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

_SET_SIGNAL_OF_DEATH = 1  # PR_SET_PDEATHSIG


def ends_with_parent(number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """What ``preexec_fn`` of ``Popen`` does, so that the system sends the child a signal when its parent ends; Linux only.

    The parent is the thread that starts the child: start it in the main thread.
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)  # loaded here: little may happen between fork and exec

    def ask() -> None:
        library.prctl(_SET_SIGNAL_OF_DEATH, number)

    return ask
