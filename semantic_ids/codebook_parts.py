"""Encoder, quantizer and search of a codebook by name, as given in presets, sweeps and artefacts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from semantic_ids.encoders import ENCODER_NAMES, Encoder
from semantic_ids.estimator import Estimator
from semantic_ids.quantizers import QUANTIZER_NAMES, Quantizer
from sidkit.core.errors import ConfigError
from sidkit.core.plugins import Plugin, Registry
from sidkit.core.section import Section

E = TypeVar("E", bound=Estimator)


class CodebookParts(Section):
    """Encoder, quantizer and beam width of a codebook."""

    encoder: str = "content"
    """A name in :data:`semantic_ids.encoders.ENCODERS`, or a plug-in (:mod:`sidkit.core.plugins`)."""
    encoder_arguments: dict[str, Any] = Field(default_factory=dict)
    """Constructor arguments of the encoder."""
    quantizer: str = "residual_kmeans"
    """A name in :data:`semantic_ids.quantizers.QUANTIZERS`, or a plug-in."""
    quantizer_arguments: dict[str, Any] = Field(default_factory=dict)
    """Constructor arguments of the quantizer."""
    beam: int = Field(default=1, ge=1)
    """Beam width of the search in ``encode``."""

    @field_validator("encoder")
    @classmethod
    def _encoder_is_resolved(cls, name: str, info: ValidationInfo) -> str:
        return ENCODER_NAMES.resolved_field(name, info)

    @field_validator("quantizer")
    @classmethod
    def _quantizer_is_resolved(cls, name: str, info: ValidationInfo) -> str:
        return QUANTIZER_NAMES.resolved_field(name, info)

    @property
    def needs_pairs(self) -> bool:
        """Whether a part of the codebook learns from pairs of items."""
        return self.parts_need_pairs

    @property
    def parts_need_pairs(self) -> bool:
        """Whether the encoder or the quantizer learns from pairs of items; neither is instantiated.

        Raises
        ------
        ConfigError
            When the encoder or quantizer is unknown, or an argument has the wrong type.
        """
        parts = (
            (ENCODER_NAMES.find(self.encoder), self.encoder_arguments),
            (QUANTIZER_NAMES.find(self.quantizer), self.quantizer_arguments),
        )
        try:
            return any(kind.needs_pairs_with(arguments) for kind, arguments in parts)
        except TypeError as error:
            raise ConfigError(f"{self.encoder}, {self.quantizer}: {error}") from error


def make_encoder(name: str, arguments: Mapping[str, Any]) -> Encoder:
    """Instantiate an encoder by its registered name or the name of a plug-in.

    Raises
    ------
    ConfigError
        When the name is unknown, or the constructor does not accept an argument.
    """
    return _instantiate(ENCODER_NAMES, name, arguments)


def make_quantizer(name: str, arguments: Mapping[str, Any]) -> Quantizer:
    """Instantiate a quantizer by its registered name or the name of a plug-in.

    ``force`` is dropped if the constructor does not accept it.

    Raises
    ------
    ConfigError
        When the name is unknown, or the constructor does not accept an argument.
    """
    if not _accepts(QUANTIZER_NAMES.find(name), "force"):
        arguments = {key: value for key, value in arguments.items() if key != "force"}
    return _instantiate(QUANTIZER_NAMES, name, arguments)


def plugins_of(encoder: Encoder, quantizer: Quantizer) -> list[Plugin | None]:
    """Return the plug-ins of an encoder and a quantizer, None for built-in ones."""
    return [
        ENCODER_NAMES.plugin(ENCODER_NAMES.name_of(encoder)),
        QUANTIZER_NAMES.plugin(QUANTIZER_NAMES.name_of(quantizer)),
    ]


def _instantiate(registry: Registry[E], name: str, arguments: Mapping[str, Any]) -> E:
    kind = registry.find(name)
    try:
        return kind(**kind.arguments_of_release(arguments))
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from error


def _accepts(kind: type[Any], argument: str) -> bool:
    parameters = inspect.signature(kind).parameters
    return argument in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
