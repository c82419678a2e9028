"""Base class of encoders and quantizers, compatible with scikit-learn: arguments, fitted state, saving and loading.

scikit-learn is neither required nor imported; ``sklearn.base.clone``, ``sklearn.pipeline.Pipeline`` and parameter searches work
with these classes.
"""

from __future__ import annotations

import functools
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from semantic_ids.estimator_files import CONFIG, TENSORS, check_kind, existing_folder, write_tensors
from semantic_ids.pairs.given import item_pairs
from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.artifact import read_manifest, reading, write_artifact
from sidkit.core.errors import ArtifactCorruptError, ArtifactError, ConfigError, FitError
from sidkit.core.files import read_json
from sidkit.core.integrity import verify_all
from sidkit.core.plugins import described, load_plugins, registries, write_sources


class Estimator(ABC):
    """An object that is restored from its constructor's arguments and its fitted state.

    As in scikit-learn, the constructor stores each argument unchanged under the argument's name, and ``fit`` sets attributes
    that end in ``_``. ``fit`` also accepts arrays in place of item vectors and pairs in every subclass: see :meth:`_rows`.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns that ``fit`` saw.
    """

    name: str = ""
    """Name in artefacts and the catalogue; default: the name of the class."""
    needs_pairs: bool = False
    """Whether ``fit`` learns from pairs of items; otherwise pairs are ignored."""
    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"threads", "force"})
    """Arguments that are runtime-only and not saved in codebooks."""
    group: ClassVar[str]
    """Entry point group of the plug-ins of this kind."""
    n_features_in_: int

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if not cls.name:
            cls.name = cls.__name__
        fit = vars(cls).get("fit")
        if fit is not None and not getattr(fit, "__isabstractmethod__", False):
            cls.fit = _prepared_fit(fit)  # type: ignore[attr-defined]

    @classmethod
    def needs_pairs_with(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether an object with these arguments learns from pairs of items, without instantiating it."""
        return cls.needs_pairs

    @classmethod
    def arguments_of_release(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's arguments in this release, for those that an earlier one saved or a preset states."""
        return dict(arguments)

    @abstractmethod
    def tensors(self) -> dict[str, npt.NDArray[np.generic]]:
        """The fitted state, as named arrays."""

    @abstractmethod
    def load_tensors(self, tensors: dict[str, npt.NDArray[np.generic]]) -> Self:
        """Restore a fitted state."""

    @staticmethod
    @abstractmethod
    def _rows(data: Any) -> tuple[Any, int, int]:
        """The data as ``fit`` of the subclass takes them, and the numbers of rows and columns."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name, as they were given.

        Parameters
        ----------
        deep : bool
            Without effect: no argument is itself an estimator.

        Raises
        ------
        ConfigError
            When the constructor does not store an argument under the argument's name.
        """
        arguments = {}
        for name in _parameters(type(self)):
            if not hasattr(self, name):
                raise ConfigError(
                    f"{type(self).__name__} does not store its argument {name!r}; write `self.{name} = {name}` in the "
                    "constructor, or override `get_params`"
                )
            arguments[name] = getattr(self, name)
        return arguments

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments; they take effect at the next ``fit``.

        Raises
        ------
        ConfigError
            When an argument is unknown; the message lists the valid ones. Nothing is set then.
        """
        valid = _parameters(type(self))
        unknown = sorted(params.keys() - valid.keys())
        if unknown:
            raise ConfigError(
                f"{type(self).__name__} has no argument {', '.join(map(repr, unknown))}; available: {', '.join(valid)}"
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values, without :attr:`runtime_arguments`.

        Raises
        ------
        ConfigError
            When the constructor does not store an argument under the argument's name, or a value is not a JSON value.
        """
        return {
            name: _as_json(value, name)
            for name, value in self.get_params().items()
            if name not in self.runtime_arguments
        }

    def save(self, path: str | Path) -> None:
        """Write arguments and fitted state to a new folder: JSON, safetensors, and a manifest of SHA-256 hashes.

        A plug-in from a file is saved with a copy of the file.

        Parameters
        ----------
        path : str or Path
            A folder that does not exist or is empty. Saving the same estimator to its folder again changes nothing.

        Raises
        ------
        FitError
            When it is not fitted.
        ArtifactError
            When the folder has other contents: saved estimators are never overwritten.
        StorageError
            When the disk refuses the write.
        """
        self._refuse_unfitted()
        folder, registry = Path(path), registries[self.group]
        name = registry.name_of(self)
        plugins = [registry.plugin(name)]
        config = {
            "class": type(self).__name__,
            "name": name,
            "arguments": {key: _as_json(value, key) for key, value in self.get_params().items()},
            "n_features_in": getattr(self, "n_features_in_", None),
        }

        def write_files(temporary: Path) -> None:
            write_tensors(temporary, self.tensors())
            (temporary / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            write_sources(temporary, plugins)

        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        try:
            write_artifact(folder, {"kind": registry.noun, "name": name, **described(plugins)}, write_files)
        except ArtifactCorruptError as error:
            raise ArtifactError(
                f"{folder} exists and has other contents ({error.problem}); saved estimators are never overwritten: save to "
                "a new folder, or delete this one first"
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a folder written by :meth:`save` and verify its hashes.

        Parameters
        ----------
        path : str or Path
            The folder. Called on ``Quantizer`` or ``Encoder``, it loads any of them, plug-ins included.

        Raises
        ------
        ArtifactError
            When the folder is missing, was changed, or holds another class or something else.
        PluginError
            When a plug-in cannot be imported here.
        """
        folder, registry = existing_folder(path), registries[cls.group]
        manifest = read_manifest(folder, verify=False)
        check_kind(folder, manifest, registry.noun)
        load_plugins(folder, manifest)
        verify_all(folder, manifest)
        from safetensors.numpy import load_file

        with reading(folder, manifest):
            config = read_json(folder / CONFIG)
            kind = cls._class_of(folder, config["class"], config["name"])
            arguments = {key: _from_json(value) for key, value in config["arguments"].items()}
            estimator = kind(**kind.arguments_of_release(arguments)).load_tensors(load_file(folder / TENSORS))
        if config["n_features_in"] is not None:
            estimator.n_features_in_ = config["n_features_in"]
        return estimator

    @classmethod
    def _class_of(cls, folder: Path, class_name: str, name: str) -> type[Self]:
        """The class of a saved estimator; a class without a registered name is only known where it is called."""
        registry = registries[cls.group]
        kind: type[Any] = cls
        if registry.plugin(name) is not None or class_name != cls.__name__:
            try:
                kind = registry.find(name)
            except ConfigError:
                kind = object
        if kind.__name__ != class_name or not issubclass(kind, cls):
            raise ArtifactError(
                f"expected a saved {cls.__name__} in {folder}, got {class_name} ({name}); load it with "
                f"{class_name}.load, or give another folder"
            )
        return kind

    def __sklearn_is_fitted__(self) -> bool:
        return any(name.endswith("_") and not name.startswith("__") for name in vars(self))

    def __sklearn_tags__(self) -> Any:
        """The tags that scikit-learn reads from the steps of a pipeline; only scikit-learn calls this."""
        from sklearn.utils import Tags, TargetTags, TransformerTags

        return Tags(estimator_type=None, target_tags=TargetTags(required=False), transformer_tags=TransformerTags())

    def __repr__(self) -> str:
        given = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in _parameters(type(self)).items()
            if hasattr(self, name) and _comparable(getattr(self, name)) != _comparable(parameter.default)
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def _refuse_unfitted(self) -> None:
        """Raise FitError if ``fit`` was not called."""
        if not self.__sklearn_is_fitted__():
            raise FitError(f"this {type(self).__name__} is not fitted; call fit first")


def _prepared_fit(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Let a ``fit`` method accept arrays in place of item vectors and pairs, and set ``n_features_in_``.

    Wrapping the method here lets plug-ins work in pipelines without handling arrays themselves.
    """
    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def prepared(self: Estimator, *given: Any, **named: Any) -> Any:
        call = signature.bind(self, *given, **named)
        data = list(signature.parameters)[1]
        call.arguments[data], rows, columns = self._rows(call.arguments[data])
        pairs = call.arguments.get("pairs")
        if not isinstance(pairs, ItemPairs | None):  # a pipeline's labels, unless this step learns from pairs
            call.arguments["pairs"] = item_pairs(pairs, rows) if self.needs_pairs else None
        fitted = fit(*call.args, **call.kwargs)
        self.n_features_in_ = columns
        return fitted

    return prepared


def _parameters(kind: type[Any]) -> dict[str, inspect.Parameter]:
    """The named arguments of a constructor."""
    several = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    return {key: each for key, each in inspect.signature(kind).parameters.items() if each.kind not in several}


def _as_json(value: Any, name: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_as_json(each, name) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _as_json(each, name) for key, each in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"expected a JSON value for the argument {name!r}, got {type(value).__name__}; pass numbers, text, lists or mappings"
    )


def _from_json(value: Any) -> Any:
    return tuple(map(_from_json, value)) if isinstance(value, list) else value


def _comparable(value: Any) -> str:
    """Equal for equal values, including a list and a tuple of the same values, and arrays."""
    return repr(tuple(value) if isinstance(value, list) else value)
