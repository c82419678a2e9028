"""Find and execute the module of a plug-in."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from sidkit.core.errors import PluginError

SHOWN = 12
"""Hex digits of a SHA-256 in a reference."""
_modules: dict[str, ModuleType] = {}  # by the hash of their source


def locate(text: str, folder: Path | None, noun: str) -> Path:
    """Return the file of a plug-in, relative to the preset's folder, else to the working directory."""
    candidates = [parent / text for parent in (folder, Path.cwd()) if parent is not None]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    tried = " and ".join(dict.fromkeys(str(path) for path in candidates))
    raise PluginError(f"no file {text!r} of the {noun}: looked for {tried}; correct the path before the colon")


def execute(source: bytes, digest: str, path: Path) -> ModuleType:
    """Execute a source as a module, once per process; the module's name contains the hash."""
    if digest in _modules:
        return _modules[digest]
    module = ModuleType(f"sidkit_plugin_{digest[:SHOWN]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and torch look up the module of a class
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise PluginError(
            f"{path} cannot be imported ({type(error).__name__}: {error}). A plug-in is one file, and its imports must be "
            "installed"
        ) from error
    _modules[digest] = module
    return module


def module_file(point: importlib.metadata.EntryPoint, noun: str) -> tuple[Path, str]:
    """Return the file of an entry point's module and its SHA-256, without executing the module."""
    try:
        spec = importlib.util.find_spec(point.module)
    except Exception as error:  # its parent package is imported, and may raise anything
        raise PluginError(
            f"the {noun} {point.name!r} cannot be imported ({type(error).__name__}: {error}); install its distribution again"
        ) from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise PluginError(
            f"expected module {point.module} of the {noun} {point.name!r}, got no such file; install its distribution again"
        )
    path = Path(spec.origin)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()
