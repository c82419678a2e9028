"""Cells of a benchmark in processes of their own, so that none inherits another's memory."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from typing import Any


def peak_mb() -> float:
    """The most memory that this process held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def in_a_process(work: Callable[..., dict[str, Any]], *asked: Any) -> dict[str, Any]:
    """What ``work`` says in a fresh interpreter."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, asked)
