"""Run each cell of a benchmark in its own process, so that cells do not share memory."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

from sidkit.core.memory import own_peak_rss_mb


def peak_mb() -> float:
    """Peak resident memory of this process, MB, since it began or since :func:`forget_peak`."""
    return own_peak_rss_mb()


def forget_peak() -> None:
    """Let :func:`peak_mb` begin anew; without effect where the system cannot do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def in_a_process(work: Callable[..., dict[str, Any]], *asked: Any) -> dict[str, Any]:
    """The result of ``work`` in a new interpreter.

    Raises
    ------
    RuntimeError
        When the process ended without a result, as it does when the system kills it for its memory, or raised what cannot be
        handed over. Its own message is on stderr.
    """
    # A pool of multiprocessing would wait for ever: it replaces a worker that died, and its task is never done.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *asked).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"expected a result of {work.__name__}{asked}, got a process that ended: {error}"
            ) from error
