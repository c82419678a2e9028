"""Processes that work through the trials of a plan; they share only files."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

from ranking.experiments.comparison.trials import Plan, work_through
from sidkit.core.interrupt import keyboard_left_to_parent


@contextmanager
def ended_on_error(workers: Sequence[BaseProcess]) -> Iterator[None]:
    """Terminate the workers if the block ends with an error or an interrupt."""
    try:
        yield
    except BaseException:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()
        raise


def start_workers(plan: Plan, count: int) -> Sequence[BaseProcess]:
    """Start workers in fresh interpreters with one thread each; OpenMP reads its thread count when it is loaded."""
    context = multiprocessing.get_context("spawn")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        workers = [context.Process(target=work_through, args=(plan,)) for _ in range(count)]
        with keyboard_left_to_parent():
            for worker in workers:
                worker.start()
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
    return workers
