"""Processes of benchmarks (``benchmarks/processes.py``): a child that fails ends the benchmark instead of hanging it."""

from __future__ import annotations

import importlib
import operator
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import read_sealed


@pytest.fixture(scope="module")
def in_a_process(benchmarks_on_path: None) -> Callable[..., Any]:
    function: Callable[..., Any] = importlib.import_module("processes").in_a_process
    return function


def test_the_result_comes_from_another_process(in_a_process: Callable[..., Any]) -> None:
    assert in_a_process(operator.add, 1, 2) == 3
    assert in_a_process(os.getpid) != os.getpid()


def test_an_error_of_the_child_is_raised(in_a_process: Callable[..., Any]) -> None:
    with pytest.raises(ZeroDivisionError):
        in_a_process(divmod, 1, 0)


@pytest.mark.parametrize("ending", [(os._exit, 3), (signal.raise_signal, signal.SIGKILL)], ids=["exits", "killed"])
def test_a_child_that_ends_without_a_result_is_an_error(
    in_a_process: Callable[..., Any], ending: tuple[Any, ...]
) -> None:
    with pytest.raises(RuntimeError, match=r"expected a result of \w+\(.*\), got a process that ended"):
        in_a_process(*ending)


def test_so_is_an_error_that_cannot_be_handed_over(in_a_process: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "damaged.json").write_text("{}")
    with pytest.raises((RuntimeError, ArtifactCorruptError)):
        in_a_process(read_sealed, tmp_path / "damaged.json")
