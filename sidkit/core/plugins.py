"""Plug-ins: user-defined classes, used in presets, commands and artefacts like the built-in ones.

A plug-in is named in one of two ways:

- ``path/to/file.py:Class``: a class in one Python file. The path is relative to the preset that names it, else to the working
  directory. The file may import installed packages only: other files in its folder are not part of the plug-in.
- the name of a Python entry point of an installed distribution, in the group of its kind (``sidkit.quantizers``,
  ``sidkit.encoders``, ``sidkit.representations``, ``sidkit.histories``, ``sidkit.rerankers``, ``sidkit.adapters``,
  ``sidkit.datasets``, ``sidkit.rankers``).

A name is resolved once, when the preset is read: the file is executed, the class is checked against the contract (the base
class of its kind), and the name becomes a **reference** with a hash, ``file.py:Class@<hash>`` or ``name@<version>+<hash>``.
References are used like built-in names in specs, the catalogue and artefacts, so a changed source gives another codebook.

An artefact whose preset names a file has a **copy of that file** in ``plugins/``, listed in its manifest with its SHA-256, and
is loaded from the copy: it can be moved and served from another folder. A plug-in of a distribution is not copied: the
manifest has the distribution, its version and the SHA-256 of the module's file. In both cases, a missing or changed source
raises an error before it is executed. Nothing is unpickled, and user code is executed only if a preset, a command or an
artefact names it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationInfo

from sidkit.core.errors import ConfigError, PluginChangedError, PluginError
from sidkit.core.plugin_modules import SHOWN, execute, locate, module_file
from sidkit.core.remedies import remedy

T = TypeVar("T")

FOLDER = "plugins"
"""Folder of an artefact with the sources of its plug-ins, and the manifest key that lists them."""
LONGEST = 64
"""Maximum characters of a reference: the width of the catalogue's columns."""
_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)


class Reference(str):
    """Name of a plug-in with its hash, and the path of its source; both survive pickling to another process."""

    __slots__ = ("group", "path")
    group: str
    path: Path | None

    @classmethod
    def of(cls, text: str, group: str, path: Path | None) -> Reference:
        """Create a reference; ``path`` is the source file, None for a plug-in of a distribution."""
        reference = cls(text)
        reference.group, reference.path = group, path
        return reference

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference.of, (str(self), self.group, self.path)


@dataclass(frozen=True)
class Plugin:
    """A user-defined class and its source.

    ``source`` is the content of the executed file; None for a class of a distribution, which is identified by
    ``distribution``, ``version`` and ``module``.
    """

    reference: Reference
    kind: type[Any]
    sha256: str
    source: bytes | None = None
    distribution: str | None = None
    version: str | None = None
    module: str | None = None

    @property
    def file(self) -> str | None:
        """Path of the copied source, relative to the artefact's folder."""
        if self.source is None or self.reference.path is None:
            return None
        return f"{FOLDER}/{self.reference.path.stem.split('@')[0]}@{self.sha256[:SHOWN]}.py"

    def describe(self, *, copied: bool = True) -> dict[str, str]:
        """Return the manifest entry; ``copied`` if the source is copied to the artefact's folder."""
        entry: dict[str, str | None] = {"reference": str(self.reference), "group": self.reference.group}
        entry |= {"sha256": self.sha256, "file": self.file if copied else None}
        entry |= {"distribution": self.distribution, "version": self.version, "module": self.module}
        return {key: value for key, value in entry.items() if value is not None}


registries: dict[str, Registry[Any]] = {}  # by entry point group
_known: dict[tuple[str, str], Plugin] = {}
_reference_of: dict[type[Any], Reference] = {}
_imported_as: dict[str, str] = {}
"""Module of an entry point -> SHA-256 of its file at import."""


class Registry(Generic[T]):
    """Maps names to the built-in classes and plug-ins of one kind.

    Parameters
    ----------
    noun : str
        Name of the kind in messages, such as ``quantizer``.
    group : str
        Entry point group.
    contract : str
        Base class of plug-ins, ``module:Class``; imported when a plug-in is resolved.
    built_in : mapping
        Name -> class, or ``module:Class`` of a class that is imported on use.
    takes : tuple of str
        Arguments that the constructor must accept.
    """

    def __init__(
        self, noun: str, group: str, contract: str, built_in: Mapping[str, type[T] | str], takes: tuple[str, ...] = ()
    ) -> None:
        self.noun, self.group, self.contract, self.takes = noun, group, contract, takes
        self.built_in = built_in
        registries[group] = self

    def resolved(self, name: str, folder: Path | None = None) -> str:
        """Resolve the name of a plug-in to its reference; return a built-in or unknown name unchanged.

        :meth:`find` raises for unknown names.

        Parameters
        ----------
        name : str
            Built-in name, plug-in name or reference.
        folder : Path, optional
            Folder that a path is relative to, tried before the working directory.

        Raises
        ------
        PluginError
            When the file or the class is missing, cannot be imported, or does not implement the contract.
        """
        if name in self.built_in:
            return name
        if (self.group, name) in _known:
            return _known[self.group, name].reference
        if isinstance(name, Reference) and name.path is not None:  # from another process
            plugin = self._from_file(name.path, name.partition("@")[0].rpartition(":")[2])
        elif match := _FILE.fullmatch(name):
            plugin = self._from_file(locate(match["path"], folder, self.noun), match["name"])
        elif point := self._entry_point(name.partition("@")[0]):
            plugin = self._from_entry_point(point)
        else:
            return name
        if "@" in name.rpartition(":")[2] and plugin.reference != name:
            raise PluginError(
                f"expected the {self.noun} {name}, got {plugin.reference}: its source changed. Run the command again"
            )
        return plugin.reference

    def resolved_field(self, name: str, info: ValidationInfo) -> str:
        """Resolve the field of a pydantic model, relative to the file that is read; raise ``ValueError`` on failure."""
        try:
            return self.resolved(name, (info.context or {}).get("folder"))
        except PluginError as error:
            raise ValueError(str(error)) from error

    def known_field(self, name: str, info: ValidationInfo) -> str:
        """Like :meth:`resolved_field`, and raise ``ValueError`` for an unknown name; built-in classes are not imported."""
        name = self.resolved_field(name, info)
        if name not in self.built_in:
            try:
                self.find(name)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return name

    def find(self, name: str) -> type[T]:
        """Return the class of a built-in name, a plug-in name or a reference.

        Raises
        ------
        ConfigError
            When the name is unknown; the message lists the available names.
        """
        if name in self.built_in:
            kind = self.built_in[name]
            return cast("type[T]", _import(kind)) if isinstance(kind, str) else kind
        plugin = self.plugin(name)
        if plugin is None:
            raise ConfigError(f"no {self.noun} named {name!r}; available: {self._available()}")
        return plugin.kind

    def plugin(self, name: str) -> Plugin | None:
        """Return the plug-in of a name or a reference; None for a built-in or unknown name."""
        return _known.get((self.group, self.resolved(name)))

    def name_of(self, part: object) -> str:
        """Return the name that identifies a part in artefacts: the reference of its plug-in, or its ``name``."""
        reference = _reference_of.get(type(part))
        return str(reference if reference is not None else part.name)  # type: ignore[attr-defined]

    def _available(self) -> str:
        installed = sorted({point.name for point in importlib.metadata.entry_points(group=self.group)})
        return f"{', '.join([*self.built_in, *installed])}, or a user-defined class as path/to/file.py:Class"

    def _entry_point(self, name: str) -> importlib.metadata.EntryPoint | None:
        points = [point for point in importlib.metadata.entry_points(group=self.group) if point.name == name]
        if len(points) > 1:
            owners = ", ".join(sorted(point.dist.name for point in points if point.dist is not None))
            raise PluginError(
                f"expected one distribution with the {self.noun} {name!r} as an entry point, got {owners}; uninstall all but "
                "one, or name the class as path/to/file.py:Class"
            )
        return points[0] if points else None

    def _from_file(self, path: Path, name: str) -> Plugin:
        try:
            source = path.read_bytes()
        except OSError as error:
            raise PluginError(
                f"the {self.noun} in {path} cannot be read ({error.strerror}); correct the path"
            ) from error
        return self._from_source(source, path, name)

    def _from_source(self, source: bytes, path: Path, name: str) -> Plugin:
        digest = hashlib.sha256(source).hexdigest()
        module = execute(source, digest, path)
        if not hasattr(module, name):
            defined = [
                key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
            ]
            raise PluginError(f"{path} has no class {name!r}; available: {', '.join(defined) or 'none'}")
        kind = self._validated(getattr(module, name), f"{path}:{name}")
        file = path.name.partition("@")[0].removesuffix(".py")
        reference = Reference.of(f"{file}.py:{name}@{digest[:SHOWN]}", self.group, path)
        return self._register(Plugin(reference, kind, digest, source))

    def _from_entry_point(self, point: importlib.metadata.EntryPoint) -> Plugin:
        file, digest = module_file(point, self.noun)
        if point.dist is None:
            raise PluginError(
                f"expected an installed distribution for the {self.noun} {point.name!r}, got none; install its package"
            )
        try:
            loaded = point.load()
        except Exception as error:  # a user-defined module may raise anything
            raise PluginError(
                f"the {self.noun} {point.name!r} ({point.value} in {file}) cannot be imported "
                f"({type(error).__name__}: {error}); fix the module"
            ) from error
        if _imported_as.setdefault(point.module, digest) != digest:
            raise PluginError(f"{file} changed after this process imported it; restart the process")
        kind = self._validated(loaded, f"{point.name} ({point.value})")
        reference = Reference.of(f"{point.name}@{point.dist.version}+{digest[:SHOWN]}", self.group, None)
        plugin = Plugin(reference, kind, digest, None, point.dist.name, point.dist.version, point.module)
        return self._register(plugin)

    def _validated(self, kind: object, label: str) -> type[T]:
        """Return the class if it implements the contract; raise otherwise."""
        contract = _import(self.contract)
        base = self.contract.replace(":", ".")
        if not isinstance(kind, type):
            raise PluginError(f"{label} is {kind!r:.80}; expected a class that derives from {base}")
        missing = sorted(name for name in dir(contract) if _is_abstract(contract, name) and _is_abstract(kind, name))
        if missing:
            raise PluginError(
                f"{label} does not implement {', '.join(missing)} of {base}; add {'it' if len(missing) == 1 else 'them'} as "
                "documented in the base class"
            )
        if not issubclass(kind, contract):
            raise PluginError(
                f"{label} does not derive from {base}; write `class {kind.__name__}({contract.__name__})`"
            )
        parameters = inspect.signature(kind).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            unknown = [name for name in self.takes if name not in parameters]
            if unknown:
                raise PluginError(
                    f"the constructor of {label} does not accept {', '.join(unknown)}, required by {base}; add the argument"
                )
        return cast("type[T]", kind)

    def _register(self, plugin: Plugin) -> Plugin:
        if len(plugin.reference) > LONGEST:
            raise PluginError(
                f"expected at most {LONGEST} characters, got {len(plugin.reference)} in {plugin.reference}; shorten the name "
                "of the file or of the class"
            )
        _known[self.group, str(plugin.reference)] = plugin
        _reference_of[plugin.kind] = plugin.reference
        return plugin


def described(plugins: Iterable[Plugin | None]) -> dict[str, list[dict[str, str]]]:
    """Return the manifest entries of an artefact's plug-ins; empty if it has none."""
    entries = {plugin.reference: plugin.describe() for plugin in plugins if plugin is not None}
    return {FOLDER: list(entries.values())} if entries else {}


def write_sources(folder: Path, plugins: Iterable[Plugin | None]) -> None:
    """Copy the sources of plug-in files to the folder of an artefact."""
    for plugin in plugins:
        if plugin is not None and plugin.source is not None and plugin.file is not None:
            (folder / FOLDER).mkdir(exist_ok=True)
            (folder / plugin.file).write_bytes(plugin.source)


def load_plugins(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Register the plug-ins listed in an artefact's manifest, so that its references can be resolved.

    Parameters
    ----------
    folder : Path
        Folder of the artefact.
    manifest : mapping
        Manifest whose hash was verified; each source is compared with it before it is executed.

    Raises
    ------
    PluginChangedError
        When a source is missing or does not match its hash, or a distribution is missing or has another version.
    PluginError
        When a source cannot be imported, for example because a library is missing.
    """
    for entry in manifest.get(FOLDER, ()):
        registry = registries[entry["group"]]
        if "file" in entry:
            path = folder / entry["file"]
            source = path.read_bytes() if path.is_file() else None
            actual = None if source is None else hashlib.sha256(source).hexdigest()
            if source is None or actual != entry["sha256"]:
                raise PluginChangedError(path, entry["reference"], entry["sha256"], actual, remedy(path))
            if (registry.group, entry["reference"]) not in _known:
                registry._from_source(source, path, entry["reference"].partition("@")[0].rpartition(":")[2])
            continue
        expected = f"{entry['distribution']} {entry['version']}, {entry['module']} {entry['sha256']}"
        actual = None
        point = registry._entry_point(entry["reference"].partition("@")[0])
        if point is not None and point.dist is not None:
            actual = f"{point.dist.name} {point.dist.version}, {point.module} {module_file(point, registry.noun)[1]}"
        if actual != expected:
            install = (
                f"install {entry['distribution']}=={entry['version']} with the same files, or fit the artefact again"
            )
            raise PluginChangedError(folder, entry["reference"], expected, actual, install)
        registry.resolved(entry["reference"])


def _import(name: str) -> type[Any]:
    module, _, attribute = name.partition(":")
    return cast("type[Any]", getattr(importlib.import_module(module), attribute))


def _is_abstract(kind: type[Any], name: str) -> bool:
    """Whether a class does not implement a method."""
    return not hasattr(kind, name) or bool(getattr(getattr(kind, name), "__isabstractmethod__", False))
