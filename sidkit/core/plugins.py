"""Plug-ins: a class of a user's own, named where a preset, a command or an artefact names one of the kit's.

A plug-in is named in one of two ways:

- ``path/to/file.py:Class``: a class in one Python file. The path is relative to the file that names it (a preset), else to the
  working directory. What the file imports must be installed: a second file beside it is not part of the plug-in.
- the name of a Python entry point of an installed distribution, in the group of its kind (``sidkit.quantizers``,
  ``sidkit.encoders``, ``sidkit.representations``, ``sidkit.histories``, ``sidkit.datasets``).

A name is resolved once, when the preset is read: the file is executed, the class is compared with the contract (the base class
of its kind), and the name becomes a **reference** that holds a hash, ``file.py:Class@<hash>`` or ``name@<version>+<hash>``.
References stand wherever built-in names do, in specs, the catalogue and artefacts, so another source is another codebook.

An artefact whose preset named a file holds a **copy of that file** in ``plugins/``, listed in its manifest as ``plugins`` with
its SHA-256. The artefact is loaded from the copy: it can be moved, served from another folder, and outlives later edits of the
original. A plug-in of a distribution is not copied, since a package is more than one module: the manifest holds distribution,
version and the SHA-256 of the module's file, and the same must be installed where the artefact is loaded. In both cases a
source that is missing or differs is refused before it is executed.

Nothing is unpickled, and no code of a user's is executed unless a preset, a command or an artefact names it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationInfo

from sidkit.core.errors import ConfigError, PluginChangedError, PluginError
from sidkit.core.remedies import remedy

T = TypeVar("T")

FOLDER = "plugins"
"""The folder of an artefact that holds the sources of its plug-ins, and the key of its manifest that lists them."""
LONGEST = 64
"""Characters of a reference: the catalogue's columns are no wider."""
_SHOWN = 12  # hex digits of a SHA-256 in a reference
_FILE = re.compile(r"(?P<path>.+\.py):(?P<name>[^\W\d]\w*)", re.DOTALL)


class Reference(str):
    """The name of a plug-in with its hash; it knows where its source lies, in another process too."""

    __slots__ = ("group", "path")
    group: str
    path: Path | None

    @classmethod
    def of(cls, text: str, group: str, path: Path | None) -> Reference:
        """``path`` is the file of the source; None for a distribution's."""
        made = cls(text)
        made.group, made.path = group, path
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference.of, (str(self), self.group, self.path)


@dataclass(frozen=True)
class Plugin:
    """A class of a user's own, and what it is recorded by.

    ``source`` is the text of its file as it was executed; None for a class of a distribution, which ``distribution``,
    ``version`` and ``module`` name.
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
        """Where an artefact holds its source, relative to the artefact's folder."""
        if self.source is None or self.reference.path is None:
            return None
        return f"{FOLDER}/{self.reference.path.stem.split('@')[0]}@{self.sha256[:_SHOWN]}.py"

    def describe(self, *, copied: bool = True) -> dict[str, str]:
        """What a manifest says of it; ``copied`` where it lies in the artefact's folder."""
        stated: dict[str, str | None] = {"reference": str(self.reference), "group": self.reference.group}
        stated |= {"sha256": self.sha256, "file": self.file if copied else None}
        stated |= {"distribution": self.distribution, "version": self.version, "module": self.module}
        return {key: value for key, value in stated.items() if value is not None}


_registries: dict[str, Registry[Any]] = {}
_known: dict[tuple[str, str], Plugin] = {}
_reference_of: dict[type[Any], Reference] = {}
_modules: dict[str, ModuleType] = {}
_imported_as: dict[str, str] = {}
"""Module of an entry point -> SHA-256 of its file when it was imported."""


class Registry(Generic[T]):
    """The built-in classes of one kind by name, and the plug-ins beside them.

    Parameters
    ----------
    noun : str
        What is named, for messages: ``quantizer``.
    group : str
        The group of entry points.
    contract : str
        The base class that a plug-in derives from, ``module:Class``; imported when a plug-in is resolved.
    built_in : mapping
        Name -> class, or ``module:Class`` of one that is imported on use.
    takes : tuple of str
        Arguments that the constructor must take.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        contract: str,
        built_in: Mapping[str, type[T]] | Mapping[str, str],
        takes: tuple[str, ...] = (),
    ) -> None:
        self.noun, self.group, self.contract, self.takes = noun, group, contract, takes
        self.built_in: Mapping[str, type[T] | str] = built_in
        _registries[group] = self

    def resolved(self, name: str, folder: Path | None = None) -> str:
        """The reference of a plug-in; a built-in name, or one that names nothing, as it is (:meth:`find` refuses the latter).

        Parameters
        ----------
        name : str
            As a user wrote it, or a reference.
        folder : Path, optional
            What a path is relative to, before the working directory.

        Raises
        ------
        PluginError
            When the file or the class is missing, cannot be imported, or does not keep the contract.
        """
        if name in self.built_in:
            return name
        if (self.group, name) in _known:
            return _known[self.group, name].reference
        if isinstance(name, Reference) and name.path is not None:  # of another process
            plugin = self._of_file(name.path, name.partition("@")[0].rpartition(":")[2])
        elif stated := _FILE.fullmatch(name):
            plugin = self._of_file(_found(stated["path"], folder, self.noun), stated["name"])
        elif point := self._entry_point(name.partition("@")[0]):
            plugin = self._of_entry_point(point)
        else:
            return name
        if "@" in name.rpartition(":")[2] and plugin.reference != name:
            raise PluginError(f"the {self.noun} {name} has changed: found {plugin.reference}. Run the command again")
        return plugin.reference

    def resolved_field(self, name: str, info: ValidationInfo) -> str:
        """:meth:`resolved` for a field of a model, relative to the file that is read; problems as pydantic wants them."""
        try:
            return self.resolved(name, (info.context or {}).get("folder"))
        except PluginError as error:
            raise ValueError(str(error)) from error

    def find(self, name: str) -> type[T]:
        """The class of a built-in name, of a reference or of a plug-in's name.

        Raises
        ------
        ConfigError
            When there is none; it lists what there is.
        """
        if name in self.built_in:
            kind = self.built_in[name]
            return cast("type[T]", _imported(kind)) if isinstance(kind, str) else kind
        plugin = self.plugin(name)
        if plugin is None:
            raise ConfigError(f"no {self.noun} {name!r}; there are {self._listed()}")
        return plugin.kind

    def plugin(self, name: str) -> Plugin | None:
        """The plug-in of a name or a reference; None for a built-in name and for one that names nothing."""
        return _known.get((self.group, self.resolved(name)))

    def name_of(self, part: object) -> str:
        """What a part is recorded as: the reference of its plug-in, or its own ``name``."""
        reference = _reference_of.get(type(part))
        return str(reference if reference is not None else part.name)  # type: ignore[attr-defined]

    def _listed(self) -> str:
        installed = sorted({point.name for point in importlib.metadata.entry_points(group=self.group)})
        return f"{', '.join([*self.built_in, *installed])}, or a class of your own as path/to/file.py:Class"

    def _entry_point(self, name: str) -> importlib.metadata.EntryPoint | None:
        found = [point for point in importlib.metadata.entry_points(group=self.group) if point.name == name]
        if len(found) > 1:
            owners = ", ".join(sorted(point.dist.name for point in found if point.dist is not None))
            raise PluginError(
                f"the {self.noun} {name!r} is an entry point of several distributions ({owners}); uninstall all but one, or "
                "name the class as path/to/file.py:Class"
            )
        return found[0] if found else None

    def _of_file(self, path: Path, name: str) -> Plugin:
        try:
            source = path.read_bytes()
        except OSError as error:
            raise PluginError(
                f"the {self.noun} in {path} cannot be read ({error.strerror}); correct the path"
            ) from error
        return self._of_source(source, path, name)

    def _of_source(self, source: bytes, path: Path, name: str) -> Plugin:
        digest = hashlib.sha256(source).hexdigest()
        module = _executed(source, digest, path)
        if not hasattr(module, name):
            own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
            raise PluginError(f"{path} has no {name!r}; it has {', '.join(own) or 'no class'}")
        kind = self._checked(getattr(module, name), f"{path}:{name}")
        file = path.name.partition("@")[0].removesuffix(".py")
        reference = Reference.of(f"{file}.py:{name}@{digest[:_SHOWN]}", self.group, path)
        return self._taken_up(Plugin(reference, kind, digest, source))

    def _of_entry_point(self, point: importlib.metadata.EntryPoint) -> Plugin:
        file, digest = _module_file(point, self.noun)
        if point.dist is None:
            raise PluginError(
                f"the {self.noun} {point.name!r} belongs to no distribution; install the package that has it"
            )
        try:
            loaded = point.load()
        except Exception as error:  # a user's module may raise anything
            raise PluginError(
                f"the {self.noun} {point.name!r} ({point.value} in {file}) cannot be imported ({type(error).__name__}: {error})"
            ) from error
        if _imported_as.setdefault(point.module, digest) != digest:
            raise PluginError(f"{file} changed after this process imported it; start the process again")
        kind = self._checked(loaded, f"{point.name} ({point.value})")
        reference = Reference.of(f"{point.name}@{point.dist.version}+{digest[:_SHOWN]}", self.group, None)
        plugin = Plugin(reference, kind, digest, None, point.dist.name, point.dist.version, point.module)
        return self._taken_up(plugin)

    def _checked(self, kind: object, named: str) -> type[T]:
        """The class, when it keeps the contract."""
        contract = _imported(self.contract)
        base = self.contract.replace(":", ".")
        if not isinstance(kind, type):
            raise PluginError(f"{named} is {kind!r:.80}; expected a class that derives from {base}")
        missing = sorted(name for name in dir(contract) if _is_abstract(contract, name) and _is_abstract(kind, name))
        if missing:
            raise PluginError(
                f"{named} lacks {', '.join(missing)} of the contract {base}; write {'it' if len(missing) == 1 else 'them'}: "
                "the base class says what comes in and what goes out"
            )
        if not issubclass(kind, contract):
            raise PluginError(
                f"{named} does not derive from {base}; write `class {kind.__name__}({contract.__name__})`"
            )
        parameters = inspect.signature(kind).parameters
        if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            unknown = [name for name in self.takes if name not in parameters]
            if unknown:
                raise PluginError(
                    f"the constructor of {named} does not take {', '.join(unknown)}, which {base} asks for"
                )
        return cast("type[T]", kind)

    def _taken_up(self, plugin: Plugin) -> Plugin:
        if len(plugin.reference) > LONGEST:
            raise PluginError(
                f"{plugin.reference} has {len(plugin.reference)} characters and the catalogue holds {LONGEST}; shorten the "
                "name of the file or of the class"
            )
        _known[self.group, str(plugin.reference)] = plugin
        _reference_of[plugin.kind] = plugin.reference
        return plugin


def described(plugins: Iterable[Plugin | None]) -> dict[str, list[dict[str, str]]]:
    """What a manifest says of the plug-ins of an artefact: nothing where there are none."""
    stated = {plugin.reference: plugin.describe() for plugin in plugins if plugin is not None}
    return {FOLDER: list(stated.values())} if stated else {}


def write_sources(folder: Path, plugins: Iterable[Plugin | None]) -> None:
    """Copy the sources of plug-ins that are files into the folder of an artefact."""
    for plugin in plugins:
        if plugin is not None and plugin.source is not None and plugin.file is not None:
            (folder / FOLDER).mkdir(exist_ok=True)
            (folder / plugin.file).write_bytes(plugin.source)


def load_plugins(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Take up the plug-ins that an artefact's manifest lists, so that its references can be resolved.

    Parameters
    ----------
    folder : Path
        The artefact's.
    manifest : mapping
        With its own hash verified; a source is compared with it before it is executed.

    Raises
    ------
    PluginChangedError
        When a source is missing or differs from its hash, or a distribution is not installed or of another version.
    PluginError
        When a source cannot be imported here, such as for a missing library.
    """
    for stated in manifest.get(FOLDER, ()):
        registry = _registries[stated["group"]]
        if "file" in stated:
            path = folder / stated["file"]
            source = path.read_bytes() if path.is_file() else None
            found = None if source is None else hashlib.sha256(source).hexdigest()
            if source is None or found != stated["sha256"]:
                raise PluginChangedError(path, stated["reference"], stated["sha256"], found, remedy(path))
            if (registry.group, stated["reference"]) not in _known:
                registry._of_source(source, path, stated["reference"].partition("@")[0].rpartition(":")[2])
            continue
        expected = f"{stated['distribution']} {stated['version']}, {stated['module']} {stated['sha256']}"
        found = None
        point = registry._entry_point(stated["reference"].partition("@")[0])
        if point is not None and point.dist is not None:
            found = f"{point.dist.name} {point.dist.version}, {point.module} {_module_file(point, registry.noun)[1]}"
        if found != expected:
            install = f"install {stated['distribution']}=={stated['version']} as it was, or make the artefact again"
            raise PluginChangedError(folder, stated["reference"], expected, found, install)
        registry.resolved(stated["reference"])


def _found(text: str, folder: Path | None, noun: str) -> Path:
    """The file of a plug-in: relative to the file that names it, else to the working directory."""
    places = [place / text for place in (folder, Path.cwd()) if place is not None]
    for path in places:
        if path.is_file():
            return path.resolve()
    listed = " and not ".join(dict.fromkeys(str(path) for path in places))
    raise PluginError(
        f"the file of the {noun} {text!r} is missing: not {listed}; correct the path in front of the colon"
    )


def _executed(source: bytes, digest: str, path: Path) -> ModuleType:
    """The module of a source, executed once per process; its name holds its hash."""
    if digest in _modules:
        return _modules[digest]
    module = ModuleType(f"sidkit_plugin_{digest[:_SHOWN]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and torch look their classes' module up
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[module.__name__]
        raise PluginError(
            f"{path} cannot be imported ({type(error).__name__}: {error}). A plug-in is one file, and what it imports must be "
            "installed"
        ) from error
    _modules[digest] = module
    return module


def _module_file(point: importlib.metadata.EntryPoint, noun: str) -> tuple[Path, str]:
    """The file of an entry point's module and its SHA-256; the module itself is not executed."""
    try:
        spec = importlib.util.find_spec(point.module)
    except Exception as error:  # so may the package around it
        raise PluginError(
            f"the {noun} {point.name!r} cannot be imported ({type(error).__name__}: {error}); install its distribution again"
        ) from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise PluginError(
            f"the {noun} {point.name!r} is in {point.module}, which is missing; install its distribution again"
        )
    path = Path(spec.origin)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _imported(name: str) -> type[Any]:
    module, _, attribute = name.partition(":")
    return cast("type[Any]", getattr(importlib.import_module(module), attribute))


def _is_abstract(kind: type[Any], name: str) -> bool:
    """Whether a class has not got a method, or its base's abstract one only."""
    return not hasattr(kind, name) or bool(getattr(getattr(kind, name), "__isabstractmethod__", False))
