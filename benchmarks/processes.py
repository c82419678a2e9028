"""Run each cell of a benchmark in its own process, so that cells do not share memory."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def forget_peak() -> None:
    """Let :func:`stage_peak_mb` begin anew; without effect where the system cannot do that."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def stage_peak_mb() -> float:
    """Peak resident memory of this process since :func:`forget_peak`, MB."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    return peak_mb()


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
