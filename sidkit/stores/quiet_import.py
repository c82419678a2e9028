"""Importing Feast without what takes seconds or leaves files: call :func:`quiet_feast` before the first import of it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType


def quiet_feast() -> None:
    """Import Feast without torch and run-time type checks, which take seconds, and without files for server metrics."""
    if "feast" in sys.modules:
        return
    import typeguard

    sys.modules["feast.torch_wrapper"] = _lazy_torch()

    # Feast decorates 240 methods with typeguard, which recompiles each at import: half of Feast's start-up time.
    original = typeguard.typechecked
    typeguard.typechecked = _unchanged  # type: ignore[assignment]
    try:
        with _without_metric_files():
            import feast  # noqa: F401
    finally:
        typeguard.typechecked = original


def _lazy_torch() -> ModuleType:
    """Stand-in for ``feast.torch_wrapper`` that imports torch when Feast makes tensors, not when Feast is imported."""
    wrapper = ModuleType("feast.torch_wrapper")
    wrapper.get_torch = lambda: importlib.import_module("torch")  # type: ignore[attr-defined]
    return wrapper


@contextlib.contextmanager
def _without_metric_files() -> Iterator[None]:
    """Keep Feast's server metrics in memory: otherwise every process creates a folder in the temporary files, which a killed
    process leaves behind, and the import fails on a full disk."""
    names = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
    if any(name in os.environ for name in (*names, "prometheus_multiproc_dir")):
        yield  # the parent process collects them
        return
    import prometheus_client  # noqa: F401  (chooses in-memory values now, without the variables)

    os.environ.update(dict.fromkeys(names, ""))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)


def _unchanged(target: object = None, **_: object) -> object:
    return target if target is not None else _unchanged
