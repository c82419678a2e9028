"""Lazy public names of a package: importing torch and Feast takes seconds, and few commands need both."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Build a module ``__getattr__`` that imports public names on first use (PEP 562).

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    modules : mapping
        Public name -> module that defines it, or ``module:name`` where the module has another name for it.
    """

    def imported(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, own_name = modules[name].partition(":")
        return getattr(importlib.import_module(module), own_name or name)

    return imported
