"""Errors survive a process: pools hand them over by pickling."""

from __future__ import annotations

import builtins
import copy
import importlib
import inspect
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import ranking
import semantic_ids
import sidkit
from sidkit.core import errors
from sidkit.core.errors import MemoryLimitError, StorageError
from sidkit.core.interrupt import Interrupted
from sidkit.serve.problems import RequestError


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


CLASS = re.compile(r"^class (\w+)\(([\w.]+)[^)]*\):", re.MULTILINE)
ERRORS = {name for name, value in {**vars(builtins), **vars(errors)}.items() if _is_error(value)}

VALUES: dict[str, Any] = {
    "path": Path("a/b.parquet"),
    "repo": Path("repo"),
    "names": ["a", "b"],
    "known": ["a"],
    "problems": ["one"],
    "packages": ["p", "q"],
    "extras": ["onnx"],
    "changed": {"time.delay": (1, 2)},
    "reasons": {"no label": 3},
    "parents": {"c": "2024-01-01"},
    "rejected": 3,
    "total": 4,
    "limit": 0.5,
    "number": 15,
    "status": 404,
}


def every_kind() -> set[type[BaseException]]:
    """All classes of errors that the packages define, found in their sources."""
    found = {value for value in vars(errors).values() if _is_error(value)}
    for package in (sidkit, semantic_ids, ranking):
        root = Path(package.__path__[0])
        for path in root.rglob("*.py"):
            names = {name for name, base in CLASS.findall(path.read_text(encoding="utf-8")) if base in ERRORS}
            if names and path != Path(errors.__file__):
                module = importlib.import_module(".".join([root.name, *path.relative_to(root).with_suffix("").parts]))
                found |= {getattr(module, name) for name in names}
    return {kind for kind in found if kind.__module__.split(".")[0] in {"sidkit", "semantic_ids", "ranking"}}


def made(kind: type[BaseException]) -> BaseException:
    """An error with values for the arguments that its constructor states."""
    if "__init__" not in {name for each in kind.__mro__ if each.__module__ != "builtins" for name in vars(each)}:
        return kind("a message")
    stated = inspect.signature(kind).parameters.values()
    return kind(**{each.name: VALUES.get(each.name, "x") for each in stated if each.default is each.empty})


@pytest.mark.parametrize("way", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_every_error_keeps_its_message_and_attributes(way: Callable[[BaseException], BaseException]) -> None:
    kinds = every_kind()
    assert kinds >= {MemoryLimitError, RequestError, Interrupted}
    for kind in kinds:
        error = made(kind)
        error.add_note("building a table")
        again = way(error)
        assert type(again) is kind
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_an_error_of_the_disk_keeps_its_remedy() -> None:
    error = StorageError("a", PermissionError(13, "denied"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def lack_memory(_: int) -> None:
    raise MemoryLimitError("building the table item_content", "300MB", "no room")


def test_a_pool_of_processes_raises_the_error_of_its_worker() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        pytest.raises(MemoryLimitError, match="item_content needs more memory") as raised,
    ):
        list(pool.map(lack_memory, [0]))
    assert raised.value.limit == "300MB"
