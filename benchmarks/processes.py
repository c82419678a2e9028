"""Run each cell of a benchmark in its own process, so that cells do not share memory."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
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
    """The result of ``work`` in a new interpreter."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, asked)
