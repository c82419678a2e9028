"""Run each cell of a benchmark in its own process, so that cells do not share memory."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from typing import Any


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def in_a_process(work: Callable[..., dict[str, Any]], *asked: Any) -> dict[str, Any]:
    """The result of ``work`` in a new interpreter."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, asked)
