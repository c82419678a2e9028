"""Base class of encoders and quantizers: a name, and a configuration read from the constructor's signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from sidkit.core.errors import ConfigError


class Estimator:
    """An object that is restored from its constructor's arguments and its fitted state.

    As in scikit-learn, the constructor stores each argument unchanged under the argument's name.
    """

    name: str = ""
    """Name in artefacts and the catalogue; default: the name of the class."""
    needs_pairs: bool = False
    """Whether ``fit`` learns from pairs of items; otherwise pairs are ignored."""
    runtime_arguments: ClassVar[frozenset[str]] = frozenset({"threads", "force"})
    """Arguments that are runtime-only and not saved."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        if not cls.name:
            cls.name = cls.__name__

    @classmethod
    def needs_pairs_with(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether an object with these arguments learns from pairs of items, without instantiating it."""
        return cls.needs_pairs

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values, without :attr:`runtime_arguments`.

        Raises
        ------
        ConfigError
            When the constructor does not store an argument under the argument's name.
        """
        arguments = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if name in self.runtime_arguments or parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}:
                continue
            if not hasattr(self, name):
                raise ConfigError(
                    f"{type(self).__name__} does not store its argument {name!r}; write `self.{name} = {name}` in the "
                    "constructor, or override `config`"
                )
            value = getattr(self, name)
            arguments[name] = list(value) if isinstance(value, tuple) else value
        return arguments
